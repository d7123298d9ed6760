"""A sequence run slowly: one step at a time, and by the NumPy oracles."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.tree_util import Partial

import oracles
import zoo

IN, H, T = 3, 4, 6
CLOSE = {"rtol": 1e-11, "atol": 1e-13}


@jax.jit
def one_step(cell, carry, x):
    return cell(carry, x)


def stepping(cell):
    """The cell's step as one program; what is no pytree is bound to it."""
    cell = cell if jax.tree.leaves(cell) != [cell] else Partial(cell)
    return functools.partial(one_step, cell)


def loop(cell, xs, carry):
    """What `unroll` should compute, one step at a time: (last carry, ys, carries)."""
    step, carries, ys = stepping(cell), [], []
    for x in np.asarray(xs):
        carry, y = step(carry, x)
        carries.append(host(carry))
        ys.append(host(y))
    return carries[-1], np.stack(ys), jax.tree.map(lambda *leaves: np.stack(leaves), *carries)


def host(tree):
    return jax.tree.map(np.asarray, tree)


def inputs(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(*shape, IN)))


def starting_carry(cell, carry, seed=0):
    """Some carry other than the default."""
    rng = np.random.default_rng(seed)
    carry = cell.initialize_carry((IN,), nnx.Rngs(0)) if carry is None else carry
    return jax.tree.map(lambda a: jnp.asarray(a + 0.3 * rng.normal(size=a.shape)), host(carry))


def at(tree, index):
    return jax.tree.map(lambda leaf: np.asarray(leaf)[index], tree)


def twin_run(cell, xs, carry=None):
    """(carries with the initial one first, ys) by the oracle."""
    carry = cell.initialize_carry((IN,)) if carry is None else carry
    return oracles.run(zoo.oracle(cell).step, np.asarray(xs), zoo.flat(carry))
