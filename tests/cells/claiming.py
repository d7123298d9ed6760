"""What the tests of claims share: cells, wrappers, and the plain call that all is held against."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.flatten_util import ravel_pytree

import rnn_jax as rj
import zoo
from rnn_jax.cells.claims import CLAIMS, makes_claim
from rnn_jax.cells.linear import apply, linear_form, state_jacobian_of
from rnn_jax.cells.structure import fused_form, sees_output_alone
from rnn_jax.cells.wrappers.noise import project_with
from rnn_jax.cells.wrappers.wrapper import CellWrapper

IN, H, T = 2, 3, 3
XS = jnp.asarray(np.random.default_rng(0).normal(size=(T, IN)))
CLOSE = {"rtol": 1e-11, "atol": 1e-13}
OF_A_STEP = CLAIMS - {"splits_call"}


def takes_mask(cell):
    form = fused_form(cell)
    return form is not None and sees_output_alone(form.mathematics)


WRAPPERS = {
    "plain": lambda cell: cell,
    "wrapper": CellWrapper,
    "learned_carry": lambda cell: rj.LearnedCarry(cell, rngs=nnx.Rngs(0)),
    "dropout": lambda cell: rj.RecurrentDropout(cell, 0.3, 0.1) if takes_mask(cell) else cell,
    "zoneout": lambda cell: rj.Zoneout(cell, 0.3),
    "stack": lambda cell: rj.StackedCell([cell, zoo.CELLS["lstm"](H, 2, 5)]),
}


@functools.cache
def built(name, wrap="plain"):
    """A cell that tests share: what changes one changes a copy."""
    return WRAPPERS[wrap]({**zoo.CELLS, **zoo.FAMILY}[name](IN, H, 1))


def claims_of(cell):
    """Names of the claims that a cell makes and that say something."""
    said = {name for name in OF_A_STEP if makes_claim(cell, name)}
    forms = {"fused_form": fused_form, "linear_form": linear_form}
    return said - {name for name, form in forms.items() if form(cell) is None}


def by_hand(cell, xs, carry):
    """Carries before each step and outputs, by calling the cell."""
    carries, ys = [], []
    for x in xs:
        carries.append(carry)
        carry, y = cell(carry, x)
        ys.append(y)
    return carries, carry, jnp.stack(ys)


def jacobian(cell, carry, x):
    """∂carry'/∂carry of one call, (S, S)."""
    state, unravel = ravel_pytree(carry)
    return jax.jacfwd(lambda state: ravel_pytree(cell(unravel(state), x)[0])[0])(state)


@jax.jit
def by_form_and_by_call(cell, carry, x):
    """((Λ as a matrix, a step, two at once) of the linear form, (Jacobian, step) of the call)."""
    form, z = linear_form(cell), project_with(cell, x, None)

    def stepped(carry, z):
        factor, added = form.transition(z)
        found = form.unpack(apply(form.kind, factor, form.pack(carry)) + added)
        return found, form.output(found, z)

    twice = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), (carry, z))
    by_form = state_jacobian_of(form, carry, z), stepped(carry, z), stepped(*twice)
    return by_form, (jacobian(cell, carry, x), cell(carry, x))


def assert_linear_form_is_the_step(cell, carry, x):
    """Λ is the Jacobian of the cell's own call, Λ carry + b its carry, and the output its output.

    Of one step, and of many at once.
    """
    close = {"rtol": 1e-11, "atol": 1e-12}
    (a, one, two), (exact, expected) = by_form_and_by_call(cell, carry, x)
    np.testing.assert_allclose(a, exact, **close)
    chex.assert_trees_all_close(one, expected, **close)
    both = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), expected)
    chex.assert_trees_all_close(two, both, **close)
    if linear_form(cell).contracts:
        assert np.linalg.norm(a, 2) <= 1 + 1e-12


def random_carry(cell, seed=3):
    rng = np.random.default_rng(seed)
    zeros = cell.initialize_carry((IN,))
    return jax.tree.map(lambda part: jnp.asarray(rng.normal(size=part.shape)), zeros)


def assert_runs_its_own_call(cell):
    """`unroll` and one-step Jacobians are those of cell(carry, x)."""
    with jax.disable_jit():
        carry = random_carry(cell)
        carries, last, ys = by_hand(cell, XS, carry)
        chex.assert_trees_all_close(rj.unroll(cell, XS, carry), (last, ys), **CLOSE)
        found = rj.linearize(cell, XS, carry).state_jacobians
        before = jax.tree.map(lambda *leaves: np.stack(leaves), *carries)
        expected = jax.vmap(functools.partial(jacobian, cell))(before, XS)
        np.testing.assert_allclose(found, expected, **CLOSE)


class Leaky(rj.SimpleRNNCell):
    """The parent's step, mixed with the state before."""

    def step(self, carry, z):
        h = 0.95 * carry + 0.05 * super().step(carry, z)[0]
        return h, h


class Named(Leaky):
    """Makes claims of its own, of a step that it inherits."""

    def memory_path(self, carry, x):
        return {"h": jnp.full_like(carry, 0.95)}

    def jacobian_bound(self):
        slope, kernel = super().jacobian_bound()
        return 1.0, 0.95 * jnp.eye(H) + 0.05 * slope * jnp.linalg.norm(kernel, 2) * jnp.eye(H)
