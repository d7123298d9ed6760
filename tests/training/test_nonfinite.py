"""Losses, gradients and updates that are not finite: who stops, who goes on, and what is kept."""

import dataclasses
import json
import re
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rnn_jax as rj
from rnn_jax.training.disk.checkpoints import from_arrays, named_leaves, read_checkpoint
from training import toys

PACE = {"steps": 12, "batch_size": 4, "seed": 5, "evaluate_every": 3, "evaluation_size": 6}
MOMENTS = [3, 6, 9, 12]
TASK = toys.Mixing()
NEVER, BAD = -1.0, 4
THREE = [NEVER, float(BAD), NEVER]
quietly = pytest.mark.filterwarnings("ignore:member:RuntimeWarning")


def fit_three(at=THREE, value=np.nan, **options):
    """Three members, each of which breaks where `at` says."""
    return rj.fit(
        toys.linears(1, 2, 3),
        TASK,
        lambda own: toys.breaking(own, value),
        hyperparameters=at,
        members=3,
        **{**PACE, **options},
    )


@pytest.mark.parametrize(("value", "how"), [(np.nan, "stop"), (np.inf, "skip")])
@quietly
def test_the_other_members_do_not_notice(value, how):
    broken, whole = (fit_three(at, value, on_nonfinite=how) for at in (THREE, [NEVER] * 3))
    for index in (0, 2):
        for name in ("model", "best_model", "optimizer_state"):
            own = [jax.tree.map(lambda a, i=index: a[i], getattr(r, name)) for r in (broken, whole)]
            toys.identical(*own)
        for name in set(whole.history) - {"step"}:
            toys.identical(broken.history[name][index], whole.history[name][index])
    np.testing.assert_array_equal(broken.history.failed_at, [np.nan, BAD, np.nan])
    np.testing.assert_array_equal(np.isnan(whole.history.failed_at), True)
    # Where the optimiser breaks, trying again breaks it again.
    skipped = {"stop": 1, "skip": PACE["steps"] - BAD}[how]
    np.testing.assert_array_equal(broken.history.skipped, [0, skipped, 0])


@pytest.mark.parametrize("how", ["stop", "skip"])
@quietly
def test_members_without_a_mean_loss_are_no_alarm_to_debug_nans(how):
    expected = fit_three(on_nonfinite=how)
    assert np.isnan(expected.history.loss).any()
    with jax.debug_nans(True):
        found = fit_three(on_nonfinite=how)
    for name in found.history:
        toys.identical(found.history[name], expected.history[name])


@quietly
def test_the_member_stays_as_it_was_before_the_step():
    result = fit_three()
    told = toys.plain_loop(toys.linear(2), TASK, toys.breaking(BAD), stream=1, skips=True, **PACE)
    toys.same(rj.member(result.model, 1), told.models[BAD])
    toys.same(rj.member(result.best_model, 1), told.best_model)
    assert result.optimizer_state[1] == BAD
    history = result.history
    np.testing.assert_array_equal(history.updates[1], [3, 1, 0, 0])
    expected = toys.means(told.losses, MOMENTS)
    np.testing.assert_allclose(history.loss[1], expected, rtol=1e-10)
    expected = toys.means(told.norms, MOMENTS)
    np.testing.assert_allclose(history.gradient_norm[1], expected, rtol=1e-10)
    for name, series in history.metrics.items():
        expected = [told.evaluations[moment][name] for moment in MOMENTS]
        np.testing.assert_allclose(series[1], expected, rtol=1e-10)


# What a clock in the model adds to its outputs, `away` ticks from the bad one.
POISONS = {
    "loss": lambda away: jnp.where(away == 0, jnp.inf, 0.0),
    # The value is 0 and its slope is not finite.
    "gradient": lambda away: jnp.where(away == 0, jnp.sqrt(abs(away)), 0.0),
}


def ticking(gradient, count, params=None):
    """Descends, and counts in the model's clock."""
    return jax.tree_util.tree_map_with_path(
        lambda path, g: jnp.ones_like(g) if "clock" in jax.tree_util.keystr(path) else -0.05 * g,
        gradient,
    ), count


# One object each, so that equal programs are compiled once.
TICKING = optax.GradientTransformation(lambda params: optax.EmptyState(), ticking)
ADAM = optax.adam(0.05)


