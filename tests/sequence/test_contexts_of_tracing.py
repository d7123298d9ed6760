"""A recurrence is lowered, and may be differentiated, outside of where it was traced."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import rnn_jax as rj

IN, H, T = 2, 3, 4
XS = np.random.default_rng(0).normal(size=(T, IN))


CELL = rj.SimpleRNNCell(IN, H, param_dtype=jnp.float64, rngs=nnx.Rngs(0))


def outputs(xs):
    return rj.unroll(CELL, xs)[1]


def loss(xs):
    with jax.default_matmul_precision("highest"):
        return jnp.sum(jnp.sin(outputs(xs)))


def squared_slope(loss):
    return lambda xs: jnp.sum(jax.grad(loss)(xs) ** 2)


# Functions of inputs that reach products in a context which their derivative is taken outside of.
DIFFERENTIATED_OUTSIDE = {
    "values": loss,
    "grad": jax.grad(loss),
    "grad of checkpoint": jax.grad(jax.checkpoint(loss)),
    "grad of checkpoint of grad": jax.grad(jax.checkpoint(squared_slope(loss))),
    "grad of grad of checkpoint": jax.grad(squared_slope(jax.checkpoint(loss))),
    "hessian of jit": jax.hessian(jax.jit(loss)),
}


@pytest.mark.parametrize("name", DIFFERENTIATED_OUTSIDE)
def test_every_product_has_the_precision_of_where_the_call_was_traced(name):
    program = jax.jit(DIFFERENTIATED_OUTSIDE[name]).lower(XS).as_text()
    products = [line for line in program.splitlines() if "dot_general" in line]
    assert products
    for product in products:
        assert re.search(r"precision = \[HIGHEST, HIGHEST\]", product), product


ORDERS = {
    "values": outputs,
    "grad": jax.grad(lambda xs: jnp.sum(jnp.sin(outputs(xs)))),
    "hessian": jax.hessian(lambda xs: jnp.sum(jnp.sin(outputs(xs)))),
}


@pytest.mark.parametrize("name", ORDERS)
def test_float64_is_lowered_where_jax_has_no_types_of_64_bits(name):
    traced = jax.jit(ORDERS[name]).trace(XS)
    expected = traced.lower().compile()(XS)
    with jax.enable_x64(False):
        program = traced.lower().compile()
    np.testing.assert_allclose(program(XS), expected, rtol=1e-12)


def test_results_are_of_a_type_of_their_own_whatever_the_type_of_the_carry_is():
    weak = jnp.full(H, 0.5)
    assert weak.weak_type
    carry, ys, carries = rj.unroll(CELL, jnp.asarray(XS), weak, return_carries=True)
    assert not any(array.weak_type for array in (carry, ys, carries))
