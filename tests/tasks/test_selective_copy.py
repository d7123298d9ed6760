"""Selective copying: what it claims about its samples, chance loss and accuracy."""

import itertools
import math
import re

import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax.tasks.selective_copy import SelectiveCopy
from tasks.drawing import draw, memoryless_loss, tokens
from tasks.zoo import name

SAMPLES = 4000
TASKS = [
    SelectiveCopy(2, symbols=1, alphabet=2),
    SelectiveCopy(7, symbols=2, alphabet=3),
    SelectiveCopy(7, symbols=3, alphabet=3, cue="once"),
    SelectiveCopy(8, symbols=2, alphabet=4, cue="once", counted="all"),
    SelectiveCopy(9, symbols=2, alphabet=4, counted="all"),
]


@pytest.fixture(scope="module", params=TASKS, ids=name)
def drawn(request):
    batch = draw(request.param, SAMPLES)
    return request.param, tokens(batch), batch


def test_the_symbols_among_the_blanks_are_asked_for_in_their_order(drawn):
    task, shown, batch = drawn
    blank, marker, s = task.alphabet, task.alphabet + 1, task.symbols
    assert batch.inputs.shape == (SAMPLES, task.length, task.alphabet + 2)
    recall = task.length - s
    marked = [recall - 1] if task.cue == "once" else list(range(recall, task.length))
    for row, targets in zip(shown, batch.targets, strict=True):
        scattered = [token for token in row if token < blank]
        assert len(scattered) == s
        assert max(np.flatnonzero(row < blank)) < marked[0]
        assert list(targets) == [blank] * recall + scattered
        assert list(np.flatnonzero(row == marker)) == marked
    counts = np.ones(task.length)
    counts[:recall] = task.counted == "all"
    np.testing.assert_array_equal(batch.weights, np.tile(counts, (SAMPLES, 1)))


def test_all_sets_of_places_are_as_likely(drawn):
    task, shown, _ = drawn
    places = task.length - task.symbols - (task.cue == "once")
    sets = list(itertools.combinations(range(places), task.symbols))
    number = {chosen: n for n, chosen in enumerate(sets)}
    found = [number[tuple(np.flatnonzero(row < task.alphabet))] for row in shown]
    shares = np.bincount(found, minlength=len(sets)) / SAMPLES
    p = 1 / len(sets)
    assert np.abs(shares - p).max() <= 5 * np.sqrt(p * (1 - p) / SAMPLES)


def test_symbols_are_all_as_likely_wherever_they_stand(drawn):
    task, shown, _ = drawn
    p = 1 / task.alphabet
    for step in range(task.length - task.symbols):
        symbols = shown[:, step][shown[:, step] < task.alphabet]
        if symbols.size:
            shares = np.bincount(symbols, minlength=task.alphabet) / symbols.size
            assert np.abs(shares - p).max() < 5 * np.sqrt(p * (1 - p) / symbols.size)


def test_the_chance_loss_is_what_the_best_predictor_without_memory_pays(drawn):
    task, _, _ = drawn
    loss, bound = memoryless_loss(task, SAMPLES)
    assert bound < 0.1 * task.chance_loss
    assert abs(loss - task.chance_loss) < bound


def test_the_chance_losses_are_those_of_the_sources():
    assert SelectiveCopy(4096).chance_loss == pytest.approx(math.log(14))
    denoising = SelectiveCopy(220, symbols=10, alphabet=9, cue="once", counted="all")
    assert denoising.chance_loss == pytest.approx(10 * math.log(9) / 220)


def test_saying_blank_everywhere_recalls_nothing():
    task = TASKS[-1]
    batch = draw(task, SAMPLES)
    blanks = np.zeros((SAMPLES, task.length, task.out_features))
    blanks[..., task.blank] = 50.0
    metrics = task.metrics(jnp.asarray(blanks), batch)
    assert metrics["accuracy"] == 0
    assert not task.solved(metrics)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: SelectiveCopy(0), ValueError, "length must be at least 1; got 0"),
        (
            lambda: SelectiveCopy(31),
            ValueError,
            "length must be at least 32 to show 16 symbols.*got 31.*length=32",
        ),
        (
            lambda: SelectiveCopy(10, symbols=5, cue="once"),
            ValueError,
            'length must be at least 11 to show 5 symbols.*cue="once".*got 10.*length=11',
        ),
        (lambda: SelectiveCopy(40.0), TypeError, "length must be a whole number; got 40.0"),
        (lambda: SelectiveCopy(40, 0), ValueError, "symbols must be at least 1; got 0"),
        (lambda: SelectiveCopy(40, 3, 1), ValueError, "alphabet must be at least 2; got 1"),
        (lambda: SelectiveCopy(40, cue="no"), ValueError, "cue must be one of.*got 'no'"),
        (lambda: SelectiveCopy(40, counted="no"), ValueError, "counted must be one of.*got 'no'"),
    ],
)
def test_a_wrong_argument_is_named_with_what_arrived_and_the_fix(call, error, words):
    with pytest.raises(error, match=re.compile(words, re.DOTALL)):
        call()


def test_the_shortest_sequences_can_be_drawn():
    for task in (SelectiveCopy(6, symbols=3), SelectiveCopy(7, symbols=3, cue="once")):
        assert (tokens(draw(task, 3))[:, :3] < task.alphabet).all()
