"""The laws of sequences, for every kind of cell and every option, against a loop in Python.

Cutting a row and handing the carry on changes nothing; what lies outside a sequence changes
nothing, whatever it holds; and a sequence starts from the initial carry, not from `carry=`. The
loop takes one step after the other and pulls gradients back by hand, each step's by itself, so that
a skipped step is not computed at all and nothing can leak over a boundary.
"""

import functools
from typing import NamedTuple

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import rnn_jax as rj
import zoo
from sequence.running import one_step

IN, H, T, CUT, ROWS = 2, 3, 5, 2, 2
CLOSE = {"rtol": 1e-10, "atol": 1e-12}


def learned(seed):
    cell = rj.LearnedCarry(zoo.CELLS["gru_reset_after"](IN, H, seed), rngs=nnx.Rngs(seed))
    cell.initial["h"][...] = jnp.asarray(np.random.default_rng(seed).normal(size=H))
    return cell


def stacked(seed):
    learned = rj.LearnedCarry(
        zoo.CELLS["lstm"](IN, H, seed), carry_init="ones", rngs=nnx.Rngs(seed)
    )
    return rj.StackedCell([learned, zoo.CELLS["simple_tanh"](H, H, seed)])


CELLS = {
    **{name: functools.partial(zoo.CELLS[name], IN, H) for name in zoo.CELLS},
    "learned_carry": learned,
    "stack": stacked,
    "zoneout": lambda seed: rj.Zoneout(zoo.CELLS["lstm"](IN, H, seed), {"c": 0.5, "h": 0.1}),
}


class Case(NamedTuple):
    """A cell and what is fixed when it is compiled."""

    cell: str
    reverse: bool
    lengths: bool = False
    explicit: bool = False  # Sequences start from `initial=`.
    checkpoint: int | str | None = None
    truncate: int | None = None


# Cells in fused form, scanned, in wrappers and of other libraries; each option both ways in time.
CASES = [
    Case("simple_tanh", False, explicit=True),
    Case("lstm", True, explicit=True, truncate=2),
    Case("gru_reset_after", True, lengths=True, checkpoint=2),
    Case("lstm_peephole", False, explicit=True, checkpoint="sqrt"),
    Case("lstm_peephole", True, lengths=True, truncate=2),
    Case("learned_carry", True, truncate=1),
    Case("stack", False, lengths=True),
    Case("zoneout", True, explicit=True, checkpoint=1),
    Case("nnx_gru", False),
    Case("dict_readout", False, explicit=True, truncate=1),
]


@functools.cache
def built(name):
    if name in CELLS:
        return CELLS[name](1), None
    return zoo.build(name, IN, H, 1)


def initial_of(cell, fallback):
    return fallback if fallback is not None else cell.initialize_carry((IN,), nnx.Rngs(0))


# ---- The loop.


@jax.jit
def pull_step(cell, carry, x, cotangents):
    return jax.vjp(lambda *at: at[0](*at[1:]), cell, carry, x)[1](cotangents)


@jax.jit
def pull_initial(cell, cotangent):
    return jax.vjp(lambda cell: initial_of(cell, None), cell)[1](cotangent)[0]


def added(one, other):
    return jax.tree.map(np.add, one, other)


def zeros(tree):
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), tree)


def events(case, mask, resets):
    """What happens along a row, in order: ("step", t), ("start", None) or ("cut", None)."""
    order = range(T)[::-1] if case.reverse else range(T)
    previous = None
    for t in order:
        stretch = t // (case.truncate or T)
        if previous is not None and stretch != previous:
            yield "cut", None
        previous = stretch
        if resets[t] and not case.reverse:
            yield "start", None
        if mask[t]:
            yield "step", t
        if resets[t] and case.reverse:
            yield "start", None


def by_loop(case, cell, xs, carry, initial, mask, resets, output, cotangents):
    """((last, ys), gradients by cell, xs, carry and initial) of one row."""
    state, tape, ys = carry, [], np.zeros((T, *output))
    for what, t in events(case, mask, resets):
        tape.append((what, t, state))
        if what == "start":
            state = initial
        elif what == "step":
            state, ys[t] = one_step(cell, state, xs[t])
    d_last, d_ys = cotangents
    d_cell, d_xs, d_initial, d_state = zeros(cell), np.zeros(xs.shape), zeros(initial), d_last
    for what, t, before in reversed(tape):
        if what == "step":
            d_cell_t, d_state, d_xs[t] = pull_step(cell, before, xs[t], (d_state, d_ys[t]))
            d_cell = added(d_cell, d_cell_t)
        elif what == "start":
            d_initial = added(d_initial, d_state)
            d_state = zeros(d_state)
        else:
            d_state = zeros(d_state)
    # A carry comes from the stretch before.
    d_carry = d_state if case.truncate is None else zeros(d_state)
    return (state, ys), (d_cell, d_xs, d_carry, d_initial)


