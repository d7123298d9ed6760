"""Runs in a process of its own on a disk without room, of two kinds.

Each function is given a folder and a file for what it found: a list, by room from none to enough,
of "error", what the run said there, "intact", whether the checkpoint from before was as it had
been, and "alike", whether the same call, once there was room, ended as if nothing had been.
"""

import ctypes
import errno
import json
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from training import runs, toys

NOT_PERMITTED = 77
_PAGE = 4096
_MEMBERS = 30
_NEW_FILE_SYSTEMS, _NEW_USER, _PRIVATE, _RECURSIVE = 0x20000, 0x10000000, 1 << 18, 1 << 14


def on_a_small_file_system(folder: Path, report: Path) -> None:
    """A file system that is filled up but for some pages: whatever is written may fail."""
    place = folder / "small"
    place.mkdir()
    try:
        _mount_small(place, pages=2048)
    except PermissionError:
        os._exit(NOT_PERMITTED)

    @contextmanager
    def squeezed(pages: int) -> Iterator[None]:
        ballast = place / "ballast"
        with ballast.open("wb", buffering=0) as file:
            try:
                while file.write(bytes(_PAGE)):
                    pass
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
            file.truncate(max(0, file.tell() - pages * _PAGE))
        try:
            yield
        finally:
            ballast.unlink()

    rooms = [0, 1, 3, 8, 16, 20, 30, 1000]
    report.write_text(json.dumps(_cases(place, squeezed, rooms)))


def under_a_limit(folder: Path, report: Path) -> None:
    """No file may grow beyond what that of the metrics is and some bytes more.

    None, a part of a row, all rows but no checkpoint, and whatever there is.
    """

    @contextmanager
    def squeezed(more: int) -> Iterator[None]:
        size = (folder / "run" / "metrics.jsonl").stat().st_size + more
        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    rooms = [0, 1000, 1 << 13, 1 << 24]
    report.write_text(json.dumps(_cases(folder, squeezed, rooms)))


KINDS = {"file_system": on_a_small_file_system, "limit": under_a_limit}


def _cases(place: Path, squeezed: Callable[[int], Any], rooms: list[int]) -> list[dict[str, Any]]:
    expected = runs.result_bits(_fit(place / "whole", 8)), runs.records(place / "whole")
    found = []
    for room in rooms:
        run, error = place / "run", None
        _fit(run, 4)
        checkpoint = run / "checkpoints" / "4.ckpt"
        before = checkpoint.read_bytes()
        with squeezed(room):
            try:
                _fit(run, 8)
            except Exception as caught:
                error = f"{type(caught).__name__}: {caught}"
            # A run that went well has checkpoints enough without this one.
            intact = error is None or checkpoint.read_bytes() == before
        alike = (runs.result_bits(_fit(run, 8)), runs.records(run)) == expected
        found.append({"room": room, "error": error, "intact": intact, "alike": alike})
        shutil.rmtree(run)
    return found


def _fit(directory: Path, steps: int) -> Any:
    """A run whose rows are long and whose checkpoints are large, as they cannot be compressed."""
    models = toys.linears(*range(_MEMBERS))
    (weights,) = models.args
    ballast = np.random.default_rng(0).normal(size=(_MEMBERS, 200))
    models = jax.tree_util.Partial(models.func, {**weights, "unused": ballast})
    return runs.toy(directory, model=models, members=_MEMBERS, steps=steps)


def _mount_small(place: Path, pages: int) -> None:
    """Mounts a file system in memory that this process alone sees.

    Raises:
      PermissionError: this process may not.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def checked(result: int) -> None:
        if result:
            raise PermissionError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    user = os.getuid()
    if user:
        checked(libc.unshare(_NEW_USER))
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    checked(libc.unshare(_NEW_FILE_SYSTEMS))
    # So that nothing outside comes to see it.
    checked(libc.mount(b"none", b"/", None, _RECURSIVE | _PRIVATE, None))
    size = f"size={pages * _PAGE}".encode()
    checked(libc.mount(b"tmpfs", os.fsencode(place), b"tmpfs", 0, size))
