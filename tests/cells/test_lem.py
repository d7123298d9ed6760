"""Long expressive memory: its equations, initial weights, and its bound on gradients."""

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
from rnn_jax.cells import LEMCell

NAMES = ("kernel", "recurrent_kernel", "bias")


def lem(seed=0, **options):
    return noisy(LEMCell(IN, H, rngs=nnx.Rngs(seed), **options), seed)


def equations(w, carry, x, xp, dt=0.8):
    y, z = carry
    v1, v2, v_z, v_y = (x @ v for v in xp.split(w["kernel"], 4, axis=1))
    w1, w2, w_z, w_y = xp.split(w["recurrent_kernel"], 4, axis=1)
    b1, b2, b_z, b_y = xp.split(w["bias"], 4)
    step_1 = dt / (1 + xp.exp(-(v1 + y @ w1 + b1)))
    step_2 = dt / (1 + xp.exp(-(v2 + y @ w2 + b2)))
    z = (1 - step_2) * z + step_2 * xp.tanh(v_z + y @ w_z + b_z)
    y = (1 - step_1) * y + step_1 * xp.tanh(v_y + z @ w_y + b_y)
    return (y, z), y


def test_it_follows_its_equations():
    assert_follows(lem(time_step=0.8), equations)


def test_initial_weights_are_those_of_the_authors():
    size = 100
    cell = LEMCell(3, size, rngs=nnx.Rngs(0))
    assert cell.time_step == 1.0
    for name in NAMES:
        values = np.asarray(getattr(cell, name)[...]).ravel() * np.sqrt(size)
        assert np.abs(values).max() <= 1
        assert abs(values.mean()) < 4 / np.sqrt(3 * values.size)
        assert abs(values.std() * np.sqrt(3) - 1) < 4 / np.sqrt(2 * values.size)
    blocks = np.split(np.asarray(cell.recurrent_kernel[...]), 4, axis=1)
    assert np.abs(blocks[0] - blocks[3]).max() > 0.01


@pytest.mark.parametrize("time_step", [0.01, 0.3, 1.0])
def test_no_step_stretches_more_than_its_bound(time_step):
    cell = lem(time_step=time_step)
    carry, xs = example(cell)
    carry = tuple(jnp.tanh(part) for part in carry)
    record = rj.linearize(cell, xs, carry)
    found = np.asarray(record.state_jacobians)
    np.testing.assert_allclose(found, jacobians_by_calls(cell, xs, carry), **CLOSE)
    assert np.abs(record.carries).max() <= 1
    n_1, n_2, n_z, n_y = (
        np.abs(block).sum(0).max()
        for block in np.split(np.asarray(cell.recurrent_kernel[...]), 4, axis=1)
    )
    r = 1 + time_step * (n_2 / 2 + n_z)
    bound = max(r, 1 + time_step * (n_1 / 2 + n_y * r))
    assert np.abs(found).sum(2).max() <= bound


def test_products_of_bfloat16_are_kept_in_the_type_of_the_carry():
    cell = LEMCell(IN, H, dtype=jnp.bfloat16, carry_dtype=jnp.float32, rngs=nnx.Rngs(0))
    (y, z), out = cell(cell.initialize_carry((IN,)), jnp.ones(IN, jnp.bfloat16))
    assert {y.dtype, z.dtype, out.dtype} == {jnp.dtype(jnp.float32)}


@table(
    step=(
        lambda: LEMCell(IN, H, time_step=-1, rngs=nnx.Rngs(0)),
        ValueError,
        "time_step must be above 0",
        "got -1",
        "Pass a positive float",
    ),
    no_number=(
        lambda: LEMCell(IN, H, time_step=None, rngs=nnx.Rngs(0)),
        TypeError,
        "time_step must be a number",
        "None",
        "Pass a float",
    ),
    carry=(
        lambda: lem()((jnp.zeros(H), jnp.zeros(H - 1)), jnp.ones(IN)),
        ValueError,
        "carry must be (y, z)",
        "(3,)",
        "initialize_carry",
    ),
)
def test_what_it_refuses(call, error, words):
    refuses(call, error, *words)
