"""The user's own data: epochs, and losses that count what counts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax.tasks import Arrays, Batch, CrossEntropy, SquaredError
from rnn_jax.tasks.own_data import _place
from tasks.examples import CLASSES, COUNT, INPUTS, LENGTHS, NUMBERS, STEPS, VALID

KEY = jax.random.key(3)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _order(key, first, length, batch_size, count):
    data = Arrays(np.zeros((count, 1, 1)), np.zeros((count, 1)))
    return data.order(key, first, length, batch_size)


def order(first, length, batch_size, count=COUNT, key=KEY):
    return np.asarray(_order(key, jnp.int32(first), length, batch_size, count))


def permutations(key, epochs, count=COUNT):
    """Of each epoch, from its number, one after another."""
    keys = [jax.random.fold_in(key, epoch) for epoch in range(epochs)]
    return np.concatenate([jax.random.permutation(key, count) for key in keys])


# Epochs.


@pytest.mark.parametrize("batch_size", [1, 3, 7, 20])
def test_each_epoch_is_a_permutation_of_its_own_and_batches_follow_one_another(batch_size):
    length = -(-21 // batch_size)
    flat = order(0, length, batch_size).ravel()
    np.testing.assert_array_equal(flat, permutations(KEY, 9)[: flat.size])
    epochs = flat[:21].reshape(3, COUNT)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.broadcast_to(np.arange(7), (3, 7)))
    assert not np.array_equal(epochs[0], epochs[1])


def test_what_a_step_takes_depends_on_its_number_alone():
    whole = order(0, 12, 3)
    for first, length in [(0, 5), (5, 5), (10, 2), (11, 1)]:
        np.testing.assert_array_equal(order(first, length, 3), whole[first : first + length])


def test_another_key_gives_another_order():
    other = order(0, 7, 1, key=jax.random.key(4)).ravel()
    np.testing.assert_array_equal(other, permutations(jax.random.key(4), 1))
    assert not np.array_equal(other, order(0, 7, 1).ravel())


@pytest.mark.parametrize(
    ("step", "size", "count"),
    [(2**31 - 2, 1024, 50_000_000), (2**31 - 2, 256, 7), (123, 1, 1), (5, 3, 2**31 - 1), (0, 9, 4)],
)
def test_the_place_of_a_step_is_exact_where_32_bits_do_not_hold_it(step, size, count):
    epoch, offset = _place(jnp.int32(step), size, count)
    expected = divmod(step * size, count)
    assert (int(epoch), int(offset)) == (expected[0] % 2**32, expected[1])


def test_a_share_split_off_is_of_both_parts_none_and_drawn_from_its_seed():
    numbered = np.arange(COUNT, dtype=float)[:, None]
    make = functools.partial(Arrays, INPUTS, numbered, LENGTHS, validation=0.3)
    data = make()
    parts = [set(np.ravel(part.targets)) for part in (data.training, data.validation)]
    assert (len(data), len(parts[1])) == (5, 2)
    assert parts[0] | parts[1] == set(range(COUNT))
    for part in (data.training, data.validation):
        rows = np.ravel(part.targets).astype(int)
        np.testing.assert_array_equal(part.inputs, INPUTS[rows])
        np.testing.assert_array_equal(part.lengths, LENGTHS[rows])
    np.testing.assert_array_equal(make().validation.targets, data.validation.targets)
    others = {tuple(np.ravel(make(split_seed=seed).validation.targets)) for seed in range(8)}
    assert len(others) > 3


def test_data_are_copied_and_tell_their_sizes():
    inputs = INPUTS.copy()
    data = Arrays(inputs, CLASSES, loss=CrossEntropy(classes=5))
    inputs[:] = 0
    np.testing.assert_array_equal(data.training.inputs, INPUTS)
    assert (data.in_features, data.out_features, data.readout, data.steps) == (2, 5, "last", 4)
    assert data.steps_for(2, 4) == 4
    tokens = Arrays(np.array([[0, 4], [2, 1]]), np.array([[0, 1], [1, 1]]))
    assert (tokens.in_features, tokens.out_features, tokens.readout) == (5, 2, "all")
    pair = Arrays((INPUTS, INPUTS[..., :1]), NUMBERS)
    assert pair.in_features is None
    drawn = pair.sample(KEY, 5)
    assert jax.tree.map(np.shape, drawn.inputs) == ((5, 4, 2), (5, 4, 1))


def test_the_chance_loss_is_that_of_the_best_constant():
    rows = np.repeat(NUMBERS, 2, axis=1)
    weights = np.random.default_rng(1).uniform(0.5, 1, COUNT)
    share = weights / weights.sum()
    expected = (share[:, None] * (rows - share @ rows) ** 2).sum()
    np.testing.assert_allclose(Arrays(INPUTS, rows, weights=weights).chance_loss, expected)
    own = np.array([1.0, 2.0, 4.0])
    shares = np.array([4, 2 * 2, 4]) / 12
    entropy = -(shares * np.log(shares)).sum()
    data = Arrays(INPUTS, CLASSES, loss=CrossEntropy(class_weights=own))
    np.testing.assert_allclose(data.chance_loss, entropy)


# Losses, against NumPy.


def every_step(classes):
    """(outputs, targets, weights) with an answer at every step."""
    rng = np.random.default_rng(1)
    targets = rng.integers(0, 3, (COUNT, STEPS)) if classes else rng.normal(size=(COUNT, STEPS, 3))
    return rng.normal(size=(COUNT, STEPS, 3)), targets, rng.uniform(0.1, 1, (COUNT, STEPS))


def in_numpy(outputs, targets, weights, own=None):
    """The loss, as a loop over the answers that count."""
    above = below = 0.0
    for place in np.argwhere(weights > 0):
        row, step = place
        weight, answer, target = weights[row, step], outputs[row, step], targets[row, step]
        if own is None and targets.ndim == 3:
            error = np.sum((answer - target) ** 2)
        else:
            error = np.log(np.exp(answer).sum()) - answer[target]
            weight = weight * (1 if own is None else own[target])
        above, below = above + weight * error, below + weight
    return above / below


LOSSES = {
    "numbers": (SquaredError(), False, None),
    "classes": (CrossEntropy(), True, None),
    "weighted": (CrossEntropy(class_weights=[0.5, 1.0, 3.0]), True, np.array([0.5, 1.0, 3.0])),
}


@functools.partial(jax.jit, static_argnums=0)
def judged(loss, outputs, batch):
    """((loss, gradient), metrics)."""
    return jax.value_and_grad(loss.loss)(outputs, batch), loss.metrics(outputs, batch)


@pytest.mark.parametrize("by", ["lengths", "mask", "weights"])
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_counts_what_is_valid_and_nan_elsewhere_is_not_in_its_gradient(name, by):
    loss, classes, own = LOSSES[name]
    outputs, targets, weights = every_step(classes)
    counted = np.where(VALID, weights, 0)
    expected = in_numpy(outputs, targets, counted, own)
    where, nothing = (VALID, -1) if classes else (VALID[..., None], np.nan)
    beyond = np.where(where, targets, nothing)
    options = {"lengths": {"lengths": LENGTHS}, "mask": {"mask": VALID}, "weights": {}}[by]
    batch = Batch(INPUTS, beyond, counted if by == "weights" else weights, **options)
    dirty = np.where(VALID[..., None], outputs, np.nan)
    (value, slope), metrics = judged(loss, dirty, batch)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    (_, expected), _ = judged(loss, outputs, Batch(INPUTS, targets, counted))
    np.testing.assert_allclose(slope, expected, rtol=1e-12)
    np.testing.assert_array_equal(np.any(np.asarray(slope) != 0, axis=-1), VALID)
    if classes:
        right = np.sum(counted * (outputs.argmax(-1) == targets)) / counted.sum()
        np.testing.assert_allclose(metrics["accuracy"], right, rtol=1e-12)


def test_padding_may_hold_anything():
    inputs = np.where(VALID[..., None], INPUTS, np.nan)
    targets = np.where(VALID, every_step(classes=True)[1], -1)
    data = Arrays(inputs, targets, LENGTHS)
    assert data.out_features == 3
    assert data.shortest == 1
