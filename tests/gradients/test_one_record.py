"""One record for all measures: run once, linearized once, and what stands for a cell."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.tree_util import Partial
from test_reference import QUICK

import rnn_jax as rj
import zoo
from refusing import refused

T, FEATURES, H = 5, 2, 3
XS = np.random.default_rng(0).normal(size=(T, FEATURES))
KEY = jax.random.key(1)


def loss(ys):
    return jnp.sum(jnp.sin(jax.tree.leaves(ys)[0]))


def products(*given):
    """An operator applied forward and back."""
    forward = rj.jacobian_operator(*given, start=1)
    back = rj.jacobian_operator(*given, wrt="input")
    return forward.matvec(jnp.ones(forward.shape[1])), back.rmatvec(jnp.ones(back.shape[0]))


# Every public call that takes a cell with its inputs, as a function of what stands for these.
MEASURES = {
    "linearize": rj.linearize,
    "input_jacobian": rj.input_jacobian,
    "state_jacobian": rj.state_jacobian,
    "jacobian_log_norms": rj.jacobian_log_norms,
    "spectral": functools.partial(rj.jacobian_log_norms, wrt="state", norm="spectral"),
    "targets": functools.partial(rj.jacobian_log_norms, targets=[-1]),
    "singular_values": functools.partial(rj.jacobian_log_singular_values, start=1, stop=4),
    "lyapunov_exponents": functools.partial(rj.lyapunov_exponents, k=2, warmup=1, interval=2),
    "covariant_lyapunov_vectors": functools.partial(
        rj.covariant_lyapunov_vectors, k=2, warmup=1, tail=1
    ),
    "weight_gradient_by_step": functools.partial(rj.weight_gradient_by_step, loss),
    "weight_gradient_log_norms": functools.partial(rj.weight_gradient_log_norms, loss),
    "backprop_signal": functools.partial(rj.backprop_signal, loss),
    "backprop_signal_log_norms": functools.partial(rj.backprop_signal_log_norms, loss),
    "attribution": rj.attribution,
    "estimate_log_norms": functools.partial(rj.estimate_jacobian_log_norms, key=KEY, probes=2),
    "estimate_singular_values": functools.partial(
        rj.estimate_jacobian_log_singular_values,
        **{"k": 2, "key": KEY, "start": 1, "iterations": 1, "oversample": 0},
    ),
    "vanishing_penalty": functools.partial(rj.vanishing_penalty, loss),
    "flossing_penalty": functools.partial(rj.flossing_penalty, k=2),
    "gradient_flow": functools.partial(rj.gradient_flow, loss=loss, spectrum=True, k=2),
    "operator": products,
}
# A cell whose output is a part of its carry, and one whose output is not.
CELLS = {
    "gru": (zoo.CELLS["gru_reset_after"](FEATURES, H, 1), None),
    "readout": (
        Partial(
            lambda w, h, x: (jnp.tanh(w["w"] @ h + w["u"] @ x), {"y": (w["w"] @ h)[:2] + x}),
            {"w": jnp.eye(H) * 0.7, "u": jnp.ones((H, FEATURES))},
        ),
        jnp.full(H, 0.3),
    ),
}


@functools.cache
def linearized(name):
    cell, carry = CELLS[name]
    return rj.linearize(cell, XS, carry)


# Two parts of a flow, which between them hold all that it can.
spectral_flow = functools.partial(
    rj.gradient_flow, spectrum=True, measures=("attribution", "change_log_norms")
)
FIELDS = ("weight_log_norms", "attribution", "exponents")
lean_flow = functools.partial(rj.gradient_flow, loss=loss, k=2, measures=FIELDS)


# Every measure of a cell is that of a linearization in `test_inputs_of_measures`, where the output
# is no part of the carry. What stands in a flow and an attribution depends on what the cell says of
# itself, which only ours do; the others read the output in the carry, or run the cell again.
@pytest.mark.parametrize(
    "measure",
    [
        *("attribution", "gradient_flow", "jacobian_log_norms", "operator"),
        *("backprop_signal", "weight_gradient_by_step"),
    ],
)
def test_a_linearization_stands_for_the_cell_its_inputs_and_its_carry(measure):
    call = spectral_flow if measure == "gradient_flow" else MEASURES[measure]
    cell, carry = CELLS["gru"]
    expected, found = call(cell, XS, carry), call(linearized("gru"))
    chex.assert_trees_all_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("measure", ["jacobian_log_norms", "gradient_flow", "backprop_signal"])
def test_linearizations_of_a_batch_are_mapped_over(measure):
    call = lean_flow if measure == "gradient_flow" else MEASURES[measure]
    cell = zoo.CELLS["simple_tanh"](FEATURES, H, 1)
    batch = np.stack([XS, XS[::-1]])
    lins = jax.vmap(lambda xs: rj.linearize(cell, xs))(batch)
    expected = jax.jit(jax.vmap(lambda xs: call(cell, xs)), compiler_options=QUICK)(batch)
    if measure == "gradient_flow":  # which takes a batch as it is
        flow = call(lins)
        for field in ("log_norms", *FIELDS):
            one, other = getattr(flow, field), getattr(expected, field)
            assert one is not None
            chex.assert_trees_all_close(one, other, rtol=1e-9, atol=1e-11)
    else:
        found = jax.jit(jax.vmap(call), compiler_options=QUICK)(lins)
        chex.assert_trees_all_close(found, expected, rtol=1e-9, atol=1e-11)
        refused(lambda: call(lins), ValueError, "one Linearization at a time", "vmap")


@pytest.mark.parametrize("measure", sorted(set(MEASURES) - {"linearize"}))
def test_what_stands_for_a_cell_stands_alone(measure):
    lin = linearized("gru")
    refused(lambda: MEASURES[measure](lin, XS), TypeError, "stands for the cell", "Pass it alone")
    refused(lambda: MEASURES[measure](CELLS["gru"][0]), TypeError, "xs is missing", "Linearization")
    bare = dataclasses.replace(lin, cell=None)
    refused(lambda: MEASURES[measure](bare), TypeError, "hold the cell", "rnn_jax.linearize")


class Counted(rj.LSTMCell):
    """Counts how often its step is traced; it says the same of itself as any LSTM."""

    count = 0

    def step(self, carry, z):
        Counted.count += 1
        return super().step(carry, z)


def counted_function(w, h, x):
    counted_function.count += 1
    h = jnp.tanh(w["w"] @ h + w["u"] @ x)
    return h, h


@pytest.mark.parametrize(("batch", "kind"), [((), "ours"), ((2,), "function")])
def test_a_gradient_flow_traces_the_step_a_handful_of_times(kind, batch):
    if kind == "ours":
        cell, carry, counter = Counted(FEATURES, H, rngs=nnx.Rngs(0)), None, Counted
    else:
        cell = Partial(counted_function, CELLS["readout"][0].args[0])
        carry, counter = jnp.zeros((*batch, H)), counted_function
    counter.count = 0
    steps = 8  # no length that another test has compiled
    xs = jax.ShapeDtypeStruct((*batch, steps, FEATURES), jnp.float64)
    jax.eval_shape(lambda xs: rj.gradient_flow(cell, xs, carry, loss=loss), xs)
    assert 1 <= counter.count <= 8


def measured(cell, **options):
    """What stands in a flow, by tracing alone."""
    flow = jax.eval_shape(lambda xs: rj.gradient_flow(cell, xs, **options), XS)
    assert flow.log_norms.shape == (T, T)
    fields = ("attribution", "exponents", "change_log_norms", "log_singular_values", "bound")
    fields = (*fields, "weight_log_norms")
    return {name for name in fields if getattr(flow, name) is not None}


def test_measures_can_be_chosen():
    cell, _ = CELLS["gru"]
    for chosen in ((), ("exponents",), ["attribution", "log_singular_values"], "bound"):
        wanted = {chosen} if isinstance(chosen, str) else set(chosen)
        # A GRU has no bound, whether it is asked for or not.
        assert measured(cell, measures=chosen) == wanted - {"bound"}
    flow = rj.gradient_flow(cell, XS, measures=["weight_log_norms"], loss=loss)
    assert flow.weight_log_norms.shape == (T,)
    assert flow.exponents is None
    assert "T = 5" in flow.summary()
    call = lambda **options: rj.gradient_flow(cell, XS, **options)  # noqa: E731
    refused(lambda: call(measures=["exponent"]), ValueError, "measures", "'exponents'")
    refused(lambda: call(measures=["weight_log_norms"]), ValueError, "loss=None", "Pass")
    refused(lambda: call(spectrum="no"), TypeError, "spectrum must be True or False")


def test_without_a_choice_all_that_is_asked_for_is_measured():
    cell = zoo.CELLS["simple_tanh"](FEATURES, H, 1)
    always = {"attribution", "exponents", "change_log_norms", "bound"}
    assert measured(cell) == always
    assert measured(cell, loss=loss) == always | {"weight_log_norms"}
    assert measured(cell, spectrum=True) == always | {"log_singular_values"}


def test_what_cannot_be_had_is_left_out_with_its_reason():
    cell = rj.GRUCell(FEATURES, H, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    xs = jnp.asarray(XS, jnp.bfloat16)
    flow = rj.gradient_flow(cell, xs, spectrum=True, measures=("attribution", "exponents"))
    assert set(flow.omitted) == {"exponents", "log_singular_values"}
    assert all("float32" in reason and "bfloat16" in reason for reason in flow.omitted.values())
    assert flow.exponents is None
    assert flow.log_singular_values is None
    assert flow.attribution is not None
    text = " ".join(flow.summary().split())
    assert "left out exponents: needs a carry of float32" in text
    # A function without weights has no weight gradient, and all the rest.
    function = lambda h, x: (jnp.tanh(h + x), jnp.tanh(h + x))  # noqa: E731
    measures = ("exponents", "weight_log_norms")
    measure = functools.partial(rj.gradient_flow, function, loss=loss, measures=measures)
    flow = jax.eval_shape(measure, XS, jnp.zeros(FEATURES))
    assert set(flow.omitted) == {"weight_log_norms"}
    assert flow.exponents is not None


def test_one_step_shows_no_regime():
    flow = rj.gradient_flow(CELLS["gru"][0], XS[:1])
    assert flow.regime == "undetermined"
    text = flow.summary()
    assert "sustained" not in text
    assert "nan" not in text


def test_all_of_a_spectrum_is_differentiated():
    cell = zoo.CELLS["simple_tanh"](FEATURES, H, 0)
    leaves, structure = jax.tree.flatten(cell)
    rng = np.random.default_rng(3)
    direction = [rng.normal(size=leaf.shape) for leaf in leaves]
    xs = rng.normal(size=(9, FEATURES))

    def values(step):
        moved = [leaf + step * along for leaf, along in zip(leaves, direction, strict=True)]
        spectrum = rj.lyapunov_exponents(jax.tree.unflatten(structure, moved), xs, k=2)
        fields = ("standard_errors", "condition", "exponents", "growth")
        return jnp.stack([jnp.sum(jnp.sin(getattr(spectrum, field))) for field in fields])

    forward = jax.jit(lambda step: jax.jvp(values, (step,), (1.0,)))
    step = 1e-6
    differences = np.asarray(forward(step)[0] - forward(-step)[0]) / (2 * step)
    assert (np.abs(differences) > 1e-3).all()
    np.testing.assert_allclose(jax.jit(jax.jacrev(values))(0.0), differences, rtol=1e-5)
    np.testing.assert_allclose(forward(0.0)[1], differences, rtol=1e-5)


def test_a_lost_direction_leaves_the_derivative_of_the_others():
    # The second unit never passes anything on: its exponent is −inf, of the standard error NaN.
    def step(w, h, x):
        h = jnp.stack([jnp.tanh(w * h[0] + x[0]), x[1]])
        return h, h

    @jax.jit
    @jax.value_and_grad
    def leading(w):
        spectrum = rj.lyapunov_exponents(Partial(step, w), XS, jnp.zeros(2))
        return spectrum.exponents[0] + spectrum.standard_errors[0]

    _, gradient = leading(0.8)
    slow = (leading(0.8 + 1e-6)[0] - leading(0.8 - 1e-6)[0]) / 2e-6
    np.testing.assert_allclose(gradient, slow, rtol=1e-5)
