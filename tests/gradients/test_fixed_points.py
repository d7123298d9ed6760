"""Fixed points and orbits whose places are known, of every cell, in float64 whatever is set."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from flax import nnx
from jax.tree_util import Partial

import rnn_jax as rj
import zoo

A, B = 1.4, 0.3


def henon(state, _):
    x, y = state
    state = jnp.stack([1 - A * x**2 + y, B * x])
    return state, state


def logistic(r, h, _):
    return r * h * (1 - h), h


def one_unit(weight, h, x):
    h = jnp.tanh(weight * h + jnp.sum(x))
    return h, h


def around(count, size, *, scale=1.0, seed=0):
    return scale * np.random.default_rng(seed).normal(size=(count, size))


@functools.cache
def henon_points(period):
    return rj.fixed_points(henon, starts=around(40, 2), period=period)


def test_both_fixed_points_of_henon():
    found = henon_points(1)
    assert len(found) == 2
    assert found.is_fixed.all()
    root = np.sqrt((1 - B) ** 2 + 4 * A)
    for x in ((-(1 - B) + root) / (2 * A), (-(1 - B) - root) / (2 * A)):
        (row,) = np.flatnonzero(np.abs(found.points[:, 0] - x) < 1e-6)
        np.testing.assert_allclose(found.points[row], [x, B * x], rtol=1e-14)
        # λ² + 2Axλ − B = 0
        known = np.roots([1, 2 * A * x, -B])
        np.testing.assert_allclose(sorted(found.eigenvalues[row].real), sorted(known), rtol=1e-12)
    np.testing.assert_allclose(np.sort(found.points[:, 0])[-1], 0.6314, atol=5e-5)
    assert (found.speeds < 1e-14).all()
    assert not found.stable.any()
    # No one has written this map down as intervals, so nothing is proven of it.
    assert not found.certified.any()


def test_the_orbit_of_period_two_of_henon_and_no_fixed_point():
    found = henon_points(2)
    assert len(found) == 1
    # x² A² − A (1 − B) x + (1 − B)² − A = 0
    known = np.roots([A**2, -A * (1 - B), (1 - B) ** 2 - A])
    np.testing.assert_allclose(np.sort(found.orbits[0, :, 0]), np.sort(known), rtol=1e-13)
    np.testing.assert_allclose(found.orbits[0, :, 1], B * found.orbits[0, ::-1, 0], rtol=1e-13)
    assert found.lower_period > 0
    # det DF = −B at each point
    np.testing.assert_allclose(np.prod(found.eigenvalues[0]), B**2, rtol=1e-12)
    assert found.counts.sum() + found.lower_period + found.unsettled == 40


@pytest.mark.parametrize("period", [3, 4])
def test_orbits_of_the_logistic_map_are_the_roots_of_its_iterates(period):
    r = 3.84
    found = rj.fixed_points(
        Partial(logistic, r), starts=np.linspace(0.001, 0.999, 90)[:, None], period=period
    )
    iterate = np.polynomial.Polynomial([0, 1])
    for _ in range(period):
        iterate = r * iterate * (1 - iterate)
    # Roots of a polynomial of high degree are known roughly; Newton's method does the rest.
    roots = (iterate - np.polynomial.Polynomial([0, 1])).roots()
    real = np.sort(roots.real[(np.abs(roots.imag) < 1e-6)])
    minimal = [x for x in real if _period(r, x) == period]
    np.testing.assert_allclose(np.sort(found.orbits.ravel()), minimal, atol=1e-6)
    assert found.is_fixed.all()
    if period == 3:  # The window of period 3: one orbit is stable, its twin is not.
        assert found.stable.sum() == 1
        assert len(found) == 2
        slopes = np.prod(r * (1 - 2 * found.orbits[..., 0]), axis=1)
        np.testing.assert_allclose(found.eigenvalues[:, 0].real, slopes, rtol=1e-9)


def _period(r, x):
    now = x
    for steps in range(1, 7):
        now = r * now * (1 - now)
        if abs(now - x) < 1e-4:
            return steps
    return 0


@pytest.mark.parametrize(("weight", "count"), [(0.5, 1), (0.99, 1), (1.01, 3), (2.0, 3)])
def test_a_pitchfork(weight, count):
    found = rj.fixed_points(
        Partial(one_unit, weight), jnp.zeros(1), starts=np.linspace(-1.5, 1.5, 21)[:, None]
    )
    assert found.is_fixed.sum() == count
    known = [0.0]
    if count == 3:
        up = scipy.optimize.brentq(lambda h: np.tanh(weight * h) - h, 1e-3, 1.0, xtol=1e-15)
        known = [-up, 0.0, up]
    np.testing.assert_allclose(np.sort(found.points[:, 0]), known, atol=1e-13)
    slopes = weight * (1 - found.points[:, 0] ** 2)
    np.testing.assert_allclose(found.eigenvalues[:, 0].real, slopes, rtol=1e-9)
    np.testing.assert_array_equal(found.stable, np.abs(slopes) < 1)
    np.testing.assert_allclose(found.margin, 1 - np.abs(slopes), rtol=1e-6, atol=1e-12)
    # −1 / ln λ steps; rows are sorted, stable ones first.
    np.testing.assert_allclose(found.time_constants[:, 0], -1 / np.log(slopes), rtol=1e-6)
    assert (np.diff(found.stable.astype(int)) <= 0).all()


def test_where_it_passes_slowly_is_a_slow_point_and_no_fixed_one():
    def channel(h, _):
        return h + h**2 + 1e-4, h

    found = rj.fixed_points(channel, starts=np.linspace(-0.3, 0.3, 7)[:, None])
    assert len(found) == 1
    assert not found.is_fixed[0]
    np.testing.assert_allclose(found.points, 0, atol=1e-4)
    np.testing.assert_allclose(found.speeds, 1e-4, rtol=1e-4)
    strict = rj.fixed_points(channel, starts=np.linspace(-0.3, 0.3, 7)[:, None], slow=1e-5)
    assert len(strict) == 0
    assert strict.unsettled == 7
    assert strict.carries.shape == (0, 1)
    assert "0 fixed points" in strict.summary()


def ravel(carry):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(carry)])


# One of each kind; that a carry is flattened and widened rightly is the same for all.
SOME = [
    "simple_relu",
    "lstm_coupled_peephole",
    "linen_gru",
    "dict_readout",
]


@pytest.mark.parametrize("name", SOME)
def test_points_of_every_cell_are_where_it_stands_still(name):
    cell, carry = zoo.build(name, 2, 3, 1)
    x = np.array([0.3, -0.4])
    xs = jnp.asarray(np.tile(x, (20, 1)))
    starts = rj.sample_starts(cell, xs, 12, 0.3, key=jax.random.key(0), carry=carry)
    found = rj.fixed_points(cell, x, starts=starts)
    for row in range(len(found)):
        here = jax.tree.map(lambda leaf: leaf[row], found.carries)  # noqa: B023
        after, _ = cell(jax.tree.map(jnp.asarray, here), jnp.asarray(x))
        moved = np.linalg.norm(ravel(after) - ravel(here))
        np.testing.assert_allclose(moved, found.speeds[row], atol=1e-6)  # float32 weights: 1e-7
        assert moved < 1e-5 or not found.is_fixed[row]
        np.testing.assert_array_equal(ravel(here), found.points[row])
        if name in zoo.CELLS:
            oracle = zoo.oracle(cell)
            exact, _ = oracle.step(found.points[row], x)
            assert not found.is_fixed[row] or np.abs(exact - found.points[row]).max() < 1e-13
            jacobian, _ = oracle.jacobian(found.points[row], x)
            np.testing.assert_allclose(found.jacobians[row], jacobian, atol=1e-12)
    settled = found.counts.sum()
    assert settled + found.unsettled == 12
    assert found.is_fixed.any()


def test_a_linear_map_has_the_point_that_a_solver_gives():
    cell = zoo.CELLS["simple_identity"](2, 3, 0)
    cell.recurrent_kernel[...] *= 0.7
    x = np.array([0.3, -0.4])
    weights = zoo.weights_of(cell)
    z = x @ weights["kernel"] + weights["bias"]
    known = np.linalg.solve(np.eye(3) - weights["recurrent_kernel"].T, z)
    found = rj.fixed_points(cell, x, starts=around(5, 3))
    np.testing.assert_allclose(found.points, [known], rtol=1e-13)
    assert found.certified.all()
    assert found.stable.all()
    assert found.counts.tolist() == [5]


def test_nothing_is_missed_that_a_plain_loop_over_starts_finds():
    """Beside SciPy's solver, one start after another."""
    cell = rj.GRUCell(1, 4, recurrent_kernel_init=nnx.initializers.normal(1.5), rngs=nnx.Rngs(3))
    x, oracle, starts = np.array([0.2]), zoo.oracle(cell), around(25, 4, scale=0.7)
    found = rj.fixed_points(cell, x, starts=starts)
    plain = [
        scipy.optimize.root(lambda h: oracle.step(h, x)[0] - h, start, tol=1e-13)
        for start in starts
    ]
    places = np.stack([p.x for p in plain if p.success and np.abs(p.fun).max() < 1e-11])
    # Far out the update gate is 1 up to rounding, and a step nothing; in truth |h| < 1.
    places = places[np.abs(places).max(axis=1) < 1]
    fixed = found.points[found.is_fixed]
    gaps = np.linalg.norm(places[:, None] - fixed[None], axis=-1)
    assert (gaps.min(axis=1) < 1e-6).all()
    assert len(fixed) >= len(np.unique(np.round(places, 6), axis=0))


