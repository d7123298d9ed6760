"""Mean-field theory of wide networks with Gaussian weights: where gradients keep their size.

h_t = φ(u_t),  u_t = W h_{t−1} + s_t,  W_ij ~ N(0, σ_w²/H),  s_t of variance σ_s², new at each step

As H grows, the units' pre-activations become Gaussian with variance

q' = σ_w² E φ(√q z)² + σ_s²,    z ~ N(0, 1)

and the mean squared singular value of a step's Jacobian ∂h_t/∂h_{t−1} becomes

χ = σ_w² E φ'(√q z)²

so that gradients shrink by √χ a step where χ is below 1 and grow above: χ = 1 is critical.

References:
  B. Poole et al., "Exponential expressivity in deep neural networks through transient chaos", 2016.
  S. Schoenholz et al., "Deep information propagation", 2017.
  M. Chen, J. Pennington and S. Schoenholz, "Dynamical isometry and a mean field theory of RNNs:
  gating enables signal propagation in recurrent neural networks", 2018.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.activations import ActivationLike, get_activation
from rnn_jax.checks import check_not_negative

# The trapezoid rule: on functions that are smooth and vanish at both ends it converges as fast as
# Gauss–Hermite does, and on steep ones, tanh(√q z) at large q, far faster. No node lies at 0, where
# the slopes of ReLU and its like jump, and as many on one side as on the other.
_STEP = 1 / 128
_NODES = (np.arange(-1536, 1536) + 0.5) * _STEP
_WEIGHTS = np.exp(-0.5 * _NODES**2) * (_STEP / math.sqrt(2 * math.pi))

# How far variances are looked for above that of the source, and one that stands for 0, where slopes
# may differ from side to side.
_ABOVE = np.geomspace(1e-14, 1e8, 133)
_ZERO = 1e-30


def gaussian_mean(function: Callable[[np.ndarray], Any], variance: Any) -> Any:
    """The mean of a function of a Gaussian number.

    E f(√q z),    z ~ N(0, 1)

    in float64, by the trapezoid rule.

    Args:
      function: f, of a NumPy array, element by element.
      variance: q, at least 0; one, or an array of any shape.

    Returns:
      The means, of the shape of `variance`. Where f jumps elsewhere than at 0, to about 1e-3 of
      the jump; of smooth functions to rounding.

    Example:
      >>> mean = rj.initializers.gaussian_mean(np.square, [0.5, 2.0])  # the variances themselves
      >>> mean.round(6).tolist()
      [0.5, 2.0]
    """
    values = function(np.sqrt(variance)[..., None] * _NODES)
    return np.asarray(values, np.float64) @ _WEIGHTS


def fixed_point_variance(
    gain: float, activation: ActivationLike, source_variance: float = 0.0
) -> float:
    """The variance of pre-activations that a wide network comes to from a state of 0.

    q = σ_w² E φ(√q z)² + σ_s²,    z ~ N(0, 1)

    Args:
      gain: σ_w.
      activation: φ, by name, as an `Activation`, or any callable that acts element by element.
      source_variance: σ_s², of what biases and inputs add to a pre-activation.

    Returns:
      The smallest such q, a Python float; infinity if it grows without bound.

    Raises:
      ValueError: a number below 0 or not finite, or an unknown name.
      TypeError: no number, or no activation.

    Example:
      >>> round(rj.initializers.fixed_point_variance(0.5, "identity", 0.3), 4)  # 0.3 / (1 − 0.5²)
      0.4
      >>> rj.initializers.fixed_point_variance(1.0, "identity", 0.3)  # grows at each step
      inf

    References:
      B. Poole et al., "Exponential expressivity in deep neural networks through transient chaos",
      2016.
    """
    means = _means_of(get_activation(activation))
    square = check_not_negative("gain", gain) ** 2
    source = check_not_negative("source_variance", source_variance)

    def growth(q: Any) -> Any:
        return square * means(q)[0] + source - q

    if growth(0.0) <= 0:
        return 0.0
    return first_root(growth, np.concatenate([[0.0], source + _ABOVE]))


def susceptibility(gain: float, activation: ActivationLike, source_variance: float = 0.0) -> float:
    """What a step multiplies squared gradients by in a wide network.

    χ = σ_w² E φ'(√q z)²,    z ~ N(0, 1)

    at the fixed point q of `fixed_point_variance`: gradients shrink by √χ a step below χ = 1, and
    grow above.

    Args:
      gain: σ_w.
      activation: φ, by name, as an `Activation`, or any callable that acts element by element.
      source_variance: σ_s², of what biases and inputs add to a pre-activation.

    Returns:
      χ, a Python float; where q is 0 or infinite, its limit from above or below.

    Raises:
      ValueError, TypeError: as `fixed_point_variance`.

    Example:
      >>> round(rj.initializers.susceptibility(0.9, "tanh"), 4)  # 0.9²
      0.81

    References:
      S. Schoenholz et al., "Deep information propagation", 2017.
    """
    q = fixed_point_variance(gain, activation, source_variance)
    within = min(max(q, _ZERO), _ABOVE[-1])
    return float(gain**2 * _means_of(get_activation(activation))(within)[1])


def critical_gain(
    activation: ActivationLike = "tanh", bias_variance: float = 0.0, input_variance: float = 0.0
) -> float:
    """The smallest gain at which gradients of a wide network neither vanish nor explode.

    σ_w² E φ'(√q z)² = 1,    q = σ_w² E φ(√q z)² + σ_b² + σ_x²,    z ~ N(0, 1)

    the first being χ = 1 for the `susceptibility` χ. Without biases and inputs the gain is 1 for
    tanh and the identity and √2 for ReLU.

    Args:
      activation: φ, by name, as an `Activation`, or any callable that acts element by element.
      bias_variance: σ_b², of the biases.
      input_variance: σ_x², of x W_x, which the inputs add to a unit's pre-activation.

    Returns:
      σ_w as a Python float.

    Raises:
      ValueError: a variance below 0, an unknown name, or no such gain (ReLU with inputs, whose
        variance grows at each step).
      TypeError: a variance that is no number, an activation that is neither a name nor callable.

    Example:
      >>> round(rj.initializers.critical_gain("relu"), 4)  # √2
      1.4142
      >>> rj.initializers.critical_gain("tanh", input_variance=0.1) > 1  # inputs lower its slopes
      True

    References:
      M. Chen, J. Pennington and S. S. Schoenholz, "Dynamical isometry and a mean field theory of
      RNNs: gating enables signal propagation in recurrent neural networks", 2018.
    """
    source = check_not_negative("bias_variance", bias_variance) + check_not_negative(
        "input_variance", input_variance
    )
    known = get_activation(activation)
    means = _means_of(known)
    squared_slope = means(_ZERO)[1]
    if source == 0 and means(0.0)[0] == 0 and squared_slope > 0:
        # A network of which nothing drives the state stays where it starts, at q = 0.
        return float(1 / np.sqrt(squared_slope))

    def gain(q: Any) -> Any:
        """That of which q is a fixed point."""
        return np.sqrt((q - source) / means(q)[0])

    def below(q: Any) -> Any:
        """Of the sign of 1 − χ at that gain."""
        square, squared_slope = means(q)
        return square - (q - source) * squared_slope

    grid = source + _ABOVE
    q = first_root(below, grid)
    # A network of this gain must not come to a smaller fixed point first.
    if q < math.inf and gain(grid[grid < q]).max(initial=0.0) <= gain(q):
        return float(gain(q))
    name = getattr(known, "name", repr(known))
    raise ValueError(
        "a critical gain needs pre-activations whose variance comes to a fixed point with χ = 1; "
        f"got {name} with biases and inputs of variance {source:g} together, for which there is "
        "none. Pass variances of 0, or another activation."
    )


def _means_of(activation: Callable[..., Any]) -> Callable[[Any], tuple[Any, Any]]:
    """(E φ², E φ'²) by variance, whatever type JAX computes in and whatever is being traced."""

    def both(u: np.ndarray) -> np.ndarray:
        with jax.enable_x64(True), jax.ensure_compile_time_eval():
            at = jnp.asarray(u, jnp.float64)
            values, slopes = jax.jvp(activation, (at,), (jnp.ones_like(at),))
            return np.stack([np.asarray(values), np.asarray(slopes)]) ** 2

    def means(variance: Any) -> tuple[Any, Any]:
        square, squared_slope = gaussian_mean(both, variance)
        return square, squared_slope

    return means


def first_root(function: Callable[[Any], Any], grid: np.ndarray) -> float:
    """Where a function that is above 0 first comes to 0, to rounding; infinity if nowhere."""
    at_or_below = np.flatnonzero(function(grid) <= 0)
    if at_or_below.size == 0:
        return math.inf
    end = at_or_below[0]
    low, high = float(grid[max(end - 1, 0)]), float(grid[end])
    # Of one number and of many a program may differ by rounding, and so in sign at a root.
    if function(low) <= 0:
        return float(low)
    if function(high) >= 0:
        return float(high)
    # Imported here: it would make up a good part of the package's own import.
    from scipy.optimize import brentq

    return float(brentq(function, low, high, xtol=1e-30))
