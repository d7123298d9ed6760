"""A second cell of the same structure is never traced again, and results are pytrees."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.tree_util import Partial
from test_reference import FEATURES, XS, H, T, network

import rnn_jax as rj


class Counted(rj.SimpleRNNCell):
    """A cell of ours that counts how often its Python is run, which is while tracing."""

    traces = 0

    def step(self, carry, z):
        Counted.traces += 1
        return super().step(carry, z)


def counted_step(weights, carry, x):
    counted_step.traces += 1
    h = jnp.tanh(carry @ weights["w"] + x @ weights["u"])
    return h, h


counted_step.traces = 0


def ours(seed):
    cell = Counted(FEATURES, H, rngs=nnx.Rngs(seed))
    return cell, None, lambda: Counted.traces


def foreign(seed):
    rng = np.random.default_rng(seed)
    weights = {
        "w": jnp.asarray(rng.normal(size=(H, H))),
        "u": jnp.asarray(rng.normal(size=(FEATURES, H))),
    }
    return Partial(counted_step, weights), jnp.zeros(H), lambda: counted_step.traces


def closure(scale):
    """A new loss function each time, as a training loop would make."""
    return lambda ys: scale * jnp.sum(ys**2)


CALLS = {
    "linearize": lambda cell, xs, carry, seed: rj.linearize(cell, xs, carry),
    "input_jacobian": lambda cell, xs, carry, seed: rj.input_jacobian(cell, xs, carry),
    "state_jacobian": lambda cell, xs, carry, seed: rj.state_jacobian(cell, xs, carry),
    "jacobian_log_norms": lambda cell, xs, carry, seed: rj.jacobian_log_norms(cell, xs, carry),
    "targets": lambda cell, xs, carry, seed: rj.jacobian_log_norms(
        cell, xs, carry, norm="spectral", targets=[seed]
    ),
    "backprop_signal": lambda cell, xs, carry, seed: rj.backprop_signal(
        closure(seed), cell, xs, carry
    ),
    "weight_gradient_by_step": lambda cell, xs, carry, seed: rj.weight_gradient_by_step(
        closure(seed), cell, xs, carry
    ),
    "weight_gradient_log_norms": lambda cell, xs, carry, seed: rj.weight_gradient_log_norms(
        closure(seed), cell, xs, carry
    ),
    "backprop_signal_log_norms": lambda cell, xs, carry, seed: rj.backprop_signal_log_norms(
        closure(seed), cell, xs, carry
    ),
    "vanishing_penalty": lambda cell, xs, carry, seed: rj.vanishing_penalty(
        closure(seed), cell, xs, carry
    ),
    "jacobian_log_singular_values": lambda cell, xs, carry, seed: rj.jacobian_log_singular_values(
        cell, xs, carry
    ),
    "lyapunov_exponents": lambda cell, xs, carry, seed: rj.lyapunov_exponents(
        cell, xs, carry, k=2, warmup=1, interval=2
    ),
    "covariant_lyapunov_vectors": lambda cell, xs, carry, seed: rj.covariant_lyapunov_vectors(
        cell, xs, carry, k=2, warmup=1, tail=1
    ),
    "attribution": lambda cell, xs, carry, seed: rj.attribution(cell, xs, carry),
    "estimate_jacobian_log_norms": lambda cell, xs, carry, seed: rj.estimate_jacobian_log_norms(
        cell, xs, carry, key=jax.random.key(seed), probes=2
    ),
    "estimate_jacobian_log_singular_values": lambda cell, xs, carry, seed: (
        rj.estimate_jacobian_log_singular_values(
            cell, xs, carry, k=1, key=jax.random.key(seed), oversample=0, iterations=0
        )
    ),
    "gradient_flow": lambda cell, xs, carry, seed: rj.gradient_flow(
        cell, xs, carry, loss=closure(seed), measures=("attribution", "exponents")
    ),
}


@pytest.mark.parametrize(
    ("call", "make"),
    [
        *((call, ours) for call in CALLS),
        ("jacobian_log_norms", foreign),
        ("backprop_signal", foreign),
        ("gradient_flow", foreign),
    ],
)
def test_another_cell_of_the_same_structure_is_not_traced(call, make):
    results = []
    for seed in (1, 2, 3):
        cell, carry, traces = make(seed)
        xs = np.random.default_rng(seed).normal(size=(T, FEATURES))
        results.append(CALLS[call](cell, xs, carry, seed))
        if seed == 1:
            first = traces()
            assert first > 0
    assert traces() == first
    # And it was the other cell that was measured.
    one, other = (jax.tree.leaves(result)[0] for result in results[1:])
    assert not np.array_equal(np.asarray(one), np.asarray(other))


@pytest.mark.parametrize("make", [ours, foreign])
def test_cells_cross_the_boundary_of_jit_as_pytrees(make):
    chex.clear_trace_counter()  # it counts by the text of a function

    @jax.jit
    @chex.assert_max_traces(n=1)
    def measure(cell, xs, carry):
        signal = rj.backprop_signal(closure(1.0), cell, xs, carry)
        return rj.jacobian_log_norms(cell, xs, carry), signal

    for seed in (1, 2):
        cell, carry, _ = make(seed)
        table, signal = measure(cell, XS, carry)
        expected = rj.jacobian_log_norms(cell, XS, carry)
        np.testing.assert_allclose(np.asarray(table), np.asarray(expected), rtol=1e-11, atol=1e-12)
        expected = rj.backprop_signal(closure(1.0), cell, XS, carry)
        for got, value in zip(*map(jax.tree.leaves, (signal, expected)), strict=True):
            np.testing.assert_allclose(np.asarray(got), np.asarray(value), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("call", ["linearize", "backprop_signal"])
def test_result_records_are_pytrees(call):
    net = network("lstm_coupled_peephole")
    result = CALLS[call](net.cell, XS, net.carry, 1)
    doubled = jax.jit(functools.partial(jax.tree.map, lambda a: 2 * a))(result)
    assert jax.tree.structure(doubled) == jax.tree.structure(result)
    for got, value in zip(*map(jax.tree.leaves, (doubled, result)), strict=True):
        np.testing.assert_array_equal(np.asarray(got), 2 * np.asarray(value))
    with pytest.raises(AttributeError):  # frozen: a result cannot be changed in place
        result.outputs = result.total = None
