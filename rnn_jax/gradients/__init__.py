"""The instrument: how the state at time t depends on what came before."""

from rnn_jax.gradients.attribution import Attribution, attribution
from rnn_jax.gradients.bounds import jacobian_log_bound
from rnn_jax.gradients.flow import GradientFlow, gradient_flow
from rnn_jax.gradients.jacobians import input_jacobian, state_jacobian
from rnn_jax.gradients.lags import by_lag
from rnn_jax.gradients.linearize import Linearization, linearize
from rnn_jax.gradients.log_norms import jacobian_log_norms
from rnn_jax.gradients.lyapunov import LyapunovSpectrum, lyapunov_exponents
from rnn_jax.gradients.memory_path import MemoryPath
from rnn_jax.gradients.operators import JacobianOperator, jacobian_operator
from rnn_jax.gradients.probes import (
    Estimate,
    estimate_jacobian_log_norms,
    estimate_jacobian_log_singular_values,
)
from rnn_jax.gradients.regularizers import (
    flossing_penalty,
    orthogonality_penalty,
    vanishing_penalty,
)
from rnn_jax.gradients.signal import BackpropSignal, backprop_signal
from rnn_jax.gradients.signal_by_lag import backprop_signal_log_norms
from rnn_jax.gradients.singular_values import jacobian_log_singular_values
from rnn_jax.gradients.weight_gradient import weight_gradient_by_step, weight_gradient_log_norms

__all__ = [
    "Attribution",
    "BackpropSignal",
    "Estimate",
    "GradientFlow",
    "JacobianOperator",
    "Linearization",
    "LyapunovSpectrum",
    "MemoryPath",
    "attribution",
    "backprop_signal",
    "backprop_signal_log_norms",
    "by_lag",
    "estimate_jacobian_log_norms",
    "estimate_jacobian_log_singular_values",
    "flossing_penalty",
    "gradient_flow",
    "input_jacobian",
    "jacobian_log_bound",
    "jacobian_log_norms",
    "jacobian_log_singular_values",
    "jacobian_operator",
    "linearize",
    "lyapunov_exponents",
    "orthogonality_penalty",
    "state_jacobian",
    "vanishing_penalty",
    "weight_gradient_by_step",
    "weight_gradient_log_norms",
]
