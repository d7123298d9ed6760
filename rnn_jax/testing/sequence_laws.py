"""Laws of sequences: however one is run, it is what a loop in Python over its steps gives."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rnn_jax.sequence.inputs import is_array
from rnn_jax.testing.law import Law, NotApplicable
from rnn_jax.testing.subject import Subject, by_hand, moved_weights, on_host, stacked


def _runs_its_steps(subject: Subject) -> float:
    carries, ys = subject.path
    last, found, after = subject.unrolled(subject.cell, subject.xs, subject.carry)
    expected = jax.tree.map(lambda leaf: leaf[1:], carries)
    return subject.check_close(
        "(last carry, outputs, carries) of unroll",
        (last, found, after),
        (jax.tree.map(lambda leaf: leaf[-1], carries), ys, expected),
    )


def _is_handed_on(subject: Subject) -> float:
    """A sequence, and the same once more from where it ended."""
    carry, first, _ = subject.unrolled(subject.cell, subject.xs, subject.start)
    last, second, _ = subject.unrolled(subject.cell, subject.xs, carry)
    whole = jax.tree.map(lambda leaf: np.concatenate([leaf, leaf]), subject.xs)
    end, ys = by_hand(subject.cell, whole, subject.start)
    joined = jax.tree.map(lambda *parts: np.concatenate(parts), *on_host((first, second)))
    return subject.check_close("(last carry, outputs) of pieces", (last, joined), (end, ys))


def _keeps_boundaries(subject: Subject, reverse: bool = False) -> float:
    """Two rows: one that ends early, and two sequences packed into the other."""
    steps, short, reset = subject.steps, subject.steps - 2, subject.steps // 2
    start = None
    if not subject.owns_start:
        start = stacked([subject.start, subject.start])
    last, ys, _ = subject.unrolled(
        subject.cell,
        subject.rows,
        None,
        initial=start,
        lengths=jnp.asarray([steps, short]),
        resets=jnp.zeros((2, steps), bool).at[0, reset].set(True),
        reverse=reverse,
    )
    one, other = (jax.tree.map(lambda leaf, b=b: leaf[b], subject.rows) for b in (0, 1))
    expected = stacked(
        [
            by_hand(subject.cell, one, subject.start, reset=reset, reverse=reverse),
            by_hand(subject.cell, other, subject.start, length=short, reverse=reverse),
        ]
    )
    return subject.check_close("(last carry, outputs) of two rows", (last, ys), expected)


def _runs_backwards(subject: Subject) -> float:
    return _keeps_boundaries(subject, reverse=True)


def _runs_in_flax(subject: Subject) -> float:
    if not isinstance(subject.owner, nnx.RNNCellBase):
        raise NotApplicable("nnx.RNN takes cells of Flax's RNNCellBase")
    if not is_array(subject.xs):
        raise NotApplicable("nnx.RNN takes inputs of one array")
    if not subject.owns_start:
        raise NotApplicable("nnx.RNN asks the cell for its carry, and another was given")
    found = nnx.RNN(subject.cell)(jnp.asarray(subject.xs[None]))
    _, expected = by_hand(subject.cell, subject.xs, subject.start)
    return subject.check_close("outputs of nnx.RNN", found, expected[None])


@jax.jit
def _members(unrolled: Any, cells: Any, xs: Any, carry: Any) -> Any:
    return jax.vmap(unrolled, in_axes=(0, None, None))(cells, xs, carry)


def _is_an_ensemble(subject: Subject) -> float:
    members = [subject.cell, moved_weights(subject.cell, subject.seed + 1)]
    if not jax.tree.leaves(members[0]):
        raise NotApplicable("the cell has no arrays")
    run = jax.tree_util.Partial(subject.unrolled)
    found = _members(run, stacked(members), subject.xs, subject.carry)
    alone = [subject.unrolled(member, subject.xs, subject.carry) for member in members]
    return subject.check_close(
        "(last carry, outputs, carries) of stacked cells", found, stacked(alone)
    )


LAWS = (
    Law(
        "unroll equals steps",
        _runs_its_steps,
        "unroll gives what calling the cell step by step gives",
        "fused_form, linear_form, project or step say something else than __call__.",
    ),
    Law(
        "pieces",
        _is_handed_on,
        "a sequence in two pieces, the carry handed on, is the whole sequence",
        "the carry leaves out something that the next step needs.",
    ),
    Law(
        "lengths and resets",
        _keeps_boundaries,
        "rows that end early, and sequences packed into one row, are those sequences alone",
        "initialize_carry depends on something else than the cell and the shape of the input.",
    ),
    Law(
        "reverse",
        _runs_backwards,
        "a reversed run is the loop from the last step to the first",
        "the step depends on the position in the row by something else than the carry.",
    ),
    Law(
        "nnx.RNN",
        _runs_in_flax,
        "flax.nnx.RNN gives the outputs that unroll gives",
        "initialize_carry(input_shape, rngs) does not take Flax's arguments, or ignores the batch "
        "axes of input_shape.",
    ),
    Law(
        "ensemble",
        _is_an_ensemble,
        "cells stacked along a new axis and mapped over are the cells one by one",
        "weights are kept where jax.tree.map does not find them, or their shapes are read in "
        "Python from the stacked arrays.",
    ),
)
