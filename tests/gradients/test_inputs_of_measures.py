"""Every measure of every kind of inputs, as that of the same numbers in one float array."""

import dataclasses
import functools
from collections import namedtuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial

import rnn_jax as rj
from refusing import refused

T, IN, H = 4, 4, 2
# Numbers that every type holds.
FLAT = np.random.default_rng(0).integers(0, 2, size=(T, IN)).astype(float)
FLOATS = 2  # of the mixed kind, the others being whole numbers
RNG = np.random.default_rng(1)
WEIGHTS = {
    name: jnp.asarray(RNG.normal(size=shape))
    for name, shape in {"u": (IN, H), "w": (H, H), "d": (IN, 1)}.items()
}
START = jnp.full(H, 0.1)
KEY = jax.random.key(1)
Both = namedtuple("Both", ["left", "right"])


def loss(ys):
    return jnp.sum(jnp.sin(ys))


def cell_of(numbers):
    """A cell that asks only for the numbers of an input; its output is no part of its carry."""

    def step(weights, carry, x):
        v = numbers(x).astype(float)
        h = jnp.tanh(carry @ weights["w"] + v @ weights["u"])
        return h, jnp.sum(h**2, keepdims=True) + v @ weights["d"]

    return Partial(step, WEIGHTS)


# kind: (inputs from (T, 4) numbers, the numbers of one input again, feature_axes)
KINDS = {
    "tuple": (lambda v: (v[:, :1], v[:, 1:]), jnp.concatenate, None),
    "named tuple": (lambda v: Both(v[:, :2], v[:, 2:]), jnp.concatenate, None),
    "nested lists": (lambda v: v.tolist(), lambda x: x, None),
    "images": (lambda v: v.reshape(T, 2, 1, 2), jnp.ravel, 3),
    "two float types": (
        lambda v: {"a": v[:, :2].astype(np.float32), "b": v[:, 2:]},
        lambda x: jnp.concatenate([x["a"].astype(float), x["b"]]),
        None,
    ),
}


def numbers_of_mixed(x):
    whole = [x["token"].astype(float), x["z"].astype(float)]
    return jnp.concatenate([x["image"][:, 0], jnp.stack(whole)])


MIXED = (
    lambda v: {"image": v[:, :FLOATS, None], "token": v[:, 2].astype(int), "z": v[:, 3] > 0},
    numbers_of_mixed,
    2,
)


def held_constant(x):
    """The numbers of an input, those that MIXED has as whole numbers without a derivative."""
    return jnp.concatenate([x[:FLOATS], jax.lax.stop_gradient(x[FLOATS:])])


def products(*given, **axes):
    """An operator applied forward and back."""
    forward = rj.jacobian_operator(*given, start=1, **axes)
    back = rj.jacobian_operator(*given, wrt="input", **axes)
    v = np.zeros(back.shape[1])
    v[0] = 1.0
    return forward.matvec(jnp.ones(H)), back.matvec(v), back.rmatvec(jnp.ones(1))


# Every public call that takes a cell with its inputs.
BY_STATE = {
    "state_jacobian": rj.state_jacobian,
    "singular_values": functools.partial(rj.jacobian_log_singular_values, start=1),
    "lyapunov_exponents": functools.partial(rj.lyapunov_exponents, k=2, warmup=1, interval=2),
    "covariant_lyapunov_vectors": functools.partial(rj.covariant_lyapunov_vectors, k=2, tail=1),
    "weight_gradient_by_step": functools.partial(rj.weight_gradient_by_step, loss),
    "weight_gradient_log_norms": functools.partial(rj.weight_gradient_log_norms, loss),
    "backprop_signal": functools.partial(rj.backprop_signal, loss),
    "backprop_signal_log_norms": functools.partial(rj.backprop_signal_log_norms, loss),
    "attribution": rj.attribution,
    "estimate_singular_values": functools.partial(
        rj.estimate_jacobian_log_singular_values, k=1, key=KEY, iterations=0, oversample=0
    ),
    "vanishing_penalty": functools.partial(rj.vanishing_penalty, loss),
    "flossing_penalty": functools.partial(rj.flossing_penalty, k=2),
    "gradient_flow by state": functools.partial(
        rj.gradient_flow, wrt="state", measures="exponents"
    ),
}
BY_INPUT = {
    "linearize": rj.linearize,
    "input_jacobian": rj.input_jacobian,
    "targets": functools.partial(rj.jacobian_log_norms, targets=[-1]),
    "estimate_log_norms": functools.partial(rj.estimate_jacobian_log_norms, key=KEY, probes=2),
    # Beside the exponents, which are in the flow by state.
    "gradient_flow": functools.partial(
        rj.gradient_flow, loss=loss, measures=("attribution", "change_log_norms")
    ),
    "operator": products,
}


