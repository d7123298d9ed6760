"""The user's own data as a batch of host arrays: read, shaped and checked."""

import reprlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.checks import kind_of, read_whole_numbers
from rnn_jax.tasks.base import Batch

_FORMS = (
    "Pass rnn_jax.tasks.Batch, a tuple (inputs, targets), or a dict with inputs, targets and if "
    "need be weights, lengths or mask."
)


def as_examples(value: Any, of: str, third: str) -> Batch:
    """Examples in one of the forms in which data come, checked, as NumPy arrays.

    Args:
      value: a `Batch`; a tuple or list (inputs, targets), or with a third entry; or a dict with the
        names of a `Batch`.
      of: what they are, for messages, such as "batch 3".
      third: what a third entry is, "weights" or "lengths"; the former are floats and the latter
        whole numbers, so that neither is taken for the other.

    Raises:
      TypeError, ValueError: as `read_examples`, or the value has no such form.
    """
    if isinstance(value, Batch):
        return read_examples(*value, of=of)
    if isinstance(value, Mapping):
        unknown = sorted(map(str, value.keys() - set(Batch._fields)))
        missing = [name for name in ("inputs", "targets") if name not in value]
        if unknown or missing:
            raise ValueError(
                f"{of} must have inputs and targets, and nothing but {', '.join(Batch._fields)}; "
                f"got {', '.join(map(str, value))}. Rename or leave out the others."
            )
        return read_examples(**{"weights": None, **value}, of=of)
    if not isinstance(value, (tuple, list)) or len(value) not in (2, 3):
        got = f"{len(value)} entries" if isinstance(value, (tuple, list)) else kind_of(value)
        raise TypeError(f"{of} must be inputs and targets; got {got}. {_FORMS}")
    inputs, targets, *rest = value
    named = dict(zip([third], rest, strict=False))
    return read_examples(inputs, targets, **{"weights": None, **named}, of=of)


def read_examples(
    inputs: Any, targets: Any, weights: Any, lengths: Any = None, mask: Any = None, *, of: str
) -> Batch:
    """Examples as NumPy arrays of JAX's types, checked; weights are filled in.

    Args:
      inputs, targets, weights, lengths, mask: see `Batch`; arrays of NumPy, JAX or any kind that
        NumPy reads. None as weights is 1 for each answer.
      of: what they are, for messages.

    Raises:
      TypeError: no arrays, or of another kind.
      ValueError: shapes that do not fit, numbers out of range, or numbers that are not finite where
        they count.
    """
    inputs = _read_inputs(inputs, of)
    first = jax.tree.leaves(inputs)[0]
    count, steps = first.shape[:2]
    targets = _read_targets(targets, count, steps, of)
    if lengths is not None and mask is not None:
        raise ValueError(
            f"lengths and mask of {of} cannot be given together, because each says by itself which "
            "steps count; got both. Pass one mask: mask & (np.arange(T) < lengths[:, None])."
        )
    lengths = None if lengths is None else _read_lengths(lengths, count, steps, of)
    mask = None if mask is None else _read_mask(mask, count, steps, of)
    valid = mask if lengths is None else np.arange(steps) < lengths[:, None]
    answers = targets.shape[: answer_axes(targets)]
    weights = _read_weights(weights, answers, _float_type(targets, inputs), of)
    counted = weights > 0 if valid is None or weights.ndim == 1 else (weights > 0) & valid
    _check_counted(counted, of)
    for leaf in jax.tree.leaves(inputs):
        _check_finite("inputs", leaf, valid, of)
    _check_finite("targets", targets, counted, of)
    if has_classes(targets) and (targets[counted] < 0).any():
        raise ValueError(
            f"targets of {of} that name classes must be whole numbers from 0 on; got "
            f"{targets[counted].min()}. Number the classes from 0, or give such answers a weight "
            "of 0."
        )
    return Batch(inputs, targets, weights, lengths, mask)


def has_classes(targets: Any) -> bool:
    """Whether targets name classes, and are not numbers to be met."""
    return bool(jnp.issubdtype(targets.dtype, jnp.integer))


