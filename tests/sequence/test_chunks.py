"""Scans in chunks: on their own, inside the fused recurrence, and for a gradient in less memory."""

import functools
import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import rnn_jax as rj
from rnn_jax.sequence.running.chunks import scan_chunks
from sequence.fused import (
    IN,
    RTOL,
    H,
    assert_close,
    build,
    equations,
    has_scan,
    is_fused,
    loss,
    plain,
    point_at,
    random_like,
)

# ---- `scan_chunks` against `lax.scan`.


def body(carry, at):
    """A step that does not commute with others, on inputs and outputs of several kinds."""
    x, (flag, missing) = at["x"], at["more"]
    carry = jnp.where(flag, 0.5 * carry, -carry) + jnp.sin(x)
    return carry, {"y": jnp.cos(carry), "more": (x[0] * carry[1], missing)}


def inputs(steps):
    rng = np.random.default_rng(steps)
    flags = jnp.asarray(rng.normal(size=steps) > 0)
    return {"x": jnp.asarray(rng.normal(size=(steps, 2))), "more": (flags, None)}


def recorded(reverse, lengths):
    """A chunk that is a scan over `body`, and notes how many steps it is given."""

    def chunk(carry, xs):
        lengths.append(len(xs["x"]))
        return jax.lax.scan(body, carry, xs, reverse=reverse)

    return chunk


STEPS = 12
INTERVALS = [1, 4, 5, STEPS, STEPS + 1]


@pytest.mark.parametrize("reverse", [False, True])
def test_chunks_of_any_length_give_the_scan_and_its_gradient(reverse):
    carry, xs = jnp.asarray([0.3, -0.7]), inputs(STEPS)
    lengths = {every: [] for every in INTERVALS}

    @jax.jit
    def value_and_grad_of_each(carry, x):
        def value_and_grad(scan):
            def loss(carry, x):
                result = scan(carry, {**xs, "x": x})
                return sum(jnp.sum(jnp.sin(a)) for a in jax.tree.leaves(result)), result

            return jax.value_and_grad(loss, (0, 1), has_aux=True)(carry, x)

        chunked = {
            every: functools.partial(
                scan_chunks, recorded(reverse, lengths[every]), every=every, reverse=reverse
            )
            for every in INTERVALS
        }
        whole = value_and_grad(functools.partial(jax.lax.scan, body, reverse=reverse))
        return whole, {every: value_and_grad(scan) for every, scan in chunked.items()}

    expected, found = value_and_grad_of_each(carry, xs["x"])
    for every in INTERVALS:
        assert_close(found[every], expected)
        rest = STEPS % every
        assert set(lengths[every]) == ({min(every, STEPS)} | ({rest} if rest else set()))


@pytest.mark.parametrize("every", [1, 2])
def test_a_single_step_is_one_chunk(every):
    lengths, carry, xs = [], jnp.ones(2), inputs(1)
    actual = scan_chunks(recorded(False, lengths), carry, xs, every=every)
    assert_close(actual, jax.lax.scan(body, carry, xs))
    assert lengths == [1]


# ---- The fused recurrence, for lengths around that of its chunks.


def step_by_step(cell, xs, carry, length=None, resets=None, *, reverse=False):
    """(last, ys, carries) of one row, by the cell's own step and a choice before and after it."""
    valid = np.ones(len(xs), bool) if length is None else jnp.arange(len(xs)) < length
    starts = valid & (np.zeros(len(xs), bool) if resets is None else resets)
    own = jax.tree.map(jnp.zeros_like, carry)

    def choose(condition, one, other):
        return jax.tree.map(functools.partial(jnp.where, condition), one, other)

    def body(state, at):
        x, is_valid, is_start = at
        after, y = cell(state if reverse else choose(is_start, own, state), x)
        state = choose(is_valid, after, state)
        # Backwards a sequence is left through its first step.
        left = choose(is_start, own, state) if reverse else state
        return left, (choose(is_valid, y, jnp.zeros_like(y)), state)

    last, (ys, carries) = jax.lax.scan(body, carry, (xs, valid, starts), reverse=reverse)
    return last, ys, carries


