"""What the tests of state spaces and of the xLSTM share: cells, carries and bad calls."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from transcribed import IN, T

import rnn_jax as rj

# Two heads, two blocks.
H = 4


def build(make, seed=0, **options):
    """The cell, with noise on weights that start at a constant."""
    cell = make(IN, H, rngs=nnx.Rngs(seed), **options)
    rng = np.random.default_rng(seed)
    for weight in ("bias", "gate_bias", "recurrent_kernel", "memory_encoder", "rate", "kernel"):
        param = getattr(cell, weight, None)
        if isinstance(param, nnx.Param):
            param[...] = param[...] + 0.3 * jnp.asarray(rng.normal(size=param.shape))
    if make is rj.SLSTMCell:  # Or most units would forget at once.
        cell.bias[...] = 0.2 * cell.bias[...]
    return cell


def carry_of(cell, seed=3):
    """A carry that a run could have: normalisers are positive."""
    rng = np.random.default_rng(seed)
    zeros = cell.initialize_carry((IN,))
    leaves, structure = jax.tree.flatten(zeros)
    parts = [jnp.asarray(rng.normal(size=leaf.shape)) for leaf in leaves]
    if isinstance(cell, rj.SLSTMCell):
        parts[1] = 1 + jnp.abs(parts[1])
    return jax.tree.unflatten(structure, parts)


def xs_of(seed=0, steps=T):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(steps, IN)))


def assert_keeps_its_types(make, **options):
    """All in float32, and products in bfloat16 with carries in float32."""
    xs = xs_of().astype(jnp.float32)
    options = {"param_dtype": jnp.float32, "rngs": nnx.Rngs(0), **options}
    _, ys = rj.unroll(make(IN, H, **options), xs)
    options = {"dtype": jnp.bfloat16, "carry_dtype": jnp.float32, **options, "rngs": nnx.Rngs(0)}
    carry, rounded = rj.unroll(make(IN, H, **options), xs)
    kinds = {leaf.dtype for leaf in jax.tree.leaves((carry, rounded, ys))}
    assert kinds == {jnp.dtype("float32")}
    np.testing.assert_allclose(rounded, ys, rtol=0.1, atol=0.05 * float(jnp.abs(ys).max()))


def assert_refuses_bad_calls(cell):
    carry = cell.initialize_carry((IN,))
    for error, message, call in (
        (ValueError, "in_features=2; got shape", lambda: cell(carry, jnp.ones(IN + 1))),
        (TypeError, "real numbers", lambda: cell(carry, jnp.ones(IN, complex))),
        (
            ValueError,
            "carry",
            lambda: cell(jax.tree.map(lambda a: a[1:], carry), jnp.ones(IN)),
        ),
        (TypeError, "input_shape must be a tuple", lambda: cell.initialize_carry(IN)),
    ):
        with pytest.raises(error, match=message):
            call()
