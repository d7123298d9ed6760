"""Every refusal of the instrument states the rule, what arrived and the fix."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.tree_util import Partial

import rnn_jax as rj
from refusing import refused

T, FEATURES, H = 4, 2, 3
XS = np.random.default_rng(0).normal(size=(T, FEATURES))


def loss(ys):
    return jnp.sum(ys)


def simple():
    return rj.SimpleRNNCell(FEATURES, H, rngs=nnx.Rngs(0))


# Every call on one sequence, with everything but its first arguments right.
ONE_SEQUENCE = {
    "linearize": rj.linearize,
    "input_jacobian": rj.input_jacobian,
    "state_jacobian": rj.state_jacobian,
    "jacobian_log_norms": rj.jacobian_log_norms,
    "backprop_signal": lambda *args: rj.backprop_signal(loss, *args),
    "weight_gradient_by_step": lambda *args: rj.weight_gradient_by_step(loss, *args),
    "weight_gradient_log_norms": lambda *args: rj.weight_gradient_log_norms(loss, *args),
}
EVERY = {**ONE_SEQUENCE, "gradient_flow": rj.gradient_flow}
WITH_LOSS = {
    "backprop_signal": rj.backprop_signal,
    "weight_gradient_by_step": rj.weight_gradient_by_step,
    "weight_gradient_log_norms": rj.weight_gradient_log_norms,
    "gradient_flow": lambda loss, cell, xs: rj.gradient_flow(cell, xs, loss=loss),
}

over_one_sequence = pytest.mark.parametrize("call", ONE_SEQUENCE.values(), ids=ONE_SEQUENCE)
over_every_call = pytest.mark.parametrize("call", EVERY.values(), ids=EVERY)
over_losses = pytest.mark.parametrize("call", WITH_LOSS.values(), ids=WITH_LOSS)


@over_one_sequence
def test_a_batch_given_to_a_call_on_one_sequence(call):
    refused(
        lambda: call(simple(), np.zeros((5, T, FEATURES))),
        ValueError,
        r"\(T, I\)",
        r"\(5, 4, 2\)",
        r"jax\.vmap",
    )


def test_a_flow_of_too_many_batch_axes():
    refused(
        lambda: rj.gradient_flow(simple(), np.zeros((2, 5, T, FEATURES))),
        ValueError,
        r"\(B, T, I\)",
        r"\[2, 5, 4, 2\]",
        r"reshape",
    )


@over_every_call
def test_a_sequence_without_features_axis(call):
    refused(lambda: call(simple(), np.zeros(T)), ValueError, "T, I", r"\(4,\)", r"xs\[:, None\]")


@over_every_call
def test_an_empty_sequence(call):
    refused(
        lambda: call(simple(), np.zeros((0, FEATURES))),
        ValueError,
        "at least one",
        r"\(0, 2\)",
        "empty",
    )


@over_every_call
def test_inputs_that_are_no_real_numbers(call):
    refused(lambda: call(simple(), XS.astype(complex)), TypeError, "real numbers", "complex128")


BY_INPUT = {
    "input_jacobian": rj.input_jacobian,
    "jacobian_log_norms": rj.jacobian_log_norms,
    "estimate": functools.partial(rj.estimate_jacobian_log_norms, key=jax.random.key(0)),
    "operator": functools.partial(rj.jacobian_operator, wrt="input"),
    "gradient_flow": rj.gradient_flow,
}


@pytest.mark.parametrize("dtype", [np.int32, bool])
@pytest.mark.parametrize("name", BY_INPUT)
def test_a_derivative_by_whole_numbers(name, dtype):
    words = ("real floating-point", rf"{np.dtype(dtype).name}\[4, 2\]", r"embedding\[xs\]", "state")
    refused(lambda: BY_INPUT[name](simple(), XS.astype(dtype)), TypeError, *words)


@over_every_call
def test_leaves_that_do_not_lead_with_one_time_axis(call):
    xs = {"a": XS, "b": XS[1:]}
    refused(lambda: call(simple(), xs), ValueError, "same", r"\(4, 2\) at xs\['a'\]", r"xs\['b'\]")


@over_every_call
def test_inputs_of_another_width_than_the_cells(call):
    refused(
        lambda: call(simple(), np.zeros((T, 7))), ValueError, "in_features=2", "got 7", r"\(T, 2\)"
    )


@over_every_call
def test_a_carry_of_another_form_than_the_cells(call):
    refused(
        lambda: call(simple(), XS, np.zeros(H + 1)),
        ValueError,
        r"float64\[3\]",
        r"float64\[4\]",
        "Leave carry out",
    )
    lstm = rj.LSTMCell(FEATURES, H, rngs=nnx.Rngs(0))
    refused(
        lambda: call(lstm, XS, np.zeros(H)),
        ValueError,
        r"\(float64\[3\], float64\[3\]\)",
        "Leave carry out",
    )


@over_every_call
def test_a_carry_of_another_type_than_the_step_returns(call):
    def step(carry, x):
        return (carry + x).astype(jnp.float32), x

    cell = Partial(lambda weight, carry, x: step(weight * carry, x), jnp.ones(()))
    refused(
        lambda: call(cell, XS, jnp.zeros(FEATURES)),
        TypeError,
        r"float64\[2\]",
        r"float32\[2\]",
        "Cast",
    )


@over_every_call
def test_a_cell_that_cannot_make_its_own_carry(call):
    cell = Partial(lambda weight, carry, x: (carry, weight * x), jnp.ones(()))
    refused(lambda: call(cell, XS), TypeError, "initialize_carry", r"carry=")


@over_every_call
def test_an_integer_in_the_carry(call):
    def step(weight, carry, x):
        count, h = carry
        h = jnp.tanh(weight * h + x)
        return (count + 1, h), h

    cell, carry = Partial(step, jnp.ones(())), (jnp.asarray(0), jnp.zeros(FEATURES))
    refused(
        lambda: call(cell, XS, carry),
        TypeError,
        "real floats of one type",
        r"int64\[\]",
        "counters",
    )


@over_every_call
def test_an_output_that_has_no_derivative(call):
    def step(weight, carry, x):
        h = jnp.tanh(weight * carry + x)
        return h, jnp.sign(h).astype(jnp.int32)

    refused(
        lambda: call(Partial(step, jnp.ones(())), XS, jnp.zeros(FEATURES)),
        (TypeError, ValueError),
        r"int(32|64)\[",
    )


@over_every_call
def test_a_cell_that_is_none(call):
    refused(lambda: call("lstm", XS), TypeError, "callable", "str", "Partial")


@over_every_call
def test_a_cell_that_returns_no_pair(call):
    cell = Partial(lambda weight, carry, x: weight * carry, jnp.ones(()))
    refused(lambda: call(cell, XS, jnp.zeros(FEATURES)), ValueError, "pair", "return")


@pytest.mark.parametrize("call", [rj.jacobian_log_norms, rj.gradient_flow])
@pytest.mark.parametrize("wrt", ["inputs", "carry", None])
def test_an_unknown_wrt(call, wrt):
    refused(
        lambda: call(simple(), XS, wrt=wrt),
        ValueError,
        "wrt must be one of 'input', 'state'",
        re.escape(repr(wrt)),
    )


@pytest.mark.parametrize("norm", ["frobenius", 2, None])
def test_an_unknown_norm(norm):
    refused(
        lambda: rj.jacobian_log_norms(simple(), XS, norm=norm),
        ValueError,
        "norm must be one of 'fro', 'spectral'",
        re.escape(repr(norm)),
    )


@pytest.mark.parametrize(
    ("targets", "error", "says"),
    [
        ([1.0], TypeError, ["whole numbers", "float64", "ints"]),
        ([True], TypeError, ["whole numbers", "bool"]),
        ([], ValueError, ["at least one step", r"\(0,\)", r"targets=\[t\]"]),
        (2, ValueError, [r"\(K,\)", r"shape \(\)", r"targets=\[t\]"]),
        ([[0, 1]], ValueError, [r"\(K,\)", r"\(1, 2\)", r"targets=\[t\]"]),
        ([0, T], ValueError, [r"\[-4, 4\)", "got 4"]),
        ([0, -T - 1, 1], ValueError, [r"\[-4, 4\)", "got -5"]),
        (np.asarray([200], np.uint8), ValueError, [r"\[-4, 4\)", "got 200"]),
        ("last", TypeError, ["list of whole numbers", "'last'", r"targets=\[t\]"]),
        ([[0], [1, 2]], TypeError, ["list of whole numbers", r"\[\[0\], \[1, 2\]\]"]),
    ],
)
def test_targets_that_are_no_steps(targets, error, says):
    refused(lambda: rj.jacobian_log_norms(simple(), XS, targets=targets), error, *says)


@over_losses
@pytest.mark.parametrize("wrong", [1.0, "mse", XS])
def test_a_loss_that_is_not_callable(call, wrong):
    refused(lambda: call(wrong, simple(), XS), TypeError, "loss", type(wrong).__name__)


@over_losses
@pytest.mark.parametrize(
    ("wrong", "got"),
    [
        (lambda ys: ys[-1], r"float64\[3\]"),
        (lambda ys: jnp.sum(ys)[None], r"float64\[1\]"),
        (lambda ys: jnp.argmax(ys), r"int"),
        (lambda ys: jax.lax.complex(jnp.sum(ys), jnp.sum(ys)), "complex128"),
        (lambda ys: (jnp.sum(ys), {}), r"float64"),
        (lambda ys: None, "None"),
    ],
    ids=["vector", "length one", "whole", "complex", "pair", "nothing"],
)
def test_a_loss_that_is_no_real_scalar(call, wrong, got):
    refused(lambda: call(wrong, simple(), XS), ValueError, "one real number", got, "Sum or average")


@pytest.mark.parametrize("call", list(WITH_LOSS.values())[:3], ids=list(WITH_LOSS)[:3])
@pytest.mark.parametrize(
    "arguments",
    [
        lambda: (simple(), loss, XS),
        lambda: (simple(), XS, loss),
        lambda: (XS, simple(), loss),
    ],
    ids=["cell first", "loss last", "inputs first"],
)
def test_swapped_arguments(call, arguments):
    refused(lambda: call(*arguments()), TypeError, r"\(loss, cell, xs\)")


@pytest.mark.parametrize("call", [rj.weight_gradient_by_step, rj.weight_gradient_log_norms])
def test_a_cell_without_weights(call):
    def step(carry, x):
        h = jnp.tanh(carry + x)
        return h, h

    refused(
        lambda: call(loss, step, XS, jnp.zeros(FEATURES)),
        ValueError,
        "weights",
        "0 leaves",
        r"Partial\(function, parameters\)",
    )
    keyed = Partial(lambda key, carry, x: (carry + x, x), jnp.arange(3))
    refused(
        lambda: call(loss, keyed, XS, jnp.zeros(FEATURES)),
        ValueError,
        "all floats",
        "1 leaves",
        "Partial",
    )


@pytest.mark.parametrize("threshold", [0.0, -0.1, 1.5, float("nan"), float("inf")])
def test_a_threshold_out_of_range(threshold):
    flow = rj.GradientFlow(jnp.zeros((T, T)))
    refused(lambda: flow.horizon(threshold), ValueError, r"\(0, 1\]", re.escape(f"got {threshold}"))


def test_an_unknown_statistic():
    flow = rj.GradientFlow(jnp.zeros((T, T)))
    refused(lambda: flow.by_lag("median"), ValueError, "'max', 'mean', 'min'", "'median'")


@pytest.mark.parametrize("make", [rj.LSTMCell, rj.GRUCell])
def test_a_bound_for_a_gated_cell(make):
    cell = make(FEATURES, H, rngs=nnx.Rngs(0))
    refused(
        lambda: rj.jacobian_log_bound(cell, T),
        ValueError,
        "SimpleRNNCell",
        make.__name__,
        "jacobian_log_norms",
    )


def test_a_bound_for_an_activation_of_unknown_slope():
    cell = rj.SimpleRNNCell(FEATURES, H, activation=lambda x: x**2, rngs=nnx.Rngs(0))
    refused(
        lambda: rj.jacobian_log_bound(cell, T), ValueError, "slope range", "lambda", "Activation"
    )


@pytest.mark.parametrize(
    ("steps", "error"), [(0, ValueError), (-3, ValueError), (2.5, TypeError), ("4", TypeError)]
)
def test_a_bound_over_no_number_of_steps(steps, error):
    refused(
        lambda: rj.jacobian_log_bound(simple(), steps), error, "T must be", re.escape(str(steps))
    )


@pytest.mark.parametrize(
    "call",
    [
        rj.linearize,
        rj.input_jacobian,
        rj.jacobian_log_norms,
        rj.jacobian_log_singular_values,
        rj.lyapunov_exponents,
        rj.covariant_lyapunov_vectors,
        rj.attribution,
        rj.jacobian_operator,
        rj.gradient_flow,
    ],
)
def test_a_carry_of_strings_is_named_before_anything_is_compiled(call):
    with pytest.raises(
        TypeError, match=r"carry must be a pytree of arrays; got a leaf of type str"
    ):
        call(simple(), XS, "zero")
