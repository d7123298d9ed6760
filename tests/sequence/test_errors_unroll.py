"""What `unroll` refuses of sequences, cells, carries and options, and what it says."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from jax.tree_util import Partial

import rnn_jax as rj
import zoo
from refusing import refuses, table

IN, H, T = 2, 3, 5
XS = np.ones((T, IN))
BATCH = np.ones((4, T, IN))
SIMPLE = zoo.CELLS["simple_tanh"](IN, H, 0)
LSTM = zoo.CELLS["lstm"](IN, H, 0)
H0 = jnp.zeros(H)


def unroll(*args, **options):
    return lambda: rj.unroll(*args, **options)


@table(
    none=(unroll(SIMPLE, None), TypeError, "xs must be an array of inputs", "NoneType", "Pass"),
    string=(unroll(SIMPLE, "abc"), TypeError, "xs must be an array of inputs", "str"),
    ragged=(unroll(SIMPLE, [[1.0], [1.0, 2.0]]), TypeError, "xs must be an array", "list"),
    nothing_in_it=(unroll(SIMPLE, {}), TypeError, "xs must be an array", "dict without any"),
    dictionary=(
        unroll(SIMPLE, {"xs": XS}),
        ValueError,
        "could not make its own carry",
        "x {'xs': float64[2]}",
        "Pass the one input that the cell takes",
    ),
    a_pair=(
        unroll(LSTM, (XS, XS)),
        ValueError,
        "could not make its own carry",
        "x (float64[2], float64[2])",
        "carry=",
    ),
    a_pair_and_carry=(
        unroll(SIMPLE, (XS, XS), H0),
        ValueError,
        "could not take one step",
        "x (float64[2], float64[2])",
        "x must be an array of real numbers",
        "got tuple",
    ),
    string_in_it=(
        unroll(SIMPLE, {"a": XS, "b": ["x", "y"]}),
        TypeError,
        "xs must be an array of inputs",
        "str at xs['b'][0]",
    ),
    steps_in_a_list=(
        unroll(SIMPLE, [jnp.ones(IN)] * T),
        ValueError,
        "(..., T, I)",
        "got shape (2,) at xs[0]",
        "jnp.stack(xs)",
    ),
    other_times=(
        unroll(SIMPLE, {"a": XS, "b": XS[1:]}),
        ValueError,
        "must lead with the same (..., T)",
        "(5,) of shape (5, 2) at xs['a']",
        "shape (4, 2) at xs['b']",
        "Repeat",
        "feature_axes=",
    ),
    a_batch_beside_a_sequence=(
        unroll(SIMPLE, (BATCH, XS)),
        ValueError,
        "must lead with the same",
        "(4, 5) of shape (4, 5, 2) at xs[0]",
        "(5, 2) at xs[1]",
    ),
    tokens=(
        unroll(SIMPLE, np.zeros(T, int)),
        ValueError,
        "(..., T, I)",
        "got shape (5,)",
        "feature_axes=0",
    ),
    feature_axes=(
        unroll(SIMPLE, XS, feature_axes=2),
        ValueError,
        "(..., T, 2 axes of features)",
        "got shape (5, 2)",
        "feature_axes=",
    ),
    negative_feature_axes=(
        unroll(SIMPLE, XS, feature_axes=-1),
        ValueError,
        "feature_axes must be at least 0",
    ),
    fractional_feature_axes=(
        unroll(SIMPLE, XS, feature_axes=1.0),
        TypeError,
        "feature_axes must be a whole number",
    ),
    objects=(
        unroll(SIMPLE, np.array([[None]], object)),
        TypeError,
        "xs must be an array",
        "ndarray",
    ),
    complex_numbers=(
        unroll(SIMPLE, XS.astype(complex)),
        TypeError,
        "xs must hold real numbers",
        "complex128",
        "two features",
    ),
    scalar=(
        unroll(SIMPLE, np.float64(1)),
        ValueError,
        "(..., T, I)",
        "got shape ()",
        "xs[:, None]",
    ),
    vector=(unroll(SIMPLE, XS[0]), ValueError, "(..., T, I)", "got shape (2,)", "xs[:, None]"),
    empty=(
        unroll(SIMPLE, XS[:0]),
        ValueError,
        "at least one time step",
        "(0, 2)",
        "Pass T of at least 1",
    ),
    empty_batch=(unroll(SIMPLE, BATCH[:, :0]), ValueError, "at least one time step", "(4, 0, 2)"),
    features=(
        unroll(LSTM, np.ones((T, 7))),
        ValueError,
        "in_features=2",
        "7 features",
        "build the cell with in_features=7",
    ),
    no_features=(unroll(LSTM, np.ones((T, 0))), ValueError, "in_features=2", "0 features"),
    features_of_flax=(
        unroll(nnx.GRUCell(IN, H, param_dtype=float, rngs=nnx.Rngs(0)), np.ones((T, 7))),
        ValueError,
        "in_features=2",
        "7 features",
    ),
)
def test_sequences(call, error, words):
    refuses(call, error, *words)


def plain(carry, x):
    return jnp.tanh(carry + x), carry


LINEN = linen.LSTMCell(H, param_dtype=jnp.float64)


@table(
    none=(unroll(None, XS), TypeError, "a cell must be callable", "NoneType", "Pass an NNX cell"),
    string=(unroll("LSTM", XS), TypeError, "a cell must be callable", "str"),
    array=(unroll(XS, XS), TypeError, "a cell must be callable", "ndarray"),
    listed=(unroll([LSTM], XS), TypeError, "a cell must be callable", "list"),
    class_alone=(
        unroll(rj.LSTMCell, XS),
        TypeError,
        "must be an instance, not a class",
        "the class LSTMCell",
        "LSTMCell(2, 64, rngs=nnx.Rngs(0))",
    ),
    class_and_carry=(unroll(rj.GRUCell, XS, H0), TypeError, "must be an instance", "class GRUCell"),
    linen_unbound=(
        unroll(LINEN, XS),
        TypeError,
        "must come with its variables",
        "unbound LSTMCell",
        "Partial(cell.apply, variables)",
    ),
    linen_unbound_carry=(unroll(LINEN, XS, (H0, H0)), TypeError, "with its variables", "unbound"),
    no_carry=(
        unroll(plain, XS),
        TypeError,
        "cannot make its own carry",
        "initialize_carry(input_shape)",
        "carry=",
    ),
    one_value=(
        unroll(lambda carry, x: carry + x, XS, jnp.zeros(IN)),
        ValueError,
        "a cell must return a pair (carry, y)",
        "float64[2]",
        "return (state, state)",
    ),
    stacked_pair=(
        unroll(lambda carry, x: jnp.stack([carry, x]), XS, jnp.zeros(IN)),
        ValueError,
        "a cell must return a pair (carry, y)",
        "float64[2, 2]",
    ),
    three_values=(
        unroll(lambda carry, x: (carry, x, x), XS, jnp.zeros(IN)),
        ValueError,
        "a cell must return a pair (carry, y)",
        "(float64[2], float64[2], float64[2])",
    ),
    nothing=(
        unroll(lambda carry, x: None, XS, jnp.zeros(IN)),
        ValueError,
        "a cell must return a pair (carry, y)",
        "None",
    ),
    string_output=(
        unroll(lambda carry, x: (carry, "y"), XS, jnp.zeros(IN)),
        ValueError,
        "could not take one step",
        "carry float64[2]",
        "x float64[2]",
        "str",
    ),
    one_argument=(
        unroll(lambda carry: (carry, carry), XS, jnp.zeros(IN)),
        ValueError,
        "could not take one step cell(carry, x)",
        "takes 1 positional argument",
    ),
    raises=(
        unroll(plain, XS, jnp.zeros(7)),
        ValueError,
        "could not take one step",
        "carry float64[7] and x float64[2]",
    ),
    grows=(
        unroll(lambda carry, x: (jnp.append(carry, x), x), XS, jnp.zeros(IN)),
        ValueError,
        "a step must return a carry of the structure and shapes that it took",
        "took float64[2] and returned float64[4]",
        "Pass a carry=",
    ),
    changes_structure=(
        unroll(lambda carry, x: ((carry, carry), x), XS, jnp.zeros(IN)),
        ValueError,
        "structure and shapes that it took",
        "returned (float64[2], float64[2])",
    ),
    changes_type=(
        unroll(lambda carry, x: (carry.astype(jnp.float32), x), XS, jnp.zeros(IN)),
        TypeError,
        "a step must return a carry of the type that it took",
        "took float64[2] and returned float32[2]",
        "Cast",
    ),
    string_leaf=(
        unroll(Partial(lambda name, carry, x: (carry, x), "hi"), XS, jnp.zeros(IN)),
        TypeError,
        "leaves of a cell must be arrays",
        "str",
        "static",
    ),
)
def test_cells_that_do_not_keep_the_contract(call, error, words):
    refuses(call, error, *words)


@table(
    size=(
        unroll(SIMPLE, XS, jnp.zeros(H + 1)),
        ValueError,
        "structure and shapes that the cell initialises",
        "float64[3]; got float64[4]",
        "Leave carry out",
    ),
    one_part=(
        unroll(LSTM, XS, H0),
        ValueError,
        "the cell initialises, (float64[3], float64[3])",
        "got float64[3]",
    ),
    listed=(
        unroll(LSTM, XS, [H0, H0]),
        ValueError,
        "(float64[3], float64[3]); got [float64[3], float64[3]]",
    ),
    of_flax=(
        unroll(nnx.LSTMCell(IN, H, param_dtype=float, rngs=nnx.Rngs(0)), XS, H0),
        ValueError,
        "the cell initialises",
        "got float64[3]",
    ),
    whole_numbers=(
        unroll(SIMPLE, XS, jnp.zeros(H, int)),
        ValueError,
        "could not take one step",
        "carry part h must be an array of real",
        "int64",
    ),
    complex_numbers=(
        unroll(LSTM, XS, (H0, jnp.zeros(H, complex))),
        ValueError,
        "carry part h must be an array of real",
        "complex128",
    ),
    string=(
        unroll(SIMPLE, XS, "zeros"),
        TypeError,
        "carry must be a pytree of arrays",
        "str",
        "Leave carry out",
    ),
    string_part=(
        unroll(LSTM, XS, ("c", H0)),
        TypeError,
        "carry must be a pytree of arrays",
        "str at carry[0]",
    ),
    some_object=(unroll(plain, XS, object()), TypeError, "must be a pytree of arrays", "object"),
    not_repeated=(
        unroll(SIMPLE, BATCH, H0),
        ValueError,
        "must lead with the batch axes of xs, (4,)",
        "(3,) at carry",
        "jnp.broadcast_to",
    ),
    not_repeated_part=(
        unroll(LSTM, BATCH, (jnp.zeros((4, H)), H0)),
        ValueError,
        "must lead with the batch axes of xs, (4,)",
        "carry[1]",
    ),
    needlessly_repeated=(
        unroll(SIMPLE, XS, jnp.zeros((4, H))),
        ValueError,
        "float64[3]; got float64[4, 3]",
    ),
)
def test_carries(call, error, words):
    refuses(call, error, *words)


@pytest.mark.parametrize("wrong", ["no", 1, 0.0, None, [True], np.ones(1, bool)], ids=repr)
def test_flags(wrong):
    model = functools.partial(rj.SequenceModel, zoo.CELLS["gru_reset_after"](H, H, 0), 2)
    calls = {
        "reverse": unroll(SIMPLE, XS, reverse=wrong),
        "return_carries": unroll(SIMPLE, XS, return_carries=wrong),
        "residual": lambda: model(residual=wrong, rngs=nnx.Rngs(0)),
        "layer_norm": lambda: model(layer_norm=wrong, rngs=nnx.Rngs(0)),
    }
    for name, call in calls.items():
        refuses(call, TypeError, f"{name} must be True or False", f"got {wrong!r}", "Pass a bool")


@pytest.mark.parametrize(
    "wrong", [0, -1, "cube", "", True, False, 2.0, [2], np.ones(2), (1,), "2"], ids=repr
)
def test_checkpoint_intervals(wrong):
    words = ('checkpoint must be None, "sqrt", or an interval', f"got {wrong!r}", 'Pass "sqrt"')
    refuses(unroll(SIMPLE, XS, checkpoint=wrong), ValueError, *words)