@functools.cache
def linearized_floats():
    return rj.linearize(cell_of(held_constant), FLAT, START)


@functools.cache
def reference(name):
    """By a linearization of floats, which stands for a cell, its inputs and its carry."""
    return (BY_STATE | BY_INPUT)[name](linearized_floats())


def by_floats(result, count):
    """A measure of inputs of which only the first numbers have a derivative."""
    if isinstance(result, rj.Linearization):
        return (
            result.input_jacobians[..., :count],
            result.output_input_jacobians[..., :count],
            result.carries,
            result.outputs,
            result.state_jacobians,
            result.output_state_jacobians,
        )
    if isinstance(result, rj.BackpropSignal):
        return dataclasses.replace(result, inputs=result.inputs[:, :count])
    if isinstance(result, jax.Array) and result.ndim == 4 and result.shape[-1] == IN:
        return result[..., :count]
    if isinstance(result, tuple):  # of the operator, whose last product is by the input
        (direction, scale) = result[-1]
        return (*result[:-1], (direction[:count], scale))
    return result


def assert_same(found, expected, count):
    found, expected = (jax.tree.leaves(by_floats(r, count)) for r in (found, expected))
    chex.assert_trees_all_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", BY_STATE | BY_INPUT)
def test_a_measure_of_floats_beside_whole_numbers(name):
    make, numbers, feature_axes = MIXED
    measure = (BY_STATE | BY_INPUT)[name]
    found = measure(cell_of(numbers), make(FLAT), START, feature_axes=feature_axes)
    assert_same(found, reference(name), FLOATS)


