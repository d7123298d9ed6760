"""What a task is: sequences drawn from a key, a loss, and when it counts as solved."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.checks import check_number, check_size, kind_of

Metrics = dict[str, jax.Array]

# What a history has beside a task's metrics.
RESERVED = (
    "best_at",
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
    "stopped_at",
    "terms",
    "updates",
)


class Batch(NamedTuple):
    """A batch of examples.

    `fit` hands lengths and mask on to the model, and losses count no step that is not valid.

    Attributes:
      inputs: (B, T, I), tokens (B, T), or a pytree of such arrays, as the model takes them.
      targets: numbers, (B, O) for a task with one answer a sequence and (B, T, O) for one with an
        answer at every step; or whole numbers that name classes, (B,) or (B, T).
      weights: how much each target counts, (B,) or (B, T); 0 where there is none.
      lengths: valid steps of each sequence, counted from the first, (B,); None where all are.
      mask: whether each step is valid, (B, T), in place of lengths; None where all are.

    Example:
      >>> targets, weights = jnp.ones((1, 20, 1)), jnp.ones((1, 20))
      >>> batch = rj.tasks.Batch(xs[None], targets, weights, lengths=jnp.array([5]))
      >>> outputs = jnp.zeros((1, 20, 1)).at[:, 5:].set(jnp.nan)  # beyond its 5 steps
      >>> float(rj.tasks.SquaredError().loss(outputs, batch))
      1.0
    """

    inputs: Any
    targets: jax.Array
    weights: jax.Array
    lengths: jax.Array | None = None
    mask: jax.Array | None = None


class Task(Protocol):
    """What is learnt: a synthetic task, or the user's own.

    `fit` reads it while it traces its loop, anew in each call, so what a task holds may change
    between two calls, and not within one. Arrays that it holds become constants of the compiled
    loop; `Arrays` and `Loader` hold large data.

    A task whose examples are finite in number also has `sample_held_out`, of the same form as
    `sample`, for evaluation on examples that no training has seen; or a method `arrays`, which
    returns them as `Arrays`, to be trained on in epochs and evaluated on as a whole.

    Example:
      >>> from dataclasses import dataclass
      >>> @dataclass(frozen=True)
      ... class RunningSum(rj.tasks.SquaredError):  # brings loss, metrics and solved
      ...     length: int
      ...     solved_below: float = 0.01
      ...     in_features, out_features, readout = 1, 1, "all"
      ...
      ...     @property
      ...     def chance_loss(self):  # variance of the t − 1 numbers that are no longer shown
      ...         return (self.length - 1) / 2
      ...
      ...     def sample(self, key, batch_size):
      ...         inputs = jax.random.normal(key, (batch_size, self.length, 1))
      ...         return rj.tasks.Batch(inputs, inputs.cumsum(1), jnp.ones(inputs.shape[:2]))
      ...
      >>> task = RunningSum(10)
      >>> batch = task.sample(jax.random.key(0), 4)
      >>> float(task.loss(batch.targets, batch)), task.chance_loss
      (0.0, 4.5)
    """

    @property
    def in_features(self) -> int:
        """I, the features of an input; how many tokens there are where inputs are tokens."""
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
        """The loss of the best predictor that remembers nothing, in the unit of `loss`."""
        ...

    def sample(self, key: jax.Array, batch_size: int) -> Batch:
        """Draws a batch: pure, jittable, on the device.

        Args:
          key: a JAX random key.
          batch_size: B.

        Returns:
          A `Batch`: inputs (B, T, I); targets (B, …) or (B, T, …) by `readout`; weights.
        """
        ...

    def loss(self, outputs: jax.Array, batch: Batch) -> jax.Array:
        """The scalar to be minimised.

        Args:
          outputs: of the model, (B, O), or (B, T, O) where `readout` is "all".
          batch: that the outputs are for.
        """
        ...

    def metrics(self, outputs: jax.Array, batch: Batch) -> Metrics:
        """Scalars to be reported, by name, such as {"accuracy": …}; arguments as for `loss`.

        Names that a `History` has already, such as "loss", are refused.
        """
        ...

    def solved(self, metrics: Metrics) -> jax.Array:
        """Whether metrics on fresh data say that the task is solved: a boolean scalar."""
        ...


class SquaredError:
    """Mean squared error over the answers that count, its metrics, and when it counts as solved.

    L = Σ w ‖o − y‖² / Σ w

    w is the weight of an answer, and 0 at steps beyond a sequence's length or outside its mask;
    whatever stands there, NaN too, changes neither the loss nor its gradient.

    By itself it is the loss of the user's own data, Arrays(…, loss=SquaredError()). A task whose
    answers are numbers inherits it, and has a field `solved_below` and a `readout`.

    Args:
      solved_below: the error under which the task counts as solved; None is never.

    Raises:
      TypeError, ValueError: `solved_below` is no positive number.

    Example:
      >>> loss = rj.tasks.SquaredError(solved_below=0.1)
      >>> batch = rj.tasks.Batch(xs[None], jnp.array([[1.0, 2.0]]), jnp.ones(1))
      >>> float(loss.loss(jnp.zeros((1, 2)), batch))  # 1² + 2²
      5.0
      >>> bool(loss.solved({"mse": 0.05}))
      True
    """

    solved_below: float | None

    def __init__(self, *, solved_below: float | None = None):
        self.solved_below = solved_below
        self.__post_init__()

    def __post_init__(self) -> None:
        if self.solved_below is not None and check_number("solved_below", self.solved_below) <= 0:
            raise ValueError(
                f"solved_below must be a positive error; got {self.solved_below}. Pass for "
                "example solved_below=0.01."
            )

    def loss(self, outputs: jax.Array, batch: Batch) -> jax.Array:
        """The weighted mean squared error, a scalar.

        Args:
          outputs: of the shape of the targets, (B, O) or (B, T, O).
          batch: of this task.

        Raises:
          ValueError: outputs of another shape, which would broadcast against the targets.
        """
        _check_shape(outputs, batch.targets.shape, "last" if batch.targets.ndim == 2 else "all")
        weights = counted_weights(batch)
        # Before it is squared, or NaN at a step that does not count would be in the gradient.
        difference = _where_counted(weights, outputs - batch.targets)
        return weighted_mean(jnp.sum(jnp.square(difference), axis=-1), weights)

    def metrics(self, outputs: jax.Array, batch: Batch) -> Metrics:
        """{"mse"}: the mean squared error."""
        return {"mse": self.loss(outputs, batch)}

    def solved(self, metrics: Metrics) -> jax.Array:
        """Whether the error is below `solved_below`."""
        if self.solved_below is None:
            return jnp.bool_(False)
        return metrics["mse"] < self.solved_below


class CrossEntropy:
    """Mean cross-entropy over the answers that count, its metrics, and when it counts as solved.

    L = −Σ w c_y ln p(y) / Σ w c_y,    p = softmax(o)

    w is the weight of an answer, and 0 at steps beyond a sequence's length or outside its mask,
    whatever stands there; c_y is the weight of the class y, 1 if no others are given.

    By itself it is the loss of the user's own data, Arrays(…, loss=CrossEntropy()). A task whose
    answers are classes inherits it, and has a field `solved_above` and properties `readout` and
    `out_features`, the number of classes.

    Args:
      classes: how many there are; None is as many as `class_weights` has, or as the data have.
      class_weights: positive numbers, one for each class, (classes,), as for classes that are rare;
        None counts all alike. They weigh the loss and not the accuracy.
      solved_above: the accuracy in (0, 1) over which the task counts as solved; None is never.

    Raises:
      TypeError, ValueError: arguments that are not what they should be.

    Example:
      >>> loss = rj.tasks.CrossEntropy(class_weights=[1.0, 4.0], solved_above=0.9)
      >>> batch = rj.tasks.Batch(xs[None], jnp.array([1]), jnp.ones(1))
      >>> metrics = loss.metrics(jnp.zeros((1, 2)), batch)  # equal logits
      >>> round(float(metrics["cross_entropy"]), 3), float(metrics["accuracy"])  # ln 2
      (0.693, 0.0)
    """

    solved_above: float | None
    classes: int | None = None
    class_weights: tuple[float, ...] | None = None

    def __init__(
        self,
        *,
        classes: int | None = None,
        class_weights: Sequence[float] | np.ndarray | jax.Array | None = None,
        solved_above: float | None = None,
    ):
        self.class_weights = _read_class_weights(class_weights)
        known = None if self.class_weights is None else len(self.class_weights)
        self.classes = known if classes is None else check_size("classes", classes)
        if known is not None and self.classes != known:
            raise ValueError(
                f"class_weights must have one number for each of the {classes} classes; got "
                f"{known}. Pass {classes} of them."
            )
        self.solved_above = solved_above
        self.__post_init__()

    def __post_init__(self) -> None:
        above = self.solved_above
        if above is not None and not 0 < check_number("solved_above", above) < 1:
            raise ValueError(
                f"solved_above must be an accuracy in (0, 1); got {above}. Pass for "
                "example solved_above=0.99."
            )

    @property
    def out_features(self) -> Any:
        """O: the number of classes; None for that of the data."""
        return self.classes

    def loss(self, outputs: jax.Array, batch: Batch) -> jax.Array:
        """Weighted mean of −ln p(target), in nats, where p = softmax(outputs).

        Args:
          outputs: logits, one for each class, (B, O) or (B, T, O).
          batch: of this task.

        Raises:
          ValueError: outputs of another shape.
        """
        classes: int = self.out_features or jnp.shape(outputs)[-1]
        readout = "last" if batch.targets.ndim == 1 else "all"
        _check_shape(outputs, (*batch.targets.shape, classes), readout)
        weights = counted_weights(batch)
        targets: Any = jnp.where(weights > 0, batch.targets, jnp.zeros_like(batch.targets))
        # Before the logarithm, or NaN at a step that does not count would be in the gradient.
        logits = jax.nn.log_softmax(_where_counted(weights, outputs))
        chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        if self.class_weights is not None:
            own = jnp.array(self.class_weights, weights.dtype)
            weights = weights * own[targets]
        return weighted_mean(-chosen, weights)

    def metrics(self, outputs: jax.Array, batch: Batch) -> Metrics:
        """{"cross_entropy", "accuracy"}: nats, and the share of the weight that is right."""
        loss = self.loss(outputs, batch)
        right = (jnp.argmax(outputs, axis=-1) == batch.targets).astype(outputs.dtype)
        return {"cross_entropy": loss, "accuracy": weighted_mean(right, counted_weights(batch))}

    def solved(self, metrics: Metrics) -> jax.Array:
        """Whether the accuracy is above `solved_above`."""
        if self.solved_above is None:
            return jnp.bool_(False)
        return metrics["accuracy"] > self.solved_above


def counted_weights(batch: Batch) -> jax.Array:
    """The weights of a batch, 0 at steps that are not valid by its lengths or mask."""
    weights = batch.weights
    valid, lengths = getattr(batch, "mask", None), getattr(batch, "lengths", None)
    if lengths is not None:
        valid = jnp.arange(weights.shape[-1])[None, :] < lengths[:, None]
    if valid is None or weights.ndim == 1:  # One answer a sequence is that of its last valid step.
        return weights
    return jnp.where(valid, weights, jnp.zeros_like(weights))


def weighted_mean(values: jax.Array, weights: jax.Array) -> jax.Array:
    """Σ w v / Σ w, over all axes."""
    return jnp.sum(values * weights) / jnp.sum(weights)


def _where_counted(weights: jax.Array, values: jax.Array) -> jax.Array:
    """`values`, (..., O), and 0 where the weight, (...), is 0."""
    return jnp.where((weights > 0)[..., None], values, jnp.zeros_like(values))


def _check_shape(outputs: jax.Array, expected: tuple[int, ...], readout: str) -> None:
    if jnp.shape(outputs) != expected:
        steps = "the last step only" if readout == "last" else "every step"
        raise ValueError(
            f"outputs must have the shape of the targets, {expected}; got {jnp.shape(outputs)}. "
            f'Read {steps}: readout="{readout}", out_features={expected[-1]}.'
        )


def _read_class_weights(weights: Any) -> tuple[float, ...] | None:
    if weights is None:
        return None
    try:
        numbers = np.asarray(weights, float)
    except (TypeError, ValueError):
        raise TypeError(
            f"class_weights must be positive numbers, one for each class; got {kind_of(weights)}. "
            "Pass for example [1.0, 4.0]."
        ) from None
    if numbers.ndim != 1 or not numbers.size or not np.all((numbers > 0) & (numbers < np.inf)):
        raise ValueError(
            "class_weights must be positive numbers, one for each class; got "
            f"{np.array2string(numbers, threshold=8)}. Pass for example [1.0, 4.0]; classes that "
            "are not to count have weights of 0 in the data."
        )
    return tuple(numbers.tolist())
