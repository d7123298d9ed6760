"""Digits pixel by pixel: that the images are those of the set, and what the last pixel tells."""

import functools
import inspect
import re
import sys

import jax
import numpy as np
import optax
import pytest
from flax import nnx

import rnn_jax as rj
from leaks import checking_leaks
from rnn_jax.tasks.digits import SequentialDigits
from tasks import test_laws
from tasks.drawing import draw, memoryless_loss

SAMPLES = 12_000
PIXELS, LABELS = pytest.importorskip("sklearn.datasets").load_digits(return_X_y=True)
PLAIN, PERMUTED = SequentialDigits(), SequentialDigits(permuted=True)

# Every law of a task but one: the size of these is that of their images.
LAWS = [
    law
    for name, law in vars(test_laws).items()
    if name.startswith("test_")
    and name != "test_the_first_field_is_the_size_and_only_it_must_be_given"
    and next(iter(inspect.signature(law).parameters)) == "task"
]

held_out = jax.jit(lambda task, key, size: task.sample_held_out(key, size), static_argnums=(0, 2))


@functools.cache
def known():
    """{the 64 pixels of an image: its place in the set}."""
    places = {row.tobytes(): place for place, row in enumerate(PIXELS)}
    assert len(places) == len(PIXELS)
    return places


def places(batch, order):
    """Which images the rows of a batch are."""
    pixels = np.empty(batch.inputs.shape[:2])
    pixels[:, order] = 16 * np.asarray(batch.inputs)[..., 0]
    return np.array([known()[row.tobytes()] for row in pixels])


@pytest.mark.parametrize("task", [PLAIN, PERMUTED], ids=["plain", "permuted"])
def test_every_row_is_an_image_with_its_label_and_none_is_in_both_parts(task):
    parts = []
    for batch in (draw(task, SAMPLES), held_out(task, jax.random.key(0), 3000)):
        rows = places(batch, task.order)
        np.testing.assert_array_equal(batch.targets, LABELS[rows])
        np.testing.assert_array_equal(batch.weights, np.ones(len(rows)))
        parts.append(np.unique(rows, return_counts=True))
    (training, often), (rest, _) = parts
    assert not set(training) & set(rest)
    # Drawn so often that 1 in e^8 is missed.
    assert 1430 <= training.size <= 1437
    assert 355 <= rest.size <= 360
    assert often.max() < 8.35 + 6 * np.sqrt(8.35)


def test_the_split_and_the_order_are_those_of_their_seeds():
    other = SequentialDigits(split_seed=1)
    rows = [set(places(draw(task, SAMPLES), task.order)) for task in (PLAIN, PERMUTED, other)]
    assert len(rows[0] ^ rows[1]) < 20
    assert len(rows[0] ^ rows[2]) > 400
    again, another = SequentialDigits(True), SequentialDigits(True, permutation_seed=1)
    np.testing.assert_array_equal(again.order, PERMUTED.order)
    np.testing.assert_array_equal(np.sort(again.order), np.arange(64))
    assert (again.order != np.arange(64)).sum() > 50
    assert (again.order != another.order).sum() > 50


@pytest.mark.parametrize("task", [PLAIN, PERMUTED], ids=["plain", "permuted"])
def test_the_chance_loss_is_what_the_best_predictor_without_memory_pays(task):
    loss, bound = memoryless_loss(task, SAMPLES)
    assert bound < 0.03
    # The loss of a row spreads by some 0.5.
    assert abs(loss - task.chance_loss) < bound + 5 * 0.5 / np.sqrt(SAMPLES)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_what_every_task_keeps(law):
    if "x64" in inspect.signature(law).parameters:
        law(PERMUTED, True)
        law(PERMUTED, False)
    else:
        law(PERMUTED)


def test_fit_evaluates_on_all_images_held_out_and_knows_the_rest_as_bytes():
    rngs = nnx.Rngs(0)
    model = rj.SequenceModel(rj.SimpleRNNCell(1, 3, rngs=rngs), 10, rngs=rngs)
    pace = {"steps": 2, "batch_size": 20, "seed": 0, "evaluation_size": 200}
    result = rj.fit(model, PERMUTED, optax.adam(0.01), **pace)
    apart = np.random.RandomState(0).permutation(len(LABELS))[:360]
    outputs = np.asarray(result.model(PIXELS[apart][:, PERMUTED.order, None] / 16))
    right = outputs.argmax(axis=-1) == LABELS[apart]
    np.testing.assert_allclose(result.history["accuracy"], [right.mean()], rtol=1e-12)
    images = PERMUTED.arrays()
    assert (len(images), images.training.inputs.dtype) == (1437, np.uint8)
    assert images.chance_loss == PERMUTED.chance_loss
    batch = images.take(np.arange(4))
    rows = places(batch, PERMUTED.order)
    np.testing.assert_array_equal(batch.targets, LABELS[rows])


def test_the_first_to_draw_may_be_traced():
    fresh = SequentialDigits(split_seed=2)
    with checking_leaks():
        traced = jax.jit(fresh.sample, static_argnums=1)(jax.random.key(0), 5)
    plain = fresh.sample(jax.random.key(0), 5)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-15), traced, plain)


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    task = SequentialDigits(split_seed=3)
    with pytest.raises(ImportError, match=r"scikit-learn.*pip install 'rnn_jax\[experiments\]'"):
        task.sample(jax.random.key(0), 5)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: SequentialDigits(1), TypeError, "permuted must be True or False; got 1.*Pass"),
        (lambda: SequentialDigits(permutation_seed=-1), ValueError, "permutation_seed.*got -1"),
        (lambda: SequentialDigits(split_seed=0.5), TypeError, "split_seed must be a whole number"),
        (lambda: SequentialDigits(solved_above=1.0), ValueError, "solved_above.*got 1.0.*Pass"),
        (lambda: PLAIN.sample_held_out(0, 3), TypeError, "key must be a JAX random key"),
        (lambda: PLAIN.sample_held_out(jax.random.key(0), 0), ValueError, "batch_size.*got 0"),
    ],
)
def test_a_wrong_argument_is_named_with_what_arrived_and_the_fix(call, error, words):
    with pytest.raises(error, match=re.compile(words, re.DOTALL)):
        call()
