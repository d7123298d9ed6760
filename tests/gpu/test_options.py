"""What `unroll` can be asked for, through the kernels: values, gradients and tangents.

Run in interpret mode on a CPU. On a card not run yet.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import on_card
import pytest
from flax import nnx

import rnn_jax as rj

RUN = functools.partial(rj.unroll, implementation=on_card.implementation_here(__name__))
INTERPRETED = RUN.keywords["implementation"] == "interpret"
SCAN = functools.partial(rj.unroll, implementation="scan")

T, B, H = (5, 3, 3) if INTERPRETED else (61, 20, 80)
BOUND = 2e-5

# Rows that end at once, soon, and not; sequences that start at the first and last step, and often.
LENGTHS = np.resize([0, 1, T, T - 1], B)
MASK = np.random.default_rng(0).random((B, T)) < 0.6
RESETS = np.random.default_rng(1).random((B, T)) < 0.3
RESETS[0, [0, -1]] = True

OPTIONS = {
    "return_carries": {"return_carries": True},
    "reverse": {"reverse": True},
    "lengths": {"lengths": LENGTHS},
    "mask": {"mask": MASK, "return_carries": True},
    "resets": {"resets": RESETS, "return_carries": True},
    "lengths, resets, reverse": {"lengths": LENGTHS, "resets": RESETS, "reverse": True},
    "mask, resets, reverse": {"mask": MASK, "resets": RESETS, "reverse": True},
    "checkpoint": {"checkpoint": "sqrt"},
    "checkpoint, resets": {"checkpoint": 3, "resets": RESETS, "return_carries": True},
    "truncate": {"truncate": 2},
    "truncate, checkpoint, lengths": {"truncate": 4, "checkpoint": 2, "lengths": LENGTHS},
}


def derivatives(run, initial):
    """(outputs, gradient by everything, tangent) with sequences starting from `initial`."""

    def outputs(point):
        cell, xs, carry, initial = point
        return run(cell, xs, carry, initial=initial)

    def loss(point):
        results = outputs(point)
        return sum(jnp.mean(jnp.sin(leaf)) for leaf in jax.tree.leaves(results)), results

    def all_of(*point):
        (_, results), gradient = jax.value_and_grad(loss, has_aux=True)(point)
        direction = jax.tree.map(jnp.cos, point)
        tangent = jax.jvp(outputs, (point,), (direction,))[1]
        return results, gradient, tangent

    return all_of


@pytest.mark.parametrize("options", OPTIONS.values(), ids=list(OPTIONS))
@pytest.mark.parametrize("name", ["lstm", "gru", "tanh"])
def test_option(name, options):
    cell, xs, carry = on_card.point_at(name, steps=T, batch=(B,), units=H)
    initial = jax.tree.map(lambda a: 0.5 * a[::-1], carry)
    point = (cell, xs, carry, initial)
    expected, actual = (
        run(derivatives(functools.partial(way, **options), initial), *point)
        for run, way in ((on_card.on_cpu, SCAN), (on_card.on_card, RUN))
    )
    on_card.assert_close(actual, expected, BOUND)


def test_what_lies_outside_a_sequence_changes_nothing():
    """Whatever it holds, and to the last bit."""
    cell, xs, carry = on_card.in_type(
        on_card.point_at("lstm", steps=T, batch=(B,), units=H), jnp.float32
    )

    @jax.jit
    def run(xs):
        return jax.value_and_grad(
            lambda cell: jnp.sum(RUN(cell, xs, carry, initial=carry, lengths=LENGTHS)[1])
        )(cell)

    padding = np.arange(T)[None, :, None] >= LENGTHS[:, None, None]
    one = run(xs)
    for value in (np.nan, np.inf, 1e30):
        other = run(jnp.where(padding, jnp.float32(value), xs))
        for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("make", [rj.LSTMCell, rj.GRUCell])
def test_a_learned_initial_carry_has_a_gradient(make):
    _, xs, _ = on_card.point_at("lstm", steps=T, batch=(B,), units=H)

    def learned(dtype):
        rngs = nnx.Rngs(0)
        return rj.LearnedCarry(
            make(2, H, param_dtype=dtype, rngs=rngs),
            carry_init=nnx.initializers.normal(0.5),
            rngs=rngs,
        )

    def gradient(run):
        return lambda cell, xs: jax.tree.leaves(
            jax.grad(lambda cell: jnp.sum(jnp.sin(run(cell, xs, resets=RESETS)[1])))(cell)
        )

    # The same numbers in a cell whose carries are of the other type.
    in_float32 = learned(jnp.float32)
    numbers = [leaf.astype(jnp.float64) for leaf in jax.tree.leaves(in_float32)]
    in_float64 = jax.tree.unflatten(jax.tree.structure(learned(jnp.float64)), numbers)
    expected = on_card.on_cpu(gradient(SCAN), in_float64, xs)
    on_card.assert_close(on_card.on_card(gradient(RUN), in_float32, xs), expected, BOUND)


def test_both_directions_and_layers_in_one_program():
    """Recurrences that do not depend on one another, each of which counts on the whole card."""
    points = [
        on_card.point_at("lstm", steps=T, batch=(B,), units=H, seed=seed) for seed in range(3)
    ]

    def total(run, points):
        outputs = [run(*point, reverse=bool(k & 1))[1] for k, point in enumerate(points)]
        return sum(jnp.mean(jnp.sin(ys)) for ys in outputs)

    def gradient(run):
        return lambda *points: jax.value_and_grad(functools.partial(total, run))(points)

    expected = on_card.on_cpu(gradient(SCAN), *points)
    on_card.assert_close(on_card.on_card(gradient(RUN), *points), expected, BOUND)
