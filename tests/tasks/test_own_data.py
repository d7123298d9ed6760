"""The user's own data: epochs, losses that count what counts, and arrays that are refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from refusing import refuses, table
from rnn_jax.tasks import Arrays, Batch, CrossEntropy, Loader, SquaredError
from rnn_jax.tasks.own_data import _place

KEY = jax.random.key(3)
RNG = np.random.default_rng(0)
COUNT, STEPS = 7, 4
INPUTS = RNG.normal(size=(COUNT, STEPS, 2))
NUMBERS = RNG.normal(size=(COUNT, 1))
CLASSES = np.array([0, 1, 2, 0, 0, 1, 0])
LENGTHS = np.array([4, 1, 2, 3, 4, 2, 1])
VALID = np.arange(STEPS) < LENGTHS[:, None]


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
    weights = RNG.uniform(0.5, 1, COUNT)
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


# What is refused.


def spoiled(array, place, value=np.nan):
    array = np.array(array)
    array[place] = value
    return array


@table(
    nan=(
        lambda: Arrays(spoiled(INPUTS, (2, 1, 0)), NUMBERS),
        ValueError,
        "inputs of the examples must be finite where they count",
        "nan in sequence 2, step 1",
        "lengths=",
    ),
    infinite_targets=(
        lambda: Arrays(INPUTS, spoiled(NUMBERS, 3, np.inf)),
        ValueError,
        "targets of the examples must be finite",
        "inf in sequence 3",
        "weights of 0",
    ),
    ragged=(
        lambda: Arrays([np.ones((3, 2)), np.ones((4, 2))], NUMBERS[:2]),
        TypeError,
        "inputs of the examples must be an array",
        "a list of 2",
        "pad",
    ),
    one_sequence=(
        lambda: Arrays(INPUTS[:, 0], NUMBERS),
        ValueError,
        "must have features, (N, T, I)",
        "(7, 2)",
        "[..., None]",
    ),
    no_rows=(
        lambda: Arrays(INPUTS[:0], NUMBERS[:0]),
        ValueError,
        "N and T at least 1",
        "(0, 4, 2)",
        "Pass",
    ),
    words=(
        lambda: Arrays(np.array([[["a"]]]), NUMBERS[:1]),
        TypeError,
        "must be an array of numbers",
        "Pass an array",
    ),
    fewer_targets=(
        lambda: Arrays(INPUTS, NUMBERS[1:]),
        ValueError,
        "that are numbers must have shape (N, O) or (N, T, O), here N = 7 and T = 4",
        "(6, 1)",
    ),
    flat_targets=(
        lambda: Arrays(INPUTS, NUMBERS[:, 0]),
        ValueError,
        "must have shape (N, O)",
        "float64 of shape (7,)",
        "targets[:, None]",
    ),
    negative_class=(
        lambda: Arrays(INPUTS, CLASSES - 1),
        ValueError,
        "name classes must be whole numbers from 0 on",
        "got -1",
        "Number the classes",
    ),
    too_many_classes=(
        lambda: Arrays(INPUTS, CLASSES, loss=CrossEntropy(classes=2)),
        ValueError,
        "must name classes below 2",
        "got 2",
        "more classes",
    ),
    long_lengths=(
        lambda: Arrays(INPUTS, NUMBERS, LENGTHS + 1),
        ValueError,
        "lengths of the examples must lie in [1, 4]",
        "got 5 for sequence 0",
        "Clip",
    ),
    few_lengths=(
        lambda: Arrays(INPUTS, NUMBERS, LENGTHS[1:]),
        ValueError,
        "one entry for each sequence, shape (7,)",
        "(6,)",
        "Pass",
    ),
    broken_lengths=(
        lambda: Arrays(INPUTS, NUMBERS, LENGTHS * 1.0),
        TypeError,
        "lengths of the examples must be whole numbers",
        "float64",
        "Cast",
    ),
    lengths_and_mask=(
        lambda: Arrays(INPUTS, NUMBERS, LENGTHS, mask=VALID),
        ValueError,
        "cannot be given together",
        "got both",
        "Pass one mask",
    ),
    empty_mask=(
        lambda: Arrays(INPUTS, NUMBERS, mask=spoiled(VALID, 4, False)),
        ValueError,
        "must have a valid step in each sequence",
        "sequence 4",
        "Leave",
    ),
    negative_weights=(
        lambda: Arrays(INPUTS, NUMBERS, weights=-np.ones(COUNT)),
        ValueError,
        "weights of the examples must be finite and at least 0",
        "-1.0",
        "Pass 0",
    ),
    nothing_counts=(
        lambda: Arrays(INPUTS, NUMBERS, weights=spoiled(np.ones(COUNT), 5, 0)),
        ValueError,
        "must have an answer that counts",
        "sequence 5",
        "Leave it out",
    ),
    class_of_a_loss=(
        lambda: Arrays(INPUTS, NUMBERS, loss=SquaredError),
        TypeError,
        "loss must be a function",
        "the class SquaredError",
        "SquaredError()",
    ),
    loss_of_numbers=(
        lambda: Arrays(INPUTS, CLASSES, loss=SquaredError()),
        ValueError,
        "SquaredError needs targets that are floats",
        "int64",
        "Cast",
    ),
    zero_class_weight=(
        lambda: CrossEntropy(class_weights=[1.0, 0.0]),
        ValueError,
        "class_weights must be positive",
        "[1. 0.]",
        "Pass",
    ),
    class_weights_and_classes=(
        lambda: CrossEntropy(classes=3, class_weights=[1.0, 2.0]),
        ValueError,
        "one number for each of the 3 classes",
        "got 2",
    ),
    all_split_off=(
        lambda: Arrays(INPUTS, NUMBERS, validation=1.0),
        ValueError,
        "validation as a share must lie in (0, 1)",
        "1.0 of 7",
        "Pass",
    ),
    other_validation=(
        lambda: Arrays(INPUTS, NUMBERS, validation=(INPUTS[..., :1], NUMBERS)),
        ValueError,
        "validation must be of the form of the examples",
        "float64[7, 4, 1]",
        "Pass",
    ),
    alone=(
        lambda: Arrays(INPUTS, NUMBERS, validation=INPUTS),
        TypeError,
        "validation must be inputs and targets",
        "ndarray",
        "tuple",
    ),
    unknown_name=(
        lambda: Arrays(INPUTS, NUMBERS, validation={"inputs": INPUTS, "labels": NUMBERS}),
        ValueError,
        "validation must have inputs and targets",
        "inputs, labels",
        "Rename",
    ),
    traced=(
        lambda: jax.jit(lambda xs: Arrays(xs, NUMBERS).steps)(INPUTS),
        TypeError,
        "must be read before anything is compiled",
        "traced",
        "outside",
    ),
    lengths_as_floats=(
        lambda: Arrays(INPUTS, NUMBERS, validation=(INPUTS, NUMBERS, LENGTHS * 1.0)),
        TypeError,
        "lengths of validation must be whole numbers",
        "float64",
        "Cast",
    ),
    lengths_for_weights=(
        lambda: Loader([], validation=(INPUTS, NUMBERS, LENGTHS)),
        TypeError,
        "weights of validation must be floats",
        "int64",
        "lengths=",
    ),
    no_source=(
        lambda: Loader(3, validation=(INPUTS, NUMBERS)),
        TypeError,
        "source must be an iterable of batches",
        "int",
        "Arrays",
    ),
    no_validation=(
        lambda: Loader([], validation=None),
        TypeError,
        "validation must be examples",
        "NoneType",
        "Pass",
    ),
    empty_validation=(
        lambda: Loader([], validation=[]),
        ValueError,
        "validation must have a batch",
        "none",
    ),
)
def test_data(call, error, words):
    refuses(call, error, *words)


def test_padding_may_hold_anything():
    inputs = np.where(VALID[..., None], INPUTS, np.nan)
    targets = np.where(VALID, every_step(classes=True)[1], -1)
    data = Arrays(inputs, targets, LENGTHS)
    assert data.out_features == 3
    assert data.shortest == 1
