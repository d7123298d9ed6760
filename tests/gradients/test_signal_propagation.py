"""Mean-field theory of one network: against SciPy, wide networks in NumPy, and the instrument."""

import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.tree_util import Partial
from scipy import integrate, optimize, stats

import rnn_jax as rj
from refusing import refuses, table

WIDE, GATED = 600, 300


def sigmoid(u):
    return 1 / (1 + np.exp(-u))


def mean(function, variance):
    """E f(√q z) by adaptive quadrature."""
    root = math.sqrt(variance)
    points = [-8, -2, -0.5, 0, 0.5, 2, 8]
    return sum(
        integrate.quad(lambda z: function(root * z) * stats.norm.pdf(z), low, high, epsabs=1e-13)[0]
        for low, high in itertools.pairwise(points)
    )


def scale(parameter, gain):
    """Gives a square kernel just this gain."""
    kernel = np.asarray(parameter[...])
    parameter[...] = kernel * (gain / np.linalg.norm(kernel) * np.sqrt(kernel.shape[1]))


def simple(hidden=8, gain=1.0, **options):
    options = {"recurrent_kernel_init": f"gaussian({gain})", **options}
    return rj.SimpleRNNCell(32, hidden, rngs=nnx.Rngs(0), **options)


@functools.cache
def spread_of(drive):
    """The scale s of a standard normal variable z at which E tanh²(s z) is `drive`."""
    return optimize.brentq(lambda s: mean(lambda u: np.tanh(u) ** 2, s**2) - drive, 0.01, 50)


def minimal(hidden=64, gain=6.88, input_gain=1.39, drive=0.46, **options):
    """A minimalRNN of just these gains, with E z² = R for inputs of variance 1."""
    cell = rj.MinimalRNNCell(hidden, hidden, rngs=nnx.Rngs(0), **options)
    scale(cell.recurrent_kernel, gain)
    scale(cell.input_kernel, input_gain)
    kernel = np.asarray(cell.kernel[...])
    cell.kernel[...] = kernel / np.linalg.norm(kernel, axis=0) * spread_of(drive)
    return cell


def step_at_rest(cell):
    """A step's Jacobian there, in float64."""
    lin = rj.linearize(cell, jnp.zeros((1, cell.in_features)))
    return np.asarray(lin.state_jacobians[0])


@pytest.mark.parametrize(
    ("gain", "bias", "variance"), [(0.9, 0.0, 0.2), (1.7, 0.4, 0.0), (1.0, -0.8, 1.5)]
)
def test_of_a_simple_network_q_and_chi_solve_their_equations_by_scipy(gain, bias, variance):
    cell = simple(bias_init=f"constant({bias})", recurrent_kernel_init="orthogonal")
    theory = rj.mean_field(cell, input_variance=variance, gain=gain)
    source = variance * np.sum(np.asarray(cell.kernel[...]) ** 2) / cell.hidden_features
    square = mean(lambda u: np.tanh(u + bias) ** 2, theory.variance)
    slope = mean(lambda u: np.cosh(u + bias) ** -4, theory.variance)
    assert theory.variance == pytest.approx(gain**2 * square + source, rel=1e-9)
    assert theory.chi == pytest.approx(gain**2 * slope, rel=1e-9)
    assert theory.exponent == pytest.approx(0.5 * math.log(theory.chi), rel=1e-9)
    assert theory.length == pytest.approx(1 / abs(math.log(theory.chi)), rel=1e-9)


@pytest.mark.parametrize(
    ("activation", "gain", "bias"),
    [("tanh", 1.6, "normal(0.4)"), ("tanh", 1.0, "constant(0.5)"), ("relu", 0.9, "zeros")],
)
def test_a_wide_simple_network_has_that_variance_and_those_singular_values(activation, gain, bias):
    """By a loop in NumPy."""
    cell = simple(WIDE, gain, activation=activation, bias_init=bias)
    theory = rj.mean_field(cell, input_variance=0.5)
    w_x, w_h, b = (np.asarray(w[...]) for w in (cell.kernel, cell.recurrent_kernel, cell.bias))
    phi, slope = {
        "tanh": (np.tanh, lambda u: 1 - np.tanh(u) ** 2),
        "relu": (lambda u: np.maximum(u, 0), lambda u: 1.0 * (u > 0)),
    }[activation]
    random = np.random.default_rng(1)
    h, variances, squares = np.zeros(WIDE), [], []
    for step in range(120):
        u = random.normal(size=32) * math.sqrt(0.5) @ w_x + h @ w_h + b
        h = phi(u)
        if step >= 20:
            variances.append(np.mean((u - b.mean()) ** 2))
            squares.append(np.sum((slope(u) * w_h) ** 2) / WIDE)
    assert np.mean(variances) == pytest.approx(theory.variance, rel=0.05)
    assert np.mean(squares) == pytest.approx(theory.chi, rel=0.05)


