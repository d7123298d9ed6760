"""The older protocols of marked numbers: where the marks are, what is shown, what is asked for."""

import functools
import math
import re

import numpy as np
import pytest

from rnn_jax.tasks.adding import Adding
from rnn_jax.tasks.multiplication import Multiplication
from tasks.drawing import draw

SAMPLES = 3000
CASES = [
    (Adding, "hochreiter", 11),
    (Adding, "hochreiter", 40),
    (Adding, "martens", 10),
    (Adding, "martens", 40),
    (Multiplication, "hochreiter", 30),
    (Multiplication, "martens", 30),
]

every_case = pytest.mark.parametrize(("kind", "variant", "length"), CASES)


@functools.cache
def sequences(task):
    """[(the numbers and markers of a row from its first step on, its target)]."""
    batch = draw(task, SAMPLES)
    assert batch.inputs.shape == (SAMPLES, task.steps, 2)
    assert batch.targets.shape == (SAMPLES, 1)
    np.testing.assert_array_equal(batch.weights, np.ones(SAMPLES))
    rows = []
    for inputs, target in zip(batch.inputs, batch.targets, strict=True):
        start = int(np.argmax(inputs[:, 0] != 0))
        assert not inputs[:start].any()
        rows.append((inputs[start:, 0], inputs[start:, 1], target[0]))
    return rows


def marked(numbers, markers):
    pairs = zip(numbers.tolist(), markers.tolist(), strict=True)
    return [number for number, marker in pairs if marker == 1]


@every_case
def test_the_target_is_made_of_the_numbers_marked(kind, variant, length):
    for numbers, markers, target in sequences(kind(length, variant=variant)):
        shown = marked(numbers, markers)
        if kind is Multiplication:
            expected = math.prod(shown)
        else:
            expected = sum(shown) / 2 if variant == "martens" else 0.5 + sum(shown) / 4
        assert abs(target - expected) < 1e-14


@every_case
def test_numbers_are_uniform_in_the_range_of_the_paper(kind, variant, length):
    low = -1 if (kind, variant) == (Adding, "hochreiter") else 0
    values = np.concatenate([row[0] for row in sequences(kind(length, variant=variant))])
    assert low <= values.min() < low + 0.01
    assert 0.99 < values.max() < 1
    deviation = 5 * (1 - low) / np.sqrt(12 * values.size)
    assert abs(values.mean() - (low + 1) / 2) < deviation
    assert abs(values.var() - (1 - low) ** 2 / 12) < deviation


@every_case
def test_every_length_up_to_a_tenth_more_is_as_likely(kind, variant, length):
    lengths = [len(row[0]) for row in sequences(kind(length, variant=variant))]
    known, counts = np.unique(lengths, return_counts=True)
    np.testing.assert_array_equal(known, np.arange(length, length + length // 10 + 1))
    p = 1 / known.size
    assert np.abs(counts / SAMPLES - p).max() < 5 * np.sqrt(p * (1 - p) / SAMPLES)


def test_marks_of_martens_are_in_the_first_tenth_and_from_there_to_the_half():
    rows = sequences(Adding(40, variant="martens"))
    for total in range(40, 45):
        places = [np.flatnonzero(markers) for _, markers, _ in rows if len(markers) == total]
        first, second = np.stack(places).T
        np.testing.assert_array_equal(np.unique(first), np.arange(total // 10))
        np.testing.assert_array_equal(np.unique(second), np.arange(total // 10, total // 2))
        for part in (first, second):
            width = np.unique(part).size
            deviation = 5 * width / np.sqrt(12 * part.size)
            assert abs(part.mean() - (part.min() + part.max()) / 2) < deviation
    assert all(set(markers) == {0.0, 1.0} for _, markers, _ in rows)


@pytest.mark.parametrize("length", [11, 40])
def test_marks_of_hochreiter_and_those_that_are_hidden(length):
    expected = np.zeros(length)
    for first in range(10):
        others = [place for place in range(length) if place != first][: length // 2 - 1]
        expected[first] += 1 / 10
        for second in others:
            expected[second] += 1 / 10 / len(others)
    counts, hidden = np.zeros(length + length // 10), 0
    for numbers, markers, _ in sequences(Adding(length, variant="hochreiter")):
        assert markers[0] == markers[-1] == -1
        assert np.isin(markers[1:-1], [0.0, 1.0]).all()
        places = np.flatnonzero(markers == 1)
        assert len(places) == len(marked(numbers, markers)) in (1, 2)
        counts[places] += 1
        hidden += 2 - len(places)
    shares = np.concatenate([[hidden], counts[1:]]) / SAMPLES
    bound = 5 * np.sqrt(expected / SAMPLES) + 1e-12
    assert (np.abs(shares[:length] - expected) <= bound).all()
    np.testing.assert_array_equal(shares[length:], 0.0)


@every_case
def test_the_chance_loss_is_what_predicting_the_mean_costs(kind, variant, length):
    task = kind(length, variant=variant)
    batch = draw(task, SAMPLES)
    targets = batch.targets[:, 0]
    errors = (targets - targets.mean()) ** 2
    assert abs(errors.mean() - task.chance_loss) < 5 * errors.std() / np.sqrt(SAMPLES)
    # The last step is no help: it never has a mark, and its number is one of the others.
    last = batch.inputs[:, -1, 0]
    assert abs(np.corrcoef(last, targets)[0, 1]) < 5 / np.sqrt(SAMPLES)


def test_the_chance_losses_that_papers_name():
    assert Adding(100).chance_loss == 1 / 6
    assert Adding(100, variant="martens").chance_loss == 1 / 24
    np.testing.assert_allclose(Multiplication(30, variant="martens").chance_loss, 7 / 144)


def test_the_first_fields_stay_where_they_were():
    assert Adding(6, 0.5) == Adding(length=6, solved_below=0.5, variant="arjovsky")
    assert Adding(6).steps == 6
    assert Adding(40, variant="martens").steps == Multiplication(40).steps == 44


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Adding(10, variant="hochreiter"), "at least 11, ten steps.*got 10.*length=11"),
        (lambda: Adding(9, variant="martens"), "at least 10, one step.*got 9.*length=10"),
        (lambda: Adding(9, variant="le"), "variant must be one of 'arjovsky', 'hoch.*got 'le'"),
        (lambda: Multiplication(10), "length must be at least 11.*got 10"),
        (
            lambda: Multiplication(20, variant="arjovsky"),
            "variant must be one of 'hochreiter', 'martens'; got 'arjovsky'",
        ),
        (lambda: Multiplication(0), "length must be at least 1; got 0"),
        (lambda: Multiplication(20, solved_below=-1.0), "solved_below must be a positive error"),
    ],
)
def test_a_wrong_argument_is_named_with_what_arrived_and_the_fix(call, words):
    with pytest.raises(ValueError, match=re.compile(words, re.DOTALL)):
        call()
