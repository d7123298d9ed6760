"""Every certificate is true: held against fifty digits, and against sampled derivatives."""

import decimal

import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from flax import nnx

import rnn_jax as rj
import zoo
from rnn_jax.gradients.fixed_points import intervals
from rnn_jax.gradients.fixed_points.certificate import certify
from rnn_jax.gradients.fixed_points.enclosures import formula_of

X = np.array([0.3, -0.4])
DIGITS = 50
PROVEN = [name for name in zoo.CELLS if name not in ("lstm_1997",)]


def exact_step(cell):
    """One step of one of our cells in mpmath: its equations once more, unit by unit."""
    weights = {k: v.tolist() for k, v in zoo.weights_of(cell).items()}
    H = cell.hidden_features

    def affine(values, kernel, bias):
        rows = range(len(values))
        return [
            mpmath.fsum(mpmath.mpf(kernel[k][j]) * values[k] for k in rows) + bias[j]
            for j in range(len(bias))
        ]

    def sigmoid(values):
        return [1 / (1 + mpmath.exp(-v)) for v in values]

    z = affine([mpmath.mpf(v) for v in X], weights["kernel"], weights["bias"])

    def simple(h):
        name = cell.activation.name.partition("(")[0]
        leak = {"relu": 0, "leaky_relu": mpmath.mpf(0.01)}
        phi = {
            "sigmoid": lambda v: 1 / (1 + mpmath.exp(-v)),
            "tanh": mpmath.tanh,
            "identity": lambda v: v,
            "softplus": lambda v: mpmath.log(1 + mpmath.exp(v)),
        }.get(name, lambda v: v if v > 0 else leak[name] * v)
        return [phi(v) for v in affine(h, weights["recurrent_kernel"], z)]

    def gru(h):
        kernel = weights["recurrent_kernel"]
        pre = affine(h, kernel, z)
        r, u = sigmoid(pre[:H]), sigmoid(pre[H : 2 * H])
        candidate = [row[2 * H :] for row in kernel]
        if cell.reset_after:
            inner = affine(h, candidate, weights["candidate_recurrent_bias"])
            inner = [a * b for a, b in zip(r, inner, strict=True)]
        else:
            inner = affine([a * b for a, b in zip(r, h, strict=True)], candidate, [0] * H)
        n = [mpmath.tanh(a + b) for a, b in zip(z[2 * H :], inner, strict=True)]
        return [(1 - a) * b + a * c for a, b, c in zip(u, n, h, strict=True)]

    def lstm(state):
        c, h = state[:H], state[H:]
        pre = affine(h, weights["recurrent_kernel"], z)
        blocks = {name: pre[k * H : (k + 1) * H] for k, name in enumerate(cell.blocks)}
        gated = [name for name in cell.blocks if name != "candidate"]
        peeps = dict(zip(gated, weights.get("peephole", [[0] * H] * len(gated)), strict=True))

        def gate(name, c):
            return sigmoid(
                [a + p * b for a, p, b in zip(blocks[name], peeps[name], c, strict=True)]
            )

        f = gate("forget", c) if "forget" in blocks else [mpmath.mpf(1)] * H
        i = gate("input", c) if "input" in blocks else [1 - a for a in f]
        g = [mpmath.tanh(v) for v in blocks["candidate"]]
        c = [a * b + d * e for a, b, d, e in zip(f, c, i, g, strict=True)]
        h = [a * mpmath.tanh(b) for a, b in zip(gate("output", c), c, strict=True)]
        if "projection_kernel" in weights:
            h = affine(h, weights["projection_kernel"], [0] * cell.output_features)
        return c + h

    kinds = {rj.SimpleRNNCell: simple, rj.GRUCell: gru, rj.LSTMCell: lstm}
    return kinds[type(cell)]


def exact_orbit(cell, orbit):
    """The orbit near one, to fifty digits, by a chord method of Newton's in mpmath."""
    step, (count, size) = exact_step(cell), orbit.shape
    state = [mpmath.mpf(v) for v in orbit.ravel()]
    blocks = [zoo.oracle(cell).jacobian(h, X)[0] for h in orbit]
    jacobian = np.kron(np.roll(np.eye(count), 1, axis=1), -np.eye(size))
    for k, block in enumerate(blocks):
        where = slice(k * size, (k + 1) * size)
        jacobian[where, where] += block
    inverse = np.linalg.inv(jacobian)
    for _ in range(8):
        points = [state[k * size : (k + 1) * size] for k in range(count)]
        after = [v for h in points for v in step(h)]
        onward = state[size:] + state[:size]
        g = [a - b for a, b in zip(after, onward, strict=True)]
        state = [
            v - mpmath.fsum(mpmath.mpf(a) * b for a, b in zip(row, g, strict=True))
            for v, row in zip(state, inverse.tolist(), strict=True)
        ]
    assert max(map(abs, g)) < mpmath.mpf(10) ** -30
    return state


