"""What `unroll` refuses of lengths, targets and resets, and what it says."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import rnn_jax as rj
import zoo
from refusing import refuses, table

IN, H, T = 2, 3, 5
XS = np.ones((T, IN))
BATCH = np.ones((4, T, IN))
SIMPLE = zoo.CELLS["simple_tanh"](IN, H, 0)
KEY = jax.random.key(0)


def unroll(*args, **options):
    return lambda: rj.unroll(*args, **options)


@table(
    too_long=(
        unroll(SIMPLE, BATCH, lengths=[1, 2, 3, T + 1]),
        ValueError,
        "lengths must lie in [0, 5]",
        "got 6",
        "Clip them",
    ),
    negative=(unroll(SIMPLE, XS, lengths=-1), ValueError, "lengths must lie in [0, 5]", "got -1"),
    too_few=(
        unroll(SIMPLE, BATCH, lengths=[1, 2]),
        ValueError,
        "one entry for each sequence, shape (4,)",
        "got shape (2,)",
        "Pass one whole number",
    ),
    one_for_all=(unroll(SIMPLE, BATCH, lengths=3), ValueError, "shape (4,)", "got shape ()"),
    for_one=(unroll(SIMPLE, XS, lengths=[3]), ValueError, "shape ()", "got shape (1,)"),
    floats=(
        unroll(SIMPLE, XS, lengths=3.0),
        TypeError,
        "lengths must be whole numbers",
        "float64",
        "Cast",
    ),
    booleans=(unroll(SIMPLE, XS, lengths=True), TypeError, "must be whole numbers", "bool"),
    mask=(
        unroll(SIMPLE, BATCH, lengths=np.ones((4, T), bool)),
        TypeError,
        "lengths must be whole numbers",
        "bool",
        "Pass booleans for each step as mask=",
    ),
    listed_mask=(unroll(SIMPLE, XS, lengths=[True] * T), TypeError, "bool", "mask="),
    string=(unroll(SIMPLE, XS, lengths="all"), TypeError, "must be an array of whole", "str"),
    ragged=(unroll(SIMPLE, BATCH, lengths=[[1], [2, 3]]), TypeError, "lengths must be", "list"),
    nones=(unroll(SIMPLE, BATCH, lengths=[None] * 4), TypeError, "lengths must be", "list"),
    shape_in_jit=(
        lambda: jax.jit(lambda n: rj.unroll(SIMPLE, BATCH, lengths=n))(jnp.ones(2, int)),
        ValueError,
        "one entry for each sequence, shape (4,)",
        "got shape (2,)",
    ),
    reset_numbers=(
        unroll(SIMPLE, XS, resets=np.zeros(T, int)),
        TypeError,
        "resets must be booleans",
        "int64",
        "resets == 1",
    ),
    reset_steps=(unroll(SIMPLE, XS, resets=[0, 3]), TypeError, "resets must be booleans", "int64"),
    reset_shape=(
        unroll(SIMPLE, BATCH, resets=np.zeros(T, bool)),
        ValueError,
        "without features, (4, 5)",
        "got shape (5,)",
        "Pass one boolean",
    ),
    reset_features=(
        unroll(SIMPLE, XS, resets=np.zeros((T, IN), bool)),
        ValueError,
        "without features, (5,)",
        "got shape (5, 2)",
    ),
    reset_string=(
        unroll(SIMPLE, XS, resets="no"),
        TypeError,
        "must be an array of booleans",
        "str",
    ),
)
def test_lengths_and_resets(call, error, words):
    refuses(call, error, *words)


# As JAX narrows them, without notice, each is one that is in range.
BEYOND = [2**31 + 1, 2**32 + 1, 2**63 + 1, 2**64 + 1, -(2**32) + 1]


@functools.cache
def told_numbers(x64):
    """(what takes lengths, what takes targets), functions of them; made with or without x64."""
    xs = BATCH[:2].astype(np.float32)
    with jax.enable_x64(x64):
        cell = rj.SimpleRNNCell(IN, H, param_dtype=jnp.float32, rngs=nnx.Rngs(0))
        both = rj.Bidirectional(cell, jax.tree.map(jnp.copy, cell))
        model = rj.SequenceModel(cell, 2, rngs=nnx.Rngs(0))
    of_lengths = (
        lambda values: rj.unroll(cell, xs, lengths=values),
        lambda values: both(xs, lengths=values),
        lambda values: model(xs, lengths=values),
    )
    of_targets = (
        lambda values: rj.jacobian_log_norms(cell, xs[0], targets=values),
        lambda values: rj.estimate_jacobian_log_norms(cell, xs[0], targets=values, key=KEY),
    )
    return of_lengths, of_targets


@pytest.mark.parametrize("x64", [True, False])
@pytest.mark.parametrize("number", BEYOND)
@pytest.mark.parametrize("kind", [int, np.int64, np.uint64, object, list])
def test_whole_numbers_are_checked_as_they_arrive(number, kind, x64):
    if kind in (np.int64, np.uint64):
        if not np.iinfo(kind).min <= number <= np.iinfo(kind).max:
            number = int(np.iinfo(kind).max)
        values = np.asarray([1, number], kind)
    else:
        values = np.asarray([1, number], object) if kind is object else [1, number]
    of_lengths, of_targets = told_numbers(x64)
    with jax.enable_x64(x64):
        for take in of_lengths:
            call = functools.partial(take, values)
            refuses(call, ValueError, "lengths must lie in [0, 5]", f"got {number}", "Clip")
        for take in of_targets:
            call = functools.partial(take, values)
            refuses(call, ValueError, "targets must lie in [-5, 5)", f"got {number}")


@pytest.mark.parametrize("dtype", ["uint8", "uint32", "uint64", "int64"])
def test_whole_numbers_that_cannot_be_read_are_marked_where_out_of_range(dtype):
    high = jnp.iinfo(dtype).max
    numbers = jnp.asarray([2, high], dtype)
    _, ys = jax.jit(lambda n: rj.unroll(SIMPLE, BATCH[:2], lengths=n))(numbers)
    np.testing.assert_array_equal(np.isnan(ys).all(axis=(1, 2)), [False, True])
    rows = jax.jit(lambda n: rj.jacobian_log_norms(SIMPLE, XS, targets=n))(numbers)
    np.testing.assert_array_equal(np.isnan(rows).all(axis=1), [False, True])
