"""The Dyck language of bounded depth: what it claims about its samples and its chance loss."""

import re

import numpy as np
import pytest

from rnn_jax.tasks.dyck import Dyck
from tasks.drawing import draw, memoryless_loss, tokens
from tasks.zoo import name

SAMPLES = 2000
TASKS = [Dyck(4), Dyck(12), Dyck(14, kinds=3, depth=5), Dyck(8, kinds=2, depth=2)]


@pytest.fixture(scope="module", params=TASKS, ids=name)
def drawn(request):
    batch = draw(request.param, SAMPLES)
    return request.param, tokens(batch), batch


def test_every_sequence_is_one_whole_word_and_the_answer_what_may_close_next(drawn):
    task, shown, batch = drawn
    assert batch.inputs.shape == (SAMPLES, task.length, 2 * task.kinds)
    for word, targets, weights in zip(shown, batch.targets, batch.weights, strict=True):
        still_open = []
        for step, token in enumerate(word):
            closes = token >= task.kinds
            if closes:
                assert still_open.pop() == token - task.kinds
            else:
                still_open.append(token)
            assert len(still_open) <= task.depth
            # The first bracket closes last.
            assert bool(still_open) == (step < task.length - 1)
            assert weights[step] == (closes and bool(still_open))
            assert targets[step] == (still_open[-1] if still_open else 0)


def test_the_bracket_that_closes_next_is_the_one_answered(drawn):
    task, shown, batch = drawn
    rows, steps = np.nonzero((batch.weights[:, :-1] > 0) & (shown[:, 1:] >= task.kinds))
    np.testing.assert_array_equal(shown[rows, steps + 1] - task.kinds, batch.targets[rows, steps])


def test_every_word_asks_as_often(drawn):
    task, _, batch = drawn
    np.testing.assert_array_equal(batch.weights.sum(axis=1), task.length / 2 - 1)


def test_a_fair_coin_says_whether_a_bracket_opens_where_both_is_allowed(drawn):
    task, shown, _ = drawn
    opens = shown < task.kinds
    height = np.cumsum(np.where(opens, 1, -1), axis=1)
    before = np.pad(height[:, :-1], ((0, 0), (1, 0)))
    left = np.arange(task.length, 0, -1)
    free = (before > 1) & (before < task.depth) & (before < left)
    assert opens[(before <= 1) & (before < left)].all()
    assert not opens[(before == task.depth) | (before == left)].any()
    if free.any():
        assert abs(opens[free].mean() - 0.5) < 5 * 0.5 / np.sqrt(free.sum())
    # The deepest level is reached where the length allows it.
    assert height.max() == min(task.depth, task.length // 2)


def test_the_kinds_that_open_are_all_as_likely(drawn):
    task, shown, _ = drawn
    opened = shown[shown < task.kinds]
    shares = np.bincount(opened, minlength=task.kinds) / opened.size
    p = 1 / task.kinds
    assert np.abs(shares - p).max() < 5 * np.sqrt(p * (1 - p) / opened.size)


def test_the_chance_loss_is_what_the_best_predictor_without_memory_pays(drawn):
    task, _, _ = drawn
    loss, bound = memoryless_loss(task, SAMPLES)
    assert bound < 0.1 * task.chance_loss
    assert abs(loss - task.chance_loss) < bound


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: Dyck(0), ValueError, "length must be at least 1; got 0"),
        (lambda: Dyck(2), ValueError, "even and at least 4.*got 2.*length=4"),
        (lambda: Dyck(9), ValueError, "even and at least 4.*got 9.*length=10"),
        (lambda: Dyck(10.0), TypeError, "length must be a whole number; got 10.0"),
        (lambda: Dyck(10, kinds=1), ValueError, "kinds must be at least 2; got 1"),
        (lambda: Dyck(10, depth=1), ValueError, "depth must be at least 2; got 1"),
        (lambda: Dyck(10, solved_above=0), ValueError, "solved_above.*got 0.*Pass"),
    ],
)
def test_a_wrong_argument_is_named_with_what_arrived_and_the_fix(call, error, words):
    with pytest.raises(error, match=re.compile(words, re.DOTALL)):
        call()