def answer_axes(targets: Any) -> int:
    """How many axes the answers have: 1, one a sequence, or 2, one a step."""
    return targets.ndim if has_classes(targets) else targets.ndim - 1


def _read_inputs(inputs: Any, of: str) -> Any:
    if isinstance(inputs, list):
        raise TypeError(
            f"inputs of {of} must be an array (N, T, …), or a tuple or dict of such arrays; got a "
            f"list of {len(inputs)}. Stack it with np.stack, and pad sequences of different "
            "lengths to the longest, with their lengths as lengths=."
        )
    read = jax.tree.map(lambda leaf: _host_array(f"inputs of {of}", leaf), inputs)
    leaves = jax.tree.leaves(read)
    forms = {leaf.shape[:2] for leaf in leaves}
    if len(forms) != 1 or len(min(forms)) < 2 or 0 in min(forms):
        shapes = ", ".join(str(leaf.shape) for leaf in leaves) or "nothing"
        raise ValueError(
            f"inputs of {of} must have a row for each of N sequences and T steps in each, "
            f"(N, T, …), N and T at least 1; got {shapes}. Pass for example features of shape "
            "(N, T, I), inputs[..., None] for one feature a step, or inputs[None] for a single "
            "sequence."
        )
    for leaf in leaves:
        if leaf.ndim == 2 and not jnp.issubdtype(leaf.dtype, jnp.integer):
            raise ValueError(
                f"inputs of {of} must have features, (N, T, I), but for whole numbers, which are "
                f"tokens; got {leaf.dtype} of shape {leaf.shape}. Pass inputs[..., None] for one "
                "feature a step."
            )
    return read


def _read_targets(targets: Any, count: int, steps: int, of: str) -> np.ndarray:
    array = _host_array(f"targets of {of}", targets)
    if array.dtype == bool or has_classes(array):
        # The type of an argmax, to be compared with one.
        array = array.astype(jax.dtypes.canonicalize_dtype(int))
        rule, allowed = "that name classes must have shape (N,) or (N, T)", (1, 2)
        fix = "Pass targets.argmax(-1) of one-hot rows, or numbers with a fraction as floats."
    else:
        rule, allowed = "that are numbers must have shape (N, O) or (N, T, O)", (2, 3)
        fix = "Pass targets[:, None] for one number a sequence, or whole numbers for classes."
    fits = array.ndim in allowed and array.shape[0] == count and array.size
    if not fits or (answer_axes(array) == 2 and array.shape[1] != steps):
        raise ValueError(
            f"targets of {of} {rule}, here N = {count} and T = {steps}; got {array.dtype} of shape "
            f"{array.shape}. {fix}"
        )
    return array


def _read_lengths(lengths: Any, count: int, steps: int, of: str) -> np.ndarray:
    array = read_whole_numbers(
        f"lengths of {of}",
        _host_array(f"lengths of {of}", lengths, narrow=False),
        rule="an array of whole numbers",
        fix="Cast them, for example lengths.astype(int).",
        for_booleans="Pass booleans for each step as mask=.",
    )
    if array.shape != (count,):
        raise ValueError(
            f"lengths of {of} must have one entry for each sequence, shape ({count},); got shape "
            f"{array.shape}. Pass one whole number for each row of inputs."
        )
    outside = (array < 1) | (array > steps)
    if outside.any():
        raise ValueError(
            f"lengths of {of} must lie in [1, {steps}], the steps of its inputs; got "
            f"{array[outside][0]} for sequence {int(np.argmax(outside))}. Clip them, pad the "
            "inputs, or leave empty sequences out."
        )
    return np.asarray(array, jax.dtypes.canonicalize_dtype(int))


def _read_mask(mask: Any, count: int, steps: int, of: str) -> np.ndarray:
    array = _host_array(f"mask of {of}", mask)
    if array.dtype != bool:
        raise TypeError(
            f"mask of {of} must be booleans; got dtype {array.dtype}. Compare first, for example "
            "mask == 1."
        )
    if array.shape != (count, steps):
        raise ValueError(
            f"mask of {of} must have one boolean for each step, shape {(count, steps)}; got shape "
            f"{array.shape}. Pass True where a step is valid."
        )
    empty = ~array.any(axis=1)
    if empty.any():
        raise ValueError(
            f"mask of {of} must have a valid step in each sequence; got none in sequence "
            f"{int(np.argmax(empty))}. Leave empty sequences out."
        )
    return array