def test_of_a_minimal_network_q_and_chi_are_those_of_scipy_and_of_the_paper():
    for gain, input_gain, published in ((6.88, 1.39, (15.94, 0.9988)), (4.0, 1.0, (None, 0.670))):
        theory = rj.mean_field(minimal(gain=gain, input_gain=input_gain), input_variance=1.0)
        q = theory.variance
        kept = mean(lambda u: sigmoid(u) ** 2, q)
        square = 0.46 * mean(lambda u: sigmoid(-u) ** 2, q) / (1 - kept)
        slope = mean(lambda u: (sigmoid(u) * sigmoid(-u)) ** 2, q)
        assert q == pytest.approx(gain**2 * square + input_gain**2 * 0.46, rel=1e-6)
        assert theory.chi == pytest.approx(kept + gain**2 * slope * (square + 0.46), rel=1e-6)
        if published[0] is not None:
            assert q == pytest.approx(published[0], abs=5e-3)
        assert theory.chi == pytest.approx(published[1], abs=5e-4)
        assert theory.exponent == pytest.approx(0.5 * math.log(theory.chi), rel=1e-9)


@pytest.mark.parametrize("bias", ["constant(-1)", "chrono(1, 30)"])
def test_a_population_of_units_comes_to_that_point(bias):
    """Gates whose pre-activations are drawn anew at each step, unit by unit, in NumPy.

    Squared gradients of each unit are handed on alongside: to itself by u², to all the others by
    the gate.
    """
    cell = minimal(hidden=50, gain=3.0, input_gain=0.8, bias_init=bias)
    theory = rj.mean_field(cell, input_variance=1.0)
    units = np.repeat(np.asarray(cell.bias[...]), 80)
    random = np.random.default_rng(0)
    h, grown = np.zeros(units.size), np.ones(units.size)
    variances, chis, growths = [], [], []
    for step in range(400):
        q = 9 * np.mean(h**2) + 0.64 * 0.46
        u = sigmoid(units + math.sqrt(q) * random.normal(size=units.size))
        z = math.sqrt(0.46) * random.normal(size=units.size)
        by_gate = 9 * ((h - z) * u * (1 - u)) ** 2
        chi = np.mean(u**2 + by_gate)
        grown = u**2 * grown + by_gate * grown.mean()
        growth = grown.mean()
        grown, h = grown / growth, u * h + (1 - u) * z
        if step >= 100:
            variances.append(q)
            chis.append(chi)
            growths.append(math.log(growth))
    assert np.mean(variances) == pytest.approx(theory.variance, rel=0.02)
    assert np.mean(chis) == pytest.approx(theory.chi, rel=0.02)
    assert np.mean(growths) == pytest.approx(2 * theory.exponent, abs=0.02)


@pytest.mark.parametrize("bias", [-1.0, 0.0, 3.0, 8.0])
def test_a_minimal_network_is_critical_where_chi_passes_one(bias):
    cell = minimal(update_bias=bias)
    critical = rj.mean_field(cell, input_variance=1.0).critical_gain
    assert 1 < critical < 200
    for share, above in ((0.5, False), (0.99, False), (1.01, True)):
        chi = rj.mean_field(cell, input_variance=1.0, gain=share * critical).chi
        assert (chi > 1) is above


def test_the_measured_exponent_of_a_wide_minimal_network_is_near_that_of_theory():
    cell = minimal(256, gain=4.0, input_gain=1.0)
    xs = np.random.default_rng(0).normal(size=(400, 256))
    measured = float(rj.lyapunov_exponents(cell, xs, k=1, warmup=80).exponents[0])
    assert measured == pytest.approx(rj.mean_field(cell, input_variance=1.0).exponent, abs=0.03)
    assert measured != pytest.approx(rj.mean_field(cell, input_variance=0.2).exponent, abs=0.03)


