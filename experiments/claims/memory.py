"""What papers say in words: that gradients do not vanish."""

import math

import numpy as np

from claims.orthogonal import SOURCES as ORTHOGONAL
from claims.record import Claim, Trial

SOURCES = {
    **ORTHOGONAL,
    "AntisymmetricRNNCell": "Chang et al., 2019",
    "CoRNNCell": "Rusch and Mishra, 2021 (coRNN)",
    "UnICORNNCell": "Rusch and Mishra, 2021 (UnICORNN)",
    "LEMCell": "Rusch et al., 2022",
}

# What is left of a gradient that has not vanished: the threshold of `GradientFlow.horizon`.
LEFT = 0.01


def does_not_vanish(trial: Trial) -> Claim:
    """1 % of the gradient is left at every lag."""
    return Claim(
        cell=trial.name,
        setting=trial.setting,
        name="does not vanish",
        says="Gradients do not vanish exponentially: here, 1 % is left at each lag up to "
        f"{trial.steps - 1}.",
        source=SOURCES[trial.name],
        basis="criterion",
        relation="at least",
        along="lag",
        expected=np.full(trial.steps, math.log(LEFT)),
        measured=trial.log_norms,
        first=0,
    )
