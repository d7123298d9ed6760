"""Products in blocks of time: those of the sweep from step to step, for every kind of Jacobian."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import oracles
import rnn_jax as rj
import zoo
from rnn_jax.gradients.differentiation import Jacobians
from rnn_jax.gradients.explain import memory_path
from rnn_jax.gradients.jacobians import blocks_of_time
from rnn_jax.gradients.jacobians.log_norms import log_norm_by_source
from rnn_jax.gradients.linearize import Record
from rnn_jax.gradients.one_step import StepJacobians

STEPS, FEATURES, H = 37, 2, 3  # No multiple of any length of a block here.
XS = np.random.default_rng(5).normal(size=(STEPS, FEATURES))


@functools.partial(jax.jit, static_argnames=("wrt", "norm", "length"))
def in_blocks(steps, *, wrt="input", norm="fro", length=8):
    with jax.default_matmul_precision("highest"):
        log_norm = log_norm_by_source(norm)
        return blocks_of_time.log_norms_in_blocks(steps, wrt=wrt, log_norm=log_norm, length=length)


def of_arrays(a, b, rows=None, *, c=None, d=None):
    """Steps whose output is all of the state, unless said otherwise."""
    return StepJacobians(Jacobians(a, b, a if c is None else c, b if d is None else d), rows, None)


@functools.cache
def linearized(name):
    cell, carry = zoo.build(name, FEATURES, H)
    return rj.linearize(cell, XS, carry)


@pytest.mark.parametrize(
    ("name", "wrt", "norm", "length"),
    [
        ("lstm", "input", "fro", 8),
        ("lstm", "state", "fro", 12),
        ("gru_reset_before", "input", "spectral", 9),
        ("dict_readout", "input", "fro", 36),
        ("dict_readout", "state", "spectral", 40),
    ],
)
def test_are_those_of_the_sweep(name, wrt, norm, length):
    lin = linearized(name)
    expected = np.asarray(rj.jacobian_log_norms(lin, wrt=wrt, norm=norm))
    got = np.asarray(in_blocks(Record(lin).steps, wrt=wrt, norm=norm, length=length))
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)


def test_units_whose_rates_are_apart_beyond_every_float():
    # Within one block float32 reaches 1e-38; the slowest unit gets to 1e-192, the fastest stays.
    rates = np.float32([1.0, 1e-3, 1e-12, 1e-24])
    a = np.broadcast_to(np.diag(rates), (STEPS, 4, 4))
    for unit, rate in enumerate(rates):
        b = np.zeros((STEPS, 4, 1), np.float32)
        b[:, unit] = 1.0
        got = np.asarray(in_blocks(of_arrays(a, b, (0, 4))))
        lags = np.subtract.outer(np.arange(STEPS), np.arange(STEPS))
        expected = np.where(lags < 0, -np.inf, lags * np.log(np.float64(rate)))
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


def test_growth_and_decay_of_full_matrices_against_the_entrywise_oracle():
    rng = np.random.default_rng(0)
    # Random directions at every scale: a step takes them by up to e^±30.
    scales = np.exp(30 * rng.uniform(-1, 1, size=(STEPS, 1, 1)))
    a, b = scales * rng.normal(size=(STEPS, 3, 3)), rng.normal(size=(STEPS, 3, 2))
    expected = oracles.log_norms(a, b, slice(1, 3))
    got = np.asarray(in_blocks(of_arrays(a.astype(np.float32), b.astype(np.float32), (1, 3))))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-3)


def test_exact_zeros_stay_exact():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(STEPS, 4, 4)), rng.normal(size=(STEPS, 4, 1))
    a[:, 3, :3] = a[:, :3, 3] = 0  # a unit apart from the others, and not shown
    b[5, :3] = 0  # an input that excites it alone
    b[9] = 0  # an input that is not read
    a[20] = 0  # a step that forgets everything
    a[30, :, 1] = 0  # a unit of which nothing comes further
    expected = oracles.log_norms(a, b, slice(0, 3))
    assert np.isneginf(expected[30, [5, 9, 19]]).all()
    assert np.isfinite(expected[36, 20])
    got = np.asarray(in_blocks(of_arrays(a, b, (0, 3))))
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("rows", [(0, 2), None])
def test_what_is_not_finite_shows_where_the_sweep_shows_it(bad, rows):
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(STEPS, 3, 3)), rng.normal(size=(STEPS, 3, 1))
    b[4] = 0  # Also for a source whose derivative is exactly 0 until then.
    a[17, 2, 1] = bad
    steps = of_arrays(
        a, b, rows, c=rng.normal(size=(STEPS, 2, 3)), d=rng.normal(size=(STEPS, 2, 1))
    )
    expected = np.asarray(sweep(steps))
    got = np.asarray(in_blocks(steps))
    finite = np.isfinite(expected) | np.isneginf(expected)
    assert not finite[18:, :17].any()
    assert finite[:17].all()
    np.testing.assert_array_equal(np.isfinite(got) | np.isneginf(got), finite)
    np.testing.assert_allclose(got[finite], expected[finite], rtol=1e-12, atol=1e-12)


def sweep(steps):
    """As `jacobian_log_norms` of a linearization with these Jacobians."""
    lin = linearized("dict_readout")
    a, b, c, d = steps.jacobians
    lin = lin.replace(
        state_jacobians=a,
        input_jacobians=b,
        output_state_jacobians=c if steps.output_rows is None else a[:, slice(*steps.output_rows)],
        output_input_jacobians=d if steps.output_rows is None else b[:, slice(*steps.output_rows)],
        carries=jnp.zeros((STEPS + 1, a.shape[1])),
        outputs=jnp.zeros((STEPS, c.shape[1])),
        output_rows=steps.output_rows,
        diagonal_columns=None,
    )
    return rj.jacobian_log_norms(lin)


def test_memory_path_is_that_of_the_sweep():
    lin, rows = linearized("lstm"), (0, H)
    factors = next(iter(rj.attribution(lin).paths.values())).factors
    factors = factors.at[11, 0].set(0.0)  # A gate that is shut, within a block.
    steps = Record(lin).steps
    expected = jax.jit(functools.partial(memory_path.sweep, rows=rows))(steps, factors)
    got = jax.jit(functools.partial(memory_path.in_blocks, rows=rows, length=8))(steps, factors)
    assert np.isneginf(np.asarray(expected.path)[11:, 0]).all()
    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (steps, factors))
    kernel = functools.partial(memory_path.by_kernel, rows=rows, interpret=True)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    jax.tree.map(close, jax.jit(kernel)(*narrow), expected)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-12), got, expected
    )


def test_blocks_are_about_the_root_of_the_sequence_and_divide_it_if_they_can():
    assert blocks_of_time.block_length(1000, 64 * 2 * 1000) == 25
    assert blocks_of_time.block_length(1009, 64 * 2 * 1009) == 32
    assert blocks_of_time.block_length(100, 1) is None
    # Where a step's derivatives are so many that few of them fit, the sweep is busy enough.
    assert blocks_of_time.block_length(1000, 128 * 128 * 1000) is None
