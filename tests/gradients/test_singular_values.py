"""Log singular values of long products: exact arithmetic and closed forms, the smallest too."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import oracles
import oracles_spectra
import rnn_jax as rj
import zoo

# Two lengths and few sizes: each other one is another program.
T, HALF, LONG, FEATURES, H = 120, 60, 750, 2, 4
CLOSE = 1e-6  # What is claimed in float64, in nats, for every singular value.


@functools.cache
def linear(size):
    """A cell whose one-step Jacobian is its input, a matrix row by row."""

    def step(carry, x):
        h = x.reshape(size, size) @ carry
        return h, h

    return step


def of_product(As, **options):
    """What the package says of A_T ⋯ A_1."""
    As = np.asarray(As)
    steps, size, _ = As.shape
    xs, carry = As.reshape(steps, size * size), np.zeros(size, As.dtype)
    return np.asarray(rj.jacobian_log_singular_values(linear(size), xs, carry, **options))


def assert_spectrum(got, expected, atol=CLOSE):
    """The same zeros, the rest within `atol`, in descending order."""
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape
    np.testing.assert_array_equal(np.isneginf(got), np.isneginf(expected))
    alive = np.isfinite(expected)
    np.testing.assert_allclose(got[alive], expected[alive], rtol=0, atol=atol)
    assert (np.diff(got[alive]) <= 0).all()


def orthogonal(rng, *shape):
    return np.linalg.qr(rng.normal(size=shape))[0]


def simple(activation, recurrent_kernel, *, kernel=None, bias=None):
    size = len(recurrent_kernel)
    cell = rj.SimpleRNNCell(FEATURES, size, activation=activation, rngs=nnx.Rngs(0))
    cell.recurrent_kernel[...] = jnp.asarray(recurrent_kernel)
    if kernel is not None:
        cell.kernel[...] = jnp.asarray(kernel)
    if bias is not None:
        cell.bias[...] = jnp.asarray(bias)
    return cell


def inputs(steps, seed=0):
    return np.random.default_rng(seed).normal(size=(steps, FEATURES))


def jacobians(cell, xs):
    """The package's own one-step Jacobians, held to account in `test_linearize`."""
    return np.asarray(rj.linearize(cell, xs).state_jacobians)


def rotated_diagonal(rng, logs, steps):
    """A_t = U_t diag(σ) U_{t−1}ᵀ with orthogonal U_t: the product is U_T diag(σ**T) U_0ᵀ."""
    U = orthogonal(rng, steps + 1, len(logs), len(logs))
    return U[1:] @ (np.exp(logs)[:, None] * U[:-1].transpose(0, 2, 1))


# A carry of one part and of two, as the Jacobians of every cell are tested in `test_linearize`.
@pytest.mark.parametrize("name", ["simple_relu", "lstm_peephole"])
def test_every_form_of_cell_over_many_steps(name):
    cell = zoo.CELLS[name](FEATURES, H, 0)
    if name == "simple_relu":  # Or every unit dies within the first steps.
        cell.bias[...] = jnp.abs(cell.bias[...]) + 2.0
        cell.kernel[...] = 0.5 * cell.kernel[...]
    twin, xs = zoo.oracle(cell), inputs(T)
    size = 2 * H if name.startswith("lstm") else H
    carries, _ = oracles.run(twin.step, xs, np.zeros(size))
    As, _ = oracles.one_step_jacobians(twin.jacobian, carries, xs)
    expected = oracles_spectra.log_singular_values(As)
    assert np.isfinite(expected[0])
    assert_spectrum(rj.jacobian_log_singular_values(cell, xs), expected)


def test_a_sigmoid_network_far_below_the_smallest_float():
    cell, xs = zoo.CELLS["simple_sigmoid"](FEATURES, H, 1), inputs(LONG)
    cell.recurrent_kernel[...] = 0.01 * cell.recurrent_kernel[...]
    expected = oracles_spectra.log_singular_values(jacobians(cell, xs))
    assert expected[-1] < -5000
    assert_spectrum(rj.jacobian_log_singular_values(cell, xs), expected)


