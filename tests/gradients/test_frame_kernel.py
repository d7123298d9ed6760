"""The kernel that carries a frame through all steps, in Pallas' interpret mode."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import oracles_spectra
import rnn_jax as rj
from rnn_jax.gradients.spectra import frame_kernel, lyapunov

STEPS, SIZE = 12, 5


def growth_of(a, count):
    growth = functools.partial(frame_kernel.growth_by_step, interpret=True)
    first = oracles_spectra.first_directions(SIZE, count)
    return jax.jit(growth)(jnp.asarray(a, jnp.float32), jnp.asarray(first, jnp.float32))


def growth_by_numpy(a, count):
    """ln|R_ii| step by step in float64, by LAPACK."""
    q, growth = oracles_spectra.first_directions(SIZE, count), []
    for step in np.float64(np.float32(a)):
        q, r = np.linalg.qr(step @ q)
        growth.append(np.log(np.abs(np.diagonal(r))))
    return np.stack(growth)


def jacobians(seed=0):
    return np.random.default_rng(seed).normal(size=(STEPS, SIZE, SIZE))


@pytest.mark.parametrize("count", [2, SIZE])
def test_growth_is_that_of_the_oracle(count):
    growth, kept = growth_of(jacobians(), count)
    assert kept
    np.testing.assert_allclose(growth, growth_by_numpy(jacobians(), count), rtol=0, atol=2e-5)


def test_steps_of_any_size_and_units_in_saturation_keep_their_digits():
    rng = np.random.default_rng(1)
    # Rows 1e-6 apart are units in saturation; whole steps, up to 1e±25, are of any size.
    slopes = np.float64([1.0, 1e-2, 1e-4, 1e-5, 1e-6])[
        rng.permuted(np.tile(np.arange(SIZE), (STEPS, 1)), axis=1)
    ]
    a = jacobians() * slopes[:, :, None] * 10.0 ** rng.uniform(-25, 25, size=(STEPS, 1, 1))
    growth, kept = growth_of(a, SIZE)
    assert kept
    # To a rounding error or a few relative to each row, whatever it is beside the others.
    np.testing.assert_allclose(growth, growth_by_numpy(a, SIZE), rtol=0, atol=1e-3)


@pytest.mark.parametrize("spoil", ["dead", "copied", "nan", "inf"])
def test_says_what_it_does_not_treat(spoil):
    a = jacobians()
    if spoil == "dead":
        a[7, 2] = 0
    elif spoil == "copied":
        a[7, 2] = a[7, 3]
    else:
        a[7, 2, 2] = float(spoil)
    assert not growth_of(a, SIZE)[1]
    # What fewer directions do not lose is no matter.
    if spoil in ("dead", "copied"):
        assert growth_of(a, 2)[1]


@pytest.mark.parametrize("lost", [False, True])
def test_where_a_direction_is_lost_the_sweep_decides(lost, monkeypatch):
    growth = functools.partial(frame_kernel.growth_by_step, interpret=True)
    monkeypatch.setattr(frame_kernel, "growth_by_step", growth)
    cell = rj.SimpleRNNCell(1, SIZE, param_dtype=jnp.float32, rngs=nnx.Rngs(0))
    lin = rj.linearize(cell, jnp.ones((STEPS, 1), jnp.float32))
    if lost:
        lin = lin.replace(state_jacobians=lin.state_jacobians.at[7, 2].set(0.0))
    by_sweep = functools.partial(lyapunov.growth_by_sweep, k=SIZE, warmup=2, interval=1)
    by_kernel = functools.partial(lyapunov.growth_by_kernel, by_sweep, k=SIZE, warmup=2)
    expected, got = np.asarray(jax.jit(by_sweep)(lin)), np.asarray(jax.jit(by_kernel)(lin))
    assert np.isneginf(expected).any() == lost
    np.testing.assert_allclose(got, expected, rtol=0, atol=0 if lost else 2e-5)
    batch = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), lin)
    mapped = jax.jit(jax.vmap(by_kernel))(batch)
    np.testing.assert_allclose(mapped, np.stack([got, got]), rtol=0, atol=2e-5)
