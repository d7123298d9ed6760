"""The echo state network: equations, weights that nothing moves, and that states are forgotten."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from transcribed import (
    CLOSE,
    IN,
    XS,
    H,
    assert_keeps_its_types,
    by_hand,
    random_carry,
    value_of,
)

import rnn_jax as rj
from refusing import refuses, table
from rnn_jax.cells.echo_state import Fixed

WEIGHTS = ("kernel", "recurrent_kernel", "bias")
FORMS = {"default": {}, "leaky": {"leak_rate": 0.3, "bias_scaling": 0.5, "density": 0.7}}
EVERY = pytest.mark.parametrize("name", FORMS)


def make(size=H, **options):
    return rj.EchoStateCell(IN, size, rngs=nnx.Rngs(0), **options)


def weights_of(cell):
    return {name: np.asarray(getattr(cell, name)[...]) for name in WEIGHTS}


@EVERY
def test_it_is_its_equations(name):
    cell = make(**FORMS[name])
    alpha, carry, weights = FORMS[name].get("leak_rate", 1.0), random_carry(cell), weights_of(cell)

    def oracle(w, h, x, xp):
        pre = x @ w["kernel"] + h @ w["recurrent_kernel"] + w["bias"]
        h = (1 - alpha) * h + alpha * xp.tanh(pre)
        return h, h

    end, ys = rj.unroll(cell, jnp.asarray(XS), carry)
    known_end, known = by_hand(oracle, weights, np.asarray(carry), XS)
    np.testing.assert_allclose(ys, known, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(end, known_end, rtol=1e-12, atol=1e-12)

    def ours(carry, xs):
        end, ys = rj.unroll(cell, xs, carry)
        return value_of(ys, end, jnp)

    def theirs(carry, xs):
        end, ys = jax.lax.scan(lambda carry, x: oracle(weights, carry, x, jnp), carry, xs)
        return value_of(ys, end, jnp)

    found, exact = (jax.grad(f, (0, 1))(carry, jnp.asarray(XS)) for f in (ours, theirs))
    chex.assert_trees_all_close(found, exact, **CLOSE)


def test_products_may_be_narrower_than_the_carry():
    assert_keeps_its_types(lambda **types: make(**FORMS["leaky"], **types))


def test_no_gradient_and_no_optimizer_moves_its_weights():
    cell, xs = make(**FORMS["leaky"]), jnp.asarray(XS)
    weights = [getattr(cell, name) for name in WEIGHTS]
    assert all(isinstance(one, Fixed) and not isinstance(one, nnx.Param) for one in weights)
    assert len(jax.tree.leaves(cell)) == len(weights)
    # Neither through its step, nor through the form that `unroll` runs.
    for run in (lambda c: rj.unroll(c, xs)[1], lambda c: c(jnp.ones(H), xs[0])[1]):
        gradient = jax.grad(lambda c, run=run: jnp.sum(run(c)))(cell)
        assert jax.tree.structure(gradient) == jax.tree.structure(cell)
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient))
    # Weight decay moves whatever it is given, so `fit` gives it what is trained alone.
    model = rj.SequenceModel(cell, 1, rngs=nnx.Rngs(1))
    optimizer = optax.adamw(1e-2, weight_decay=0.5)
    trained = rj.fit(model, rj.tasks.Adding(5), optimizer, steps=3, batch_size=4, seed=0).model
    chex.assert_trees_all_equal(weights_of(trained.cells[0]), weights_of(cell))
    assert np.all(trained.kernel[...] != model.kernel[...])


@pytest.mark.parametrize(("density", "seen"), [(0.1, 20), (1e-9, 1), (1.0, 200)])
def test_initial_weights(density, seen):
    cell = make(200, density=density, spectral_radius=0.7, input_scaling=0.5, bias_scaling=2.0)
    w, w_in, b = (np.asarray(getattr(cell, n)[...]) for n in ("recurrent_kernel", "kernel", "bias"))
    np.testing.assert_array_equal(np.count_nonzero(w, axis=0), seen)
    np.testing.assert_allclose(np.max(np.abs(np.linalg.eigvals(w))), 0.7, rtol=1e-6)
    # Uniform before it is scaled: E w² = max² / 3.
    own = w[w != 0]
    np.testing.assert_allclose(np.mean(own**2) * 3, np.max(np.abs(own)) ** 2, rtol=0.25)
    for values, bound in ((w_in, 0.5), (b, 2.0)):
        assert np.max(np.abs(values)) <= bound
        np.testing.assert_allclose(np.var(values), bound**2 / 3, rtol=0.2)


def test_weights_can_be_drawn_in_a_compiled_function():
    build = nnx.jit(lambda: make(20))
    chex.assert_trees_all_close(weights_of(build()), weights_of(make(20)), rtol=1e-6)
    assert not np.any(make(spectral_radius=0.0).recurrent_kernel[...])
    assert not np.any(make().bias[...])


def test_the_echo_state_property_is_a_negative_exponent():
    """Two runs from far apart meet at the rate λ₁, and beyond a critical radius they do not."""
    xs = 0.2 * jnp.asarray(np.random.default_rng(3).normal(size=(400, IN)))
    for radius, fades in ((0.8, True), (5.0, False)):
        cell = make(60, spectral_radius=radius, density=0.3)
        exponent = float(rj.lyapunov_exponents(cell, xs, k=1, warmup=100).exponents[0])
        assert (exponent < 0) == fades
        starts = jnp.stack([jnp.ones(60), -jnp.ones(60)])
        both = rj.unroll(cell, jnp.broadcast_to(xs, (2, *xs.shape)), starts)[1]
        apart = np.linalg.norm(both[0] - both[1], axis=-1)
        assert (apart[-1] < 1e-12) == fades
        if fades:
            rate = np.log(apart[110] / apart[10]) / 100
            np.testing.assert_allclose(rate, exponent, rtol=0.2)
            assert exponent < np.log(radius)


def test_singular_values_below_1_are_enough_whatever_the_input():
    """‖∂h'/∂h‖ ≤ 1 − α + α σ₁(W)."""
    cell = make(20, spectral_radius=0.4, leak_rate=0.6)
    top = np.linalg.norm(cell.recurrent_kernel[...], 2)
    jacobians = np.asarray(rj.linearize(cell, 3 * jnp.asarray(XS)).state_jacobians)
    assert np.all(np.linalg.norm(jacobians, 2, axis=(1, 2)) <= 0.4 + 0.6 * top + 1e-12)
    at_rest = np.asarray(rj.linearize(cell, jnp.zeros((1, IN))).state_jacobians[0])
    expected = 0.4 * np.eye(20) + 0.6 * np.asarray(cell.recurrent_kernel[...]).T
    np.testing.assert_allclose(at_rest, expected, **CLOSE)


@table(
    radius=(lambda: make(spectral_radius=-1), ValueError, "spectral_radius must be", "got -1"),
    leak=(lambda: make(leak_rate=0), ValueError, "leak_rate must lie in (0, 1]", "got 0", "Pass"),
    share=(lambda: make(density=1.5), ValueError, "density must lie in (0, 1]", "got 1.5", "Pass"),
    word=(lambda: make(density="some"), TypeError, "density must be a number", "'some'", "Pass"),
    scale=(lambda: make(input_scaling=-2), ValueError, "input_scaling must be", "got -2", "Pass"),
    bias=(lambda: make(bias_scaling=-2), ValueError, "bias_scaling must be", "got -2", "Pass"),
)
def test_what_it_refuses(call, error, words):
    refuses(call, error, *words)
