"""The instrument: how the state at time t depends on what came before."""

from rnn_jax.gradients.bounds import jacobian_log_bound
from rnn_jax.gradients.flow import GradientFlow, gradient_flow
from rnn_jax.gradients.jacobians import input_jacobian, state_jacobian
from rnn_jax.gradients.linearize import Linearization, linearize
from rnn_jax.gradients.log_norms import jacobian_log_norms
from rnn_jax.gradients.lyapunov import LyapunovSpectrum, lyapunov_exponents
from rnn_jax.gradients.signal import BackpropSignal, backprop_signal
from rnn_jax.gradients.singular_values import jacobian_log_singular_values
from rnn_jax.gradients.weight_gradient import weight_gradient_by_step, weight_gradient_log_norms

__all__ = [
    "BackpropSignal",
    "GradientFlow",
    "Linearization",
    "LyapunovSpectrum",
    "backprop_signal",
    "gradient_flow",
    "input_jacobian",
    "jacobian_log_bound",
    "jacobian_log_norms",
    "jacobian_log_singular_values",
    "linearize",
    "lyapunov_exponents",
    "state_jacobian",
    "weight_gradient_by_step",
    "weight_gradient_log_norms",
]
