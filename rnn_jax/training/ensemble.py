"""Several models as one: a leading axis on every array."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rnn_jax.checks import check_count, check_size
from rnn_jax.training.disk.checkpoints import named_leaves
from rnn_jax.training.parameters.variables import check_unshared

M = TypeVar("M")

# Characters around what differs between two models, in a message.
_SHOWN = 100

# What a seed is made into where the parameter of `make_model` has this name.
_SOURCES: dict[str, Callable[[int], Any]] = {
    "rngs": lambda seed: nnx.Rngs(key_of(seed)),
    "key": lambda seed: key_of(seed),
}


def ensemble(make_model: Callable[[Any], M], seeds: int | Iterable[int]) -> M:
    """Models of one structure, from several seeds, as one model with a leading axis.

    `jax.vmap(lambda model, xs: model(xs))` runs all of them, and `fit` trains them in one program.

    Args:
      make_model: a function of one seed, make_model(seed) -> model. If its parameter is named
        `rngs` it is given nnx.Rngs(seed), and if it is named `key`, jax.random.key(seed).
      seeds: whole numbers, one for each of E members; a single number is that many, from 0 on.

    Returns:
      A model like that of one seed, each array with a leading E. `member` takes one out.

    Raises:
      ValueError: no seeds, negative ones, or models that differ in more than their numbers.
      TypeError: a `make_model` that cannot be called, or seeds that are no whole numbers.

    Example:
      >>> models = rj.ensemble(
      ...     lambda rngs: rj.SequenceModel(rj.GRUCell(2, 8, rngs=rngs), 1, rngs=rngs), seeds=3
      ... )
      >>> jax.vmap(lambda model: model(xs))(models).shape
      (3, 1)
    """
    if not callable(make_model):
        raise TypeError(
            f"make_model must be a function of a seed; got {type(make_model).__name__}. Pass for "
            "example lambda rngs: SequenceModel(LSTMCell(2, 32, rngs=rngs), 1, rngs=rngs)."
        )
    source = _SOURCES.get(_first_parameter(make_model), int)
    models = [make_model(source(seed)) for seed in _check_seeds(seeds)]
    for model in models:
        check_unshared(model)
    for index, model in enumerate(models[1:], 1):
        differing = _difference(models[0], model)
        if differing:
            raise ValueError(
                "all members must have one structure and equal shapes, so that their arrays can "
                f"be stacked; member {index} differs from member 0: {differing}. Let make_model "
                "use the seed for nothing but initial weights."
            )
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *models)


def member(models: M, index: int) -> M:
    """One model of an ensemble.

    Args:
      models: what `ensemble` or `fit` gave, every array with a leading E.
      index: which, in [0, E).

    Raises:
      ValueError: out of range, or no ensemble.
      TypeError: no whole number.

    Example:
      >>> cells = rj.ensemble(lambda rngs: rj.GRUCell(2, 8, rngs=rngs), seeds=3)
      >>> bool((rj.member(cells, 0).kernel[...] == cell.kernel[...]).all())  # Of seed 0
      True
    """
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(models)}
    alone = getattr(models, "ensemble_size", 0) is None
    if alone or len(sizes) != 1 or sizes == {()}:
        raise ValueError(
            "models must be an ensemble, every array with one leading axis of its members; got "
            f"{'a single model' if alone else 'other shapes'}. Pass what rnn_jax.ensemble or fit "
            "gave."
        )
    position = check_count("index", index, high=sizes.pop()[0] - 1)
    return jax.tree.map(lambda leaf: leaf[position], models)


def key_of(seed: int) -> jax.Array:
    """A random key of its own for every seed in [0, 2^63): `jax.random.key(seed)`, with all bits.

    JAX itself drops the upper 32 bits of a seed, unless 64-bit types are enabled.
    """
    if seed < 2**32:
        return jax.random.key(seed)
    words = jax.random.key_data(jax.random.key(0)).size
    bits = np.array([seed >> 32, seed % 2**32], np.uint32)
    return jax.random.wrap_key_data(jnp.asarray(np.resize(bits, words)))


def ensemble_size(model: Any) -> int | None:
    """E of an ensemble of models that know their own rank, such as `SequenceModel`; else None."""
    return getattr(model, "ensemble_size", None)


def _check_seeds(seeds: int | Iterable[int]) -> list[int]:
    if not isinstance(seeds, Iterable):
        return list(range(check_size("seeds", seeds)))
    found = [check_count("each of seeds", seed, high=2**63 - 1) for seed in seeds]
    if not found:
        raise ValueError("an ensemble needs at least one seed; got none. Pass for example seeds=8.")
    return found


def _first_parameter(function: Callable[..., Any]) -> str:
    try:
        return next(iter(inspect.signature(function).parameters), "")
    except ValueError:  # Built-in callables may have no signature to look at.
        return ""


def _difference(first: Any, other: Any) -> str:
    """In what two models differ beside their numbers; "" if in nothing."""
    forms, others = _forms(first), _forms(other)
    for name in dict.fromkeys([*forms, *others]):
        there, here = forms.get(name), others.get(name)
        if there != here:
            return f"{name} is {here or 'not there'}, and {there or 'not there'} in member 0"
    structures: list[Any] = [jax.tree.structure(first), jax.tree.structure(other)]
    if structures[0] == structures[1]:
        return ""
    texts = [" ".join(str(structure).split()) for structure in structures]
    pairs = enumerate(zip(*texts, strict=False))
    unlike = next((index for index, (there, here) in pairs if there != here), None)
    if unlike is None:
        return "what is no array in it, such as a function or an object, was made anew for each"
    start = max(0, unlike - _SHOWN // 2)
    there, here = (text[start : start + _SHOWN] for text in texts)
    return f"it reads …{here}… where member 0 has …{there}…"


def _forms(model: Any) -> dict[str, str]:
    return {
        name: f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}"
        for name, leaf in named_leaves(model)
    }
