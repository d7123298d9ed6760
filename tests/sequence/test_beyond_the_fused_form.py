"""Cells that the fused form does not describe: they are run as they are, a step at a time."""

import functools

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import rnn_jax as rj
import zoo
from sequence.fused import IN, H, assert_close, is_fused, loss, point_at
from sequence.running import loop


class HalvedStep(rj.LSTMCell):
    def step(self, carry, z):
        (c, h), y = super().step(carry, z)
        return (c, 0.5 * h), y


class ShiftedProjection(rj.GRUCell):
    def project(self, x):
        return super().project(x) + 1.0


class LouderCall(rj.SimpleRNNCell):
    def __call__(self, carry, x):
        h, y = super().__call__(carry, x)
        return h, 2 * y


class Leaking:
    def step(self, carry, z):
        h, y = super().step(carry, z)
        return 0.9 * h, y


class ByMixin(Leaking, rj.SimpleRNNCell):
    pass


class ByInheritance(HalvedStep):
    pass


def step_of_its_own():
    cell = rj.SimpleRNNCell(IN, H, rngs=nnx.Rngs(1))
    own = cell.step
    cell.step = lambda carry, z: own(0.5 * carry, z)
    return cell


CHANGED = [HalvedStep, ShiftedProjection, LouderCall, ByMixin, ByInheritance]


@pytest.mark.parametrize("make", [*CHANGED, step_of_its_own], ids=lambda make: make.__name__)
def test_a_changed_cell_is_not_run_in_its_parents_form(make):
    cell = make() if make is step_of_its_own else make(IN, H, rngs=nnx.Rngs(1))
    _, xs, _ = point_at("tanh", 5)
    carry = zoo.random_carry(cell, 1)
    assert not is_fused(lambda xs: rj.unroll(cell, xs, carry), xs)
    assert_close(rj.unroll(cell, xs, carry, return_carries=True), loop(cell, xs, carry))


class Renamed(rj.GRUCell):
    """Changes nothing that the form describes."""

    def gates(self, carry, x):
        return {f"{name} gate": gate for name, gate in super().gates(carry, x).items()}


def test_a_subclass_that_keeps_the_step_keeps_the_form():
    cell = Renamed(IN, H, rngs=nnx.Rngs(1))
    assert is_fused(rj.unroll, cell, jnp.ones((5, IN)))


def user_activations(weight):
    """Activations that use a weight: mixing units, closed over, and bound as an argument."""
    leaky = functools.partial(jax.nn.leaky_relu, negative_slope=weight)
    return {
        "mixing": lambda u: jax.nn.softmax(weight * u, axis=-1),
        "callable": lambda u: jnp.tanh(weight * u),
        "activation": rj.Activation("mine", lambda u: jnp.sin(weight * u), (-1.0, 1.0)),
        "leaky_callable": leaky,
        "leaky_activation": rj.Activation("my leaky", leaky, (0.0, 1.0)),
    }


@pytest.mark.parametrize("kind", user_activations(1.0))
def test_an_activation_of_the_users_may_hold_weights(kind):
    _, xs, carry = point_at("tanh", 3)

    def with_weight(run, weight):
        activation = user_activations(weight)[kind]
        cell = rj.SimpleRNNCell(IN, H, activation=activation, rngs=nnx.Rngs(1))
        return loss(run, cell, xs, carry)

    def by_calls(cell, xs, carry):
        return jax.lax.scan(cell, carry, xs)

    at = jnp.asarray(0.3)
    actual, expected = (functools.partial(with_weight, run) for run in (rj.unroll, by_calls))
    jitted = jax.jit(lambda at: [jax.value_and_grad(run)(at) for run in (actual, expected)])
    found, known = jitted(at)
    assert_close(found, known)
    assert_close(jax.value_and_grad(actual)(at), known)


# (parameters, computation, inputs)
TYPES = [
    ("float32", None, "float64"),
    ("float64", None, "float32"),
    ("float32", "float32", "float64"),
    ("float64", "float32", "float32"),
    ("float32", "bfloat16", "float32"),
    ("float32", None, "bfloat16"),
    ("float32", None, "float32"),
    ("bfloat16", "bfloat16", "bfloat16"),
]


# All of them for one cell, and for one with a bias of its own those that are rounded.
SWEPT_TYPES = [(rj.LSTMCell, *types) for types in TYPES]
SWEPT_TYPES += [(rj.GRUCell, *types) for types in TYPES[3:6]]


@pytest.mark.parametrize(("make", "param_dtype", "dtype", "input_dtype"), SWEPT_TYPES)
def test_mixed_types_step_as_by_hand(make, param_dtype, dtype, input_dtype):
    cell = make(IN, H, param_dtype=param_dtype, dtype=dtype, rngs=nnx.Rngs(1))
    xs = point_at("tanh", 3)[1].astype(input_dtype)
    with jax.numpy_dtype_promotion("standard"):
        actual = rj.unroll(cell, xs, return_carries=True)
        expected = loop(cell, xs, cell.initialize_carry((IN,)))
    types = [jax.tree.map(lambda a: a.dtype.name, tree) for tree in (actual, expected)]
    assert types[0] == types[1]
    # A few roundings in each step, in the coarsest type that takes part.
    coarsest = max(jnp.finfo(kind).eps for kind in (param_dtype, input_dtype, dtype or input_dtype))
    assert_close(actual, expected, rtol=4 * len(xs) * float(coarsest))
