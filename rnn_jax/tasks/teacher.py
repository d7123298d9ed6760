"""Recall by a linear teacher."""

import functools
import math
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.checks import check_count, check_key, check_number, check_rate, check_size
from rnn_jax.tasks.base import Batch, SquaredError


@dataclass(frozen=True)
class TeacherRecall(SquaredError):
    """Teacher recall: do what a fixed linear recurrent network does.

    Each step shows white noise x_t, normal with variance 1. The target is the teacher's output
    y_t = Re Σ_i c_i h_{t,i}, with h_t = λ ∘ h_{t−1} + √(1 − |λ|²) x_t from h = 0: a sum over the
    past, y_t = Σ_j k_j x_{t−j}. Each λ_i has a modulus uniform in [`modulus`, 1) and a phase
    uniform in [−`phase`, `phase`], c_i is complex normal, and c is scaled so that the variance of
    y, in the mean over the steps, is 1. The teacher is drawn once, from `teacher_seed`.

    Who remembers nothing can say k_0 x_t, and pays the rest of the variance, 1 − k_0².

    Attributes:
      length: T, in steps, at least 2.
      modulus: the least of an eigenvalue, in [0, 1); the memory is some 1 / (1 − modulus) steps
        or more.
      phase: the greatest of an eigenvalue, in [0, π]; 0 is a teacher with real eigenvalues, which
        only decay.
      states: how many eigenvalues there are.
      teacher_seed: what the teacher is drawn from.
      solved_below: the mean squared error under which it counts as solved: a twentieth of the
        target's variance.

    Example:
      >>> task = rj.tasks.TeacherRecall(length=50, modulus=0.9)
      >>> eigenvalues, readout = task.teacher()
      >>> bool((abs(eigenvalues) >= 0.9).all())
      True
      >>> 0 < task.chance_loss < 1  # of a target of variance 1
      True

    References:
      N. Zucchet and A. Orvieto, "Recurrent neural networks: vanishing and exploding gradients are
      not the end of the story", 2024; their teachers have 10 states and see 300 steps, and may also
      pass the input straight on, which asks for no memory and is left out here.
    """

    length: int
    modulus: float = 0.9
    phase: float = math.pi
    states: int = 10
    teacher_seed: int = 0
    solved_below: float = 0.05

    readout: ClassVar[str] = "all"

    def __post_init__(self) -> None:
        if check_size("length", self.length) < 2:
            raise ValueError(
                "length must be at least 2, or there is no past; got 1. Pass length=2 or more."
            )
        check_rate("modulus", self.modulus)
        if not 0 <= check_number("phase", self.phase) <= math.pi:
            raise ValueError(
                f"phase must be an angle in [0, π]; got {self.phase}. Pass 0.0 for real "
                "eigenvalues, or a greater one for complex ones."
            )
        check_size("states", self.states)
        check_count("teacher_seed", self.teacher_seed, high=2**32 - 1)
        super().__post_init__()

    @property
    def steps(self) -> int:
        """T, in steps."""
        return self.length

    @property
    def in_features(self) -> int:
        """I: the noise."""
        return 1

    @property
    def out_features(self) -> int:
        """O: the teacher's output."""
        return 1

    @property
    def chance_loss(self) -> float:
        """Mean squared error of the predictor that remembers nothing: 1 − k_0²."""
        eigenvalues, readout = self.teacher()
        return 1 - float(np.sum(readout * _gain(eigenvalues)).real) ** 2

    def teacher(self) -> tuple[np.ndarray, np.ndarray]:
        """(λ, c): the eigenvalues and the readout, both (`states`,) and complex."""
        return _teacher(self)

    def sample(self, key: jax.Array, batch_size: int) -> Batch:
        """Draws a batch.

        Args:
          key: a JAX random key.
          batch_size: B.

        Returns:
          inputs (B, T, 1); targets (B, T, 1); weights (B, T).
        """
        size = check_size("batch_size", batch_size)
        inputs = jax.random.normal(check_key(key), (size, self.length))
        kind = jnp.complex128 if inputs.dtype == jnp.float64 else jnp.complex64
        eigenvalues, readout = self.teacher()
        decay, gain, weight = (
            jnp.asarray(part, kind)[None, :] for part in (eigenvalues, _gain(eigenvalues), readout)
        )

        def advance(h: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
            h = decay * h + gain * x[:, None].astype(kind)
            return h, jnp.sum((weight * h).real, axis=1)

        _, outputs = jax.lax.scan(advance, jnp.zeros((size, self.states), kind), inputs.T)
        return Batch(inputs[..., None], outputs.T[..., None], jnp.ones_like(inputs))


def _gain(eigenvalues: np.ndarray) -> np.ndarray:
    """√(1 − |λ|²), which gives every state the variance 1 in the long run."""
    return np.sqrt(1 - np.abs(eigenvalues) ** 2)


@functools.lru_cache(maxsize=64)
def _teacher(task: TeacherRecall) -> tuple[np.ndarray, np.ndarray]:
    # NumPy's frozen generator: the same teacher in every version and at every precision.
    random = np.random.RandomState(task.teacher_seed)
    modulus = random.uniform(task.modulus, 1, size=task.states)
    phase = task.phase * random.uniform(-1, 1, size=task.states)
    readout = random.normal(size=task.states) + 1j * random.normal(size=task.states)
    eigenvalues = modulus * np.exp(1j * phase)
    powers = eigenvalues[None, :] ** np.arange(task.length)[:, None]
    kernel = (powers @ (readout * _gain(eigenvalues))).real
    # The variance at step t is Σ_{j ≤ t} k_j².
    variance = np.mean(np.cumsum(kernel**2))
    return eigenvalues, readout / math.sqrt(variance)
