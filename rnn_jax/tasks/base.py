"""What a task is: sequences drawn from a key, a loss, and when it counts as solved."""

from typing import NamedTuple, Protocol

import jax


class Batch(NamedTuple):
    """A batch of examples.

    Attributes:
      inputs: (B, T, I).
      targets: (B, O) for a task with one answer a sequence, (B, T, O) for one with an answer at
        every step.
      weights: how much each target counts, (B,) or (B, T); 0 where there is none.
    """

    inputs: jax.Array
    targets: jax.Array
    weights: jax.Array


class Task(Protocol):
    """A synthetic task; hashable, so that it can be a static argument of a jitted loop."""

    @property
    def in_features(self) -> int:
        """I, the features of an input."""
        ...

    @property
    def out_features(self) -> int:
        """O, the features that a model must give."""
        ...

    @property
    def chance_loss(self) -> float:
        """The loss of the best predictor that remembers nothing."""
        ...

    def sample(self, key: jax.Array, batch_size: int) -> Batch:
        """Draws a batch: pure, jittable, on the device."""
        ...

    def loss(self, outputs: jax.Array, batch: Batch) -> jax.Array:
        """The scalar to be minimised."""
        ...

    def metrics(self, outputs: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Scalars to be reported, by name."""
        ...

    def solved(self, metrics: dict[str, jax.Array]) -> jax.Array:
        """Whether metrics on fresh data say that the task is solved."""
        ...
