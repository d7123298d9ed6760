"""Gradient norms: of all parameters in any precision, and by parameter group within a chain."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rnn_jax.checks import kind_of
from rnn_jax.training.disk.checkpoints import named_leaves

_EXAMPLE = 'Pass for example lambda path: path.split(".")[0].'


class GradientNorms(NamedTuple):
    """State of `record_gradient_norms`.

    Attributes:
      norms: global norm of the last gradient by group, each (), in float32 or wider.
      steps: gradients seen.
    """

    norms: dict[str, jax.Array]
    steps: jax.Array


def record_gradient_norms(
    group: Callable[[str], str] | None = None,
) -> optax.GradientTransformation:
    """An optax transformation that passes gradients through unchanged and keeps their norms.

    norm of a group = √(Σ over its arrays ‖g‖²)

    Put it first in a chain for the norms of the gradients, or later for what they have become:
    optax.chain(record_gradient_norms(), optax.adam(1e-3)).

    Args:
      group: from the path of an array, such as "cells.0.recurrent_kernel", to the name of its
        group; None is a group for each array.

    Returns:
      An `optax.GradientTransformation`; `recorded_gradient_norms` reads its state.

    Raises:
      TypeError: `group` is no function, or what it returns is no name; the latter at `init`.

    Example:
      >>> optimizer = optax.chain(rj.record_gradient_norms(), optax.adam(1e-3))
      >>> state = optimizer.init(cell)
      >>> gradient = jax.grad(lambda cell: rj.unroll(cell, xs)[1].sum())(cell)
      >>> _, state = optimizer.update(gradient, state)
      >>> sorted(rj.recorded_gradient_norms(state))
      ['bias', 'candidate_recurrent_bias', 'kernel', 'recurrent_kernel']
    """
    if group is not None and not callable(group):
        raise TypeError(
            "group must be a function from the path of an array to the name of its group; got "
            f"{kind_of(group)}. {_EXAMPLE}"
        )
    name_of = (lambda path: path) if group is None else _checked(group)

    def init(params: Any) -> GradientNorms:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return GradientNorms(_norms(zeros, name_of), jnp.int32(0))

    def update(gradient: Any, state: GradientNorms, params: Any = None) -> Any:
        return gradient, GradientNorms(_norms(gradient, name_of), state.steps + 1)

    return optax.GradientTransformation(init, update)


def recorded_gradient_norms(optimizer_state: Any) -> dict[str, jax.Array]:
    """The norms of the last gradient, by group, from the state of a whole chain.

    Args:
      optimizer_state: of an optimiser with one `record_gradient_norms` in it.

    Raises:
      ValueError: there is none, or there are several.

    Example:
      >>> optimizer = rj.record_gradient_norms(lambda path: "all")
      >>> _, state = optimizer.update(cell, optimizer.init(cell))  # Weights for a gradient
      >>> norms = rj.recorded_gradient_norms(state)
      >>> bool(jnp.allclose(norms["all"], optax.tree.norm(cell)))
      True
    """
    found = [
        node
        for node in jax.tree.leaves(optimizer_state, is_leaf=_is_record)
        if isinstance(node, GradientNorms)
    ]
    if len(found) != 1:
        raise ValueError(
            "the optimiser must have one record_gradient_norms in it; got "
            f"{len(found)}. Build it as optax.chain(record_gradient_norms(), optax.adam(1e-3))."
        )
    return found[0].norms


def global_norm(leaves: Sequence[jax.Array]) -> jax.Array:
    """√(Σ over the arrays ‖g‖²), () in float32 or wider; inf or NaN where an element is.

    Squares of ordinary float16 numbers leave its range, and those of float32 numbers beyond 1e19
    leave theirs, so the largest element is taken out before anything is squared.
    """
    sizes = [jnp.abs(leaf) for leaf in leaves if leaf.size]
    # By hand, so that the user's choice of strict promotion does not matter.
    widest = any(size.dtype == jnp.float64 for size in sizes)
    dtype = jnp.dtype(jnp.float64 if widest else jnp.float32)
    wide = [size.astype(dtype) for size in sizes]
    if not wide:
        return jnp.zeros((), dtype)
    largest = jnp.max(jnp.stack([jnp.max(leaf) for leaf in wide]))
    divisible = (largest > 0) & jnp.isfinite(largest)
    scale = jnp.where(divisible, largest, jnp.ones((), dtype))
    squares = jnp.stack([jnp.sum(jnp.square(leaf / scale)) for leaf in wide])
    return scale * jnp.sqrt(jnp.sum(squares))


def _checked(group: Callable[[str], str]) -> Callable[[str], str]:
    def name_of(path: str) -> str:
        name = group(path)
        if not isinstance(name, str):
            raise TypeError(
                f"group must return the name of a group for each path; got {kind_of(name)} for "
                f"{path!r}. {_EXAMPLE}"
            )
        return name

    return name_of


def _is_record(node: Any) -> bool:
    return isinstance(node, GradientNorms)


def _norms(tree: Any, name_of: Callable[[str], str]) -> dict[str, jax.Array]:
    groups: dict[str, list[jax.Array]] = {}
    for path, leaf in named_leaves(tree):
        groups.setdefault(name_of(path), []).append(leaf)
    return {name: global_norm(leaves) for name, leaves in groups.items()}
