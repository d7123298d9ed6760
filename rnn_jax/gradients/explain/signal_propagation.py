"""What mean-field theory says of one network at initialization, from its weights.

Weights are those of a wide random network: each matrix that multiplies the state is read by its
gain alone, σ_w² = ‖W‖_F²/H. What the theory of each kind of cell is stands in the functions below.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from rnn_jax.activations import acts_by_element
from rnn_jax.cells.claims import holds, owner_of
from rnn_jax.cells.gru import GRUCell
from rnn_jax.cells.lstm import LSTMCell
from rnn_jax.cells.minimal_rnn import MinimalRNNCell
from rnn_jax.cells.simple import SimpleRNNCell
from rnn_jax.checks import check_not_negative, kind_of
from rnn_jax.initializers.mean_field import (
    critical_gain,
    first_root,
    fixed_point_variance,
    gaussian_mean,
    susceptibility,
)

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
      b̄ and variance σ_b² of the biases and σ_x² = v ‖W_x‖_F²/H for inputs of variance v.
    - `MinimalRNNCell`: with u = σ(b + √q z) and R = E tanh(x W_x)², q = σ_w² Q + σ_v² R,
      (1 − E u²) Q = E(1 − u)² R, χ = E u² + σ_w² E[u²(1 − u)²] (Q + R). That gates
      remember is left out, as in the paper: a λ₁ measured at 512 units is .01 to .03 larger.
    - `GRUCell` and `LSTMCell`: at rest, without inputs, q = 0. States are handed on with
      u + (1 − u) r σ_w e^{iθ} in a GRU and f + i o σ_w e^{iθ} in an LSTM, so that
      λ₁ = ln(u + (1 − u) r σ_w), critical at σ_w = 1/r, whatever u, and
      λ₁ = ln(f + i o σ_w), critical at (1 − f)/(i o). The spectral radius of a step sets λ₁, not
      χ, because every step is the same; length = 1/|2 λ₁|. Above the critical gain the network
      leaves rest, and what is said holds as long as it is near.

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
    return MeanField(
        kind.__name__, own.hidden_features, read, *_THEORIES[kind](own, read, variance)
    )


def _of_simple(cell: SimpleRNNCell, gain: float, variance: float) -> tuple[float, ...]:
    """q, χ, the critical gain and λ₁ of a simple recurrent network."""
    _check_by_element(cell, "activation")
    biases = _array("bias", cell.bias)
    mean = float(biases.mean()) if biases.size else 0.0
    of_biases = float(biases.var()) if biases.size else 0.0
    of_inputs = variance * _square_gain(_array("kernel", cell.kernel))

    def activation(u: jax.Array) -> jax.Array:
        return cell.activation(u + mean)

    phi: Any = activation if mean else cell.activation
    source = of_biases + of_inputs
    chi = susceptibility(gain, phi, source)
    try:
        critical = critical_gain(phi, of_biases, of_inputs)
    except ValueError:  # There is none, all arguments being numbers.
        critical = math.inf
    return fixed_point_variance(gain, phi, source), chi, critical, 0.5 * _log(chi)


def _of_minimal(cell: MinimalRNNCell, gain: float, variance: float) -> tuple[float, ...]:
    """The same of a minimalRNN; its gate's biases unit by unit."""
    spread = np.sqrt(variance * np.sum(_array("kernel", cell.kernel) ** 2, axis=0))
    drive = float(np.mean(gaussian_mean(lambda u: np.tanh(u) ** 2, spread**2)))
    source = _square_gain(_array("input_kernel", cell.input_kernel)) * drive
    biases = _array("bias", cell.bias)
    distinct, counts = np.unique(biases if biases.size else np.zeros(1), return_counts=True)
    shares = counts / counts.sum()

    @functools.cache
    def by_unit(q: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """1 − E u², E[u²(1 − u)²] and Q = E h² of units with each of the biases."""

        def powers(u: np.ndarray) -> np.ndarray:
            gate, rest = _gate(u + distinct[:, None])
            return np.stack([rest * (1 + gate), (gate * rest) ** 2, rest**2])

        lost, slopes, taken = gaussian_mean(powers, q)
        return lost, slopes, drive * taken / lost

    def square(q: Any) -> Any:
        """Q of a network whose gates' pre-activations have this variance."""
        return np.vectorize(lambda one: shares @ by_unit(one)[2])(q)

    def chi(q: float, gain: float) -> float:
        lost, slopes, squares = by_unit(q)
        return float(shares @ (1 - lost + gain**2 * slopes * (squares + drive)))

    # No state is larger than what drives it, and one that gates keep out may be far smaller.
    reach = gain**2 * drive * np.geomspace(1e-6, 1.001, 25)
    q = first_root(
        lambda q: gain**2 * square(q) + source - q, source + np.concatenate([[0.0], reach])
    )
    lost, slopes, squares = by_unit(q)
    growth = _largest_root(1 - lost, gain**2 * slopes * (squares + drive), shares, 1)
    critical = math.inf
    if drive > 0:

        def gain_of(q: Any) -> Any:
            """That of which q is a fixed point."""
            return np.sqrt((q - source) / square(q))

        above = drive * np.geomspace(1e-6, 1e6, 37)
        at = first_root(np.vectorize(lambda q: 1 - chi(q, float(gain_of(q)))), source + above)
        if at < math.inf:
            # A gain that has a smaller fixed point comes to that one first.
            critical = max(float(gain_of(at)), _peak(gain_of, source, above[source + above < at]))
    return q, chi(q, gain), critical, 0.5 * _log(growth)


def _of_gru(cell: GRUCell, gain: float, variance: float) -> tuple[float, ...]:
    """The same of a GRU at rest."""
    gates, slope = _at_rest(cell, variance)
    r, u = gates["reset"], gates["update"]
    moved = slope * (1 - u) * r
    squared = np.mean(moved**2)
    if not cell.reset_after:  # The two gates stand on either side of the weights.
        squared = slope**2 * np.mean((1 - u) ** 2) * np.mean(r**2)
    chi = np.mean(u**2) + gain**2 * squared
    critical = _inverse(slope * math.sqrt(np.mean(r**2)))
    return 0.0, float(chi), critical, _log(_radius(u, gain * moved))


def _of_lstm(cell: LSTMCell, gain: float, variance: float) -> tuple[float, ...]:
    """The same of an LSTM at rest; χ over both parts of its carry."""
    gates, slope = _at_rest(cell, variance)
    i, o = gates["input"], gates["output"]
    f = gates.get("forget", np.ones_like(i))
    out = slope * o
    chi = np.mean((1 + out**2) * (f**2 + (gain * slope * i) ** 2)) / 2
    with np.errstate(divide="ignore"):  # What forgets nothing is critical without weights.
        critical = _inverse(math.sqrt(np.mean((slope * i * out / (1 - f)) ** 2)))
    return 0.0, float(chi), critical, _log(_radius(f, gain * slope * i * out))


_THEORIES: dict[type, Callable[[Any, float, float], tuple[float, ...]]] = {
    SimpleRNNCell: _of_simple,
    MinimalRNNCell: _of_minimal,
    GRUCell: _of_gru,
    LSTMCell: _of_lstm,
}


def _peak(function: Callable[[Any], Any], source: float, above: np.ndarray) -> float:
    """The largest value inside a grid of distances from `source`; 0 if it lies at an end."""
    values = function(source + above)
    if above.size < 3 or (at := int(np.argmax(values))) in (0, above.size - 1):
        return 0.0
    from scipy.optimize import minimize_scalar

    bounds = np.log(above[[at - 1, at + 1]])
    found = minimize_scalar(
        lambda log: -float(function(source + math.exp(log))), bounds=bounds, method="bounded"
    )
    return -float(found.fun)


def _at_rest(cell: Any, variance: float) -> tuple[dict[str, np.ndarray], float]:
    """The gates at rest, and the slope there of what is between them."""
    name = type(cell).__name__
    if variance > 0:
        raise ValueError(
            f"mean_field needs a {name} without inputs; got input_variance={variance:g}. "
            "Leave it out, or measure: rj.lyapunov_exponents(cell, xs)."
        )
    if getattr(cell, "projection", None) is not None:
        raise ValueError(
            "mean_field needs a state that recurrent weights see as it is; got an LSTMCell with a "
            f"projection to {cell.projection} features. Build it with projection=None."
        )
    _check_by_element(cell, "activation_fn")
    x = jnp.zeros((cell.in_features,), cell.param_dtype)
    rest = cell.initialize_carry((cell.in_features,))
    of_state = _array("bias", getattr(cell, "candidate_recurrent_bias", None))
    after, _ = cell(rest, x)
    moved = max(float(jnp.abs(part).max()) for part in jax.tree.leaves(after))
    if moved > 0 or np.any(of_state):
        raise ValueError(
            f"mean_field needs a {name} that stays at rest; got one that a step without inputs "
            f"moves by up to {moved:g}, or whose candidate has biases. Set the candidate's biases "
            "to 0, and take an activation_fn that is 0 at 0."
        )
    gates = {key: np.asarray(value, np.float64) for key, value in cell.gates(rest, x).items()}
    low = min(float(gate.min()) for gate in gates.values())
    if low < 0:
        raise ValueError(
            f"mean_field needs gates of at least 0 at rest; got {low:g}. Take a gate_fn such as "
            '"sigmoid".'
        )
    zero = jnp.zeros((), cell.param_dtype)
    slope = jax.jvp(cell.activation_fn, (zero,), (jnp.ones_like(zero),))[1]
    return gates, abs(float(slope))


def _radius(kept: np.ndarray, moved: np.ndarray) -> float:
    """The spectral radius of diag(kept) + diag(moved) G, for G wide, random and of gain 1.

    The edge is where E[moved²/|z − kept|²] = 1, and farthest out on the positive real axis.
    """
    return _largest_root(kept, moved**2, np.full(kept.size, 1 / kept.size), 2)


def _largest_root(poles: np.ndarray, weights: np.ndarray, shares: np.ndarray, power: int) -> float:
    """The largest x with Σ share · weight / (x − pole)^power = 1, all of them at least 0.

    Not below any of the poles, which are eigenvalues themselves where they have no weight.
    """
    some = shares * weights > 0
    if not some.any():
        return float(poles.max())
    at, mass = poles[some], (shares * weights)[some]
    last = np.argmax(at)

    def above(x: Any) -> Any:
        return np.sum(mass / (np.asarray(x)[..., None] - at) ** power, axis=-1) - 1

    # One term alone is less than all of them; all of them at the largest pole are more.
    low = float(at[last] + (mass[last] * (1 - 1e-12)) ** (1 / power))
    high = float(at[last] + (mass.sum() * (1 + 1e-9)) ** (1 / power))
    return max(float(poles.max()), first_root(above, np.array([low, high])))


def _known(cell: Any) -> tuple[Any, type]:
    """The cell itself and which of the four it is; raises unless its step is that of its kind."""
    own = owner_of(cell)
    maker = next((kind for kind in type(own).__mro__ if "fused_form" in vars(kind)), None)
    bound = type(cell) is Partial and (cell.args or cell.keywords)
    if maker not in _THEORIES or bound or not holds(own, "fused_form"):
        raise ValueError(
            "mean_field needs a cell whose theory it knows: SimpleRNNCell, MinimalRNNCell, GRUCell "
            f"or LSTMCell; got {kind_of(own)}"
            f"{' with a step of its own' if maker in _THEORIES else ''}. Measure instead: "
            "rj.lyapunov_exponents(cell, xs, k=1)."
        )
    return own, maker


def _state_block(cell: Any) -> np.ndarray:
    """The weights whose gain is asked for, (H, H): the candidate's, or the only ones."""
    kernel, size = _array("recurrent_kernel", cell.recurrent_kernel), cell.hidden_features
    at = cell.blocks.index("candidate") if "candidate" in cell.blocks else 0
    return kernel[:, at * size : (at + 1) * size]


def _array(name: str, weights: Any) -> np.ndarray:
    """Weights in float64; empty where a cell has none."""
    if weights is None:
        return np.zeros(0)
    values = weights[...]
    if isinstance(values, jax.core.Tracer):
        raise TypeError(
            f"mean_field needs weights whose values are known; got a traced {name}. Call it "
            "outside of jax.jit, jax.vmap and jax.grad."
        )
    array = np.asarray(values, np.float64)
    if array.ndim > (1 if "bias" in name else 2):
        raise ValueError(
            f"mean_field needs the weights of one network; got a {name} of shape {array.shape}. "
            "Take a member of the ensemble: rj.member(model, 0)."
        )
    if not np.isfinite(array).all():
        raise ValueError(
            f"mean_field needs finite weights; got a {name} with NaN or infinity. Build the cell "
            "anew, or restore one from before it diverged."
        )
    return array


def _square_gain(kernel: np.ndarray) -> float:
    """What a matrix makes of the variance of wide signals: ‖W‖_F² by columns."""
    return float(np.sum(kernel**2) / kernel.shape[1])


def _random_gain(kernel: np.ndarray) -> float:
    """σ_w of weights that are like random ones; raises where they are not."""
    gain = math.sqrt(_square_gain(kernel))
    trace, norm = abs(float(np.trace(kernel))), float(np.linalg.norm(kernel, 2))
    if trace > _TRACE * gain or norm > _NORM * gain:
        raise ValueError(
            "mean_field needs recurrent weights that are like random ones, with a trace of no more "
            f"than {_TRACE:g} and singular values of no more than {_NORM:g} times their gain; got "
            f"a trace of {trace:.3g} and a largest singular value of {norm:.3g} at a gain of "
            f'{gain:.3g}. Initialize them as "gaussian(1.0)" or "orthogonal", or pass gain=.'
        )
    return gain


def _check_by_element(cell: Any, name: str) -> None:
    """Raises unless an activation acts unit by unit."""
    activation = getattr(cell, name)
    if not acts_by_element(activation, cell.hidden_features, cell.param_dtype):
        raise ValueError(
            f"mean_field needs an {name} that acts element by element; got "
            f"{getattr(activation, 'name', repr(activation))}, which mixes units or may do so. "
            'Take one such as "tanh".'
        )


def _gate(u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """σ(u) and 1 − σ(u), both to all their digits."""
    small = np.exp(-np.abs(u))
    near, far = 1 / (1 + small), small / (1 + small)
    return np.where(u > 0, near, far), np.where(u > 0, far, near)


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def _inverse(value: float) -> float:
    return 1 / value if value > 0 else math.inf
