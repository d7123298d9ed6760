"""The ways to run checked sequences: any cell, a fused form, a linear recurrence in parallel."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax.cells.linear import LinearForm
from rnn_jax.cells.structure import FusedForm
from rnn_jax.cells.wrappers.noise import Noise, project_with, step_with
from rnn_jax.sequence.calling import Carry
from rnn_jax.sequence.running.associative import linear_scan
from rnn_jax.sequence.running.boundaries import (
    Boundaries,
    left_backwards,
    select,
    spare_carry,
    within,
)
from rnn_jax.sequence.running.checkpointing import checkpointed
from rnn_jax.sequence.running.chunks import Chunk
from rnn_jax.sequence.running.fused_scan import fused_scan
from rnn_jax.sequence.running.scanned import Settings
from rnn_jax.sequence.running.truncation import truncated

# advance(carry, z) -> (carry after the step, y)
Advance = Callable[[Carry, Any], tuple[Carry, Any]]
# (last carry, ys, the carries after each step or None)
Done = tuple[Carry, Any, Carry | None]


# How a recurrence may be run step by step, see `unroll`.
IMPLEMENTATIONS = ("auto", "scan", "kernel", "interpret")


class Options(NamedTuple):
    """What is fixed when a call of `unroll` is compiled; see there."""

    batch_axes: int
    reverse: bool
    return_carries: bool
    every: int | None
    truncate: int | None
    implementation: str
    method: str


def scan_plain(
    cell: Any,
    xs: Any,
    start: Carry,
    initial: Carry,
    boundaries: Boundaries,
    noise: Noise,
    *,
    options: Options,
) -> Done:
    """Any cell over one sequence: (last carry, ys, carries or None)."""
    advance, zs = hoist_projection(cell, xs, noise)
    body = within(
        lambda carry, z: (*advance(carry, z), None),
        initial,
        None if boundaries.valid is None else spare_carry(initial),
        return_carries=options.return_carries,
    )

    def run(carry: Carry, inputs: Any) -> tuple[Carry, Any]:
        last, (ys, carries, _) = lax.scan(body, carry, inputs, reverse=options.reverse)
        return last, (ys, carries)

    return _run(run, start, initial, (zs, boundaries), options)


def scan_fused(
    form: FusedForm,
    xs: jax.Array,
    start: Carry,
    initial: Carry,
    boundaries: Boundaries,
    options: Options,
) -> Done:
    """A cell in fused form over all sequences at once, time first: one product a step for all."""
    time_first, time_back = _time_axis(options.batch_axes)
    xs = xs.astype(form.input_type)

    settings = Settings(
        form.mathematics,
        options.reverse,
        options.return_carries,
        options.implementation,
        precision=jax.config.jax_default_matmul_precision,  # type: ignore[attr-defined]
        product_type=form.product_type,
    )

    def run(carry: Carry, inputs: Any) -> tuple[Carry, Any]:
        xs, boundaries = inputs
        done = fused_scan(settings, form.kernels, xs, boundaries, carry, initial)
        return done.last, (done.ys, done.carries)

    last, ys, carries = _run(run, start, initial, time_first((xs, boundaries)), options)
    return last, time_back(ys), time_back(carries)


def scan_linear(
    form: LinearForm,
    methods: dict[str, str],
    zs: Any,
    start: Carry,
    initial: Carry,
    boundaries: Boundaries,
    options: Options,
) -> Done:
    """A cell that is linear in its carry, over all sequences at once, time first.

    Args:
      form: of the cell.
      methods: how the recurrence is solved, by platform; see `linear_scan`.
      zs: projected inputs, (..., T, ·).
      start, initial, boundaries, options: as for the other ways.
    """
    time_first, time_back = _time_axis(options.batch_axes)

    def run(carry: Carry, inputs: Any) -> tuple[Carry, Any]:
        zs, boundaries = inputs
        states = linear_scan(
            form.kind,
            *form.transition(zs),
            form.pack(carry),
            form.pack(initial),
            boundaries,
            reverse=options.reverse,
            methods=methods,
        )
        last = form.unpack(states[0 if options.reverse else -1])
        carries = form.unpack(states)
        # Of a skipped step nothing is read, so what is read must have a derivative: not what
        # passes by, which may be infinite.
        read, valid = carries, boundaries.valid
        if valid is not None:
            spare = jax.tree.map(
                lambda a, like: jnp.broadcast_to(a[None], like.shape), spare_carry(initial), carries
            )
            read = select(valid, carries, spare)
        ys = form.output(read, zs)
        if valid is not None:
            ys = select(valid, ys, jax.tree.map(jnp.zeros_like, ys))
        return last, (ys, carries if options.return_carries else None)

    inputs = time_first((zs, boundaries))
    last, ys, carries = _run(run, start, initial, inputs, options)
    return last, time_back(ys), time_back(carries)


def _time_axis(batch_axes: int) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Functions of pytrees that bring time before the batch axes, and back behind them."""

    def moved(tree: Any, source: int, destination: int) -> Any:
        return jax.tree.map(lambda a: jnp.moveaxis(a, source, destination), tree)

    return lambda tree: moved(tree, batch_axes, 0), lambda tree: moved(tree, 0, batch_axes)


def _run(run: Chunk, start: Carry, initial: Carry, inputs: Any, options: Options) -> Done:
    """All steps, with the memory and the reach of gradients that the options ask for."""
    reverse = options.reverse

    def piece(carry: Carry, part: Any) -> tuple[Carry, Any]:
        if options.every is None:
            return run(carry, part)
        return checkpointed(run, carry, part, every=options.every, reverse=reverse)

    stretch = left_backwards(piece, initial) if reverse else piece
    if options.truncate is None:
        last, (ys, carries) = stretch(start, inputs)
    else:
        last, (ys, carries) = truncated(
            stretch, start, inputs, every=options.truncate, reverse=reverse
        )
    return last, ys, carries


def hoist_projection(cell: Any, xs: Any, noise: Noise = None) -> tuple[Advance, Any]:
    """Splits a cell into what can be done before the loop and what cannot.

    Returns:
      (advance, zs) with advance(carry, zs[t]) equal to cell(carry, xs[t]), or to the step with the
      noise of step t if there is any.
    """
    # Step by step, because a projection of the user's own may take a whole sequence for one input.
    # What is mapped over all steps is one product all the same.
    zs = jax.vmap(functools.partial(project_with, cell))(xs, noise)
    return lambda carry, at: step_with(cell, carry, *at), (zs, noise)
