"""What is measured on untrained networks: claims C2 to C9, without a judgement."""

import functools
from dataclasses import dataclass
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

import rnn_jax as rj
from vanishing.networks import (
    COMPARED,
    CONTROLS,
    IN_FEATURES,
    SIMPLE,
    chaotic_sigmoid,
    parameter_count,
)

Array = np.ndarray


@dataclass(frozen=True)
class Reach:
    """How far one network's gradients reach.

    Attributes:
      flow: the (t, s) map and what follows from it.
      rate: change of ln‖∂y_t/∂x_s‖ for each step of lag, in nats.
      spread: standard deviation of the rate over weight seeds.
      zero_lag: the first lag at which float32 automatic differentiation of the unrolled network
        reads exactly 0; None if it never does.
      horizon: the lag at which 1 % is left.
      parameters: how many numbers the cell learns.
      operations: floating-point operations of one step.
    """

    flow: rj.GradientFlow
    rate: float
    spread: float
    zero_lag: int | None
    horizon: int
    parameters: int
    operations: int


@dataclass(frozen=True)
class Slopes:
    """Slopes met on a trajectory: the analytic range, the least, mean and greatest seen, all."""

    range: tuple[float, float]
    least: float
    mean: float
    greatest: float
    values: Array


@dataclass(frozen=True)
class Decay:
    """The product of state Jacobians of the sigmoid network, from the last step back.

    Attributes:
      curve: ln‖∂h_T/∂h_{T−k}‖₂ by lag k.
      bound: k · ln(0.25 · σ₁(W_h)).
      linearity: R² of a straight line through the curve; 1 is exactly geometric.
      largest: σ₁(W_h).
      chaotic_rate: the rate of a sigmoid network with σ₁(W_h) far above 4.
      chaotic_largest: its σ₁(W_h).
    """

    curve: Array
    bound: Array
    linearity: float
    largest: float
    chaotic_rate: float
    chaotic_largest: float


@dataclass(frozen=True)
class GainSweep:
    """Rate against σ₁(W_h) for orthogonal recurrent weights of that scale, by activation."""

    gains: Array
    rates: dict[str, Array]


@dataclass(frozen=True)
class DeadUnits:
    """Share of units off at a step (slope 0), and share that is off at every step."""

    off: float
    never_on: float


def inputs(key: jax.Array, steps: int) -> jax.Array:
    """A sequence of independent normal inputs, (T, I)."""
    return jax.random.normal(key, (steps, IN_FEATURES))


def reach(name: str, hidden: int, steps: int, seed: int, seeds: int) -> Reach:
    """Gradient flow of one network, with the spread of its rate over weight seeds."""
    make = {**COMPARED, **CONTROLS}[name]
    key = jax.random.key(seed)
    xs = inputs(jax.random.fold_in(key, 1), steps)
    cell = make(hidden, key)
    # Norms, and gates where there are any, are all that the claims need.
    gated = hasattr(cell, "gates")
    flow = rj.GradientFlow(
        rj.jacobian_log_norms(cell, xs),
        attribution=rj.attribution(cell, xs) if gated else None,
    )
    # Two hundred steps say the rate well enough to see how much it depends on the draw.
    short = xs[:200]
    rates = [
        float(rj.GradientFlow(_log_norms(make, hidden, seed + k, short)).rate)
        for k in range(1, seeds + 1)
    ]
    return Reach(
        flow=flow,
        rate=float(flow.rate),
        spread=float(np.std(rates)),
        zero_lag=_zero_lag(cell, xs),
        horizon=int(flow.horizon()),
        parameters=parameter_count(cell),
        operations=operations(cell, xs[0]),
    )


def operations(cell: Any, x: jax.Array) -> int:
    """Floating-point operations of one step, as XLA counts them in the program as it is written.

    Before it is compiled, so that the count is the same on every machine.
    """
    step = jax.jit(lambda cell, carry, x: cell(carry, x))
    counted: Any = step.lower(cell, cell.initialize_carry(x.shape), x).cost_analysis()
    return int(counted["flops"])


def _log_norms(make: Any, hidden: int, seed: int, xs: jax.Array) -> jax.Array:
    return rj.jacobian_log_norms(make(hidden, jax.random.key(seed)), xs)


@jax.jit
def _last_jacobian(cell: Any, xs: jax.Array) -> jax.Array:
    """∂y_T/∂x_s for all s, (H, T, I), by reverse-mode differentiation of the unrolled network."""
    return jax.jacrev(lambda x: rj.unroll(cell, x)[1][-1])(xs)


