"""Covariant Lyapunov vectors: their law, closed forms, and Ginelli's algorithm in plain NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_lyapunov import STEPS, jacobians
from test_reference import FEATURES, network
from test_singular_values import inputs, linear, orthogonal

import oracles_spectra
import rnn_jax as rj
from refusing import refused

RATES = np.array([0.4, -0.1, -0.9])
# One size for most tests, so that they share one program: 240 steps, of which the middle third has
# settled from both ends.
LONG, SETTLED = 240, {"warmup": 80, "tail": 80}
MIDDLE = slice(80, 160)
EPS = np.finfo(float).eps


def of_product(As, **options):
    """The vectors of A_T ⋯ A_1, as of a cell whose inputs are the A_t."""
    As = np.asarray(As)
    steps, size, _ = As.shape
    xs, carry = As.reshape(steps, size * size), np.zeros(size, As.dtype)
    return rj.covariant_lyapunov_vectors(linear(size), xs, carry, **options)


SHORT = np.random.default_rng(11).normal(size=(12, 4, 4))


@functools.cache
def short():
    return of_product(SHORT)


def repeated(A, steps):
    return np.broadcast_to(A, (steps, *np.shape(A)))


def of_known_vectors(rng, steps, rates=RATES):
    """(As, vectors (T+1, S, S), log growth (T, S)): A_t = W_t diag(e^χ_t) W_{t−1}⁻¹."""
    W = rng.normal(size=(steps + 1, len(rates), len(rates)))
    W = W / np.linalg.norm(W, axis=1, keepdims=True)
    # No frame of vectors that nearly depend on one another, which would cost digits.
    W = W + 2 * orthogonal(rng, *W.shape)
    W = W / np.linalg.norm(W, axis=1, keepdims=True)
    growth = rates + 0.2 * rng.normal(size=(steps, len(rates)))
    return W[1:] @ (np.exp(growth)[:, :, None] * np.linalg.inv(W[:-1])), W, growth


def aligned(found, known):
    """Vectors with the signs of others, column by column."""
    found = np.asarray(found)
    return found * np.sign((found * known).sum(axis=-2, keepdims=True))


def assert_covariant(found, As, atol=100 * EPS):
    """A_t v(t−1) = e^χ(t) v(t), vectors of length 1, with 0 for e^−inf."""
    vectors, growth = np.asarray(found.vectors), np.asarray(found.local_exponents)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=0, atol=atol)
    sizes = np.linalg.norm(As, 2, axis=(1, 2))[:, None, None]
    residual = As @ vectors[:-1] - np.exp(growth)[:, None] * vectors[1:]
    assert (np.abs(residual) <= atol * sizes).all(), np.abs(residual / np.maximum(sizes, 1)).max()


def stretch(As, warmup, tail):
    return As[warmup : len(As) - tail]


@pytest.mark.parametrize(
    ("name", "k", "warmup", "tail"),
    [
        ("simple_tanh", None, 0, 0),
        ("lstm_coupled_peephole", 3, 7, 5),
        ("dict_readout", 1, 3, 0),
    ],
)
def test_every_family_is_ginelli_in_plain_numpy(name, k, warmup, tail):
    net, As = network(name), jacobians(name)
    found = rj.covariant_lyapunov_vectors(
        net.cell, inputs(STEPS), net.carry, k=k, warmup=warmup, tail=tail
    )
    vectors, growth = oracles_spectra.covariant_vectors(As, k, warmup, tail)
    order = np.argsort(
        -oracles_spectra.lyapunov_growth(As[: STEPS - tail], k, warmup)[0].sum(axis=0),
        kind="stable",
    )
    vectors, growth = vectors[:, :, order], growth[:, order]
    np.testing.assert_allclose(np.asarray(found.local_exponents), growth, rtol=0, atol=1e-7)
    np.testing.assert_allclose(aligned(found.vectors, vectors), vectors, rtol=0, atol=1e-7)
    assert_covariant(found, stretch(As, warmup, tail))
    assert found.start == warmup
    # And the spectrum that comes with them is that of the same steps.
    if not tail:
        spectrum = rj.lyapunov_exponents(net.cell, inputs(STEPS), net.carry, k=k, warmup=warmup)
        for got, expected in zip(*map(jax.tree.leaves, (found.spectrum, spectrum)), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-13)


def test_the_map_of_henon():
    def step(carry, x):
        u, v = carry
        return jnp.stack([1.0 - 1.4 * u**2 + v + x[0], 0.3 * u]), u

    steps, warmup, tail = 6000, 100, 100
    lin = rj.linearize(step, np.zeros((steps, 1)), np.array([0.1, 0.1]))
    found = rj.covariant_lyapunov_vectors(lin, warmup=warmup, tail=tail)
    # The orbit is chaotic, so both have the Jacobians of one and the same.
    As = np.asarray(lin.state_jacobians)
    vectors, growth = oracles_spectra.covariant_vectors(As, None, warmup, tail)
    np.testing.assert_allclose(np.asarray(found.local_exponents), growth, rtol=0, atol=1e-8)
    np.testing.assert_allclose(aligned(found.vectors, vectors), vectors, rtol=0, atol=1e-10)
    assert_covariant(found, stretch(As, warmup, tail))
    # Sprott 2003, as in `test_lyapunov`.
    errors = np.asarray(found.spectrum.standard_errors)
    exponents = np.asarray(found.exponents)
    assert (np.abs(exponents - [0.41922, -1.62319]) < 4 * errors).all()
    assert (errors < 0.02).all()
    # Homoclinic tangencies lie dense in its attractor: some of six thousand steps come near one.
    angles = np.asarray(found.splitting_angles())
    assert angles.shape == (steps - warmup - tail + 1,)
    assert angles.min() < 5e-3
    assert angles.max() > 1.0


def test_vectors_and_growth_that_are_known():
    As, vectors, growth = of_known_vectors(np.random.default_rng(0), LONG)
    found = of_product(As, **SETTLED)
    np.testing.assert_allclose(found.local_exponents, growth[MIDDLE], rtol=0, atol=1e-12)
    expected = vectors[80:161]
    np.testing.assert_allclose(aligned(found.vectors, expected), expected, rtol=0, atol=1e-12)
    assert_covariant(found, As[MIDDLE])


def test_they_near_the_known_ones_at_the_rates_of_the_gaps():
    As, vectors, _ = of_known_vectors(np.random.default_rng(1), 60)
    errors = np.abs(aligned(of_product(As).vectors, vectors) - vectors).max(axis=1)
    # From the left the leading one, from the right the last one; what lies between, from both.
    gaps = RATES[:-1] - RATES[1:]
    for index, from_start in ((0, True), (2, False)):
        series = errors[:31, index] if from_start else errors[:-32:-1, index]
        gap = gaps[0 if from_start else 1]
        assert 0.5 * gap < np.log(series[0] / series[20]) / 20 < 1.5 * gap
    assert errors[30].max() < 1e-4 < errors[0, 0]


def test_of_a_constant_map_they_are_the_eigenvectors():
    A = np.random.default_rng(2).normal(size=(3, 3))
    A = A @ np.diag([1.1, 0.6, 0.2]) @ np.linalg.inv(A)
    values, eigenvectors = np.linalg.eig(A)
    order = np.argsort(-np.abs(values))
    values, eigenvectors = values[order].real, eigenvectors[:, order].real
    found = of_product(repeated(A, LONG), **SETTLED)
    expected = np.broadcast_to(eigenvectors, found.vectors.shape)
    np.testing.assert_allclose(aligned(found.vectors, expected), expected, rtol=0, atol=1e-11)
    logs = np.broadcast_to(np.log(np.abs(values)), found.local_exponents.shape)
    np.testing.assert_allclose(np.asarray(found.local_exponents), logs, rtol=0, atol=1e-11)
    for j in (1, 2):
        angle = oracles_spectra.smallest_angle(eigenvectors[:, :j], eigenvectors[:, j:])
        got = np.asarray(found.splitting_angles(j))
        np.testing.assert_allclose(got, angle, rtol=1e-10)


@pytest.mark.parametrize("grades", [(0, 0, 0), (0, -8, -20), (-15, 0, -30)])
def test_graded_steps_are_those_of_exact_arithmetic(grades):
    """Units whose slopes are 10^grade, as saturated ones: rows of the Jacobian far apart."""
    rng = np.random.default_rng(3)
    slopes = 10.0 ** (np.array(grades) + rng.uniform(-1, 1, size=(60, 3)))
    As = slopes[:, :, None] * rng.normal(size=(60, 3, 3))
    vectors, growth = oracles_spectra.covariant_vectors_exactly(As, 300 - 65 * min(grades))
    order = np.argsort(-growth.sum(axis=0))
    found = of_product(As)
    vectors, growth = vectors[:, :, order], growth[:, order]
    np.testing.assert_allclose(np.asarray(found.local_exponents), growth, rtol=0, atol=1e-9)
    np.testing.assert_allclose(aligned(found.vectors, vectors), vectors, rtol=0, atol=1e-9)


def test_the_leading_ones_span_what_gram_schmidt_spans():
    As = np.random.default_rng(4).normal(size=(60, 3, 3))
    found = of_product(As)
    frames = [np.eye(3)]
    for A in As:
        frames.append(np.linalg.qr(A @ frames[-1])[0])
    vectors, frames = np.asarray(found.vectors), np.stack(frames)
    np.testing.assert_allclose(aligned(found.frames, frames), frames, rtol=0, atol=1e-10)
    # Not only those that the package has: each vector, less its shadow in the span.
    for j in (1, 2, 3):
        basis = frames[:, :, :j]
        shadow = basis @ (basis.transpose(0, 2, 1) @ vectors[:, :, :j])
        np.testing.assert_allclose(shadow, vectors[:, :, :j], rtol=0, atol=1e-10)
    # The first is the leading backward Lyapunov vector itself.
    np.testing.assert_allclose(
        aligned(vectors[:, :, :1], frames[:, :, :1]), frames[:, :, :1], rtol=0, atol=1e-10
    )


def test_means_are_the_spectrum_but_for_the_angles_at_the_ends():
    As = np.random.default_rng(5).normal(size=(LONG, 3, 3))
    found = of_product(As, **SETTLED)
    growth, _ = oracles_spectra.lyapunov_growth(As[:160], None, 80)
    spectrum = growth.mean(axis=0)
    np.testing.assert_allclose(found.spectrum.exponents, spectrum, rtol=0, atol=1e-13)
    vectors = np.asarray(found.vectors)[[0, -1]]
    for i in range(1, 3):
        before, own = vectors[:, :, :i], vectors[:, :, i : i + 1]
        start, end = map(oracles_spectra.smallest_angle, before, own)
        boundary = np.log(np.sin(start) / np.sin(end)) / 80
        expected = spectrum[i] + boundary
        assert float(found.exponents[i]) == pytest.approx(expected, abs=1e-12)
    assert float(found.exponents[0]) == pytest.approx(spectrum[0], abs=1e-13)


def test_time_reversed():
    """Going back the same lines are covariant, the last one first, and all growth is opposite."""
    As, _, _ = of_known_vectors(np.random.default_rng(6), LONG)
    there, back = of_product(As, **SETTLED), of_product(np.linalg.inv(As)[::-1], **SETTLED)
    reversed_vectors = np.asarray(there.vectors)[::-1, :, ::-1]
    np.testing.assert_allclose(
        aligned(back.vectors, reversed_vectors), reversed_vectors, rtol=0, atol=1e-10
    )
    np.testing.assert_allclose(
        np.asarray(back.local_exponents),
        -np.asarray(there.local_exponents)[::-1, ::-1],
        rtol=0,
        atol=1e-10,
    )


def test_steps_that_are_scaled_and_coordinates_that_are_turned():
    rng = np.random.default_rng(7)
    As, U = of_known_vectors(rng, LONG)[0], orthogonal(rng, LONG + 1, 3, 3)
    factors = np.exp(rng.uniform(-600, 600, size=LONG))
    plain = of_product(As, **SETTLED)
    scaled = of_product(factors[:, None, None] * As, **SETTLED)
    np.testing.assert_allclose(
        np.asarray(scaled.local_exponents) - np.log(factors[MIDDLE])[:, None],
        np.asarray(plain.local_exponents),
        rtol=0,
        atol=1e-10,
    )
    np.testing.assert_allclose(scaled.vectors, plain.vectors, rtol=0, atol=1e-10)
    turned = of_product(U[1:] @ As @ U[:-1].transpose(0, 2, 1), **SETTLED)
    expected = U[80:161] @ np.asarray(plain.vectors)
    np.testing.assert_allclose(aligned(turned.vectors, expected), expected, rtol=0, atol=1e-10)
    np.testing.assert_allclose(turned.local_exponents, plain.local_exponents, rtol=0, atol=1e-10)


def test_orthogonal_steps_have_no_exponents():
    found = of_product(orthogonal(np.random.default_rng(0), LONG, 3, 3), **SETTLED)
    np.testing.assert_allclose(np.asarray(found.local_exponents), 0.0, atol=1e-13)
    np.testing.assert_allclose(np.asarray(found.splitting_angles(1)), np.pi / 2, rtol=1e-10)


# ---- Steps that map a direction to 0.


def test_a_relu_unit_that_is_off():
    """Its axis takes part in no step, the kernel is that of W in the units that are on."""
    cell = rj.SimpleRNNCell(FEATURES, 3, activation="relu", rngs=nnx.Rngs(0))
    kernel = np.random.default_rng(8).uniform(0.2, 1.0, size=(3, 3))
    cell.recurrent_kernel[...] = jnp.asarray(kernel)
    cell.kernel[...] = jnp.zeros((FEATURES, 3))
    cell.bias[...] = jnp.asarray([0.5, 0.5, -1e3])
    xs = inputs(9)
    found = rj.covariant_lyapunov_vectors(cell, xs, warmup=1)
    As = np.asarray(rj.linearize(cell, xs).state_jacobians)[1:]
    assert (As[:, 2] == 0).all()
    growth = np.asarray(found.local_exponents)
    assert np.isfinite(growth[:, :2]).all()
    assert np.isneginf(growth[:, 2]).all()
    assert np.isneginf(found.exponents[2])
    assert np.isneginf(found.spectrum.exponents[2])
    assert_covariant(found, As)
    # At every step but the last, of which no next one is known, the last vector spans the kernel.
    null = np.linalg.svd(As[0])[2][2]
    expected = np.broadcast_to(null, (len(As), 3))
    last = np.asarray(found.vectors)[:-1, :, 2:]
    np.testing.assert_allclose(
        aligned(last, expected[..., None])[..., 0], expected, rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("seed", range(6))
def test_units_that_come_and_go(seed):
    """Rows and columns of exact zeros, different ones at each step, axes that lie apart."""
    rng = np.random.default_rng(seed)
    As = rng.integers(-3, 4, size=(12, 4, 4)) * rng.integers(0, 2, size=(12, 4, 1))
    As = As * rng.integers(0, 2, size=(12, 1, 4)) if seed % 2 else As
    As = np.where(rng.random((12, 1, 1)) < 0.6, rng.normal(size=(12, 4, 4)), As)
    if seed > 3:  # two blocks that never mix, of which one dies early
        As[:, :2, 2:] = As[:, 2:, :2] = 0
        As[3, 0] = 0
    found = of_product(As)
    assert_covariant(found, As, 1e-12)
    alive = np.isfinite(np.asarray(found.local_exponents)).all(axis=0)
    assert alive.sum() == oracles_spectra.exact_rank(As)
    np.testing.assert_array_equal(alive, np.isfinite(np.asarray(found.exponents)))
    np.testing.assert_array_equal(alive, np.isfinite(np.asarray(found.spectrum.exponents)))
    # At each step as many vectors are mapped to 0 as it has lost of its rank.
    lost = np.isneginf(np.asarray(found.local_exponents)).sum(axis=1)
    np.testing.assert_array_equal(lost, 4 - np.linalg.matrix_rank(As))


# ---- Angles.


def test_angles_are_those_between_the_vectors():
    found = short()
    vectors = np.asarray(found.vectors)
    for one, other in (([0], [1]), ([0, 2], [3]), ([1, 2], [0, 3]), (3, None)):
        first = [one] if isinstance(one, int) else one
        second = other or [i for i in range(4) if i not in first]
        expected = [oracles_spectra.smallest_angle(v[:, first], v[:, second]) for v in vectors]
        np.testing.assert_allclose(np.asarray(found.angles(one, other)), expected, atol=1e-12)
    np.testing.assert_array_equal(found.splitting_angles(2), found.angles([0, 1]))
    positive = int((np.asarray(found.spectrum.exponents) > 0).sum())
    np.testing.assert_array_equal(found.splitting_angles(), found.angles(range(positive)))


@pytest.mark.parametrize("angle", [1.5, 1e-3, 1e-9])
def test_a_small_angle_keeps_its_digits(angle):
    frame = np.array([[1.0, np.cos(angle)], [0.0, np.sin(angle)]])
    # In coordinates in which the first vector is an axis, A is triangular and rounds nothing.
    A = np.diag([2.0, 0.5, 0.2])
    A[0, 1] = (0.5 - 2.0) * np.cos(angle) / np.sin(angle)
    np.testing.assert_allclose(A[:2, :2] @ frame, frame * [2.0, 0.5], rtol=1e-6, atol=1e-6)
    found = of_product(repeated(A, LONG), **SETTLED)
    np.testing.assert_allclose(np.asarray(found.splitting_angles(1)), angle, rtol=1e-6)


# ---- Size, modes, refusals.


def shapes_of(jaxpr):
    for equation in jaxpr.eqns:
        yield from (variable.aval.shape for variable in equation.outvars)
        for inner in jax.tree.leaves(
            list(equation.params.values()),
            is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr"),
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from shapes_of(inner)


def test_no_matrix_of_the_state_by_itself_is_formed():
    size, k, steps = 300, 3, 5

    def step(h, x):
        h = jnp.tanh(1.2 * h + 0.5 * jnp.roll(h, 1) + x[0])
        return h, h[:1]

    def measure(xs, carry):
        found = rj.covariant_lyapunov_vectors(step, xs, carry, k=k, warmup=1, tail=1)
        return found.vectors, rj.local_lyapunov_exponents(step, xs, carry, k=k, window=2)

    traced = jax.make_jaxpr(measure)(jnp.zeros((steps, 1)), jnp.ones(size))
    largest = max(int(np.prod(shape)) for shape in shapes_of(traced.jaxpr))
    assert size * k <= largest <= steps * size * k


def test_without_vectors_the_rest_is_the_same():
    whole, rest = short(), of_product(SHORT, vectors=False)
    assert rest.frames is None
    np.testing.assert_allclose(rest.local_exponents, whole.local_exponents, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(rest.angles(0), whole.angles(0), rtol=1e-12)
    refused(lambda: rest.vectors, ValueError, "need the frames", "vectors=True")


def test_vmap_and_jit_are_each_sequence():
    batch = np.stack([SHORT, SHORT[::-1]]).reshape(2, 12, 16)

    def measure(xs):
        found = rj.covariant_lyapunov_vectors(linear(4), xs, np.zeros(4))
        return found, found.vectors, found.exponents, found.angles(0), found.finite_time(5).mean

    mapped = jax.jit(jax.vmap(measure))(jnp.asarray(batch))
    for index, xs in enumerate(batch):
        for got, expected in zip(*map(jax.tree.leaves, (mapped, measure(xs))), strict=True):
            np.testing.assert_allclose(got[index], expected, rtol=1e-8, atol=1e-10)
    # A record of a batch has its properties too, and says what cannot be counted.
    np.testing.assert_allclose(mapped[0].vectors, mapped[1], rtol=1e-12)
    np.testing.assert_allclose(mapped[0].angles(0), mapped[3], rtol=1e-9)
    refused(lambda: mapped[0].splitting_angles(), ValueError, "one number for a batch", "unstable=")


def test_derivatives_are_those_of_differences():
    As = SHORT.reshape(12, 16)
    direction = np.random.default_rng(12).normal(size=As.shape)

    @jax.jit
    @jax.value_and_grad
    def value(As):
        found = rj.covariant_lyapunov_vectors(linear(4), As, np.zeros(4))
        return found.local_exponents[5, 1] - 2 * found.angles(0)[4] + 0.5 * found.vectors[3, 1, 2]

    width, (_, gradient) = 1e-6, value(As)
    above, below = (np.asarray(value(As + sign * width * direction)[0]) for sign in (1, -1))
    expected = (above - below) / (2 * width)
    np.testing.assert_allclose(np.sum(gradient * direction), expected, rtol=1e-6)


def test_float32_stays_near_float64():
    As, _, _ = of_known_vectors(np.random.default_rng(10), LONG)
    As = (1e-20 * As).astype(np.float32)
    single, double = of_product(As, **SETTLED), of_product(As.astype(np.float64), **SETTLED)
    assert single.vectors.dtype == single.local_exponents.dtype == jnp.float32
    np.testing.assert_allclose(single.local_exponents, double.local_exponents, rtol=0, atol=1e-4)
    np.testing.assert_allclose(
        aligned(single.vectors, np.asarray(double.vectors)), double.vectors, rtol=0, atol=1e-4
    )


def test_room_for_what_is_kept_of_every_step(monkeypatch):
    short()  # What is compiled already is asked for its size all the same.

    def call(**options):
        return of_product(SHORT, **options)

    def needs(**options):
        monkeypatch.setattr("rnn_jax.gradients.memory.available_bytes", lambda: 8)
        message = refused(lambda: call(**options), ValueError, "8 are free", "smaller k=")
        assert ("vectors=False" in message) == options.get("vectors", True)
        return int(message.split("need ")[1].split(" bytes")[0].replace(",", ""))

    small, large = needs(vectors=False), needs()
    assert large - small == 8 * (2 * 12 + 1) * 4 * 4
    monkeypatch.setattr("rnn_jax.gradients.memory.available_bytes", lambda: large)
    leaves = jax.tree.leaves(call())
    assert sum(leaf.nbytes for leaf in leaves) <= large
    monkeypatch.setattr("rnn_jax.gradients.memory.available_bytes", lambda: large - 1)
    refused(call, ValueError, f"{large - 1:,} are free")


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"k": 0}, ValueError, ["k must", "got 0"]),
        ({"k": 4}, ValueError, ["at most the size of the carry, S = 3", "got 4", "smaller"]),
        ({"k": 2.0}, TypeError, ["k must be a whole number", "2.0"]),
        ({"warmup": 6}, ValueError, ["warmup must be at most 5", "got 6"]),
        ({"warmup": 2, "tail": 4}, ValueError, ["tail must be at most 3", "got 4"]),
        ({"tail": -1}, ValueError, ["tail", "-1"]),
        ({"vectors": "no"}, TypeError, ["vectors must be True or False", "no"]),
    ],
)
def test_a_wrong_option_is_named_with_what_arrived(options, error, says):
    cell = rj.SimpleRNNCell(FEATURES, 3, rngs=nnx.Rngs(0))
    refused(lambda: rj.covariant_lyapunov_vectors(cell, inputs(6), **options), error, *says)


@pytest.mark.parametrize(
    ("ask", "error", "says"),
    [
        (lambda v: v.angles([0, 4]), ValueError, [r"in \[0, 4\)", r"got \[0, 4\]"]),
        (lambda v: v.angles([]), ValueError, ["distinct indices", r"got \[\]"]),
        (lambda v: v.angles([1, 1]), ValueError, ["distinct indices", r"\[1, 1\]"]),
        (lambda v: v.angles("ab"), TypeError, ["whole numbers", "'ab'"]),
        (lambda v: v.angles(1.0), TypeError, ["whole numbers", "1.0"]),
        (lambda v: v.angles([0, 1], [1, 2]), ValueError, ["without a vector in common"]),
        (lambda v: v.angles([0, 1, 2, 3]), ValueError, ["two subspaces", r"other=\[\]"]),
        (lambda v: v.splitting_angles(4), ValueError, ["1 to 3 of k = 4", "got 4", "unstable="]),
        (lambda v: v.splitting_angles(0), ValueError, ["unstable vectors and others", "got 0"]),
        (lambda v: v.finite_time(13), ValueError, ["window must be at most 12", "got 13"]),
    ],
)
def test_a_wrong_question_is_named_with_what_arrived(ask, error, says):
    refused(functools.partial(ask, short()), error, *says)


def test_windows_are_means_of_so_many_steps():
    local, growth = short().finite_time(5), np.asarray(short().local_exponents)
    expected = growth[:10].reshape(2, 5, 4).mean(axis=1)
    np.testing.assert_allclose(local.exponents, expected, rtol=1e-12)
    np.testing.assert_array_equal(local.ends, [5, 10])
    np.testing.assert_allclose(short().finite_time(6).mean, short().exponents, rtol=1e-12)