@pytest.mark.parametrize(
    "logs",
    [
        np.log([2.0, 0.5, 0.1, 1e-3]),
        np.log([0.5, 0.5, 0.5, 0.5]),
        np.log([0.5 + 1e-9, 0.5, 1e-3, 1e-3 - 1e-12]),
        np.array([5.0, 0.0, -2.0, -8.0]),
    ],
)
def test_known_rates_in_frames_that_turn(logs):
    As = rotated_diagonal(np.random.default_rng(0), logs, LONG)
    # A step rounds a direction by what is ε times the largest factor, relative to its own.
    rounding = LONG * np.finfo(float).eps * np.exp(logs.max() - logs) * 30
    got = of_product(As)
    expected = np.sort(LONG * logs)[::-1]
    assert (np.abs(got - expected) <= CLOSE + rounding).all()
    assert_spectrum(got, oracles_spectra.log_singular_values(As), atol=CLOSE + rounding.max())


def test_diagonal_products_of_every_size_of_entry():
    diagonal = 10.0 ** np.random.default_rng(0).integers(-140, 140, size=(T, H))
    As = diagonal[:, :, None] * np.eye(H)
    expected = np.sort(np.log(diagonal).sum(axis=0))[::-1]
    assert_spectrum(of_product(As), expected)


def test_orthogonal_steps_change_no_length():
    kernel = orthogonal(np.random.default_rng(0), H, H)
    cell = simple("identity", kernel)
    got = rj.jacobian_log_singular_values(cell, inputs(T))
    np.testing.assert_allclose(np.asarray(got), 0.0, atol=1e-11)
    As = orthogonal(np.random.default_rng(1), T, H, H)
    np.testing.assert_allclose(of_product(As), 0.0, atol=1e-12)


def test_a_linear_network_is_the_power_of_its_kernel():
    rng = np.random.default_rng(3)
    kernel, xs = rng.normal(size=(H, H)) / 2, inputs(T)
    got = rj.jacobian_log_singular_values(simple("identity", kernel), xs)
    As = np.broadcast_to(kernel.T, (T, H, H))
    assert_spectrum(got, oracles_spectra.log_singular_values(As))
    # A symmetric kernel has its eigenvalues for singular values.
    symmetric = kernel + kernel.T
    got = rj.jacobian_log_singular_values(simple("identity", symmetric), xs)
    expected = T * np.log(np.sort(np.abs(np.linalg.eigvalsh(symmetric)))[::-1])
    assert_spectrum(got, expected)


@pytest.mark.parametrize("a", [0.5, 1.0, 1.5])
def test_powers_of_a_jordan_block(a):
    # [[a, 1], [0, a]]**n = a**n [[1, n / a], [0, 1]], whose singular values are e^(±asinh(n / 2a)).
    # Beside it stands the transposed block, which has the same ones.
    block = np.zeros((H, H))
    block[:2, :2] = [[a, 1.0], [0.0, a]]
    block[2:, 2:] = block[:2, :2].T
    turns = np.arcsinh(LONG / (2 * a))
    expected = LONG * np.log(a) + np.array([turns, turns, -turns, -turns])
    assert_spectrum(of_product(np.broadcast_to(block, (LONG, H, H))), expected)
    block = a * np.eye(H) + np.eye(H, k=1)
    As = np.broadcast_to(block, (T, H, H))
    assert_spectrum(of_product(As), oracles_spectra.log_singular_values(As))


def padded(As):
    """The same product in T steps: no need to compile for another length."""
    return np.concatenate([As, np.broadcast_to(np.eye(H), (T - len(As), H, H))])


@pytest.mark.parametrize("seed", range(8))
def test_a_single_step_is_its_decomposition(seed):
    A = np.random.default_rng(seed).normal(size=(1, H, H))
    expected = np.log(np.linalg.svd(A[0], compute_uv=False))
    assert_spectrum(of_product(padded(A)), expected, atol=1e-10)


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_a_nilpotent_step_loses_one_dimension_at_a_time(steps):
    got = of_product(padded(np.broadcast_to(np.eye(H, k=1), (steps, H, H))))
    assert_spectrum(got, np.where(np.arange(H) < H - steps, 0.0, -np.inf), atol=1e-14)


