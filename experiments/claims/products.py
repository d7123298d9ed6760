"""Cells whose units keep their own state: gradients are products of numbers, unit by unit."""

import math

import jax
import numpy as np

import rnn_jax as rj
from claims.record import Array, Claim, Trial


def indrnn_product(trial: Trial) -> Claim:
    """∂h_T/∂h_0 = diag(∏ u φ')."""
    u, b = trial.weight("recurrent_weights"), trial.weight("bias")
    pre = np.asarray(trial.xs) @ trial.weight("kernel") + b + u * np.asarray(trial.lin.carries[:-1])
    slopes = jax.vmap(jax.vmap(jax.grad(trial.cell.activation)))(pre)
    return _product(trial, u * np.asarray(slopes), "∂h_T/∂h_0 = diag(∏ u φ').", "Li et al., 2018")


def indrnn_cap(trial: Trial) -> Claim:
    """With |u| ≤ 2^(1/T) no gradient grows beyond 2 over T steps."""
    table = rj.jacobian_log_norms(trial.lin, wrt="state", norm="spectral")
    largest = np.asarray(rj.by_lag(table, "max"))
    return Claim(
        cell=trial.name,
        setting=trial.setting,
        name="norm by lag",
        says="|u| ≤ 2^(1/T), so that ‖∂h_t/∂h_s‖ ≤ 2 over T steps.",
        source="Li et al., 2018",
        basis="paper",
        relation="at most",
        along="lag",
        expected=np.full(trial.steps, math.log(2)),
        measured=largest,
        first=0,
    )


def min_gru_product(trial: Trial) -> Claim:
    """∂h_T/∂h_0 = diag(∏ (1 − z))."""
    update, _ = np.split(np.asarray(trial.xs) @ trial.weight("kernel"), 2, axis=1)
    return _product(trial, _sigmoid(-update), "∂h_T/∂h_0 = diag(∏ (1 − z)).", "Feng et al., 2024")


def min_lstm_product(trial: Trial) -> Claim:
    """∂h_T/∂h_0 = diag(∏ f/(f + i))."""
    forget, into, _ = np.split(np.asarray(trial.xs) @ trial.weight("kernel"), 3, axis=1)
    f, i = _sigmoid(forget), _sigmoid(into)
    return _product(trial, f / (f + i), "∂h_T/∂h_0 = diag(∏ f/(f + i)).", "Feng et al., 2024")


def rg_lru_product(trial: Trial) -> Claim:
    """∂h_T/∂h_0 = diag(∏ a), log a = −8 r softplus(Λ)."""
    u = np.asarray(trial.xs) @ trial.weight("kernel")
    of_recurrence = trial.weight("gate_kernel")[0]
    blocks, width, _ = of_recurrence.shape
    in_blocks = u.reshape(-1, blocks, width)
    r = np.einsum("tnj,njk->tnk", in_blocks, of_recurrence).reshape(u.shape)
    r = _sigmoid(r + trial.weight("gate_bias")[0])
    a = np.exp(-8 * r * np.log1p(np.exp(trial.weight("decay"))))
    return _product(
        trial, a, "∂h_T/∂h_0 = diag(∏ a), log a = −8 r softplus(Λ).", "De et al., 2024 (Griffin)"
    )


def rg_lru_slowest(trial: Trial) -> Claim:
    """a stays above a_min = 0.9, where it starts if the gate is open, whatever the inputs."""
    logs = trial.log_singular_values
    return Claim(
        cell=trial.name,
        setting=trial.setting,
        name="slowest decay",
        says="a starts in [0.9, 0.999] where the gate is open, and is nearer to 1 elsewhere: no "
        "singular value of ∂h_T/∂h_0 is below 0.9^T.",
        source="De et al., 2024 (Griffin)",
        basis="paper",
        relation="at least",
        along="singular value",
        expected=np.full(logs.size, trial.steps * math.log(0.9)),
        measured=logs,
    )


def lru_powers(trial: Trial) -> Claim:
    """∂h_T/∂h_0 = λ^T, |λ| = exp(−e^ν)."""
    rates = -np.exp(trial.weight("nu"))
    return _powers(trial, rates, "∂h_T/∂h_0 = λ^T, |λ| = exp(−e^ν).", "Orvieto et al., 2023")


def s5_powers(trial: Trial) -> Claim:
    """∂h_T/∂h_0 = e^{ΛΔT}, Re Λ = −½."""
    rates = -0.5 * np.exp(trial.weight("log_step"))
    return _powers(
        trial, rates, "∂h_T/∂h_0 = e^{ΛΔT}, Re Λ = −½ at the start.", "Smith et al., 2023"
    )


def lru_gain(trial: Trial) -> Claim:
    """A unit's variance under white inputs is that of x B, whatever its |λ|: γ = √(1 − |λ|²)."""
    by_input = np.asarray(trial.lin.input_jacobians)
    covariance: Array = np.zeros(trial.jacobians.shape[-2:])
    for a, b in zip(trial.jacobians, by_input, strict=True):
        covariance = a @ covariance @ a.T + b @ b.T
    real, imaginary = np.split(np.diag(covariance), 2)
    b_real, b_imaginary = np.split(trial.weight("kernel"), 2, axis=1)
    alone = (b_real**2 + b_imaginary**2).sum(axis=0)
    modulus = np.exp(-np.exp(trial.weight("nu")))
    order = np.argsort(modulus)
    # The variance of a sequence that began T steps ago lacks |λ|^2T.
    expected = np.log1p(-(modulus ** (2 * trial.steps)))
    return Claim(
        cell=trial.name,
        setting=trial.setting,
        name="forward gain",
        says="γ = √(1 − |λ|²) keeps the variance of a state under white inputs at that of x B, "
        "however long it remembers.",
        source="Orvieto et al., 2023",
        basis="paper",
        relation="equal",
        along="unit by |λ|",
        expected=expected[order],
        measured=np.log((real + imaginary) / alone)[order],
    )


def _product(trial: Trial, factors: Array, says: str, source: str) -> Claim:
    """All singular values of ∂h_T/∂h_0 against products of known factors, (T, H)."""
    with np.errstate(divide="ignore"):
        logs = np.log(np.abs(factors)).sum(axis=0)
    return Claim(
        cell=trial.name,
        setting=trial.setting,
        name="product by unit",
        says=says,
        source=source,
        basis="paper",
        relation="equal",
        along="singular value",
        expected=np.sort(logs)[::-1],
        measured=trial.log_singular_values,
    )


def _powers(trial: Trial, rates: Array, says: str, source: str) -> Claim:
    """All singular values against e^{rate T}, each twice: for the real and the imaginary part."""
    return Claim(
        cell=trial.name,
        setting=trial.setting,
        name="powers of λ",
        says=says,
        source=source,
        basis="paper",
        relation="equal",
        along="singular value",
        expected=np.sort(np.repeat(trial.steps * rates, 2))[::-1],
        measured=trial.log_singular_values,
    )


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))
