"""The echo state network and its readout against reservoirpy, with the same weights."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import rnn_jax as rj

nodes = pytest.importorskip(
    "reservoirpy.nodes", reason="reservoirpy is not installed: pip install reservoirpy"
)

IN, H, OUT, T = 2, 20, 3, 40


def test_states_and_readout_are_those_of_reservoirpy():
    cell = rj.EchoStateCell(IN, H, leak_rate=0.3, density=0.3, bias_scaling=0.4, rngs=nnx.Rngs(3))
    names = {"W": "recurrent_kernel", "Win": "kernel", "bias": "bias"}
    weights = {name: np.array(getattr(cell, ours)[...]).T for name, ours in names.items()}
    rng = np.random.default_rng(0)
    xs, targets = rng.normal(size=(T, IN)), rng.normal(size=(T, OUT))
    known = nodes.Reservoir(lr=0.3, activation="tanh", **weights).run(xs)
    _, states = rj.unroll(cell, jnp.asarray(xs))
    np.testing.assert_allclose(states, known, rtol=1e-12, atol=1e-12)

    exact = nodes.Ridge(ridge=0.01).fit(known, targets)
    readout = rj.ridge_readout(states, jnp.asarray(targets), 0.01)
    np.testing.assert_allclose(readout(states), exact.run(known), rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(readout.kernel, exact.Wout, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(readout.bias, exact.bias, rtol=1e-9, atol=1e-10)
