"""The clockwork network: equations, clock, who sees whom, and identity rows between ticks."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from transcribed import (
    CLOSE,
    IN,
    XS,
    H,
    assert_follows,
    assert_keeps_its_types,
    noisy,
)

import rnn_jax as rj
from refusing import refuses, table

FORMS = {
    "default": {},
    "uneven": {"periods": (2, 3), "activation": "relu"},
}
EVERY = pytest.mark.parametrize("name", FORMS)


def make(size=H, **options):
    return rj.ClockworkRNNCell(IN, size, rngs=nnx.Rngs(0), **options)


def start(cell, t=0.0, seed=3):
    """A random state and a clock; whole numbers, as clocks are."""
    h = np.random.default_rng(seed).uniform(-1, 1, cell.hidden_features)
    return jnp.asarray(h), jnp.full((1,), t)


def oracle(periods, sizes, phi):
    """Module by module, each with its own product, from a clock that is never set back."""
    ends = np.cumsum(sizes)
    cycle = int(np.lcm.reduce(periods))

    def step(w, carry, x, xp):
        h, t = carry
        t = jax.lax.stop_gradient(t) if xp is jnp else t
        parts = []
        for period, size, end in zip(periods, sizes, ends, strict=True):
            own = slice(end - size, end)
            # Its own module and slower ones, which come after it.
            seen = h[own.start :] @ w["recurrent_kernel"][own.start :, own]
            value = phi(x @ w["kernel"][:, own] + seen + w["bias"][own], xp)
            parts.append(xp.where(t % period == 0, value, h[own]))
        h = xp.concatenate(parts)
        return (h, (t + 1) % cycle), h

    return step


ORACLES = {
    "default": oracle((1, 2, 4), (1, 1, 1), lambda v, xp: xp.tanh(v)),
    "uneven": oracle((2, 3), (2, 1), lambda v, xp: xp.maximum(v, 0)),
}


@EVERY
def test_it_is_its_equations(name):
    cell = noisy(make(**FORMS[name]))
    assert_follows(cell, ORACLES[name], start(cell, t=1.0))


@EVERY
def test_products_may_be_narrower_than_the_carry(name):
    assert_keeps_its_types(lambda **types: make(**FORMS[name], **types))


def test_a_module_of_period_1_alone_is_the_simple_network():
    cell, simple = noisy(make(periods=(1,))), rj.SimpleRNNCell(IN, H, rngs=nnx.Rngs(0))
    for name in ("kernel", "recurrent_kernel", "bias"):
        getattr(simple, name)[...] = getattr(cell, name)[...]
    np.testing.assert_allclose(
        rj.unroll(cell, jnp.asarray(XS))[1], rj.unroll(simple, jnp.asarray(XS))[1], **CLOSE
    )


def test_modules_are_evaluated_at_their_periods_from_the_first_step_on():
    cell = noisy(make(5, periods=(1, 3)))
    np.testing.assert_array_equal(cell.unit_periods, [1, 1, 1, 3, 3])
    assert cell.cycle == 3
    steps = 12
    xs = jnp.asarray(np.random.default_rng(1).normal(size=(steps, IN)))
    (_, t), hs = rj.unroll(cell, xs)
    changed = np.diff(np.concatenate([np.zeros((1, 5)), hs]), axis=0) != 0
    np.testing.assert_array_equal(changed[:, :3], True)
    np.testing.assert_array_equal(changed[:, 3:].T, [np.arange(steps) % 3 == 0] * 2)
    np.testing.assert_array_equal(t, [0.0])
    # And from the start of each sequence that is packed into a row.
    _, cut = rj.unroll(cell, xs, resets=jnp.arange(steps) == 4)
    np.testing.assert_allclose(cut[4:], rj.unroll(cell, xs[4:])[1], **CLOSE)


def test_the_clock_is_exact_in_sequences_of_any_length_and_in_half_precision():
    cell = make(9, param_dtype=jnp.bfloat16)
    assert cell.periods == (1, 2, 4, 8, 16, 32, 64, 128)
    steps = 1000
    (_, t), _ = rj.unroll(cell, jnp.zeros((steps, IN), jnp.bfloat16))
    assert t.dtype == jnp.bfloat16
    assert float(t[0]) == steps % 128


def test_fast_modules_see_slow_ones_and_not_the_other_way_around():
    cell = make(4, periods=(1, 2, 4, 8), recurrent_kernel_init="ones")
    np.testing.assert_array_equal(cell.transition_kernel(), np.tril(np.ones((4, 4))))
    np.testing.assert_array_equal(cell.recurrent_kernel[...], np.tril(np.ones((4, 4))))
    # From a change of one unit, all that is ever reached are units of its period or faster ones.
    reached = np.asarray(rj.state_jacobian(noisy(cell), jnp.asarray(XS), start(cell)))
    reached = reached[-1, :4, 0, :4] != 0
    np.testing.assert_array_equal(reached & np.tril(np.ones((4, 4), bool), -1), False)
    assert reached[0, 3]


def test_rows_between_ticks_are_rows_of_the_identity():
    cell = noisy(make(4, periods=(1, 2, 4, 8)))
    run = rj.linearize(cell, jnp.asarray(XS), start(cell))
    kernel = np.asarray(cell.transition_kernel())
    for t, a in enumerate(np.asarray(run.state_jacobians)):
        y = np.asarray(run.outputs[t])
        ticks = t % np.asarray(cell.periods) == 0
        expected = np.where(ticks[:, None], (1 - y**2)[:, None] * kernel.T, np.eye(4))
        np.testing.assert_allclose(a[:4, :4], expected, **CLOSE)
        # The clock moves nothing, and is moved by nothing.
        assert not np.any(a[4])
        assert not np.any(a[:, 4])


def test_exponents_are_those_of_the_state_and_one_of_the_clock():
    """Of a linear cell exactly: W_h is triangular, so a unit grows by its own weight a tick."""
    cell = make(3, periods=(1, 2, 4), activation="identity")
    own = np.asarray([0.9, 0.5, 0.7])
    off = np.tril(np.full((3, 3), 0.3), -1)
    cell.recurrent_kernel[...] = jnp.asarray(np.diag(own) + off)
    found = rj.lyapunov_exponents(cell, jnp.zeros((4000, IN)), warmup=400).exponents
    expected = np.sort(np.log(own) / [1, 2, 4])[::-1]
    np.testing.assert_allclose(found[:3], expected, atol=1e-3)
    assert found[3] == -np.inf


def test_what_is_not_used_has_no_part_in_values_and_gradients():
    cell = make(4, periods=(1, 2, 4, 8))
    full, xs = noisy(cell), jnp.asarray(XS)
    used = nnx.clone(full)
    used.recurrent_kernel[...] = full.transition_kernel()
    np.testing.assert_array_equal(rj.unroll(full, xs)[1], rj.unroll(used, xs)[1])
    carry = start(cell)
    of = jax.grad(lambda c: jnp.sum(rj.unroll(c, xs, carry)[1]))(full)
    gradient = of.recurrent_kernel[...]
    np.testing.assert_array_equal(np.asarray(gradient) != 0, ~unused(cell))


def unused(cell):
    periods = cell.unit_periods
    return periods[:, None] < periods[None]


def test_initial_weights_and_carry():
    cell = make(400)
    used = ~unused(cell)
    for draw in (cell.kernel[...], np.asarray(cell.recurrent_kernel[...])[used]):
        np.testing.assert_allclose(np.std(draw), 0.1, rtol=0.1)
    assert not np.any(cell.bias[...])
    h, t = cell.initialize_carry((2, IN), nnx.Rngs(0), jax.nn.initializers.normal(1.0))
    assert np.all(h != 0)
    np.testing.assert_array_equal(t, np.zeros((2, 1)))
    assert make(2).periods == (1, 2)
    for twin in (pickle.loads(pickle.dumps(cell)), copy.deepcopy(cell)):
        assert twin.periods == cell.periods


@table(
    falls=(lambda: make(periods=(2, 1)), ValueError, "periods must rise", "[2, 1]", "Pass"),
    twice=(lambda: make(periods=(1, 1)), ValueError, "periods must rise", "[1, 1]", "Pass"),
    none=(lambda: make(periods=()), ValueError, "periods must rise", "[]", "Pass"),
    zero=(lambda: make(periods=(0, 1)), ValueError, "periods must be at least 1", "got 0", "Pass"),
    half=(lambda: make(periods=(1, 2.5)), TypeError, "periods must be a whole number", "2.5"),
    one=(lambda: make(periods=3), TypeError, "periods must be a sequence", "got 3", "Pass"),
    many=(
        lambda: make(periods=(1, 2, 3, 4)),
        ValueError,
        "periods must be at most one for each unit",
        "got 4 of them for hidden_features=3",
        "Pass fewer",
    ),
    long=(
        lambda: make(periods=(1, 16, 17), param_dtype=jnp.bfloat16),
        ValueError,
        "periods must have a least common multiple of at most 256",
        "got 272",
        "Pass periods",
    ),
    carry=(
        lambda: make()(jnp.zeros(H), jnp.zeros(IN)),
        ValueError,
        "carry must be (h, t), h of shape (3,), t of shape (1,)",
        "got (3,)",
        "Start from",
    ),
)
def test_what_it_refuses(call, error, words):
    refuses(call, error, *words)
