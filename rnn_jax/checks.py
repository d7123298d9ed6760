"""Checks of plain values, whose messages state the rule, what arrived and the fix."""

import math
import reprlib
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


def check_size(name: str, value: Any) -> int:
    """Returns `value` if it is a whole number of at least 1, else raises."""
    return check_count(name, value, low=1)


def check_flag(name: str, value: Any) -> bool:
    """Returns `value` if it is True or False, else raises."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(
            f"{name} must be True or False; got {value!r} of type {type(value).__name__}. Pass a "
            "bool."
        )
    return bool(value)


def check_count(name: str, value: Any, *, low: int = 0, high: int | None = None) -> int:
    """Returns `value` if it is a whole number in [low, high], else raises."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        count = int(value.__index__())
    except (AttributeError, TypeError):  # An array may have __index__ and refuse to give one.
        raise TypeError(
            f"{name} must be a whole number; got {value!r} of type {type(value).__name__}. "
            f"Pass an int, for example {name}={64 if high is None else min(64, high)}."
        ) from None
    if count < low:
        fix = "a positive int" if low == 1 else f"an int from {low} on"
        raise ValueError(f"{name} must be at least {low}; got {count}. Pass {fix}.")
    if high is not None and count > high:
        raise ValueError(f"{name} must be at most {high}; got {count}. Pass a smaller int.")
    return count


def check_divisor(name: str, value: Any, whole: str, size: int) -> int:
    """Returns `value` if it is a whole number that divides `size`, the value of `whole`."""
    count = check_size(name, value)
    if size % count:
        raise ValueError(
            f"{name} must divide {whole}={size}; got {count}. Pass a divisor, for example {name}=1."
        )
    return count


def check_number(name: str, value: Any) -> float:
    """Returns `value` as a float if it is one finite real number, else raises."""
    if isinstance(value, (bool, str, bytes)) or not hasattr(value, "__float__"):
        raise TypeError(
            f"{name} must be a number; got {value!r} of type {type(value).__name__}. Pass a float."
        )
    try:
        number = float(value)
    except TypeError as error:
        raise TypeError(f"{name} must be one number; got {value!r}. Pass a float.") from error
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite; got {number}. Pass an ordinary float.")
    return number


def check_positive(name: str, value: Any) -> float:
    """Returns `value` as a float if it is one finite number above 0, else raises."""
    number = check_number(name, value)
    if number <= 0:
        raise ValueError(f"{name} must be above 0; got {number:g}. Pass a positive float.")
    return number


def check_not_negative(name: str, value: Any) -> float:
    """Returns `value` as a float if it is one finite number of at least 0, else raises."""
    number = check_number(name, value)
    if number < 0:
        raise ValueError(
            f"{name} must be at least 0; got {number:g}. Pass 0.0 or a positive float."
        )
    return number


def check_choice(name: str, value: Any, choices: Iterable[str]) -> str:
    """Returns `value` if it is one of the names in `choices`, else raises."""
    known = sorted(choices)
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}; got {value!r}.")
    return value


def check_real(name: str, value: Any) -> None:
    """Raises TypeError unless `value` is an array of real numbers: floats, integers, booleans."""
    dtype = getattr(value, "dtype", None)
    real = (jnp.floating, jnp.integer, jnp.bool_)
    if dtype is None or not any(jnp.issubdtype(dtype, kind) for kind in real):
        arrived = type(value).__name__ if dtype is None else f"dtype {dtype}"
        raise TypeError(
            f"{name} must be an array of real numbers; got {arrived}. Cast it, for example "
            "jnp.asarray(value, jnp.float32); of several inputs pass the one that this cell takes."
        )


