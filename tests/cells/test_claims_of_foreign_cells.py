"""What a cell that is none of this package's tells of itself: one rule for all."""

import types

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from claiming import (
    CLOSE,
    IN,
    XS,
    H,
    Leaky,
    Named,
    T,
    built,
    claims_of,
)
from flax import nnx
from jax.tree_util import Partial

import rnn_jax as rj
import zoo


class Foreign:
    """A plain object that says what it can of itself; a step uses a helper and the gates."""

    def __init__(self, decay):
        self.decay = decay

    def __call__(self, carry, x):
        h = self.gates(carry, x)["keep"] * carry + jnp.sum(self.drive(x))
        return h, h

    def drive(self, x):
        return 0.1 * x

    def gates(self, carry, x):
        return {"keep": jnp.full_like(carry, self.decay)}

    def memory_path(self, carry, x):
        return {"h": jnp.full_like(carry, self.decay)}

    def jacobian_bound(self):
        return self.decay, jnp.eye(H)

    def slopes(self, carry, x):
        return jnp.full_like(carry, self.decay)

    recurrent_kernel = np.eye(H)


@pytest.mark.parametrize(
    "wrap",
    [lambda cell: cell, lambda cell: Partial(cell.__call__)],
    ids=["object", "partial_of_method"],
)
def test_a_foreign_cell_is_believed_about_its_own_step(wrap):
    cell = wrap(Foreign(0.5))
    flow = rj.gradient_flow(cell, XS, jnp.ones(H), wrt="state")
    np.testing.assert_allclose(flow.attribution.gates["keep"], 0.5)
    np.testing.assert_allclose(flow.attribution.paths["h"].factors, 0.5)
    np.testing.assert_allclose(flow.attribution.slopes, 0.5)
    assert flow.attribution.slope_bound == 0.5
    np.testing.assert_allclose(flow.bound, np.arange(T) * np.log(0.5) + 0.5 * np.log(H), **CLOSE)


class OtherDrive(Foreign):
    """Another helper of the step."""

    def drive(self, x):
        return x


class OtherGates(Foreign):
    """Other gates, which its step uses."""

    def gates(self, carry, x):
        return {"keep": 0.1 * carry}


class Delegating:
    """Runs another step and hands every other question on."""

    def __init__(self, cell):
        self.cell = cell

    def __call__(self, carry, x):
        h, _ = self.cell(carry, x)
        return 2 * h, h

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.cell, name)


class NNXForeign(nnx.SimpleCell):
    """Flax's cell, with gates told of it."""

    def gates(self, carry, x):
        return {"all": jnp.ones_like(carry)}


class NNXOther(NNXForeign):
    """And another call than that."""

    def __call__(self, carry, x):
        return super().__call__(0.5 * carry, x)


class Equinox(eqx.Module):
    """An Equinox cell with a field that is a function, and a class that adds to it."""

    weight: jax.Array
    activation: types.FunctionType = jnp.tanh

    def __call__(self, carry, x):
        h = self.activation(self.weight * carry + jnp.sum(x))
        return h, h

    def gates(self, carry, x):
        return {"all": jnp.ones_like(carry)}


class EquinoxMore(Equinox):
    def twice(self, carry, x):
        return self(self(carry, x)[0], x)


class EquinoxOther(Equinox):
    def __call__(self, carry, x):
        h = jnp.sin(self.weight * carry)
        return h, h


def shape_of(function):
    function.gates = lambda carry, x: {"all": jnp.ones_like(carry)}
    return function


ALL = frozenset({"gates", "memory_path", "jacobian_bound", "slopes"})
SIZES = {"rngs": nnx.Rngs(0)}


@pytest.mark.parametrize(
    ("cell", "claims"),
    [
        (Foreign(0.5), ALL),
        (Partial(Foreign(0.5)), ALL),
        (Foreign(0.5).__call__, ALL),
        (OtherDrive(0.5), set()),
        (OtherGates(0.5), {"gates"}),
        (Delegating(Foreign(0.5)), set()),
        (Delegating(built("lstm")), set()),
        (Partial(lambda cell, *at: cell(*at), built("lstm")), set()),
        (built("lstm").step, set()),
        (built("lstm").__call__, {"fused_form", "gates", "memory_path", "diagonal_part"}),
        (NNXForeign(IN, H, **SIZES), {"gates"}),
        (NNXOther(IN, H, **SIZES), set()),
        (Equinox(jnp.ones(H)), {"gates"}),
        (Equinox(jnp.ones(H), jnp.sin), {"gates"}),
        (EquinoxMore(jnp.ones(H), jnp.sin), {"gates"}),
        (EquinoxOther(jnp.ones(H)), set()),
        (shape_of(lambda carry, x: (carry, carry)), {"gates"}),
        (zoo.henon_step, set()),
    ],
)
def test_foreign_claims_keep_the_same_rule(cell, claims):
    assert claims_of(cell) == claims


def test_a_claim_on_the_object_itself_is_its_own():
    cell = Leaky(IN, H, rngs=nnx.Rngs(0))
    cell.memory_path = Named.memory_path.__get__(cell)
    assert claims_of(cell) == {"memory_path"}
