"""Noise in a cell's recurrence, drawn before the loop and handed to the steps.

A cell with noise of its own has three methods beside `project` and `step`, and `unroll` calls them
instead of these two when it is given a key:

noise(key, steps)              → n, a pytree of arrays with a leading axis T; no leaves: no noise
noisy_project(x, n)            → z, all that depends on input and noise alone, for any leading axes
noisy_step(carry, z_t, n_t)    → (carry, y)

The noise of step t depends on the key and on t alone: neither on the number of steps, nor on
lengths, resets or the direction of time. A cell whose call is not its two halves (one that is none
of this package's, or overrides `__call__`) has no projection, with noise or without, so its
`noisy_step` takes x_t for z_t.

Noise is no other way to say what a step says, it is a step of its own. So a cell that draws some
and overrides `step`, `project` or `__call__` must say what becomes of its noisy counterpart.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from rnn_jax.cells.claims import holds, owner_of, splits_call
from rnn_jax.checks import check_rate

Carry = Any
Noise = Any


class NoisyCell(Protocol):
    """A cell of this package whose recurrence takes noise; see the head of this file."""

    def noise(self, key: jax.Array, steps: int) -> Noise:
        """What one sequence of so many steps needs, each leaf with a leading axis T."""

    def noisy_project(self, x: jax.Array, noise: Noise) -> Any:
        """All that depends on the input and the noise alone."""

    def noisy_step(self, carry: Carry, z: Any, noise: Noise) -> tuple[Carry, Any]:
        """One step, from a projected input and the noise of that step."""


def draw_noise(cell: Any, key: jax.Array, steps: int) -> Noise:
    """The noise of any cell for one sequence; None for a cell that has none.

    Raises:
      TypeError: the cell draws noise for another step than its own.
    """
    owner = owner_of(cell)
    if not holds(owner, "noisy_step", of=()):
        return None
    noise = owner.noise(key, steps)
    if has_noise(noise):
        _check_counterparts(owner)
    return noise


def has_noise(noise: Noise) -> bool:
    """Whether anything was drawn."""
    return bool(jax.tree.leaves(noise))


def project_with(cell: Any, x: jax.Array, noise: Noise) -> Any:
    """What of a step depends on x alone, with the cell's noise if it has any; else x itself."""
    if not splits_call(cell):
        return x
    return cell.noisy_project(x, noise) if has_noise(noise) else cell.project(x)


def step_with(cell: Any, carry: Carry, z: Any, noise: Noise) -> tuple[Carry, Any]:
    """The rest of a step, from what `project_with` gave."""
    if has_noise(noise):
        return owner_of(cell).noisy_step(carry, z, noise)
    return cell.step(carry, z) if splits_call(cell) else cell(carry, z)


def _check_counterparts(owner: Any) -> None:
    counterparts: dict[str, tuple[str, ...]] = {"noisy_step": ("step", "__call__")}
    if splits_call(owner):
        counterparts["noisy_project"] = ("project",)
    for noisy, plain in counterparts.items():
        if not holds(owner, noisy, of=plain):
            raise TypeError(
                "a cell that draws noise must say what its own step is with noise; got a "
                f"{type(owner).__name__} with another {' or '.join(plain)} than that which its "
                f"{noisy} was written for. Override {noisy} beside it, or leave out key=."
            )


def drawn_by_step(
    key: jax.Array, probabilities: tuple[float, ...], steps: int, shapes: Sequence[tuple[int, ...]]
) -> tuple[jax.Array | None, ...]:
    """True with each of these probabilities, independently, by step.

    Args:
      key: a random key.
      probabilities: one for each shape.
      steps: T.
      shapes: of the booleans of one step.

    Returns:
      Booleans (T, *shape) for each shape; None where the probability is 0.
    """
    drawn = [k for k, probability in enumerate(probabilities) if probability]
    sizes = [math.prod(shapes[k]) for k in drawn]
    wanted = [
        jnp.full(size, probabilities[k], jnp.float32) for k, size in zip(drawn, sizes, strict=True)
    ]
    if not drawn:
        return (None,) * len(probabilities)
    chances, cuts = jnp.concatenate(wanted), list(itertools.accumulate(sizes))[:-1]

    # One key for each step: a sequence that is padded to another length draws the same.
    def at_step(step: jax.Array) -> list[jax.Array]:
        found = jax.random.bernoulli(jax.random.fold_in(key, step), chances, chances.shape)
        return jnp.split(found, cuts)

    parts = dict(zip(drawn, jax.vmap(at_step)(jnp.arange(steps)), strict=True))
    return tuple(
        parts[k].reshape(steps, *shape) if k in parts else None for k, shape in enumerate(shapes)
    )


def dropped(x: jax.Array, drop: jax.Array, rate: float) -> jax.Array:
    """x / (1 − rate), and 0 where dropped, so that the expectation is x."""
    return jnp.where(drop, jnp.zeros_like(x), x / (1 - rate))


def rates_by_part(name: str, rate: Any, form: Carry, parts: tuple[str, ...]) -> tuple[float, ...]:
    """The rate of each leaf of a carry, checked.

    Args:
      name: of the argument.
      rate: one number, numbers by name of a part, or numbers in the structure of the carry.
      form: shapes and types of the carry.
      parts: the names of its leaves.
    """
    structures: list[Any] = [jax.tree.structure(rate), jax.tree.structure(form)]
    if jax.tree_util.treedef_is_leaf(structures[0]):
        rates = (check_rate(name, rate),) * len(parts)
    elif structures[0] == structures[1]:
        leaves = jax.tree.leaves(rate)
        named = zip(parts, leaves, strict=True)
        rates = tuple(check_rate(f"{name}[{part!r}]", value) for part, value in named)
    elif isinstance(rate, Mapping):
        unknown = [key for key in rate if key not in parts]
        if unknown:
            raise ValueError(
                f"{name} must name parts of the cell's carry, {', '.join(map(repr, parts))}; got "
                f"{unknown[0]!r}. Pass one number for all parts, or name these."
            )
        rates = tuple(check_rate(f"{name}[{part!r}]", rate.get(part, 0.0)) for part in parts)
    else:
        raise ValueError(
            f"{name} must be one number, a dict by part of the carry, or of the carry's structure, "
            f"{structures[1]}; got {structures[0]}. The parts are {', '.join(map(repr, parts))}."
        )
    for part, value, leaf in zip(parts, rates, jax.tree.leaves(form), strict=True):
        if value and not jnp.issubdtype(leaf.dtype, jnp.inexact):
            others = ", ".join(f"{other!r}: {value}" for other in parts if other != part)
            raise TypeError(
                f"{name} needs parts of the carry that hold floats; got {value} for {part!r}, "
                f"which holds {leaf.dtype}. Name the others: {name}={{{others}}}."
            )
    return rates
