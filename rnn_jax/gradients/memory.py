"""Refusing a result that cannot fit, before anything is allocated."""

import math
import os
from pathlib import Path

import jax
from jax.typing import DTypeLike


def available_bytes() -> int | None:
    """Bytes free on the default device; None where the platform does not say."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def check_fits(call: str, shapes: list[tuple[int, ...]], dtype: DTypeLike, instead: str) -> None:
    """Raises unless arrays of these shapes fit together into the free memory.

    Args:
      call: the public call, for the message.
      shapes: the result first, then the working arrays that live beside it.
      dtype: their common type.
      instead: what to call when it does not fit.

    Raises:
      ValueError: they do not fit; says how many bytes would be needed.
    """
    itemsize = jax.numpy.dtype(dtype).itemsize
    needed = itemsize * sum(math.prod(shape) for shape in shapes)
    free = available_bytes()
    if free is not None and needed > free:
        raise ValueError(
            f"{call} would need {needed:,} bytes ({needed / 2**30:.1f} GiB), "
            f"{itemsize * math.prod(shapes[0]):,} of them for its result of shape {shapes[0]}; "
            f"{free:,} are free. {instead}"
        )
