"""Every public call under JAX's modes: no jit, watched for NaN and leaks, spread over devices.

Options of sequences in all combinations are in `sequence/test_modes_of_jax_sequences.py`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import rnn_jax as rj
from leaks import checking_leaks
from two_devices import read_known, run_on_two_devices, write_known

T, FEATURES, H, B = 3, 2, 2, 2
XS = np.random.default_rng(0).normal(size=(B, T, FEATURES))
KEY = jax.random.key(1)


def loss(ys):
    return jnp.sum(jnp.sin(ys))


def cell():
    return rj.LSTMCell(FEATURES, H, param_dtype=jnp.float64, rngs=nnx.Rngs(0))


def gru():
    return rj.GRUCell(FEATURES, H, param_dtype=jnp.float64, rngs=nnx.Rngs(0))


def simple():
    return rj.SimpleRNNCell(FEATURES, H, param_dtype=jnp.float64, rngs=nnx.Rngs(0))


def model():
    return rj.SequenceModel([cell(), simple_of(H)], 2, rngs=nnx.Rngs(0))


def simple_of(size):
    return rj.SimpleRNNCell(size, size, param_dtype=jnp.float64, rngs=nnx.Rngs(0))


def step_of(kernel, h, x):
    h = jnp.tanh(x + h @ kernel)
    return h, h


def own_cell():
    return rj.as_cell(jax.tree_util.Partial(step_of, jnp.eye(H)), initial_carry=jnp.full(H, 0.1))


def flow_in_words(cell, xs):
    """All that a flow says of itself."""
    flow = rj.gradient_flow(cell, xs, loss=loss, spectrum=True, k=2)
    numbers = (flow.by_lag(), flow.horizon(), flow.rate, flow.exponents.kaplan_yorke_dimension)
    return flow, numbers, flow.exponents.entropy_rate, flow.exponents.convergence()


def operators(cell, xs):
    by_state = rj.jacobian_operator(cell, xs, start=1)
    nowhere = rj.jacobian_operator(cell, xs, start=2, stop=2)
    by_input = rj.jacobian_operator(cell, xs, wrt="input")
    return (
        by_state.matvec(jnp.ones(2 * H)),
        nowhere.rmatvec(jnp.ones(2 * H)),
        by_input.rmatvec(jnp.ones(H)),
    )


def exponents(cell, xs):
    found = rj.lyapunov_exponents(cell, xs, k=2, warmup=1)
    return found, found.finite_time(1)


def covariant(cell, xs):
    found = rj.covariant_lyapunov_vectors(cell, xs, k=2, tail=1)
    return found, found.vectors, found.exponents, found.splitting_angles(1)


def gradient_of(penalty):
    return lambda cell, xs: jax.grad(lambda cell: penalty(cell, xs))(cell)


flossing = functools.partial(rj.flossing_penalty, k=2)
vanishing = functools.partial(rj.vanishing_penalty, loss)

# name of the public call: (what it is called on, the call); a cell of few states where that does
# not matter, because each operation is a call of its own without jit.
CALLS = {
    "unroll": (cell, rj.unroll),
    "newton_unroll": (simple, rj.newton_unroll),
    "linearize": (cell, rj.linearize),
    "input_jacobian": (simple, rj.input_jacobian),
    "state_jacobian": (cell, rj.state_jacobian),
    "jacobian_log_norms": (simple, functools.partial(rj.jacobian_log_norms, norm="spectral")),
    "jacobian_log_norms of targets": (
        simple,
        lambda c, xs: rj.jacobian_log_norms(c, xs, targets=[1]),
    ),
    "jacobian_log_singular_values": (simple, rj.jacobian_log_singular_values),
    "jacobian_log_bound": (simple, lambda c, xs: rj.jacobian_log_bound(c, T) + jnp.sum(xs)),
    "jacobian_operator": (cell, operators),
    "lyapunov_exponents": (simple, exponents),
    "covariant_lyapunov_vectors": (simple, covariant),
    "weight_gradient_by_step": (simple, functools.partial(rj.weight_gradient_by_step, loss)),
    "weight_gradient_log_norms": (simple, functools.partial(rj.weight_gradient_log_norms, loss)),
    "backprop_signal": (cell, functools.partial(rj.backprop_signal, loss)),
    "backprop_signal_log_norms": (simple, functools.partial(rj.backprop_signal_log_norms, loss)),
    "attribution": (cell, rj.attribution),
    "estimate_jacobian_log_norms": (
        simple,
        functools.partial(rj.estimate_jacobian_log_norms, key=KEY, probes=2),
    ),
    "estimate_jacobian_log_singular_values": (
        simple,
        functools.partial(rj.estimate_jacobian_log_singular_values, key=KEY, k=2),
    ),
    "sample_starts": (simple, lambda c, xs: rj.sample_starts(c, xs, 3, 0.1, key=KEY)),
    "gradient_flow": (gru, flow_in_words),
    "by_lag": (simple, lambda c, xs: rj.by_lag(rj.jacobian_log_norms(c, xs), "min")),
    "flossing_penalty": (simple, gradient_of(flossing)),
    "vanishing_penalty": (simple, gradient_of(vanishing)),
    "orthogonality_penalty": (
        cell,
        gradient_of(lambda c, xs: rj.orthogonality_penalty(c) + jnp.sum(xs)),
    ),
    "as_cell": (own_cell, rj.unroll),
    "ridge_readout": (simple, lambda c, xs: rj.ridge_readout(rj.unroll(c, xs)[1], xs, 0.1)),
    "SequenceModel": (model, lambda m, xs: m(xs)),
    "Bidirectional": (lambda: rj.Bidirectional(cell(), cell_again()), lambda b, xs: b(xs)),
}
# What others run too: `gradient_flow` with all of its measures, or the call that gives more than
# its norms. Without jit, and on several devices, these are not run once more.
WITHIN_OTHERS = {
    "jacobian_log_singular_values",
    "lyapunov_exponents",
    "weight_gradient_log_norms",
    "backprop_signal_log_norms",
    "attribution",
    "by_lag",
}
# What is not called on a cell and its inputs; the tests of these say in which modes they work.
ELSEWHERE = {
    "convert",  # arrays of the host, tests/convert
    "activation_slope_range",  # of a name, in plain Python
    "leaky_relu",  # makes an activation
    "local_lyapunov_exponents",  # which are `finite_time` of lyapunov_exponents
    "ensemble",  # makes models
    "fit",  # a loop of the host, tests/training
    "fixed_points",  # searches of the host, tests/gradients/test_fixed_point_records.py
    "continue_fixed_points",
    "member",
    "load",  # files, tests/training
    "restore",
    "save",
    "project_updates",  # part of an optimiser
    "record_gradient_norms",  # part of an optimiser
    "recorded_gradient_norms",
    "mean_field",  # of weights, to numbers of Python
    "unroll_method",  # of shapes and types, to words
    "cells",  # modules
    "initializers",
    "tasks",
    "testing",
}


def cell_again():
    return rj.LSTMCell(FEATURES, H, param_dtype=jnp.float64, rngs=nnx.Rngs(1))


def test_no_public_call_is_left_out():
    functions = {name for name in rj.__all__ if not isinstance(getattr(rj, name), type)}
    assert functions - set(CALLS) <= ELSEWHERE


@functools.cache
def given(name):
    """What a call is made on."""
    return CALLS[name][0](), jnp.asarray(XS[0])


@functools.cache
def expected(name, row=0):
    """What a call gives for a sequence, traced and compiled under the search for faults."""
    layer, _ = given(name)
    with jax.debug_nans(True), checking_leaks():
        return CALLS[name][1](layer, jnp.asarray(XS[row]))


def assert_close(found, expected):
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", CALLS)
def test_modes_that_find_faults_find_none(name):
    known, arguments = expected(name), given(name)
    if name not in WITHIN_OTHERS:
        with jax.disable_jit(), jax.debug_nans(True):
            assert_close(CALLS[name][1](*arguments), known)


@pytest.mark.parametrize("measure", [rj.gradient_flow, rj.lyapunov_exponents, rj.linearize])
def test_a_cell_that_makes_a_nan_is_found_by_debug_nans(measure):
    def step(h, x):
        h = jnp.log(h - x[0])
        return h, h

    with jax.debug_nans(True), pytest.raises(FloatingPointError):
        measure(step, jnp.asarray(XS[0]), jnp.full(H, -3.0))


def test_what_cannot_be_known_is_no_false_alarm():
    # Dead units have exponents of −inf, and three steps no standard error.
    cell = rj.SimpleRNNCell(FEATURES, H, activation="relu", rngs=nnx.Rngs(0))
    with jax.debug_nans(True):
        for xs in (XS[0, :1], XS[0]):
            flow = rj.gradient_flow(cell, xs)
            flow.summary()
            assert flow.exponents.kaplan_yorke_dimension.shape == ()


# ---- Several devices, faked in a process of its own.


# Of what all devices share, JAX gives the gradient of the sum of their penalties.
SHARED = {"flossing_penalty", "vanishing_penalty", "orthogonality_penalty"}


def by_shard_map(mesh, make, call):
    """Each device measures a sequence of its own, with the same cell."""

    def run(layer, xs):
        return jax.tree.map(lambda leaf: leaf[None], call(layer, xs[0]))

    rows = P("rows")
    spread = jax.shard_map(run, mesh=mesh, in_specs=(P(), rows), out_specs=rows)
    return jax.jit(spread)(make(), XS)


def by_shard_map_of_cells(mesh, make, call):
    """Each device measures a cell of its own, along the same sequence."""
    layers = jax.tree.map(lambda *leaves: jnp.stack(leaves), make(), jax.tree.map(jnp.sin, make()))

    def run(layers, xs):
        layer = jax.tree.map(lambda leaf: leaf[0], layers)
        return jax.tree.map(lambda leaf: leaf[None], call(layer, xs))

    rows = P("rows")
    spread = jax.shard_map(run, mesh=mesh, in_specs=(rows, P()), out_specs=rows)
    return jax.jit(spread)(layers, XS[0])


def on_explicit_axes(mesh, make, call):
    """A batch laid out by a mesh whose axes are part of each array's type."""
    with jax.set_mesh(mesh):
        layer = jax.device_put(make(), NamedSharding(mesh, P()))
        xs = jax.device_put(jnp.asarray(XS), NamedSharding(mesh, P("rows")))
        return jax.jit(jax.vmap(call, (None, 0)))(layer, xs)


