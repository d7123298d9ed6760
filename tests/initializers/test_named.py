"""Names of initialisers with arguments: what they stand for, and what is refused."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import rnn_jax as rj
from refusing import refuses, table
from rnn_jax import initializers
from rnn_jax.initializers import get_initializer, names

GIVEN = {
    "orthogonal": initializers.orthogonal(),
    "orthogonal()": initializers.orthogonal(1.0),
    "orthogonal(1.2)": initializers.orthogonal(1.2),
    " identity ( 0.5 ) ": initializers.identity(0.5),
    "gaussian(gain=1.5)": initializers.gaussian(1.5),
    "gaussian(1e-3)": initializers.gaussian(0.001),
    "critical(relu)": initializers.gaussian(2**0.5),
    "critical('tanh', input_variance=0.5)": initializers.critical("tanh", 0.0, 0.5),
    "sparse(0.1, radius=0.9)": initializers.sparse(),
    "ring(0.9, 0.999)": initializers.ring(0.9, 0.999),
    "hippo(0.1)": initializers.hippo(0.1),
    "uniform(-0.1, +0.1)": initializers.uniform(-0.1, 0.1),
    "constant(-2)": initializers.constant(-2),
    "henaff": initializers.henaff(),
}


@pytest.mark.parametrize("text", GIVEN)
def test_a_text_is_the_factory_of_the_same_name_with_these_arguments(text):
    named, given = get_initializer("kernel_init", text), GIVEN[text]
    if text == "critical(relu)":
        assert named.gain == pytest.approx(given.gain, rel=1e-12)
    else:
        assert named == given
        assert hash(named) == hash(given)


@pytest.mark.parametrize("kind", ["kernel", "bias", "unit", "skew"])
def test_every_name_can_be_compared_pickled_and_drawn_in_every_type(kind):
    assert len(names(kind)) >= 2
    for name, usage in names(kind).items():
        given = {"constant": "(0.5)", "uniform": "(0, 1)", "normal": "(1)", "chrono": "(1, 9)"}
        text = name + given.get(name, "")
        init = get_initializer("init", text, kind)
        restored = pickle.loads(pickle.dumps(init))
        assert restored == init
        assert hash(restored) == hash(init)
        assert usage.startswith(name)
        for dtype in (jnp.float64, jnp.float32, jnp.bfloat16):
            if kind == "bias":
                cell = rj.LSTMCell(1, 3, bias_init=init, param_dtype=dtype, rngs=nnx.Rngs(0))
                values = cell.bias[...]
            else:
                shape = (3,) if kind == "unit" else (3, 3)
                values = initializers.initialize("init", restored, jax.random.key(0), shape, dtype)
            assert values.dtype == dtype
            assert np.all(np.isfinite(values.astype(jnp.float32)))


def test_every_factory_has_its_name():
    factories = {
        "chrono",
        "constant",
        "critical",
        "forget_bias",
        "gaussian",
        "henaff",
        "hippo",
        "identity",
        "normal",
        "orthogonal",
        "ring",
        "sparse",
        "uniform",
    }
    assert factories <= set(names("kernel")) | set(names("bias"))
    assert factories <= set(initializers.__all__)


def test_one_text_builds_gate_by_gate_in_a_constructor():
    cell = rj.LSTMCell(2, 4, recurrent_kernel_init="orthogonal(1.2)", rngs=nnx.Rngs(0))
    for block in np.split(np.asarray(cell.recurrent_kernel[...]), 4, axis=1):
        np.testing.assert_allclose(block @ block.T, 1.44 * np.eye(4), atol=1e-12)
    cell = rj.GRUCell(2, 20, recurrent_kernel_init="sparse(0.2, 0.7)", rngs=nnx.Rngs(0))
    for block in np.split(np.asarray(cell.recurrent_kernel[...]), 3, axis=1):
        assert np.abs(np.linalg.eigvals(block)).max() == pytest.approx(0.7, rel=1e-9)


def test_cells_of_equal_texts_share_one_compiled_structure():
    one, other = (
        rj.SimpleRNNCell(2, 3, recurrent_kernel_init=text, rngs=nnx.Rngs(0))
        for text in ("gaussian(1.5)", "gaussian(gain=1.5)")
    )
    assert jax.tree.structure(one) == jax.tree.structure(other)
    np.testing.assert_array_equal(one.recurrent_kernel[...], other.recurrent_kernel[...])


def named(text, kind="kernel"):
    return lambda: get_initializer("some_init", text, kind)


@table(
    unknown=(
        named("gausian(1)"),
        ValueError,
        "some_init must be one of",
        "'gaussian'",
        "'gausian'",
    ),
    no_number=(
        named("gaussian(one)"),
        ValueError,
        "'gaussian(one)'",
        "gain must be a number",
        "one",
    ),
    too_many=(
        named("gaussian(1, 2)"),
        ValueError,
        "must be written gaussian(gain=1)",
        "'gaussian(1, 2)'",
        "too many",
    ),
    too_few=(named("uniform(1)"), ValueError, "must be written uniform(low, high)", "missing"),
    no_such=(named("ring(r=1)"), ValueError, "must be written ring(r_min=1", "'ring(r=1)'", "'r'"),
    twice=(named("ring(1, r_min=1)"), ValueError, "must be written", "multiple values"),
    range=(named("sparse(1.5)"), ValueError, "'sparse(1.5)'", "density must", "1.5", "Pass"),
    unbalanced=(named("gaussian(1.5"), ValueError, "must be a name", "'gaussian(1.5'", "Write"),
    closed_twice=(named("gaussian(1.5))"), ValueError, "must be a name", "unmatched", "Write"),
    expression=(
        named("gaussian(1 + 1)"),
        ValueError,
        "must be a name",
        "1 + 1 is neither",
        "Write",
    ),
    nested=(named("gaussian(abs(1))"), ValueError, "must be a name", "abs(1) is neither", "Write"),
    spread=(named("gaussian(**a)"), ValueError, "must be a name", "'gaussian(**a)'", "Write"),
    attribute=(named("jax.zeros"), ValueError, "must be a name", "'jax.zeros'", "Write"),
    empty=(named(""), ValueError, "must be a name", "got ''", "Write"),
    number=(named("1.5"), ValueError, "must be a name", "'1.5'", "Write"),
    activation=(named("critical(rulu)"), ValueError, "activation must be one of", "'rulu'"),
    no_gain=(named("critical(relu, 1)"), ValueError, "a critical gain needs", "relu", "Pass"),
    bias_as_kernel=(
        named("chrono(1, 9)"),
        ValueError,
        "some_init must be an initialiser of a matrix for each gate",
        "'chrono(1, 9)'",
        "the biases of all gates",
        "Pass one of",
    ),
    kernel_as_bias=(
        named("orthogonal", "bias"),
        ValueError,
        "must be an initialiser of the biases of all gates",
        "'orthogonal'",
        "a matrix for each gate",
        "'chrono'",
    ),
    kernel_as_unit=(named("sparse", "unit"), ValueError, "a few numbers for each unit", "'sparse'"),
    kernel_as_skew=(
        named("orthogonal", "skew"),
        ValueError,
        "skew-symmetric",
        "'cayley', 'henaff'",
    ),
    none=(named(None), TypeError, "must be a name or a callable", "None", "Known names"),
)
def test_a_bad_name_is_refused_with_rule_arrival_and_fix(call, error, words):
    refuses(call, error, *words)


def test_what_the_argument_of_a_constructor_is_for_is_known_in_every_cell():
    refuses(
        lambda: rj.GRUCell(1, 2, bias_init="orthogonal", rngs=nnx.Rngs(0)),
        ValueError,
        "bias_init must be an initialiser of the biases",
    )
    refuses(
        lambda: rj.UnICORNNCell(1, 2, recurrent_kernel_init="orthogonal", rngs=nnx.Rngs(0)),
        ValueError,
        "recurrent_kernel_init must be an initialiser of a few numbers for each unit",
    )
    refuses(
        lambda: rj.ExpRNNCell(1, 2, recurrent_kernel_init="gaussian(2)", rngs=nnx.Rngs(0)),
        ValueError,
        "recurrent_kernel_init must be an initialiser of a skew-symmetric matrix",
    )
