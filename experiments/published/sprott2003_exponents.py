"""Sprott (2003): Lyapunov exponents of Hénon's map and of Lorenz's flow.

(x, y) ← (1 − 1.4 x² + y, 0.3 x), nats a step; σ, ρ, β = 10, 28, 8/3, nats a unit of time.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

import rnn_jax as rj
from published.pictures import differences
from published.record import Finding, Outcome, Progress, Result

Step = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]

HENON = (0.41922, -1.62319)
LORENZ = (0.9056, 0.0, -14.5723)


@dataclass(frozen=True)
class Protocol:
    """Steps after a warm-up of a tenth of them; `width` is the time of a step of the flow."""

    henon_steps: int = 400_000
    lorenz_steps: int = 500_000
    width: float = 0.01


def run(protocol: Protocol, progress: Progress) -> Outcome:
    """Every exponent; one that is 0 may be off by 1 % of the largest."""
    with jax.enable_x64(True):
        progress("Hénon's map", 0.0)
        steps = protocol.henon_steps
        henon = rj.lyapunov_exponents(
            henon_step, jnp.zeros((steps, 1)), jnp.zeros(2), warmup=steps // 10
        )
        progress("Lorenz's flow", 0.3)
        steps = protocol.lorenz_steps
        lorenz = rj.lyapunov_exponents(
            runge_kutta(protocol.width),
            jnp.zeros((steps, 1)),
            jnp.asarray([1.0, 1.0, 20.0]),
            warmup=steps // 10,
            interval=5,
        )
    findings = [
        Finding(f"Hénon: λ_{i + 1}", known, float(value), tolerance=0.01, relative=True)
        for i, (known, value) in enumerate(zip(HENON, henon.exponents, strict=True))
    ]
    findings += [
        Finding(
            f"Lorenz: λ_{i + 1}",
            known,
            float(value) / protocol.width,
            tolerance=0.01 * (abs(known) or LORENZ[0]),
        )
        for i, (known, value) in enumerate(zip(LORENZ, lorenz.exponents, strict=True))
    ]
    return Outcome(tuple(findings))


def henon_step(state: jax.Array, _: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Hénon's map."""
    x, y = state
    state = jnp.stack([1 - 1.4 * x**2 + y, 0.3 * x])
    return state, state


def runge_kutta(width: float) -> Step:
    """A step of the classical Runge–Kutta method along Lorenz's flow."""

    def velocity(state: jax.Array) -> jax.Array:
        x, y, z = state
        return jnp.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z])

    def step(state: jax.Array, _: jax.Array) -> tuple[jax.Array, jax.Array]:
        one = velocity(state)
        two = velocity(state + width / 2 * one)
        three = velocity(state + width / 2 * two)
        four = velocity(state + width * three)
        state = state + width / 6 * (one + 2 * two + 2 * three + four)
        return state, state

    return step


RESULT = Result(
    name="sprott2003_exponents",
    source="Sprott, 2003",
    says="The exponents of Hénon's map and Lorenz's flow are known to four digits.",
    protocol=Protocol(),
    quick=Protocol(henon_steps=2000, lorenz_steps=4000),
    run=run,
    draw=differences,
    minutes=0.1,
)
