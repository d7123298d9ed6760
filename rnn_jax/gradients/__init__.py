"""The instrument: how the state at time t depends on what came before."""

from rnn_jax.gradients.explain.attribution import Attribution, attribution
from rnn_jax.gradients.explain.bounds import jacobian_log_bound
from rnn_jax.gradients.explain.flow import GradientFlow, gradient_flow
from rnn_jax.gradients.explain.lags import by_lag
from rnn_jax.gradients.explain.memory_path import MemoryPath
from rnn_jax.gradients.explain.signal_propagation import MeanField, mean_field
from rnn_jax.gradients.fixed_points.continuation import Branch, continue_fixed_points
from rnn_jax.gradients.fixed_points.finder import fixed_points
from rnn_jax.gradients.fixed_points.record import FixedPoints
from rnn_jax.gradients.fixed_points.starts import sample_starts
from rnn_jax.gradients.jacobians.dense import input_jacobian, state_jacobian
from rnn_jax.gradients.jacobians.estimates import (
    Estimate,
    estimate_jacobian_log_norms,
    estimate_jacobian_log_singular_values,
)
from rnn_jax.gradients.jacobians.log_norms import jacobian_log_norms
from rnn_jax.gradients.jacobians.operators import JacobianOperator, jacobian_operator
from rnn_jax.gradients.linearize import Linearization, linearize
from rnn_jax.gradients.penalties import (
    flossing_penalty,
    orthogonality_penalty,
    vanishing_penalty,
)
from rnn_jax.gradients.signals.backprop import BackpropSignal, backprop_signal
from rnn_jax.gradients.signals.signal_by_lag import backprop_signal_log_norms
from rnn_jax.gradients.signals.weight_gradient import (
    weight_gradient_by_step,
    weight_gradient_log_norms,
)
from rnn_jax.gradients.spectra.covariant import (
    CovariantLyapunovVectors,
    covariant_lyapunov_vectors,
)
from rnn_jax.gradients.spectra.finite_time import (
    LocalLyapunovExponents,
    local_lyapunov_exponents,
)
from rnn_jax.gradients.spectra.lyapunov import LyapunovSpectrum, lyapunov_exponents
from rnn_jax.gradients.spectra.singular_values import jacobian_log_singular_values

__all__ = [
    "Attribution",
    "BackpropSignal",
    "Branch",
    "CovariantLyapunovVectors",
    "Estimate",
    "FixedPoints",
    "GradientFlow",
    "JacobianOperator",
    "Linearization",
    "LocalLyapunovExponents",
    "LyapunovSpectrum",
    "MeanField",
    "MemoryPath",
    "attribution",
    "backprop_signal",
    "backprop_signal_log_norms",
    "by_lag",
    "continue_fixed_points",
    "covariant_lyapunov_vectors",
    "estimate_jacobian_log_norms",
    "estimate_jacobian_log_singular_values",
    "fixed_points",
    "flossing_penalty",
    "gradient_flow",
    "input_jacobian",
    "jacobian_log_bound",
    "jacobian_log_norms",
    "jacobian_log_singular_values",
    "jacobian_operator",
    "linearize",
    "local_lyapunov_exponents",
    "lyapunov_exponents",
    "mean_field",
    "orthogonality_penalty",
    "sample_starts",
    "state_jacobian",
    "vanishing_penalty",
    "weight_gradient_by_step",
    "weight_gradient_log_norms",
]
