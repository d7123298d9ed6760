"""Arrays that are spread over devices: what code for one device must say to run on each."""

from typing import Any

import jax


def varying_like(tree: Any, *references: Any) -> Any:
    """Casts arrays to vary over the devices over which other arrays do.

    Inside `jax.shard_map` a constant is the same on every device, by its type too, and a loop that
    starts from it must start from what its body returns: a value that differs from device to
    device. Outside of it, and for what varies already, nothing is done.

    Args:
      tree: a pytree of arrays, the start of a loop.
      references: pytrees of arrays, all that the loop computes with.

    Returns:
      The same values, of a type that varies over every axis over which one of the references does.
    """
    axes: frozenset[str] = frozenset().union(*map(_varying, jax.tree.leaves(references)))
    if not axes:
        return tree

    def cast(leaf: Any) -> Any:
        # In the order of names, so that equal programs are equal.
        missing = tuple(sorted(axes - _varying(leaf), key=str))
        return _cast(leaf, missing) if missing else leaf

    return jax.tree.map(cast, tree)


def _cast(leaf: Any, axes: tuple[str, ...]) -> Any:
    if hasattr(jax.lax, "pcast"):
        return jax.lax.pcast(leaf, axes, to="varying")
    return jax.lax.pvary(leaf, axes)


def _varying(leaf: Any) -> frozenset[str]:
    """The axes of `jax.shard_map` over which an array varies."""
    kind = jax.typeof(leaf)
    if hasattr(kind, "manual_axis_type"):
        return frozenset(kind.manual_axis_type.varying)
    return frozenset(getattr(kind, "vma", ()))
