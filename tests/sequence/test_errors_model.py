"""What `SequenceModel` refuses, and what it says."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx

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


CALLABLE = ("layer 0 of cells is no cell: a cell must be callable", "Pass an NNX cell")
CLASS = ("a cell must be an instance", "Build it first")


def step(carry, x):
    return carry, (carry, x)


@table(
    empty=(model([]), ValueError, "needs at least one cell", "got none", "cells=[cell]"),
    none=(model(None), TypeError, CALLABLE[0], "NoneType", CALLABLE[1]),
    string=(model("LSTM"), TypeError, CALLABLE[0], "str", CALLABLE[1]),
    number=(model(3), TypeError, CALLABLE[0], "int", CALLABLE[1]),
    class_alone=(model(rj.LSTMCell), TypeError, CLASS[0], "the class LSTMCell", CLASS[1]),
    class_in_list=(model([rj.LSTMCell]), TypeError, CLASS[0], "the class LSTMCell", CLASS[1]),
    dense_layer=(
        model(nnx.Linear(IN, H, rngs=nnx.Rngs(0))),
        TypeError,
        "layer 0 of cells must be a cell that knows where a sequence starts",
        "got Linear",
        "as_cell(cell, initial_carry=…)",
    ),
    function=(
        model([SIMPLE, stack_of]),
        TypeError,
        "layer 1 of cells must be a cell that knows where a sequence starts",
        "function",
        "as_cell",
    ),
    linen_without_variables=(
        model(linen.GRUCell(H)),
        TypeError,
        "a Linen cell must come with its variables",
        "unbound GRUCell",
        "Partial(cell.apply, variables)",
    ),
    unknown_features=(
        model(rj.as_cell(step, initial_carry=np.zeros(H))),
        TypeError,
        "SequenceModel needs to know how many features its inputs have",
        "AdaptedCell",
        "Pass in_features= to SequenceModel",
    ),
    other_features=(
        model(SIMPLE, in_features=5),
        ValueError,
        "in_features must be what the first layer takes, 2",
        "got 5",
        "Leave it out",
    ),
    no_vector=(
        model(rj.as_cell(step, initial_carry=np.zeros(H)), in_features=IN),
        ValueError,
        "each layer must give one array of features (H,)",
        "(float64[3], float64[2]) from layer 0",
        "Let its step return one vector",
    ),
    a_model=(
        lambda: rj.SequenceModel(model(SIMPLE)()),
        TypeError,
        "a cell must take one step",
        "got SequenceModel, which takes whole sequences",
        "Pass its layers, .cells",
    ),
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


BOTH = rj.SequenceModel([SIMPLE, rj.Bidirectional(stack_of(4)[0], stack_of(5)[0])])


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
    ahead=(
        lambda: BOTH(BATCH, return_carry=True),
        TypeError,
        "a model needs layers that go from the past to the future",
        "layer 1, a Bidirectional",
        "without carry= and return_carry=",
    ),
    ahead_step=(lambda: BOTH.step(None, XS[0]), TypeError, "needs layers that go from the past"),
    ahead_start=(lambda: BOTH.initialize_carry(), TypeError, "needs layers that go from the past"),
    carries=(
        lambda: model([SIMPLE, *stack_of(4)])()(XS, carry=np.zeros(H)),
        ValueError,
        "carry must be a tuple of 2 carries, one for each layer",
        "got ndarray",
        "model.initialize_carry()",
    ),
    carries_fewer=(
        lambda: model([SIMPLE, *stack_of(4)])()(XS, carry=(np.zeros(H),)),
        ValueError,
        "carry must be a tuple of 2 carries",
        "got 1 of them",
    ),
    carry_shape=(
        lambda: model(SIMPLE)()(XS, carry=(np.zeros(H + 1),)),
        ValueError,
        "carry must have the structure and shapes",
        "float64[3]",
        "got float64[4]",
    ),
    carry_batch=(
        lambda: model(SIMPLE)()(BATCH, carry=(np.zeros((2, H)),)),
        ValueError,
        "must lead with the batch axes of xs, (4,)",
        "got shape (2, 3)",
    ),
    carry_flag=(
        lambda: model(SIMPLE)()(XS, return_carry=1),
        TypeError,
        "return_carry must be True or False",
    ),
    step_number=(
        lambda: model(SIMPLE)().step(None, 1.0),
        ValueError,
        "x must be the input of one step, (..., 2)",
        "got a number",
    ),
    tokens_float=(
        lambda: model(SIMPLE, embedding=4)()(XS),
        TypeError,
        "xs must be whole numbers",
        "float64",
        "without embedding=",
    ),
    tokens_bool=(
        lambda: model(SIMPLE, embedding=4)()(XS > 0),
        TypeError,
        "xs must be whole numbers",
        "bool",
        "xs.astype(int)",
    ),
    tokens_high=(
        lambda: model(SIMPLE, embedding=4)()(np.array([[0, 4], [2**40, 1]])),
        ValueError,
        "xs must hold tokens in [0, 4), for embedding=4",
        "got 4",
        "mask what is padding",
    ),
    tokens_none=(
        lambda: model(SIMPLE, embedding=4)()(np.zeros((2, 0), int)),
        ValueError,
        "at least one step of them",
        "got shape (2, 0)",
    ),
    embedding=(
        model(SIMPLE, embedding=0),
        ValueError,
        "embedding must be at least 1",
        "got 0",
    ),
    embedding_rngs=(model(SIMPLE, None, embedding=4, rngs=None), TypeError, "rngs must be a flax"),
    norm_rngs=(model(SIMPLE, None, layer_norm=True, rngs=None), TypeError, "rngs must be a flax"),
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