def inner(one, other):
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return sum(np.vdot(a, b) for a, b in pairs)


def assert_agree(fused, reference, point):
    """By values, by gradients through every result, and by tangents, adjoint to the gradients."""
    assert is_fused(fused, *point)
    tangent = random_like(point)
    cotangent = random_like(jax.eval_shape(reference, *point), seed=1)

    @jax.jit
    def both(point):
        known, pull = jax.vjp(reference, *point)
        values, forward = jax.jvp(fused, point, tangent)
        back = jax.vjp(fused, *point)[1](cotangent)
        return (values, back), (known, pull(cotangent)), forward

    found, expected, forward = both(point)
    assert_close(found, expected)
    np.testing.assert_allclose(inner(forward, cotangent), inner(found[1], tangent), rtol=RTOL)


# One chunk of a few steps or many, several of one length, and 37, a prime that no chunk divides.
FORWARD = [1, 33, 37]
REVERSE = [2, 17, 37]


@pytest.mark.parametrize(
    ("steps", "reverse"), [(t, False) for t in FORWARD] + [(t, True) for t in REVERSE]
)
def test_any_number_of_steps(steps, reverse):
    run = functools.partial(rj.unroll, reverse=reverse, return_carries=True)
    assert_agree(run, functools.partial(step_by_step, reverse=reverse), point_at("tanh", steps))


class Case(NamedTuple):
    name: str
    batch: tuple[int, ...]
    lengths: bool = False
    resets: bool = False
    reverse: bool = False
    checkpoint: int | str | None = None


