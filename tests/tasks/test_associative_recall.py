"""Multi-query associative recall: what it claims about its samples and its chance loss."""

import itertools
import re

import numpy as np
import pytest

from rnn_jax.tasks.associative_recall import AssociativeRecall
from tasks.drawing import draw, memoryless_loss, tokens
from tasks.zoo import name

SAMPLES = 3000
TASKS = [
    AssociativeRecall(3, pairs=1, keys=1, values=2),
    AssociativeRecall(12, pairs=2, keys=3, values=3),
    AssociativeRecall(15, pairs=3, queries=2, keys=4, values=5, power=0.5, filler="blank"),
    AssociativeRecall(9, pairs=4, queries=1, keys=5, values=4, filler="blank"),
]


@pytest.fixture(scope="module", params=TASKS, ids=name)
def drawn(request):
    batch = draw(request.param, SAMPLES)
    return request.param, tokens(batch), batch


def test_the_target_is_the_value_that_stood_beside_the_key(drawn):
    task, shown, batch = drawn
    assert batch.inputs.shape == (SAMPLES, task.length, task.keys + task.values + 1)
    queries = task.pairs if task.queries is None else task.queries
    for row, targets, weights in zip(shown, batch.targets, batch.weights, strict=True):
        value_of = {}
        for pair in range(task.pairs):
            key, value = row[2 * pair : 2 * pair + 2]
            assert key < task.keys <= value < task.keys + task.values
            value_of[key] = value - task.keys
        assert len(value_of) == task.pairs
        assert len(set(value_of.values())) == task.pairs
        asked = [row[step] for step in np.flatnonzero(weights)]
        assert len(set(asked)) == len(asked) == queries
        for step in range(task.length):
            assert weights[step] in (0, 1)
            assert targets[step] == (value_of[row[step]] if weights[step] else 0)
            if weights[step]:
                assert step >= 2 * task.pairs
                assert step % 2 == 0


def test_blank_filler_leaves_nothing_but_pairs_and_queries():
    task = TASKS[2]
    shown, batch = tokens(draw(task, SAMPLES)), draw(task, SAMPLES)
    rest = shown[:, 2 * task.pairs :]
    blank = task.keys + task.values
    np.testing.assert_array_equal(rest != blank, batch.weights[:, 2 * task.pairs :] > 0)


def test_random_filler_shows_every_token_as_often():
    task = TASKS[1]
    shown, batch = tokens(draw(task, SAMPLES)), draw(task, SAMPLES)
    filler = shown[:, 4:][batch.weights[:, 4:] == 0]
    p = 1 / task.in_features
    shares = np.bincount(filler, minlength=task.in_features) / filler.size
    assert np.abs(shares - p).max() < 5 * np.sqrt(p * (1 - p) / filler.size)


def test_the_slots_of_the_queries_follow_the_power_law(drawn):
    task, shown, batch = drawn
    start = 2 * task.pairs
    slots = (task.length - start + 1) // 2
    queries = task.pairs if task.queries is None else task.queries
    p = np.arange(1.0, slots + 1) ** (task.power - 1)
    p /= p.sum()
    # Every order in which slots can be drawn without replacement, and how likely it is.
    expected = {}
    for order in itertools.permutations(range(slots), queries):
        left, expected[order] = 1.0, 1.0
        for slot in order:
            expected[order] *= p[slot] / left
            left -= p[slot]
    assert sum(expected.values()) == pytest.approx(1)
    found = dict.fromkeys(expected, 0)
    for row, weights in zip(shown, batch.weights, strict=True):
        slot_of = {row[step]: (step - start) // 2 for step in np.flatnonzero(weights)}
        found[tuple(slot_of[key] for key in row[:start:2] if key in slot_of)] += 1
    for order, share in expected.items():
        deviation = np.sqrt(share * (1 - share) / SAMPLES)
        assert abs(found[order] / SAMPLES - share) <= 5 * deviation + 1e-12


def test_every_pair_is_as_likely_to_be_asked_for():
    for task in TASKS[2:]:
        shown, batch = tokens(draw(task, SAMPLES)), draw(task, SAMPLES)
        asked = np.zeros(task.pairs)
        for row, weights in zip(shown, batch.weights, strict=True):
            wanted = row[weights > 0]
            asked += np.isin(row[: 2 * task.pairs : 2], wanted)
        p = task.queries / task.pairs
        assert np.abs(asked / SAMPLES - p).max() < 5 * np.sqrt(p * (1 - p) / SAMPLES)


def test_with_one_query_and_the_shortest_length_the_last_step_asks():
    task = TASKS[3]
    batch = draw(task, SAMPLES)
    np.testing.assert_array_equal(batch.weights, np.tile([0.0] * 8 + [1.0], (SAMPLES, 1)))


def test_keys_and_values_are_all_as_likely_and_tell_nothing_of_each_other():
    task = TASKS[1]
    shown = tokens(draw(task, SAMPLES))
    for pair in range(task.pairs):
        joint = np.zeros((3, 3))
        np.add.at(joint, (shown[:, 2 * pair], shown[:, 2 * pair + 1] - 3), 1 / SAMPLES)
        assert np.abs(joint - 1 / 9).max() < 5 * np.sqrt(1 / 9 * 8 / 9 / SAMPLES)


def test_the_chance_loss_is_what_the_best_predictor_without_memory_pays(drawn):
    task, _, _ = drawn
    loss, bound = memoryless_loss(task, SAMPLES)
    assert bound < 0.1 * task.chance_loss
    assert abs(loss - task.chance_loss) < bound


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: AssociativeRecall(0), ValueError, "length must be at least 1; got 0"),
        (
            lambda: AssociativeRecall(14),
            ValueError,
            "length must be at least 15 for 4 pairs and 4 queries; got 14.*length=15",
        ),
        (
            lambda: AssociativeRecall(8, queries=1),
            ValueError,
            "at least 9 for 4 pairs and 1 queries; got 8.*length=9",
        ),
        (lambda: AssociativeRecall(20.0), TypeError, "length must be a whole number; got 20.0"),
        (lambda: AssociativeRecall(20, pairs=0), ValueError, "pairs must be at least 1; got 0"),
        (lambda: AssociativeRecall(20, queries=5), ValueError, "queries must be at most 4; got 5"),
        (lambda: AssociativeRecall(20, queries=0), ValueError, "queries must be at least 1; got 0"),
        (
            lambda: AssociativeRecall(20, keys=3),
            ValueError,
            "keys must be at least 4, so that 4 pairs.*got 3.*keys=4",
        ),
        (
            lambda: AssociativeRecall(20, pairs=1, values=1),
            ValueError,
            "values must be at least 2.*got 1.*values=2",
        ),
        (lambda: AssociativeRecall(20, power=0.0), ValueError, "power must be positive.*got 0.0"),
        (lambda: AssociativeRecall(20, power="a"), TypeError, "power must be a number; got 'a'"),
        (lambda: AssociativeRecall(20, filler="x"), ValueError, "filler must be one of.*got 'x'"),
    ],
)
def test_a_wrong_argument_is_named_with_what_arrived_and_the_fix(call, error, words):
    with pytest.raises(error, match=re.compile(words, re.DOTALL)):
        call()
