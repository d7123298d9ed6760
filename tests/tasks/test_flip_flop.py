"""The flip-flop memory: what it claims about its samples, its chance loss and its metrics."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax.tasks.flip_flop import FlipFlop
from tasks.drawing import draw
from tasks.zoo import name

SAMPLES = 2000
TASKS = [FlipFlop(12), FlipFlop(12, channels=1, probability=0.5), FlipFlop(2, channels=4)]
every_task = pytest.mark.parametrize("task", TASKS, ids=name)


@every_task
def test_the_target_holds_the_sign_of_the_last_pulse_of_each_channel(task):
    batch = draw(task, SAMPLES)
    assert batch.inputs.shape == batch.targets.shape == (SAMPLES, task.steps, task.channels)
    assert np.isin(batch.inputs, [-1.0, 0.0, 1.0]).all()
    assert (batch.inputs[:, 0] != 0).all()
    held = np.zeros((SAMPLES, task.channels))
    for step in range(task.steps):
        shown = batch.inputs[:, step]
        held = np.where(shown == 0, held, shown)
        np.testing.assert_array_equal(batch.targets[:, step], held)
    np.testing.assert_array_equal(batch.weights, 1.0)


@every_task
def test_pulses_come_at_their_rate_with_fair_signs_each_by_itself(task):
    batch = draw(task, SAMPLES)
    later = batch.inputs[:, 1:].reshape(SAMPLES, -1)
    spread = np.sqrt(task.probability * (1 - task.probability) / later.size)
    assert abs((later != 0).mean() - task.probability) < 5 * spread
    pulses = batch.inputs[batch.inputs != 0]
    assert abs(pulses.mean()) < 5 / np.sqrt(pulses.size)
    every = np.concatenate([batch.inputs[:, 0], later], axis=1)
    table = np.corrcoef(every, rowvar=False)
    # Of numbers that are 0 with probability 1 - p a product is 1 with probability p² at most.
    assert np.abs(table - np.eye(len(table))).max() < 5 / np.sqrt(SAMPLES)


@every_task
def test_the_chance_loss_is_what_the_best_predictor_without_memory_pays(task):
    batch = draw(task, SAMPLES)
    # It gives a pulse's sign where there is one; elsewhere the signs are fair, whatever is shown.
    loss = task.loss(jnp.asarray(batch.inputs), batch)
    silent = batch.inputs == 0
    answers = SAMPLES * (task.steps - 1) * task.channels
    spread = np.sqrt(task.probability * (1 - task.probability) / answers)
    assert abs(loss - task.chance_loss) < 5 * spread * task.channels
    assert abs(batch.targets[silent].mean()) < 5 * task.steps / np.sqrt(silent.sum())
    assert not task.solved({"mse": loss})


def test_the_accuracy_is_the_share_of_signs_that_are_right():
    task = TASKS[0]
    batch = draw(task, SAMPLES)
    outputs = np.array(0.2 * batch.targets)
    outputs[:, ::2, 0] *= -1
    outputs[:, 1::4, 2] = 0.0  # No sign at all.
    metrics = task.metrics(jnp.asarray(outputs), batch)
    np.testing.assert_allclose(metrics["accuracy"], 1 - (1 / 2 + 1 / 4) / 3, rtol=1e-12)
    np.testing.assert_array_equal(metrics["mse"], task.loss(jnp.asarray(outputs), batch))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: FlipFlop(1), ValueError, "length must be at least 2.*got 1.*length=2"),
        (lambda: FlipFlop(0), ValueError, "length must be at least 1; got 0"),
        (lambda: FlipFlop(9, channels=0), ValueError, "channels must be at least 1; got 0"),
        (lambda: FlipFlop(9, channels=1.5), TypeError, "channels must be a whole number; got 1.5"),
        (lambda: FlipFlop(9, probability=0), ValueError, "probability must lie.*got 0.*Pass"),
        (lambda: FlipFlop(9, probability=1.0), ValueError, "probability must lie.*got 1.0.*Pass"),
        (lambda: FlipFlop(9, probability="p"), TypeError, "probability must be a number; got 'p'"),
        (lambda: FlipFlop(9, solved_below=0), ValueError, "solved_below.*got 0.*Pass"),
    ],
)
def test_a_wrong_argument_is_named_with_what_arrived_and_the_fix(call, error, words):
    with pytest.raises(error, match=re.compile(words, re.DOTALL)):
        call()
