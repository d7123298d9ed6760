"""Arrays of several types and ranks together, and what JAX's modes ask: devices, NaN."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

_EXPLICIT = AxisType.Explicit


def promote(*arrays: jax.Array, dtype: Any = None) -> list[jax.Array]:
    """Casts arrays to `dtype`, or to the type that JAX's promotion gives them together.

    Beside a float, whole numbers and booleans have no say in that.
    """
    floats = [array for array in arrays if jnp.issubdtype(array.dtype, jnp.inexact)]
    common = jnp.result_type(*(floats or arrays)) if dtype is None else dtype
    return [array.astype(common) for array in arrays]


def at_least_float32(dtype: Any) -> Any:
    """The type, or float32 in place of a half type."""
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32


def spread(weights: jax.Array, like: jax.Array) -> jax.Array:
    """Weights of units, (H,), for each of the rows of an array (..., H), in its type."""
    # Written out, because rank promotion is an error in the strict mode that the tests run in.
    return jnp.broadcast_to(weights.astype(like.dtype), like.shape)


def affine(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """x W + b for x of any rank."""
    z = x @ kernel
    return z + spread(bias, z)


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
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(cast, tree)


def call_automatic(
    function: Callable[..., Any], *arguments: Any, like: Any = None, axes: int = 0
) -> Any:
    """Calls a function with every explicit axis of a mesh left to the compiler.

    On a mesh whose axes are explicit, as `jax.make_mesh` makes them, an array's type says how it is
    spread, and each operation must say so of its result where that is open. Within the function
    the compiler decides instead; its results come back spread as said here.

    Args:
      function: of pytrees of arrays.
      arguments: its arguments.
      like: the array along whose leading axes the results are spread as it is.
      axes: the number of these axes; on all others the results are whole on each device.

    Returns:
      What the function returns.
    """
    mesh = _explicit_mesh(arguments)
    if mesh is None:
        return function(*arguments)
    spread = jax.typeof(like).sharding.spec[:axes] if axes else ()
    names = tuple(mesh.axis_names)
    explicit = tuple(n for n, t in zip(names, mesh.axis_types, strict=True) if t is _EXPLICIT)
    results = NamedSharding(mesh, PartitionSpec(*spread))
    return jax.sharding.auto_axes(function, axes=explicit, out_sharding=results)(*arguments)


def nan_unless(known: jax.Array, values: jax.Array) -> jax.Array:
    """`values` where `known`, of the same shape, and NaN elsewhere.

    It makes no NaN where all is known, so that `jax.debug_nans` is not alarmed by a constant.
    """
    ones = jnp.ones_like(values)
    return jnp.where(known, values, jnp.sqrt(jnp.where(known, ones, -ones)))


def type_of(leaf: Any) -> Any:
    """The dtype of an array, a key or a number."""
    return leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)


def _explicit_mesh(arguments: Any) -> Any:
    """The mesh that some array lies on, or the one that is set, if an axis of it is explicit."""
    kinds = map(jax.typeof, jax.tree.leaves(arguments))
    meshes = [kind.sharding.mesh for kind in kinds if kind.sharding is not None]
    for mesh in (jax.sharding.get_abstract_mesh(), *meshes):
        if _EXPLICIT in (mesh.axis_types or ()):
            return mesh
    return None


def _varying(leaf: Any) -> frozenset[str]:
    """The axes of `jax.shard_map` over which an array varies."""
    is_type = isinstance(leaf, jax.core.AbstractValue)
    kind = getattr(leaf if is_type else jax.typeof(leaf), "manual_axis_type", None)
    return frozenset() if kind is None else frozenset(kind.varying)
