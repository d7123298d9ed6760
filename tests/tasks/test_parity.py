"""Parity: what it claims about its samples and its chance loss."""

import re

import numpy as np
import pytest

from rnn_jax.tasks.parity import Parity
from tasks.drawing import draw, memoryless_loss
from tasks.zoo import name

SAMPLES = 4000


@pytest.mark.parametrize("length", [2, 7])
def test_the_target_is_the_parity_of_the_bits_so_far(length):
    last, every = draw(Parity(length), SAMPLES), draw(Parity(length, readout="all"), SAMPLES)
    assert last.inputs.shape == (SAMPLES, length, 1)
    np.testing.assert_array_equal(last.inputs, every.inputs)
    assert np.isin(last.inputs, [0.0, 1.0]).all()
    for row in range(SAMPLES):
        odd = False
        for step in range(length):
            odd ^= last.inputs[row, step, 0] == 1
            assert every.targets[row, step] == odd
        assert last.targets[row] == odd
    np.testing.assert_array_equal(last.weights, 1.0)
    np.testing.assert_array_equal(every.weights, 1.0)


def test_bits_are_fair_and_no_step_tells_of_another():
    bits = draw(Parity(7), SAMPLES).inputs[..., 0]
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 5 * 0.5 / np.sqrt(SAMPLES)
    table = np.corrcoef(bits, rowvar=False)
    assert np.abs(table - np.eye(7)).max() < 5 / np.sqrt(SAMPLES)


def test_all_bits_but_one_say_nothing_of_the_parity_of_all():
    batch = draw(Parity(3), SAMPLES)
    for hidden in range(3):
        known = np.delete(batch.inputs[..., 0], hidden, axis=1) @ [1, 2]
        for seen in range(4):
            share = batch.targets[known == seen].mean()
            assert abs(share - 0.5) < 5 * 0.5 / np.sqrt(np.sum(known == seen))


@pytest.mark.parametrize(
    "task", [Parity(2), Parity(6), Parity(2, "all"), Parity(6, "all")], ids=name
)
def test_the_chance_loss_is_what_the_best_predictor_without_memory_pays(task):
    loss, bound = memoryless_loss(task, SAMPLES)
    assert bound < 0.1 * task.chance_loss
    assert abs(loss - task.chance_loss) < bound


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: Parity(0), ValueError, "length must be at least 1; got 0"),
        (lambda: Parity(1), ValueError, "length must be at least 2.*got 1.*length=2"),
        (lambda: Parity(2.0), TypeError, "length must be a whole number; got 2.0"),
        (lambda: Parity(4, "first"), ValueError, "readout must be one of 'all', 'last'; got 'fir"),
        (lambda: Parity(4, solved_above=1.0), ValueError, "solved_above.*got 1.0.*Pass"),
    ],
)
def test_a_wrong_argument_is_named_with_what_arrived_and_the_fix(call, error, words):
    with pytest.raises(error, match=re.compile(words, re.DOTALL)):
        call()