@pytest.mark.parametrize("poison", POISONS.values(), ids=POISONS)
@quietly
def test_a_loss_or_gradient_that_is_not_finite_stops_a_single_model(poison):
    def call(weights, inputs):
        return toys.affine_last(weights, inputs) + poison(weights["clock"] - BAD)

    model = jax.tree_util.Partial(call, {**toys.linear().args[0], "clock": jnp.zeros(())})
    result = rj.fit(model, TASK, TICKING, **PACE)
    history = result.history
    assert history.failed_at == BAD
    assert history.skipped == 1
    assert result.model.args[0]["clock"] == BAD
    # No one else is left to train, so that is the end.
    assert result.steps == 6
    told = toys.plain_loop(model, TASK, TICKING, skips=True, **PACE)
    toys.same(result.model, told.models[BAD])
    losses = history.metrics["loss"]
    np.testing.assert_allclose(losses, [told.evaluations[n]["loss"] for n in (3, 6)], rtol=1e-10)
    # The best model comes from an evaluation that is finite.
    toys.same(result.best_model, told.models[history.step[np.nanargmin(losses)]])


@dataclasses.dataclass(frozen=True)
class Rare(toys.Mixing):
    """Some batches have a number that the loss cannot bear; evaluations have none."""

    limit: float = 2.2

    def sample_held_out(self, key, batch_size):
        batch = self.sample(key, batch_size)
        return batch._replace(inputs=jnp.clip(batch.inputs, -1, 1))

    def bad(self, inputs):
        """What such a batch adds: NaN, or infinity where its first number is below 0."""
        kind = jnp.where(inputs[0, 0, 0] < 0, jnp.inf, jnp.nan)
        return jnp.where(jnp.max(inputs) > self.limit, kind, 0.0)

    def loss(self, outputs, batch):
        return super().loss(outputs, batch) + self.bad(batch.inputs)


def bad_steps(task, stream, seed=PACE["seed"]):
    """Numbers of the steps with such a batch, and what it adds to their loss."""
    key = toys.member_key(seed, stream)
    steps = range(PACE["steps"])
    batches = [toys.training_batch(task, key, step, PACE["batch_size"])[0] for step in steps]
    added = {step: float(task.bad(batch.inputs)) for step, batch in enumerate(batches)}
    return {step: bad for step, bad in added.items() if not np.isfinite(bad)}


@quietly
def test_skipping_leaves_out_the_bad_steps_and_no_other():
    task, optimizer = Rare(), ADAM
    streams = range(3)
    added = [bad_steps(task, stream) for stream in streams]
    left_out = [list(steps) for steps in added]
    assert 0 < sum(map(len, left_out)) < 3 * PACE["steps"]
    # There are such steps of both kinds.
    assert {str(bad) for steps in added for bad in steps.values()} == {"nan", "inf"}
    models = toys.linears(*streams)
    result = rj.fit(models, task, optimizer, members=3, on_nonfinite="skip", **PACE)
    history = result.history
    assert result.steps == PACE["steps"]
    np.testing.assert_array_equal(history.skipped, [len(steps) for steps in left_out])
    first = [steps[0] if steps else np.nan for steps in left_out]
    np.testing.assert_array_equal(history.failed_at, first)
    for stream in streams:
        told = toys.plain_loop(
            toys.linear(stream), task, optimizer, stream=stream, skips=True, **PACE
        )
        own = (result.model, result.best_model, result.optimizer_state)
        state = told.optimizer_states[PACE["steps"]]
        expected = (told.model, told.best_model, state)
        toys.same(jax.tree.map(lambda leaf, i=stream: leaf[i], own), expected)
        np.testing.assert_array_equal(history.updates[stream], toys.counts(told.losses, MOMENTS))
        np.testing.assert_allclose(
            history.loss[stream], toys.means(told.losses, MOMENTS), rtol=1e-10
        )


@quietly
def test_the_run_ends_when_no_member_is_left():
    assert fit_three([1.0, float(BAD), 1.0]).steps == 6
    # One that has failed and the others that have solved their task are no longer training either.
    easy = toys.Mixing(solved_below=1e9)
    result = rj.fit(
        toys.linears(1, 2), easy, toys.breaking, hyperparameters=[NEVER, 1.0], members=2, **PACE
    )
    assert result.steps == PACE["evaluate_every"]