def test_gates_that_stay_open_remember_what_theory_leaves_out():
    """As documented: theory says that gradients grow, by up to .03 too much, and they do not."""
    cell = rj.MinimalRNNCell(8, 128, bias_init="chrono(1, 30)", rngs=nnx.Rngs(0))
    xs = np.random.default_rng(0).normal(size=(1000, 8))
    measured = float(rj.lyapunov_exponents(cell, xs, k=1, warmup=200).exponents[0])
    assert abs(measured) < 0.015 < rj.mean_field(cell, input_variance=1.0).exponent < 0.045


@pytest.mark.parametrize(
    ("reset_after", "update", "reset"),
    [(True, 0.0, -1.0), (True, 3.0, 1.0), (False, 0.0, 1.0), (False, 3.0, 0.0)],
)
def test_a_gru_is_critical_at_the_inverse_of_its_reset_gate(reset, update, reset_after):
    cell = rj.GRUCell(2, 8, reset_after=reset_after, rngs=nnx.Rngs(0))
    cell.bias[...] = jnp.repeat(jnp.array([reset, update, 0.0]), 8)
    theory = rj.mean_field(cell, gain=1.5)
    r, u = sigmoid(reset), sigmoid(update)
    assert theory.critical_gain == pytest.approx(1 / r, rel=1e-12)
    assert theory.exponent == pytest.approx(math.log(u + (1 - u) * r * 1.5), rel=1e-6)
    assert theory.chi == pytest.approx(u**2 + ((1 - u) * r * 1.5) ** 2, rel=1e-12)
    assert rj.mean_field(cell, gain=theory.critical_gain).exponent == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize(("bias", "published"), [(0.0, 2.0), (1.0, 1.076), (2.0, 0.477)])
def test_an_lstm_is_critical_where_its_forget_gate_says(bias, published):
    theory = rj.mean_field(rj.LSTMCell(2, 8, forget_bias=bias, rngs=nnx.Rngs(0)))
    f = sigmoid(bias)
    assert theory.critical_gain == pytest.approx(4 * (1 - f), rel=1e-12)
    assert theory.critical_gain == pytest.approx(published, abs=5e-4)
    assert theory.exponent == pytest.approx(math.log(f + 0.25), rel=1e-6)


def gru(**options):
    return rj.GRUCell(2, GATED, recurrent_kernel_init="gaussian(1.3)", rngs=nnx.Rngs(3), **options)


def lstm(**options):
    return rj.LSTMCell(2, GATED, recurrent_kernel_init="gaussian(1.3)", rngs=nnx.Rngs(3), **options)


AT_REST = {
    "gru, chrono, softer candidate": lambda: gru(
        bias_init="chrono(1, 50)", activation_fn=lambda u: 0.7 * jnp.tanh(u)
    ),
    "gru, reset before": lambda: gru(reset_after=False),
    "lstm, chrono": lambda: lstm(bias_init="chrono(1, 50)"),
    "lstm, coupled": lambda: lstm(coupled=True),
    "lstm, peephole": lambda: lstm(peephole=True),
    "lstm, nothing forgotten": lambda: lstm(forget_gate=False),
    "lstm, truncated": lambda: lstm(truncated=True, bias_init="chrono(1, 50)"),
    "lstm, truncated, nothing forgotten": lambda: lstm(truncated=True, forget_gate=False),
}


@pytest.mark.parametrize("make", AT_REST.values(), ids=AT_REST)
def test_a_wide_gated_network_has_that_spectrum_at_rest(make):
    cell = make()
    theory, jacobian = rj.mean_field(cell), step_at_rest(cell)
    radius = np.abs(np.linalg.eigvals(jacobian)).max()
    # Of 300 units and more: about 2 % of what is random.
    assert math.log(radius) == pytest.approx(theory.exponent, abs=0.03)
    assert np.sum(jacobian**2) / len(jacobian) == pytest.approx(theory.chi, rel=0.02)
    assert theory.variance == 0


