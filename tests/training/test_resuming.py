"""Runs that go on where they stood, in one process, and models that come back from the disk."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree_util import Partial

import rnn_jax as rj
from training import runs, toys


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(directory, result) of a run of 8 steps."""
    directory = tmp_path_factory.mktemp("whole")
    return directory, runs.toy(directory)


def run_in_parts(directory, *ends, **changes):
    """The same run, with more and more steps asked for."""
    for steps in ends:
        result = runs.toy(directory, **{**changes, "steps": steps})
    return result


# Going on.


@pytest.mark.parametrize("ends", [(4, 8), (2, 4, 6, 8), (0, 6, 6, 8)])
def test_a_run_in_parts_is_the_run_at_once(ends, whole, tmp_path):
    result = run_in_parts(tmp_path, *ends)
    assert runs.result_bits(result) == runs.result_bits(whole[1])
    assert runs.records(tmp_path) == runs.records(whole[0])


def widened(weights, inputs):
    return toys.affine_last(weights, inputs).astype(inputs.dtype)


VARIANTS = {
    # Has a random key in its state, and an infinity.
    "key": {
        "optimizer": optax.chain(
            optax.add_noise(0.5, 0.55, jax.random.key(3)),
            optax.sgd(0.1),
            optax.contrib.reduce_on_plateau(),
        )
    },
    # Holds gradients back, so that a part may end between two updates.
    "accumulated": {"optimizer": optax.MultiSteps(optax.adam(0.1), 4).gradient_transformation()},
    "bfloat16": {"model": Partial(widened, *toys.linear(dtype=jnp.bfloat16).args)},
    "ensemble": {
        "model": toys.linears(0, 1),
        "members": 2,
        "optimizer": lambda rate: optax.sgd(rate, momentum=0.9),
        "hyperparameters": [0.1, 0.0],
        "task": toys.Mixing(solved_below=3.0),
    },
}


@pytest.mark.parametrize("name", VARIANTS)
def test_all_of_a_state_comes_back(name, tmp_path):
    changes = VARIANTS[name]
    at_once = runs.toy(tmp_path / "whole", **changes)
    in_parts = run_in_parts(tmp_path / "parts", 6, 8, **changes)
    assert runs.records(tmp_path / "parts") == runs.records(tmp_path / "whole")
    toys.identical(in_parts[:1] + in_parts[2:], at_once[:1] + at_once[2:])
    assert jax.tree.structure(in_parts.optimizer_state) == jax.tree.structure(
        at_once.optimizer_state
    )


def test_of_an_ensemble_a_member_that_was_done_stays_so(tmp_path):
    changes = VARIANTS["ensemble"]
    half = runs.toy(tmp_path, **{**changes, "steps": 6})
    # Which is what makes "ensemble" above worth its place.
    assert np.isnan(half.history.solved_at).tolist() == [False, True]
    result = runs.toy(tmp_path, **changes)
    toys.identical(rj.member(result.model, 0), rj.member(half.model, 0))
    assert np.isnan(result.history.loss[0, -1])


def test_parts_that_end_between_two_evaluations_add_one_and_lose_no_step(whole, tmp_path):
    result = run_in_parts(tmp_path, 3, 8)
    assert result.history.step.tolist() == [2, 3, 4, 6, 8]
    assert result.history.updates.tolist() == [2, 1, 1, 2, 2]
    assert result.history.probes["weights"].step.tolist() == [0, 2, 3, 4, 6, 8]
    toys.same(result.model, whole[1].model)


def test_a_finished_run_returns_what_it_returned_and_leaves_its_files(whole, tmp_path):
    first = runs.toy(tmp_path)
    before = runs.tree_of(tmp_path)
    again = runs.toy(tmp_path)
    assert runs.result_bits(again) == runs.result_bits(first)
    after = runs.tree_of(tmp_path)
    assert after.pop("sessions.jsonl").startswith(before.pop("sessions.jsonl"))
    assert after == before
    session = runs.sessions(tmp_path, "start")[-1], runs.sessions(tmp_path, "end")[-1]
    assert (session[0]["from_step"], session[1]["to_step"]) == (8, 8)


def test_a_run_that_was_longer_already_is_left_as_it_is(whole, tmp_path):
    runs.toy(tmp_path)
    result = runs.toy(tmp_path, steps=4)
    assert runs.result_bits(result) == runs.result_bits(whole[1])
    assert runs.records(tmp_path) == runs.records(whole[0])


