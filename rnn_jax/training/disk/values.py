"""Values in plain words, for the description of a run: what is large as its form and a digest."""

import dataclasses
import functools
import hashlib
import json
import re
import types
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from flax import nnx

from rnn_jax.checks import is_key
from rnn_jax.training.disk.records import plain

# Entries of a list, and characters of a string, that are written out.
_ENTRIES, _CHARACTERS = 64, 4096
_ALL_NAMES = 1024
# Objects in objects.
_DEPTH = 20

# What Flax notes of its own in each module, and not of the user's.
_FLAX = ("_pytree__", "_object__")

Words = Callable[[Any], Any]


def described(value: Any) -> Any:
    """A value as JSON has it: objects as their kind and fields, functions by name.

    Arrays and bytes, and whatever else has many entries, become their form and a digest.
    """
    return plain(_described(value, array_digest, ()))


def described_form(value: Any) -> Any:
    """As `described`, but arrays only by their place: how a model is built, without weights."""
    return plain(_described(value, lambda array: "array", ()))


def array_digest(array: Any) -> dict[str, Any]:
    """Form and digest of an array."""
    return {
        "shape": list(array.shape),
        "dtype": str(array.dtype),
        "digest": number_digest(array),
    }


def number_digest(value: Any) -> str:
    """SHA-256 of type, shape and bytes of an array, a number or a random key."""
    kind = str(getattr(value, "dtype", type(value).__name__))
    array = np.ascontiguousarray(jax.random.key_data(value) if is_key(value) else value)
    if array.dtype == object:  # What JAX passes through and has no numbers.
        return without_addresses(repr(value))
    found = hashlib.sha256(f"{kind} {array.dtype} {np.shape(value)}\n".encode())
    found.update(array.tobytes())
    return found.hexdigest()[:32]


def without_addresses(text: str) -> str:
    """The text, equal in each process."""
    return re.sub(r"0[xX][0-9a-fA-F]+", "0x", text)


def _described(value: Any, words: Words, above: tuple[int, ...]) -> Any:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str):
        content = value.encode(errors="surrogatepass")
        return value if len(value) <= _CHARACTERS else _large("str", content, len(value))
    if isinstance(value, (bytes, bytearray, memoryview)):
        content = bytes(value)
        return _large(type(value).__name__, content, len(content))
    if isinstance(value, np.generic):
        return _scalar(value)
    if isinstance(value, (np.ndarray, jax.Array, jax.ShapeDtypeStruct)):
        return _array(value, words)
    if isinstance(value, types.ModuleType):
        return value.__name__
    if id(value) in above or len(above) > _DEPTH:
        return type(value).__name__
    inner = functools.partial(_described, words=words, above=(*above, id(value)))
    if isinstance(value, nnx.Variable):
        leaves = [inner(leaf) for leaf in jax.tree.leaves(value)]
        return leaves[0] if len(leaves) == 1 else _listed("list", leaves)
    if isinstance(value, (list, tuple, nnx.List)):
        return _listed("list", map(inner, value))
    if isinstance(value, (set, frozenset)):
        return _listed("set", sorted(map(inner, value), key=repr))
    if isinstance(value, dict):
        return _named(_by_name((str(name), inner(held)) for name, held in value.items()))
    fields = _fields(value)
    if fields is None:
        return without_addresses(getattr(value, "__qualname__", None) or repr(value))
    return _named({"kind": type(value).__name__, **{n: inner(v) for n, v in fields.items()}})


def _fields(value: Any) -> dict[str, Any] | None:
    """What an object holds; None for a function, a class and what holds nothing."""
    if hasattr(type(value), "described_fields"):  # It knows itself what tells it from others.
        own: dict[str, Any] = value.described_fields()
        return own
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, functools.partial):
        return {"func": value.func, "args": value.args, "keywords": value.keywords}
    if hasattr(value, "__qualname__") or not hasattr(value, "__dict__"):
        return None
    return {
        name: held
        for name, held in vars(value).items()
        # What is computed when it is first asked for is there or not there.
        if not isinstance(getattr(type(value), name, None), functools.cached_property)
        and not name.startswith(_FLAX)
    }


def _array(value: Any, words: Words) -> Any:
    if words is array_digest and value.ndim == 0 and not is_key(value):
        return _scalar(np.asarray(value)[()])
    return words(value)


def _scalar(value: Any) -> Any:
    """A number of NumPy as Python has it, or where JSON has no such thing as text."""
    number = value.item() if isinstance(value, np.generic) else value
    plainly = number is None or isinstance(number, (bool, int, float, str))
    return number if plainly else without_addresses(repr(value))


def _by_name(entries: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Entries of a dict; those whose keys read alike, as of functions, are numbered."""
    found: dict[str, Any] = {}
    seen: dict[str, int] = {}
    for key, held in entries:
        name = without_addresses(key)
        seen[name] = count = seen.get(name, 0) + 1
        found[name if count == 1 else f"{name}#{count}"] = held
    return found


def _listed(kind: str, entries: Iterable[Any]) -> Any:
    found = list(entries)
    if _size(found) <= _ENTRIES:
        return found
    return _large(kind, json.dumps(plain(found)).encode(), len(found))


def _named(fields: dict[str, Any]) -> dict[str, Any]:
    if len(fields) <= _ALL_NAMES:
        return fields
    return _large("dict", json.dumps(plain(fields), sort_keys=True).encode(), len(fields))


def _size(found: Any) -> int:
    """Entries of a list and of the lists in it."""
    return sum(map(_size, found)) if isinstance(found, list) else 1


def _large(kind: str, content: bytes, length: int) -> dict[str, Any]:
    return {
        "kind": kind,
        "length": length,
        "digest": hashlib.sha256(content).hexdigest()[:32],
    }
