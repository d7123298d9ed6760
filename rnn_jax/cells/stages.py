"""A step of a cell in fused form, stage by stage: values, and tangents.

Whoever runs a form says by `Products` how states meet weights. Axes before the last may be rows,
steps, or both.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax.cells.structure import (
    Blocks,
    Carry,
    EarlyStage,
    FusedForm,
    Group,
    Mathematics,
    Stage,
    Stages,
    affine,
    groups_of,
    seen,
    split_blocks,
    stages_of,
)

# (number of a group, the state that it sees or None) -> pre-activations (..., blocks · H).
Products = Callable[[int, jax.Array | None], jax.Array]
# What a step saves, stage by stage.
Saved = tuple[Blocks, ...]


def advance_step(mathematics: Mathematics, start: Carry, products: Products) -> tuple[Carry, Saved]:
    """(the carry after a step from `start`, what its tangent needs)."""
    saved = []
    for stage, numbers in _numbered(mathematics):
        pre = _pre_activations(mathematics, stage, numbers, start, products)
        start, kept = stage.advance(start, pre)
        saved.append(kept)
    return start, tuple(saved)


def tangent_step(
    mathematics: Mathematics, coefficients: Any, start: Carry, products: Products
) -> Carry:
    """The tangent after a step from that of `start`; `products` gives tangents, too."""
    for (stage, numbers), linear in zip(_numbered(mathematics), coefficients, strict=True):
        pre = _pre_activations(mathematics, stage, numbers, start, products)
        start = stage.tangent(linear, start, pre)
    return start


def coefficients_of(mathematics: Mathematics, start: Carry, saved: Saved) -> tuple[Any, ...]:
    """What `tangent_step` is linear with, by stage."""
    starts = _starts_of_stages(mathematics, start, saved)
    return tuple(
        stage.coefficients(of, kept)
        for stage, of, kept in zip(stages_of(mathematics), starts, saved, strict=True)
    )


def states_seen(mathematics: Mathematics, start: Carry, saved: Saved) -> list[jax.Array | None]:
    """By group the state that it saw in a step; None if it sees none."""
    starts = _starts_of_stages(mathematics, start, saved)
    return [
        _state(mathematics, group, of)
        for stage, of in zip(stages_of(mathematics), starts, strict=True)
        for group in stage.groups
    ]


def products_at(form: FusedForm, x: jax.Array) -> Products:
    """[h, x, 1] K, one product for each group."""
    groups, kind = groups_of(form.mathematics), form.product_type
    return lambda k, h: affine(seen(groups[k], h, x, kind), form.kernels[k], kind)


def _starts_of_stages(mathematics: Mathematics, start: Carry, saved: Saved) -> list[Any]:
    """What each stage began with."""
    starts = [start]
    early: tuple[EarlyStage, ...] = mathematics.early if isinstance(mathematics, Stages) else ()
    for stage, kept in zip(early, saved, strict=False):
        starts.append(stage.after(starts[-1], kept))
    return starts


def _numbered(mathematics: Mathematics) -> Iterator[tuple[Stage, range]]:
    """Each stage with the numbers of its groups among those of all."""
    first = 0
    for stage in stages_of(mathematics):
        yield stage, range(first, first + len(stage.groups))
        first += len(stage.groups)


def _pre_activations(
    mathematics: Mathematics, stage: Stage, numbers: range, start: Any, products: Products
) -> Blocks:
    grouped = [
        products(k, _state(mathematics, group, start))
        for k, group in zip(numbers, stage.groups, strict=True)
    ]
    return split_blocks(stage.groups, grouped)


def _state(mathematics: Mathematics, group: Group, start: Any) -> jax.Array | None:
    """The state that a group sees of what its stage begins with; None if it sees none."""
    if not group.sees_state:
        return None
    if group.parts is None:
        return mathematics.hidden(start)
    parts = [start[part] for part in group.parts]
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1)