def ways_of():
    """(way, type of the axes, names of calls): each call one way, in turn.

    What shares a gradient among devices, and what calls most others, has its sequences spread too;
    what decomposes the batch itself has it laid out by a mesh.
    """
    ways = {
        by_shard_map: (AxisType.Auto, []),
        by_shard_map_of_cells: (AxisType.Auto, []),
        on_explicit_axes: (AxisType.Explicit, []),
    }
    too = {by_shard_map: SHARED | {"gradient_flow"}, on_explicit_axes: {"ridge_readout"}}
    # On explicit axes batches of these are in the file of sequences.
    layers = ("SequenceModel", "Bidirectional")
    for i, name in enumerate(name for name in CALLS if name not in WITHIN_OTHERS):
        for j, (way, (_, names)) in enumerate(ways.items()):
            turn = i % 2 == j if name in layers else i % 3 == j
            if turn or name in too.get(way, ()):
                names.append(name)
    return ways


def of_both(name):
    """The name of what a call gives for the two sequences together."""
    return f"{name} of both"


def check_on_devices(known):
    """All calls on two devices, in a process that has two.

    Args:
      known: a file with what each call gives on one device.
    """
    known = read_known(known)
    devices = jax.devices()[:2]
    for way, (axis, names) in ways_of().items():
        mesh = jax.make_mesh((2,), ("rows",), (axis,), devices=devices)
        for name in names:
            make, call = CALLS[name]
            try:
                found = jax.tree.map(lambda leaf: np.asarray(leaf)[0], way(mesh, make, call))
                shared = way is by_shard_map and name in SHARED
                assert_close(found, known[of_both(name) if shared else name])
            except Exception as error:
                raise AssertionError(f"{name}, {way.__name__}") from error


def test_calls_spread_over_devices_give_the_same(tmp_path):
    file = tmp_path / "known.pickle"
    names = {name for _, names in ways_of().values() for name in names}
    known = {name: expected(name) for name in names}
    for name in SHARED:
        known[of_both(name)] = jax.tree.map(np.add, expected(name), expected(name, 1))
    write_known(known, file)
    run_on_two_devices(
        f"import test_modes_of_jax; test_modes_of_jax.check_on_devices({str(file)!r})"
    )
