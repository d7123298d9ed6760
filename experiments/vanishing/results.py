"""All that the main job measured, in one record."""

from dataclasses import dataclass

import numpy as np

from vanishing.chain import WorkedExample
from vanishing.measure import DeadUnits, Decay, GainSweep, Reach, Slopes
from vanishing.training import Training, TrainingConfig


@dataclass(frozen=True)
class Results:
    """Measurements by claim.

    Attributes:
      steps, hidden, seed: T and H of the Jacobians, and the seed of weights and inputs.
      chains: C1, the worked examples.
      slopes: C2, C6 and C7, by simple network.
      decay: C3.
      reach: C3 and C6 to C9, by network.
      shares: C4, ln‖share of dL/dW by step‖ by network.
      signal: C5, ln‖dL/dx_t‖ by t, by network.
      gains: C7.
      dead: C7, the ReLU network's dead units.
      seconds: beside C9, for one training step, by network.
      training_config, training: C10, by network.
    """

    steps: int
    hidden: int
    seed: int
    chains: list[WorkedExample]
    slopes: dict[str, Slopes]
    decay: Decay
    reach: dict[str, Reach]
    shares: dict[str, np.ndarray]
    signal: dict[str, np.ndarray]
    gains: GainSweep
    dead: DeadUnits
    seconds: dict[str, float]
    training_config: TrainingConfig
    training: dict[str, Training]
