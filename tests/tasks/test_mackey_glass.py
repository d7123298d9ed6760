"""The Mackey-Glass forecast: that a delay of steps fixes it, and what one step leaves open."""

import re

import numpy as np
import pytest
from scipy.integrate import simpson
from scipy.interpolate import CubicSpline

from rnn_jax.tasks.mackey_glass import MackeyGlassForecast, _run
from tasks.drawing import draw
from tasks.estimates import assert_left_open

SAMPLES = 1000
USUAL = MackeyGlassForecast(60)
SHORT = MackeyGlassForecast(30, horizon=3, tau=8)


def production(x):
    return 0.2 * x / (1 + x**10)


@pytest.mark.parametrize("task", [USUAL, SHORT], ids=["usual", "short"])
def test_the_target_is_where_the_equation_leads_from_what_was_shown(task):
    batch = draw(task, SAMPLES)
    assert batch.inputs.shape == batch.targets.shape == (SAMPLES, task.length, 1)
    inputs, targets = batch.inputs[..., 0], batch.targets[..., 0]
    np.testing.assert_array_equal(targets[:, : -task.horizon], inputs[:, task.horizon :])
    # x(t + h) = e^{−0.1 h} x(t) + ∫ e^{−0.1 (h − s)} p(x(t + s − τ)) ds, all of it shown if h ≤ τ.
    now = task.length - 1
    passed = np.linspace(0, task.horizon, 100 * task.horizon + 1)
    fading = np.exp(-0.1 * (task.horizon - passed))
    for row in range(20):
        series = 1 + np.arctanh(inputs[row])
        past = CubicSpline(np.arange(task.length), series)(now + passed - task.tau)
        later = fading[0] * series[now] + simpson(fading * production(past), x=passed)
        assert abs(np.tanh(later - 1) - targets[row, now]) < 1e-3


def test_grid_points_follow_the_equation_to_fourth_order():
    delay, phases = 60, np.linspace(0, 2 * np.pi, 50)[:, None]
    times = (np.arange(delay + 2) - (delay + 1)) / 10
    errors = []
    for speed in (1.0, 0.5):
        past = 0.9 + 0.3 * np.sin(speed * times + phases)
        point = _run(past, delay)[:, 0]
        # One step in closed form but for an integral, here by far finer steps.
        fine = np.linspace(0, 0.1, 201)
        fading = np.exp(-0.1 * (fine[-1] - fine))
        inflow = fading * production(0.9 + 0.3 * np.sin(speed * (fine - delay / 10) + phases))
        exact = fading[0] * past[:, -1] + simpson(inflow, x=fine)
        errors.append(np.sqrt(np.mean((point - exact) ** 2)))
    # Half the speed is half the step.
    assert errors[0] < 1e-6
    assert 12 < errors[0] / errors[1] < 20


@pytest.mark.parametrize("task", [USUAL, SHORT], ids=["usual", "short"])
def test_every_step_shows_the_series_as_it_is_in_the_long_run(task):
    batch = draw(task, SAMPLES)
    past = np.full((20, 10 * task.tau + 2), 0.5) + 0.02 * np.arange(20)[:, None]
    run = np.tanh(_run(past, 40_000)[:, 10_000::10] - 1)
    for step in (0, task.length - 1):
        shown = batch.inputs[:, step, 0]
        assert abs(shown.mean() - run.mean()) < 5 * run.std() / np.sqrt(SAMPLES)
        assert abs(shown.std() / run.std() - 1) < 0.1
        assert run.min() - 0.01 < shown.min() < shown.max() < run.max() + 0.01
    assert len(np.unique(batch.inputs[:, 0])) == SAMPLES


@pytest.mark.parametrize("task", [USUAL, SHORT], ids=["usual", "short"])
def test_the_chance_loss_is_what_the_step_at_hand_leaves_open(task):
    assert_left_open(task, draw(task, SAMPLES), at_one_step=0.2)
    assert task.solved_below == 0.05 * task.chance_loss


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: MackeyGlassForecast(0), ValueError, "length must be at least 1; got 0"),
        (lambda: MackeyGlassForecast(9, tau=4), ValueError, "tau must be at least 5; got 4"),
        (lambda: MackeyGlassForecast(9, tau=17.0), TypeError, "tau must be a whole number"),
        (lambda: MackeyGlassForecast(9, horizon=0), ValueError, "horizon must be at least 1"),
        (lambda: MackeyGlassForecast(9, washout=20), ValueError, "washout.*length, 9.*got 20"),
        (lambda: MackeyGlassForecast(9, solved_share=2.0), ValueError, "solved_share.*got 2.0"),
    ],
)
def test_a_wrong_argument_is_named_with_what_arrived_and_the_fix(call, error, words):
    with pytest.raises(error, match=re.compile(words, re.DOTALL)):
        call()
