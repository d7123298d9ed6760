"""Functions compared by what they compute: equal code with equal values closed over.

JAX compiles once for each structure of its arguments, and functions are part of a structure. Two
that were built by the same line, as each member of an ensemble builds its own, are different
objects. `value_of` says what a function is apart from which object it is, so that they can be found
equal, and only where nothing that may differ is left out: what cannot be looked into counts as
itself alone.
"""

import dataclasses
import enum
import functools
import importlib
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# What is larger is compared as an object: it is read each time that two structures are compared.
_READ_BYTES = 1 << 16
_READ_ITEMS = 1000

_PLAIN = (type(None), type(...), bool, int, str, bytes, types.ModuleType, types.CodeType)


class _Object:
    """An object that is equal to itself alone."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Object) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def value_of(function: Any) -> Any:
    """A hashable value, equal for two functions only if they compute the same.

    Functions of Python by code, defaults, globals and what they close over; partials and bound
    methods by their parts; numbers, strings, containers and small arrays by value and type; all
    else by identity. It is that of now: what is closed over may change.

    Args:
      function: a callable, or a value that one closes over.
    """
    return _value(function, ())


def _value(value: Any, inside: tuple[int, ...]) -> Any:
    if id(value) in inside:  # A function that calls itself closes over itself.
        return ("outer", len(inside) - inside.index(id(value)))
    within = functools.partial(_value, inside=(*inside, id(value)))
    kind = type(value)
    if kind is types.FunctionType:
        parts = (value.__defaults__, value.__kwdefaults__, vars(value))
        cells = tuple(map(_content, value.__closure__ or ()))
        return (kind, value.__code__, _Object(value.__globals__), within((*parts, cells)))
    if kind is types.MethodType:
        return (kind, within(value.__func__), within(value.__self__))
    if kind is functools.partial:
        return (kind, within((value.func, value.args, value.keywords, vars(value))))
    if kind in (tuple, list, dict, set, frozenset) and len(value) > _READ_ITEMS:
        return _Object(value)
    if kind in (tuple, list) or (isinstance(value, tuple) and hasattr(kind, "_fields")):
        return (kind, tuple(map(within, value)))
    if kind is dict:
        return (kind, tuple((within(key), within(item)) for key, item in value.items()))
    if kind in (set, frozenset):
        return (kind, frozenset(map(within, value)))
    if kind in (float, complex):
        return (kind, repr(value))  # −0 is not 0, and NaN is NaN.
    if kind is _Object:
        return value
    if kind in _PLAIN or isinstance(value, (type, np.dtype, enum.Enum)):
        return (kind, value)
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        return _array_value(value)
    if dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        return (kind, within(vars(value))) if hasattr(value, "__dict__") else _Object(value)
    return _Object(value)


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # Not bound yet.
        return cell


def _array_value(array: Any) -> Any:
    readable = isinstance(array, (np.ndarray, np.generic)) or (
        not isinstance(array, jax.core.Tracer)
        and not jnp.issubdtype(array.dtype, jax.dtypes.extended)
        and array.is_fully_addressable
        and not array.is_deleted()
    )
    if not readable or array.nbytes > _READ_BYTES or array.dtype.hasobject:
        return _Object(array)
    weak = getattr(array, "weak_type", False)
    return (type(array), array.dtype, weak, array.shape, np.asarray(array).tobytes())


def portable(function: Any) -> Any:
    """A function in a form that `pickle` takes where the function itself could be imported.

    `pickle` refuses what `jax.jit` and `jax.custom_jvp` made of a function, because another object
    is found under its name; but it is that object which is meant.
    """
    if type(function) is functools.partial:
        return _Partial(portable(function.func), function.args, function.keywords)
    module = getattr(function, "__module__", None)
    name = getattr(function, "__qualname__", getattr(function, "__name__", None))
    if isinstance(function, types.FunctionType) or not (module and name):
        return function
    reference = _Reference(module, name)
    try:
        found = reference()
    except (ImportError, AttributeError, ValueError):
        return function
    return reference if found is function else function


def restored(function: Any) -> Callable[..., Any]:
    """The function that `portable` was given."""
    if isinstance(function, _Partial):
        return functools.partial(restored(function.func), *function.args, **function.keywords)
    return function() if isinstance(function, _Reference) else function


@dataclasses.dataclass(frozen=True)
class _Reference:
    """Where a function can be imported from."""

    module: str
    name: str

    def __call__(self) -> Any:
        return functools.reduce(getattr, self.name.split("."), importlib.import_module(self.module))


@dataclasses.dataclass(frozen=True)
class _Partial:
    """The parts of a `functools.partial`."""

    func: Any
    args: tuple[Any, ...]
    keywords: dict[str, Any]
