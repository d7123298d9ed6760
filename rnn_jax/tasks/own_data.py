"""The user's own data as a task: what they ask for, and arrays that fit on the device."""

import copy
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.checks import check_count, check_key, check_number, check_size, kind_of
from rnn_jax.tasks.base import Batch, CrossEntropy, Metrics, SquaredError, counted_weights
from rnn_jax.tasks.examples import answer_axes, as_examples, has_classes, read_examples

LossLike = Any


class FunctionLoss:
    """A function of (outputs, batch) as a loss without metrics of its own, never solved."""

    def __init__(self, function: Callable[[jax.Array, Batch], jax.Array]):
        self.loss = function

    def metrics(self, outputs: jax.Array, batch: Batch) -> Metrics:
        """None."""
        return {}

    def solved(self, metrics: Metrics) -> jax.Array:
        """False."""
        return jnp.bool_(False)


class OwnData:
    """A task whose examples are given, and not drawn.

    A compiled loop takes its arrays as arguments, by `holding`; `order` and `take` say which of
    them each training step has.

    Attributes:
      training: what training steps read.
      validation: the examples of each evaluation, all of them; None where there are none.
      criterion: the loss, with its metrics and when it counts as solved.
      in_features: I, or how many tokens there are; None for a pytree of inputs.
      out_features: O, or how many classes there are.
      readout: "last", one answer a sequence, or "all", one a step.
      steps: T of the training sequences.
      shortest: the steps, counted from the first, that are valid in each of them.
    """

    training: Batch | None
    validation: Batch | None

    def __init__(self, examples: Batch, validation: Batch | None, loss: LossLike):
        """With the examples that are known, on the host."""
        targets, leaves = examples.targets, jax.tree.leaves(examples.inputs)
        parts = [examples] if validation is None else [examples, validation]
        self.criterion: Any = _as_criterion(loss, targets)
        self.readout = ("last", "all")[answer_axes(targets) - 1]
        self.steps: int = leaves[0].shape[1]
        self.shortest = _shortest(examples, self.steps)
        self.in_features = _in_features(parts)
        self.out_features: int = _out_features(self.criterion, parts)
        if type(self.criterion) is CrossEntropy:
            self.criterion = CrossEntropy(
                classes=self.out_features,
                class_weights=self.criterion.class_weights,
                solved_above=self.criterion.solved_above,
            )
        self.validation = None if validation is None else on_device(validation)

    @functools.cached_property
    def chance_loss(self) -> float:
        """The loss of the best answer that is the same everywhere; NaN for a loss of one's own."""
        return _chance_loss(self.criterion, self._examples())

    def loss(self, outputs: jax.Array, batch: Batch) -> jax.Array:
        """The scalar to be minimised."""
        return self.criterion.loss(outputs, batch)

    def metrics(self, outputs: jax.Array, batch: Batch) -> Metrics:
        """Those of the loss."""
        return self.criterion.metrics(outputs, batch)

    def solved(self, metrics: Metrics) -> jax.Array:
        """Whether the loss says so."""
        return self.criterion.solved(metrics)

    def order(self, key: jax.Array, first: jax.Array, length: int, batch_size: int) -> Any:
        """What each of `length` steps from step `first` on takes, with a leading axis for them."""
        raise NotImplementedError

    def take(self, entry: Any) -> Batch:
        """The batch of a step, from its entry in `order`."""
        raise NotImplementedError

    def sample(self, key: jax.Array, batch_size: int) -> Batch:
        """Draws examples with replacement; training takes them by `order` instead.

        Args:
          key: a JAX random key.
          batch_size: B.

        Returns:
          A batch of the form of the examples.
        """
        size = check_size("batch_size", batch_size)
        examples = self._examples()
        index = jax.random.randint(check_key(key), (size,), 0, count_of(examples))
        return self.prepare(take_rows(examples, index))

    def prepare(self, batch: Batch) -> Batch:
        """What the model sees of rows of the data: these, unless they are stored otherwise."""
        return batch

    def holding(self, training: Batch | None, validation: Batch | None) -> "OwnData":
        """The same task with other arrays, such as those that a compiled loop is given."""
        other = copy.copy(self)
        other.training, other.validation = training, validation
        return other

    def described_fields(self) -> dict[str, Any]:
        """What tells these data from others, for the description of a run."""
        validation = None if self.validation is None else self.validation._asdict()
        return {"loss": self.criterion, "validation": validation}

    def _examples(self) -> Batch:
        raise NotImplementedError


