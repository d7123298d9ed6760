"""The fused recurrence against the plain scan of the same cell, however it is differentiated."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import rnn_jax as rj
from rnn_jax.activations import ACTIVATIONS
from sequence.fused import RUNS, H, assert_close, is_fused, loss, plain, point_at, random_like

FUSED = ["lstm", "lstm_coupled", "lstm_1997", "gru_reset_after", "gru_reset_before", *ACTIVATIONS]


@pytest.mark.parametrize("name", [*FUSED, "lstm_peephole"])
def test_which_cells_run_in_fused_form(name):
    assert is_fused(rj.unroll, *point_at(name, 5)) == (name in FUSED)
    assert not is_fused(plain, *point_at(name, 5))


# ---- Every mode of differentiation.


def flattened(run, point):
    """(the run as a function of one vector, the loss as one, where they are taken)."""
    vector, unravel = ravel_pytree(point)

    def outputs(vector):
        return ravel_pytree(run(*unravel(vector)))[0]

    return outputs, lambda vector: jnp.sum(jnp.sin(outputs(vector))), vector


# (f, loss = Σ sin f, v, direction d) -> a derivative, and the same from f, its Jacobian J and the
# Hessian K of the loss.
MODES = {
    "values": (lambda f, _, v, d: f(v), lambda y, J, K, d: y),
    "grad": (lambda _, s, v, d: jax.grad(s)(v), lambda y, J, K, d: np.cos(y) @ J),
    "jvp": (lambda f, _, v, d: jax.jvp(f, (v,), (d,))[1], lambda y, J, K, d: J @ d),
    "jacfwd": (lambda f, _, v, d: jax.jacfwd(f)(v), lambda y, J, K, d: J),
    "jacrev": (lambda f, _, v, d: jax.jacrev(f)(v), lambda y, J, K, d: J),
    "hessian": (lambda _, s, v, d: jax.hessian(s)(v), lambda y, J, K, d: K),
    "jvp_of_grad": (
        lambda _, s, v, d: jax.jvp(jax.grad(s), (v,), (d,))[1],
        lambda y, J, K, d: K @ d,
    ),
    "grad_of_jvp": (
        lambda _, s, v, d: jax.grad(lambda v: jax.jvp(s, (v,), (d,))[1])(v),
        lambda y, J, K, d: K @ d,
    ),
    "grad_of_grad": (
        lambda _, s, v, d: jax.grad(lambda v: jnp.vdot(jax.grad(s)(v), d))(v),
        lambda y, J, K, d: K @ d,
    ),
}

# What the other modes are made of, for a cell of several kernels.
FEW = ["values", "jacfwd", "jacrev", "hessian"]
SWEPT = {"lstm": list(MODES), "gru_reset_after": FEW}


@functools.cache
def results_by_mode(name):
    """{mode: (by the fused recurrence, by the plain scan)}."""
    point = point_at(name, 5)
    f, scalar, v = flattened(rj.unroll, point)
    d = random_like(v)
    modes = {mode: MODES[mode] for mode in SWEPT[name]}
    actual = jax.jit(lambda v: {mode: run(f, scalar, v, d) for mode, (run, _) in modes.items()})(v)
    f, scalar, v = flattened(plain, point)
    reference = jax.jit(lambda v: (f(v), jax.jacrev(f)(v), jax.hessian(scalar)(v)))(v)
    y, J, K = map(np.asarray, reference)
    return {mode: (actual[mode], expect(y, J, K, d)) for mode, (_, expect) in modes.items()}


@pytest.mark.parametrize(
    ("name", "mode"), [(name, mode) for name, modes in SWEPT.items() for mode in modes]
)
def test_every_mode_of_differentiation(name, mode):
    assert_close(*results_by_mode(name)[mode])


# 37 steps are two chunks and a rest; 5 are less than one.
STEPS = {"tanh": 37}


@pytest.mark.parametrize("name", [name for name in FUSED if name not in SWEPT])
def test_values_gradient_and_tangents_of_both(name):
    point = point_at(name, STEPS.get(name, 5))
    along = random_like(point)

    def results(run):
        """The results and the gradient of all that they hang on, and the tangents of both."""

        def value(*point):
            found = run(*point)
            return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(found)), found

        return jax.jvp(jax.value_and_grad(value, (0, 1, 2), has_aux=True), point, along)

    assert_close(*jax.jit(lambda: [results(run) for run in RUNS])())


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "hard_tanh", "softsign"])
def test_slopes_at_a_kink_are_those_of_the_plain_scan(name):
    # All pre-activations are at 0, or at the upper kink of the hard tanh.
    point = jax.tree.map(jnp.zeros_like, point_at(name, 3))

    @jax.jit
    def gradients(point):
        return [jax.grad(functools.partial(loss, run), (0, 1, 2))(*point) for run in RUNS]

    for bias in (0.0, 1.0):
        point[0].bias[...] = jnp.full(H, bias)
        assert_close(*gradients(point))


EVERYTHING = (0, 1, 2)


@jax.jit
def plain_and_gradient(point):
    return plain(*point), jax.grad(functools.partial(loss, plain), EVERYTHING)(*point)


@pytest.mark.parametrize("axes", [(None, 0, 0), (0, None, None)], ids=str)
@pytest.mark.parametrize("name", ["lstm", "gru_reset_after"])
def test_vmap_over_sequences_and_cells_and_grad_in_either_order(name, axes):
    points = [point_at(name, 5, seed=seed) for seed in (1, 2, 3)]
    shared, members = points[0], []
    for point in points:
        chosen = zip(shared, point, axes, strict=True)
        members.append([mine if axis == 0 else ours for ours, mine, axis in chosen])
    stacked = [
        jax.tree.map(lambda *leaves: np.stack(leaves), *parts) if axis == 0 else parts[0]
        for parts, axis in zip(zip(*members, strict=True), axes, strict=True)
    ]

    @jax.jit
    def fused(point):
        scalar = functools.partial(loss, rj.unroll)

        def total(*point):
            return jnp.sum(jax.vmap(scalar, axes)(*point))

        grad_of_vmap = jax.grad(total, EVERYTHING)(*point)
        vmap_of_grad = jax.vmap(jax.grad(scalar, EVERYTHING), axes)(*point)
        return jax.vmap(rj.unroll, axes)(*point), vmap_of_grad, grad_of_vmap

    expected = [plain_and_gradient(tuple(member)) for member in members]
    values, gradients = jax.tree.map(lambda *leaves: np.stack(leaves), *expected)
    summed = [
        part if axis == 0 else jax.tree.map(lambda a: a.sum(axis=0), part)
        for part, axis in zip(gradients, axes, strict=True)
    ]
    assert_close(fused(stacked), (values, gradients, summed))


# LSTM: one kernel. GRU: a weight of its own enters some of three kernels, and others not; or some
# weights meet the state in a first stage, some in a second.
@pytest.mark.parametrize("name", ["lstm", "gru_reset_after", "gru_reset_before"])
def test_differentiating_by_one_array_alone(name):
    leaves, structure = jax.tree.flatten(point_at(name, 5))
    directions = random_like(leaves)

    def along(index, run):
        """The run as a function of one array, all others being constants."""

        def function(leaf):
            return run(
                *jax.tree.unflatten(structure, [*leaves[:index], leaf, *leaves[index + 1 :]])
            )

        return function

    @jax.jit
    def alone():
        gradients, tangents = [], []
        for index, (leaf, d) in enumerate(zip(leaves, directions, strict=True)):
            f = along(index, rj.unroll)
            gradients.append(jax.grad(functools.partial(loss, f))(leaf))
            tangents.append(jax.jvp(f, (leaf,), (d,))[1])
        return gradients, tangents

    def run(*leaves):
        return plain(*jax.tree.unflatten(structure, leaves))

    everything = tuple(range(len(leaves)))
    gradients, tangents = alone()
    assert_close(gradients, jax.jit(jax.grad(functools.partial(loss, run), everything))(*leaves))
    tangent = jax.jit(lambda d: jax.jvp(run, leaves, d)[1])
    for index, actual in enumerate(tangents):
        only = [d if k == index else jnp.zeros_like(d) for k, d in enumerate(directions)]
        assert_close(actual, tangent(only))
