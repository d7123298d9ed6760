"""The package's penalties as terms of an objective, applied to the cells of a `SequenceModel`."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax.arrays import affine, promote
from rnn_jax.checks import check_count, check_flag, check_number, check_size, kind_of
from rnn_jax.gradients.linearize import accept, sizes_of
from rnn_jax.gradients.penalties import (
    flossing_penalty,
    orthogonality_penalty,
    vanishing_penalty,
)
from rnn_jax.sequence import layers
from rnn_jax.sequence.bidirectional import Bidirectional
from rnn_jax.sequence.model import SequenceModel
from rnn_jax.sequence.unroll import unroll
from rnn_jax.training.objective.terms import Weight, check_weight
from rnn_jax.training.parameters.trainable import check_selection, selected


class Place(NamedTuple):
    """Where a cell stands in a model that runs over one sequence.

    Attributes:
      cell: cell(carry, x) -> (carry, y).
      inputs: what it sees, in the order in which it sees it, (T, I).
      rest: from its outputs, (T, H) in that order, to the outputs of the model.
    """

    cell: Any
    inputs: jax.Array
    rest: Callable[[jax.Array], jax.Array]


def places_of(model: Any, xs: jax.Array) -> list[Place]:
    """The cells of a model and what each of them sees, without dropout and noise.

    Args:
      model: a `SequenceModel`, of any depth and with any options.
      xs: one sequence, (T, I).

    Returns:
      A place for each cell, from input to output; of a `Bidirectional` forward's and backward's,
      whose inputs run from the end to the start.

    Raises:
      TypeError: no `SequenceModel`.
    """
    _check_model(model)
    # Of tokens the first layer sees the vectors.
    embedding = getattr(model, "embedding", None)
    found, below = [], xs if embedding is None else embedding(xs, None)
    for level, layer in enumerate(model.cells):
        into, ys = _ran(model, level, below)

        def rest(ys: jax.Array, level: int = level, below: jax.Array = below) -> jax.Array:
            return _above(model, level, ys, below)

        if isinstance(layer, Bidirectional):
            size = unroll(layer.forward, into)[1].shape[-1]
            ahead = functools.partial(_with_backward, rest, ys[:, size:])
            back = functools.partial(_with_forward, rest, ys[:, :size])
            found.append(Place(layer.forward, into, ahead))
            found.append(Place(layer.backward, jnp.flip(into, axis=0), back))
        else:
            found.append(Place(layer, into, rest))
        below = _passed_on(model, ys, below)
    return found


def cells_of(model: Any) -> list[Any]:
    """The cells of a `SequenceModel`, from input to output, both of a `Bidirectional`.

    Raises:
      TypeError: no `SequenceModel`.
    """
    _check_model(model)
    return [cell for layer in model.cells for cell in layers.cells_of(layer)]


@dataclass(frozen=True)
class _Penalty:
    """The field that all penalties share, first and by position."""

    weight: Weight = 1.0

    def __post_init__(self) -> None:
        check_weight("weight", self.weight)


@dataclass(frozen=True)
class Flossing(_Penalty):
    """Gradient flossing in training: a term that pulls leading Lyapunov exponents to a target.

    mean over cells and sequences of 1/k Σ_i (λ_i − target_i)²

    Of each cell of a `SequenceModel` along the inputs that it sees in training, without dropout and
    noise; see `flossing_penalty`. For another model, pass a function of your own that calls it.

    Args:
      weight: a number, or a schedule of the training step; see `Term`. At steps of weight 0 nothing
        is computed, so flossing now and then costs as little as it should.
      k: how many exponents of each cell, the leading ones; None, or more than it has, is all.
      target: what they should be, nats a step: one number, or a tuple of k.
      warmup, interval: as in `lyapunov_exponents`.
      sequences: of the batch that are looked at, the first ones; None is all of them.

    Raises:
      TypeError, ValueError: a field that is not as above.

    Example:
      >>> term = rj.Flossing(0.1, k=4)  # For fit(..., objective=term)
      >>> model = rj.SequenceModel(cell, 1, rngs=nnx.Rngs(0))
      >>> batch = rj.tasks.Adding(20).sample(jax.random.key(0), 4)
      >>> value = term(model, batch, None)
      >>> exponents = rj.lyapunov_exponents(cell, batch.inputs[0], k=4).exponents
      >>> bool(jnp.allclose(value, jnp.mean(exponents**2), rtol=1e-3))
      True

    References:
      R. Engelken, "Gradient flossing: improving gradient descent through dynamic control of
      Jacobians", 2023.
    """

    k: int | None = None
    target: float | tuple[float, ...] = 0.0
    warmup: int = 0
    interval: int = 1
    sequences: int | None = 1

    name: ClassVar[str] = "flossing"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_sequences(self.sequences)
        if self.k is not None:
            check_size("k", self.k)
        check_count("warmup", self.warmup)
        check_size("interval", self.interval)
        goals = self.target if isinstance(self.target, tuple) else (self.target,)
        for goal in goals:
            check_number("target", goal)
        if isinstance(self.target, tuple) and len(goals) != self.k:
            raise ValueError(
                f"target must be one number or k of them, here {self.k}; got {len(goals)}. Pass as "
                "many as k says."
            )

    def __call__(self, model: Any, batch: Any, outputs: Any) -> jax.Array:
        """The penalty, ()."""
        target = jnp.asarray(self.target)

        def of_sequence(xs: jax.Array) -> jax.Array:
            return _mean([self._of_cell(place, target) for place in places_of(model, xs)])

        return jnp.mean(jax.vmap(of_sequence)(_first(batch, self.sequences).inputs))

    def _of_cell(self, place: Place, target: jax.Array) -> jax.Array:
        size = sizes_of(accept(place.cell, place.inputs, None)).state
        k = size if self.k is None else min(self.k, size)
        return flossing_penalty(
            place.cell,
            place.inputs,
            k=k,
            target=target[:k] if target.ndim else target,
            warmup=self.warmup,
            interval=self.interval,
        )


@dataclass(frozen=True)
class Vanishing(_Penalty):
    """A term against error signals that shrink or grow on their way back through a cell.

    mean over sequences of Σ over cells and t of (‖A_{t+1}ᵀ δ_{t+1}‖ / ‖δ_{t+1}‖ − 1)²

    Of each cell of a `SequenceModel`, with δ_t the gradient of the task's loss by its carry along
    the training batch, without dropout and noise; see `vanishing_penalty`.

    Args:
      weight: a number, or a schedule of the training step; see `Term`.
      immediate: differentiate by the weights inside A alone, as the authors did.
      sequences: of the batch that are looked at, the first ones; None is all of them.

    Raises:
      TypeError, ValueError: a field that is not as above.

    Example:
      >>> term = rj.Vanishing(0.01, sequences=2)  # For fit(..., objective=term)
      >>> task = rj.tasks.Adding(20)
      >>> batch = task.sample(jax.random.key(0), 4)
      >>> model = rj.SequenceModel(cell, 1, rngs=nnx.Rngs(0))
      >>> bool(term(model, batch, None, task.loss) > 0)
      True

    References:
      R. Pascanu, T. Mikolov and Y. Bengio, "On the difficulty of training recurrent neural
      networks", 2013.
    """

    immediate: bool = False
    sequences: int | None = None

    name: ClassVar[str] = "vanishing"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_sequences(self.sequences)
        check_flag("immediate", self.immediate)

    def __call__(self, model: Any, batch: Any, outputs: Any, loss: Any) -> jax.Array:
        """The penalty, ()."""
        rows = _first(batch, self.sequences)
        of_cells = [
            self._of_cell(model, rows, loss, index) for index in range(len(cells_of(model)))
        ]
        return sum(of_cells[1:], of_cells[0])

    def _of_cell(self, model: Any, rows: Any, loss: Any, index: int) -> jax.Array:
        def place(xs: jax.Array) -> Place:
            return places_of(model, xs)[index]

        def loss_of(ys: jax.Array) -> jax.Array:
            outputs = jax.vmap(lambda xs, y: place(xs).rest(y))(rows.inputs, ys)
            value: jax.Array = loss(outputs, rows)
            return value

        def of_sequence(xs: jax.Array, slopes: jax.Array) -> jax.Array:
            cell, inputs, _ = place(xs)
            # Linear, with the loss's own gradient: a loss is of a batch, the penalty of a sequence.
            return vanishing_penalty(
                lambda ys: jnp.sum(slopes * ys), cell, inputs, immediate=self.immediate
            )

        ys = jax.vmap(lambda xs: unroll(place(xs).cell, place(xs).inputs)[1])(rows.inputs)
        return jnp.mean(jax.vmap(of_sequence)(rows.inputs, jax.grad(loss_of)(ys)))


@dataclass(frozen=True)
class Orthogonality(_Penalty):
    """A term that keeps recurrent matrices orthogonal.

    Σ over cells and blocks of ‖WᵀW − I‖_F²

    Of each cell of a `SequenceModel`; see `orthogonality_penalty`.

    Args:
      weight: a number, or a schedule of the training step; see `Term`.

    Raises:
      TypeError, ValueError: a weight that is neither; when the term is first evaluated, a cell of
        which no square matrices multiply the state.

    Example:
      >>> model = rj.SequenceModel(cell, 1, rngs=nnx.Rngs(0))
      >>> term = rj.Orthogonality(0.1)  # For fit(..., objective=term)
      >>> bool(term(model, None, None) < 1e-8)
      True

    References:
      E. Vorontsov, C. Trabelsi, S. Kadoury and C. Pal, "On orthogonality and learning recurrent
      networks with long term dependencies", 2017.
    """

    name: ClassVar[str] = "orthogonality"

    def __call__(self, model: Any, batch: Any, outputs: Any) -> jax.Array:
        """The penalty, ()."""
        of_cells = [orthogonality_penalty(cell) for cell in cells_of(model)]
        return sum(of_cells[1:], of_cells[0])


@dataclass(frozen=True)
class WeightDecay(_Penalty):
    """A term that keeps weights small, all of a model or some.

    ½ Σ ‖w‖², whose gradient is w

    This is the penalty, which an adaptive optimiser rescales with the rest of the gradient; the
    decoupled decay of AdamW is `optax.adamw(…, mask=…)`.

    Args:
      weight: a number, or a schedule of the training step; see `Term`.
      where: which parameters, in any of the forms that `trainable` of `fit` takes, such as
        nnx.PathContains("recurrent_kernel"); True is all.

    Raises:
      TypeError, ValueError: a weight or a selection that is not as above; the latter if it picks
        nothing, when the term is first evaluated.

    Example:
      >>> model = rj.SequenceModel(cell, 1, rngs=nnx.Rngs(0))
      >>> term = rj.WeightDecay(1e-4, where=nnx.PathContains("recurrent_kernel"))
      >>> weights = model.cells[0].recurrent_kernel[...]
      >>> bool(jnp.allclose(term(model, None, None), 0.5 * jnp.sum(weights**2)))
      True
    """

    where: Any = True

    name: ClassVar[str] = "weight_decay"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_selection("where", self.where)

    def __call__(self, model: Any, batch: Any, outputs: Any) -> jax.Array:
        """The penalty, ()."""
        picked = selected("where", model, self.where)
        leaves = [
            leaf
            for leaf, is_picked in zip(jax.tree.leaves(model), picked, strict=True)
            if is_picked
        ]
        sums = promote(*[jnp.sum(jnp.square(jnp.abs(leaf))) for leaf in leaves])
        return sum(sums[1:], sums[0]) / 2


def _check_model(model: Any) -> None:
    if not isinstance(model, SequenceModel):
        raise TypeError(
            "this term needs a SequenceModel, of which it is known what each cell sees; got "
            f"{kind_of(model)}. Pass a function of your own instead, for example "
            'objective={"flossing": lambda model, batch, outputs: '
            "rnn_jax.flossing_penalty(model.cell, batch.inputs[0], k=8)}."
        )


def _check_sequences(sequences: Any) -> None:
    if sequences is not None:
        check_size("sequences", sequences)


def _first(batch: Any, sequences: int | None) -> Any:
    """The first rows of a batch, whole.

    Raises:
      ValueError: rows of different lengths, whose padding would count as steps.
    """
    if any(getattr(batch, name, None) is not None for name in ("lengths", "mask")):
        raise ValueError(
            "this term needs sequences that are valid at every step; got a batch with lengths or a "
            "mask. Pass a function of your own that leaves the padding out."
        )
    return jax.tree.map(lambda leaf: leaf[:sequences], batch)


def _with_backward(
    rest: Callable[[jax.Array], jax.Array], backward: jax.Array, ys: jax.Array
) -> jax.Array:
    return rest(jnp.concatenate([ys, backward], axis=-1))


def _with_forward(
    rest: Callable[[jax.Array], jax.Array], forward: jax.Array, ys: jax.Array
) -> jax.Array:
    return rest(jnp.concatenate([forward, jnp.flip(ys, axis=0)], axis=-1))


def _ran(model: SequenceModel, level: int, below: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(what a layer sees, what it makes of it), (T, …)."""
    layer, into = model.cells[level], model._normalised(level, below)
    both = isinstance(layer, Bidirectional)
    return into, (layer(into) if both else unroll(layer, into))[1]


def _passed_on(model: SequenceModel, ys: jax.Array, below: jax.Array) -> jax.Array:
    """What the next layer is given."""
    if not model.residual or ys.shape != below.shape:
        return ys
    ys, below = promote(ys, below)
    return ys + below


def _above(model: SequenceModel, level: int, ys: jax.Array, below: jax.Array) -> jax.Array:
    """The outputs of a model one of whose layers has given `ys`."""
    h = _passed_on(model, ys, below)
    for above in range(level + 1, len(model.cells)):
        h = _passed_on(model, _ran(model, above, h)[1], h)
    if model.readout == "last":
        h = model._at_the_end(h, None)
    if model.kernel is None or model.bias is None:
        return h
    return affine(*promote(h, model.kernel[...], model.bias[...]))


def _mean(values: Sequence[jax.Array]) -> jax.Array:
    return sum(values[1:], values[0]) / len(values)
