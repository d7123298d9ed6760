"""Ridge readouts against least squares in NumPy, their own normal equations, and exact numbers."""

import chex
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from flax import nnx

import rnn_jax as rj
from refusing import refuses, table

B, T, H, OUT = 2, 15, 4, 2
RNG = np.random.default_rng(0)
STATES = RNG.normal(size=(B, T, H)) + 3.0
TARGETS = RNG.normal(size=(B, T, OUT)) - 1.0


def by_least_squares(states, targets, penalty):
    """The ridge as plain least squares, the bias being the weight of a 1 that has no penalty."""
    rows, size = states.reshape(-1, states.shape[-1]), states.shape[-1]
    one, none = np.ones((len(rows), 1)), np.zeros((size, 1))
    design = np.block([[rows, one], [np.sqrt(penalty) * np.eye(size), none]])
    wanted = np.concatenate([targets.reshape(len(rows), -1), np.zeros((size, targets.shape[-1]))])
    found = np.linalg.lstsq(design, wanted, rcond=None)[0]
    return found[:-1], found[-1]


@pytest.mark.parametrize(("penalty", "washout"), [(1e-8, 0), (0.5, 3), (100.0, T - 1)])
def test_it_is_the_least_squares_of_numpy(penalty, washout):
    found = rj.ridge_readout(STATES, TARGETS, penalty, washout=washout)
    kept = (STATES[:, washout:], TARGETS[:, washout:])
    for ours, theirs in zip(found, by_least_squares(*kept, penalty), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)


def normal_equations(states, targets, penalty):
    """(HᵀH + λI)⁻¹ HᵀO of what is centred."""
    rows, outputs = states.reshape(-1, H), targets.reshape(-1, OUT)
    h, o = rows - rows.mean(0, keepdims=True), outputs - outputs.mean(0, keepdims=True)
    kernel = jnp.linalg.solve(h.T @ h + penalty * jnp.eye(H), h.T @ o)
    return kernel, outputs.mean(0) - rows.mean(0) @ kernel


def test_values_and_derivatives_are_those_of_the_closed_form():
    arguments = (jnp.asarray(STATES), jnp.asarray(TARGETS), jnp.asarray(0.3))

    def of(solve):
        def moved(*arguments):
            kernel, bias = solve(*arguments)
            return jnp.sum(jnp.sin(kernel)) + jnp.sum(jnp.cos(bias))

        return jax.value_and_grad(moved, (0, 1, 2))(*arguments)

    ours = of(lambda h, o, p: rj.ridge_readout(h, o, p))
    chex.assert_trees_all_close(ours, of(normal_equations), rtol=1e-9, atol=1e-11)
    # And over several penalties at once.
    penalties = jnp.asarray([0.1, 1.0])
    many = jax.vmap(lambda p: rj.ridge_readout(STATES, TARGETS, p))(penalties)
    one = rj.ridge_readout(STATES, TARGETS, 1.0)
    chex.assert_trees_all_close(jax.tree.map(lambda a: a[1], many), one, rtol=1e-12)


def test_states_of_a_large_condition_number_cost_no_more_than_that_number():
    """The normal equations have its square: what QR solves to 1e-8 they do not solve at all."""
    condition, penalty, size = 1e7, 1e-30, 4
    q, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(12, size)) - 0.0)
    q -= q.mean(0)
    q, _ = np.linalg.qr(q)
    v, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(size, size)))
    states = q * np.geomspace(1, 1 / condition, size) @ v.T
    targets = states @ np.arange(1.0, size + 1)[:, None]
    with mpmath.workdps(60):
        h, o = mpmath.matrix(states.tolist()), mpmath.matrix(targets.tolist())
        ones = mpmath.ones(12, 1)
        h, o = h - ones * (ones.T * h) / 12, o - ones * (ones.T * o) / 12
        exact = mpmath.lu_solve(h.T * h + penalty * mpmath.eye(size), h.T * o)
        exact = np.array(exact.tolist(), float)
    found = rj.ridge_readout(states, targets, penalty).kernel
    np.testing.assert_allclose(found, exact, rtol=1e-7)
    centred = states - states.mean(0)
    by_normal = np.linalg.solve(
        centred.T @ centred + penalty * np.eye(size), centred.T @ (targets - targets.mean(0))
    )
    assert np.max(np.abs(by_normal - exact)) > 1e-3