@pytest.mark.parametrize("seed", range(3))
def test_dead_units_cost_exactly_the_rank(seed):
    rng = np.random.default_rng(seed)
    kernel, bias = rng.normal(size=(2 * H, 2 * H)) / 3, rng.uniform(1.0, 2.0, size=2 * H)
    cell = simple("relu", kernel, bias=bias)
    xs = 0.1 * inputs(T, seed)
    xs[60] *= 40.0  # Throws some of the units below zero.
    As = jacobians(cell, xs)
    dead = (As == 0).all(axis=2).sum(axis=1)
    expected = oracles_spectra.log_singular_values(As)
    rank = np.isfinite(expected).sum()
    assert dead.max() > 0
    assert 0 < rank < 2 * H
    assert_spectrum(rj.jacobian_log_singular_values(cell, xs), expected)


@pytest.mark.parametrize("killed", [(), (0,), (1, 0)])
def test_units_that_keep_to_themselves_live_while_all_their_steps_do(killed):
    # W = I: the product is diagonal, one where a unit was alive at every step.
    kernel = np.zeros((FEATURES, 2 * H))
    kernel[[0, 1], [1, 4]] = 1.0
    cell = simple("relu", np.eye(2 * H), kernel=kernel, bias=np.ones(2 * H))
    xs = np.full((T, FEATURES), 0.5)
    for feature in killed:  # Their units at different times, and alive again afterwards.
        xs[10 + 50 * feature, feature] = -1e4
    expected = np.where(np.arange(2 * H) < 2 * H - len(killed), 0.0, -np.inf)
    assert_spectrum(rj.jacobian_log_singular_values(cell, xs), expected, atol=1e-13)


def test_dead_units_beside_rates_far_below_the_smallest_float():
    rng = np.random.default_rng(5)
    As = rotated_diagonal(rng, np.log([0.5, 0.3, 1e-2, 1e-3]), LONG)
    As[200, 1] = 0.0  # A unit that is dead at one step,
    As[300, :, 2] = 0.0  # and one that no one hears at another.
    expected = oracles_spectra.log_singular_values(As)
    assert np.isneginf(expected).sum() >= 1
    assert expected[1] < np.log(np.finfo(float).tiny)
    assert_spectrum(of_product(As), expected)


def test_steps_of_lower_rank_without_a_zero_in_them():
    rng = np.random.default_rng(6)
    As = rng.normal(size=(T, H, H))
    As[10, 3] = As[10, 1]  # Two rows that are one.
    As[25] = np.round(3 * As[25])
    As[25, :, 0] = As[25, :, 2] - 2 * As[25, :, 1]
    expected = oracles_spectra.log_singular_values(As)
    assert np.isfinite(expected).sum() == 3
    assert_spectrum(of_product(As), expected)


def test_an_lstm_without_recurrence_keeps_its_cell_state_alone():
    # ∂c_T/∂c_0 = Π f_t, ∂h_T/∂c_0 = o_T / cosh²(c_T) Π f_t, and nothing depends on h_0.
    cell, xs = zoo.CELLS["lstm"](FEATURES, H, 0), inputs(T)
    cell.recurrent_kernel[...] = jnp.zeros_like(cell.recurrent_kernel[...])
    weights = zoo.oracle(cell).weights
    pre = np.split(xs @ weights["kernel"] + weights["bias"], 4, axis=-1)
    i, f, o = (oracles.sigmoid(pre[gate]) for gate in (0, 1, 3))
    c = np.zeros(H)
    for t in range(T):
        c = f[t] * c + i[t] * np.tanh(pre[2][t])
    kept = np.log(f).sum(axis=0) + 0.5 * np.log1p((o[-1] * oracles.tanh_slope(c)) ** 2)
    expected = np.concatenate([np.sort(kept)[::-1], np.full(H, -np.inf)])
    assert_spectrum(rj.jacobian_log_singular_values(cell, xs), expected)


