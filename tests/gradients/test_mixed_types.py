"""Cells whose inputs, carry and output are floats of different types.

What is differentiated is of the carry's type, as far as numbers of the narrower type show it.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from test_one_direction import repeated, spike
from test_one_record import FEATURES, KEY, XS, H

import rnn_jax as rj

W, V = (
    jnp.asarray(np.random.default_rng(1).normal(size=shape)) for shape in ((H, H), (FEATURES, H))
)
# What can be differentiated both ways takes the ways that these two have.
ACTIVATIONS = {
    "reverse_only": spike,
    "forward_only": lambda u: repeated(u, jnp.asarray(2)),
}


@functools.cache
def cell_of(activation, output):
    def step(w, h, x):
        inner = activation((h @ w + x.astype(w.dtype) @ V.astype(w.dtype)).astype(h.dtype))
        h = (h + inner) / 2
        return h, (2 * h).astype(output)

    return lambda kind: Partial(Partial(step), W.astype(kind))


@jax.jit
def loss(ys):
    return jnp.sum(jnp.sin(ys.astype(jnp.float64)))


def signal(*given):
    found = rj.backprop_signal(loss, *given)
    return found.total, found.input_log_norms


def products(*given):
    by_state = rj.jacobian_operator(*given)
    by_input = rj.jacobian_operator(*given, wrt="input")
    return (
        by_state.matvec(jnp.ones(H)),
        by_state.rmatvec(jnp.ones(H)),
        by_input.matvec(jnp.ones(FEATURES)),
        by_input.rmatvec(jnp.ones(H)),
    )


# Each way in which outputs and derivatives are used; the log-norms by weights are those of a flow.
MEASURES = {
    "linearize": lambda *given: rj.linearize(*given).output_input_jacobians,
    "input_jacobian": rj.input_jacobian,
    "targets": lambda *given: rj.jacobian_log_norms(*given, targets=[-1]),
    "weight_gradient": lambda *given: jax.tree.leaves(rj.weight_gradient_by_step(loss, *given)),
    "signal": signal,
    "signal_log_norms": lambda *given: rj.backprop_signal_log_norms(loss, *given),
    "estimate": lambda *given: rj.estimate_jacobian_log_norms(*given, key=KEY, probes=2).values,
    "vanishing": lambda *given: rj.vanishing_penalty(loss, *given),
    "operator": products,
    "flow": lambda *given: (
        rj.gradient_flow(*given, loss=loss, measures="weight_log_norms").weight_log_norms
    ),
}
# Types of inputs, carry and output.
TYPES = {
    "narrow output": (jnp.float64, jnp.float64, jnp.float32),
    "wide output": (jnp.float64, jnp.float32, jnp.float64),
    "narrow inputs": (jnp.float32, jnp.float64, jnp.float64),
}


@functools.cache
def in_one_type(direction):
    """A linearization, which stands for the cell, its inputs and its carry."""
    cell = cell_of(ACTIVATIONS[direction], jnp.float64)(jnp.float64)
    return rj.linearize(cell, jnp.asarray(XS[:3]), jnp.full(H, 0.25))


# Each measure with each direction, and each direction with each pair of types, in turn. Random
# vectors of another type are other vectors, so estimates are left out where the carry's is narrow.
CASES = [
    (measure, direction, types)
    for i, measure in enumerate(MEASURES)
    for j, direction in enumerate(ACTIVATIONS, 1)
    for types in [list(TYPES)[(i + j) % len(TYPES)]]
    if (measure, types) != ("estimate", "wide output")
]


@pytest.mark.parametrize(("measure", "direction", "types"), CASES)
def test_a_measure_is_that_of_the_cell_in_one_type(measure, direction, types):
    of_inputs, of_carry, of_output = TYPES[types]
    xs, carry = jnp.asarray(XS[:3], of_inputs), jnp.full(H, 0.25, of_carry)
    call, activation = MEASURES[measure], ACTIVATIONS[direction]
    found = call(cell_of(activation, of_output)(of_carry), xs, carry)
    expected = call(in_one_type(direction))
    chex.assert_trees_all_close(
        jax.tree.map(np.float64, found), jax.tree.map(np.float64, expected), rtol=3e-5, atol=3e-6
    )


def test_outputs_are_kept_in_their_own_type():
    cell = cell_of(jnp.tanh, jnp.float64)(jnp.float32)
    lin = rj.linearize(cell, XS.astype(np.float32), jnp.zeros(H, jnp.float32))
    assert (lin.carries.dtype, lin.outputs.dtype) == (jnp.float32, jnp.float64)
    assert {a.dtype for a in (lin.output_state_jacobians, lin.input_jacobians)} == {
        jnp.dtype(jnp.float32)
    }
