"""Sprott (2003): Lyapunov exponents of Hénon's map and of Lorenz's flow.

(x, y) ← (1 − 1.4 x² + y, 0.3 x), nats a step; σ, ρ, β = 10, 28, 8/3, nats a unit of time.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

import rnn_jax as rj
from exponents import systems
from published.pictures import differences
from published.record import Finding, Outcome, Progress, Result


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
            systems.henon, jnp.zeros((steps, 1)), jnp.zeros(2), warmup=steps // 10
        )
        progress("Lorenz's flow", 0.3)
        steps = protocol.lorenz_steps
        lorenz = rj.lyapunov_exponents(
            systems.lorenz(protocol.width),
            jnp.zeros((steps, 1)),
            jnp.asarray([1.0, 1.0, 20.0]),
            warmup=steps // 10,
            interval=5,
        )
    findings = [
        Finding(f"Hénon: λ_{i + 1}", known, float(value), tolerance=0.01, relative=True)
        for i, (known, value) in enumerate(zip(systems.HENON, henon.exponents, strict=True))
    ]
    findings += [
        Finding(
            f"Lorenz: λ_{i + 1}",
            known,
            float(value) / protocol.width,
            tolerance=0.01 * (abs(known) or systems.LORENZ[0]),
        )
        for i, (known, value) in enumerate(zip(systems.LORENZ, lorenz.exponents, strict=True))
    ]
    return Outcome(tuple(findings))


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
