"""Starts, files, refusals, and JAX's modes of the calls around fixed points."""

import collections
import dataclasses

import matplotlib as mpl

mpl.use("Agg")

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.tree_util import Partial
from test_fixed_points import around, henon, henon_points, one_unit

import rnn_jax as rj
import zoo
from leaks import checking_leaks
from refusing import refuses

CELL = Partial(one_unit, 2.0)


# ---- Starts


def test_starts_are_states_of_the_trajectory():
    cell = zoo.CELLS["lstm"](2, 3, 0)
    xs = jnp.asarray(np.random.default_rng(0).normal(size=(4, 6, 2)))
    c, h = rj.sample_starts(cell, xs, 50, key=jax.random.key(0))
    _, _, (cs, hs) = rj.unroll(cell, xs, return_carries=True)
    visited = np.concatenate([cs, hs], axis=-1).reshape(24, 6)
    drawn = np.concatenate([c, h], axis=-1)
    gaps = np.abs(drawn[:, None] - visited[None]).max(axis=-1)
    assert (gaps.min(axis=1) == 0).all()
    assert len(set(gaps.argmin(axis=1))) > 12  # most of the 24


def test_noise_has_the_standard_deviation_that_is_asked_for():
    cell = zoo.CELLS["gru_reset_after"](2, 3, 0)
    xs = jnp.zeros((1, 2))
    exact = rj.sample_starts(cell, xs, 1, key=jax.random.key(0))
    noisy = rj.sample_starts(cell, xs, 4000, 0.3, key=jax.random.key(0))
    deviations = np.asarray(noisy) - np.asarray(exact)
    np.testing.assert_allclose(deviations.std(axis=0), 0.3, rtol=0.05)
    np.testing.assert_allclose(deviations.mean(axis=0), 0, atol=0.02)
    again = rj.sample_starts(cell, xs, 4000, 0.3, key=jax.random.key(0))
    np.testing.assert_array_equal(noisy, again)


# ---- Files


Pair = collections.namedtuple("Pair", "c h")


def holding(carries):
    """A record whose two points have carries of another structure."""
    return dataclasses.replace(henon_points(1), carries=carries)


part = np.arange(6.0).reshape(2, 3)
SAVED = {
    "array": part,
    "tuple": (part, -part),
    "nested": {"outer": [part, (part + 1,)], "w": np.zeros((2, 3, 4)), "none": None},
}


def assert_equal(one, other):
    assert jax.tree.structure(one.carries) == jax.tree.structure(other.carries)
    jax.tree.map(np.testing.assert_array_equal, one.carries, other.carries)
    for name in (
        "points", "orbits", "speeds", "is_fixed", "jacobians", "eigenvalues", "radius",
        "uniqueness", "counts", "labels", "x", "period", "lower_period", "unsettled",
    ):  # fmt: skip
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert np.asarray(getattr(one, name)).dtype == np.asarray(getattr(other, name)).dtype


@pytest.mark.parametrize("kind", SAVED)
def test_a_file_holds_all_of_it(kind, tmp_path):
    found = holding(SAVED[kind])
    path = found.save(tmp_path / "points.npz")
    assert_equal(rj.FixedPoints.load(path), found)
    # Nothing in it can run code.
    with np.load(path, allow_pickle=False) as file:
        assert all(file[name].dtype != object for name in file.files)


def test_carries_of_other_containers_need_one_to_be_loaded(tmp_path):
    found = holding(Pair(part, -part))
    path = found.save(str(tmp_path / "points.npz"))
    refuses(lambda: rj.FixedPoints.load(path), TypeError, "needs one", "like=None", "like=carry")
    refuses(
        lambda: rj.FixedPoints.load(path, like=np.zeros(3)), ValueError, "2 leaves", "float64[3]"
    )
    assert_equal(rj.FixedPoints.load(path, like=Pair(np.zeros(3), np.zeros(3))), found)