@pytest.mark.parametrize("name", ["simple_sigmoid", "lstm"])
def test_saturated_units_beside_others_that_are_not(name):
    # Slopes near 1e-12 in half the units, step after step.
    cell, xs = zoo.CELLS[name](FEATURES, H, 0), inputs(T)
    cell.bias[...] = cell.bias[...] - 27.0 * jnp.asarray(np.arange(cell.bias.size) % 2.0)
    As = jacobians(cell, xs)
    expected = oracles_spectra.log_singular_values(As)
    assert np.isfinite(expected).all()
    assert expected[0] - expected[-1] > 1000
    assert_spectrum(rj.jacobian_log_singular_values(cell, xs), expected)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("shape", [(H, 1), (1, H)], ids=["rows", "columns"])
def test_rows_or_columns_of_very_different_size(shape, seed):
    # What a saturated unit makes of its row is exact beside the others', however small it is; so is
    # what the others make of a unit that they hardly read.
    rng = np.random.default_rng(seed)
    sizes = 10.0 ** rng.permutation([0, 0, -24, -24])
    As = padded(sizes.reshape(shape) * rng.normal(size=(5, H, H)))
    assert_spectrum(of_product(As), oracles_spectra.log_singular_values(As))


@pytest.mark.parametrize("seed", [49, 121, 191])
def test_what_no_path_leads_through_counts_for_nothing(seed):
    # Of half the weights 0; with these seeds rounding would leave a direction that there is not.
    rng = np.random.default_rng(seed)
    As = rng.normal(size=(5, H, H))
    As[rng.random(As.shape) < 0.5] = 0.0
    assert_spectrum(of_product(padded(As)), oracles_spectra.log_singular_values(padded(As)))


@pytest.mark.parametrize("small", [1e-8, 1e-13, 1e-20, 1e-24])
def test_small_rows_that_tell_what_a_large_one_cannot(small):
    # Two columns are equal as far as the large row goes; only small rows tell them apart.
    A = np.eye(H)
    A[:3, :3] = [[-small, -small, 0], [1, 0, -1], [0, 0, small]]
    expected = oracles_spectra.log_singular_values(A[None])
    assert_spectrum(of_product(padded(A[None])), expected, atol=1e-12)


def test_small_integer_steps_of_every_rank_by_vmap_and_jit():
    # Rank is lost inside a step, between steps and all of it, in any column.
    batch = np.random.default_rng(0).integers(-1, 2, size=(400, 4, 3, 3)).astype(float)
    batch[:200, 2] = np.eye(3)
    batch[200, 1:3] = [[1, 0, 0], [1, 0, 0], [0, 0, 0]], [[0, 0, 0], [1, -1, 0], [0, 0, 0]]

    @jax.jit
    @jax.vmap
    def measured(xs):
        cell = linear(3)
        return rj.jacobian_log_singular_values(cell, xs, jnp.zeros(3), start=1, stop=3)

    table = measured(jnp.asarray(batch.reshape(400, 4, 9)))
    expected = [oracles_spectra.log_singular_values(As[1:3]) for As in batch]
    assert {np.isfinite(values).sum() for values in expected} == {0, 1, 2, 3}
    for got, values in zip(np.asarray(table), expected, strict=True):
        assert_spectrum(got, values, atol=1e-12)


def test_a_single_unit():
    cell, xs = zoo.CELLS["simple_tanh"](FEATURES, 1, 0), inputs(T)
    expected = oracles_spectra.log_singular_values(jacobians(cell, xs))
    assert_spectrum(rj.jacobian_log_singular_values(cell, xs), expected)


def test_start_stop_and_k_cut_the_product():
    As = 0.7 * np.random.default_rng(7).normal(size=(T, H, H))
    for start, stop in [(0, HALF), (HALF, None)]:
        expected = oracles_spectra.log_singular_values(As[start:stop])
        assert_spectrum(of_product(As, start=start, stop=stop), expected)
    whole = of_product(As)
    np.testing.assert_allclose(of_product(As, k=2), whole[:2], rtol=0, atol=CLOSE)
    np.testing.assert_array_equal(of_product(As, k=2, start=5, stop=5), np.zeros(2))


