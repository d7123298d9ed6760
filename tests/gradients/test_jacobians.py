"""Whole-sequence Jacobians: those of automatic differentiation in either mode, and of oracles."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from test_reference import FAMILIES, FEATURES, QUICK, XS, H, T, jacobians, network, unrolled

import oracles
import rnn_jax as rj
import zoo

CALLS = {"input": rj.input_jacobian, "state": rj.state_jacobian}


def measured(name, wrt):
    return jacobians(name)[wrt]


@functools.cache
def automatic(name):
    """{mode: {wrt: Jacobian}} of the unrolled network, by JAX alone."""
    net = network(name)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def both(xs, nudges):
        def run(xs, nudges):
            states, ys = unrolled(net, xs, net.state, nudges)
            return {"input": ys, "state": states}

        return jax.jacrev(run, (0, 1))(xs, nudges), jax.jacfwd(run, (0, 1))(xs, nudges)

    reverse, forward = both(XS, np.zeros((T, net.state.size)))
    return {
        mode: {"input": np.asarray(result["input"][0]), "state": np.asarray(result["state"][1])}
        for mode, result in (("reverse", reverse), ("forward", forward))
    }


@pytest.mark.parametrize("wrt", CALLS)
@pytest.mark.parametrize("mode", ["reverse", "forward"])
# The step of every cell is held to account in `test_linearize`; what is made of it is the same.
@pytest.mark.parametrize("name", FAMILIES)
def test_equals_automatic_differentiation_of_the_unrolled_network(name, mode, wrt):
    expected = automatic(name)[mode][wrt]
    assert measured(name, wrt).shape == expected.shape
    np.testing.assert_allclose(measured(name, wrt), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    "name", ["simple_relu", "lstm_coupled_peephole", "lstm_projection", "gru_reset_before"]
)
def test_equals_the_product_of_hand_derived_jacobians(name):
    net = network(name)
    twin = zoo.oracle(net.cell)
    carries, _ = oracles.run(twin.step, XS, net.state)
    As, Bs = oracles.one_step_jacobians(twin.jacobian, carries, XS)
    by_input = oracles.input_jacobian(As, Bs, twin.output_rows)
    np.testing.assert_allclose(measured(name, "input"), by_input, rtol=1e-11, atol=1e-15)
    by_state = oracles.state_jacobian(As)
    np.testing.assert_allclose(measured(name, "state"), by_state, rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_future_is_exactly_zero_and_the_present_the_identity(name):
    for wrt in CALLS:
        blocks = measured(name, wrt).transpose(0, 2, 1, 3)
        assert (blocks[np.triu_indices(T, 1)] == 0).all()
    blocks = measured(name, "state").transpose(0, 2, 1, 3)
    for t in range(T):
        np.testing.assert_array_equal(blocks[t, t], np.eye(len(network(name).state)))


def central_differences(function, at, width=1e-3):
    """Richardson's extrapolation of central differences, output axes first."""

    def central(size):
        columns = []
        for index in np.ndindex(at.shape):
            step = np.zeros_like(at)
            step[index] = size
            columns.append((function(at + step) - function(at - step)) / (2 * size))
        columns = np.stack(columns, axis=-1)
        return np.reshape(columns, (*columns.shape[:-1], *at.shape))

    return (4 * central(width / 2) - central(width)) / 3


@pytest.mark.parametrize("name", FAMILIES)
def test_finite_differences_of_the_whole_run_agree(name):
    net = network(name)
    run = jax.jit(lambda xs, nudges: unrolled(net, xs, net.state, nudges))
    still = np.zeros((T, net.state.size))
    by_input = central_differences(lambda xs: np.asarray(run(xs, still)[1]), XS)
    np.testing.assert_allclose(measured(name, "input"), by_input, atol=1e-8)
    by_carry = central_differences(lambda nudges: np.asarray(run(XS, nudges)[0]), still)
    np.testing.assert_allclose(measured(name, "state"), by_carry, atol=1e-8)


@pytest.mark.parametrize("name", ["lstm_coupled_peephole", "dict_readout"])
def test_chain_rule_across_any_middle_step(name):
    # ∂carry_t/∂carry_s = ∂carry_t/∂carry_r · ∂carry_r/∂carry_s for s ≤ r ≤ t.
    J = measured(name, "state")
    for s, r, t in [(0, 2, 4), (1, 3, 4), (0, 1, 3), (2, 2, 4)]:
        np.testing.assert_allclose(J[t, :, s], J[t, :, r] @ J[r, :, s], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("name", "wrt"), [("lstm_1997", "state"), ("dict_readout", "input")])
