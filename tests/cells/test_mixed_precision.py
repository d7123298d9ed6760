"""Products in bfloat16, carries in float32: types, rounding, and that a carry forgets nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import rnn_jax as rj

BUILD = {
    "lstm": rj.LSTMCell,
    "peephole_lstm": lambda *a, **k: rj.LSTMCell(*a, peephole=True, **k),
    "gru": rj.GRUCell,
    "gru_reset_before": lambda *a, **k: rj.GRUCell(*a, reset_after=False, **k),
    "simple": rj.SimpleRNNCell,
}


def make(name, **types):
    return BUILD[name](2, 4, **types, param_dtype=jnp.float32, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def xs():
    return jax.random.normal(jax.random.key(0), (3, 30, 2), jnp.float32)


@pytest.mark.parametrize("name", BUILD)
def test_carries_and_outputs_are_kept_in_their_type(name, xs):
    cell = make(name, dtype=jnp.bfloat16, carry_dtype=jnp.float32)
    carry = cell.initialize_carry((2,))
    after, y = jax.eval_shape(cell, carry, xs[0, 0])
    assert {leaf.dtype for leaf in jax.tree.leaves((carry, after, y))} == {jnp.dtype("float32")}
    last, ys = jax.eval_shape(rj.unroll, cell, xs)
    assert {leaf.dtype for leaf in jax.tree.leaves((last, ys))} == {jnp.dtype("float32")}


@pytest.mark.parametrize("name", BUILD)
def test_products_are_of_the_narrow_type(name, xs):
    cell = make(name, dtype=jnp.bfloat16, carry_dtype=jnp.float32)
    jaxpr = jax.make_jaxpr(cell)(cell.initialize_carry((2,)), xs[0, 0])
    products = [line for line in str(jaxpr).splitlines() if "dot_general" in line]
    assert products
    text = str(jaxpr)
    assert text.count("preferred_element_type=float32") == text.count("dot_general[")
    assert "bf16" in text


@pytest.mark.parametrize("name", BUILD)
def test_values_and_gradients_are_within_the_rounding_of_products(name, xs):
    def run(**types):
        cell = make(name, **types)

        def loss(cell):
            return jnp.mean(jnp.square(rj.unroll(cell, xs)[1]))

        value, gradient = jax.value_and_grad(loss)(cell)
        return value, gradient.recurrent_kernel[...]

    found, exact = run(dtype=jnp.bfloat16, carry_dtype=jnp.float32), run()
    for one, other in zip(found, exact, strict=True):
        assert one.dtype == jnp.float32
        # Operands are rounded to 8 bits; thirty steps of a contracting network add little to that.
        scale = float(jnp.max(jnp.abs(other)))
        assert float(jnp.max(jnp.abs(one - other))) < 16 * 2.0**-8 * scale


def test_a_small_change_reaches_a_wide_carry_alone():
    """c = 256 + 0.5 a step: bfloat16 cannot hold it, float32 can."""

    def after(carry_dtype):
        cell = rj.LSTMCell(
            1, 1, forget_gate=False, dtype=jnp.bfloat16, carry_dtype=carry_dtype, rngs=nnx.Rngs(0)
        )
        # Input gate ½, candidate 1, whatever the input: c grows by ½ a step.
        cell.kernel[...] = jnp.zeros_like(cell.kernel[...])
        cell.recurrent_kernel[...] = jnp.zeros_like(cell.recurrent_kernel[...])
        cell.bias[...] = jnp.asarray([0.0, 100.0, 0.0], cell.bias[...].dtype)
        dtype = carry_dtype or jnp.bfloat16
        start = (jnp.full((1,), 256.0, dtype), jnp.zeros((1,), dtype))
        (c, _), _ = rj.unroll(cell, jnp.zeros((10, 1), jnp.bfloat16), start)
        return float(c[0])

    assert after(None) == 256.0
    assert after(jnp.float32) == 261.0


def test_one_type_for_all_is_the_fused_form_and_the_same_numbers(xs):
    plain, named = make("lstm"), make("lstm", dtype=jnp.float32, carry_dtype=jnp.float32)
    found, expected = rj.unroll(named, xs), rj.unroll(plain, xs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected)


def test_a_type_that_is_no_float_is_refused():
    with pytest.raises(TypeError, match="carry_dtype must be a floating-point type"):
        make("gru", carry_dtype=jnp.int32)


@pytest.mark.parametrize(
    "call",
    [
        rj.jacobian_log_singular_values,
        rj.lyapunov_exponents,
        rj.covariant_lyapunov_vectors,
        lambda cell, xs: rj.jacobian_log_norms(cell, xs, norm="spectral"),
    ],
)
def test_what_lapack_cannot_decompose_is_refused_by_its_type(call):
    narrow = rj.GRUCell(2, 4, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match="needs a carry of float32 or float64"):
        call(narrow, jnp.zeros((4, 2), jnp.bfloat16))
