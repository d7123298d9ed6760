"""What `SequenceModel` refuses, and what it says."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import rnn_jax as rj
import zoo
from refusing import refuses, table

IN, H, T = 2, 3, 5
XS = np.ones((T, IN))
BATCH = np.ones((4, T, IN))
KEY = jax.random.key(0)
SIMPLE = zoo.CELLS["simple_tanh"](IN, H, 0)
LSTM = zoo.CELLS["lstm"](IN, H, 0)


def stack_of(*sizes):
    """Simple cells, the first of which takes three features."""
    return [
        zoo.CELLS["simple_tanh"](below, size, seed)
        for seed, (below, size) in enumerate(zip((3, *sizes), sizes, strict=False))
    ]


def model(cells, out_features=1, **options):
    options = {"rngs": nnx.Rngs(0), **options}
    return lambda: rj.SequenceModel(cells, out_features, **options)


OURS = ("must be cells of this package", "For another cell, call unroll")


@table(
    empty=(model([]), ValueError, "needs at least one cell", "got none", "cells=[cell]"),
    none=(model(None), TypeError, OURS[0], "NoneType", OURS[1]),
    string=(model("LSTM"), TypeError, OURS[0], "str", OURS[1]),
    number=(model(3), TypeError, OURS[0], "int", OURS[1]),
    class_alone=(model(rj.LSTMCell), TypeError, OURS[0], "the class LSTMCell", OURS[1]),
    class_in_list=(model([rj.LSTMCell]), TypeError, OURS[0], "the class LSTMCell", OURS[1]),
    of_flax=(model(nnx.GRUCell(IN, H, rngs=nnx.Rngs(0))), TypeError, OURS[0], "GRUCell", OURS[1]),
    function=(model([SIMPLE, stack_of]), TypeError, OURS[0], "function", OURS[1]),
    misfit=(
        model([SIMPLE, LSTM]),
        ValueError,
        "take what the one below gives",
        "layer 0 gives 3 features and layer 1 takes 2",
        "in_features=3",
    ),
    out_zero=(model(SIMPLE, 0), ValueError, "out_features must be at least 1", "got 0"),
    out_float=(model(SIMPLE, 1.0), TypeError, "out_features must be a whole number", "1.0"),
    out_bool=(model(SIMPLE, True), TypeError, "out_features must be a whole number", "True"),
    readout=(
        model(SIMPLE, readout="first"),
        ValueError,
        "readout must be one of 'all', 'last'",
        "got 'first'",
    ),
    readout_none=(model(SIMPLE, readout=None), ValueError, "readout must be one of", "None"),
    readout_list=(
        model(SIMPLE, readout=["last"]),
        ValueError,
        "readout must be one of",
        "['last']",
    ),
    init_name=(
        model(SIMPLE, kernel_init="glorot"),
        ValueError,
        "kernel_init must be one of",
        "got 'glorot'",
    ),
    init_none=(model(SIMPLE, kernel_init=None), TypeError, "kernel_init must be a name", "None"),
    init_shape=(
        model(SIMPLE, kernel_init=lambda key, shape, dtype: jnp.zeros(3)),
        ValueError,
        "kernel_init must give an array of shape (3, 1)",
        "got shape (3,)",
        'kernel_init="zeros"',
    ),
    rngs_zero=(model(SIMPLE, rngs=0), TypeError, "rngs must be a flax.nnx.Rngs", "int", "Rngs(0)"),
    rngs_key=(model(SIMPLE, rngs=KEY), TypeError, "rngs must be a flax.nnx.Rngs", "Pass"),
    features=(lambda: model(SIMPLE)()(np.ones((T, 7))), ValueError, "in_features=2", "7 features"),
    rank=(lambda: model(SIMPLE)()(XS[0]), ValueError, "(..., T, I)", "got shape (2,)"),
    complex=(lambda: model(SIMPLE)()(XS.astype(complex)), TypeError, "real numbers", "complex128"),
    nothing=(lambda: model(SIMPLE)()(None), TypeError, "xs must be an array", "NoneType"),
    length=(
        lambda: model(SIMPLE)()(BATCH, lengths=[1, 2, 3, 9]),
        ValueError,
        "lengths must lie in [0, 5]",
        "got 9",
    ),
    length_float=(
        lambda: model(SIMPLE)()(XS, lengths=2.0),
        TypeError,
        "lengths must be whole numbers",
        "float64",
    ),
)
def test_models(call, error, words):
    refuses(call, error, *words)


@table(
    residual=(
        lambda: rj.SequenceModel(stack_of(4, 2), 1, residual=True, rngs=nnx.Rngs(0)),
        ValueError,
        "residual=True needs a layer whose input and output have the same size",
        "3 → 4, 4 → 2",
        "leave residual out",
    ),
    dropout=(
        lambda: rj.SequenceModel(stack_of(4), 1, dropout=1.0, rngs=nnx.Rngs(0)),
        ValueError,
        "dropout must lie in [0, 1)",
        "got 1.0",
        "Pass a probability",
    ),
    dropout_text=(
        lambda: rj.SequenceModel(stack_of(4), 1, dropout="0.1", rngs=nnx.Rngs(0)),
        TypeError,
        "dropout must be a number",
        "'0.1'",
    ),
    stack=(
        lambda: rj.SequenceModel(rj.StackedCell(stack_of(4)), 1, rngs=nnx.Rngs(0)),
        TypeError,
        "cells must be cells of this package",
        "StackedCell",
    ),
    misfit=(
        lambda: rj.SequenceModel(
            [rj.Bidirectional(*stack_of(4), stack_of(2)[0]), stack_of(4, 4)[1]],
            1,
            rngs=nnx.Rngs(0),
        ),
        ValueError,
        "layer 0 gives 6 features and layer 1 takes 4",
        "in_features=6",
    ),
    key=(lambda: model(SIMPLE)()(XS, key=1), TypeError, "key must be a JAX random key", "got int"),
    resets=(
        lambda: model(SIMPLE)()(XS, resets=np.ones(T)),
        TypeError,
        "resets must be booleans",
        "float64",
    ),
)
def test_options(call, error, words):
    refuses(call, error, *words)
