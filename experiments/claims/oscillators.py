"""Discretised differential equations: coRNN, UnICORNN, LEM and the AntisymmetricRNN.

The papers bound ‖∂X_t/∂X_s‖_∞ by the norm of one step, multiplied over the steps between. Bounds
here are made in the same way for the cells as they are in this package, with all coefficients free.
"""

import math

import numpy as np

from claims.record import Claim, Trial


def cornn_bound(trial: Trial) -> Claim:
    """‖∂X_t/∂X_{t−1}‖_∞ ≤ max(r, 1 + Δt r), r = |1 − Δt ε| + Δt (γ + ‖[W, 𝒲]‖)."""
    dt, gamma, epsilon = trial.cell.time_step, trial.cell.gamma, trial.cell.epsilon
    r = abs(1 - dt * epsilon) + dt * (gamma + _norm(trial.weight("recurrent_kernel")))
    return _power_bound(
        trial,
        max(r, 1 + dt * r),
        "‖∂X_t/∂X_{t−k}‖_∞ ≤ max(r, 1 + Δt r)^k, r = |1 − Δt ε| + Δt (γ + ‖[W, 𝒲]‖).",
        "Rusch and Mishra, 2021 (coRNN)",
    )


def cornn_small_step(trial: Trial) -> Claim:
    """(1 + 3 Δt^r)^k for γ = ε = 1 and Δt^r = η = Δt max(1 + ‖W‖, ‖𝒲‖) ≤ 1.

    Row sums are at most 1 + 2η for z and 1 + Δt (1 + 2η) for y, and Δt ≤ η.
    """
    dt, size = trial.cell.time_step, trial.cell.hidden_features
    kernel = trial.weight("recurrent_kernel")
    eta = dt * max(1 + _norm(kernel[:size]), _norm(kernel[size:]))
    return _power_bound(
        trial,
        1 + 3 * eta,
        "‖∂X_t/∂X_{t−k}‖_∞ ≤ (1 + 3 Δt^r)^k for small Δt, Δt^r = Δt max(1 + ‖W‖, ‖𝒲‖).",
        "Rusch and Mishra, 2021 (coRNN)",
    )


def unicornn_bound(trial: Trial) -> Claim:
    """‖∂X_t/∂X_{t−k}‖_∞ ≤ (1 + γ Δt)^k, γ = max(2, ‖w‖_∞ + α), where Δt² (‖w‖_∞ + α) ≤ 2.

    With s = Δt σ(c) and q = w φ' + α, row sums are 1 + s q for z and |1 − s² q| + s for y.
    """
    largest = np.abs(trial.weight("recurrent_kernel")).max()
    gamma = max(2.0, float(largest) + trial.cell.alpha)
    return _power_bound(
        trial,
        1 + gamma * trial.cell.time_step,
        "‖∂X_t/∂X_{t−k}‖_∞ ≤ (1 + γ Δt)^k, γ = max(2, ‖w‖_∞ + α).",
        "Rusch and Mishra, 2021 (UnICORNN)",
    )


def unicornn_volume(trial: Trial) -> Claim:
    """A symplectic map: singular values come in pairs σ and 1/σ."""
    logs = trial.log_singular_values
    return Claim(
        cell=trial.name,
        setting=trial.setting,
        name="volume",
        says="A step is symplectic: singular values of ∂X_T/∂X_0 come in pairs σ, 1/σ, and no "
        "volume vanishes.",
        source="Rusch and Mishra, 2021 (UnICORNN)",
        basis="paper",
        relation="equal",
        along="pair",
        expected=np.zeros_like(logs),
        measured=logs + logs[::-1],
    )


def lem_bound(trial: Trial) -> Claim:
    """‖∂X_t/∂X_{t−1}‖_∞ ≤ max(r, 1 + Δt (½‖W_1‖ + r‖W_y‖)), r = 1 + Δt (½‖W_2‖ + ‖W_z‖)."""
    dt = trial.cell.time_step
    blocks = np.split(trial.weight("recurrent_kernel"), 4, axis=1)
    n_1, n_2, n_z, n_y = map(_norm, blocks)
    r = 1 + dt * (n_2 / 2 + n_z)
    return _power_bound(
        trial,
        max(r, 1 + dt * (n_1 / 2 + r * n_y)),
        "‖∂X_t/∂X_{t−k}‖_∞ ≤ max(r, 1 + Δt (½‖W₁‖ + r‖W_y‖))^k, r = 1 + Δt (½‖W₂‖ + ‖W_z‖).",
        "Rusch et al., 2022",
    )


def imaginary_eigenvalues(trial: Trial) -> Claim:
    """Eigenvalues of a step without diffusion are 1 + i ε ω."""
    eigenvalues = np.linalg.eigvals(trial.jacobians)
    real = (eigenvalues.real - 1) / trial.cell.epsilon
    by_step = real[np.arange(len(real)), np.abs(real).argmax(axis=1)]
    return Claim(
        cell=trial.name,
        setting=trial.setting,
        name="eigenvalues",
        says="W − Wᵀ has imaginary eigenvalues: without diffusion those of a step are 1 + i ε ω.",
        source="Chang et al., 2019",
        basis="paper",
        relation="equal",
        along="step",
        expected=np.zeros(trial.steps),
        measured=by_step,
        # Eigenvalues move by as much as rounding, over ε.
        tolerance=1e-6,
        unit="(Re λ − 1)/ε",
    )


def stable_eigenvalues(trial: Trial) -> Claim:
    """Diffusion moves them to the left of 1."""
    eigenvalues = np.linalg.eigvals(trial.jacobians)
    return Claim(
        cell=trial.name,
        setting=trial.setting,
        name="eigenvalues",
        says="Diffusion γ > 0 moves the eigenvalues of a step to the left: Re ≤ 1.",
        source="Chang et al., 2019",
        basis="paper",
        relation="at most",
        along="step",
        expected=np.zeros(trial.steps),
        measured=(eigenvalues.real.max(axis=1) - 1) / trial.cell.epsilon,
        tolerance=1e-6,
        unit="(Re λ − 1)/ε",
    )


def _power_bound(trial: Trial, factor: float, says: str, source: str) -> Claim:
    return Claim(
        cell=trial.name,
        setting=trial.setting,
        name="norm by lag",
        says=says,
        source=source,
        basis="derived",
        relation="at most",
        along="lag",
        expected=math.log(factor) * np.arange(1, trial.steps + 1),
        measured=trial.largest_row_sums,
    )


def _norm(kernel: np.ndarray) -> float:
    """‖·‖_∞ of the matrix that a kernel applies from the right: its largest column sum."""
    return float(np.abs(kernel).sum(axis=0).max())
