"""Branches of fixed points: folds where calculus has them, and every point a fixed one."""

import numpy as np
import pytest
from flax import nnx
from jax.tree_util import Partial
from test_fixed_points import one_unit

import rnn_jax as rj
import zoo
from refusing import refuses

WEIGHT = 2.0
# h = tanh(w h + x) has folds where w (1 − h²) = 1.
FOLD = np.sqrt(1 - 1 / WEIGHT)
FOLD_INPUT = np.arctanh(FOLD) - WEIGHT * FOLD  # on the upper branch, below 0


def branches(first, last, starts, **options):
    path = np.linspace(first, last, 5)[:, None]
    cell = Partial(one_unit, WEIGHT)
    points = rj.fixed_points(cell, path[0], starts=np.asarray(starts)[:, None])
    return rj.continue_fixed_points(cell, path, points, **options)


def test_a_branch_turns_at_its_folds_and_goes_on():
    (branch,) = branches(-1.5, 1.5, [-1.0])
    assert branch.ending == "end"
    # Along the lower branch to its fold, back along the saddles, and on along the upper one.
    np.testing.assert_allclose(branch.inputs[branch.folds, 0], [-FOLD_INPUT, FOLD_INPUT], atol=1e-9)
    np.testing.assert_allclose(branch.points[branch.folds, 0], [-FOLD, FOLD], atol=1e-6)
    np.testing.assert_allclose(branch.eigenvalues[branch.folds, 0].real, 1, atol=1e-6)
    first, second = branch.folds
    slope = np.diff(branch.places)
    assert (slope[:first] > 0).all()
    assert (slope[first:second] < 0).all()
    assert (slope[second:] > 0).all()
    assert (np.abs(branch.stability_changes[:, None] - branch.folds[None]) <= 1).any(axis=0).all()
    h, x = branch.points[:, 0], branch.inputs[:, 0]
    np.testing.assert_allclose(np.tanh(WEIGHT * h + x), h, atol=1e-11)
    np.testing.assert_allclose(branch.eigenvalues[:, 0].real, WEIGHT * (1 - h**2), rtol=1e-9)
    np.testing.assert_allclose(branch.carries, branch.points)
    np.testing.assert_allclose(np.linspace(-1.5, 1.5, 5)[[0, -1]], x[[0, -1]], atol=1e-12)


def test_a_branch_may_come_back_to_where_it_started():
    # At x = −0.2 there are three; the upper one, pushed down, folds and comes back as the saddle.
    found = branches(-0.2, -1.5, [1.0])
    (branch,) = found
    assert branch.ending == "start"
    assert branch.folds.size == 1
    assert branch.places[-1] == 0
    assert not branch.stable[-1]
    assert branch.stable[0]


def test_each_point_is_a_branch():
    # From both ends, and the saddle that is found between them.
    found = branches(-0.2, 0.2, [-1.0, 1.0])
    assert len(found) == 3
    assert all(branch.ending == "end" and not branch.folds.size for branch in found)
    assert [branch.stable.all() for branch in found] == [True, True, False]
    assert not found[2].stable.any()


def test_each_point_of_a_path_with_corners_is_fixed_there():
    cell = rj.LSTMCell(2, 3, rngs=nnx.Rngs(1))
    cell.recurrent_kernel[...] *= 0.3
    path = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, -1.0]])
    starts = (np.zeros((1, 3)), np.zeros((1, 3)))
    points = rj.fixed_points(cell, path[0], starts=starts)
    (branch,) = rj.continue_fixed_points(cell, path, points.select(slice(0, 1)), step=0.3)
    assert branch.ending == "end"
    assert 1.0 in np.round(branch.places, 9)
    oracle = zoo.oracle(cell)
    for h, x, s in zip(branch.points, branch.inputs, branch.places, strict=True):
        after, _ = oracle.step(h, x)
        np.testing.assert_allclose(after, h, atol=1e-11)
        known = np.array([min(s, 1.0), -max(s - 1.0, 0.0)])
        np.testing.assert_allclose(x, known, atol=1e-12)
    c, h = branch.carries
    np.testing.assert_array_equal(np.concatenate([c, h], axis=1), branch.points)
    # The last is what a search under the last input finds.
    there = rj.fixed_points(cell, path[-1], starts=(c[-1:], h[-1:]))
    np.testing.assert_allclose(there.points[0], branch.points[-1], atol=1e-10)


def test_it_stops_where_it_is_told_to():
    (branch,) = branches(-1.5, 1.5, [-1.0], max_points=4)
    assert branch.ending == "max_points"
    assert len(branch) == 4


CELL = Partial(one_unit, WEIGHT)
PATH = np.array([[0.0], [1.0]])
AT = np.zeros((1, 1))
REFUSED = {
    "one input": (
        lambda: rj.continue_fixed_points(CELL, PATH[:1], AT),
        ValueError,
        "(K, I)",
        "(1, 1)",
        "linspace",
    ),
    "a vector": (
        lambda: rj.continue_fixed_points(CELL, PATH[:, 0], AT),
        ValueError,
        "(K, I)",
        "(2,)",
        "linspace",
    ),
    "words": (
        lambda: rj.continue_fixed_points(CELL, "path", AT),
        TypeError,
        "real numbers",
        "str",
        "linspace",
    ),
    "NaN": (
        lambda: rj.continue_fixed_points(CELL, PATH * np.nan, AT),
        ValueError,
        "finite",
        "inputs[0]",
        "Mend",
    ),
    "standing still": (
        lambda: rj.continue_fixed_points(CELL, PATH * 0, AT),
        ValueError,
        "must move",
        "inputs[0]",
        "Leave",
    ),
    "no fixed point": (
        lambda: rj.continue_fixed_points(lambda h, x: (h + 1 + 0 * x, h), PATH, AT),
        ValueError,
        "near fixed points",
        "row 0",
        "rnn_jax.fixed_points",
    ),
    "orbits": (
        lambda: rj.continue_fixed_points(
            CELL, PATH, rj.fixed_points(CELL, PATH[0], starts=AT, period=2)
        ),
        ValueError,
        "fixed points",
        "period 2",
        "period=1",
    ),
    "step": (
        lambda: rj.continue_fixed_points(CELL, PATH, AT, step=0),
        ValueError,
        "above 0",
        "got 0",
        "0.1",
    ),
    "points of another input": (
        lambda: rj.continue_fixed_points(
            CELL, PATH + 1, rj.fixed_points(CELL, PATH[0], starts=AT, between=False)
        ),
        ValueError,
        "first input, [1.]",
        "[0.]",
        "inputs[0]",
    ),
    "another carry": (
        lambda: rj.continue_fixed_points(
            rj.GRUCell(1, 3, rngs=nnx.Rngs(0)), PATH, np.zeros((1, 2))
        ),
        ValueError,
        "points must have",
        "[3]",
        "[2]",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case):
    call, error, *words = REFUSED[case]
    refuses(call, error, *words)