def test_indices_sum_to_one_where_none_is_missing():
    # At a pitchfork: 1 before it, and 1 − 1 + 1 beyond.
    for weight in (0.5, 2.0):
        found = rj.fixed_points(
            Partial(one_unit, weight), jnp.zeros(1), starts=np.linspace(-1.5, 1.5, 21)[:, None]
        )
        assert found.indices.sum() == 1
        assert "indices sum to 1: as for all" in found.summary()
        np.testing.assert_array_equal(found.indices, np.where(found.stable, 1, -1))
    less = found.select(found.stable)
    assert "indices sum to 2: 1 if none is missing" in less.summary()


def test_each_start_is_accounted_for():
    found = rj.fixed_points(Partial(one_unit, 2.0), jnp.zeros(1), starts=around(30, 1))
    assert found.counts.tolist() == [np.sum(found.labels == row) for row in range(len(found))]
    ends = found.select(found.stable)
    assert len(ends) == 2
    assert (ends.labels >= -1).all()
    assert ends.counts.tolist() == [np.sum(ends.labels == row) for row in range(2)]
    np.testing.assert_array_equal(ends.carries, ends.points)
    assert len(found.select(slice(0, 1))) == len(found.select([0])) == 1


def test_what_lies_between_is_found_from_what_is_found():
    # Two units that each hold a sign: nine points, of which the starts see two.
    def pair(h, _):
        h = jnp.tanh(2.0 * h)
        return h, h

    starts = np.concatenate([np.full((5, 2), 0.9), np.full((5, 2), -0.9)])
    found = rj.fixed_points(pair, starts=starts)
    assert len(rj.fixed_points(pair, starts=starts, between=False)) == 2
    assert len(found) == 3
    assert found.counts.tolist() == [5, 5, 0]
    np.testing.assert_allclose(found.points[2], 0, atol=1e-12)
    assert found.labels.tolist() in ([0] * 5 + [1] * 5, [1] * 5 + [0] * 5)


