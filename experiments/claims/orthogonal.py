"""Cells with an orthogonal or unitary matrix: expRNN, scoRNN, the unitary RNN."""

import numpy as np

import rnn_jax as rj
from claims.record import Claim, Trial

SOURCES = {
    "ExpRNNCell": "Lezcano-Casado and Martínez-Rubio, 2019",
    "ScoRNNCell": "Helfrich, Willmott and Ye, 2018",
    "UnitaryRNNCell": "Arjovsky, Shah and Bengio, 2016",
}


def isometry(trial: Trial) -> Claim:
    """All singular values are 1 where the activation is linear."""
    return Claim(
        cell=trial.name,
        setting=trial.setting,
        name="singular values",
        says="‖W‖ = 1 whatever the weights: with a linear activation all singular values of "
        "∂h_T/∂h_0 are 1.",
        source=SOURCES[trial.name],
        basis="paper",
        relation="equal",
        along="singular value",
        expected=np.zeros_like(trial.log_singular_values),
        measured=trial.log_singular_values,
    )


def contraction(trial: Trial) -> Claim:
    """No singular value is above 1 with the real modReLU, whose slopes are 0 and 1."""
    table = rj.jacobian_log_norms(trial.lin, wrt="state", norm="spectral")
    largest = np.asarray(rj.by_lag(table, "max"))
    return Claim(
        cell=trial.name,
        setting=trial.setting,
        name="norm by lag",
        says="Slopes of modReLU are 0 or 1, so that ‖∂h_t/∂h_s‖ ≤ 1: nothing explodes.",
        source=SOURCES[trial.name],
        basis="paper",
        relation="at most",
        along="lag",
        expected=np.zeros_like(largest),
        measured=largest,
        first=0,
    )