class Arrays(OwnData):
    """The user's own arrays: sequences that fit on the device, in epochs.

    Each epoch is a permutation of the N examples, drawn from the run's seed and the number of the
    epoch; batches follow one another through it and into the next one, so every example comes once
    in each epoch and every batch is full. Which examples a step has depends on its number alone.
    Members of an ensemble each have an order of their own. Probes look at the steps that all
    sequences have, and so at no padding.

    Evaluations are of the whole validation set: exact, no sample of it. Without one they draw from
    the training examples, and say how well these are fitted, not how well others would be.

    Args:
      inputs: (N, T, I); whole numbers (N, T), tokens; or a pytree of such arrays. Of NumPy, JAX or
        anything that NumPy reads. They are copied to the device.
      targets: numbers (N, O), one answer a sequence, or (N, T, O), one a step; or classes, whole
        numbers from 0 on, (N,) or (N, T).
      lengths: valid steps of each sequence, counted from the first, (N,); None is T for all.
      mask: whether each step is valid, (N, T), in place of lengths.
      weights: how much each answer counts, (N,) or (N, T); None is 1 for each.
      loss: `SquaredError`, `CrossEntropy`, a function (outputs, batch) -> scalar, or any object
        with loss, metrics and solved as a `Task` has them; None is SquaredError() for numbers and
        CrossEntropy() for classes.
      validation: examples to evaluate on: (inputs, targets), (inputs, targets, lengths), a dict
        with the names of these arguments, or a `Batch`; or a share in (0, 1) of the examples, which
        is split off at random and then not trained on. None is none.
      split_seed: what such a share is drawn from.

    Raises:
      TypeError, ValueError: arrays of shapes or kinds that do not fit, numbers that are not finite
        where they count, lengths out of range.

    Example:
      >>> inputs, labels = np.ones((50, 20, 2), np.float32), np.arange(50) % 3
      >>> data = rj.tasks.Arrays(inputs, labels, lengths=np.full(50, 15), validation=0.2)
      >>> len(data), data.in_features, data.out_features, data.readout
      (40, 2, 3, 'last')
      >>> data.steps_for(epochs=3, batch_size=8)  # 3 · 40 / 8
      15
    """

    def __init__(
        self,
        inputs: Any,
        targets: Any,
        lengths: Any = None,
        *,
        mask: Any = None,
        weights: Any = None,
        loss: LossLike = None,
        validation: Any = None,
        split_seed: int = 0,
    ):
        examples = read_examples(inputs, targets, weights, lengths, mask, of="the examples")
        held_out = None
        if validation is not None:
            examples, held_out = _split(examples, validation, split_seed)
        super().__init__(examples, held_out, loss)
        self.training: Batch = on_device(examples)

    def __len__(self) -> int:
        """N, the examples that are trained on."""
        return count_of(self.training)

    def steps_for(self, epochs: float, batch_size: int) -> int:
        """Training steps in which every example comes `epochs` times."""
        if check_number("epochs", epochs) < 0:
            raise ValueError(f"epochs must be at least 0; got {epochs}. Pass for example 10.")
        return math.ceil(epochs * len(self) / check_size("batch_size", batch_size))

    def order(self, key: jax.Array, first: jax.Array, length: int, batch_size: int) -> jax.Array:
        """Which examples each of `length` steps from step `first` on has, (length, B)."""
        count, span = len(self), length * batch_size
        epoch, offset = _place(first, batch_size, count)
        epochs = epoch + jnp.arange(-(-(span + count - 1) // count), dtype=jnp.uint32)
        drawn = jax.lax.map(
            lambda number: jax.random.permutation(jax.random.fold_in(key, number), count), epochs
        )
        places = jax.lax.dynamic_slice_in_dim(drawn.reshape(-1), offset.astype(jnp.int32), span)
        return places.reshape(length, batch_size)

    def take(self, entry: jax.Array) -> Batch:
        """The examples of these numbers."""
        return self.prepare(take_rows(self.training, entry))

    def described_fields(self) -> dict[str, Any]:
        """What tells these data from others, for the description of a run."""
        return {**super().described_fields(), "examples": self.training._asdict()}

    def _examples(self) -> Batch:
        return self.training


def count_of(examples: Batch) -> int:
    """N."""
    return int(examples.targets.shape[0])


def take_rows(examples: Batch, index: Any) -> Batch:
    """The examples of these numbers."""
    return jax.tree.map(lambda leaf: leaf[index], examples)


def on_device(examples: Batch) -> Batch:
    """A copy, which does not follow what the caller does with the arrays."""
    return jax.tree.map(jnp.array, examples)


def _split(examples: Batch, validation: Any, seed: int) -> tuple[Batch, Batch]:
    """(examples to train on, examples to evaluate on)."""
    share = isinstance(validation, (int, float, np.number)) and not isinstance(validation, bool)
    if not share:
        held_out = as_examples(validation, "validation", "lengths")
        check_alike(examples, held_out)
        return examples, held_out
    count = count_of(examples)
    if not 0 < check_number("validation", validation) < 1 or count < 2:
        raise ValueError(
            "validation as a share must lie in (0, 1), of at least 2 examples; got "
            f"{validation} of {count}. Pass for example 0.2, or (inputs, targets)."
        )
    # NumPy's frozen generator: the same split in every version.
    seed = check_count("split_seed", seed, high=2**32 - 1)
    places = np.random.RandomState(seed).permutation(count)
    size = min(max(1, round(float(validation) * count)), count - 1)
    rest, apart = np.sort(places[size:]), np.sort(places[:size])
    return take_rows(examples, rest), take_rows(examples, apart)


def check_alike(training: Batch, validation: Batch) -> None:
    """Raises ValueError where one model cannot read both, whatever their numbers N and T."""

    def form(batch: Batch) -> Any:
        inputs = jax.tree.map(lambda leaf: (str(leaf.dtype), *leaf.shape[2:]), batch.inputs)
        answers = (has_classes(batch.targets), answer_axes(batch.targets))
        features = () if has_classes(batch.targets) else batch.targets.shape[-1:]
        return inputs, (*answers, *features)

    (inputs, targets), (other_inputs, other_targets) = form(training), form(validation)
    if inputs != other_inputs or targets != other_targets:
        raise ValueError(
            "validation must be of the form of the examples trained on, but for N and T; got "
            f"inputs and targets {_forms(validation)} beside {_forms(training)}. Pass arrays of "
            "equal features and types."
        )


def _forms(batch: Batch) -> str:
    leaves = [*jax.tree.leaves(batch.inputs), batch.targets]
    return ", ".join(f"{leaf.dtype}{list(leaf.shape)}" for leaf in leaves)


def _as_criterion(loss: LossLike, targets: Any) -> Any:
    if loss is None:
        return CrossEntropy() if has_classes(targets) else SquaredError()
    missing = [name for name in ("loss", "metrics", "solved") if not hasattr(loss, name)]
    if isinstance(loss, type) or (missing and not callable(loss)):
        raise TypeError(
            "loss must be a function (outputs, batch) -> scalar, or an object with loss, metrics "
            f"and solved; got {kind_of(loss)}. Pass for example rnn_jax.tasks.SquaredError()."
        )
    kinds = {SquaredError: not has_classes(targets), CrossEntropy: has_classes(targets)}
    for kind, fits in kinds.items():
        if type(loss) is kind and not fits:
            other = "floats" if has_classes(targets) else "whole numbers"
            raise ValueError(
                f"{kind.__name__} needs targets that are {other}; got {targets.dtype}. Cast them, "
                "or pass the other loss."
            )
    return FunctionLoss(loss) if missing else loss


def _in_features(parts: list[Batch]) -> int | None:
    inputs = parts[0].inputs
    if not isinstance(inputs, np.ndarray):
        return None
    if inputs.ndim > 2:
        return inputs.shape[2]
    return 1 + max(int(part.inputs.max()) for part in parts)


def _out_features(criterion: Any, parts: list[Batch]) -> int:
    if not has_classes(parts[0].targets):
        return int(parts[0].targets.shape[-1])
    largest = max(int(part.targets[np.asarray(part.weights) > 0].max()) for part in parts)
    classes = getattr(criterion, "out_features", None)
    if classes is None:
        return largest + 1
    if largest >= classes:
        raise ValueError(
            f"targets must name classes below {classes}, as many as the loss has; got {largest}. "
            "Number them from 0, or pass more classes or class_weights."
        )
    return int(classes)


def _shortest(examples: Batch, steps: int) -> int:
    if examples.lengths is not None:
        return int(examples.lengths.min())
    if examples.mask is not None:
        return int(np.cumprod(examples.mask, axis=1).sum(axis=1).min())
    return steps


def _chance_loss(criterion: Any, examples: Batch) -> float:
    """Of the best constant answer."""
    weights = np.asarray(counted_weights(examples), float)
    counted = weights > 0
    weights, targets = weights[counted], np.asarray(examples.targets)[counted]
    if type(criterion) is SquaredError:
        mean = np.average(targets.astype(float), axis=0, weights=weights)
        return float(np.average(((targets - mean) ** 2).sum(axis=-1), weights=weights))
    if type(criterion) is CrossEntropy:
        own = np.asarray(criterion.class_weights or np.ones(targets.max() + 1))
        shares = np.bincount(targets, weights * own[targets])
        shares = shares[shares > 0] / shares.sum()
        return float(-(shares * np.log(shares)).sum())
    return math.nan


def _place(step: jax.Array, size: int, count: int) -> tuple[jax.Array, jax.Array]:
    """divmod(step · size, count), where the product does not fit into 32 bits.

    By doubling: the digits of `size` from the first to the last.
    """
    modulus = jnp.uint32(count)
    step = step.astype(jnp.uint32)
    own = (step // modulus, step % modulus)

    def add(one: Any, other: Any) -> Any:
        left = modulus - other[1]
        over = one[1] >= left
        rest = jnp.where(over, one[1] - left, one[1] + other[1])
        return one[0] + other[0] + over.astype(jnp.uint32), rest

    place = (jnp.uint32(0), jnp.uint32(0))
    for digit in f"{size:b}":
        place = add(place, place)
        if digit == "1":
            place = add(place, own)
    return place