def test_what_is_no_such_file_is_refused(tmp_path):
    path = henon_points(1).save(tmp_path / "points.npz")
    whole = path.read_bytes()
    for damaged in (b"", b"text", whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        refuses(lambda: rj.FixedPoints.load(path), ValueError, "points.npz must be", "Find")
    np.savez(path, points=np.zeros(3))
    refuses(lambda: rj.FixedPoints.load(path), ValueError, "FixedPoints.save", "Find")
    with pytest.raises(FileNotFoundError):
        rj.FixedPoints.load(tmp_path / "none.npz")


def test_the_summary_says_what_is_there():
    text = henon_points(2).summary()
    assert "1 orbits of period 2" in text
    assert "to shorter periods" in text
    text = rj.fixed_points(CELL, jnp.zeros(1), starts=around(21, 1)).summary()
    assert "3 fixed points: 2 stable, 1 unstable" in text


# ---- Refusals


def gru():
    return rj.GRUCell(2, 3, rngs=nnx.Rngs(0))


def find(cell=None, x=(0.0, 0.0), starts=None, **options):
    starts = np.zeros((1, 3)) if starts is None else starts
    return lambda: rj.fixed_points(cell or gru(), x, starts=starts, **options)


lstm = zoo.CELLS["lstm"](2, 3, 0)
REFUSED = {
    "no starts": (
        find(starts=np.zeros((0, 3))),
        ValueError,
        "at least one",
        "[0, 3]",
        "sample_starts",
    ),
    "one carry": (find(starts=np.zeros(3)), ValueError, "must have", "[3]", "[]"),
    "a scalar": (find(starts=np.zeros(())), ValueError, "leading axis", "[]", "a[None]"),
    "another size": (find(starts=np.zeros((2, 4))), ValueError, "starts must have", "[3]", "[4]"),
    "half an LSTM": (
        find(lstm, starts=part),
        ValueError,
        "starts must have",
        "[3]",
        "Leave starts out",
    ),
    "uneven": (
        find(lstm, starts=(part, np.zeros((3, 3)))),
        ValueError,
        "the same in each leaf",
        "[3, 3]",
    ),
    "integers": (find(starts=np.zeros((2, 3), int)), TypeError, "floating-point", "int64", "Cast"),
    "NaN starts": (
        find(starts=np.full((2, 3), np.nan)),
        ValueError,
        "starts must be finite",
        "row 0",
    ),
    "words": (find(starts=["a"]), TypeError, "pytree of arrays", "str"),
    "x too long": (find(x=np.zeros(3)), ValueError, "in_features=2", "3 features"),
    "x of a sequence": (
        find(x=np.zeros((4, 2))),
        ValueError,
        "(I,)",
        "(4, 2)",
        "continue_fixed_points",
    ),
    "x NaN": (find(x=[0.0, np.nan]), ValueError, "x must be finite", "feature 1"),
    "x in words": (find(x="one"), TypeError, "real numbers", "str", "floats"),
    "no x": (find(x=None), ValueError, "in_features=2", "0 features"),
    "tolerance": (find(tolerance=1e-20), ValueError, "at least 2.2e-16", "1e-20", "1e-12"),
    "tolerance above slow": (find(tolerance=1e-1), ValueError, "at most slow=", "0.1"),
    "slow": (find(slow=-1.0), ValueError, "slow must be above 0", "-1"),
    "distance": (find(distance=0.0), ValueError, "distance must be above 0", "0"),
    "period": (find(period=0), ValueError, "period must be at least 1", "0"),
    "max_steps": (find(max_steps=1.5), TypeError, "max_steps must be a whole number", "1.5"),
    "certify": (find(certify="yes"), TypeError, "certify must be True or False", "yes"),
    "a class": (find(rj.GRUCell), TypeError, "instance", "GRUCell"),
    "no pair": (find(lambda h, x: h), ValueError, "pair (carry, y)", "float64[3]"),
    "a counter": (
        find(lambda c, x: (c, x), starts=(part, np.zeros(2, int))),
        TypeError,
        "floating-point",
        "int64",
    ),
    "count": (
        lambda: rj.sample_starts(gru(), np.zeros((3, 2)), 0, key=jax.random.key(0)),
        ValueError,
        "count must be at least 1",
        "0",
    ),
    "noise": (
        lambda: rj.sample_starts(gru(), np.zeros((3, 2)), 2, -0.1, key=jax.random.key(0)),
        ValueError,
        "noise must be at least 0",
        "-0.1",
    ),
    "key": (
        lambda: rj.sample_starts(gru(), np.zeros((3, 2)), 2, key=3),
        TypeError,
        "key must be",
        "int",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case):
    call, error, *words = REFUSED[case]
    refuses(call, error, *words)


@pytest.mark.parametrize("transform", [jax.jit, jax.vmap, lambda f: jax.grad(lambda x: f(x).sum())])
def test_inside_transformations_it_is_refused(transform):
    def call(x):
        return rj.fixed_points(gru(), x, starts=np.zeros((1, 3))).points

    refuses(
        lambda: transform(call)(jnp.zeros((2,) if transform is not jax.vmap else (3, 2))),
        TypeError,
        "values",
        "traced",
        "outside",
    )


# ---- Modes of JAX


def everything():
    # Few steps of a small map: without jit each operation is a call of its own.
    found = rj.fixed_points(CELL, np.zeros(1), starts=np.full((1, 1), 0.95), max_steps=3)
    path = np.array([[0.0], [0.1]])
    (branch,) = rj.continue_fixed_points(CELL, path, found.points, step=1.0)
    return found.points, found.eigenvalues, branch.points


def test_in_modes_that_find_faults_it_finds_the_same():
    known = everything()
    with jax.disable_jit(), jax.debug_nans(True):
        plain = everything()
    with jax.debug_nans(True), checking_leaks():
        watched = everything()
    assert len(known[0]) == 1
    for one, two, three in zip(known, plain, watched, strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(three, one, rtol=1e-9, atol=1e-12)


def test_a_start_that_diverges_settles_nowhere_and_is_no_alarm():
    starts = np.concatenate([around(5, 2), np.full((1, 2), 1e200)])
    with jax.debug_nans(True):
        found = rj.fixed_points(henon, starts=starts)
    assert found.labels[-1] == -1
    assert found.unsettled >= 1
    assert np.isfinite(found.points).all()


# ---- A network that has learnt something


def test_two_bits_of_a_gru_as_the_readme_finds_and_draws_them(tmp_path):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        task = rj.tasks.FlipFlop(length=20, channels=2)
        cell = rj.GRUCell(2, 12, rngs=nnx.Rngs(0))
        model = rj.SequenceModel(cell, 2, readout="all", rngs=nnx.Rngs(1))
        model = rj.fit(model, task, optax.adam(1e-2), steps=500, batch_size=32, seed=0).model

        cell, xs = model.cells[0], task.sample(jax.random.key(0), 64).inputs
        starts = rj.sample_starts(cell, xs, 1000, 0.3, key=jax.random.key(1))
        found = rj.fixed_points(cell, x=[0.0, 0.0], starts=starts)
        print(found.summary())
        _, _, states = rj.unroll(cell, xs[:20], return_carries=True)
        found.plot(trajectories=states).figure.savefig(tmp_path / "fixed_points.png")
    fixed = found.select(found.is_fixed)
    assert fixed.certified.all()
    said = fixed.points[fixed.stable] @ np.asarray(model.kernel[...]) + np.asarray(model.bias[...])
    assert sorted(np.sign(said).tolist()) == [[-1, -1], [-1, 1], [1, -1], [1, 1]]
    # A square: four corners, a saddle on each side, and one in the middle.
    assert set(fixed.unstable_directions) == {0, 1, 2}
    assert len(fixed) <= 9


def test_a_bit_of_an_lstm_is_two_stable_points_and_what_lies_between():
    task = rj.tasks.FlipFlop(length=20, channels=1, probability=0.2)
    model = rj.SequenceModel(
        rj.LSTMCell(1, 6, rngs=nnx.Rngs(0)), 1, readout="all", rngs=nnx.Rngs(1)
    )
    model = rj.fit(model, task, optax.adam(2e-2), steps=300, batch_size=32, seed=0).model
    cell, xs = model.cells[0], task.sample(jax.random.key(3), 8).inputs
    starts = rj.sample_starts(cell, xs, 60, 0.1, key=jax.random.key(4))
    found = rj.fixed_points(cell, np.zeros(1), starts=starts)
    fixed = found.select(found.is_fixed)
    outputs = fixed.carries[1][fixed.stable] @ np.asarray(model.kernel[...])[:, 0]
    assert sorted(np.sign(outputs + np.asarray(model.bias[...]))) == [-1, 1]
    assert (~fixed.stable).sum() >= 1
    assert fixed.certified.all()
    c, h = fixed.carries
    np.testing.assert_array_equal(np.concatenate([c, h], axis=1), fixed.points)