def candidates(cell, seed=0):
    """Fixed points to rounding by Newton's method in NumPy, one for each of some starts."""
    oracle, rng = zoo.oracle(cell), np.random.default_rng(seed)
    found = []
    for _ in range(8):
        h = rng.normal(size=cell.hidden_features * len(cell.carry_parts))
        for _ in range(40):
            g = oracle.step(h, X)[0] - h
            h = h - np.linalg.solve(oracle.jacobian(h, X)[0] - np.eye(h.size), g)
            if not np.abs(h).max() < 1e3:
                break
        if np.abs(oracle.step(h, X)[0] - h).max() < 1e-13 and np.abs(h).max() < 10:
            found.append(h[None])
    assert found
    return found


@pytest.mark.parametrize("name", [*PROVEN, "softplus"])
def test_certificates_hold_to_fifty_digits(name):
    if name == "softplus":
        cell = zoo._ours(rj.SimpleRNNCell, activation="softplus")(2, 3, 1)
    else:
        cell = zoo.CELLS[name](2, 3, 1)
    cell.recurrent_kernel[...] *= 0.8
    formula = formula_of(cell, X)
    with mpmath.workdps(DIGITS):
        for orbit in candidates(cell):
            proven = certify(formula, orbit)
            assert proven is not None
            radius, uniqueness = proven
            assert radius < 1e-12
            assert uniqueness > 1e-4
            exact = exact_orbit(cell, orbit)
            off = max(abs(a - mpmath.mpf(b)) for a, b in zip(exact, orbit.ravel(), strict=True))
            assert off <= radius


@pytest.mark.parametrize("name", ["simple_tanh", "gru_reset_after", "lstm_peephole"])
@pytest.mark.parametrize("error", [1e-10, 1e-6, 1e-4, 1e-2])
def test_certificates_of_poor_candidates_still_hold_what_they_say(name, error):
    cell = zoo.CELLS[name](2, 2, 1)
    formula = formula_of(cell, X)
    rng = np.random.default_rng(0)
    orbits = np.stack(candidates(cell))
    places = np.unique(np.round(orbits, 9), axis=0)
    proven = 0
    for orbit in orbits:
        moved = orbit + error * rng.uniform(-1, 1, orbit.shape)
        certificate = certify(formula, moved)
        if certificate is None:
            continue
        proven += 1
        gaps = np.abs(places - moved).max(axis=(1, 2))
        assert gaps.min() <= certificate.radius + 1e-9
        # And only one of all that are known lies where there is said to be but one.
        assert (gaps <= certificate.uniqueness).sum() == 1
    assert proven or error > 1e-4


def test_orbits_of_period_two_are_proven_too():
    cell = rj.SimpleRNNCell(2, 2, rngs=zoo.nnx.Rngs(0))
    cell.recurrent_kernel[...] = jnp.asarray([[-2.0, 0.3], [0.2, -0.4]])
    found = rj.fixed_points(cell, X, starts=np.random.default_rng(0).normal(size=(20, 2)), period=2)
    assert len(found) >= 1
    assert found.certified.all()
    with mpmath.workdps(DIGITS):
        exact = exact_orbit(cell, found.orbits[0])
        off = max(
            abs(a - mpmath.mpf(b)) for a, b in zip(exact, found.orbits[0].ravel(), strict=True)
        )
        assert off <= found.radius[0]
    # Two points apart by more than the radius: it is no fixed point in disguise.
    assert np.abs(found.orbits[0, 0] - found.orbits[0, 1]).max() > 2 * found.radius[0]


@pytest.mark.parametrize("name", PROVEN)
def test_values_and_derivatives_are_enclosed_and_the_constant_is_one(name):
    cell = zoo.CELLS[name](2, 3, 2)
    formula, oracle = formula_of(cell, X), zoo.oracle(cell)
    rng = np.random.default_rng(1)
    size = zoo.flat(zoo.random_carry(cell, 0)).size
    for _ in range(5):
        h = rng.normal(size=size)
        value, slope = formula.enclose(h)
        with mpmath.workdps(DIGITS):
            exact = exact_step(cell)([mpmath.mpf(v) for v in h])
            for low, v, high in zip(value.low, exact, value.high, strict=True):
                assert low <= v <= high
        assert (value.high - value.low).max() < 1e-13
        jacobian = oracle.jacobian(h, X)[0]
        assert (slope.low <= jacobian + 1e-14).all()
        assert (slope.high >= jacobian - 1e-14).all()
        radius = 0.2
        constant = formula.lipschitz(h, radius)
        for _ in range(20):
            one, other = (h + radius * rng.uniform(-1, 1, size) for _ in range(2))
            change = oracle.jacobian(one, X)[0] - oracle.jacobian(other, X)[0]
            norm = np.abs(change).sum(axis=1).max()
            assert norm <= constant * np.abs(one - other).max() + 1e-12


