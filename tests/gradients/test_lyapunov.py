"""Lyapunov exponents: published values, closed forms, and a loop in plain NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial
from test_reference import FEATURES, QUICK, H, network
from test_singular_values import inputs, linear, orthogonal

import oracles_spectra
import rnn_jax as rj
import zoo

STEPS = 60
# Of most products here, and what is left out of most: another length is another program.
LONG, SETTLED, SIZE = 300, 150, 3


def of_product(As, **options):
    """The spectrum of A_T ⋯ A_1, as of a cell whose inputs are the A_t."""
    As = np.asarray(As)
    steps, size, _ = As.shape
    xs, carry = As.reshape(steps, size * size), np.zeros(size, As.dtype)
    return rj.lyapunov_exponents(linear(size), xs, carry, **options)


def of_rates(logs, **options):
    """The spectrum of diag(e^logs), again and again."""
    return of_product(np.broadcast_to(np.diag(np.exp(logs)), (LONG, SIZE, SIZE)), **options)


def by_exponent(growth, steps):
    """Columns in the order of their exponents, as the package has them."""
    return growth[:, np.argsort(-growth.sum(axis=0), kind="stable")], steps


@functools.cache
def jacobians(name):
    net = network(name)
    return np.asarray(rj.linearize(net.cell, inputs(STEPS), net.carry).state_jacobians)


# J. C. Sprott, "Chaos and Time-Series Analysis", 2003, appendix A, has λ = 0.41922, −1.62319 a step
# and D = 1.25827 for Hénon, λ = 0.9056, 0, −14.5723 a unit of time and D = 2.06215 for Lorenz.


def test_the_map_of_henon():
    def step(carry, x):
        u, v = carry
        return jnp.stack([1.0 - 1.4 * u**2 + v + x[0], 0.3 * u]), u

    spectrum = rj.lyapunov_exponents(step, np.zeros((20_000, 1)), np.array([0.1, 0.1]), warmup=100)
    exponents, errors = np.asarray(spectrum.exponents), np.asarray(spectrum.standard_errors)
    assert (np.abs(exponents - [0.41922, -1.62319]) < 4 * errors).all()
    assert (errors < 0.01).all()
    # Every step shrinks areas by |det A_t| = 0.3.
    np.testing.assert_allclose(np.asarray(spectrum.growth).sum(axis=1), np.log(0.3), rtol=1e-12)
    np.testing.assert_allclose(exponents.sum(), np.log(0.3), rtol=1e-12)
    dimension = np.asarray(spectrum.kaplan_yorke_dimension)
    np.testing.assert_allclose(dimension, oracles_spectra.kaplan_yorke(exponents, 2), rtol=1e-12)
    np.testing.assert_allclose(dimension, 1.25827, atol=0.01)
    np.testing.assert_allclose(np.asarray(spectrum.entropy_rate), exponents[0], rtol=1e-12)


def test_the_flow_of_lorenz():
    width = 0.01

    def velocity(state):
        x, y, z = state
        return jnp.stack([10.0 * (y - x), x * (28.0 - z) - y, x * y - 8.0 / 3.0 * z])

    def step(state, x):
        one = velocity(state)
        two = velocity(state + 0.5 * width * one)
        three = velocity(state + 0.5 * width * two)
        four = velocity(state + width * three)
        state = state + width / 6 * (one + 2.0 * two + 2.0 * three + four)
        return state + x[0], state

    spectrum = rj.lyapunov_exponents(
        step, np.zeros((40_000, 1)), np.array([1.0, 1.0, 20.0]), warmup=1000, interval=50
    )
    exponents = np.asarray(spectrum.exponents) / width
    errors = np.asarray(spectrum.standard_errors) / width
    deviations = np.abs(exponents - [0.9056, 0.0, -14.5723])
    assert (deviations < 4 * errors).all()
    assert (deviations < [0.03, 0.01, 0.03]).all()
    assert (errors < 0.05).all()
    # The divergence of the flow is the same everywhere.
    np.testing.assert_allclose(exponents.sum(), -(10.0 + 1.0 + 8.0 / 3.0), rtol=1e-3)
    np.testing.assert_allclose(np.asarray(spectrum.kaplan_yorke_dimension), 2.06215, atol=0.01)


@pytest.mark.parametrize("size", [1, 3])
def test_products_of_gaussian_matrices(size):
    As = 0.5 * np.random.default_rng(size).normal(size=(8000, size, size))
    spectrum = of_product(As)
    expected = oracles_spectra.gaussian_exponents(size, 0.5)
    errors = np.asarray(spectrum.standard_errors)
    assert (np.abs(np.asarray(spectrum.exponents) - expected) < 4 * errors).all()
    # ln|R_ii| is that of a chi variable of S − i + 1 degrees, independent from step to step.
    exact = oracles_spectra.gaussian_standard_errors(size, 8000)
    np.testing.assert_allclose(errors, exact, rtol=0.25)


@pytest.mark.parametrize(
    ("name", "k", "warmup", "interval"),
    [
        *((name, None, 0, 1) for name in ("simple_tanh", "lstm_coupled_peephole")),
        ("lstm_coupled_peephole", 2, 7, 5),
        ("dict_readout", None, 3, 4),
    ],
)
def test_every_family_is_the_loop_in_plain_numpy(name, k, warmup, interval):
    net, As = network(name), jacobians(name)
    spectrum = rj.lyapunov_exponents(
        net.cell, inputs(STEPS), net.carry, k=k, warmup=warmup, interval=interval
    )
    growth, steps = by_exponent(*oracles_spectra.lyapunov_growth(As, k, warmup, interval))
    np.testing.assert_array_equal(np.asarray(spectrum.window_steps), steps)
    np.testing.assert_allclose(np.asarray(spectrum.growth), growth, rtol=0, atol=1e-8)
    assert spectrum.state_size == As.shape[1]
    assert spectrum.steps == STEPS - warmup == steps.sum()
    exponents = np.asarray(spectrum.exponents)
    np.testing.assert_allclose(exponents, growth.sum(axis=0) / steps.sum(), rtol=0, atol=1e-9)
    if k is None:
        determinants = np.linalg.slogdet(As[warmup:])[1]
        np.testing.assert_allclose(exponents.sum(), determinants.mean(), rtol=0, atol=1e-9)
    dimension = oracles_spectra.kaplan_yorke(exponents, As.shape[1])
    np.testing.assert_allclose(np.asarray(spectrum.kaplan_yorke_dimension), dimension)


def test_fewer_exponents_are_the_leading_ones():
    As = np.random.default_rng(0).normal(size=(LONG, SIZE, SIZE))
    # From other directions on, so once both have turned.
    whole, part = of_product(As, warmup=SETTLED), of_product(As, k=2, warmup=SETTLED)
    for field in ("growth", "exponents", "standard_errors"):
        got, expected = getattr(part, field), getattr(whole, field)
        np.testing.assert_allclose(np.asarray(got), np.asarray(expected)[..., :2], atol=1e-11)


# 74 windows of four steps and one of a single step.
WINDOWS = {"warmup": 3, "interval": 4}


def test_longer_windows_hold_the_same_growth():
    As = np.random.default_rng(1).normal(size=(LONG, SIZE, SIZE))
    by_step, by_four = of_product(As), of_product(As, **WINDOWS)
    np.testing.assert_array_equal(np.asarray(by_four.window_steps), [4] * 74 + [1])
    np.testing.assert_array_equal(np.asarray(by_step.window_steps), np.ones(LONG))
    counted = np.asarray(by_step.growth)[3:]
    grouped = np.add.reduceat(counted, np.arange(0, LONG - 3, 4))
    np.testing.assert_allclose(np.asarray(by_four.growth), grouped, atol=1e-10)
    np.testing.assert_allclose(np.asarray(by_four.exponents), counted.mean(axis=0), atol=1e-12)


def test_orthogonal_steps_have_no_exponents():
    As = np.broadcast_to(orthogonal(np.random.default_rng(0), SIZE, SIZE), (LONG, SIZE, SIZE))
    spectrum = of_product(As)
    np.testing.assert_allclose(np.asarray(spectrum.exponents), 0.0, atol=1e-14)
    np.testing.assert_allclose(np.asarray(spectrum.condition), 1.0, rtol=1e-12)


def test_a_network_at_rest_has_the_logs_of_its_eigenvalues():
    # Below the transition of random networks (g < 1) zero attracts, and A_t tends to W_hᵀ there.
    size, gain, rng = 20, 0.8, np.random.default_rng(2)
    kernel = gain * rng.normal(size=(size, size)) / np.sqrt(size)
    cell = rj.SimpleRNNCell(FEATURES, size, activation="tanh", rngs=nnx.Rngs(0))
    cell.recurrent_kernel[...] = jnp.asarray(kernel)
    xs, carry = np.zeros((6000, FEATURES)), 0.1 * rng.normal(size=size)
    spectrum = rj.lyapunov_exponents(cell, xs, carry, k=3, warmup=500)
    rates = np.sort(np.log(np.abs(np.linalg.eigvals(kernel))))[::-1]
    assert rates[0] < 0
    # A complex pair turns in its plane, which moves a finite-time value by O(1 / T).
    np.testing.assert_allclose(np.asarray(spectrum.exponents), rates[:3], atol=2 / 5500)
    np.testing.assert_array_equal(np.asarray(spectrum.kaplan_yorke_dimension), 0.0)
    np.testing.assert_array_equal(np.asarray(spectrum.entropy_rate), 0.0)


def test_the_warmup_forgets_the_first_frame():
    # Not normal, with known eigenvalues: from a frame that has settled, no transient is left.
    rates, rng = np.log([0.9, 0.6, 0.3]), np.random.default_rng(3)
    frame = rng.normal(size=(SIZE, SIZE))
    A = frame @ np.diag(np.exp(rates)) @ np.linalg.inv(frame)
    As = np.broadcast_to(A, (LONG, SIZE, SIZE))
    settled = np.asarray(of_product(As, warmup=SETTLED).exponents)
    np.testing.assert_allclose(settled, rates, atol=1e-12)
    growth, steps = oracles_spectra.lyapunov_growth(As[SETTLED:])
    assert np.abs(growth.sum(axis=0) / steps.sum() - rates).max() > 1e-3
    one = of_product(As, warmup=LONG - 1)
    np.testing.assert_allclose(np.asarray(one.growth), rates[None], atol=1e-12)


def scalar_step(carry, x):
    h = carry * jnp.exp(x)
    return h, h


@pytest.mark.parametrize(("rho", "interval"), [(0.0, 1), (0.5, 1), (0.5, 7), (-0.5, 1)])
def test_standard_errors_of_a_series_with_memory(rho, interval):
    series, steps = oracles_spectra.AR1(mean=-0.02, rho=rho, scale=0.1), 4000
    xs = series.sample(np.random.default_rng(4), 64, steps)[:, :, None]
    measure = functools.partial(rj.lyapunov_exponents, scalar_step, interval=interval)
    spectra = jax.vmap(measure, in_axes=(0, None))(jnp.asarray(xs), jnp.ones(1))
    exponents, errors = np.asarray(spectra.exponents), np.asarray(spectra.standard_errors)
    np.testing.assert_allclose(exponents, xs.mean(axis=1), rtol=0, atol=1e-14)
    exact = series.standard_error(steps)
    # Batches see a little less than the whole memory, and 64 estimates scatter.
    np.testing.assert_allclose(np.sqrt((errors**2).mean()), exact, rtol=0.15)
    assert np.abs(exponents + 0.02).max() < 4.5 * exact


def test_standard_errors_need_four_windows():
    xs = 0.1 * np.random.default_rng(5).normal(size=(24, 1))
    few = rj.lyapunov_exponents(scalar_step, xs, np.ones(1), interval=8)
    assert np.isnan(np.asarray(few.standard_errors)).all()
    enough = rj.lyapunov_exponents(scalar_step, xs, np.ones(1), interval=6)
    assert np.isfinite(np.asarray(enough.standard_errors)).all()


@pytest.mark.parametrize(
    ("logs", "k", "dimension", "entropy"),
    [
        ((-0.5, -1.0, -2.0), None, 0.0, 0.0),
        ((1.0, -0.5, -2.0), None, 2.25, 1.0),
        ((1.0, -2.0, -3.0), None, 1.5, 1.0),
        ((1.0, 0.5, -0.25), None, 3.0, 1.5),
        ((1.0, -2.0, -3.0), 1, np.nan, 1.0),
        ((1.0, -2.0, -3.0), 2, 1.5, 1.0),
        ((-1.0, -2.0, -3.0), 1, 0.0, 0.0),
        ((1.0, 0.5, -2.0), 2, np.nan, 1.5),
    ],
)
def test_dimension_and_entropy_of_known_exponents(logs, k, dimension, entropy):
    # Fewer directions than all have to turn first.
    spectrum = of_rates(logs, k=k, warmup=0 if k is None else SETTLED)
    np.testing.assert_allclose(np.asarray(spectrum.exponents), logs[:k], rtol=1e-13)
    np.testing.assert_allclose(np.asarray(spectrum.kaplan_yorke_dimension), dimension, rtol=1e-12)
    np.testing.assert_allclose(np.asarray(spectrum.entropy_rate), entropy, atol=1e-13)
    assert oracles_spectra.kaplan_yorke(logs[:k], 3) == pytest.approx(dimension, nan_ok=True)


def test_exponents_are_sorted_though_the_first_frame_is_not():
    # An axis of a diagonal product never turns towards a faster one.
    spectrum = of_rates((-1.0, 0.5, -2.0))
    np.testing.assert_allclose(np.asarray(spectrum.exponents), [0.5, -1.0, -2.0], rtol=1e-13)


@pytest.mark.parametrize("place", range(3))
def test_of_units_that_are_independent_one_direction_finds_the_fastest(place):
    logs = np.insert([-1.0, -2.0], place, -0.25)
    for spectrum in (of_rates(logs, k=k, warmup=SETTLED) for k in (1, 2)):
        known = np.sort(logs)[::-1][: len(spectrum.exponents)]
        np.testing.assert_allclose(np.asarray(spectrum.exponents), known, rtol=1e-13)


@pytest.mark.parametrize("warmup", [0, SETTLED])
@pytest.mark.parametrize("dead", [0, 1, 2])
def test_an_axis_that_is_dead_leaves_the_others_alone(dead, warmup):
    A, alive = np.zeros((SIZE, SIZE)), np.ix_(*[np.delete(np.arange(3), dead)] * 2)
    A[alive] = [[1.0, 0.2], [0.3, 2.0]]
    spectrum = of_product(np.broadcast_to(A, (LONG, SIZE, SIZE)), warmup=warmup)
    rates = [*np.sort(np.log(np.linalg.eigvals(A[alive])))[::-1], -np.inf]
    # Without a warm-up, the turn of the first frame is in it, one part in T.
    close = 1e-12 if warmup else 3 / LONG
    np.testing.assert_allclose(np.asarray(spectrum.exponents), rates, rtol=0, atol=close)
    np.testing.assert_allclose(np.asarray(spectrum.entropy_rate), rates[0], rtol=0, atol=close)


def test_running_and_grouped_estimates():
    As = np.random.default_rng(6).normal(size=(LONG, SIZE, SIZE))
    spectrum = of_product(As, **WINDOWS)
    growth, steps = by_exponent(*oracles_spectra.lyapunov_growth(As, None, 3, 4))
    running = growth.cumsum(axis=0) / steps.cumsum()[:, None]
    np.testing.assert_allclose(np.asarray(spectrum.convergence()), running, atol=1e-12)
    np.testing.assert_allclose(np.asarray(spectrum.exponents), running[-1], atol=1e-13)
    for windows in (5, 75):
        groups = len(growth) // windows
        used = growth[: groups * windows].reshape(groups, windows, SIZE).sum(axis=1)
        over = steps[: groups * windows].reshape(groups, windows).sum(axis=1)
        got = np.asarray(spectrum.finite_time(windows))
        np.testing.assert_allclose(got, used / over[:, None], atol=1e-12)
    for wrong in (0, 76, -1):
        with pytest.raises(ValueError, match=f"windows.*{wrong}"):
            spectrum.finite_time(wrong)


def test_vmap_and_jit_are_each_sequence():
    net = network("lstm_coupled_peephole")
    batch = np.stack([inputs(STEPS, seed) for seed in range(3)])
    options = {"k": 2, "warmup": 7, "interval": 5}
    measure = functools.partial(rj.lyapunov_exponents, net.cell, carry=net.carry, **options)

    @jax.jit
    @jax.vmap
    def measured(xs):
        spectrum = measure(xs)
        return spectrum, spectrum.kaplan_yorke_dimension

    mapped, dimensions = measured(jnp.asarray(batch))
    assert mapped.state_size == 2 * H
    for index, xs in enumerate(batch):
        one = measure(xs)
        for field in ("exponents", "standard_errors", "growth", "condition"):
            got, expected = (np.asarray(getattr(s, field)) for s in (mapped, one))
            np.testing.assert_allclose(got[index], expected, rtol=1e-9, atol=1e-12)
        expected = np.asarray(one.kaplan_yorke_dimension)
        np.testing.assert_allclose(np.asarray(dimensions)[index], expected, rtol=1e-9)


def test_float32_stays_near_float64():
    As = np.random.default_rng(7).normal(size=(LONG, SIZE, SIZE)).astype(np.float32)
    single, double = (of_product(matrices, warmup=SETTLED) for matrices in (As, np.float64(As)))
    assert single.exponents.dtype == jnp.float32
    for field in ("exponents", "standard_errors"):
        got, expected = (np.asarray(getattr(s, field)) for s in (single, double))
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


# By windows of three steps; by single steps they are in `test_one_record`.
def test_derivatives_by_the_weights():
    net, xs = network("simple_tanh"), inputs(9)
    vector, unravel = ravel_pytree(net.cell)
    weights = jnp.asarray([1.0, -0.6])
    direction = np.random.default_rng(8).normal(size=vector.shape)
    direction = jnp.asarray(direction / np.linalg.norm(direction))

    def value(vector):
        spectrum = rj.lyapunov_exponents(unravel(vector), xs, net.carry, k=2, warmup=2, interval=3)
        return weights @ spectrum.exponents

    def slope(vector):
        return jax.grad(value)(vector) @ direction

    def along(function, width=2e-3):
        def central(w):
            return (function(vector + w * direction) - function(vector - w * direction)) / (2 * w)

        return (4 * central(width / 2) - central(width)) / 3

    value_at = jax.jit(value, compiler_options=QUICK)
    slopes_at = jax.jit(jax.value_and_grad(slope), compiler_options=QUICK)
    first, second = slopes_at(vector)
    np.testing.assert_allclose(first, np.asarray(along(value_at)), rtol=1e-6)
    expected = np.asarray(along(lambda at: slopes_at(at)[0]))
    np.testing.assert_allclose(np.asarray(second @ direction), expected, rtol=1e-6)


def test_the_derivative_of_a_rate_is_one_over_the_factor():
    def value(factors):
        def step(factors, carry, x):
            h = factors * carry + x
            return h, h

        xs = jnp.zeros((400, 3), jnp.float32)
        return rj.lyapunov_exponents(Partial(step, factors), xs, xs[0]).exponents.sum()

    factors = jnp.asarray([0.5, 0.25, 1e-3], jnp.float32)
    found = jax.jit(jax.grad(value))(factors)
    np.testing.assert_allclose(np.asarray(found), 1 / factors, rtol=1e-5)


def test_a_window_that_outgrows_the_digits_is_warned_of():
    with pytest.warns(UserWarning, match="interval"):
        spectrum = of_rates(np.log([1.0, 0.5, 1e-3]), **WINDOWS)
    np.testing.assert_allclose(np.asarray(spectrum.condition), 1e12, rtol=1e-6)
    np.testing.assert_allclose(np.asarray(of_rates(np.log([1.0, 0.5, 0.5])).condition), 2.0)
    # One step is as ill conditioned as it is: no shorter window would help.
    assert np.asarray(of_rates(np.log([1.0, 0.5, 1e-12])).condition) > 1e11


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"k": 0}, ValueError, "k.*0"),
        ({"k": 4}, ValueError, "k.*4"),
        ({"k": 2.0}, TypeError, "k.*2.0"),
        ({"warmup": 6}, ValueError, "warmup.*6"),
        ({"warmup": -1}, ValueError, "warmup.*-1"),
        ({"warmup": 1.5}, TypeError, "warmup.*1.5"),
        ({"interval": 0}, ValueError, "interval.*0"),
        ({"interval": "2"}, TypeError, "interval.*2"),
    ],
)
def test_a_wrong_option_is_named_with_what_arrived(options, error, says):
    cell = zoo.CELLS["simple_tanh"](FEATURES, 3, 0)
    with pytest.raises(error, match=f"(?s){says}"):
        rj.lyapunov_exponents(cell, inputs(6), **options)


def test_inputs_that_are_no_sequence():
    cell = zoo.CELLS["simple_tanh"](FEATURES, 3, 0)
    with pytest.raises(ValueError, match="at least one"):
        rj.lyapunov_exponents(cell, np.zeros((0, FEATURES)))
    with pytest.raises(ValueError, match=r"jax\.vmap"):
        rj.lyapunov_exponents(cell, np.zeros((2, 6, FEATURES)))
