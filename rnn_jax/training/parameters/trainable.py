"""Which parameters of a model are meant: an optax-style mask, or a filter of NNX."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx

from rnn_jax.checks import kind_of
from rnn_jax.training.parameters.variables import named_variables, split, trained_leaves

# Names of parameters that a message lists.
_LISTED = 8
# Longest text of a value in a message.
_CHARACTERS = 200
_EXAMPLE = 'Pass for example {name}=nnx.PathContains("cells").'


def trained_mask(model: Any, trainable: Any) -> tuple[bool, ...] | None:
    """Which leaves of a model are trained, in the order of `jax.tree.leaves`.

    Args:
      model: whose parameters are `trained_leaves`.
      trainable: which of them; see `selected`. None is all.

    Returns:
      None where all parameters are trained, as they are without a mask.

    Raises:
      TypeError, ValueError: as `selected`.
    """
    if trainable is None:
        return None
    check_selection("trainable", trainable)
    mask = selected("trainable", model, trainable)
    return None if mask == trained_leaves(model) else tuple(mask)


def check_selection(name: str, where: Any) -> None:
    """Raises TypeError if `where` has none of the forms that `selected` takes."""
    if _is_mask(where) or _is_filter(where):
        return
    if callable(where) and not isinstance(where, type):
        _places_taken(name, where)
        return
    raise TypeError(
        f"{name} must be a pytree of booleans with the structure of the model, a function of its "
        f"parameters that returns one, or a filter of NNX; got {kind_of(where)}. "
        f"{_EXAMPLE.format(name=name)}"
    )


def selected(name: str, model: Any, where: Any) -> list[bool]:
    """Which leaves of a model a mask or a filter picks, of those that are parameters.

    Args:
      name: of the argument, for messages.
      model: one, or an ensemble.
      where: booleans in a pytree with the structure of the model, or of a part of it from the top;
        a function of the parameters that returns such a pytree, as optax takes it; or a filter of
        NNX: a type of variables, a tag, True, `...`, several of them in a list, `nnx.PathContains`,
        `nnx.Not`, …, or a function (path, variable) -> bool. Of a pytree that is no module, a
        filter sees the arrays; of an ensemble, arrays with their leading axis.

    Raises:
      TypeError: none of these, or functions that return something else.
      ValueError: a mask of another structure, or one that picks no parameter.
    """
    parameters = trained_leaves(model)
    if _is_mask(where):
        picked = _by_mask(name, model, where)
    elif not _is_filter(where) and _places_taken(name, where) == 1:
        mask = where(split(model)[0])
        if not _is_mask(mask):
            raise TypeError(
                f"{name} as a function of the parameters must return a pytree of booleans; got "
                f"{kind_of(mask)}. Return for example jax.tree.map(lambda leaf: leaf.ndim > 1, "
                "parameters), or take (path, variable) to be a filter of NNX."
            )
        picked = _by_mask(name, model, mask)
    else:
        picked = _by_filter(name, model, nnx.filterlib.to_predicate(where))
    found = [is_picked and is_one for is_picked, is_one in zip(picked, parameters, strict=True)]
    if not any(found):
        paths = [
            ".".join(map(str, path))
            for (path, _, count), first in zip(named_variables(model), _firsts(model), strict=True)
            if any(parameters[first : first + count])
        ]
        more = f" and {len(paths) - _LISTED} more" if len(paths) > _LISTED else ""
        raise ValueError(
            f"{name} must pick at least one parameter; got {_cut(repr(where))}, which picks none "
            f"of {', '.join(paths[:_LISTED])}{more}. {_EXAMPLE.format(name=name)}"
        )
    return found


def _firsts(model: Any) -> list[int]:
    """The index of the first leaf of each variable."""
    counts = [count for _, _, count in named_variables(model)]
    return [sum(counts[:index]) for index in range(len(counts))]


def _by_mask(name: str, model: Any, mask: Any) -> list[bool]:
    parameters = split(model)[0]
    try:
        whole = jax.tree.map(lambda own, part: jax.tree.map(lambda _: own, part), mask, parameters)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} must have the structure of the model, or of a part of it from the top; got "
            f"{_shown(jax.tree.structure(mask))}, where the model's parameters are "
            f"{_shown(jax.tree.structure(parameters))}. Build it with jax.tree.map from the model: "
            f"{error}"
        ) from error
    of_parameters = iter(jax.tree.leaves(whole))
    return [is_one and bool(next(of_parameters)) for is_one in trained_leaves(model)]


def _by_filter(name: str, model: Any, predicate: Callable[[Any, Any], Any]) -> list[bool]:
    found = []
    for path, node, count in named_variables(model):
        answer = predicate(path, node)
        if not isinstance(answer, (bool, np.bool_)):
            raise TypeError(
                f"{name} as a filter must return True or False for each path and variable; got "
                f"{kind_of(answer)} for {'.'.join(map(str, path))}. Compare shapes, types and "
                "paths, and not numbers."
            )
        found += [bool(answer)] * count
    return found


def _is_mask(where: Any) -> bool:
    """Whether it is a pytree of booleans. An NNX module may be one, and can be called."""
    leaves = jax.tree.leaves(where)
    return bool(leaves) and all(isinstance(leaf, (bool, np.bool_)) for leaf in leaves)


def _is_filter(where: Any) -> bool:
    """Whether it is a filter of NNX that is no function."""
    if isinstance(where, (list, tuple)):
        return bool(where) and all(_is_filter(one) or callable(one) for one in where)
    return where is ... or isinstance(where, (type, str, bool))


def _places_taken(name: str, function: Callable[..., Any]) -> int:
    """1 for a function of the parameters, 2 for a filter (path, variable).

    Raises:
      TypeError: it takes neither.
    """
    signature: inspect.Signature | None
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # Built-in callables may have no signature to look at.
        signature = None
    for count in (2, 1):
        try:
            if signature is not None:
                signature.bind(*[None] * count)
                return count
        except TypeError:
            continue
    raise TypeError(
        f"{name} must take the parameters, or the path and the variable; got a function of "
        f"{'unknown arguments' if signature is None else signature}. Pass for example lambda path, "
        'variable: "recurrent_kernel" in path.'
    )


def _shown(structure: Any) -> str:
    return _cut(" ".join(str(structure).split()))


def _cut(text: str) -> str:
    return text if len(text) <= _CHARACTERS else f"{text[:_CHARACTERS]}…"