def test_elementary_functions_are_enclosed():
    rng = np.random.default_rng(0)
    xs = np.concatenate([rng.normal(size=30) * s for s in (1e-30, 1e-8, 1, 20, 300, 1e4)])
    xs = np.concatenate([xs, [0.0, 719.9, -719.9, 720.0, -720.0]])
    exact = {
        intervals.sigmoid: lambda x: 1 / (1 + mpmath.exp(-x)),
        intervals.tanh: mpmath.tanh,
        intervals.softplus: lambda x: mpmath.log1p(mpmath.exp(x)),
    }
    with mpmath.workdps(DIGITS):
        for function, known in exact.items():
            low, high = function(intervals.point(xs))
            for a, x, b in zip(low, xs, high, strict=True):
                assert a <= known(mpmath.mpf(x)) <= b
            assert ((high - low) <= 4 * np.finfo(float).eps * np.maximum(1, np.abs(xs))).all()


def test_matrix_products_are_enclosed():
    rng = np.random.default_rng(0)
    matrix, values = rng.normal(size=(7, 40)), rng.normal(size=40) * 10.0 ** rng.integers(-8, 8, 40)
    low, high = intervals.times(matrix, intervals.point(values))
    with decimal.localcontext() as context:
        context.prec = 60
        for row, a, b in zip(matrix, low, high, strict=True):
            exact = sum(
                decimal.Decimal(u) * decimal.Decimal(v) for u, v in zip(row, values, strict=True)
            )
            assert decimal.Decimal(a) <= exact <= decimal.Decimal(b)


def test_nothing_is_proven_of_what_is_not_written_down():
    class Bent(rj.GRUCell):
        def step(self, carry, z):
            h, y = super().step(carry, z)
            return 0.9 * h, y

    rngs = zoo.nnx.Rngs(0)
    for cell in (
        Bent(2, 3, rngs=rngs),
        rj.SimpleRNNCell(2, 3, activation=jnp.sin, rngs=rngs),
        rj.GRUCell(2, 3, dtype=jnp.float64, rngs=rngs),
        rj.GRUCell(2, 3, activation_fn="sigmoid", rngs=rngs),
        rj.LSTMCell(2, 3, gate_fn="hard_tanh", rngs=rngs),
        rj.Zoneout(rj.GRUCell(2, 3, rngs=rngs), 0.1),
        zoo.FOREIGN["nnx_gru"](2, 3, 0)[0],
    ):
        assert formula_of(cell, X) is None
    assert formula_of(rj.GRUCell(2, 3, rngs=rngs), X) is not None


def test_at_a_kink_nothing_is_proven():
    cell = rj.SimpleRNNCell(2, 2, activation="relu", rngs=zoo.nnx.Rngs(0))
    cell.bias[...] = -jnp.asarray(X @ zoo.weights_of(cell)["kernel"], cell.bias.dtype)
    found = rj.fixed_points(cell, np.zeros(2), starts=np.full((1, 2), 0.1))
    cell.bias[...] = jnp.zeros(2, cell.bias.dtype)
    at_zero = rj.fixed_points(cell, np.zeros(2), starts=np.zeros((1, 2)))
    assert at_zero.is_fixed.all()
    assert not at_zero.certified.any()
    assert found.certified.any() or not found.is_fixed.any()


def test_where_the_derivative_is_singular_nothing_is_proven():
    """At the pitchfork's own point the fixed point is threefold, and no theorem speaks."""
    cell = rj.SimpleRNNCell(2, 1, param_dtype=jnp.float64, rngs=zoo.nnx.Rngs(0))
    cell.recurrent_kernel[...] = jnp.ones((1, 1))
    found = rj.fixed_points(cell, np.zeros(2), starts=np.zeros((1, 1)))
    assert found.is_fixed.all()
    assert not found.certified.any()


@pytest.mark.parametrize("make", [rj.SimpleRNNCell, rj.LSTMCell, rj.GRUCell])
def test_a_cell_without_biases_has_the_formula_of_one_whose_biases_are_zero(make):
    bare, full = (make(2, 3, use_bias=bias, rngs=nnx.Rngs(0)) for bias in (False, True))
    full.bias[...] = 0 * full.bias[...]
    state = np.linspace(-0.5, 0.5, zoo.flat(bare.initialize_carry((2,))).size)
    found, expected = (formula_of(cell, X).enclose(state) for cell in (bare, full))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.low, other.low, rtol=1e-14, atol=1e-15)
        np.testing.assert_allclose(one.high, other.high, rtol=1e-14, atol=1e-15)
