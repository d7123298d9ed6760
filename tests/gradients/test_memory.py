"""A result that cannot fit into memory is refused before anything is computed."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_reference import arrays_of

import rnn_jax as rj
from refusing import refused

T, FEATURES, H = 4, 2, 3
XS = np.random.default_rng(0).normal(size=(T, FEATURES))


def loss(ys):
    return jnp.sum(ys)


def simple():
    return rj.SimpleRNNCell(FEATURES, H, rngs=nnx.Rngs(0))


LONG = 200_000
TOO_LARGE = {
    "linearize": (rj.linearize, "backprop_signal"),
    "input_jacobian": (rj.input_jacobian, "jacobian_log_norms"),
    "state_jacobian": (rj.state_jacobian, "jacobian_log_norms"),
    "jacobian_log_norms": (rj.jacobian_log_norms, "targets="),
    "weight_gradient_by_step": (
        lambda *args: rj.weight_gradient_by_step(loss, *args),
        "weight_gradient_log_norms",
    ),
}


@pytest.mark.parametrize("name", [*TOO_LARGE, "gradient_flow"])
def test_a_sequence_whose_result_cannot_fit_is_refused_at_once(name):
    call, instead = TOO_LARGE.get(name, (rj.gradient_flow, "targets="))
    cell = rj.LSTMCell(FEATURES, 256, recurrent_kernel_init="zeros", rngs=nnx.Rngs(0))
    message = refused(
        lambda: call(cell, np.zeros((LONG, FEATURES))),
        ValueError,
        f"^{name if name in TOO_LARGE else 'jacobian_log_norms'} would need [0-9,]+ bytes",
        re.escape(f"{LONG}"),
        "are free",
        re.escape(instead),
    )
    needed = int(re.search(r"need ([0-9,]+) bytes", message)[1].replace(",", ""))
    assert needed > 10**11


@pytest.mark.parametrize("name", TOO_LARGE)
def test_a_result_is_refused_exactly_when_it_does_not_fit(name, monkeypatch):
    call, instead = TOO_LARGE[name]
    cell, xs = simple(), np.zeros((11, FEATURES))
    # What fits is compiled; whether it fits is asked at every call all the same.
    call(cell, xs)
    monkeypatch.setattr("rnn_jax.gradients.memory.available_bytes", lambda: 8)
    message = refused(
        lambda: call(cell, xs), ValueError, f"^{name} would", r"\b8 are free", instead
    )
    needed, result = (
        int(re.search(pattern, message)[1].replace(",", ""))
        for pattern in (r"need ([0-9,]+) bytes", r"([0-9,]+) of them for its result")
    )
    monkeypatch.setattr("rnn_jax.gradients.memory.available_bytes", lambda: needed - 1)
    refused(lambda: call(cell, xs), ValueError, f"{needed - 1:,} are free")
    monkeypatch.setattr("rnn_jax.gradients.memory.available_bytes", lambda: needed)
    result_of_call = call(cell, xs)
    leaves = jax.tree.leaves(arrays_of(result_of_call) if name == "linearize" else result_of_call)
    if name != "linearize":  # whose first array is one of several
        assert result == sum(leaf.nbytes for leaf in leaves)
    assert needed >= sum(leaf.nbytes for leaf in leaves) - 8 * (12 * H + 11 * H)


def test_targets_are_not_advised_to_who_passes_them(monkeypatch):
    monkeypatch.setattr("rnn_jax.gradients.memory.available_bytes", lambda: 8)
    call = lambda: rj.jacobian_log_norms(simple(), np.zeros((12, FEATURES)), targets=[-1])  # noqa: E731
    message = refused(call, ValueError, "shorter sequence")
    assert "Pass targets=" not in message


def test_nothing_is_refused_where_the_platform_does_not_say_what_is_free(monkeypatch):
    monkeypatch.setattr("rnn_jax.gradients.memory.available_bytes", lambda: None)
    assert np.isfinite(rj.input_jacobian(simple(), np.ones((13, FEATURES)))).all()