def test_each_member_that_fails_is_told_of_once():
    with pytest.warns(RuntimeWarning, match="not finite") as told:
        fit_three([2.0, NEVER, 7.0])
    assert len(told) == 2
    for warning, member, step in zip(told, (0, 2), (2, 7), strict=True):
        assert re.search(rf"member {member}\b.*step {step}\b", str(warning.message))


@pytest.mark.parametrize("where", [None, "here"])
def test_raising_names_the_member_and_the_step(where, tmp_path):
    directory = tmp_path if where else None
    with pytest.raises(FloatingPointError, match=rf"member 1\b.*step {BAD}\b.*Lower") as caught:
        fit_three(on_nonfinite="raise", directory=directory)
    assert ("lies in" in str(caught.value)) == (where is not None)


def test_the_same_call_raises_again(tmp_path):
    for _ in range(2):
        with pytest.raises(FloatingPointError, match=rf"member 1\b.*step {BAD}\b"):
            fit_three(on_nonfinite="raise", directory=tmp_path)


def kept(call):
    """Where a call that fails, or goes on, says that it has kept a member's state."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            call()
        except FloatingPointError as error:
            told.append(error)
    said = " ".join(str(getattr(word, "message", word)) for word in told)
    return [Path(found) for found in re.findall(r"lies in (\S+)\. ", said)]


def read(folder, like):
    """(model, all arrays, notes) that were kept in a folder."""
    arrays, _ = read_checkpoint(folder / "state.ckpt")
    own = {name: arrays[f"model.{name}"] for name, _ in named_leaves(like)}
    return from_arrays(own, like), arrays, json.loads((folder / "notes.json").read_text())


@pytest.mark.parametrize(("how", "members"), [("raise", None), ("stop", 3)])
def test_the_last_finite_state_is_kept_and_the_step_can_be_made_again(how, members, tmp_path):
    task, optimizer = Rare(), ADAM
    models = toys.linear(0) if members is None else toys.linears(0, 1, 2)
    # A seed whose first bad steps come in the middle of what one call of the loop does.
    pace = {**PACE, "seed": 0}
    options = {"members": members, "directory": tmp_path, "on_nonfinite": how}
    folders = kept(lambda: rj.fit(models, task, optimizer, **options, **pace))
    assert folders
    run = json.loads((tmp_path / "config.json").read_text())["run"]
    for folder in folders:
        assert folder.parent == tmp_path / "nonfinite"
        model, arrays, notes = read(folder, toys.linear())
        member, step = notes["member"], notes["step"]
        assert step == min(bad_steps(task, member, pace["seed"]))
        assert toys.all_finite(list(arrays.values()))

        # The step again: its data are those of its number, and its loss is not finite.
        key = toys.member_key(run["seed"], member)
        batch, _ = toys.training_batch(task, key, step, run["batch_size"])
        assert not np.isfinite(task.loss(model(batch.inputs), batch))

        until = {**pace, "steps": step}
        told = toys.plain_loop(toys.linear(member), task, optimizer, stream=member, **until)
        toys.same(model, told.model)
        state = named_leaves(told.optimizer_states[step])
        toys.same(
            {name: arrays[f"optimizer_state.{name}"] for name, _ in state},
            {name: np.asarray(leaf) for name, leaf in state},
        )


@quietly
def test_a_run_that_goes_on_leaves_failed_members_as_they_are(tmp_path):
    whole = fit_three()
    fit_three(directory=tmp_path, steps=6)
    resumed = fit_three(directory=tmp_path)
    toys.identical(resumed.model, whole.model)
    for name in whole.history:
        np.testing.assert_array_equal(resumed.history[name], whole.history[name])
    np.testing.assert_array_equal(resumed.history.failed_at, whole.history.failed_at)


def test_a_model_that_can_never_step_stays_as_it_was_and_no_state_is_kept(tmp_path):
    """It skips, and so it goes on."""
    task, results = Rare(limit=-np.inf), []
    options = {"on_nonfinite": "skip", "directory": tmp_path, **PACE}
    assert not kept(lambda: results.append(rj.fit(toys.linear(), task, optax.sgd(0.1), **options)))
    assert not (tmp_path / "nonfinite").exists()
    (result,) = results
    toys.identical(result.model, toys.linear())
    assert result.steps == result.history.skipped == PACE["steps"]
    assert result.history.failed_at == 0
    np.testing.assert_array_equal(np.isnan(result.history.loss), True)
    np.testing.assert_array_equal(result.history.updates, 0)
