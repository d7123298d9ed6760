"""A model in one file, of the format of safetensors: its arrays, and beside them how it is built.

The tensors are the leaves of the pytree, by their paths. The metadata of the file have one entry,
"rnn_jax", for what safetensors has no place for, in JSON:

    format      1
    leaves      [[path, tensor, type, shape], …] in the order of the pytree
    structure   how the model is built, without its arrays
    digest      SHA-256 of these three and of the tensors' bytes, hexadecimal

Random keys are stored as their bits. A type that safetensors does not have is stored as what it
consists of: complex numbers as pairs of real ones, others as bytes, along one axis more.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.checks import is_key, kind_of
from rnn_jax.training.disk.checkpoints import Form, form_differences, named_leaves
from rnn_jax.training.disk.files import reason, write_whole
from rnn_jax.training.disk.records import plain
from rnn_jax.training.disk.values import described_form

M = TypeVar("M")

# In the metadata, one entry: of several, the order in the file would be any.
_ENTRY, _FORMAT = "rnn_jax", 1

# Bytes before the header of a file, which say how long it is.
_LENGTH = 8

# Types that safetensors has, by NumPy's names.
_TYPES = frozenset(
    {"bool", "float16", "bfloat16", "float32", "float64"}
    | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
)


# What NNX notes of a module that is trained or evaluated at the moment, as `.eval()` sets it.
_MODES = frozenset({"deterministic", "use_running_average", "decode"})


class _Leaf(NamedTuple):
    """What the metadata say of one leaf."""

    name: str
    tensor: str
    dtype: str
    shape: tuple[int, ...]


def save(path: str | Path, model: Any) -> None:
    """Writes a model to one file, which is whole or not there at all.

    The file is of the format of safetensors, and so can be read anywhere by `safetensors.safe_open`
    as tensors by path, such as "cells.0.kernel"; how the model is built lies in its metadata. What
    the path held before stays until all that is new is on the disk.

    Args:
      path: of the file, in a folder that exists; ".safetensors" is the usual ending.
      model: any pytree of arrays: a model or a cell, of this package or another, an ensemble, a
        `Partial`, a state of an optimiser. All variables of an NNX module are saved, batch
        statistics and random keys too.

    Raises:
      TypeError: a leaf is no array, or the path no path.
      ValueError: a leaf lies on devices of other processes too.
      OSError: the file cannot be written; the path holds what it held before.

    Example:
      >>> rj.save("cell.safetensors", cell)
      >>> loaded = rj.load("cell.safetensors", rj.GRUCell(2, 8, rngs=nnx.Rngs(1)))
      >>> bool((loaded.kernel[...] == cell.kernel[...]).all())
      True
    """
    import safetensors.numpy

    file = _file(path)
    leaves: list[_Leaf] = []
    tensors: dict[str, np.ndarray] = {}
    for name, leaf in named_leaves(model):
        dtype, shape = _form(name, leaf)
        tensor = _unused(name, tensors)
        tensors[tensor] = _storable(_values(name, leaf))
        leaves.append(_Leaf(name, tensor, dtype, shape))
    notes = {"format": _FORMAT, "leaves": leaves, "structure": _structure(model)}
    notes["digest"] = _digest(notes, (tensors[leaf.tensor].tobytes() for leaf in leaves))
    metadata = {_ENTRY: json.dumps(notes, allow_nan=False)}
    try:
        if file.is_dir():
            raise IsADirectoryError("it is a directory")
        write_whole(file, [safetensors.numpy.save(tensors, metadata)])
    except OSError as error:
        raise type(error)(
            f"a model could not be written to {path}: {reason(error)}. What was there is as it "
            "was; pass a file in a folder that exists and can be written, or make room."
        ) from error


def load(path: str | Path, model_like: M) -> M:
    """The model that `save` wrote.

    Args:
      path: of the file.
      model_like: a model built as the one that was saved: of equal structure, paths, shapes and
        types, in training or evaluation. Its numbers are not used, and `jax.eval_shape(make_model)`
        does as well.

    Returns:
      A model like `model_like`, bit for bit what was saved; its arrays are JAX's, and NumPy's where
      `model_like` has NumPy's.

    Raises:
      FileNotFoundError: there is no such file.
      OSError: it cannot be read.
      ValueError: it is damaged, was not written by `save`, or is of a model that is built
        otherwise.
      TypeError: a leaf of `model_like` is no array, or the path no path.

    Example:
      >>> rj.save("cell.safetensors", cell)
      >>> like = jax.eval_shape(lambda: rj.GRUCell(2, 8, rngs=nnx.Rngs(0)))
      >>> loaded = rj.load("cell.safetensors", like)
      >>> bool((rj.unroll(loaded, xs)[1] == rj.unroll(cell, xs)[1]).all())
      True
    """
    file = _file(path)
    try:
        content = file.read_bytes()
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"a model could not be loaded from {path}: there is no such file. Pass the path that "
            "rnn_jax.save was given."
        ) from error
    except OSError as error:
        raise type(error)(
            f"a model could not be loaded from {path}: {reason(error)}. Pass a file that can be "
            "read."
        ) from error
    leaves, structure, contents = _parsed(content, path)
    expected = named_leaves(model_like)
    here = {name: _form(name, leaf) for name, leaf in expected}
    there: dict[str, Form] = {leaf.name: (leaf.dtype, leaf.shape) for leaf in leaves}
    unlike = form_differences(there, here)
    unlike = unlike or _structure_differences(structure, _structure(model_like))
    if unlike:
        raise ValueError(
            f"a model that is loaded must be built as the one that was saved; {path} is there, the "
            f"model here: {'; '.join(unlike)}. Pass a model built as that one was."
        )
    by_name = {leaf.name: packed for leaf, packed in zip(leaves, contents, strict=True)}
    found = [_as_leaf(by_name[name], leaf) for name, leaf in expected]
    return jax.tree.unflatten(jax.tree.structure(model_like), found)


def _file(path: Any) -> Path:
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path must be a path; got {kind_of(path)}. Pass a str or Path.")
    return Path(path).expanduser().absolute()


def _form(name: str, leaf: Any) -> Form:
    """(type, shape) of a leaf; of random keys the type says which they are.

    Raises:
      TypeError: it is no array.
    """
    if not hasattr(leaf, "dtype") or not isinstance(getattr(leaf, "shape", None), tuple):
        raise TypeError(
            f"every leaf of a model must be an array; got {kind_of(leaf)} at "
            f"{name or 'the top'}. Make it one, as by jnp.asarray, or mark it static."
        )
    if is_key(leaf):
        return str(leaf.dtype), tuple(leaf.shape)
    return np.dtype(leaf.dtype).name, tuple(leaf.shape)


def _values(name: str, leaf: Any) -> np.ndarray:
    if isinstance(leaf, (jax.core.Tracer, jax.ShapeDtypeStruct)):
        raise TypeError(
            f"a model must have its numbers when it is saved; got {kind_of(leaf)} at "
            f"{name or 'the top'}. Save outside of jit, grad and vmap."
        )
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        raise ValueError(
            "a model must lie on devices of this process when it is saved; got "
            f"{name or 'the top'} on others too. Gather it first, as by "
            "jax.experimental.multihost_utils.process_allgather."
        )
    array = np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf)
    if array.dtype.hasobject:
        raise TypeError(
            f"every leaf of a model must be an array of numbers; got one of objects at "
            f"{name or 'the top'}. Take it out."
        )
    return array


def _storable(array: np.ndarray) -> np.ndarray:
    """An array of the same bytes, little-endian, of a type that safetensors has."""
    array = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
    if array.dtype.name in _TYPES:
        return array
    flat = array.reshape(-1)
    inner = flat.real.dtype if array.dtype.kind == "c" else np.dtype(np.uint8)
    return flat.view(inner).reshape(*array.shape, array.dtype.itemsize // inner.itemsize)


def _unused(name: str, taken: Any) -> str:
    """A name of a tensor for the leaf of this name; some mean something else in the format."""
    while not name or name == "__metadata__" or name in taken:
        name += "#"
    return name


def _digest(notes: dict[str, Any], contents: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for name in ("format", "leaves", "structure"):
        digest.update(f"{json.dumps(notes[name])}\n".encode())
    for content in contents:
        digest.update(content)
    return digest.hexdigest()


def _parsed(content: bytes, path: Any) -> tuple[list[_Leaf], Any, list[bytes]]:
    """(the leaves, how the model is built, the bytes of each leaf) of a file.

    Raises:
      ValueError: it is damaged, or was not written by `save`.
    """
    import safetensors

    try:
        tensors = {name: tensor["data"] for name, tensor in safetensors.deserialize(content)}
        length = int.from_bytes(content[:_LENGTH], "little")
        metadata = json.loads(content[_LENGTH : _LENGTH + length]).get("__metadata__", {})
        notes = json.loads(metadata.get(_ENTRY, "{}"))
    except (safetensors.SafetensorError, ValueError) as error:
        raise ValueError(
            f"a file must be whole and of the format of safetensors; got {path}, which is not: "
            f"{reason(error)}. Pass one that rnn_jax.save wrote, or save it again."
        ) from error
    if not isinstance(notes, dict) or notes.get("format") != _FORMAT:
        said = f"{_ENTRY} {notes.get('format')}" if notes and isinstance(notes, dict) else "none"
        raise ValueError(
            f"a file must say in its metadata how its model is built, in the format {_ENTRY} "
            f"{_FORMAT}; got {path}, which says {said}. Pass one that rnn_jax.save wrote, or read "
            "this one by safetensors.safe_open."
        )
    try:
        rows = notes["leaves"]
        leaves = [_Leaf(name, tensor, dtype, tuple(shape)) for name, tensor, dtype, shape in rows]
        contents = [bytes(tensors[leaf.tensor]) for leaf in leaves]
        whole = _digest(notes, contents) == notes["digest"]
    except (KeyError, TypeError, ValueError):
        whole = False
    if not whole:
        raise ValueError(
            f"a file must hold what was written to it; got {path}, whose bytes are others. Take a "
            "copy that is whole, or save it again."
        )
    return leaves, notes["structure"], contents


def _as_leaf(content: bytes, like: Any) -> Any:
    """The leaf that these bytes are, of the form of another."""
    if is_key(like):
        form = jax.eval_shape(jax.random.key_data, like)
        bits = jnp.asarray(_restored(content, form))
        return jax.random.wrap_key_data(bits, impl=_implementation(like))
    array = _restored(content, like)
    return array if isinstance(like, (np.ndarray, np.generic)) else jnp.asarray(array)


def _restored(content: bytes, form: Any) -> np.ndarray:
    """The inverse of `_storable`, from the bytes alone."""
    if not content:
        return np.empty(form.shape, form.dtype)
    stored = np.frombuffer(bytearray(content), np.dtype(form.dtype).newbyteorder("<"))
    return stored.astype(form.dtype, copy=False).reshape(form.shape)


def _implementation(keys: Any) -> Any:
    """Which random keys these are, as `jax.random.wrap_key_data` takes it."""
    if not isinstance(keys, jax.ShapeDtypeStruct):
        return jax.random.key_impl(keys)
    known = ("threefry2x32", "rbg", "unsafe_rbg")
    types = {jax.eval_shape(partial(jax.random.key, 0, impl=name)).dtype: name for name in known}
    return types[keys.dtype]


def _structure(model: Any) -> Any:
    """How a model is built, without its arrays, as JSON has it."""
    forms = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), model)
    return plain(described_form(forms))


def _structure_differences(there: Any, here: Any, path: str = "") -> list[str]:
    """In which points two models are built otherwise, of all that both say; the first few.

    A version of this package that says more of a model than another one did still reads its files.
    """
    if isinstance(there, dict) and isinstance(here, dict):
        both = [name for name in there if name in here and name not in _MODES]
        found = [
            words
            for name in both
            for words in _structure_differences(there[name], here[name], f"{path}.{name}")
        ]
    elif isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        found = [
            words
            for index, (one, other) in enumerate(zip(there, here, strict=True))
            for words in _structure_differences(one, other, f"{path}.{index}")
        ]
    elif there == here:
        found = []
    else:
        name = path.removeprefix(".") or "the model"
        found = [f"{name} is {_short(there)} there, {_short(here)} here"]
    return found[:3]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