def test_a_run_that_ended_because_it_was_solved_is_not_taken_up_again(tmp_path):
    solved = {"task": toys.Mixing(solved_below=1e9)}
    first = runs.toy(tmp_path, **solved)
    assert first.steps == 2
    again = runs.toy(tmp_path, **{**solved, "steps": 20})
    assert runs.result_bits(again) == runs.result_bits(first)


@pytest.mark.parametrize("seconds", [0, 1000])
def test_an_error_of_the_callers_own_costs_at_most_the_steps_since_a_checkpoint(
    seconds, whole, tmp_path
):
    pace = {"checkpoint_seconds": seconds}
    for step in (2, 6):
        with pytest.raises(runs.Enough):
            runs.toy(tmp_path, on_evaluation=runs.leave_after(step), **pace)
    result = runs.toy(tmp_path, **pace)
    assert runs.result_bits(result) == runs.result_bits(whole[1])
    assert runs.records(tmp_path) == runs.records(whole[0])
    begun_at = [row["from_step"] for row in runs.sessions(tmp_path, "start")]
    assert begun_at == ([0, 0, 0] if seconds else [0, 2, 6])
    assert [row["how"] for row in runs.sessions(tmp_path, "end")] == ["failed"] * 2 + ["finished"]


def breaking(step):
    return jnp.where(step == 3, jnp.nan, 0.1)


def test_a_run_that_raised_for_what_is_not_finite_raises_again(tmp_path):
    changes = {"optimizer": optax.sgd(breaking), "on_nonfinite": "raise"}
    for _ in range(2):
        with pytest.raises(FloatingPointError, match=r"member 0.* step 3 "):
            runs.toy(tmp_path, **changes)


def test_the_last_two_checkpoints_are_kept(whole):
    names = [path.name for path in (whole[0] / "checkpoints").iterdir()]
    assert sorted(names) == ["6.ckpt", "8.ckpt"]


# Coming back.


def test_the_last_and_the_best_model_come_back(whole, tmp_path):
    # It only gets worse, so that the first evaluation is the best one.
    result = runs.toy(tmp_path, optimizer=optax.sgd(-0.5))
    like = jax.tree.map(jnp.zeros_like, result.model)
    last, best = (rj.restore(tmp_path, like, which=which) for which in ("last", "best"))
    toys.identical(last, result.model)
    toys.identical(best, result.best_model)
    toys.identical(rj.restore(str(tmp_path), like), last)
    toys.identical(best, runs.toy(None, optimizer=optax.sgd(-0.5), steps=2).model)


def test_an_ensemble_comes_back_whole(tmp_path):
    models = rj.ensemble(lambda rngs: runs.single(rj.SimpleRNNCell, rngs), seeds=2)
    result = runs.toy(tmp_path, model=models, task=rj.tasks.Adding(3), steps=2)
    found = rj.restore(tmp_path, models)
    toys.identical(found, result.model)
    xs = jnp.ones((3, 2))
    np.testing.assert_array_equal(rj.member(found, 1)(xs), rj.member(result.model, 1)(xs))


def test_restoring_changes_nothing_in_the_directory(whole):
    before = runs.tree_of(whole[0])
    for which in ("last", "best"):
        rj.restore(whole[0], toys.linear(), which=which)
    assert runs.tree_of(whole[0]) == before


def test_where_there_is_nothing_to_restore_is_said_and_nothing_made(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path / 'none'} holds no"):
        rj.restore(tmp_path / "none", toys.linear())
    assert runs.tree_of(tmp_path) == {}
    runs.toy(tmp_path, steps=0)
    toys.identical(rj.restore(tmp_path, toys.linear(1)), toys.linear())
    (tmp_path / "checkpoints" / "0.ckpt").unlink()
    with pytest.raises(FileNotFoundError, match=f"{tmp_path} holds no complete checkpoint"):
        rj.restore(tmp_path, toys.linear())


UNLIKE = {
    "shape": lambda: toys.linears(0, 1),
    "type": lambda: toys.linear(dtype=np.float32),
    "structure": runs.lstm,
}


@pytest.mark.parametrize("what", UNLIKE)
def test_a_model_that_is_not_like_the_one_that_was_trained_is_refused(what, whole):
    with pytest.raises(ValueError, match=r"step 8 .* cannot be restored.* structure"):
        rj.restore(whole[0], UNLIKE[what]())


def test_which_model_is_wanted_must_be_one_that_there_is(whole):
    with pytest.raises(ValueError, match="which"):
        rj.restore(whole[0], toys.linear(), which="first")
