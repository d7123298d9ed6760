"""Every mode of differentiation through the kernels.

Run in interpret mode on a CPU. On a card not run yet.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import on_card
import pytest

import rnn_jax as rj

RUN = functools.partial(rj.unroll, implementation=on_card.implementation_here(__name__))
INTERPRETED = RUN.keywords["implementation"] == "interpret"
SCAN = functools.partial(rj.unroll, implementation="scan")

# (T, batch, H): in one block for each tile, and in several that exchange.
SIZES = [(3, (2,), 3)] if INTERPRETED else [(7, (5,), 16), (40, (17,), 96)]
NAMES = ["lstm", "gru", "tanh"]
# Derivatives are sums of as many products as there are steps, in each direction.
BOUND = 2e-5


def like(tree, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), a.dtype), tree)


class Along:
    """A run of a point that three numbers move along three directions, each through all arrays."""

    def __init__(self, run, point):
        self.run = run
        self.point = point
        self.directions = [like(point, seed) for seed in (1, 2, 3)]

    def outputs(self, sizes):
        def moved(at, *along):
            return at + 0.1 * sum(size * d for size, d in zip(sizes, along, strict=True))

        return self.run(*jax.tree.map(moved, self.point, *self.directions))

    def few_outputs(self, sizes):
        (last, ys) = self.outputs(sizes)
        return jnp.stack(
            [jnp.mean(ys), ys.reshape(-1)[-1], jax.tree.leaves(last)[0].reshape(-1)[0]]
        )

    def loss(self, sizes):
        return loss_of(self.outputs(sizes))


def loss_of(tree):
    return sum(jnp.mean(jnp.sin(2.0 * leaf)) for leaf in jax.tree.leaves(tree))


def of_all_arrays(run, point):
    """The loss as a function of every array of the point."""
    return lambda point: loss_of(run(*point))


def stacked(point):
    """Three points that differ in every array."""
    members = [jax.tree.map(lambda a, d: a + 0.1 * d, point, like(point, k)) for k in (4, 5, 6)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)


def hvp(f, point):
    return jax.jvp(jax.grad(f), (point,), (like(point, 7),))[1]


def inner(one, other):
    return sum(jnp.vdot(a, b) for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True))


def mapped(f, axes):
    """A function of (cell, xs, carry) over three of what the axes say."""

    def total(point):
        many, one = stacked(point), point
        chosen = [m if a == 0 else o for m, o, a in zip(many, one, axes, strict=True)]
        return jax.vmap(lambda *point: f(point), axes)(*chosen)

    return total


# By name: (run, point) -> a derivative.
MODES = {
    "value": lambda run, point: run(*point),
    "grad": lambda run, point: jax.grad(of_all_arrays(run, point))(point),
    "jvp": lambda run, point: jax.jvp(lambda p: run(*p), (point,), (like(point, 7),))[1],
    "linearize": lambda run, point: jax.linearize(lambda p: run(*p), point)[1](like(point, 7)),
    "jacfwd": lambda run, point: jax.jacfwd(Along(run, point).outputs)(
        jnp.zeros(3, point[1].dtype)
    ),
    "jacrev": lambda run, point: jax.jacrev(Along(run, point).few_outputs)(
        jnp.zeros(3, point[1].dtype)
    ),
    "hessian": lambda run, point: jax.hessian(Along(run, point).loss)(jnp.zeros(3, point[1].dtype)),
    "third": lambda run, point: jax.jacfwd(jax.jacfwd(jax.grad(Along(run, point).loss)))(
        jnp.zeros(3, point[1].dtype)
    ),
    "hvp forward over reverse": lambda run, point: hvp(of_all_arrays(run, point), point),
    "hvp reverse over forward": lambda run, point: jax.grad(
        lambda p: jax.jvp(of_all_arrays(run, point), (p,), (like(point, 7),))[1]
    )(point),
    "hvp reverse over reverse": lambda run, point: jax.grad(
        lambda p: inner(jax.grad(of_all_arrays(run, point))(p), like(point, 7))
    )(point),
    "vmap of xs": lambda run, point: mapped(lambda p: run(*p), (None, 0, None))(point),
    "vmap of xs, grad": lambda run, point: mapped(
        jax.grad(of_all_arrays(run, point)), (None, 0, None)
    )(point),
    "vmap of cells": lambda run, point: mapped(lambda p: run(*p), (0, None, None))(point),
    "vmap of cells, grad": lambda run, point: mapped(
        jax.grad(of_all_arrays(run, point)), (0, None, None)
    )(point),
    "ensemble, grad": lambda run, point: mapped(jax.grad(of_all_arrays(run, point)), (0, 0, 0))(
        point
    ),
    "ensemble, hvp": lambda run, point: mapped(
        lambda p: hvp(of_all_arrays(run, point), p), (0, 0, None)
    )(point),
    "grad of vmap": lambda run, point: jax.grad(
        lambda p: jnp.sum(mapped(of_all_arrays(run, point), (0, None, 0))(p))
    )(point),
    "vmap of vmap, grad": lambda run, point: jax.vmap(
        lambda xs: mapped(jax.grad(of_all_arrays(run, point)), (0, None, None))(
            (point[0], xs, point[2])
        )
    )(jnp.stack([point[1], 0.5 * point[1]])),
    "jax.checkpoint, grad": lambda run, point: jax.grad(jax.checkpoint(of_all_arrays(run, point)))(
        point
    ),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("steps", "batch", "units"), SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_mode(name, steps, batch, units, mode):
    point = on_card.point_at(name, steps=steps, batch=batch, units=units)
    derivative = MODES[mode]
    expected = on_card.on_cpu(lambda *point: derivative(SCAN, point), *point)
    actual = on_card.on_card(lambda *point: derivative(RUN, point), *point)
    on_card.assert_close(actual, expected, BOUND)
