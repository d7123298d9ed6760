"""What a sequence of inputs may be: an array, or a pytree of arrays with one time axis in common.

Every leaf leads with the same (..., T), any batch axes and time, and what remains of its shape are
features. How many axes these are cannot be read off an array, so the cell says it
(`num_feature_axes`, as Flax's cells do) or the call does (`feature_axes=`).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.cells.asking import asked
from rnn_jax.checks import check_count, is_key, kind_of

_NUMBERS = (bool, int, float, complex, np.generic)


def resolve_feature_axes(cell: Any, feature_axes: int | None) -> int:
    """How many trailing axes of an input are features: as asked, or as the cell says, or 1.

    Raises:
      TypeError, ValueError: `feature_axes` is no whole number of at least 0.
    """
    if feature_axes is not None:
        return check_count("feature_axes", feature_axes)
    try:
        found = getattr(asked(cell), "num_feature_axes", None)
    except NotImplementedError:  # A cell of Flax's base class that does not say.
        return 1
    return found if isinstance(found, int) else 1


def read_inputs(xs: Any, feature_axes: int, *, batched: bool) -> tuple[Any, tuple[int, ...]]:
    """Returns xs as a pytree of arrays, and the shape (..., T) that all its leaves lead with.

    A nested list of plain numbers is one array. Any other tuple, list or dict is a pytree of
    inputs, of which a cell is given those of one step: nothing is stacked.

    Args:
      xs: inputs, each leaf (..., T, features); real numbers, or random keys.
      feature_axes: how many axes the features of the leaf with the most axes have.
      batched: whether batch axes are allowed.

    Raises:
      TypeError: a leaf is no array of real numbers.
      ValueError: ranks are wrong, leaves do not lead with one shape, or the sequence is empty.
    """
    arrays = jax.tree_util.tree_map_with_path(_as_array, xs, is_leaf=_is_array_like)
    leaves = jax.tree_util.tree_leaves_with_path(arrays)
    if not leaves:
        raise TypeError(
            "xs must be an array of inputs (..., T, I), or a pytree of such arrays; got "
            f"{kind_of(xs)} without any. Pass a JAX or NumPy array."
        )
    path, longest = max(leaves, key=lambda named: named[1].ndim)
    count = longest.ndim - feature_axes
    if count < 1 or (count > 1 and not batched):
        raise ValueError(_wrong_rank(xs, path, longest.shape, feature_axes, batched))
    leading = longest.shape[:count]
    for other_path, leaf in leaves:
        if leaf.shape[:count] != leading:
            raise ValueError(
                f"all leaves of xs must lead with the same (..., T); got {leading} of shape "
                f"{longest.shape} at {_name(path)}, and shape {leaf.shape} at {_name(other_path)}. "
                "Repeat what is the same at every step along the time axis, or say with "
                f"feature_axes= how many axes of {_name(path)} are features; it was taken to have "
                f"{feature_axes}."
            )
    if leading[-1] == 0:
        raise ValueError(
            f"xs must hold at least one time step; got shape {longest.shape}, which is empty "
            "along the time axis. Pass T of at least 1."
        )
    return arrays, leading


def leading_shape(xs: Any, feature_axes: int) -> tuple[int, ...]:
    """(..., T), of inputs that `read_inputs` has checked."""
    longest = max((leaf.shape for leaf in jax.tree.leaves(xs)), key=len)
    return longest[: len(longest) - feature_axes]


def read_array(xs: Any) -> jax.Array:
    """Returns xs as one array (..., T, I), for what takes no other inputs.

    Raises:
      TypeError, ValueError: as `read_inputs`; or xs are several arrays.
    """
    arrays, _ = read_inputs(xs, 1, batched=True)
    if not is_array(arrays):
        raise TypeError(
            f"xs must be one array of inputs (..., T, I); got {kind_of(xs)} of arrays. Put them "
            "side by side, for example jnp.concatenate([a, b], axis=-1), or run a cell that takes "
            "several with rnn_jax.unroll."
        )
    return arrays


def input_of_step(xs: Any, leading: int = 1) -> Any:
    """Shapes and types of the input of one step, xs having so many leading axes."""
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[leading:], a.dtype), xs)


def shape_of_input(x: Any) -> Any:
    """What `initialize_carry` is given: an input's shape, or a pytree of its leaves' shapes."""
    return jax.tree.map(lambda leaf: leaf.shape, x)


def is_float(leaf: Any) -> bool:
    """Whether an array holds real floating-point numbers, by which there are derivatives."""
    return bool(jnp.issubdtype(leaf.dtype, jnp.floating))


def is_array(xs: Any) -> bool:
    """Whether inputs are one array and no other pytree."""
    return jax.tree_util.treedef_is_leaf(jax.tree.structure(xs))


def _as_array(path: Any, leaf: Any) -> jax.Array:
    try:
        array = jnp.asarray(leaf)
    except (TypeError, ValueError) as error:
        raise TypeError(
            "xs must be an array of inputs (..., T, I), or a pytree of such arrays; got "
            f"{type(leaf).__name__} at {_name(path)}. Pass a JAX or NumPy array. ({error})"
        ) from error
    real = (jnp.floating, jnp.integer, jnp.bool_)
    if not is_key(array) and not any(jnp.issubdtype(array.dtype, kind) for kind in real):
        raise TypeError(
            f"xs must hold real numbers; got dtype {array.dtype} at {_name(path)}. Pass real and "
            "imaginary part as two features, or as two leaves of a pytree."
        )
    return array


def _is_array_like(node: Any) -> bool:
    """Whether a node of a pytree is to be made an array as a whole."""
    return hasattr(node, "__jax_array__") or _is_nested_numbers(node)


def _is_nested_numbers(node: Any) -> bool:
    if not isinstance(node, (list, tuple)) or hasattr(node, "_fields"):
        return False
    return bool(node) and all(_is_number(item) or _is_nested_numbers(item) for item in node)


def _is_number(item: Any) -> bool:
    return isinstance(item, _NUMBERS) or getattr(item, "shape", None) == ()


def _wrong_rank(
    xs: Any, path: Any, shape: tuple[int, ...], feature_axes: int, batched: bool
) -> str:
    """What to say of a leaf with too few or too many axes."""
    features = {0: "", 1: ", I"}.get(feature_axes, f", {feature_axes} axes of features")
    rule = (
        f"(..., T{features}): any batch axes, time{', features' if feature_axes else ''}"
        if batched
        else f"(T{features}), one sequence"
    )
    if len(shape) > feature_axes:
        fix = "Map over the batch: jax.vmap(lambda x: call(cell, x))(xs)."
        fix += " If these are axes of features, say how many with feature_axes=."
    elif isinstance(xs, (list, tuple)):
        fix = "A list of arrays is no array: to make one of its steps, use jnp.stack(xs)."
    elif feature_axes == 1:
        fix = (
            "Add the missing axis, for example xs[:, None] for one feature, or pass "
            "feature_axes=0 to a cell whose input is one number, such as a token."
        )
    else:
        fix = "Add the missing axes, or say with feature_axes= how many there are."
    where = f" at {_name(path)}" if path else ""
    return f"xs must have shape {rule}; got shape {shape}{where}. {fix}"


def _name(path: Any) -> str:
    return f"xs{jax.tree_util.keystr(path)}"