def _read_weights(weights: Any, answers: tuple[int, ...], dtype: Any, of: str) -> np.ndarray:
    if weights is None:
        return np.ones(answers, dtype)
    array = _host_array(f"weights of {of}", weights)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(
            f"weights of {of} must be floats; got dtype {array.dtype}. Pass "
            "weights.astype(float), or whole numbers of steps as lengths=."
        )
    if array.shape != answers:
        raise ValueError(
            f"weights of {of} must have one number for each answer, shape {answers}; got shape "
            f"{array.shape}. Broadcast them to it."
        )
    wrong = ~(np.isfinite(array) & (array >= 0))
    if wrong.any():
        raise ValueError(
            f"weights of {of} must be finite and at least 0; got {array[wrong].flat[0]}. Pass 0 "
            "for what is not to count."
        )
    return array


def _check_counted(counted: np.ndarray, of: str) -> None:
    nothing = ~counted.reshape(len(counted), -1).any(axis=1)
    if nothing.any():
        raise ValueError(
            f"each sequence of {of} must have an answer that counts, or a batch of such sequences "
            f"would have no loss; got none in sequence {int(np.argmax(nothing))}. Leave it out, or "
            "give it a positive weight at a valid step."
        )


def _check_finite(name: str, array: np.ndarray, where: np.ndarray | None, of: str) -> None:
    """Only where it counts: padding may hold anything."""
    if not jnp.issubdtype(array.dtype, jnp.inexact):
        return
    finite = np.isfinite(array)
    if finite.all():
        return
    wrong = ~finite
    if where is not None:
        wrong &= where.reshape(where.shape + (1,) * (array.ndim - where.ndim))
    if not wrong.any():
        return
    place = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
    step = f", step {place[1]}" if where is None or where.ndim == 2 or name == "inputs" else ""
    raise ValueError(
        f"{name} of {of} must be finite where they count; got {array[place]} in sequence "
        f"{place[0]}{step}, as {array.dtype}, and {int(wrong.sum())} such numbers in all. Clean "
        "them, or leave them out by lengths=, mask= or weights of 0."
    )


def _float_type(targets: np.ndarray, inputs: Any) -> Any:
    """Of weights: that of the data, so that they narrow or widen no loss."""
    for array in (targets, *jax.tree.leaves(inputs)):
        if jnp.issubdtype(array.dtype, jnp.floating):
            return array.dtype
    return jax.dtypes.canonicalize_dtype(float)


def _host_array(name: str, value: Any, *, narrow: bool = True) -> np.ndarray:
    """In NumPy, and if `narrow` in the type that JAX gives it."""
    if isinstance(value, jax.core.Tracer):
        raise TypeError(
            f"{name} must be read before anything is compiled; got a traced array. Make the data "
            "outside of jax.jit and jax.vmap."
        )
    try:
        array = np.asarray(value)
    except Exception as error:  # Whatever the library says that it is of.
        raise TypeError(
            f"{name} must be an array; got {kind_of(value)}, which NumPy cannot read: {error}. "
            "Move it to the host, and pad rows of different lengths."
        ) from error
    kinds = (jnp.number, jnp.bool_)
    if not any(jnp.issubdtype(array.dtype, kind) for kind in kinds):
        raise TypeError(
            f"{name} must be an array of numbers; got {reprlib.repr(value)} of type "
            f"{kind_of(value)}. Pass an array of NumPy or JAX."
        )
    return _narrowed(name, array) if narrow else array


def _narrowed(name: str, array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # What overflows is found as infinite.
        narrowed = array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False)
    whole = jnp.issubdtype(array.dtype, jnp.integer) and narrowed.dtype != array.dtype
    if whole and (narrowed != array).any():
        raise ValueError(
            f"{name} must fit into {narrowed.dtype}; got {array[narrowed != array].flat[0]}. "
            "Enable jax_enable_x64, or number from 0."
        )
    return narrowed
