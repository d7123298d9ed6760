"""Refusing a result that cannot fit, before anything is allocated."""

import functools
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


def available_bytes() -> int | None:
    """Bytes free on the default device now; None where the platform does not say."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    return _meminfo("MemAvailable:") or _pages()


def total_bytes() -> int | None:
    """Bytes that the default device has in all; None where the platform does not say."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"]
    return _meminfo("MemTotal:") or _pages()


def check_fits(
    call: str,
    shapes: list[tuple[int, ...]],
    dtype: DTypeLike,
    instead: str,
    *,
    of: Any,
    batch: int = 1,
) -> None:
    """Raises unless arrays of these shapes fit together into memory.

    Where the call is computed at once, that is the memory which is free now. Inside `jit` it is all
    that the device has: what is free while a program is traced says nothing about when it runs.
    Under `vmap`, as many copies must fit as it maps over. What is compiled ahead of time for a
    device that is not here is not refused: its compiler knows how much there is.

    Args:
      call: the public call, for the message.
      shapes: the result first, then the working arrays that live beside it.
      dtype: their common type.
      instead: what to call when it does not fit.
      of: the arguments of the call, a pytree: what `vmap` maps over.
      batch: copies that the call itself makes side by side.

    Raises:
      ValueError: they do not fit; says how many bytes would be needed.
    """
    itemsize = jnp.dtype(dtype).itemsize
    needed = itemsize * sum(math.prod(shape) for shape in shapes)
    tracing = isinstance(jnp.zeros(()), jax.core.Tracer)
    limit, state = (total_bytes(), "are there") if tracing else (available_bytes(), "are free")
    if limit is None or (tracing and _is_for_another_device()):
        return

    def check(copies: int) -> None:
        if needed * copies <= limit:
            return
        each = f", {needed:,} for each of {copies} sequences" if copies > 1 else ""
        raise ValueError(
            f"{call} would need {needed * copies:,} bytes ({needed * copies / 2**30:.1f} GiB)"
            f"{each}, {itemsize * math.prod(shapes[0]):,} of them for its result of shape "
            f"{shapes[0]}; {limit:,} {state}. {instead}"
        )

    check(batch)
    mapped: list[Any] = [leaf for leaf in jax.tree.leaves(of) if isinstance(leaf, jax.core.Tracer)]
    if mapped:
        _when_mapped(lambda copies: check(batch * copies), jax.lax.stop_gradient(mapped))


def _is_for_another_device() -> bool:
    """Whether a program is traced for a device of a kind that is not here."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device is not None and device.device_kind not in {
        local.device_kind for local in jax.local_devices()
    }


def _when_mapped(check: Callable[[int], None], arrays: list[jax.Array]) -> None:
    """Calls `check` with the size of the batch, now or later, if `jax.vmap` maps over `arrays`."""

    @jax.custom_batching.custom_vmap
    def watched(*arrays: jax.Array) -> jax.Array:
        return jnp.zeros((), jnp.int32)

    @watched.def_vmap
    def _(size: int, in_batched: Any, *arrays: jax.Array) -> tuple[jax.Array, bool]:
        check(size)
        inner: list[Any] = [a for a in arrays if isinstance(a, jax.core.Tracer)]
        if inner:  # vmap of vmap, or of what will be compiled
            _when_mapped(lambda copies: check(size * copies), inner)
        return jnp.zeros((), jnp.int32), False

    watched(*arrays)


@functools.cache
def _pages() -> int | None:
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _meminfo(field: str) -> int | None:
    """A line of what Linux says of its memory, in bytes."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return None
    for line in meminfo.read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return None
