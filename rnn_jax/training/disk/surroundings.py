"""What a run was made with and on: versions, devices, the command and the state of the source."""

import functools
import hashlib
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

from rnn_jax.training.disk import source

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def versions() -> dict[str, str]:
    """Of the packages that the numbers come from; of this one also a digest of its source."""
    own = f"{_version('rnn_jax')}+{_own_source()}"
    return {"rnn_jax": own, **{name: _version(name) for name in _PACKAGES}}


def surroundings() -> dict[str, Any]:
    """What else repeating a run takes."""
    devices, folder = jax.devices(), source.working_folder()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "command": [sys.executable, *sys.orig_argv[1:]],
        "folder": None if folder is None else str(folder),
        "backend": jax.default_backend(),
        "devices": [f"{device.device_kind} {device.id}" for device in devices],
        "processes": jax.process_count(),
        "x64": bool(jax.config.jax_enable_x64),  # type: ignore[attr-defined]
        "matmul_precision": str(jax.config.jax_default_matmul_precision),  # type: ignore[attr-defined]
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "git": source.state(),
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


@functools.cache
def _own_source() -> str:
    """Between two releases the version stays and the programs do not."""
    folder = Path(__file__).parents[2]
    found = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        found.update(f"{file.relative_to(folder)}\n".encode() + file.read_bytes())
    return found.hexdigest()[:12]
