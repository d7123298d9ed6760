"""Every public name of the package, grouped as users think of them.

The reference is generated from this table, and a check holds that each public name stands in it
exactly once.
"""

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import rnn_jax
import rnn_jax.plotting

MODULES: dict[str, ModuleType] = {
    "rnn_jax": rnn_jax,
    "rnn_jax.tasks": rnn_jax.tasks,
    "rnn_jax.initializers": rnn_jax.initializers,
    "rnn_jax.convert": rnn_jax.convert,
    "rnn_jax.testing": rnn_jax.testing,
    "rnn_jax.plotting": rnn_jax.plotting,
}


@dataclass(frozen=True)
class Section:
    """Names that are read together.

    Attributes:
      title: of its table.
      names: with the module in front where it is not `rnn_jax` itself: "tasks.Adding".
    """

    title: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Group:
    """A page of the reference.

    Attributes:
      slug: its file name.
      title: its heading.
      about: a sentence or two.
      sections: its tables.
    """

    slug: str
    title: str
    about: str
    sections: tuple[Section, ...]


def section(title: str, names: str) -> Section:
    """A section from names with blanks between them."""
    return Section(title, tuple(names.split()))


GROUPS = (
    Group(
        "cells",
        "Cells",
        "Recurrent cells, what they are made of, and cells made from cells. The "
        "[catalogue](../cells/index.md) has each with its equations and its measured gradient map.",
        (
            section("The classics", "SimpleRNNCell LSTMCell GRUCell"),
            section(
                "Gates",
                "UGRNNCell MGUCell MinimalRNNCell FastGRNNCell LayerNormLSTMCell "
                "LayerNormGRUCell SLSTMCell MLSTMCell",
            ),
            section("Time scales", "LeakyIntegratorCell ClockworkRNNCell IndRNNCell EchoStateCell"),
            section("Orthogonal and unitary matrices", "ExpRNNCell ScoRNNCell UnitaryRNNCell"),
            section(
                "Differential equations",
                "AntisymmetricRNNCell CoRNNCell UnICORNNCell LEMCell CfCCell",
            ),
            section(
                "Linear recurrences",
                "MinGRUCell MinLSTMCell LRUCell S5Cell RGLRUCell LMUCell",
            ),
            section("Cells from cells", "LearnedCarry Zoneout RecurrentDropout StackedCell"),
            section("Your own", "RNNCell Cell as_cell LinearForm Activation leaky_relu"),
            section(
                "Held against the laws of cells",
                "testing.check_cell testing.CellReport testing.LawResult testing.LawError",
            ),
        ),
    ),
    Group(
        "sequences",
        "Sequences and models",
        "Run cells over sequences, forwards, backwards, in pieces, and put a readout on them.",
        (
            section("Running", "unroll unroll_method UnrollMethod"),
            section("In parallel over time", "newton_unroll NewtonSolution"),
            section("Models", "SequenceModel Bidirectional"),
            section("Readout by least squares", "ridge_readout RidgeReadout"),
            section("Weights on disk", "save load"),
        ),
    ),
    Group(
        "jacobians",
        "Jacobians through time",
        "How outputs and states depend on earlier inputs and states, as arrays, in log space, or "
        "without ever forming a matrix.",
        (
            section("In one call", "gradient_flow GradientFlow"),
            section("The record that all measures read", "linearize Linearization"),
            section("As arrays", "input_jacobian state_jacobian"),
            section("In log space", "jacobian_log_norms by_lag jacobian_log_singular_values"),
            section(
                "Without forming a matrix",
                "jacobian_operator JacobianOperator estimate_jacobian_log_norms "
                "estimate_jacobian_log_singular_values Estimate",
            ),
            section("Why", "attribution Attribution MemoryPath"),
            section("Theory", "activation_slope_range jacobian_log_bound mean_field MeanField"),
        ),
    ),
    Group(
        "signals",
        "Losses and weights",
        "How a loss reaches back, and which steps share in the gradient by the weights.",
        (
            section(
                "By the state",
                "backprop_signal BackpropSignal backprop_signal_log_norms",
            ),
            section("By the weights", "weight_gradient_by_step weight_gradient_log_norms"),
            section("Penalties", "vanishing_penalty flossing_penalty orthogonality_penalty"),
        ),
    ),
    Group(
        "dynamics",
        "Dynamical systems",
        "Lyapunov exponents and vectors, fixed points and their branches.",
        (
            section(
                "Lyapunov exponents",
                "lyapunov_exponents LyapunovSpectrum local_lyapunov_exponents "
                "LocalLyapunovExponents covariant_lyapunov_vectors CovariantLyapunovVectors",
            ),
            section(
                "Fixed points",
                "fixed_points FixedPoints sample_starts continue_fixed_points Branch",
            ),
        ),
    ),
    Group(
        "training",
        "Training",
        "Compiled training runs that resume bit for bit, of one model or of an ensemble.",
        (
            section("Runs", "fit FitResult History restore Terminated"),
            section("Ensembles", "ensemble member"),
            section(
                "Probes: measured inside the compiled loop",
                "GradientFlowProbe LyapunovProbe GateProbe Probe ProbeRecord",
            ),
            section("Objectives", "Term Flossing Vanishing Orthogonality WeightDecay"),
            section(
                "In your own loop", "record_gradient_norms recorded_gradient_norms project_updates"
            ),
        ),
    ),
    Group(
        "tasks",
        "Tasks and data",
        "Synthetic tasks with their sources and the loss of a predictor that remembers nothing; "
        "your own data.",
        (
            section(
                "Far apart",
                "tasks.Adding tasks.Multiplication tasks.TemporalOrder tasks.CopyMemory "
                "tasks.SelectiveCopy tasks.DelayedRecall tasks.DelayedXor tasks.Parity "
                "tasks.AssociativeRecall tasks.Dyck tasks.FlipFlop",
            ),
            section(
                "Dynamics",
                "tasks.SineForecast tasks.LorenzForecast tasks.MackeyGlassForecast "
                "tasks.TeacherRecall",
            ),
            section("Images, pixel by pixel", "tasks.SequentialDigits tasks.SequentialMNIST"),
            section("Your own", "tasks.Arrays tasks.Loader tasks.Task tasks.Batch"),
            section("Losses", "tasks.SquaredError tasks.CrossEntropy"),
        ),
    ),
    Group(
        "initializers",
        "Initializers",
        "Initial weights: by name, with arguments where a name has some, in every constructor and "
        "on the command line alike.",
        (
            section(
                "Kernels",
                "initializers.orthogonal initializers.identity initializers.gaussian "
                "initializers.critical initializers.sparse initializers.ring initializers.henaff "
                "initializers.hippo initializers.variance_scaling initializers.normal "
                "initializers.uniform initializers.uniform_to initializers.constant "
                "initializers.skew_cayley initializers.skew_henaff initializers.legs_matrix",
            ),
            section("Biases", "initializers.forget_bias initializers.chrono"),
            section(
                "Mean field",
                "initializers.critical_gain initializers.fixed_point_variance "
                "initializers.susceptibility initializers.gaussian_mean",
            ),
            section(
                "Names, and cells of your own",
                "initializers.get_initializer initializers.names initializers.initialize "
                "initializers.init_bias initializers.init_by_gate initializers.sets_gates "
                "initializers.MemoryGates initializers.Initializer initializers.InitializerLike "
                "initializers.Kind",
            ),
        ),
    ),
    Group(
        "convert",
        "Weights from other libraries",
        "Weights from PyTorch, Flax and Keras, and back.",
        (
            section("From", "convert.from_torch convert.from_flax convert.from_keras"),
            section("To", "convert.to_torch convert.to_flax convert.to_keras"),
        ),
    ),
    Group(
        "plotting",
        "Pictures",
        "Results in, matplotlib `Axes` out. The [gallery](../gallery.md) shows them all.",
        (
            section("Whole figures", "plotting.flow_figure plotting.training_figure"),
            section("Columns, pages, or your own style", "plotting.style"),
            section(
                "Gradients",
                "plotting.plot_log_norms plotting.plot_by_lag plotting.plot_attribution "
                "plotting.plot_singular_values plotting.plot_weight_shares",
            ),
            section(
                "Dynamics",
                "plotting.plot_exponents plotting.plot_local_exponents plotting.plot_fixed_points "
                "plotting.plot_gates",
            ),
            section(
                "Training",
                "plotting.plot_learning plotting.plot_flow_while_learning plotting.plot_terms",
            ),
        ),
    ),
)


def resolve(name: str) -> Any:
    """What "tasks.Adding" stands for."""
    value: Any = rnn_jax
    for part in name.split("."):
        value = getattr(value, part)
    return value


def grouped() -> list[str]:
    """Every name of the table, in its order."""
    return [name for group in GROUPS for part in group.sections for name in part.names]


def public() -> set[str]:
    """Every public name of the package, in the table's form.

    Submodules are places, and constants stand in the docstring of the function that has them.
    """
    found = set()
    for path, module in MODULES.items():
        inside = path.removeprefix("rnn_jax").lstrip(".")
        for name in module.__all__:
            if not isinstance(getattr(module, name), ModuleType | float | dict):
                found.add(f"{inside}.{name}" if inside else name)
    return found
