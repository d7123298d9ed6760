"""Delayed exclusive or: what it claims about its samples and its chance loss."""

import re

import numpy as np
import pytest

from rnn_jax.tasks.delayed_xor import DelayedXor
from tasks.drawing import draw, memoryless_loss
from tasks.zoo import name

SAMPLES = 1000
TASKS = [
    DelayedXor(1),
    DelayedXor(1, length=3),
    DelayedXor(3),
    DelayedXor(2, length=11, bits=4),
    DelayedXor(3, bits=1),
]


@pytest.mark.parametrize("task", TASKS, ids=name)
def test_the_target_is_the_parity_of_bits_shown_one_two_and_more_delays_ago(task):
    batch = draw(task, SAMPLES)
    assert batch.inputs.shape == (SAMPLES, task.steps, 1)
    assert np.isin(batch.inputs, [0.0, 1.0]).all()
    for step in range(task.steps):
        asked = step >= task.bits * task.delay
        np.testing.assert_array_equal(batch.weights[:, step], float(asked))
        odd = np.zeros(SAMPLES)
        for back in range(1, task.bits + 1) if asked else ():
            odd = np.abs(odd - batch.inputs[:, step - back * task.delay, 0])
        np.testing.assert_array_equal(batch.targets[:, step], odd)


def test_two_bits_give_one_where_they_differ():
    batch = draw(DelayedXor(3), SAMPLES)
    bits = batch.inputs[..., 0]
    np.testing.assert_array_equal(batch.targets[:, 6:], bits[:, 3:-3] != bits[:, :-6])


def test_a_sequence_is_three_times_the_longest_lag_unless_told_otherwise():
    assert DelayedXor(5).longest_lag == 10
    assert DelayedXor(5).steps == 30
    assert DelayedXor(5, bits=4).steps == 60
    assert DelayedXor(5, length=11).steps == 11


def test_bits_are_fair_and_no_step_tells_of_another():
    bits = draw(DelayedXor(3), SAMPLES).inputs[..., 0]
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 5 * 0.5 / np.sqrt(SAMPLES)
    table = np.corrcoef(bits, rowvar=False)
    assert np.abs(table - np.eye(18)).max() < 5 / np.sqrt(SAMPLES)


def test_neither_bit_alone_tells_anything_of_the_answer():
    batch = draw(DelayedXor(3), SAMPLES)
    for back in (0, 3, 6):
        shown, answer = batch.inputs[:, 8 - back, 0], batch.targets[:, 8]
        assert abs(np.corrcoef(shown, answer)[0, 1]) < 5 / np.sqrt(SAMPLES)


@pytest.mark.parametrize("task", TASKS, ids=name)
def test_the_chance_loss_is_what_the_best_predictor_without_memory_pays(task):
    loss, bound = memoryless_loss(task, SAMPLES)
    assert bound < 0.1 * task.chance_loss
    assert abs(loss - task.chance_loss) < bound


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: DelayedXor(0), ValueError, "delay must be at least 1; got 0"),
        (lambda: DelayedXor(2.5), TypeError, "delay must be a whole number; got 2.5"),
        (lambda: DelayedXor(2, bits=0), ValueError, "bits must be at least 1; got 0"),
        (lambda: DelayedXor(2, 4), ValueError, "longest lag, bits · delay = 4,.*got 4.*length=12"),
        (lambda: DelayedXor(2, 6, bits=3), ValueError, "longest lag.*= 6,.*got 6.*length=18"),
        (lambda: DelayedXor(2, 0), ValueError, "length must be at least 1; got 0"),
        (lambda: DelayedXor(2, solved_above=0), ValueError, "solved_above.*got 0.*Pass"),
    ],
)
def test_a_wrong_argument_is_named_with_what_arrived_and_the_fix(call, error, words):
    with pytest.raises(error, match=re.compile(words, re.DOTALL)):
        call()
