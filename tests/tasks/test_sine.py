"""The forecast of a sine: that three steps fix it, and what one step leaves open."""

import math
import re

import numpy as np
import pytest

from rnn_jax.tasks.sine import SineForecast
from tasks.drawing import draw
from tasks.estimates import counted, neighbour_variance

SAMPLES = 4000


def cosine(inputs):
    """cos(2πf) of each sequence, from its inputs alone: x_{t+1} + x_{t−1} = 2 cos(2πf) x_t."""
    around = inputs[:, 2:] + inputs[:, :-2]
    return np.sum(around * inputs[:, 1:-1], axis=1) / np.sum(2 * inputs[:, 1:-1] ** 2, axis=1)


@pytest.mark.parametrize("task", [SineForecast(12), SineForecast(30, 1, (0.05, 0.4))])
def test_the_target_continues_what_was_shown(task):
    batch = draw(task, SAMPLES)
    assert batch.inputs.shape == batch.targets.shape == (SAMPLES, task.length, 1)
    inputs = batch.inputs[..., 0]
    for row, c in enumerate(cosine(inputs).tolist()):
        for step in (2, task.length - 1):
            before, now = inputs[row, step - 1 : step + 1].tolist()
            for _ in range(task.horizon):
                before, now = now, 2 * c * now - before
            assert abs(now - batch.targets[row, step, 0]) < 1e-6
    later = batch.targets[:, : -task.horizon]
    np.testing.assert_array_equal(later, batch.inputs[:, task.horizon :])


def test_frequencies_and_phases_are_uniform():
    task = SineForecast(30, frequencies=(0.02, 0.1))
    inputs = draw(task, SAMPLES).inputs[..., 0]
    cycles = np.arccos(cosine(inputs)) / (2 * np.pi)
    assert cycles.min() >= 0.02 - 1e-9
    assert cycles.max() <= 0.1 + 1e-9
    # √2 cos(2πφ), from the first two steps.
    across = (inputs[:, 1] - inputs[:, 0] * np.cos(2 * np.pi * cycles)) / np.sin(2 * np.pi * cycles)
    phases = np.arctan2(inputs[:, 0], across) / (2 * np.pi) % 1
    for shares in ((cycles - 0.02) / 0.08, phases):
        order = np.sort(shares)
        assert np.abs(order - (np.arange(SAMPLES) + 0.5) / SAMPLES).max() < 2 / np.sqrt(SAMPLES)
    assert abs(np.corrcoef(cycles, phases)[0, 1]) < 5 / np.sqrt(SAMPLES)


def test_the_first_steps_weigh_nothing():
    for task, first in ((SineForecast(12), 3), (SineForecast(12, washout=0), 0)):
        assert counted(task, draw(task, SAMPLES)) == (first, 11)


@pytest.mark.parametrize(
    "task", [SineForecast(12), SineForecast(30, 1, (0.05, 0.4)), SineForecast(6, 3, (0.1, 0.1))]
)
def test_the_chance_loss_is_what_the_step_at_hand_leaves_open(task):
    batch = draw(task, SAMPLES)
    for step in counted(task, batch):
        left = neighbour_variance(batch.inputs[:, step], batch.targets[:, step])
        assert abs(left - task.chance_loss) < 0.06 * task.chance_loss


def test_the_chance_loss_of_one_frequency_and_of_none_to_tell():
    one = SineForecast(8, horizon=3, frequencies=(0.1, 0.1))
    np.testing.assert_allclose(one.chance_loss, math.sin(0.6 * math.pi) ** 2)
    close = SineForecast(8, horizon=3, frequencies=(0.1, 0.1 + 1e-9))
    np.testing.assert_allclose(close.chance_loss, one.chance_loss, rtol=1e-6)
    assert abs(SineForecast(8, horizon=4001, frequencies=(0.02, 0.4)).chance_loss - 1) < 1e-5


def test_solved_is_a_share_of_the_chance_loss():
    task = SineForecast(8, solved_share=0.1)
    assert task.solved_below == 0.1 * task.chance_loss
    assert task.solved({"mse": 0.99 * task.solved_below})
    assert not task.solved({"mse": 1.01 * task.solved_below})


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: SineForecast(0), ValueError, "length must be at least 1; got 0"),
        (lambda: SineForecast(4, horizon=0), ValueError, "horizon must be at least 1; got 0"),
        (lambda: SineForecast(4, washout=4), ValueError, "washout.*length, 4.*got 4.*washout=1"),
        (lambda: SineForecast(4, washout=-1), ValueError, "washout must be at least 0; got -1"),
        (lambda: SineForecast(4, washout=1.0), TypeError, "washout must be a whole number"),
        (lambda: SineForecast(4, solved_share=1.0), ValueError, "solved_share.*got 1.0.*Pass"),
        (lambda: SineForecast(4, solved_share="x"), TypeError, "solved_share must be a number"),
        (lambda: SineForecast(4, frequencies=(0.2, 0.1)), ValueError, r"rise.*\(0.2, 0.1\)"),
        (lambda: SineForecast(4, frequencies=(0.0, 0.1)), ValueError, "between 0 and 1/2.*Pass"),
        (lambda: SineForecast(4, frequencies=(0.1, 0.5)), ValueError, "between 0 and 1/2.*Pass"),
        (lambda: SineForecast(4, frequencies=0.1), TypeError, "must be a tuple.*got 0.1.*Pass"),
        (lambda: SineForecast(4, frequencies=[0.1, 0.2]), TypeError, "must be a tuple"),
        (lambda: SineForecast(4, frequencies=("a", 0.2)), TypeError, "must be a number; got 'a'"),
    ],
)
def test_a_wrong_argument_is_named_with_what_arrived_and_the_fix(call, error, words):
    with pytest.raises(error, match=re.compile(words, re.DOTALL)):
        call()
