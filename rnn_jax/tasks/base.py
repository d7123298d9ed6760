"""What a task is: sequences drawn from a key, a loss, and when it counts as solved."""

from typing import ClassVar, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from rnn_jax.checks import check_number


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


class SquaredError:
    """The loss, metrics and end of a task whose answers are numbers.

    A task that inherits it has a field `solved_below` and names its `readout`: "last", one answer
    a sequence, or "all", one at every step.
    """

    solved_below: float
    readout: ClassVar[str]

    def __post_init__(self) -> None:
        if check_number("solved_below", self.solved_below) <= 0:
            raise ValueError(
                f"solved_below must be a positive error; got {self.solved_below}. Pass for "
                "example solved_below=0.01."
            )

    def loss(self, outputs: jax.Array, batch: Batch) -> jax.Array:
        """Weighted mean squared error of outputs of the shape of the targets.

        Raises:
          ValueError: outputs of another shape, which would broadcast against the targets.
        """
        if jnp.shape(outputs) != batch.targets.shape:
            steps = "the last step only" if self.readout == "last" else "every step"
            raise ValueError(
                f"outputs must have the shape of the targets, {batch.targets.shape}; got "
                f'{jnp.shape(outputs)}. Read {steps}: readout="{self.readout}", '
                "out_features=1."
            )
        errors = jnp.sum(jnp.square(outputs - batch.targets), axis=-1)
        return jnp.sum(errors * batch.weights) / jnp.sum(batch.weights)

    def metrics(self, outputs: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """{"mse"}: the mean squared error."""
        return {"mse": self.loss(outputs, batch)}

    def solved(self, metrics: dict[str, jax.Array]) -> jax.Array:
        """Whether the error is below `solved_below`."""
        return metrics["mse"] < self.solved_below
