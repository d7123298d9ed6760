"""Parameters that a step of the optimizer must not take out of a set."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from rnn_jax.checks import kind_of
from rnn_jax.training.disk.checkpoints import named_leaves

_EXAMPLE = 'Pass for example lambda path: path.endswith("recurrent_weights").'


def project_updates(
    projection: Callable[[jax.Array], jax.Array], where: Callable[[str], bool]
) -> optax.GradientTransformation:
    """An optax transformation that keeps parameters in a set, by projecting each step onto it.

    update ← P(θ + update) − θ

    Put it last in a chain, where updates are what is added to the parameters. IndRNN's weights, of
    at most 2^(1/T), stay so with

      cap = 2 ** (1 / T)
      keep = rnn_jax.project_updates(
          lambda u: jnp.clip(u, -cap, cap), lambda path: path.endswith("recurrent_weights")
      )
      optax.chain(optax.adam(2e-4), keep)

    Args:
      projection: P, of one parameter; returns one of the same shape and type.
      where: from the path of a parameter, such as "cells.0.recurrent_weights", to whether it is
        projected.

    Returns:
      An `optax.GradientTransformation` without state, whose `update` needs the parameters.

    Raises:
      TypeError: no functions; at `update`, a `where` that returns no bool.
      ValueError: at `update`, no parameters, a projection that changes a shape or a type, or a
        `where` that picks no parameter.

    Example:
      >>> optimizer = optax.chain(
      ...     optax.sgd(1.0),
      ...     rj.project_updates(lambda w: jnp.clip(w, -0.1, 0.1), lambda path: path == "kernel"),
      ... )
      >>> updates, _ = optimizer.update(cell, optimizer.init(cell), cell)
      >>> moved = optax.apply_updates(cell, updates)
      >>> bool((jnp.abs(moved.kernel[...]) <= 0.1 + 1e-7).all())
      True

    References:
      S. Li, W. Li, C. Cook, C. Zhu and Y. Gao, "Independently recurrent neural network (IndRNN):
      building a longer and deeper RNN", 2018.
    """
    for name, function in (("projection", projection), ("where", where)):
        if not callable(function):
            raise TypeError(
                f"{name} must be a function; got {kind_of(function)}. "
                f"{_EXAMPLE if name == 'where' else 'Pass for example jax.nn.relu.'}"
            )

    def update(updates: Any, state: optax.EmptyState, params: Any = None) -> Any:
        if params is None:
            raise ValueError(
                "project_updates needs the parameters; got none. Call "
                "optimizer.update(gradient, state, params)."
            )
        picked = [_is_picked(path, where) for path, _ in named_leaves(params)]
        if not any(picked):
            paths = ", ".join(path for path, _ in named_leaves(params))
            raise ValueError(f"where must pick a parameter; got none of {paths}. {_EXAMPLE}")
        leaves, structure = jax.tree.flatten(updates)
        projected = [
            _projected(projection, leaf, param) if is_picked else leaf
            for leaf, param, is_picked in zip(leaves, jax.tree.leaves(params), picked, strict=True)
        ]
        return jax.tree.unflatten(structure, projected), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _is_picked(path: str, where: Callable[[str], bool]) -> bool:
    picked = where(path)
    if not isinstance(picked, bool):
        raise TypeError(
            f"where must return whether a parameter is projected; got {kind_of(picked)} for "
            f"{path!r}. {_EXAMPLE}"
        )
    return picked


def _projected(
    projection: Callable[[jax.Array], jax.Array], update: jax.Array, param: jax.Array
) -> jax.Array:
    moved = param + update
    kept = projection(moved)
    if kept.shape != moved.shape or kept.dtype != moved.dtype:
        raise ValueError(
            f"projection must keep shape and type, {moved.shape} of {moved.dtype}; got "
            f"{kept.shape} of {kept.dtype}. Project each parameter onto a set of its own space."
        )
    return kept - param
