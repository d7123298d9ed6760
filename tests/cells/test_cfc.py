"""Closed-form continuous-time cells: their equations, initial weights, and what they say."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from transcribed import (
    CLOSE,
    IN,
    H,
    assert_follows,
    example,
    jacobians_by_calls,
    noisy,
)

import rnn_jax as rj
from refusing import refuses, table
from rnn_jax.cells import CfCCell

LAYERS = pytest.mark.parametrize("layers", [0, 1, 3])


def cfc(layers, seed=0, **options):
    options = {"backbone_features": 3, "backbone_layers": layers, **options}
    return noisy(CfCCell(IN, H, rngs=nnx.Rngs(seed), **options), seed)


def equations(w, carry, x, xp, elapsed=0.6):
    h = carry

    def squashed(u):
        return 1.7159 * xp.tanh(0.666 * u)

    u = xp.concatenate([x, h]) @ xp.concatenate([w["kernel"], w["recurrent_kernel"]]) + w["bias"]
    if "head_kernel" in w:
        u = squashed(u)
        if "backbone_kernels" in w:
            for kernel, bias in zip(w["backbone_kernels"], w["backbone_biases"], strict=True):
                u = squashed(u @ kernel + bias)
        u = u @ w["head_kernel"] + w["head_bias"]
    f_1, f_2, a, b = xp.split(u, 4)
    t = 1 / (1 + xp.exp(-(elapsed * a + b)))
    h = (1 - t) * xp.tanh(f_1) + t * xp.tanh(f_2)
    return h, h


@LAYERS
def test_it_follows_its_equations(layers):
    cell = cfc(layers, elapsed=0.6)
    assert_follows(cell, equations)


def test_initial_weights_are_those_of_the_authors():
    inputs, size, units = 30, 60, 50
    cell = CfCCell(inputs, size, backbone_features=units, backbone_layers=2, rngs=nnx.Rngs(0))
    both = inputs + size
    bounds = {
        "kernel": np.sqrt(6 / (both + units)),
        "recurrent_kernel": np.sqrt(6 / (both + units)),
        "bias": 1 / np.sqrt(both),
        "backbone_kernels": np.sqrt(6 / (2 * units)),
        "backbone_biases": 1 / np.sqrt(units),
        "head_kernel": np.sqrt(6 / (units + size)),
        "head_bias": 1 / np.sqrt(units),
    }
    for name, bound in bounds.items():
        values = np.asarray(getattr(cell, name)[...]).ravel() / bound
        assert 0.9 < np.abs(values).max() <= 1, name
        assert abs(values.mean()) < 4 / np.sqrt(3 * values.size), name
        assert abs(values.std() * np.sqrt(3) - 1) < 4 / np.sqrt(2 * values.size), name
    bare = CfCCell(inputs, size, backbone_layers=0, rngs=nnx.Rngs(0))
    bound = np.sqrt(6 / (both + size))
    assert bare.kernel.shape == (inputs, 4 * size)
    assert 0.99 * bound < np.abs(bare.recurrent_kernel[...]).max() <= bound


@LAYERS
def test_states_stay_within_one_and_gradients_pass_through_weights_alone(layers):
    cell = cfc(layers)
    carry, xs = example(cell)
    found = rj.linearize(cell, 100 * xs, carry)
    known = jacobians_by_calls(cell, 100 * xs, carry)
    np.testing.assert_allclose(found.state_jacobians, known, **CLOSE)
    assert np.abs(found.carries[1:]).max() <= 1
    cell.recurrent_kernel[...] = 0 * cell.recurrent_kernel[...]
    assert not np.any(rj.linearize(cell, xs, carry).state_jacobians)


@LAYERS
def test_products_of_bfloat16_are_kept_in_the_type_of_the_carry(layers):
    types = {"dtype": jnp.bfloat16, "carry_dtype": jnp.float32}
    cell = CfCCell(IN, H, backbone_layers=layers, rngs=nnx.Rngs(0), **types)
    h, out = cell(cell.initialize_carry((IN,)), jnp.ones(IN, jnp.bfloat16))
    assert {h.dtype, out.dtype} == {jnp.dtype(jnp.float32)}


@table(
    layers=(
        lambda: CfCCell(IN, H, backbone_layers=-1, rngs=nnx.Rngs(0)),
        ValueError,
        "backbone_layers must be at least 0",
        "got -1",
        "Pass an int from 0 on",
    ),
    features=(
        lambda: CfCCell(IN, H, backbone_features=0, rngs=nnx.Rngs(0)),
        ValueError,
        "backbone_features must be at least 1",
        "got 0",
        "Pass a positive int",
    ),
    elapsed=(
        lambda: CfCCell(IN, H, elapsed=0.0, rngs=nnx.Rngs(0)),
        ValueError,
        "elapsed must be above 0",
        "got 0",
        "Pass a positive float",
    ),
)
def test_what_it_refuses(call, error, words):
    refuses(call, error, *words)
