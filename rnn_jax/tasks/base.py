"""What a task is: sequences drawn from a key, a loss, and when it counts as solved."""

from collections.abc import Iterable
from typing import Any, ClassVar, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.checks import check_number, kind_of

Metrics = dict[str, jax.Array]

# What a history has beside a task's metrics.
RESERVED = (
    "evaluation",
    "failed_at",
    "gradient_norm",
    "loss",
    "metrics",
    "probes",
    "skipped",
    "solved",
    "solved_at",
    "step",
    "terms",
    "updates",
)


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
    """A synthetic task.

    `fit` reads it while it traces its loop, anew in each call, so what a task holds may change
    between two calls, and not within one.

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
        """Scalars to be reported, by name; none of the names in `RESERVED`."""
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


def check_batch(batch: Any, batch_size: int, method: str) -> Any:
    """Returns what a task has drawn, if a loop can train on it.

    Args:
      batch: a `Batch`, or anything else with inputs (B, ...).
      batch_size: B, how many examples were asked for.
      method: of the task that has drawn it.

    Raises:
      TypeError: it has no array of inputs.
      ValueError: it does not have B examples.
    """
    inputs: Any = getattr(batch, "inputs", None)
    if not _is_array(inputs):
        got = kind_of(batch) if inputs is None else f"inputs of type {kind_of(inputs)}"
        raise TypeError(
            f"a task's {method} must return a batch with arrays inputs, targets and weights; got "
            f"{got}. Return rnn_jax.tasks.Batch(inputs, targets, weights)."
        )
    own = batch._asdict() if isinstance(batch, Batch) else {"inputs": inputs}
    for name, array in own.items():
        if not _is_array(array):
            raise TypeError(
                f"a task's {method} must return a batch of arrays; got {kind_of(array)} for "
                f"{name}. Pass jnp.ones(batch_size) as weights that count each target alike."
            )
        if array.shape[:1] != (batch_size,):
            raise ValueError(
                f"a task's {method} must draw as many examples as it was asked for, here "
                f"{batch_size}; got {name} of shape {array.shape}. Lead with an axis of batch_size."
            )
    return batch


def check_loss(loss: Any) -> jax.Array:
    """Returns a task's loss, if it can be differentiated.

    Raises:
      TypeError: it is no array of floats.
      ValueError: it is no scalar.
    """
    if not isinstance(loss, jax.Array) or not jnp.issubdtype(loss.dtype, jnp.floating):
        raise TypeError(
            "the task's loss must be a JAX scalar of real floats that is computed from the "
            f"outputs; got {_kind_or_type(loss)}. Compute it with jax.numpy."
        )
    if loss.shape != ():
        raise ValueError(
            f"the task's loss must be a scalar; got shape {loss.shape}. Return a mean."
        )
    return loss


def check_metrics(metrics: Any, taken: Iterable[str] = ()) -> Metrics:
    """Returns a task's metrics, if a history can hold them.

    Args:
      metrics: what the task returned.
      taken: names that are given already, beside those that every history has.

    Raises:
      TypeError: no dict, names that are no strings, or values that are no numbers of JAX.
      ValueError: values that are no scalars, or names that are taken.
    """
    if not isinstance(metrics, dict):
        raise TypeError(
            f"the task's metrics must be a dict of scalars by name; got {kind_of(metrics)}. Return "
            'for example {"mse": loss}, or {} for none.'
        )
    for name, metric in metrics.items():
        if not isinstance(name, str):
            raise TypeError(
                f"the name of a metric must be a string; got {name!r} of type {kind_of(name)}. "
                f'Name it, for example "{name}".'
            )
        if name in RESERVED or name in taken:
            raise ValueError(
                f"a metric must not be named {name!r}, which the history has already. Rename it."
            )
        if not _is_array(metric) or not _is_real(metric.dtype):
            raise TypeError(
                "each of the task's metrics must be a scalar of real numbers computed with "
                f"jax.numpy; got {_kind_or_type(metric)} for {name!r}. Pass it through "
                "jnp.asarray, or leave it out."
            )
        if metric.shape != ():
            raise ValueError(
                f"each of the task's metrics must be a scalar; got shape {metric.shape} for "
                f"{name!r}. Take a mean."
            )
    return metrics


def check_solved(solved: Any) -> jax.Array:
    """Returns a task's verdict as an array.

    Raises:
      TypeError: it is neither true nor false.
      ValueError: it is several.
    """
    if isinstance(solved, bool):
        return jnp.bool_(solved)
    if not _is_array(solved) or solved.dtype != jnp.bool_:
        raise TypeError(
            "the task's solved must return whether it is solved, a scalar of booleans; got "
            f'{_kind_or_type(solved)}. Return for example metrics["mse"] < 0.01, or False.'
        )
    if solved.shape != ():
        raise ValueError(
            f"the task's solved must return one scalar; got shape {solved.shape}. Reduce it, for "
            "example with jnp.all."
        )
    return jnp.asarray(solved)


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


def _is_array(value: Any) -> bool:
    return isinstance(value, (jax.Array, np.ndarray, np.generic))


def _is_real(dtype: Any) -> bool:
    return any(jnp.issubdtype(dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_))


def _kind_or_type(value: Any) -> str:
    """For messages."""
    return f"an array of {value.dtype}" if isinstance(value, jax.Array) else kind_of(value)
