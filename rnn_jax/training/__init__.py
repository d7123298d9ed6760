"""Training loops that survive: ensembles in one program, records, checkpoints, probes, devices."""

from rnn_jax.training.disk.restore import restore
from rnn_jax.training.disk.weights_file import load, save
from rnn_jax.training.ensemble import ensemble, member
from rnn_jax.training.fit import FitResult, fit
from rnn_jax.training.history import History, ProbeRecord
from rnn_jax.training.objective.penalty_terms import Flossing, Orthogonality, Vanishing, WeightDecay
from rnn_jax.training.objective.terms import Term
from rnn_jax.training.parameters.monitoring import (
    GradientNorms,
    record_gradient_norms,
    recorded_gradient_norms,
)
from rnn_jax.training.parameters.projection import project_updates
from rnn_jax.training.probes import GateProbe, GradientFlowProbe, LyapunovProbe, Probe
from rnn_jax.training.stopping import Terminated

__all__ = [
    "FitResult",
    "Flossing",
    "GateProbe",
    "GradientFlowProbe",
    "GradientNorms",
    "History",
    "LyapunovProbe",
    "Orthogonality",
    "Probe",
    "ProbeRecord",
    "Term",
    "Terminated",
    "Vanishing",
    "WeightDecay",
    "ensemble",
    "fit",
    "load",
    "member",
    "project_updates",
    "record_gradient_norms",
    "recorded_gradient_norms",
    "restore",
    "save",
]
