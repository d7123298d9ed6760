"""What cells, activations and initialisers refuse, and what they say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import rnn_jax as rj
import zoo
from refusing import refuses, table

IN, H, T = 2, 3, 5
KEY = jax.random.key(0)
SIMPLE = zoo.CELLS["simple_tanh"](IN, H, 0)
LSTM = zoo.CELLS["lstm"](IN, H, 0)
GRU = zoo.CELLS["gru_reset_after"](IN, H, 0)
H0, X0 = jnp.zeros(H), jnp.ones(IN)


def rngs():
    return nnx.Rngs(0)


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

    refuses(build("constan"), ValueError, f"{which} must be one of", "'constant'", "'constan'")
    for wrong in (None, 3, [1.0], np.ones(3)):
        words = (f"{which} must be a name or a callable", "got", "Known names: ", "constant")
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
    words = ("bias_init must be an initialiser of the biases", f"got '{init}'", "'zeros'")
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
    input_dict=(
        lambda: LSTM(LSTM.initialize_carry((IN,)), {"x": X0}),
        TypeError,
        "x must be an array of real",
        "dict",
        "pass the one that this cell takes",
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
    project_key=(
        lambda: LSTM.project(jax.random.split(jax.random.key(0), IN)),
        TypeError,
        "x must be",
        "key<",
    ),
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
