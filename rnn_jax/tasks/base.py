"""What a task is: sequences drawn from a key, a loss, and when it counts as solved."""

from typing import ClassVar, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from rnn_jax.checks import check_number

Metrics = dict[str, jax.Array]


class Batch(NamedTuple):
    """A batch of examples.

    Attributes:
      inputs: (B, T, I).
      targets: numbers, (B, O) for a task with one answer a sequence and (B, T, O) for one with an
        answer at every step; or whole numbers that name classes, (B,) or (B, T).
      weights: how much each target counts, (B,) or (B, T); 0 where there is none.
    """

    inputs: jax.Array
    targets: jax.Array
    weights: jax.Array


class Task(Protocol):
    """A synthetic task; hashable, so that it can be a static argument of a jitted loop.

    A task whose examples are finite in number also has `sample_held_out`, of the same form as
    `sample`, for evaluation on examples that no training has seen.
    """

    @property
    def in_features(self) -> int:
        """I, the features of an input."""
        ...

    @property
    def out_features(self) -> int:
        """O, the features that a model must give: of the answer, or one for each class."""
        ...

    @property
    def readout(self) -> str:
        """The steps that have an answer: "last", or "all"."""
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

    def metrics(self, outputs: jax.Array, batch: Batch) -> Metrics:
        """Scalars to be reported, by name."""
        ...

    def solved(self, metrics: Metrics) -> jax.Array:
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
        _check_shape(outputs, batch.targets.shape, self.readout)
        errors = jnp.sum(jnp.square(outputs - batch.targets), axis=-1)
        return weighted_mean(errors, batch.weights)

    def metrics(self, outputs: jax.Array, batch: Batch) -> Metrics:
        """{"mse"}: the mean squared error."""
        return {"mse": self.loss(outputs, batch)}

    def solved(self, metrics: Metrics) -> jax.Array:
        """Whether the error is below `solved_below`."""
        return metrics["mse"] < self.solved_below


class CrossEntropy:
    """The loss, metrics and end of a task whose answers are classes.

    A task that inherits it has a field `solved_above` and properties `readout` and `out_features`,
    the number of classes.
    """

    solved_above: float

    def __post_init__(self) -> None:
        if not 0 < check_number("solved_above", self.solved_above) < 1:
            raise ValueError(
                f"solved_above must be an accuracy in (0, 1); got {self.solved_above}. Pass for "
                "example solved_above=0.99."
            )

    def loss(self, outputs: jax.Array, batch: Batch) -> jax.Array:
        """Weighted mean of −ln p(target), in nats, where p = softmax(outputs).

        Args:
          outputs: logits, one for each class, (B, O) or (B, T, O).
          batch: of this task.

        Raises:
          ValueError: outputs of another shape.
        """
        classes: int = self.out_features  # type: ignore[attr-defined]
        _check_shape(outputs, (*batch.targets.shape, classes), self.readout)  # type: ignore[attr-defined]
        logits = jax.nn.log_softmax(outputs)
        chosen = jnp.take_along_axis(logits, batch.targets[..., None], axis=-1)[..., 0]
        return weighted_mean(-chosen, batch.weights)

    def metrics(self, outputs: jax.Array, batch: Batch) -> Metrics:
        """{"cross_entropy", "accuracy"}: nats, and the share of the weight that is right."""
        loss = self.loss(outputs, batch)
        right = (jnp.argmax(outputs, axis=-1) == batch.targets).astype(outputs.dtype)
        return {"cross_entropy": loss, "accuracy": weighted_mean(right, batch.weights)}

    def solved(self, metrics: Metrics) -> jax.Array:
        """Whether the accuracy is above `solved_above`."""
        return metrics["accuracy"] > self.solved_above


def weighted_mean(values: jax.Array, weights: jax.Array) -> jax.Array:
    """Σ w v / Σ w, over all axes."""
    return jnp.sum(values * weights) / jnp.sum(weights)


def _check_shape(outputs: jax.Array, expected: tuple[int, ...], readout: str) -> None:
    if jnp.shape(outputs) != expected:
        steps = "the last step only" if readout == "last" else "every step"
        raise ValueError(
            f"outputs must have the shape of the targets, {expected}; got {jnp.shape(outputs)}. "
            f'Read {steps}: readout="{readout}", out_features={expected[-1]}.'
        )