def test_vmap_over_a_batch_and_jit(name, wrt):
    net = network(name)
    batch = np.random.default_rng(8).normal(size=(3, T, FEATURES))
    batch[1] = XS
    mapped = jax.jit(jax.vmap(CALLS[wrt], (None, 0, None)))(net.cell, batch, net.carry)
    np.testing.assert_allclose(np.asarray(mapped[1]), measured(name, wrt), rtol=1e-12, atol=1e-15)
    alone = CALLS[wrt](net.cell, batch[2], net.carry)
    np.testing.assert_allclose(np.asarray(mapped[2]), np.asarray(alone), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("name", "wrt"), [("simple_tanh", "state"), ("lstm_coupled_peephole", "input")]
)
def test_derivative_of_the_jacobian(name, wrt):
    net = network(name)
    vector, unravel = ravel_pytree((net.cell, jnp.asarray(XS)))
    weights = np.random.default_rng(9).normal(size=measured(name, wrt).shape)

    def ours(vector):
        cell, xs = unravel(vector)
        return jnp.sum(weights * CALLS[wrt](cell, xs, net.carry))

    def theirs(vector):
        cell, xs = unravel(vector)
        moved = net._replace(step=functools.partial(net.step_of, cell))
        run = functools.partial(unrolled, moved)
        if wrt == "input":
            J = jax.jacfwd(lambda v: run(v, net.state)[1])(xs)
        else:
            still = jnp.zeros((T, net.state.size))
            J = jax.jacfwd(lambda nudges: run(xs, net.state, nudges)[0])(still)
        return jnp.sum(weights * J)

    both = jax.jit(jax.value_and_grad(ours))
    gradient = np.asarray(both(vector)[1])
    expected = jax.jit(jax.grad(theirs), compiler_options=QUICK)(vector)
    np.testing.assert_allclose(gradient, np.asarray(expected), rtol=1e-9, atol=1e-11)
    direction = np.random.default_rng(10).normal(size=vector.shape)
    slope = central_differences(
        lambda size: np.asarray(both(vector + size * direction)[0]), np.zeros(())
    )
    np.testing.assert_allclose(gradient @ direction, slope, rtol=1e-7)


@pytest.mark.parametrize(
    ("name", "wrt"), [("simple_relu", "state"), ("lstm", "state"), ("gru_reset_before", "input")]
)
def test_float32_is_float64_to_its_rounding(name, wrt):
    net = network(name)
    cell, carry = jax.tree.map(lambda a: a.astype(jnp.float32), (net.cell, net.carry))
    J = CALLS[wrt](cell, jnp.asarray(XS, jnp.float32), carry)
    assert J.dtype == jnp.float32
    np.testing.assert_allclose(np.asarray(J), measured(name, wrt), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("wrt", CALLS)
def test_what_is_not_finite_shows_from_its_step_on_and_not_before(wrt):
    net = network("gru_reset_before")
    xs = XS.copy()
    xs[2, 0] = np.nan
    blocks = np.asarray(CALLS[wrt](net.cell, xs, net.carry)).transpose(0, 2, 1, 3)
    clean = measured("gru_reset_before", wrt).transpose(0, 2, 1, 3)
    np.testing.assert_allclose(blocks[:2], clean[:2], rtol=1e-12, atol=1e-15)
    for t in range(2, T):
        assert (blocks[t, t + 1 :] == 0).all()
        affected = blocks[t, : t + 1 if wrt == "input" else t]
        assert np.isnan(affected).all()


def test_a_single_step():
    net = network("lstm")
    xs = jnp.asarray(XS[:1])
    A, B = jax.jit(jax.jacrev(net.step, (0, 1)))(net.state, XS[0])[1]
    del A
    J = np.asarray(rj.input_jacobian(net.cell, xs, net.carry))
    assert J.shape == (1, H, 1, FEATURES)
    np.testing.assert_allclose(J[0, :, 0], np.asarray(B), rtol=1e-12)
    J = np.asarray(rj.state_jacobian(net.cell, xs, net.carry))
    np.testing.assert_array_equal(J[0, :, 0], np.eye(2 * H))
