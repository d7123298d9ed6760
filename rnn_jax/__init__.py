"""How does a recurrent network's state depend on what came before?

Cells, an exact instrument for their gradients through time, tasks and experiments, in JAX.
"""

from rnn_jax import tasks
from rnn_jax.activations import Activation, activation_slope_range, leaky_relu
from rnn_jax.cells import Cell, GRUCell, LSTMCell, RNNCell, SimpleRNNCell
from rnn_jax.gradients import (
    Attribution,
    BackpropSignal,
    Estimate,
    GradientFlow,
    JacobianOperator,
    Linearization,
    LyapunovSpectrum,
    MemoryPath,
    attribution,
    backprop_signal,
    backprop_signal_log_norms,
    by_lag,
    estimate_jacobian_log_norms,
    estimate_jacobian_log_singular_values,
    flossing_penalty,
    gradient_flow,
    input_jacobian,
    jacobian_log_bound,
    jacobian_log_norms,
    jacobian_log_singular_values,
    jacobian_operator,
    linearize,
    lyapunov_exponents,
    orthogonality_penalty,
    state_jacobian,
    vanishing_penalty,
    weight_gradient_by_step,
    weight_gradient_log_norms,
)
from rnn_jax.sequence import SequenceModel, StackedCell, unroll

__version__ = "0.1.0"

__all__ = [
    "Activation",
    "Attribution",
    "BackpropSignal",
    "Cell",
    "Estimate",
    "GRUCell",
    "GradientFlow",
    "JacobianOperator",
    "LSTMCell",
    "Linearization",
    "LyapunovSpectrum",
    "MemoryPath",
    "RNNCell",
    "SequenceModel",
    "SimpleRNNCell",
    "StackedCell",
    "activation_slope_range",
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
    "leaky_relu",
    "linearize",
    "lyapunov_exponents",
    "orthogonality_penalty",
    "state_jacobian",
    "tasks",
    "unroll",
    "vanishing_penalty",
    "weight_gradient_by_step",
    "weight_gradient_log_norms",
]
