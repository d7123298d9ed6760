"""Wide random networks: what mean-field theory says of each kind of cell, from its weights."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.activations import acts_by_element
from rnn_jax.cells.gru import GRUCell
from rnn_jax.cells.lstm import LSTMCell
from rnn_jax.cells.minimal_rnn import MinimalRNNCell
from rnn_jax.cells.simple import SimpleRNNCell
from rnn_jax.initializers.mean_field import (
    critical_gain,
    first_root,
    fixed_point_variance,
    gaussian_mean,
    susceptibility,
)


def _of_simple(cell: SimpleRNNCell, gain: float, variance: float) -> tuple[float, ...]:
    """q, χ, the critical gain and λ₁ of a simple recurrent network."""
    _check_by_element(cell, "activation")
    biases = array_of("bias", cell.bias)
    mean = float(biases.mean()) if biases.size else 0.0
    of_biases = float(biases.var()) if biases.size else 0.0
    of_inputs = variance * square_gain(array_of("kernel", cell.kernel))

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
    """The same of a minimalRNN."""
    squares = variance * np.sum(array_of("kernel", cell.kernel) ** 2, axis=0)
    drive = float(np.mean(gaussian_mean(lambda u: np.tanh(u) ** 2, squares)))
    source = square_gain(array_of("input_kernel", cell.input_kernel)) * drive
    biases = array_of("bias", cell.bias)
    distinct, counts = np.unique(biases if biases.size else np.zeros(1), return_counts=True)
    units = _GatedUnits(distinct, counts / counts.sum(), drive, source)
    q = units.variance(gain)
    kept, by_gate = units.growth(q, gain)
    exponent = 0.5 * _log(_largest_root(kept, by_gate, units.shares, 1))
    return q, units.chi(q, gain), units.critical_gain(), exponent


@dataclass(frozen=True, eq=False)
class _GatedUnits:
    """The units of a minimalRNN, whose gates' biases are their own.

    Attributes:
      biases: those that there are, (B,).
      shares: of the units that have each, (B,).
      drive: R = E z².
      source: σ_v² R, what the gates' pre-activations have of their variance from z.
    """

    biases: np.ndarray
    shares: np.ndarray
    drive: float
    source: float

    @functools.cached_property
    def moments(self) -> Callable[[float], tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """1 − E u², E[u²(1 − u)²] and Q = E h² by bias, of a q; each q once."""
        return functools.cache(self._moments)

    def _moments(self, q: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        def powers(u: np.ndarray) -> np.ndarray:
            gate, rest = _gate(u + self.biases[:, None])
            return np.stack([rest * (1 + gate), (gate * rest) ** 2, rest**2])

        lost, slopes, taken = gaussian_mean(powers, q)
        return lost, slopes, self.drive * taken / lost

    def square(self, q: Any) -> Any:
        """Q of all units."""
        return np.vectorize(lambda one: self.shares @ self.moments(one)[2])(q)

    def growth(self, q: float, gain: float) -> tuple[np.ndarray, np.ndarray]:
        """What a squared gradient is handed on by, to the unit itself and to all by its gate."""
        lost, slopes, squares = self.moments(q)
        return 1 - lost, gain**2 * slopes * (squares + self.drive)

    def chi(self, q: float, gain: float) -> float:
        """χ."""
        return float(self.shares @ sum(self.growth(q, gain)))

    def variance(self, gain: float) -> float:
        """q, the smallest fixed point."""
        # No state is larger than what drives it, and one that gates keep out may be far smaller.
        reach = gain**2 * self.drive * np.geomspace(1e-6, 1.001, 25)
        return first_root(
            lambda q: gain**2 * self.square(q) + self.source - q,
            self.source + np.concatenate([[0.0], reach]),
        )

    def gain(self, q: Any) -> Any:
        """That of which q is a fixed point."""
        return np.sqrt((q - self.source) / self.square(q))

    def critical_gain(self) -> float:
        """The smallest gain that comes to a fixed point with χ = 1 or more."""
        if self.drive == 0:
            return math.inf
        grid = self.source + self.drive * np.geomspace(1e-6, 1e6, 37)
        at = first_root(np.vectorize(lambda q: 1 - self.chi(q, float(self.gain(q)))), grid)
        if at == math.inf:
            return math.inf
        # A gain that has a smaller fixed point comes to that one first.
        before = grid[grid < at]
        last = np.geomspace(before[-1] if before.size else at, at, 9)
        return max(float(self.gain(at)), _peak(self.gain, np.append(before[:-1], last)))


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
    # What blocks see of the state hands no gradient on in the truncated one of 1997.
    seen = np.zeros_like(i) if cell.truncated else slope * i
    chi = np.mean((1 + out**2) * (f**2 + (gain * seen) ** 2)) / 2
    # What forgets nothing is critical without weights.
    kept = np.any(f == 1)
    critical = 0.0 if kept else _inverse(math.sqrt(np.mean((seen * out / (1 - f)) ** 2)))
    return 0.0, float(chi), critical, _log(_radius(f, gain * seen * out))


THEORIES: dict[type, Callable[[Any, float, float], tuple[float, ...]]] = {
    SimpleRNNCell: _of_simple,
    MinimalRNNCell: _of_minimal,
    GRUCell: _of_gru,
    LSTMCell: _of_lstm,
}


def _peak(function: Callable[[Any], Any], grid: np.ndarray) -> float:
    """The largest value inside a grid; 0 if it lies at an end."""
    at = int(np.argmax(function(grid)))
    if at in (0, grid.size - 1):
        return 0.0
    # Imported here: it would make up a good part of the package's own import.
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda q: -float(function(q)), bounds=grid[[at - 1, at + 1]], method="bounded"
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
    array_of("bias", cell.bias)
    of_state = array_of("bias", getattr(cell, "candidate_recurrent_bias", None))
    # Known numbers, also while something else is being traced.
    with jax.ensure_compile_time_eval():
        x = jnp.zeros((cell.in_features,), cell.param_dtype)
        rest = cell.initialize_carry((cell.in_features,))
        after, _ = cell(rest, x)
        moved = max(float(jnp.abs(part).max()) for part in jax.tree.leaves(after))
        gates = {key: np.asarray(value, np.float64) for key, value in cell.gates(rest, x).items()}
        sides = jnp.array([-1e-6, 0.0, 1e-6], cell.param_dtype)
        slopes = jax.jvp(cell.activation_fn, (sides,), (jnp.ones_like(sides),))[1]
        slope, kink = float(slopes[1]), float(jnp.ptp(slopes))
    if moved != 0 or np.any(of_state):
        raise ValueError(
            f"mean_field needs a {name} that stays at rest; got one that a step without inputs "
            f"moves by up to {moved:g}, or whose candidate has biases. Set the candidate's biases "
            "to 0, and take an activation_fn that is 0 at 0."
        )
    if kink > 1e-2:
        raise ValueError(
            f"mean_field needs an activation_fn that is smooth at 0; got one whose slope jumps by "
            f'{kink:g} there. Take one such as "tanh".'
        )
    low = min(float(gate.min()) for gate in gates.values())
    if low < 0:
        raise ValueError(
            f"mean_field needs gates of at least 0 at rest; got {low:g}. Take a gate_fn such as "
            '"sigmoid".'
        )
    return gates, abs(slope)


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


def array_of(name: str, weights: Any) -> np.ndarray:
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


def square_gain(kernel: np.ndarray) -> float:
    """What a matrix makes of the variance of wide signals: ‖W‖_F² over its columns."""
    return float(np.sum(kernel**2) / kernel.shape[1])


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