@hypothesis.given(
    seed=st.integers(0, 2**31), gain=st.integers(-40, 40), grading=st.floats(0.0, 12.0)
)
def test_laws_of_products(seed, gain, grading):
    rng = np.random.default_rng(seed)
    As = rng.normal(size=(T, H, H)) * 10 ** rng.uniform(-grading / 2, grading / 2, size=(T, H, 1))
    whole = of_product(As)
    # All of them together are the determinants, step by step.
    np.testing.assert_allclose(whole.sum(), np.linalg.slogdet(As)[1].sum(), rtol=1e-10, atol=CLOSE)
    # The transposed product has the same ones, and a factor per step shifts them all.
    np.testing.assert_allclose(of_product(As[::-1].transpose(0, 2, 1)), whole, rtol=0, atol=CLOSE)
    np.testing.assert_allclose(
        of_product(As * 2.0**gain) - whole, T * gain * np.log(2), rtol=0, atol=CLOSE
    )
    # And the orthogonal frame of the first and last state does not matter.
    As[0], As[-1] = As[0] @ orthogonal(rng, H, H), orthogonal(rng, H, H) @ As[-1]
    np.testing.assert_allclose(of_product(As), whole, rtol=0, atol=CLOSE)


@hypothesis.given(seed=st.integers(0, 2**31))
def test_leading_values_multiply_to_no_more_than_those_of_the_parts(seed):
    # Horn 1950: Σ_{i≤k} ln σ_i(A B) ≤ Σ_{i≤k} ln σ_i(A) + ln σ_i(B), with equality for k = S.
    As = np.random.default_rng(seed).normal(size=(T, H, H))
    parts = np.cumsum(of_product(As, stop=HALF) + of_product(As, start=HALF))
    whole = np.cumsum(of_product(As))
    assert (whole <= parts + CLOSE).all()
    np.testing.assert_allclose(whole[-1], parts[-1], rtol=0, atol=CLOSE)


def test_float32_rounds_the_matrices_that_it_is_given_and_no_more():
    As = np.random.default_rng(8).normal(size=(T, H, H)).astype(np.float32)
    got = of_product(0.1 * As)
    assert got.dtype == np.float32
    exact = oracles_spectra.log_singular_values((np.float32(0.1) * As).astype(np.float64))
    assert exact[-1] < 3 * np.log(np.finfo(np.float32).tiny)
    # Per step a few units of rounding, times how far from orthogonal a step is.
    condition = np.linalg.cond(As.astype(np.float64)).mean()
    assert_spectrum(got, exact, atol=T * condition * np.finfo(np.float32).eps)


def test_a_derivative_is_refused_with_the_way_out():
    cell, xs = zoo.CELLS["gru_reset_before"](FEATURES, H, 0), inputs(T)
    with pytest.raises((NotImplementedError, TypeError), match="lyapunov_exponents"):
        jax.grad(lambda xs: rj.jacobian_log_singular_values(cell, xs).sum())(jnp.asarray(xs))


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"start": 3, "stop": 2}, ValueError, "start.*3"),
        ({"stop": 7}, ValueError, "stop.*7"),
        ({"start": 7}, ValueError, "start.*7"),
        ({"start": -1}, ValueError, "start.*-1"),
        ({"k": 0}, ValueError, "k.*0"),
        ({"k": 4}, ValueError, "k.*4"),
        ({"k": 1.5}, TypeError, "k.*1.5"),
        ({"start": 1.0}, TypeError, "start.*1.0"),
        ({"stop": "2"}, TypeError, "stop.*2"),
        ({"k": True}, TypeError, "k.*True"),
    ],
)
def test_a_wrong_option_is_named_with_what_arrived(options, error, says):
    cell = zoo.CELLS["simple_tanh"](FEATURES, 3, 0)
    with pytest.raises(error, match=f"(?s){says}"):
        rj.jacobian_log_singular_values(cell, inputs(6), **options)


def test_inputs_that_are_no_sequence():
    cell = zoo.CELLS["simple_tanh"](FEATURES, 3, 0)
    with pytest.raises(ValueError, match="at least one"):
        rj.jacobian_log_singular_values(cell, np.zeros((0, FEATURES)))
    with pytest.raises(ValueError, match=r"jax\.vmap"):
        rj.jacobian_log_singular_values(cell, np.zeros((2, 6, FEATURES)))
