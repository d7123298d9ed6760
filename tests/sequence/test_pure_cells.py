"""A cell that writes into its own variables gets the rule, wherever it is called."""

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

import rnn_jax as rj
from refusing import refuses
from training import toys


class Gated(nnx.Module):
    """A gated cell of someone else's, which does not tell its gates."""

    def __init__(self):
        self.kernel = nnx.Param(jnp.ones(()))

    def initialize_carry(self, shape):
        return jnp.zeros((*shape[:-1], 2))

    def __call__(self, carry, x):
        gate = jax.nn.sigmoid(x * self.kernel[...])
        state = gate * carry + (1 - gate) * x
        return state, state


class Writing(Gated):
    """A cell that counts its steps in a variable."""

    def __init__(self):
        super().__init__()
        self.steps_taken = nnx.Variable(jnp.int32(0))

    def __call__(self, carry, x):
        self.steps_taken[...] = self.steps_taken[...] + 1
        return super().__call__(carry, x)


class Drawing(Gated):
    """A cell with Flax's dropout in it."""

    def __init__(self):
        super().__init__()
        self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0))

    def __call__(self, carry, x):
        return super().__call__(carry, self.dropout(x))


class Reading(nnx.Module):
    """A model of someone else's around a cell."""

    def __init__(self, cell):
        self.cell = cell

    def __call__(self, inputs):
        return rj.unroll(self.cell, inputs)[1][:, -1]


XS = jnp.ones((3, 2))
CALLS = {
    "unroll": lambda cell: rj.unroll(cell, XS),
    "fit": lambda cell: rj.fit(
        Reading(cell), toys.Mixing(), optax.sgd(0.1), steps=2, batch_size=4, seed=0
    ),
    "linearize": lambda cell: rj.linearize(cell, XS),
    "gradient_flow": lambda cell: rj.gradient_flow(cell, XS),
    "lyapunov_exponents": lambda cell: rj.lyapunov_exponents(cell, XS),
    "input_jacobian": lambda cell: rj.input_jacobian(cell, XS),
    "reverse": lambda cell: rj.unroll(cell, XS, reverse=True),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    ("cell", "word"), [(Writing, "steps_taken"), (Drawing, "dropout.rngs.count")]
)
def test_a_cell_that_writes_into_its_variables_gets_the_rule(name, cell, word):
    words = ("a cell must not write into its variables", word, "part of the carry")
    refuses(lambda: CALLS[name](cell()), TypeError, *words)
