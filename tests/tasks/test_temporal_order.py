"""The temporal order problem: what it claims about its samples and its chance loss."""

import itertools
import re

import numpy as np
import pytest

from rnn_jax.tasks.temporal_order import TemporalOrder
from tasks.drawing import draw, memoryless_loss, tokens
from tasks.zoo import name

SAMPLES = 4000
NAMES = "abcdXYEB"

TASKS = [
    TemporalOrder(10),
    TemporalOrder(10, symbols=3),
    TemporalOrder(37, markers=False),
    TemporalOrder(100, symbols=3),
]

# Where the paper puts them in a sequence of 100, and by hand for shorter ones.
WINDOWS = {
    (10, 2): [(1, 2), (5, 6)],
    (10, 3): [(1, 2), (3, 4), (6, 7)],
    (37, 2): [(3, 7), (18, 22)],
    (100, 2): [(10, 20), (50, 60)],
    (100, 3): [(10, 20), (33, 43), (66, 76)],
}


@pytest.fixture(scope="module", params=TASKS, ids=name)
def drawn(request):
    batch = draw(request.param, SAMPLES)
    return request.param, tokens(batch), batch


def test_the_class_is_the_order_of_the_relevant_symbols(drawn):
    task, shown, batch = drawn
    orders = ["".join(order) for order in itertools.product("XY", repeat=task.symbols)]
    assert task.out_features == len(orders)
    assert batch.targets.shape == (SAMPLES,)
    for row, target in zip(shown, batch.targets, strict=True):
        relevant = "".join(NAMES[token] for token in row if NAMES[token] in "XY")
        assert orders[target] == relevant
    np.testing.assert_array_equal(batch.weights, 1.0)


def test_relevant_symbols_stand_in_their_windows_all_places_as_likely(drawn):
    task, shown, _ = drawn
    relevant = (shown == 4) | (shown == 5)
    np.testing.assert_array_equal(relevant.sum(axis=1), task.symbols)
    outside = np.ones(task.length, bool)
    for low, high in WINDOWS[task.length, task.symbols]:
        window = relevant[:, low : high + 1]
        np.testing.assert_array_equal(window.sum(axis=1), 1)
        p = 1 / (high - low + 1)
        assert np.abs(window.mean(axis=0) - p).max() < 5 * np.sqrt(p * (1 - p) / SAMPLES)
        outside[low : high + 1] = False
    assert not relevant[:, outside].any()


def test_the_ends_are_marked_and_the_rest_is_distractors_all_as_likely(drawn):
    task, shown, batch = drawn
    assert batch.inputs.shape == (SAMPLES, task.length, task.in_features)
    inner = shown
    if task.markers:
        assert task.in_features == len(NAMES)
        np.testing.assert_array_equal(shown[:, 0], NAMES.index("E"))
        np.testing.assert_array_equal(shown[:, -1], NAMES.index("B"))
        inner = shown[:, 1:-1]
    distractors = inner[(inner != 4) & (inner != 5)]
    assert distractors.max() == 3
    shares = np.bincount(distractors) / distractors.size
    assert np.abs(shares - 0.25).max() < 5 * np.sqrt(0.25 * 0.75 / distractors.size)


def test_the_chance_loss_is_what_the_best_predictor_without_memory_pays(drawn):
    task, _, _ = drawn
    loss, bound = memoryless_loss(task, SAMPLES)
    assert bound < 0.1 * task.chance_loss
    assert abs(loss - task.chance_loss) < bound


def test_no_single_symbol_names_the_class(drawn):
    task, shown, batch = drawn
    for nth in range(task.symbols):
        relevant = np.sort(np.argsort((shown == 4) | (shown == 5), axis=1)[:, -task.symbols :])
        symbol = shown[np.arange(SAMPLES), relevant[:, nth]]
        for seen in (4, 5):
            shares = np.bincount(batch.targets[symbol == seen]) / np.sum(symbol == seen)
            expected = 2 / task.out_features
            assert abs(shares.max() - expected) < 0.06
            assert np.sum(shares > 0) == task.out_features / 2


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: TemporalOrder(0), ValueError, "length must be at least 1; got 0"),
        (lambda: TemporalOrder(9), ValueError, "length must be at least 10.*got 9.*length=10"),
        (lambda: TemporalOrder("20"), TypeError, "length must be a whole number; got '20'"),
        (lambda: TemporalOrder(20, 1), ValueError, "symbols must be at least 2; got 1"),
        (lambda: TemporalOrder(20, 4), ValueError, "symbols must be at most 3; got 4"),
        (lambda: TemporalOrder(20, solved_above=2), ValueError, "solved_above.*got 2.*Pass"),
    ],
)
def test_a_wrong_argument_is_named_with_what_arrived_and_the_fix(call, error, words):
    with pytest.raises(error, match=re.compile(words, re.DOTALL)):
        call()
