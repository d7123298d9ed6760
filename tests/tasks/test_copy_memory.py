"""The copy memory problem: what it claims about its samples, chance loss and accuracy."""

import math
import re

import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax.tasks.copy_memory import CopyMemory
from tasks.drawing import draw, memoryless_loss, tokens
from tasks.zoo import name

SAMPLES = 2000
TASKS = [
    CopyMemory(1, symbols=1, alphabet=2),
    CopyMemory(4, symbols=3, alphabet=4),
    CopyMemory(4, symbols=3, alphabet=4, counted="recall"),
    CopyMemory(2),
]


@pytest.fixture(scope="module", params=TASKS, ids=name)
def drawn(request):
    batch = draw(request.param, SAMPLES)
    return request.param, tokens(batch), batch


def test_the_list_shown_first_is_asked_for_after_the_marker(drawn):
    task, shown, batch = drawn
    blank, marker, s = task.alphabet, task.alphabet + 1, task.symbols
    assert batch.inputs.shape == (SAMPLES, task.delay + 2 * s, task.alphabet + 2)
    assert task.out_features == task.alphabet + 1
    for row, targets in zip(shown, batch.targets, strict=True):
        (asked,) = np.flatnonzero(row == marker)
        assert asked == s + task.delay - 1
        listed = [token for token in row if token < blank]
        assert len(listed) == s
        assert list(row[:s]) == listed
        assert list(targets) == [blank] * (asked + 1) + listed
        assert len(row) == asked + 1 + s
    recalled = np.arange(task.steps) > task.steps - s - 1
    counts = recalled if task.counted == "recall" else np.ones(task.steps)
    np.testing.assert_array_equal(batch.weights, np.tile(counts, (SAMPLES, 1)))


def test_symbols_are_all_as_likely_and_independent(drawn):
    task, shown, _ = drawn
    listed = shown[:, : task.symbols]
    p = 1 / task.alphabet
    for place in range(task.symbols):
        shares = np.bincount(listed[:, place], minlength=task.alphabet) / SAMPLES
        assert np.abs(shares - p).max() < 5 * np.sqrt(p * (1 - p) / SAMPLES)
    if task.symbols > 1:
        table = np.corrcoef(listed, rowvar=False)
        assert np.abs(table - np.eye(task.symbols)).max() < 5 / np.sqrt(SAMPLES)


def test_the_chance_loss_is_what_the_best_predictor_without_memory_pays(drawn):
    task, _, _ = drawn
    loss, bound = memoryless_loss(task, SAMPLES)
    assert bound < 0.1 * task.chance_loss
    assert abs(loss - task.chance_loss) < bound


def test_the_chance_loss_of_the_usual_sizes_is_the_usual_baseline():
    assert CopyMemory(500).chance_loss == pytest.approx(10 * math.log(8) / 520)
    assert CopyMemory(500, counted="recall").chance_loss == pytest.approx(math.log(8))


@pytest.mark.parametrize("counted", ["all", "recall"])
def test_the_accuracy_is_that_of_the_recalled_symbols(counted):
    task = CopyMemory(50, symbols=4, alphabet=3, counted=counted)
    batch = draw(task, 8)
    perfect = 50.0 * np.eye(4)[batch.targets]
    assert task.solved(task.metrics(jnp.asarray(perfect), batch))

    blanks = np.zeros_like(perfect)
    blanks[..., task.blank] = 50.0
    metrics = task.metrics(jnp.asarray(blanks), batch)
    assert metrics["accuracy"] == 0
    assert not task.solved(metrics)

    # One symbol of the 32 wrong: 31/32 right; and a wrong blank is none of the accuracy's business.
    outputs = perfect.copy()
    outputs[3, -2] = np.roll(outputs[3, -2], 1)
    outputs[:, :-4] = 0.0
    outputs[:, :-4, 0] = 50.0
    metrics = task.metrics(jnp.asarray(outputs), batch)
    assert float(metrics["accuracy"]) == pytest.approx(31 / 32)
    assert not task.solved(metrics)
    expected = {"all": (50.0 + 8 * 54 * 50.0) / (8 * 58), "recall": 50.0 / 32}[counted]
    assert float(metrics["cross_entropy"]) == pytest.approx(expected)
    assert float(task.loss(jnp.asarray(outputs), batch)) == pytest.approx(expected)


def test_rows_without_weight_do_not_count_in_the_accuracy():
    task = CopyMemory(2, symbols=2, alphabet=2)
    batch = draw(task, 4)
    batch = batch._replace(weights=batch.weights * np.array([[1.0], [1.0], [0.0], [0.0]]))
    outputs = 50.0 * np.eye(3)[batch.targets]
    outputs[2:] = 0.0
    assert task.metrics(jnp.asarray(outputs), batch)["accuracy"] == 1


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: CopyMemory(0), ValueError, "delay must be at least 1; got 0"),
        (lambda: CopyMemory(2.0), TypeError, "delay must be a whole number; got 2.0"),
        (lambda: CopyMemory(2, 0), ValueError, "symbols must be at least 1; got 0"),
        (lambda: CopyMemory(2, 3, 1), ValueError, "alphabet must be at least 2; got 1"),
        (lambda: CopyMemory(2, counted="none"), ValueError, "counted must be one of.*got 'none'"),
        (lambda: CopyMemory(2, solved_above=1), ValueError, "solved_above.*got 1.*Pass"),
        (
            lambda: TASKS[1].metrics(jnp.zeros((4, 10, 4)), draw(TASKS[1], 4)),
            ValueError,
            r"shape of the targets, \(4, 10, 5\); got \(4, 10, 4\)",
        ),
    ],
)
def test_a_wrong_argument_is_named_with_what_arrived_and_the_fix(call, error, words):
    with pytest.raises(error, match=re.compile(words, re.DOTALL)):
        call()
