"""Operations as kernels write them out, against the functions that they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kernel_rules import close

from rnn_jax.activations import ACTIVATIONS
from rnn_jax.sequence.kernels.lowerable import lowerable
from rnn_jax.sequence.kernels.products import operands, product


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_functions_are_written_out_as_what_they_are(activation):
    """In float32 against float64, and to the bit where there is nothing to round."""

    def value_and_slope(x):
        return jax.jvp(ACTIVATIONS[activation], (x,), (jnp.ones_like(x),))

    @jax.jit
    def both(x):
        return lowerable(value_and_slope)(x), value_and_slope(x)

    special = np.asarray([np.nan, np.inf, -np.inf, 0.0, -0.0], np.float32)
    x = np.concatenate([special, np.linspace(-12, 12, 1001, dtype=np.float32)])
    found, as_it_is = both(x)
    np.testing.assert_array_equal([part[:5] for part in found], [part[:5] for part in as_it_is])
    exact = jax.jit(value_and_slope)(np.float64(x[5:]))
    close([part[5:] for part in found], list(exact), 1e-6)


@pytest.mark.parametrize(
    ("function", "points"),
    [
        (lambda x: jax.lax.erf(x), [0.3, -0.3, 1.5, -1.5, 3.0]),
        (lambda x: jnp.minimum(x, 1), [np.nan, 2.0, -2.0]),
        (lambda x: jnp.maximum(1, x), [np.nan, 2.0, -2.0]),
        (lambda x: jax.lax.clamp(jnp.float32(-1), x, jnp.float32(1)), [np.nan, 2.0, -2.0, 0.5]),
    ],
    ids=["erf", "minimum", "maximum", "clamp"],
)
def test_other_operations_written_out(function, points):
    x = jnp.asarray(points, jnp.float32)
    np.testing.assert_allclose(lowerable(function)(x), function(x), rtol=3e-7)


def test_three_products_of_halves_are_nearly_one_of_float32():
    random = np.random.default_rng(0)
    a, w = (jnp.asarray(random.normal(size=(64, 64)), jnp.float32) for _ in range(2))
    exact = np.float64(a) @ np.float64(w)
    error = {}
    for precision, operand in {"bf16": w.astype(jnp.bfloat16), "bf16x3": w}.items():
        found = np.asarray(product(a, operands(operand, precision), precision))
        error[precision] = np.linalg.norm(found - exact) / np.linalg.norm(exact)
    assert 1e-3 < error["bf16"] < 1e-2
    assert error["bf16x3"] < 1e-5