def test_reset_gates_that_differ_stand_on_the_right_side_of_the_weights():
    for reset_after in (True, False):
        cell = gru(reset_after=reset_after)
        of_units = np.random.default_rng(0).normal(size=GATED) * 3
        # Of one unit, both gates are open or both are closed.
        biases = np.concatenate([of_units, of_units, np.zeros(GATED)])
        cell.bias[...] = jnp.asarray(biases, cell.bias[...].dtype)
        theory, jacobian = rj.mean_field(cell), step_at_rest(cell)
        assert np.sum(jacobian**2) / GATED == pytest.approx(theory.chi, rel=0.02)


def test_a_given_gain_stands_for_weights_of_that_gain():
    for cell in (simple(), gru(), lstm()):
        size = cell.hidden_features
        at = cell.blocks.index("candidate") * size if "candidate" in cell.blocks else 0
        before = rj.mean_field(cell)
        kernel = cell.recurrent_kernel[...]
        cell.recurrent_kernel[...] = kernel.at[:, at : at + size].multiply(1.2)
        after = rj.mean_field(cell)
        assert after.gain == pytest.approx(1.2 * before.gain, rel=1e-12)
        by_number = rj.mean_field(cell, gain=before.gain)
        assert dataclasses.astuple(by_number)[2:] == pytest.approx(
            dataclasses.astuple(before)[2:], rel=1e-12
        )


def test_where_there_is_nothing_to_hand_on():
    cell = simple(use_bias=False)
    assert rj.mean_field(cell, gain=0.0).exponent == -math.inf
    assert rj.mean_field(cell, gain=0.0).length == 0
    assert rj.mean_field(cell, gain=1.0).length == math.inf
    relu = rj.mean_field(simple(activation="relu"), input_variance=1.0)
    assert relu.critical_gain == math.inf
    no_inputs = rj.mean_field(minimal(update_bias=1.0))
    assert no_inputs.critical_gain == math.inf
    assert no_inputs.exponent == pytest.approx(math.log(sigmoid(1.0)), rel=1e-9)
    for options in ({"forget_gate": False}, {"coupled": True, "bias_init": "constant(60)"}):
        for truncated in (False, True):
            theory = rj.mean_field(lstm(**options, truncated=truncated))
            assert theory.critical_gain == 0
    assert rj.mean_field(lstm(truncated=True)).critical_gain == math.inf
    assert rj.mean_field(gru(), gain=0.0).exponent == pytest.approx(math.log(0.5))


@pytest.mark.parametrize(
    ("gain", "way"), [(0.5, "shrink"), (1.0, "keep their size"), (1.5, "grow")]
)
def test_a_line_says_which_way_gradients_go(gain, way):
    theory = rj.mean_field(gru_of_eight(), gain=2 * gain)
    assert f"gradients {way}, λ₁ {theory.exponent:.4f}" in theory.summary()
    assert "GRUCell, H = 8" in theory.summary()


def gru_of_eight(**options):
    return rj.GRUCell(2, 8, rngs=nnx.Rngs(0), **options)


def test_the_cell_may_be_wrapped_or_named_anew():
    class Mine(rj.GRUCell):
        """The same step."""

    mine = Mine(2, 8, rngs=nnx.Rngs(0))
    assert rj.mean_field(mine) == rj.mean_field(gru_of_eight())
    assert rj.mean_field(Partial(mine)) == rj.mean_field(mine)
    inside = jax.jit(lambda x: x * rj.mean_field(mine).critical_gain)
    assert float(inside(1.0)) == pytest.approx(2.0)
    with jax.enable_x64(False):
        low = rj.GRUCell(2, 8, rngs=nnx.Rngs(0))
        assert rj.mean_field(low).critical_gain == pytest.approx(2, rel=1e-6)


class Slower(rj.SimpleRNNCell):
    def step(self, carry, z):
        h, _ = super().step(carry, z)
        return 0.5 * (carry + h), h


def with_weights(cell, change):
    cell.recurrent_kernel[...] = change(cell.recurrent_kernel[...])
    return cell


def with_candidate_bias(value=1.0):
    cell = gru_of_eight()
    cell.bias[...] = jnp.full(24, value)
    return cell


def ensemble():
    return rj.ensemble(lambda rngs: rj.GRUCell(2, 8, rngs=rngs), [0, 1])


