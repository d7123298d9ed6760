"""The recurrence of a fused form, its tangent and its adjoint through the kernels.

The kernels know members, steps, rows and units, and one rule for a step. Here a call becomes that:
levels of `jax.vmap` that map kernels are members, all others lie side by side as rows; what needs
no recurrence (projections before, weights' gradients after) is one product around the kernel.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax.sequence.kernels import rules
from rnn_jax.sequence.kernels.adjoint import run_adjoint
from rnn_jax.sequence.kernels.forward import run_forward
from rnn_jax.sequence.kernels.tiles import Tiles
from rnn_jax.sequence.running.boundaries import spare_carry
from rnn_jax.sequence.running.folding import Folded, fold_of
from rnn_jax.sequence.running.levels import by_operand, mapped_over
from rnn_jax.sequence.running.scanned import Inputs, Run, Settings, driven_by
from rnn_jax.sequence.running.step_rules import rule_of_recurrence, rule_of_tangent


class Launch(NamedTuple):
    """How the kernels are to be run.

    Attributes:
      tiles: see there.
      precision: of products in the kernels, one of `kernels.products.PRECISIONS`.
      interpret: whether Pallas interprets them, on a CPU.
    """

    tiles: Tiles
    precision: str
    interpret: bool


class Size(NamedTuple):
    """Of the work of a call: M, N and H, and a rule of it."""

    rule: rules.StepRule
    members: int
    rows: int
    units: int


def size_of(call: Any, avals: Sequence[Any]) -> Size:
    """The size of a call of any of the three, by the shapes of its operands."""
    if call.tangent is not None:
        record, _ = call.tangent.operands.unflatten(range(call.tangent.operands.num_leaves))
        levels = _levels_of_adjoint(call, len(jax.tree.leaves(record)), len(avals))
    else:
        operands = call.operands.unflatten(range(len(avals)))
        record = operands if isinstance(operands, Inputs) else operands[0]
        levels = by_operand(call.levels, len(avals))
    fold = fold_of(avals, record, levels)
    carry = record.carry if isinstance(record, Inputs) else record.starts
    units = avals[jax.tree.leaves(carry)[0]].shape[-1]
    rule = rule_of_tangent(call.settings.mathematics, carry, 0)
    return Size(rule, fold.members, fold.all_rows, units)


def recurrence_by_kernel(launch: Launch, call: Any, *leaves: jax.Array) -> list[jax.Array]:
    """The recurrence: leaves of a `Run`; see `run_by_scan`."""
    settings: Settings = call.settings
    numbers: Inputs = call.operands.unflatten(range(len(leaves)))
    folded = Folded(call, leaves, numbers, by_operand(call.levels, len(leaves)))
    carry, initial = folded.rows((numbers.carry, numbers.initial))
    forward = run_forward(
        rule_of_recurrence(settings.mathematics, carry),
        folded.weights(),
        tuple(folded.drives(folded.steps(numbers.xs))),
        _parts(carry),
        initial=_parts(initial) if folded.is_marked else None,
        spare=_parts(spare_carry(initial)) if folded.is_marked else None,
        marks=folded.marks,
        keep=rules.Keep(
            ys=True, carries=settings.return_carries, starts=call.record, emitted=call.record
        ),
        **launch._asdict(),
    )
    return _leaves_of(call, folded, forward)


def tangent_by_kernel(launch: Launch, call: Any, *leaves: jax.Array) -> list[jax.Array]:
    """The tangent: leaves of a `Run`; see `tangent_by_scan`."""
    settings: Settings = call.settings
    record, tangents = call.operands.unflatten(range(len(leaves)))
    folded = Folded(call, leaves, record, by_operand(call.levels, len(leaves)))
    driven = mapped_over(call.levels, functools.partial(_driven, call))(*leaves)
    carry, initial = folded.rows((tangents.carry, tangents.initial))
    forward = run_forward(
        rule_of_tangent(settings.mathematics, carry, len(jax.tree.leaves(record.saved))),
        folded.weights(),
        tuple(jax.tree.map(folded.steps_of, driven)),
        _parts(carry),
        initial=_parts(initial) if folded.is_marked else None,
        spare=_parts(jax.tree.map(jnp.zeros_like, carry)) if folded.is_marked else None,
        marks=folded.marks,
        streams=_parts(folded.steps((record.starts, record.saved, tangents.added))),
        keep=rules.Keep(ys=True, carries=settings.return_carries, starts=call.record),
        **launch._asdict(),
    )
    return _leaves_of(call, folded, forward)


def adjoint_by_kernel(launch: Launch, call: Any, *leaves: jax.Array) -> list[jax.Array]:
    """The transpose of a tangent: by leaf of its `Tangents` the cotangent."""
    of, mathematics = call.tangent, call.settings.mathematics
    record, tangents = of.operands.unflatten(range(of.operands.num_leaves))
    _, cotangents = call.operands.unflatten(range(len(leaves)))
    known = len(leaves) - len(jax.tree.leaves(cotangents))
    folded = Folded(call, leaves, record, _levels_of_adjoint(call, known, len(leaves)))
    arriving = _arriving(folded, cotangents)
    last = folded.rows(cotangents.last)
    found = run_adjoint(
        rules.transposed(rule_of_tangent(mathematics, last, len(jax.tree.leaves(record.saved)))),
        folded.weights(),
        arriving.after,
        _parts(last),
        marks=folded.marks,
        streams=_parts(folded.steps((record.starts, record.saved))),
        keep=rules.Keep(lambdas=tangents.added is not None),
        **launch._asdict(),
    )
    results = dict(enumerate(_through_products(call, known, folded, leaves, found.d_drives), known))
    entering = [
        (tangents.carry, found.d_carry, arriving.carry),
        (tangents.initial, found.d_initial, arriving.initial),
    ]
    for field, parts, others in entering:
        # Without marks no sequence starts from an initial carry.
        for k, part, other in zip(jax.tree.leaves(field), parts, others, strict=False):
            entered = folded.rows_back(part if other is None else part + other)
            results[k] = results[k] + _summed(call, entered, k)
    if tangents.added is not None:
        for k, cotangent in zip(
            jax.tree.leaves(tangents.added), jax.tree.leaves(found.lambdas), strict=True
        ):
            added = folded.steps_back(folded.without_skipped(cotangent))
            results[k] = results[k] + _summed(call, added, k)
    return [results[k] for k in sorted(results)]


class Arriving(NamedTuple):
    """Cotangents by part of what the adjoint goes back from; None where there are none.

    Attributes:
      after: of the carry after each step, (M, T, N, H).
      carry: of the carry before the first step, beside what the steps hand back, (M, N, H).
      initial: of the carry that sequences start from, likewise.
    """

    after: tuple[jax.Array | None, ...]
    carry: tuple[jax.Array | None, ...]
    initial: tuple[jax.Array | None, ...]


def _arriving(folded: Folded, cotangents: Run) -> Arriving:
    """Cotangents of a run, as cotangents of carries."""
    ys: Any
    ys, carries, starts = folded.steps((cotangents.ys, cotangents.carries, cotangents.starts))
    structure: Any = jax.tree.structure(cotangents.last)
    parts = structure.num_leaves
    after: list[Any] = [None] * parts if carries is None else list(jax.tree.leaves(carries))
    hidden = folded.mathematics.hidden(structure.unflatten(range(parts)))
    outputs = folded.without_skipped(ys)
    after[hidden] = outputs if after[hidden] is None else after[hidden] + outputs
    if starts is None:
        return Arriving(tuple(after), (None,) * parts, (None,) * parts)
    carry, initial = [], []
    for part, start in enumerate(map(folded.without_skipped, jax.tree.leaves(starts))):
        # What a step was computed from is the carry after the step before, or the initial one.
        begun, gone_on = folded.at_starts(start)
        shifted = jnp.concatenate([gone_on[:, 1:], jnp.zeros_like(gone_on[:, :1])], axis=1)
        after[part] = shifted if after[part] is None else after[part] + shifted
        carry.append(gone_on[:, 0])
        initial.append(None if begun is None else jnp.sum(begun, axis=1))
    return Arriving(tuple(after), tuple(carry), tuple(initial))


def _through_products(
    call: Any, known: int, folded: Folded, leaves: Sequence[jax.Array], d_drives: Any
) -> list[jax.Array]:
    """Cotangents of `Tangents`, leaf by leaf, from those of what drives each step."""
    of = call.tangent
    zeros = [jnp.zeros(shape, dtype) for shape, dtype in call.like]
    driven = jax.eval_shape(
        mapped_over(of.levels, functools.partial(_driven, of)),
        *(_inner(call, leaf, k) for k, leaf in enumerate(leaves[:known])),
        *zeros,
    )
    wanted = [u is not None for u in driven]
    if not any(wanted):  # Tangents of nothing but the carry and what is added to it.
        outer_sizes = folded.fold.sizes[: len(call.levels)]
        return [jnp.zeros((*outer_sizes, *zero.shape), zero.dtype) for zero in zeros]
    chosen = [folded.steps_back(d_drives[k]) for k, is_wanted in enumerate(wanted) if is_wanted]

    def one(*operands: jax.Array) -> list[jax.Array]:
        record, cotangents = operands[:known], list(operands[known:])

        def drive(*tangents: jax.Array) -> list[jax.Array]:
            mapped = mapped_over(of.levels, functools.partial(_driven, of))
            return [u for u in mapped(*record, *tangents) if u is not None]

        return list(jax.linear_transpose(drive, *zeros)(cotangents))

    outer = tuple((*level[:known], *(True for _ in chosen)) for level in call.levels)
    return mapped_over(outer, one)(*leaves[:known], *chosen)


def _inner(call: Any, leaf: jax.Array, number: int) -> Any:
    """The shape of a leaf of the record within the levels of an adjoint itself."""
    outer = sum(level[number] for level in call.levels)
    return jax.ShapeDtypeStruct(leaf.shape[outer:], leaf.dtype)


def _levels_of_adjoint(call: Any, known: int, count: int) -> list[tuple[bool, ...]]:
    """By leaf of an adjoint, the levels of itself and then those of the tangent."""
    outer = by_operand(call.levels, count)
    inner = by_operand(call.tangent.levels, call.tangent.operands.num_leaves)
    every = (True,) * len(call.tangent.levels)
    return [outer[k] + (inner[k] if k < known else every) for k in range(count)]


def _summed(call: Any, array: jax.Array, number: int) -> jax.Array:
    """Over the levels of the tangent in which its operand of this number was shared."""
    own = len(call.levels)
    shared = [own + k for k, level in enumerate(call.tangent.levels) if not level[number]]
    return jnp.sum(array, shared)


def _driven(call: Any, *leaves: jax.Array) -> tuple[jax.Array | None, ...]:
    """What enters the tangent of a call from outside the loop, by group."""
    record, tangents = call.operands.unflatten(leaves)
    form = call.settings.form(record.kernels)
    return driven_by(form, record, tangents.kernels, tangents.xs)


def _parts(tree: Any) -> tuple[jax.Array, ...]:
    return tuple(jax.tree.leaves(tree))


def _leaves_of(call: Any, folded: Folded, forward: rules.Forward) -> list[jax.Array]:
    """The leaves of a `Run`."""
    steps = [forward.ys]
    steps += forward.carries if call.settings.return_carries else ()
    steps += (*forward.starts, *forward.emitted) if call.record else ()
    return [*folded.rows_back(list(forward.last)), *folded.steps_back(steps)]