def is_read(case, mask, resets):
    """Whether anything comes of the carry that a row goes on from."""
    for what, _ in events(case, mask, resets):
        if what != "cut":
            return what == "step"
    return True


# ---- `unroll`, whole and cut.


@functools.partial(jax.jit, static_argnames="case")
def both_ways(case, cell, xs, carry, initial, mask, resets, cotangents):
    """[(results, gradients)] of the whole row and of the row in two pieces."""

    def unroll(cell, xs, carry, initial, mask, resets):
        options = {"resets": resets, "reverse": case.reverse}
        if case.lengths:
            options["lengths"] = jnp.sum(mask, axis=-1)
        else:
            options["mask"] = mask
        if case.explicit:
            options["initial"] = initial
        if case.checkpoint:
            options["checkpoint"] = case.checkpoint
        last, ys, carries = rj.unroll(
            cell, xs, carry, truncate=case.truncate, return_carries=True, **options
        )
        return last, ys, carries

    def whole(cell, xs, carry, initial):
        return unroll(cell, xs, carry, initial, mask, resets)

    def cut(cell, xs, carry, initial):
        pieces = [slice(0, CUT), slice(CUT, T)][:: -1 if case.reverse else 1]
        outputs = []
        for piece in pieces:
            part = (xs[:, piece], carry, initial, mask[:, piece], resets[:, piece])
            carry, *found = unroll(cell, *part)
            outputs.append(found)
        outputs = outputs[:: -1 if case.reverse else 1]
        return carry, *jax.tree.map(lambda *ys: jnp.concatenate(ys, axis=1), *outputs)

    results = []
    for run in (whole, cut):
        values, pull = jax.vjp(run, cell, xs, carry, initial)
        of_carries = jax.tree.map(jnp.zeros_like, values[2])
        results.append((values, pull((*cotangents, of_carries))))
    return results


def random_like(tree, rng):
    return jax.tree.map(lambda leaf: rng.normal(size=(ROWS, *jnp.shape(leaf))), tree)


def at(tree, row):
    return jax.tree.map(lambda leaf: np.asarray(leaf)[row], tree)


def leaves(tree):
    return list(map(np.asarray, jax.tree.leaves(tree)))


def assert_close(one, other):
    chex.assert_trees_all_close(leaves(one), leaves(other), **CLOSE)


bits = st.lists(st.lists(st.booleans(), min_size=T, max_size=T), min_size=ROWS, max_size=ROWS)


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
@hypothesis.given(
    mask=bits.map(np.asarray),
    resets=bits.map(np.asarray),
    seed=st.integers(0, 99),
    filler=st.sampled_from([np.nan, np.inf, -1e300]),
)
def test_a_row_is_its_sequences_each_by_itself_whole_or_cut(case, mask, resets, seed, filler):
    rng = np.random.default_rng(seed)
    cell, own = built(case.cell)
    like = initial_of(cell, own)
    carry, initial, xs = (
        random_like(like, rng),
        random_like(like, rng),
        rng.normal(size=(ROWS, T, IN)),
    )
    _, y = jax.eval_shape(cell, like, xs[0, 0])
    cotangents = random_like(like, rng), rng.normal(size=(ROWS, T, *y.shape))
    if not case.explicit:
        initial = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (ROWS, *leaf.shape)), like)
    if case.lengths:
        mask = np.sort(mask, axis=-1)[:, ::-1]
    # A row ends at its length: what is marked beyond it does not count.
    counted = resets & mask if case.lengths else resets

    # What must not matter: inputs at padding, and a carry from which nothing goes on.
    read = np.asarray([is_read(case, mask[row], counted[row]) for row in range(ROWS)])
    spoilt_xs = np.where(mask[..., None], xs, filler)
    spoilt_carry = jax.tree.map(
        lambda leaf: np.where(read.reshape(ROWS, *[1] * (leaf.ndim - 1)), leaf, filler), carry
    )
    ways = both_ways(case, cell, spoilt_xs, spoilt_carry, initial, mask, resets, cotangents)

    by_cell = zeros(cell)
    for row in range(ROWS):
        arguments = (xs[row], at(carry, row), at(initial, row), mask[row], counted[row])
        expected = by_loop(case, cell, *arguments, y.shape, at(cotangents, row))
        (state, outputs), (of_cell, of_xs, of_carry, of_initial) = expected
        of_start = (
            pull_initial(cell, of_initial) if not case.explicit and own is None else zeros(cell)
        )
        by_cell = added(by_cell, added(of_cell, of_start))
        for (last, ys, _), (_, by_xs, by_carry, by_initial) in ways:
            assert_close(at(last, row), state)
            assert_close(ys[row], outputs)
            np.testing.assert_array_equal(by_xs[row][~mask[row]], 0.0)
            assert_close(by_xs[row], of_xs)
            assert_close(at(by_carry, row), of_carry)
            if case.explicit:
                assert_close(at(by_initial, row), of_initial)
    for _, gradients in ways:
        assert_close(gradients[0], by_cell)
    assert_close(*ways)  # The carries after each step, too.
