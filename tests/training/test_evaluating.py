"""Evaluations while it trains: on what, how often, and what comes of them."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rnn_jax as rj
from training import toys

# Stretches of one length, so one program.
PACE = {"steps": 6, "batch_size": 4, "seed": 5, "evaluate_every": 3, "evaluation_size": 6}
MOMENTS = [3, 6]
TASK = toys.Mixing()
# One object each, so that equal runs are one program.
ADAM, SGD = optax.adam(0.05), optax.sgd(0.05)


# Always, with a last stretch that is shorter than the others, and only at the end.
@pytest.mark.parametrize("evaluate_every", [1, 4, 100])
def test_how_often_it_evaluates_changes_no_step(evaluate_every):
    pace = {**PACE, "evaluate_every": evaluate_every}
    told = toys.plain_loop(toys.linear(), TASK, ADAM, **PACE)
    result = rj.fit(toys.linear(), TASK, ADAM, **pace)
    toys.same(result.model, told.model)
    np.testing.assert_array_equal(result.history.step, _moments(evaluate_every))
    expected = toys.means(told.losses, _moments(evaluate_every))
    np.testing.assert_allclose(result.history.loss, expected, rtol=1e-10)


def _moments(every):
    return sorted({*range(every, PACE["steps"], every), PACE["steps"]})


def test_the_best_model_is_that_of_the_smallest_loss_on_fresh_data():
    # Down the slope at first, then up again.
    optimizer = optax.sgd(lambda count: jnp.where(count < 4, 0.1, -0.1))
    pace = {**PACE, "steps": 7, "evaluate_every": 1}
    told = toys.plain_loop(toys.linear(), TASK, optimizer, **pace)
    result = rj.fit(toys.linear(), TASK, optimizer, **pace)
    losses = result.history.metrics["loss"]
    best = result.history.step[np.argmin(losses)]
    assert 1 < best < pace["steps"]
    toys.same(result.best_model, told.models[best])


def test_it_stops_when_an_evaluation_says_that_the_task_is_solved():
    easy = toys.Mixing(solved_below=1.0)
    optimizer = optax.adam(0.1)
    pace = {**PACE, "steps": 200, "evaluate_every": 10}
    result = rj.fit(toys.linear(), easy, optimizer, **pace)
    on = rj.fit(toys.linear(), easy, optimizer, stop_when_solved=False, **pace)
    first = on.history.step[np.flatnonzero(on.history["mse"] < easy.solved_below)[0]]
    assert 10 < first < 200
    assert result.steps == result.history.solved_at == result.history.step[-1] == first
    assert result.history.solved
    # The other run goes on, and says the same of when.
    assert on.steps == 200
    assert on.history.solved_at == first
    told = toys.plain_loop(toys.linear(), easy, optimizer, **{**pace, "steps": int(first)})
    toys.same(result.model, told.model)
    toys.same(result.best_model, told.best_model)


@dataclasses.dataclass(frozen=True)
class Finite(toys.Mixing):
    """A task that has examples which no training sees, and says what it was given."""

    def sample_held_out(self, key, batch_size):
        batch = self.sample(key, batch_size)
        return batch._replace(inputs=batch.inputs + 100.0)

    def metrics(self, outputs, batch):
        return {
            "mse": self.loss(outputs, batch),
            "size": jnp.asarray(len(batch.targets), outputs.dtype),
            "least": jnp.min(batch.inputs),
            "most": jnp.max(batch.inputs),
        }


def test_it_evaluates_on_held_out_examples_if_there_are_some():
    optimizer = optax.adam(0.02)
    result = rj.fit(toys.linear(), Finite(), optimizer, **PACE)
    told = toys.plain_loop(toys.linear(), Finite(), optimizer, **PACE)
    toys.same(result.model, told.model)
    np.testing.assert_array_equal(result.history["size"], PACE["evaluation_size"])
    for name, series in result.history.metrics.items():
        expected = [told.evaluations[moment][name] for moment in MOMENTS]
        np.testing.assert_allclose(series, expected, rtol=1e-10)
    assert np.all(result.history["least"] > 50)
    # Trained on the others: the loss of the training is not that of numbers around a hundred.
    assert np.all(result.history.loss < result.history["mse"] / 100)


def test_it_evaluates_on_fresh_examples_each_time_if_there_are_none():
    result = rj.fit(toys.linear(), Fresh(), optax.sgd(0.0), **{**PACE, "evaluate_every": 1})
    assert len(np.unique(result.history["most"])) == PACE["steps"]
    assert np.all(result.history["most"] < 50)
    key = toys.member_key(PACE["seed"])
    batches = [toys.training_batch(Fresh(), key, step, 4)[0] for step in range(PACE["steps"])]
    trained_on = {float(jnp.max(batch.inputs)) for batch in batches}
    assert not trained_on & set(result.history["most"])


@dataclasses.dataclass(frozen=True)
class Fresh(toys.Mixing):
    """Examples without end, and a word on those it was given."""

    metrics = Finite.metrics


@pytest.mark.parametrize(("batch_size", "expected"), [(100, 300), (256, 256)])
def test_an_evaluation_has_whole_batches_where_no_size_is_asked_for(batch_size, expected):
    pace = {**PACE, "batch_size": batch_size, "evaluation_size": None}
    result = rj.fit(toys.linear(), Fresh(), optax.sgd(0.1), **pace)
    np.testing.assert_array_equal(result.history["size"], expected)


def test_history_is_read_by_name():
    result = rj.fit(toys.linear(), TASK, SGD, **PACE)
    history = result.history
    assert list(history) == ["step", "loss", "gradient_norm", "updates", "mse", "worst"]
    for name in ("step", "loss", "gradient_norm", "updates"):
        np.testing.assert_array_equal(history[name], getattr(history, name))
    np.testing.assert_array_equal(history["mse"], history.metrics["loss"])
    assert np.all(history["loss"] != history.metrics["loss"])
    with pytest.raises(KeyError, match=r"history has step, loss.*worst; got 'accuracy'"):
        history["accuracy"]


def test_each_evaluation_is_told_as_it_comes():
    told = []
    result = rj.fit(toys.linear(), TASK, SGD, on_evaluation=told.append, **PACE)
    assert [row["step"] for row in told] == MOMENTS
    np.testing.assert_array_equal([row["loss"] for row in told], result.history.loss)


def test_showing_progress_changes_nothing(capsys):
    quiet = rj.fit(toys.linear(), TASK, SGD, **PACE)
    assert capsys.readouterr() == ("", "")
    shown = rj.fit(toys.linear(), TASK, SGD, progress=True, **PACE)
    toys.identical(shown.model, quiet.model)
    assert f"{PACE['steps']}/{PACE['steps']}" in capsys.readouterr().err