T = 37
ROWS = 4
CASES = [
    Case("lstm_1997", (ROWS,), reverse=True, checkpoint="sqrt"),
    Case("lstm", (ROWS,), lengths=True, resets=True),
    Case("lstm_coupled", (2, 2), lengths=True, resets=True, reverse=True, checkpoint=5),
    Case("gru_reset_after", (ROWS,), lengths=True, resets=True, checkpoint=20),
    Case("gru_reset_after", (2, 2), resets=True, reverse=True),
    Case("tanh", (), lengths=True, resets=True, reverse=True, checkpoint=1),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_boundaries_directions_batches_and_checkpoints(case):
    # An empty row, one of a single step, and resets at the first step, inside, and in the padding.
    lengths = np.resize([20, 0, 1, T], case.batch) if case.lengths else None
    marks = np.asarray([np.isin(np.arange(T), at) for at in ([0, 6, 30], [3], [0, 1], [16, 17])])
    resets = np.resize(marks, (*case.batch, T)) if case.resets else None

    def reference(cell, xs, carry):
        run = functools.partial(step_by_step, reverse=case.reverse)
        for _ in case.batch:
            axes = (None, 0, 0, *(None if b is None else 0 for b in (lengths, resets)))
            run = jax.vmap(run, axes)
        return run(cell, xs, carry, lengths, resets)

    run = functools.partial(
        rj.unroll,
        lengths=lengths,
        resets=resets,
        reverse=case.reverse,
        return_carries=True,
        checkpoint=case.checkpoint,
    )
    assert_agree(run, reference, point_at(case.name, T, *case.batch))


@pytest.mark.parametrize("reverse", [False, True])
def test_the_initial_carry_has_a_gradient_from_every_packed_sequence(reverse):
    cuts = [0, 3, 6, 9]
    cell, xs, carry = point_at("lstm", cuts[-1])

    @jax.jit
    def gradient(initial, xs, resets=None):
        def of_outputs(initial):
            options = {"initial": initial, "resets": resets, "reverse": reverse}
            return jnp.sum(jnp.sin(rj.unroll(cell, xs, **options)[1]))

        return jax.grad(of_outputs)(initial)

    packed = gradient(carry, xs, np.isin(np.arange(len(xs)), cuts))
    parts = np.asarray(xs)
    alone = [gradient(carry, parts[start:stop]) for start, stop in itertools.pairwise(cuts)]
    assert_close(packed, jax.tree.map(lambda *parts: sum(parts), *alone))


@pytest.mark.parametrize("mode", ["fwd", "rev"])
def test_derivatives_against_differences(mode):
    resets = np.asarray([True, False, True, False])
    run = jax.jit(functools.partial(rj.unroll, resets=resets, reverse=True, return_carries=True))
    check_grads(run, point_at("lstm_coupled", len(resets)), order=1, modes=(mode,))


# ---- What the gradient's program multiplies and writes.


def innermost_products(jaxpr):
    """Shapes of the results of all matrix products in loops that hold no loop."""
    for eqn, bodies in equations(jaxpr):
        if eqn.primitive.name == "scan" and not any(map(has_scan, bodies)):
            for body in bodies:
                for inside, _ in equations(body):
                    if inside.primitive.name == "dot_general":
                        yield inside.outvars[0].aval.shape


@pytest.mark.parametrize("checkpoint", [None, 12])
@pytest.mark.parametrize("name", ["lstm", "gru_reset_after", "tanh"])
def test_the_backward_loop_forms_no_gradient_of_weights(name, checkpoint):
    # A product that gives a weight's gradient sums over the sequences: no axis of its result is
    # theirs. Their number is one that no other size is equal to.
    sequences, steps = 7, 33
    cell, xs, carry = point_at(name, steps, sequences)

    def program(run):
        return jax.make_jaxpr(jax.grad(lambda cell: loss(run, cell, xs, carry)))(cell).jaxpr

    fused = program(functools.partial(rj.unroll, checkpoint=checkpoint))
    shapes = list(innermost_products(fused))
    assert shapes
    assert all(sequences in shape for shape in shapes)
    every = [e.outvars[0].aval for e, _ in equations(fused) if e.primitive.name == "dot_general"]
    assert any(sequences not in product.shape for product in every)
    assert any(sequences not in shape for shape in innermost_products(program(plain_batched)))


def plain_batched(cell, xs, carry):
    return jax.vmap(plain, (None, 0, 0))(cell, xs, carry)


# 3 and 4 chunks of 13.
@pytest.mark.parametrize(("inside", "steps"), [(True, 39), (False, 52)], ids=["cpu", "gpu"])
@pytest.mark.parametrize("name", ["lstm", "lstm_coupled", "lstm_1997"])
def test_pre_activations_of_the_whole_sequence_are_written_only_where_that_is_faster(
    name, inside, steps
):
    cell, xs, carry = point_at(name, steps)
    whole = steps * len(cell.blocks) * H

    def largest(run):
        program = jax.make_jaxpr(jax.grad(lambda *p: loss(run, *p), (0, 1, 2)))(cell, xs, carry)
        every = equations(program.jaxpr, inside)
        return max(v.aval.size for eqn, _ in every for v in eqn.outvars)

    assert (largest(rj.unroll) < whole) == inside
    assert largest(plain) >= whole


def test_a_checkpointed_gradient_needs_memory_like_the_root_of_the_steps():
    factor = 4
    few, more, most = (400 * factor**k for k in range(3))
    cell = build("lstm")

    def needed(steps, checkpoint):
        """Bytes that the gradient of a loss of the last carry holds besides what it is given."""

        def of_last(cell, xs):
            carry, _ = rj.unroll(cell, xs, checkpoint=checkpoint)
            return sum(jnp.sum(jnp.sin(part)) for part in jax.tree.leaves(carry))

        xs = jax.ShapeDtypeStruct((steps, IN), float)
        compiled = jax.jit(jax.grad(of_last)).lower(cell, xs).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    # Half-way, by logarithms, between growth like √T and like T.
    limit = factor**0.75
    root = [needed(steps, "sqrt") for steps in (few, more, most)]
    assert root[1] < limit * root[0]
    assert root[2] < limit * root[1]
    assert needed(most, None) > limit * needed(more, None)
    # Each of √T chunks begins with a carry, which must be kept.
    carry = jax.tree.leaves(cell.initialize_carry((IN,)))
    assert root[2] >= math.isqrt(most) * sum(part.nbytes for part in carry)
