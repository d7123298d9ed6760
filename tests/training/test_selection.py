"""The best model by any metric, and stopping when no better one comes."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree_util import Partial

import rnn_jax as rj
from refusing import refuses, table
from rnn_jax.tasks.base import Batch
from training import runs

# Down, up, down, and up for good.
SCORES = (5.0, 3.0, 4.0, 2.9, 3.5, 2.95, 3.2, 3.1, 3.3, 3.0, 3.4, 3.1)


@dataclasses.dataclass(frozen=True)
class Scripted:
    """A task whose model counts its steps, and whose metric after each is given."""

    scores: tuple[float, ...] = SCORES
    solved_at: int = 100

    def sample(self, key, batch_size):
        nothing = jnp.zeros((batch_size, 1, 1))
        return Batch(nothing, nothing[:, 0], jnp.ones(batch_size))

    def loss(self, outputs, batch):
        return -outputs[0]

    def metrics(self, outputs, batch):
        score = jnp.asarray(self.scores)[outputs[0].astype(int) - 1]
        return {"mse": score, "gain": -score}

    def solved(self, metrics):
        return metrics["mse"] == jnp.asarray(self.scores)[min(self.solved_at, len(self.scores)) - 1]


def model(*starts):
    counts = jnp.asarray(starts or (0.0,))
    return Partial(lambda count, inputs: count[None], counts if len(starts) > 1 else counts[0])


def fit(task=None, directory=None, **options):
    options = {"steps": 12, "model": model(), "stop_when_solved": False, **options}
    return rj.fit(
        options.pop("model"),
        task or Scripted(),
        optax.sgd(1.0),
        batch_size=1,
        evaluation_size=1,
        evaluate_every=1,
        seed=0,
        directory=directory,
        **options,
    )


def expected(scores, patience, min_delta=0.0):
    """(steps, best step) by the rule, one evaluation after another."""
    best, best_at, reference, waited = np.inf, None, np.inf, 0
    for step, score in enumerate(scores, 1):
        if score < best:
            best, best_at = score, step
        waited = waited + 1
        if score < reference - min_delta:
            reference, waited = score, 0
        if patience is not None and waited >= patience:
            return step, best_at, step
    return len(scores), best_at, np.nan


@pytest.mark.parametrize(
    ("best", "patience", "min_delta"),
    [
        ("mse", None, 0.0),
        ("mse", 1, 0.0),
        ("mse", 3, 0.0),
        ("mse", 5, 0.5),
        (("gain", "max"), 2, 0.15),
    ],
)
def test_it_stops_after_so_many_evaluations_without_improvement(best, patience, min_delta):
    result = fit(best=best, patience=patience, min_delta=min_delta)
    steps, best_at, stopped_at = expected(SCORES, patience, min_delta)
    assert result.steps == result.history.step[-1] == steps
    assert result.history.best_at == best_at == result.best_model.args[0]
    np.testing.assert_equal(float(result.history.stopped_at), stopped_at)
    assert result.model.args[0] == steps


def test_the_best_is_that_of_the_loss_where_nothing_else_is_said():
    result = fit()
    assert result.history.best_at == 12
    assert np.isnan(result.history.stopped_at)


def test_nan_is_no_improvement():
    scores = (3.0, np.nan, np.nan, 2.0)
    result = fit(Scripted(scores), best="mse", patience=2, steps=4)
    assert result.steps == 3
    assert result.history.best_at == 1


def test_each_member_stops_by_itself():
    # The second is two steps ahead of the first.
    result = fit(model=model(0.0, 2.0), members=2, best="mse", patience=3, steps=10)
    alone = [expected(SCORES, 3), expected(SCORES[2:], 3)]
    np.testing.assert_array_equal(result.history.stopped_at, [steps for steps, *_ in alone])
    np.testing.assert_array_equal(result.history.best_at, [best for _, best, _ in alone])
    assert result.steps == max(steps for steps, *_ in alone)
    np.testing.assert_array_equal(result.model.args[0], [alone[0][0], 2 + alone[1][0]])


def test_it_stops_at_the_same_step_however_the_run_was_cut(tmp_path):
    options = {"best": "mse", "patience": 3, "checkpoint_seconds": 0}
    whole = fit(directory=tmp_path / "whole", **options)
    assert whole.steps < 12
    for steps in (3, 5, 6, 12, 12):
        parts = fit(directory=tmp_path / "parts", **{**options, "steps": steps})
    assert runs.result_bits(parts) == runs.result_bits(whole)
    assert runs.records(tmp_path / "parts") == runs.records(tmp_path / "whole")
    best = rj.restore(tmp_path / "parts", model(), which="best")
    assert best.args[0] == whole.history.best_at
    with pytest.raises(ValueError, match=r"another run.*selection.patience: 3 there, 4 here"):
        fit(directory=tmp_path / "parts", **{**options, "patience": 4})


def test_a_task_that_is_solved_ends_before_patience_does():
    result = fit(Scripted(solved_at=2), best="mse", patience=5, stop_when_solved=True)
    assert result.steps == result.history.solved_at == 2
    assert np.isnan(result.history.stopped_at)


@table(
    unknown=(
        lambda: fit(best="accuracy"),
        ValueError,
        "best must name one of the metrics of this task, gain, loss, mse",
        "'accuracy'",
        "Pass",
    ),
    no_direction=(
        lambda: fit(best="gain"),
        ValueError,
        "best must say whether large or small is good",
        "'gain'",
        '("gain", "max")',
    ),
    direction=(
        lambda: fit(best=("mse", "up")),
        ValueError,
        "the direction of best must be one of 'max', 'min'",
        "'up'",
    ),
    no_name=(lambda: fit(best=3), TypeError, "best must be the name of a metric", "3", "Pass"),
    patience=(lambda: fit(patience=0), ValueError, "patience must be at least 1", "got 0", "Pass"),
    delta=(
        lambda: fit(patience=1, min_delta=-0.1),
        ValueError,
        "min_delta must be at least 0",
        "-0.1",
        "Pass",
    ),
)
def test_what_is_refused(call, error, words):
    refuses(call, error, *words)
