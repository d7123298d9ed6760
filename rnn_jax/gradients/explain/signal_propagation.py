"""What mean-field theory says of one network at initialization, from its weights.

Weights are those of a wide random network: each matrix that multiplies the state is read by its
gain alone, σ_w² = ‖W‖_F²/H. The theory of each kind of cell stands in `wide_networks`.
"""

import dataclasses
import math
from typing import Any

import numpy as np
from jax.tree_util import Partial

from rnn_jax.cells.claims import holds, owner_of
from rnn_jax.checks import check_not_negative, kind_of
from rnn_jax.gradients.explain.wide_networks import THEORIES, array_of, square_gain

# By how many standard deviations of a random matrix's trace one may differ from 0, and by how many
# gains its largest singular value may differ: 2 in a wide Gaussian matrix, 1 in an orthogonal one.
_TRACE = 5.0
_NORM = 3.0


@dataclasses.dataclass(frozen=True)
class MeanField:
    """What theory says of a wide network with the gains of a given one; see `mean_field`.

    Attributes:
      cell: the kind of cell.
      hidden_features: H of the given network; theory is that of H → ∞.
      gain: σ_w, of the matrix that multiplies the state: in a GRU or an LSTM the candidate's, in a
        minimalRNN the gate's.
      variance: q, of the pre-activations that see the state, at the fixed point; 0 at rest.
      chi: χ, the mean squared singular value of a step's Jacobian at the fixed point.
      critical_gain: the σ_w at which gradients neither vanish nor explode, all else the same;
        infinity if there is none.
      exponent: λ₁, the leading Lyapunov exponent, nats a step.

    Example:
      >>> narrow = rj.SimpleRNNCell(
      ...     2, 64, recurrent_kernel_init="orthogonal(0.9)", rngs=nnx.Rngs(0)
      ... )
      >>> theory = rj.mean_field(narrow)
      >>> round(theory.chi, 2), round(theory.length, 2)  # 0.9², and 1/|ln 0.9²|
      (0.81, 4.75)
      >>> print(theory.summary())
      SimpleRNNCell, H = 64: σ_w 0.900 (critical 1.000), q 0, χ 0.8100; gradients shrink, λ₁ -0.1054
      nats a step, trainable length 4.7 steps
    """

    cell: str
    hidden_features: int
    gain: float
    variance: float
    chi: float
    critical_gain: float
    exponent: float

    @property
    def length(self) -> float:
        """1/|2 λ₁|, steps over which squared gradients change by a factor of e.

        Networks learn dependencies over some multiples of it: the predicted trainable length.
        """
        return math.inf if self.exponent == 0 else 1 / abs(2 * self.exponent)

    def summary(self) -> str:
        """All of it in a line."""
        way = "grow" if self.exponent > 0 else "shrink" if self.exponent < 0 else "keep their size"
        return (
            f"{self.cell}, H = {self.hidden_features}: σ_w {self.gain:.3f} (critical "
            f"{self.critical_gain:.3f}), q {self.variance:.3g}, χ {self.chi:.4f}; gradients {way}, "
            f"λ₁ {self.exponent:.4f} nats a step, trainable length {self.length:.1f} steps"
        )


