"""The instrument's calls, each of which is one program."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from calls_over_time import FEATURES, KEY, ROW, Call, gru, loss, lstm, simple

import rnn_jax as rj

# Decompositions of larger matrices take minutes to compile, and are the same programs.
SMALL = 6
FEW = jax.ShapeDtypeStruct((20, FEATURES), jnp.float32)


def measure(call: Callable[..., Any], cell: Any = None, **options: Any) -> Callable[[], Call]:
    """The call on a cell, an LSTM if not said, and a row of inputs."""
    return lambda: (functools.partial(call, **options), (lstm() if cell is None else cell(), ROW))


def spectrum(call: Callable[..., Any], **options: Any) -> Callable[[], Call]:
    """The call on a small cell and a short row."""
    return lambda: (functools.partial(call, **options), (simple(hidden=SMALL), FEW))


def operators(cell: Any, xs: Any) -> Any:
    by_state = rj.jacobian_operator(cell, xs, start=1)
    by_input = rj.jacobian_operator(cell, xs, wrt="input")
    size = by_state.shape[0]
    return by_state.matvec(jnp.ones(size)), by_input.rmatvec(jnp.ones(by_input.shape[0]))


def flow(cell: Any, xs: Any) -> Any:
    found = rj.gradient_flow(cell, xs, loss=loss)
    return found, found.by_lag(), found.horizon()


def flow_with_spectrum(cell: Any, xs: Any) -> Any:
    return rj.gradient_flow(cell, xs, spectrum=True, k=2)


def readings_of_one_record(cell: Any, xs: Any) -> Any:
    record = rj.linearize(cell, xs)
    return rj.input_jacobian(record), rj.jacobian_log_norms(record)


def gradient_of(penalty: Callable[..., Any]) -> Callable[..., Any]:
    return jax.value_and_grad(penalty)


def with_loss(call: Callable[..., Any]) -> Callable[..., Any]:
    return functools.partial(call, loss)


def bound(cell: Any) -> Any:
    return rj.jacobian_log_bound(cell, 50)


CALLS: dict[str, Callable[[], Call]] = {
    "linearize": measure(rj.linearize),
    "linearize: read twice": measure(readings_of_one_record),
    "input_jacobian": measure(rj.input_jacobian),
    "state_jacobian": measure(rj.state_jacobian, gru),
    "jacobian_log_norms": measure(rj.jacobian_log_norms),
    "jacobian_log_norms: by state": measure(rj.jacobian_log_norms, simple, wrt="state"),
    "jacobian_log_norms: spectral": spectrum(rj.jacobian_log_norms, norm="spectral"),
    "jacobian_log_norms: of targets": measure(rj.jacobian_log_norms, targets=jnp.array([10, 49])),
    "jacobian_log_bound": lambda: (bound, (simple(),)),
    "jacobian_operator": measure(operators),
    "jacobian_log_singular_values": spectrum(rj.jacobian_log_singular_values),
    "jacobian_log_singular_values: some": spectrum(rj.jacobian_log_singular_values, k=2),
    "estimate_jacobian_log_norms": measure(rj.estimate_jacobian_log_norms, key=KEY, probes=3),
    "estimate_jacobian_log_singular_values": spectrum(
        rj.estimate_jacobian_log_singular_values, key=KEY, k=2
    ),
    "lyapunov_exponents": spectrum(rj.lyapunov_exponents),
    "lyapunov_exponents: some": spectrum(rj.lyapunov_exponents, k=2, warmup=3, interval=2),
    "local_lyapunov_exponents": spectrum(rj.local_lyapunov_exponents, window=5, k=2),
    "covariant_lyapunov_vectors": spectrum(rj.covariant_lyapunov_vectors, k=2, tail=5),
    "weight_gradient_by_step": measure(with_loss(rj.weight_gradient_by_step)),
    "weight_gradient_log_norms": measure(with_loss(rj.weight_gradient_log_norms)),
    "backprop_signal": measure(with_loss(rj.backprop_signal)),
    "backprop_signal_log_norms": measure(with_loss(rj.backprop_signal_log_norms)),
    "by_lag": measure(lambda cell, xs: rj.by_lag(rj.jacobian_log_norms(cell, xs), "min"), simple),
    "attribution": measure(rj.attribution),
    "gradient_flow": measure(flow),
    "gradient_flow: with exponents": spectrum(flow_with_spectrum),
    "gradient_flow: of a batch": lambda: (
        rj.gradient_flow,
        (gru(), jax.ShapeDtypeStruct((4, *ROW.shape), ROW.dtype)),
    ),
    "flossing_penalty": spectrum(gradient_of(functools.partial(rj.flossing_penalty, k=2))),
    "vanishing_penalty": measure(gradient_of(with_loss(rj.vanishing_penalty))),
    "orthogonality_penalty": lambda: (gradient_of(rj.orthogonality_penalty), (lstm(),)),
    "ridge_readout": lambda: (functools.partial(rj.ridge_readout, penalty=0.1), (ROW, ROW)),
    "sample_starts": measure(lambda cell, xs: rj.sample_starts(cell, xs, 8, 0.1, key=KEY)),
}