@pytest.mark.parametrize(
    "name", ["gradient_flow by state", "lyapunov_exponents", "backprop_signal", "attribution"]
)
def test_a_measure_by_state_of_whole_numbers(name):
    found = BY_STATE[name](cell_of(lambda x: x), FLAT.astype(int), START)
    expected = by_floats(reference(name), 0)
    if name == "backprop_signal":
        assert found.inputs.shape == (T, 0)
        assert np.isneginf(found.input_log_norms).all()
        expected = dataclasses.replace(expected, input_log_norms=found.input_log_norms)
    assert_same(found, expected, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_inputs_is_linearized_as_its_numbers(kind):
    make, numbers, feature_axes = KINDS[kind]
    xs = make(FLAT)
    found = rj.linearize(cell_of(numbers), xs, START, feature_axes=feature_axes)
    exact = kind != "two float types"  # derivatives by float32 are rounded to it
    one, other = (jax.tree.leaves(by_floats(r, IN)) for r in (found, plain()))
    chex.assert_trees_all_close(one, other, rtol=1e-10 if exact else 1e-6, atol=1e-12)
    norms = rj.jacobian_log_norms(found)
    np.testing.assert_allclose(norms, rj.jacobian_log_norms(plain()), rtol=1e-9 if exact else 1e-6)
    chex.assert_trees_all_equal_shapes(found.inputs, jax.tree.map(jnp.asarray, np_arrays(xs)))


def np_arrays(xs):
    return np.asarray(xs) if isinstance(xs, list) else xs


@functools.cache
def plain():
    return rj.linearize(cell_of(lambda x: x), FLAT, START)


def test_the_linearization_of_whole_numbers_has_no_columns_for_them():
    lin = rj.linearize(cell_of(lambda x: x), FLAT > 0, START)
    assert lin.input_jacobians.shape == (T, H, 0)
    assert lin.output_input_jacobians.shape == (T, 1, 0)
    np.testing.assert_allclose(lin.state_jacobians, plain().state_jacobians, rtol=1e-12)
    refused(lambda: rj.jacobian_log_norms(lin), TypeError, "real floating-point", r"bool\[4, 4\]")
    np.testing.assert_allclose(
        rj.jacobian_log_norms(lin, wrt="state"),
        rj.jacobian_log_norms(plain(), wrt="state"),
        rtol=1e-10,
    )
    refused(lambda: rj.linearize(lin, feature_axes=1), TypeError, "stands for the cell")


def test_a_batch_of_several_inputs():
    make, numbers, _ = MIXED
    batch = [make(FLAT), make(FLAT[::-1])]
    xs = jax.tree.map(lambda *leaves: np.stack(leaves), *batch)
    flow = functools.partial(
        rj.gradient_flow,
        cell_of(numbers),
        loss=loss,
        feature_axes=2,
        measures=["weight_log_norms"],
    )
    found = flow(xs, jnp.stack([START, START]))
    for index, one in enumerate(batch):
        single = flow(one, START)
        np.testing.assert_allclose(found.log_norms[index], single.log_norms, rtol=1e-9)
        np.testing.assert_allclose(
            found.weight_log_norms[index], single.weight_log_norms, rtol=1e-9
        )
    with pytest.raises(ValueError, match="one sequence"):
        rj.jacobian_log_norms(cell_of(numbers), xs, START, feature_axes=2)


def test_gradients_pass_through_a_measure_to_inputs_of_any_form():
    make, numbers, feature_axes = KINDS["images"]

    @functools.partial(jax.jit, static_argnums=2)
    @functools.partial(jax.grad, argnums=1)
    def slopes(cell, xs, axes):
        return rj.flossing_penalty(cell, xs, START, k=2, feature_axes=axes)

    found = slopes(cell_of(numbers), jnp.asarray(make(FLAT)), feature_axes)
    expected = slopes(cell_of(lambda x: x), jnp.asarray(FLAT), None)
    np.testing.assert_allclose(found.reshape(T, IN), expected, rtol=1e-9)


def test_a_convolutional_lstm_has_the_jacobian_of_the_unrolled_network():
    cell = linen.ConvLSTMCell(features=1, kernel_size=(2,), param_dtype=jnp.float64)
    xs = jnp.asarray(RNG.normal(size=(3, 2, 2)))  # time, space, channels
    carry = cell.initialize_carry(jax.random.key(0), xs.shape[1:])
    bound = Partial(cell.apply, cell.init(jax.random.key(1), carry, xs[0]))

    def unrolled(numbers):
        _, ys = rj.unroll(bound, numbers.reshape(xs.shape), carry)
        return ys.reshape(3, -1)

    expected = jax.jit(jax.jacrev(unrolled))(xs.reshape(3, -1))
    np.testing.assert_allclose(
        rj.input_jacobian(bound, xs, carry), expected, rtol=1e-10, atol=1e-13
    )
    assert rj.state_jacobian(bound, xs, carry).shape == (3, 4, 3, 4)
    assert set(rj.backprop_signal(loss, bound, xs, carry).part_log_norms) == {"0", "1"}
    assert ravel_pytree(carry)[0].shape == (4,)


def test_whole_numbers_of_our_cells_are_measured_with_gates_and_paths():
    cell = rj.LSTMCell(IN, H, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    found, expected = (rj.attribution(cell, xs) for xs in (FLAT.astype(int), FLAT))
    chex.assert_trees_all_close(found, expected, rtol=1e-9, atol=1e-12)