def check_floats(name: str, value: Any) -> None:
    """Raises TypeError unless `value` is an array of real floating-point numbers."""
    dtype = getattr(value, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        arrived = type(value).__name__ if dtype is None else f"dtype {dtype}"
        raise TypeError(
            f"{name} must be an array of real floating-point numbers; got {arrived}. Cast it, "
            "for example jnp.asarray(value, jnp.float32)."
        )


def check_float_dtype(name: str, dtype: Any) -> Any:
    """The type that JAX computes in for one that was asked for; raises unless it is a float."""
    try:
        resolved = jax.dtypes.canonicalize_dtype(dtype)
    except TypeError as error:
        raise TypeError(
            f"{name} must be a floating-point type; got {dtype!r}. Use jnp.float32."
        ) from error
    if not jnp.issubdtype(resolved, jnp.floating):
        raise TypeError(
            f"{name} must be a floating-point type; got {resolved.name}. Use jnp.float32."
        )
    if dtype is not float and jnp.dtype(dtype).itemsize > resolved.itemsize:
        raise ValueError(
            f"{name} must be a type that JAX is set to compute in; got {jnp.dtype(dtype).name}, "
            f"which would become {resolved.name} without notice. Enable it first: "
            'jax.config.update("jax_enable_x64", True).'
        )
    return resolved


def kind_of(value: Any) -> str:
    """What a value is, for messages: its type, or "the class …" if it is a class itself."""
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def check_rngs(rngs: Any) -> nnx.Rngs:
    """Returns `rngs` if it is a Flax source of keys, else raises."""
    if not isinstance(rngs, nnx.Rngs):
        raise TypeError(
            f"rngs must be a flax.nnx.Rngs; got {type(rngs).__name__}. Pass rngs=nnx.Rngs(0)."
        )
    return rngs


def is_key(value: Any) -> bool:
    """Whether `value` is an array of JAX random keys of the new type."""
    return _has_shape(value) and bool(jnp.issubdtype(value.dtype, jax.dtypes.prng_key))


def check_key(key: Any) -> jax.Array:
    """Returns `key` if it is one JAX random key, of the new type or the old, else raises."""
    typed = is_key(key)
    if not typed and not (_has_shape(key) and key.dtype == jnp.uint32 and len(key.shape) == 1):
        raise TypeError(
            f"key must be a JAX random key; got {kind_of(key)}. Pass jax.random.key(0)."
        )
    shape = key.shape
    expected = jax.eval_shape(jax.random.PRNGKey, 0).shape
    if not typed and shape != expected:
        raise TypeError(
            f"key must be a JAX random key; got {type(key).__name__} of shape {shape}, where raw "
            f"keys have shape {expected}. Pass jax.random.key(0)."
        )
    if typed and shape != ():
        raise ValueError(
            f"key must be a single random key; got an array of keys of shape {shape}. Pass one "
            "of them, or map over them with jax.vmap."
        )
    return key


def _has_shape(value: Any) -> bool:
    """Whether `value` is like an array. An `nnx.Rngs` has an attribute of every name, a stream."""
    return isinstance(getattr(value, "shape", None), tuple) and hasattr(value, "dtype")


def check_rate(name: str, value: Any) -> float:
    """Returns `value` as a float if it is a probability in [0, 1), else raises."""
    rate = check_number(name, value)
    if not 0 <= rate < 1:
        raise ValueError(f"{name} must lie in [0, 1); got {rate}. Pass a probability below 1.")
    return rate


def read_whole_numbers(
    name: str, values: Any, *, rule: str, fix: str, for_booleans: str
) -> np.ndarray | jax.Array:
    """Whole numbers as they arrived: JAX would narrow them, and 2³² + 1 would become 1.

    Args:
      name: of the argument.
      values: whatever arrived for it.
      rule: what it must be, for the message.
      fix, for_booleans: what to do, and what with booleans, for the message.

    Returns:
      A NumPy array, of Python's ints where none of NumPy's types holds them; a JAX array where the
      values cannot be read yet (inside a transformation) or from here (on other hosts).

    Raises:
      TypeError: they are no whole numbers.
    """
    try:
        array: Any = _host_values(values)
        if array is None or not _holds_ints(array):
            array = jnp.asarray(values)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{name} must be {rule}; got {reprlib.repr(values)} of type {type(values).__name__}. "
            f"{fix} ({error})"
        ) from error
    if not _holds_ints(array):
        cure = for_booleans if array.dtype == bool else fix
        raise TypeError(f"{name} must be whole numbers; got dtype {array.dtype}. {cure}")
    return array


def as_steps(numbers: np.ndarray | jax.Array, high: int) -> jax.Array:
    """Whole numbers in the type that steps are counted in, int8 being unable to hold step 200.

    Those above `high` stay above it: where they cannot be read, an unsigned one must not turn
    negative.
    """
    dtype = jax.dtypes.canonicalize_dtype(int)
    unsigned = jnp.issubdtype(numbers.dtype, jnp.unsignedinteger)
    if isinstance(numbers, jax.Array) and unsigned and jnp.iinfo(numbers.dtype).max > high:
        numbers = jnp.minimum(numbers, jnp.full_like(numbers, high + 1))
    return jnp.asarray(numbers.astype(dtype))


def _host_values(values: Any) -> np.ndarray | None:
    """The values in NumPy's type, or as Python's ints; None where they cannot be read."""
    if isinstance(values, jax.core.Tracer):
        return None
    if isinstance(values, jax.Array) and not values.is_fully_addressable:
        return None
    try:
        array = np.asarray(values)
    except jax.errors.TracerArrayConversionError:  # A list of traced values.
        return None
    # Ints that no one type holds, as in [2**63, -1], were rounded to floats.
    rounded = array.dtype.kind == "f" and not hasattr(values, "dtype")
    return np.asarray(values, object) if rounded else array


def _holds_ints(array: Any) -> bool:
    if array.dtype != object:
        return bool(jnp.issubdtype(array.dtype, jnp.integer))
    return all(isinstance(n, int) and not isinstance(n, bool) for n in array.flat)