KINDS = "SimpleRNNCell, MinimalRNNCell, GRUCell or LSTMCell"


@table(
    another_kind=(
        lambda: rj.mean_field(rj.MGUCell(2, 8, rngs=nnx.Rngs(0))),
        *(ValueError, KINDS, "MGUCell", "lyapunov_exponents"),
    ),
    model=(
        lambda: rj.mean_field(rj.SequenceModel(gru_of_eight(), 1, rngs=nnx.Rngs(0))),
        *(ValueError, KINDS, "SequenceModel", ".cells[0]", "lyapunov_exponents"),
    ),
    own_step=(
        lambda: rj.mean_field(Slower(2, 8, rngs=nnx.Rngs(0))),
        *(ValueError, KINDS, "Slower with a step of its own", "lyapunov_exponents"),
    ),
    function=(
        lambda: rj.mean_field(lambda h, x: (h, h)),
        *(ValueError, KINDS, "function", "lyapunov_exponents"),
    ),
    a_class=(
        lambda: rj.mean_field(rj.GRUCell),
        *(ValueError, KINDS, "the class GRUCell", "lyapunov_exponents"),
    ),
    identity=(
        lambda: rj.mean_field(simple(32, recurrent_kernel_init="identity")),
        *(ValueError, "like random ones", "trace of 32", "gaussian(1.0)"),
    ),
    low_rank=(
        lambda: rj.mean_field(with_weights(simple(32), jnp.ones_like)),
        *(ValueError, "like random ones", "singular value of 32", "gaussian(1.0)"),
    ),
    not_finite=(
        lambda: rj.mean_field(with_weights(simple(), lambda w: w * jnp.nan)),
        *(ValueError, "finite weights", "recurrent_kernel", "anew"),
    ),
    ensemble=(
        lambda: rj.mean_field(ensemble()),
        *(ValueError, "one network", "(2, 8, 24)", "rj.member"),
    ),
    traced=(
        lambda: jax.jit(lambda cell: rj.mean_field(cell).chi)(gru_of_eight()),
        *(TypeError, "values are known", "traced recurrent_kernel", "outside of jax.jit"),
    ),
    mixing=(
        lambda: rj.mean_field(simple(activation=jax.nn.softmax)),
        *(ValueError, "element by element", "softmax", "tanh"),
    ),
    projection=(
        lambda: rj.mean_field(rj.LSTMCell(2, 8, projection=4, rngs=nnx.Rngs(0))),
        *(ValueError, "recurrent weights see as it is", "to 4 features", "projection=None"),
    ),
    gated_with_inputs=(
        lambda: rj.mean_field(gru_of_eight(), input_variance=1.0),
        *(ValueError, "without inputs", "input_variance=1", "lyapunov_exponents"),
    ),
    not_at_rest=(
        lambda: rj.mean_field(with_candidate_bias()),
        *(ValueError, "stays at rest", "moves by up to", "biases to 0"),
    ),
    not_zero_at_zero=(
        lambda: rj.mean_field(gru_of_eight(activation_fn="sigmoid")),
        *(ValueError, "stays at rest", "moves by up to 0.25", "0 at 0"),
    ),
    kink_at_zero=(
        lambda: rj.mean_field(gru_of_eight(activation_fn="relu")),
        *(ValueError, "smooth at 0", "jumps by 1", "tanh"),
    ),
    bias_not_finite=(
        lambda: rj.mean_field(with_candidate_bias(math.nan)),
        *(ValueError, "finite weights", "bias", "anew"),
    ),
    negative_gates=(
        lambda: rj.mean_field(rj.LSTMCell(2, 8, gate_fn=lambda u: -jnp.cos(u), rngs=nnx.Rngs(0))),
        *(ValueError, "at least 0", "got -1", "sigmoid"),
    ),
    negative_variance=(
        lambda: rj.mean_field(simple(), input_variance=-1.0),
        *(ValueError, "input_variance", "-1", "positive"),
    ),
    gain_of_no_number=(
        lambda: rj.mean_field(simple(), gain="high"),
        *(TypeError, "gain", "'high'", "float"),
    ),
)
def test_refusals(call, error, words):
    refuses(call, error, *words)
