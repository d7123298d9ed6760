"""What is refused by cells, sequences, tasks, activations and initialisers, and what it says.

Each row: a call, the exception, and distinctive words of the rule, of what arrived, and of the fix.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from jax.tree_util import Partial

import rnn_jax as rj
import zoo
from rnn_jax import tasks

IN, H, T = 2, 3, 5
XS = np.ones((T, IN))
BATCH = np.ones((4, T, IN))
KEY = jax.random.key(0)
SIMPLE = zoo.CELLS["simple_tanh"](IN, H, 0)
LSTM = zoo.CELLS["lstm"](IN, H, 0)
GRU = zoo.CELLS["gru_reset_after"](IN, H, 0)
H0, X0 = jnp.zeros(H), jnp.ones(IN)


def rngs():
    return nnx.Rngs(0)


def refuses(call, error, *words):
    """Raises exactly this kind, and the message holds all the words in this order."""
    with pytest.raises((ValueError, TypeError)) as caught:
        call()
    assert type(caught.value) is error
    message = str(caught.value)
    assert re.search(".*".join(map(re.escape, words)), message, re.DOTALL), message
    # The rule itself, not only an echo of what a library further down has said.
    assert re.search(r"(must|needs|cannot|could not)", message), message


def table(**rows):
    return pytest.mark.parametrize(
        ("call", "error", "words"),
        [(call, error, words) for call, error, *words in rows.values()],
        ids=list(rows),
    )


MAKERS = {"simple": rj.SimpleRNNCell, "lstm": rj.LSTMCell, "gru": rj.GRUCell}
WHOLE = ("must be a whole number", "got {}", "Pass an int")
POSITIVE = ("must be at least 1", "got {}", "Pass a positive int")


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("which", ["in_features", "hidden_features"])
@pytest.mark.parametrize(
    ("size", "error", "rule"),
    [
        (0, ValueError, POSITIVE),
        (-3, ValueError, POSITIVE),
        (np.int32(-1), ValueError, POSITIVE),
        (2.0, TypeError, WHOLE),
        (np.float64(2), TypeError, WHOLE),
        (True, TypeError, WHOLE),
        (np.bool_(True), TypeError, WHOLE),
        ("8", TypeError, WHOLE),
        (None, TypeError, WHOLE),
        ([4], TypeError, WHOLE),
        ((4,), TypeError, WHOLE),
        (np.array([4]), TypeError, WHOLE),
        (int, TypeError, WHOLE),
        (2 + 0j, TypeError, WHOLE),
    ],
    ids=repr,
)
def test_sizes_are_positive_whole_numbers(make, which, size, error, rule):
    sizes = {"in_features": 2, "hidden_features": 3, which: size}
    words = [word.format(size if error is ValueError else repr(size)) for word in rule]
    refuses(lambda: make(**sizes, rngs=rngs()), error, which, *words)


def test_sizes_may_be_any_whole_number():
    for size in (3, np.int64(3), np.uint8(3), jnp.asarray(3)):
        cell = rj.SimpleRNNCell(size, size, rngs=rngs())
        assert type(cell.hidden_features) is int
        assert cell.hidden_features == 3


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("wrong", [0, None, "0", KEY, np.random.default_rng(0), nnx.Rngs], ids=str)
def test_rngs_is_a_source_of_keys(make, wrong):
    words = ("rngs must be a flax.nnx.Rngs", type(wrong).__name__, "rngs=nnx.Rngs(0)")
    refuses(lambda: make(IN, H, rngs=wrong), TypeError, *words)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("which", ["dtype", "param_dtype"])
@pytest.mark.parametrize(
    ("wrong", "shown"),
    [
        (int, "int64"),
        (bool, "bool"),
        (complex, "complex128"),
        ("int32", "int32"),
        ("float33", "'float33'"),
        (0, "got 0"),
        (object(), "object"),
        ([("a", float)], "[('a'"),
    ],
    # Names must be the same in every process, and an object's address is not.
    ids=lambda value: "object" if type(value) is object else str(value),
)
def test_types_are_floating_point(make, which, wrong, shown):
    words = (f"{which} must be a floating-point type", shown, "Use jnp.float32")
    refuses(lambda: make(IN, H, **{which: wrong}, rngs=rngs()), TypeError, *words)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("which", ["kernel_init", "recurrent_kernel_init", "bias_init"])
def test_initialisers_are_names_or_callables_that_fill_the_shape(make, which):
    def build(wrong):
        return lambda: make(IN, H, **{which: wrong}, rngs=rngs())

    refuses(build("ortogonal"), ValueError, f"{which} must be one of", "'orthogonal'", "ortogonal")
    for wrong in (None, 3, [1.0], np.ones(3)):
        words = (f"{which} must be a name or a callable", "got", "Known names: orthogonal")
        refuses(build(wrong), TypeError, *words)
    shaped = (f"{which} must give an array of shape", "got shape", f'{which}="zeros"')
    refuses(build(lambda key, shape, dtype: jnp.zeros((7, 7))), ValueError, *shaped)
    refuses(build(lambda key, shape, dtype: 0.0), ValueError, *shaped)
    failed = (f"{which} must give an array of shape", "got an error", f'{which}="zeros"')
    refuses(build(lambda key: jnp.zeros(3)), ValueError, *failed)
    refuses(build(lambda key, shape, dtype: "zeros"), ValueError, *failed)
    refuses(build(lambda key, shape, dtype: None), ValueError, *failed)


@pytest.mark.parametrize("init", ["orthogonal", "identity", "glorot_uniform", "lecun_normal"])
def test_a_matrix_initialiser_cannot_fill_a_bias(init):
    words = ("bias_init must give an array of shape (12,)", "got an error", 'bias_init="zeros"')
    refuses(lambda: rj.LSTMCell(IN, H, bias_init=init, rngs=rngs()), ValueError, *words)


@table(
    unknown=(
        lambda: rj.SimpleRNNCell(IN, H, activation="tahn", rngs=rngs()),
        ValueError,
        "activation must be one of",
        "'tanh'",
        "got 'tahn'",
    ),
    none=(
        lambda: rj.SimpleRNNCell(IN, H, activation=None, rngs=rngs()),
        TypeError,
        "activation must be a name or a callable",
        "NoneType",
        "Known names",
        "leaky_relu",
    ),
    number=(
        lambda: rj.SimpleRNNCell(IN, H, activation=3, rngs=rngs()),
        TypeError,
        "activation must be a name or a callable",
        "got 3 of type int",
    ),
    names=(
        lambda: rj.SimpleRNNCell(IN, H, activation=["tanh"], rngs=rngs()),
        TypeError,
        "activation must be a name or a callable",
        "of type list",
    ),
    slope_unknown=(
        lambda: rj.activation_slope_range(lambda x: x**3),
        ValueError,
        "must be known analytically",
        "<lambda>",
        "slope_range=(low, high)",
    ),
    slope_name=(
        lambda: rj.activation_slope_range("swish"),
        ValueError,
        "activation must be one of",
        "got 'swish'",
    ),
    slope_none=(
        lambda: rj.activation_slope_range(None),
        TypeError,
        "activation must be a name or a callable",
        "NoneType",
    ),
    bound_unknown=(
        lambda: rj.SimpleRNNCell(IN, H, activation=jnp.cbrt, rngs=rngs()).jacobian_bound(),
        ValueError,
        "must be known analytically",
        "cbrt",
    ),
    leaky_string=(
        lambda: rj.leaky_relu("0.1"),
        TypeError,
        "negative_slope must be a number",
        "'0.1' of type str",
        "Pass a float",
    ),
    leaky_none=(
        lambda: rj.leaky_relu(None),
        TypeError,
        "negative_slope must be a number",
        "NoneType",
    ),
    leaky_list=(
        lambda: rj.leaky_relu([0.1]),
        TypeError,
        "negative_slope must be a number",
        "list",
    ),
    leaky_array=(
        lambda: rj.leaky_relu(jnp.ones(3)),
        TypeError,
        "negative_slope must be one number",
        "Pass a float",
    ),
    leaky_nan=(
        lambda: rj.leaky_relu(float("nan")),
        ValueError,
        "negative_slope must be finite",
        "nan",
    ),
    own_function=(
        lambda: rj.Activation("mine", "tanh", (0.0, 1.0)),
        TypeError,
        "function must be callable",
        "'tanh' of type str",
        "jax.numpy.tanh",
    ),
    own_reversed=(
        lambda: rj.Activation("mine", jnp.tanh, (1.0, 0.0)),
        ValueError,
        "slope_range must be a pair (low, high)",
        "(1.0, 0.0)",
        "Pass",
    ),
    own_nan=(
        lambda: rj.Activation("mine", jnp.tanh, (float("nan"), 1.0)),
        ValueError,
        "slope_range must be a pair",
        "nan",
    ),
    own_single=(
        lambda: rj.Activation("mine", jnp.tanh, 1.0),
        ValueError,
        "slope_range must be a pair",
        "got 1.0",
    ),
)
def test_activations(call, error, words):
    refuses(call, error, *words)


@table(
    coupled_1997=(
        lambda: rj.LSTMCell(IN, H, coupled=True, forget_gate=False, rngs=rngs()),
        ValueError,
        "needs a forget gate",
        "forget_gate=False",
        "Drop one",
    ),
    forget_bias_string=(
        lambda: rj.LSTMCell(IN, H, forget_bias="1", rngs=rngs()),
        TypeError,
        "forget_bias must be a number",
        "'1' of type str",
        "Pass a float",
    ),
    forget_bias_none=(
        lambda: rj.LSTMCell(IN, H, forget_bias=None, rngs=rngs()),
        TypeError,
        "forget_bias must be a number",
        "NoneType",
    ),
    forget_bias_bool=(
        lambda: rj.LSTMCell(IN, H, forget_bias=True, rngs=rngs()),
        TypeError,
        "forget_bias must be a number",
        "True of type bool",
    ),
    forget_bias_array=(
        lambda: rj.LSTMCell(IN, H, forget_bias=np.ones(H), rngs=rngs()),
        TypeError,
        "forget_bias must be one number",
    ),
    forget_bias_infinite=(
        lambda: rj.LSTMCell(IN, H, forget_bias=float("inf"), rngs=rngs()),
        ValueError,
        "forget_bias must be finite",
        "inf",
    ),
    input_features=(
        lambda: SIMPLE(H0, jnp.ones(IN + 1)),
        ValueError,
        "in_features=2",
        "(3,)",
        "build the cell with in_features=3",
    ),
    input_scalar=(lambda: SIMPLE(H0, jnp.ones(())), ValueError, "the last axis of x", "()", "Pass"),
    input_list=(
        lambda: SIMPLE(H0, [1.0, 2.0]),
        TypeError,
        "x must be an array of real",
        "list",
        "Cast",
    ),
    input_none=(lambda: SIMPLE(H0, None), TypeError, "x must be an array", "NoneType", "Cast"),
    input_int=(
        lambda: LSTM(LSTM.initialize_carry((IN,)), jnp.ones(IN, int)),
        TypeError,
        "x must be an array of real",
        "int64",
        "Cast",
    ),
    input_complex=(
        lambda: GRU(H0, jnp.ones(IN, complex)),
        TypeError,
        "x must be an array of real",
        "complex128",
        "Cast",
    ),
    carry_none=(
        lambda: SIMPLE(None, X0),
        ValueError,
        "carry must be h",
        "None",
        "cell.initialize_carry((2,))",
    ),
    carry_size=(
        lambda: GRU(jnp.zeros(H + 1), X0),
        ValueError,
        "carry must be h",
        "(3,)",
        "got (4,)",
        "initialize_carry",
    ),
    carry_batch=(
        lambda: SIMPLE(H0, jnp.ones((4, IN))),
        ValueError,
        "carry must be h",
        "(4, 3)",
        "got (3,)",
        "initialize_carry((4, 2))",
    ),
    carry_one_part=(
        lambda: LSTM(H0, X0),
        ValueError,
        "carry must be (c, h)",
        "got (3,)",
        "initialize_carry",
    ),
    carry_stacked=(
        lambda: LSTM(jnp.zeros((2, H)), X0),
        ValueError,
        "carry must be (c, h)",
        "(2, 3)",
    ),
    carry_three_parts=(lambda: LSTM((H0,) * 3, X0), ValueError, "carry must be (c, h)", "(3,)"),
    carry_string=(lambda: LSTM(("c", "h"), X0), ValueError, "carry must be (c, h)", "'str'"),
    carry_int=(
        lambda: SIMPLE(jnp.zeros(H, int), X0),
        TypeError,
        "carry part h must be an array of real",
        "int64",
    ),
    carry_complex=(
        lambda: LSTM((H0, jnp.zeros(H, complex)), X0),
        TypeError,
        "carry part h must be an array of real",
        "complex128",
    ),
    gates_carry=(lambda: LSTM.gates(H0, X0), ValueError, "carry must be (c, h)", "got (3,)"),
    gates_input=(lambda: GRU.gates(H0, jnp.ones(5)), ValueError, "in_features=2", "(5,)"),
    gru_gates_carry=(lambda: GRU.gates((H0, H0), X0), ValueError, "carry must be h", "(3,)"),
    project_int=(lambda: LSTM.project(jnp.ones((T, IN), int)), TypeError, "x must be", "int64"),
    initial_int=(
        lambda: SIMPLE.initialize_carry(3),
        TypeError,
        "input_shape must be a tuple (..., I)",
        "got 3",
        "Pass x.shape",
    ),
    initial_none=(
        lambda: LSTM.initialize_carry(None),
        TypeError,
        "input_shape must be a tuple",
        "None",
    ),
    initial_random=(
        lambda: GRU.initialize_carry((IN,), carry_init=jax.nn.initializers.normal()),
        ValueError,
        "carry_init needs a key",
        "rngs=None",
        "rngs=nnx.Rngs(0)",
    ),
)
def test_cells(call, error, words):
    refuses(call, error, *words)


def unroll(*args, **options):
    return lambda: rj.unroll(*args, **options)


@table(
    none=(unroll(SIMPLE, None), TypeError, "xs must be an array of inputs", "NoneType", "Pass"),
    string=(unroll(SIMPLE, "abc"), TypeError, "xs must be an array of inputs", "str"),
    ragged=(unroll(SIMPLE, [[1.0], [1.0, 2.0]]), TypeError, "xs must be an array", "list"),
    dictionary=(unroll(SIMPLE, {"xs": XS}), TypeError, "xs must be an array", "dict"),
    objects=(
        unroll(SIMPLE, np.array([[None]], object)),
        TypeError,
        "xs must be an array",
        "ndarray",
    ),
    whole_numbers=(
        unroll(SIMPLE, XS.astype(int)),
        TypeError,
        "xs must hold real floating-point numbers",
        "int64",
        "xs.astype(jnp.float32)",
    ),
    booleans=(unroll(SIMPLE, XS > 0), TypeError, "xs must hold real floating-point", "bool"),
    complex_numbers=(
        unroll(SIMPLE, XS.astype(complex)),
        TypeError,
        "xs must hold real floating-point",
        "complex128",
        "Cast",
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


@pytest.mark.parametrize(
    "wrong", [0, -1, "cube", "", True, False, 2.0, [2], np.ones(2), (1,), "2"], ids=repr
)
def test_checkpoint_intervals(wrong):
    words = ('checkpoint must be None, "sqrt", or an interval', f"got {wrong!r}", 'Pass "sqrt"')
    refuses(unroll(SIMPLE, XS, checkpoint=wrong), ValueError, *words)


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
    function=(model([SIMPLE, plain]), TypeError, OURS[0], "function", OURS[1]),
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
    whole=(lambda: model(SIMPLE)()(XS.astype(int)), TypeError, "floating-point", "int64"),
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


ADDING = tasks.Adding(4)
SAMPLE = ADDING.sample(KEY, 3)


@table(
    one=(lambda: tasks.Adding(1), ValueError, "length must be at least 2", "got 1", "length=2"),
    zero=(lambda: tasks.Adding(0), ValueError, "length must be at least 1", "got 0", "Pass"),
    fraction=(lambda: tasks.Adding(2.5), TypeError, "length must be a whole number", "2.5", "Pass"),
    truth=(lambda: tasks.Adding(True), TypeError, "length must be a whole number", "True"),
    string=(lambda: tasks.Adding("10"), TypeError, "length must be a whole number", "'10'"),
    none=(lambda: tasks.Adding(None), TypeError, "length must be a whole number", "None"),
    bound_string=(
        lambda: tasks.Adding(4, solved_below="0.1"),
        TypeError,
        "solved_below must be a number",
        "'0.1'",
        "Pass a float",
    ),
    bound_negative=(
        lambda: tasks.Adding(4, solved_below=-1.0),
        ValueError,
        "solved_below must be a positive error",
        "-1.0",
        "Pass",
    ),
    bound_nan=(
        lambda: tasks.Adding(4, solved_below=float("nan")),
        ValueError,
        "solved_below must be finite",
        "nan",
    ),
    key_number=(
        lambda: ADDING.sample(0, 3),
        TypeError,
        "key must be a JAX random key",
        "got int",
        "jax.random.key(0)",
    ),
    key_none=(lambda: ADDING.sample(None, 3), TypeError, "key must be a JAX random key", "None"),
    key_floats=(lambda: ADDING.sample(XS, 3), TypeError, "key must be a JAX random key", "ndarray"),
    keys=(
        lambda: ADDING.sample(jax.random.split(KEY, 3), 3),
        ValueError,
        "key must be a single random key",
        "(3,)",
        "jax.vmap",
    ),
    batch_zero=(
        lambda: ADDING.sample(KEY, 0),
        ValueError,
        "batch_size must be at least 1",
        "got 0",
    ),
    batch_float=(lambda: ADDING.sample(KEY, 3.0), TypeError, "batch_size must be a whole", "3.0"),
    loss_flat=(
        lambda: ADDING.loss(jnp.ones(3), SAMPLE),
        ValueError,
        "outputs must have the shape of the targets, (3, 1)",
        "got (3,)",
        'readout="last"',
    ),
    loss_all=(
        lambda: ADDING.metrics(jnp.ones((3, 4, 1)), SAMPLE),
        ValueError,
        "outputs must have the shape of the targets, (3, 1)",
        "got (3, 4, 1)",
    ),
    loss_wide=(
        lambda: ADDING.loss(jnp.ones((3, 2)), SAMPLE),
        ValueError,
        "outputs must have the shape of the targets, (3, 1)",
        "got (3, 2)",
    ),
)
def test_tasks(call, error, words):
    refuses(call, error, *words)


def test_an_old_style_key_is_a_key():
    np.testing.assert_array_equal(
        ADDING.sample(jax.random.PRNGKey(0), 3).inputs, ADDING.sample(KEY, 3).inputs
    )