def _zero_lag(cell: Any, xs: jax.Array) -> int | None:
    block = np.asarray(_last_jacobian(cell, xs))
    zero = ~np.any(block != 0, axis=(0, 2))[::-1]
    return int(zero.argmax()) if zero.any() else None


def slopes(name: str, hidden: int, steps: int, seed: int) -> Slopes:
    """The slopes φ' that a simple network meets along a trajectory."""
    key = jax.random.key(seed)
    cell = cast(rj.SimpleRNNCell, COMPARED[name](hidden, key))
    xs = inputs(jax.random.fold_in(key, 1), steps)
    _, hs = rj.unroll(cell, xs)
    before = jnp.concatenate([jnp.zeros((1, hidden)), hs[:-1]])
    pre = cell.project(xs) + before @ cell.recurrent_kernel[...]
    values = np.asarray(jax.vmap(jax.vmap(jax.grad(cell.activation)))(pre))
    return Slopes(
        rj.activation_slope_range(cell.activation),
        float(values.min()),
        float(values.mean()),
        float(values.max()),
        values.ravel(),
    )


def dead_units(values: Array, hidden: int) -> DeadUnits:
    """How many units of a ReLU network are off, from its slopes."""
    off = values.reshape(-1, hidden) == 0
    return DeadUnits(float(off.mean()), float(off.all(axis=0).mean()))


def decay(hidden: int, steps: int, seed: int) -> Decay:
    """The sigmoid network's product of factors against its bound, and a counterexample."""
    key = jax.random.key(seed)
    xs = inputs(jax.random.fold_in(key, 1), steps)
    cell = COMPARED["sigmoid"](hidden, key)
    chaotic = chaotic_sigmoid(hidden, jax.random.fold_in(key, 2))
    curve, wild = _state_curve(cell, xs), _state_curve(chaotic, xs)
    lags = np.arange(steps)
    return Decay(
        curve=curve,
        bound=np.asarray(rj.jacobian_log_bound(cell, steps)),
        linearity=float(np.corrcoef(lags, curve)[0, 1] ** 2),
        largest=float(jnp.linalg.norm(cell.recurrent_kernel[...], ord=2)),
        chaotic_rate=float(np.polyfit(lags, wild, 1)[0]),
        chaotic_largest=float(jnp.linalg.norm(chaotic.recurrent_kernel[...], ord=2)),
    )


def _state_curve(cell: Any, xs: jax.Array) -> Array:
    """ln‖∂carry_T/∂carry_{T−k}‖₂ by lag k."""
    row = rj.jacobian_log_norms(cell, xs, wrt="state", norm="spectral", targets=[-1])
    return np.asarray(row)[0, ::-1]


def gain_sweep(hidden: int, steps: int, seed: int, gains: Array) -> GainSweep:
    """Rates of the simple networks as their orthogonal recurrent weights are scaled."""
    key = jax.random.key(seed)
    xs = inputs(jax.random.fold_in(key, 1), steps)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0))
    def rate(cell: rj.SimpleRNNCell, gain: jax.Array) -> jax.Array:
        cell.recurrent_kernel[...] = gain * cell.recurrent_kernel[...]
        row = rj.jacobian_log_norms(cell, xs, wrt="state", targets=[-1])[0]
        return (row[0] - row[-1]) / (steps - 1)

    scale = jnp.asarray(gains, jnp.float32)
    rates = {name: np.asarray(rate(COMPARED[name](hidden, key), scale)) for name in SIMPLE}
    return GainSweep(gains, rates)


def _last_output(ys: jax.Array) -> jax.Array:
    """The loss of claims C4 and C5: the sum of the outputs at the last step."""
    return jnp.sum(ys[-1])


def weight_shares(name: str, hidden: int, steps: int, seed: int) -> Array:
    """ln‖share of dL/dW by step‖ for a loss at the last step, (T,)."""
    key = jax.random.key(seed)
    xs = inputs(jax.random.fold_in(key, 1), steps)
    cell = COMPARED[name](hidden, key)
    return np.asarray(rj.weight_gradient_log_norms(_last_output, cell, xs))


def input_signal(name: str, hidden: int, steps: int, seed: int, sequences: int = 32) -> Array:
    """ln‖dL/dx_t‖ by t for a loss at the last step, averaged over sequences, (T,)."""
    key = jax.random.key(seed)
    cell = COMPARED[name](hidden, key)
    batch = jax.random.normal(jax.random.fold_in(key, 1), (sequences, steps, IN_FEATURES))
    signal = jax.vmap(lambda xs: rj.backprop_signal(_last_output, cell, xs))(batch)
    return np.asarray(jnp.mean(signal.input_log_norms, axis=0))
