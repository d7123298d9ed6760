"""Initial weights: what they are drawn from, by factory or by name, and how gate by gate.

Each factory gives an initialiser (key, shape, dtype) -> array that can be compared, hashed and
pickled. Constructors of cells and the command line take its name as well, with its arguments, as in
"gaussian(1.5)"; see `rnn_jax.initializers.named`.
"""

from rnn_jax.initializers.drawing import (
    Initializer,
    InitializerLike,
    init_bias,
    init_by_gate,
    initialize,
)
from rnn_jax.initializers.entries import (
    constant,
    critical,
    gaussian,
    normal,
    uniform,
    uniform_to,
    variance_scaling,
)
from rnn_jax.initializers.gate_biases import MemoryGates, chrono, forget_bias
from rnn_jax.initializers.hippo import legs_matrix
from rnn_jax.initializers.matrices import (
    henaff,
    hippo,
    identity,
    orthogonal,
    ring,
    sparse,
)
from rnn_jax.initializers.mean_field import (
    critical_gain,
    fixed_point_variance,
    gaussian_mean,
    susceptibility,
)
from rnn_jax.initializers.named import Kind, get_initializer, names, sets_gates
from rnn_jax.initializers.skew import skew_cayley, skew_henaff

__all__ = [
    "Initializer",
    "InitializerLike",
    "Kind",
    "MemoryGates",
    "chrono",
    "constant",
    "critical",
    "critical_gain",
    "fixed_point_variance",
    "forget_bias",
    "gaussian",
    "gaussian_mean",
    "get_initializer",
    "henaff",
    "hippo",
    "identity",
    "init_bias",
    "init_by_gate",
    "initialize",
    "legs_matrix",
    "names",
    "normal",
    "orthogonal",
    "ring",
    "sets_gates",
    "skew_cayley",
    "skew_henaff",
    "sparse",
    "susceptibility",
    "uniform",
    "uniform_to",
    "variance_scaling",
]
