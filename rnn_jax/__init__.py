"""How does a recurrent network's state depend on what came before?

Cells, an exact instrument for their gradients through time, tasks and experiments, in JAX.
"""

from rnn_jax import tasks
from rnn_jax.activations import Activation, activation_slope_range, leaky_relu
from rnn_jax.cells import Cell, GRUCell, LSTMCell, RNNCell, SimpleRNNCell
from rnn_jax.gradients import (
    BackpropSignal,
    GradientFlow,
    Linearization,
    LyapunovSpectrum,
    backprop_signal,
    gradient_flow,
    input_jacobian,
    jacobian_log_bound,
    jacobian_log_norms,
    jacobian_log_singular_values,
    linearize,
    lyapunov_exponents,
    state_jacobian,
    weight_gradient_by_step,
    weight_gradient_log_norms,
)
from rnn_jax.sequence import SequenceModel, unroll

__version__ = "0.1.0"

__all__ = [
    "Activation",
    "BackpropSignal",
    "Cell",
    "GRUCell",
    "GradientFlow",
    "LSTMCell",
    "Linearization",
    "LyapunovSpectrum",
    "RNNCell",
    "SequenceModel",
    "SimpleRNNCell",
    "activation_slope_range",
    "backprop_signal",
    "gradient_flow",
    "input_jacobian",
    "jacobian_log_bound",
    "jacobian_log_norms",
    "jacobian_log_singular_values",
    "leaky_relu",
    "linearize",
    "lyapunov_exponents",
    "state_jacobian",
    "tasks",
    "unroll",
    "weight_gradient_by_step",
    "weight_gradient_log_norms",
]