def test_a_penalty_shrinks_and_fewer_steps_than_units_are_enough():
    few = rj.ridge_readout(STATES[0, :2], TARGETS[0, :2], 1e-10)
    np.testing.assert_allclose(few(jnp.asarray(STATES[0, :2])), TARGETS[0, :2], atol=1e-8)
    norms = [
        float(jnp.linalg.norm(rj.ridge_readout(STATES, TARGETS, p).kernel)) for p in (0.1, 10, 1e4)
    ]
    assert norms[0] > norms[1] > norms[2] > 0
    # The bias has no penalty.
    flat = rj.ridge_readout(STATES, TARGETS, 1e12)
    np.testing.assert_allclose(flat.bias, TARGETS.mean((0, 1)), rtol=1e-8)


def test_types():
    half = rj.ridge_readout(STATES.astype(jnp.bfloat16), TARGETS.astype(np.float32), 0.1)
    assert {leaf.dtype for leaf in half} == {jnp.dtype(jnp.float32)}
    whole = rj.ridge_readout(STATES, (TARGETS > 0).astype(int), 0.1)
    assert whole.kernel.dtype == jnp.float64


def test_a_reservoir_remembers_and_the_readout_is_that_of_a_model():
    """Inputs of four steps ago, from the states alone."""
    cell = rj.EchoStateCell(1, 40, rngs=nnx.Rngs(0))
    xs = jnp.asarray(RNG.uniform(-0.5, 0.5, size=(300, 1)))
    _, states = rj.unroll(cell, xs)
    wanted = jnp.roll(xs, 4, axis=0)
    readout = rj.ridge_readout(states, wanted, 1e-8, washout=50)
    model = rj.SequenceModel(cell, 1, readout="all", rngs=nnx.Rngs(1))
    ready = readout.put_into(model)
    assert jax.tree.structure(ready) == jax.tree.structure(model)
    fresh = jnp.asarray(RNG.uniform(-0.5, 0.5, size=(300, 1)))
    outputs = ready(fresh)
    np.testing.assert_allclose(outputs, readout(rj.unroll(cell, fresh)[1]), rtol=1e-12, atol=1e-12)
    error = np.mean((outputs - jnp.roll(fresh, 4, axis=0))[50:] ** 2) / np.var(fresh)
    assert error < 0.02
    before = np.mean((model(fresh) - jnp.roll(fresh, 4, axis=0))[50:] ** 2) / np.var(fresh)
    assert before > 0.5


def built(**options):
    return rj.SequenceModel(rj.EchoStateCell(1, 3, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(0), **options)


READOUT = rj.RidgeReadout(jnp.zeros((H, OUT)), jnp.zeros(OUT))


@table(
    zero=(
        lambda: rj.ridge_readout(STATES, TARGETS, 0.0),
        ValueError,
        "penalty must be above 0",
        "got 0",
        "Pass a small one",
    ),
    word=(lambda: rj.ridge_readout(STATES, TARGETS, "l2"), TypeError, "penalty must be a number"),
    steps=(
        lambda: rj.ridge_readout(STATES, TARGETS[:, 1:], 0.1),
        ValueError,
        "states and targets must lead with the same (..., T)",
        "(2, 15, 4) and (2, 14, 2)",
        "Pass one target",
    ),
    rank=(
        lambda: rj.ridge_readout(STATES[0], TARGETS[0, :, 0], 0.1),
        ValueError,
        "targets must have shape (..., T, O)",
        "got shape (15,)",
        "Add the missing axis",
    ),
    washout=(
        lambda: rj.ridge_readout(STATES, TARGETS, 0.1, washout=T),
        ValueError,
        "washout must leave at least one step",
        "got 15 of T = 15",
        "Pass a smaller",
    ),
    kind=(
        lambda: rj.ridge_readout(STATES * 1j, TARGETS, 0.1),
        TypeError,
        "states must be an array (..., T, H) of real numbers",
        "complex",
        "Cast it",
    ),
    no_array=(
        lambda: rj.ridge_readout("states", TARGETS, 0.1),
        TypeError,
        "states must be an array",
        "got str",
        "Pass",
    ),
    no_readout=(
        lambda: READOUT.put_into(built()),
        TypeError,
        "model must be a SequenceModel with a dense readout",
        "without one",
        "out_features=2",
    ),
    size=(
        lambda: READOUT.put_into(built(out_features=2)),
        ValueError,
        "the model's readout must be of shape (4, 2)",
        "got (3, 2)",
        "Take the states",
    ),
)
def test_what_it_refuses(call, error, words):
    refuses(call, error, *words)