def mean_field(cell: Any, *, input_variance: float = 0.0, gain: float | None = None) -> MeanField:
    """What mean-field theory says of one network at initialization: do gradients keep their size?

    χ = E ‖∂h_t/∂h_{t−1}‖_F² / H,    λ₁ = ½ ln χ,    length = 1/|ln χ|

    of a network as wide as you like, whose weights have the variances of the given one's and whose
    inputs are independent in time and of mean 0. By kind of cell, with z ~ N(0, 1):

    - `SimpleRNNCell`: q = σ_w² E φ(b̄ + √q z)² + σ_b² + σ_x², χ = σ_w² E φ'(b̄ + √q z)², with mean
      b̄ and variance σ_b² of the biases and σ_x² = v ‖W_x‖_F²/H for inputs of variance v; the
      smallest such q, which without biases and inputs is that of rest, 0, at any gain.
    - `MinimalRNNCell`: with u = σ(b + √q z) and R = E tanh(x W_x)², q = σ_w² Q + σ_v² R,
      (1 − E u²) Q = E(1 − u)² R, χ = E u² + σ_w² E[u²(1 − u)²] (Q + R). That gates remember is left
      out, as in the paper: a λ₁ measured at 512 units is about .01 to .02 larger with biases of 0,
      and up to .03 smaller with those of "chrono", so that theory may say that gradients grow where
      they keep their size.
    - `GRUCell` and `LSTMCell`: at rest, without inputs, q = 0. States are handed on with
      u + (1 − u) r σ_w e^{iθ} in a GRU and f + i o σ_w e^{iθ} in an LSTM, so that
      λ₁ = ln(u + (1 − u) r σ_w), critical at σ_w = 1/r, whatever u, and
      λ₁ = ln(f + i o σ_w), critical at (1 − f)/(i o). The spectral radius of a step sets λ₁, not
      χ, because every step is the same; length = 1/|2 λ₁|. Above the critical gain the network
      leaves rest, and what is said holds as long as it is near. With `truncated=True` the gradient
      of an LSTM goes back along c alone, and λ₁ = ln f at any gain.

    Biases of gates count unit by unit, as "chrono(1, 100)" sets them.

    Args:
      cell: one of these four, or a subclass with the same step, whose recurrent weights are random:
        Gaussian, orthogonal, uniform.
      input_variance: v, of each feature of the inputs.
      gain: σ_w to take in place of that of the weights.

    Returns:
      `MeanField`. Of H units it is wrong by about 1/√H.

    Raises:
      ValueError: a cell of another kind or with a step of its own, weights that are not like random
        ones (the identity, a trained low rank) or not finite, an ensemble, a projection, an
        activation that mixes units, a GRU or LSTM with inputs or whose rest is no fixed point, a
        number below 0.
      TypeError: no number, or weights that are being traced.

    Example:
      >>> gru = rj.GRUCell(2, 64, rngs=nnx.Rngs(0))
      >>> theory = rj.mean_field(gru)
      >>> round(theory.critical_gain, 3), round(theory.exponent, 3)  # 1/r, ln(u + (1 − u) r)
      (2.0, -0.288)
      >>> rest = rj.lyapunov_exponents(gru, jnp.zeros((400, 2)), k=1)  # measured
      >>> bool(abs(rest.exponents[0] - theory.exponent) < 0.05)
      True

    References:
      M. Chen, J. Pennington and S. S. Schoenholz, "Dynamical isometry and a mean field theory of
      RNNs: gating enables signal propagation in recurrent neural networks", 2018.
      T. Can, K. Krishnamurthy and D. J. Schwab, "Gating creates slow modes and controls
      phase-space complexity in GRUs and LSTMs", 2020.
    """
    own, kind = _known(cell)
    variance = check_not_negative("input_variance", input_variance)
    block = _state_block(own)
    read = _random_gain(block) if gain is None else check_not_negative("gain", gain)
    return MeanField(kind.__name__, own.hidden_features, read, *THEORIES[kind](own, read, variance))


def _known(cell: Any) -> tuple[Any, type]:
    """The cell itself and which of the four it is; raises unless its step is that of its kind."""
    own = owner_of(cell)
    maker = next((kind for kind in type(own).__mro__ if "fused_form" in vars(kind)), None)
    bound = type(cell) is Partial and (cell.args or cell.keywords)
    measure = "Take a layer, such as .cells[0], or measure" if hasattr(own, "cells") else "Measure"
    if maker not in THEORIES or bound or not holds(own, "fused_form"):
        raise ValueError(
            "mean_field needs a cell whose theory it knows: SimpleRNNCell, MinimalRNNCell, GRUCell "
            f"or LSTMCell; got {kind_of(own)}"
            f"{' with a step of its own' if maker in THEORIES else ''}. "
            f"{measure}: rj.lyapunov_exponents(cell, xs, k=1)."
        )
    return own, maker


def _state_block(cell: Any) -> np.ndarray:
    """The weights whose gain is asked for, (H, H): the candidate's, or the only ones."""
    kernel, size = array_of("recurrent_kernel", cell.recurrent_kernel), cell.hidden_features
    at = cell.blocks.index("candidate") if "candidate" in cell.blocks else 0
    return kernel[:, at * size : (at + 1) * size]


def _random_gain(kernel: np.ndarray) -> float:
    """σ_w of weights that are like random ones; raises where they are not."""
    gain = math.sqrt(square_gain(kernel))
    trace, norm = abs(float(np.trace(kernel))), float(np.linalg.norm(kernel, 2))
    if trace > _TRACE * gain or norm > _NORM * gain:
        raise ValueError(
            "mean_field needs recurrent weights that are like random ones, with a trace of no more "
            f"than {_TRACE:g} and singular values of no more than {_NORM:g} times their gain; got "
            f"a trace of {trace:.3g} and a largest singular value of {norm:.3g} at a gain of "
            f'{gain:.3g}. Initialize them as "gaussian(1.0)" or "orthogonal", or pass gain=.'
        )
    return gain