def test_float64_without_enabling_it():
    with jax.enable_x64(False):
        cell = rj.GRUCell(2, 4, rngs=nnx.Rngs(0))
        starts = rj.sample_starts(
            cell, jnp.zeros((5, 2), jnp.float32), 4, 0.1, key=jax.random.key(0)
        )
        assert starts.dtype == jnp.float32
        found = rj.fixed_points(cell, jnp.zeros(2, jnp.float32), starts=starts)
        assert not jax.config.jax_enable_x64
        assert jnp.zeros(1).dtype == jnp.float32
    assert found.points.dtype == np.float64
    assert (found.speeds < 1e-15).all()
    np.testing.assert_allclose(found.points[0], _settled(cell), atol=1e-13)


def _settled(cell):
    oracle, h = zoo.oracle(cell), np.zeros(cell.hidden_features)
    for _ in range(3000):
        h, _ = oracle.step(h, np.zeros(cell.in_features))
    return h


def test_a_cell_that_insists_on_float32_is_searched_in_it():
    cell = nnx.SimpleCell(2, 3, dtype=jnp.float32, param_dtype=jnp.float32, rngs=nnx.Rngs(0))
    found = rj.fixed_points(cell, np.zeros(2, np.float32), starts=np.zeros((2, 3), np.float32))
    assert found.is_fixed.any()
    assert (found.speeds < 1e-4).all()
