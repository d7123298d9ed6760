"""Recall by a linear teacher: what it does, what it is drawn from, what the present tells."""

import re

import jax
import numpy as np
import pytest

from rnn_jax.tasks.teacher import TeacherRecall
from tasks.drawing import draw
from tasks.estimates import counted, neighbour_variance

SAMPLES = 8000
TASKS = [TeacherRecall(2), TeacherRecall(20), TeacherRecall(20, 0.5, phase=0.0, states=3)]

every_task = pytest.mark.parametrize("task", TASKS, ids=["two", "complex", "real"])


@every_task
def test_the_target_is_what_the_teacher_says_of_what_was_shown(task):
    eigenvalues, readout = (part.tolist() for part in task.teacher())
    batch = draw(task, SAMPLES)
    assert batch.inputs.shape == batch.targets.shape == (SAMPLES, task.length, 1)
    for row in range(10):
        states = [0.0] * task.states
        for step in range(task.length):
            x = float(batch.inputs[row, step, 0])
            answer = 0.0
            for i, (pole, weight) in enumerate(zip(eigenvalues, readout, strict=True)):
                states[i] = pole * states[i] + (1 - abs(pole) ** 2) ** 0.5 * x
                answer += (weight * states[i]).real
            assert abs(answer - batch.targets[row, step, 0]) < 1e-12


@every_task
def test_inputs_are_white_and_targets_of_variance_one_in_the_mean(task):
    batch = draw(task, SAMPLES)
    assert counted(task, batch) == (0, task.length - 1)
    inputs, targets = batch.inputs[..., 0], batch.targets[..., 0]
    table = np.cov(inputs, rowvar=False)
    assert np.abs(table - np.eye(task.length)).max() < 5 * np.sqrt(2 / SAMPLES)
    assert np.abs(inputs.mean(axis=0)).max() < 5 / np.sqrt(SAMPLES)
    # Of a row's mean square, whose spread is told from the rows.
    power = np.mean(targets**2, axis=1)
    assert abs(power.mean() - 1) < 5 * power.std() / np.sqrt(SAMPLES)


@every_task
def test_the_chance_loss_is_what_the_step_at_hand_leaves_open(task):
    batch = draw(task, SAMPLES)
    steps = range(task.length)
    left = np.mean(
        [neighbour_variance(batch.inputs[:, step], batch.targets[:, step]) for step in steps]
    )
    assert abs(left - task.chance_loss) < 0.08 * task.chance_loss


@pytest.mark.parametrize("modulus", [0.0, 0.9, 0.999])
def test_the_teacher_is_drawn_as_its_fields_say(modulus):
    task = TeacherRecall(30, modulus, phase=1.0, states=2000)
    eigenvalues, readout = task.teacher()
    assert eigenvalues.shape == readout.shape == (2000,)
    shares = (np.abs(eigenvalues) - modulus) / (1 - modulus), (np.angle(eigenvalues) + 1) / 2
    for share in shares:
        gap = np.sort(share) - (np.arange(2000) + 0.5) / 2000
        assert np.abs(gap).max() < 2 / np.sqrt(2000)
    assert abs(np.mean(readout.real**2) / np.mean(readout.imag**2) - 1) < 0.2
    assert abs(np.mean(readout)) < 5 * np.abs(readout).std() / np.sqrt(1000)


def test_the_teacher_is_its_seeds_at_any_precision_and_length():
    task, other = TeacherRecall(20), TeacherRecall(20, teacher_seed=1)
    assert not np.allclose(task.teacher()[0], other.teacher()[0])
    np.testing.assert_array_equal(TeacherRecall(33).teacher()[0], task.teacher()[0])
    ratio = TeacherRecall(33).teacher()[1] / task.teacher()[1]
    np.testing.assert_allclose(ratio, ratio[0])
    with jax.enable_x64(False):
        batch = task.sample(jax.random.key(0), 3)
        eigenvalues, readout = task.teacher()
        assert eigenvalues.dtype == readout.dtype == np.complex128
    lags = np.arange(20)[:, None] - np.arange(20)[None, :]
    powers = eigenvalues ** np.maximum(lags, 0)[..., None] * np.sqrt(1 - np.abs(eigenvalues) ** 2)
    kernel = np.where(lags >= 0, (powers @ readout).real, 0.0)
    np.testing.assert_allclose(
        batch.targets[..., 0], np.asarray(batch.inputs[..., 0]) @ kernel.T, atol=1e-5
    )


def test_real_eigenvalues_only_decay():
    eigenvalues, _ = TeacherRecall(20, phase=0.0).teacher()
    np.testing.assert_array_equal(eigenvalues.imag, 0.0)
    assert (eigenvalues.real >= 0.9).all()


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: TeacherRecall(0), ValueError, "length must be at least 1; got 0"),
        (lambda: TeacherRecall(1), ValueError, "length must be at least 2.*got 1.*length=2"),
        (lambda: TeacherRecall(9, modulus=1.0), ValueError, r"modulus must lie in \[0, 1\); got 1"),
        (lambda: TeacherRecall(9, phase=4.0), ValueError, "phase must be an angle.*got 4.0.*Pass"),
        (lambda: TeacherRecall(9, phase="pi"), TypeError, "phase must be a number; got 'pi'"),
        (lambda: TeacherRecall(9, states=0), ValueError, "states must be at least 1; got 0"),
        (lambda: TeacherRecall(9, teacher_seed=-1), ValueError, "teacher_seed must be at least 0"),
        (lambda: TeacherRecall(9, teacher_seed=2**32), ValueError, "teacher_seed must be at most"),
        (lambda: TeacherRecall(9, solved_below=0.0), ValueError, "solved_below must be a positive"),
    ],
)
def test_a_wrong_argument_is_named_with_what_arrived_and_the_fix(call, error, words):
    with pytest.raises(error, match=re.compile(words, re.DOTALL)):
        call()
