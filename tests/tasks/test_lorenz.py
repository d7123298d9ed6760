"""The forecast of the Lorenz system: that x alone fixes it, and what one x leaves open."""

import re

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from rnn_jax.tasks.lorenz import LorenzForecast, runge_kutta
from tasks.drawing import draw
from tasks.estimates import assert_left_open

SAMPLES = 2000
FINE = LorenzForecast(40, horizon=20, dt=0.01)
COARSE = LorenzForecast(12, horizon=6, dt=0.05)

# Of the first and the second derivative, over eight steps.
FIRST = np.array([3, -32, 168, -672, 0, 672, -168, 32, -3]) / 840
SECOND = np.array([-9, 128, -1008, 8064, -14350, 8064, -1008, 128, -9]) / 5040


def flow(_, state):
    x, y, z = state
    return [10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z]


def test_the_target_is_where_the_equations_lead_from_what_was_shown():
    batch = draw(FINE, SAMPLES)
    assert batch.inputs.shape == batch.targets.shape == (SAMPLES, 40, 1)
    inputs, targets = 7.925 * batch.inputs[..., 0], 7.925 * batch.targets[..., 0]
    np.testing.assert_array_equal(targets[:, :20], inputs[:, 20:])
    # From nine steps: y from ẋ, then z from ẏ, well told apart where x is large.
    seen = inputs[:, -9:]
    rows = np.flatnonzero(np.abs(seen).min(axis=1) > 4)[:12]
    assert rows.size == 12
    for row in rows:
        x, rate = seen[row, 4], seen[row] @ FIRST / 0.01
        curve = seen[row] @ SECOND / 0.01**2
        y = x + rate / 10
        z = 28 - (rate + curve / 10 + y) / x
        until = 0.01 * np.arange(25)
        path = solve_ivp(flow, (0, 0.24), [x, y, z], t_eval=until, rtol=1e-9, atol=1e-9).y[0]
        np.testing.assert_allclose(path[:5], seen[row, 4:], atol=2e-3)
        np.testing.assert_allclose(path[5:], targets[row, -20:], atol=2e-2)


def test_steps_of_runge_kutta_are_of_fourth_order():
    start = (1.0, 2.0, 20.0)
    exact = solve_ivp(flow, (0, 0.4), start, rtol=1e-12, atol=1e-12).y[:, -1]
    errors = []
    for count in (20, 40):
        state = start
        for _ in range(count):
            state = runge_kutta(state, 0.4 / count)
        errors.append(np.abs(np.array(state) - exact).max())
    assert 12 < errors[0] / errors[1] < 20


@pytest.mark.parametrize("task", [FINE, COARSE], ids=["fine", "coarse"])
def test_every_step_shows_x_as_it_is_on_the_attractor(task):
    batch = draw(task, SAMPLES)
    for step in (0, task.length - 1):
        x = batch.inputs[:, step, 0]
        assert abs(x.mean()) < 5 / np.sqrt(SAMPLES)
        # Of x²: the standard deviation is 1.14, and the fourth moment is 2.297.
        assert abs(np.mean(x**2) - 1) < 5 * 1.14 / np.sqrt(SAMPLES)
        assert abs(np.mean(x**4) - 2.297) < 0.5
        assert np.abs(x).max() < 2.6
    assert len(np.unique(batch.inputs[:, 0])) == SAMPLES


@pytest.mark.parametrize("task", [FINE, COARSE], ids=["fine", "coarse"])
def test_the_chance_loss_is_what_the_step_at_hand_leaves_open(task):
    assert_left_open(task, draw(task, SAMPLES), at_one_step=0.15)


def test_the_chance_loss_depends_on_the_horizon_in_time_alone():
    assert LorenzForecast(50, horizon=12, dt=0.025).chance_loss == COARSE.chance_loss
    assert 0 < LorenzForecast(50, 1, dt=0.001).chance_loss < 1e-3
    assert 0.95 < LorenzForecast(50, 1, dt=8.004).chance_loss < 1.01
    assert COARSE.solved_below == 0.05 * COARSE.chance_loss


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: LorenzForecast(0), ValueError, "length must be at least 1; got 0"),
        (lambda: LorenzForecast(9, horizon=0.5), TypeError, "horizon must be a whole number"),
        (
            lambda: LorenzForecast(9, dt=0.0),
            ValueError,
            "dt must be a positive time; got 0.0.*Pass",
        ),
        (lambda: LorenzForecast(9, dt="1"), TypeError, "dt must be a number; got '1'"),
        (lambda: LorenzForecast(9, washout=9), ValueError, "washout must be less than the length"),
        (lambda: LorenzForecast(9, solved_share=0.0), ValueError, "solved_share.*got 0.0.*Pass"),
    ],
)
def test_a_wrong_argument_is_named_with_what_arrived_and_the_fix(call, error, words):
    with pytest.raises(error, match=re.compile(words, re.DOTALL)):
        call()
