"""What is minimised: the task's loss and further terms, each with a weight of its own."""

import inspect
import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax.checks import check_number, kind_of
from rnn_jax.tasks.base import RESERVED
from rnn_jax.tasks.contract import check_loss

# A number, or a function from the number of a training step, counted from 0, to one.
Weight = float | Callable[[jax.Array], Any]

# The name of the task's own loss among the terms.
TASK = "task"
# What a term is told beside model, batch and outputs if it asks for it by name.
_OFFERED = ("key", "loss")
_EXAMPLE = 'Pass for example objective={"flossing": rnn_jax.Flossing(0.1, k=8)}.'


@dataclass(frozen=True)
class Term:
    """A function that `fit` minimises beside the task's loss, and how much it counts.

    Args:
      function: function(model, batch, outputs) -> scalar, pure and jittable, of one member.
        `batch` is the training batch, `outputs` what the model made of it in this step. `model` is
        a copy as in training that may be called; what that writes into its state goes no further.
        A function with a parameter `key` is given a random key of its own for each step, and one
        with a parameter `loss` the task's loss(outputs, batch) -> scalar.
      weight: a number, or a schedule: a function from the number of the training step, counted
        from 0, to one, such as optax's. At steps of weight 0 the function is not evaluated.

    Raises:
      TypeError: a function that cannot be called as above, or a weight that is neither.
      ValueError: a weight that is not finite.

    Example:
      >>> def quiet(model, batch, outputs):
      ...     return jnp.mean(outputs**2)
      >>> objective = {"quiet": rj.Term(quiet, optax.linear_schedule(1.0, 0.0, 20))}
      >>> model = rj.SequenceModel(cell, 1, rngs=nnx.Rngs(0))
      >>> task = rj.tasks.Adding(20)
      >>> result = rj.fit(
      ...     model, task, optax.adam(1e-2), steps=20, batch_size=8, seed=0, objective=objective
      ... )
      >>> sorted(result.history.terms)
      ['quiet', 'task']
    """

    function: Callable[..., jax.Array]
    weight: Weight = 1.0

    def __post_init__(self) -> None:
        _asked_for("function", self.function)
        check_weight("weight", self.weight)


class TermValue(NamedTuple):
    """One term at one training step.

    Attributes:
      value: without its weight; 0 where it was not evaluated.
      counted: whether it was, its weight not being 0.
      finite: whether weight times value is.
    """

    value: jax.Array
    counted: jax.Array
    finite: jax.Array


class Part(NamedTuple):
    """A term, checked.

    Attributes:
      name: of its column.
      function, weight: see `Term`; the function is None for the task's own loss.
      told: which of the offered it asks for.
    """

    name: str
    function: Callable[..., Any] | None
    weight: Weight
    told: tuple[str, ...] = ()

    @property
    def absent(self) -> bool:
        """Whether its weight is 0 at every step."""
        return not callable(self.weight) and self.weight == 0


@dataclass(frozen=True, eq=False)
class Objective:
    """Σ w(n) · term at step n; see `check_objective`.

    Attributes:
      parts: the terms, the task's loss first.
      given: by name what the user gave.
    """

    parts: tuple[Part, ...]
    given: dict[str, Any]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns."""
        return tuple(part.name for part in self.parts)


def check_weight(name: str, weight: Any) -> Weight:
    """Returns a number or a schedule.

    Raises:
      TypeError: it is neither.
      ValueError: it is not finite.
    """
    if callable(weight) and not isinstance(weight, type):
        return weight
    if isinstance(weight, type) or not hasattr(weight, "__float__"):
        raise TypeError(
            f"{name} must be a number, or a function from the step to one; got "
            f"{kind_of(weight)}. Pass for example 0.1, or optax.linear_schedule(0.0, 0.1, 1000)."
        )
    return check_number(name, weight)


def check_objective(objective: Any, taken: tuple[str, ...] = ()) -> Objective | None:
    """What the user gave for `objective`, as terms.

    Args:
      objective: None is the task's loss alone; a dict of terms by name; or one of this package's
        terms, which has a name of its own.
      taken: names that are given already.

    Raises:
      TypeError: no terms, or no names.
      ValueError: names that are taken, or nothing left to minimise.
    """
    if objective is None:
        return None
    own_name = getattr(type(objective), "name", None)
    if isinstance(own_name, str) and callable(objective):
        objective = {own_name: objective}
    if not isinstance(objective, Mapping):
        raise TypeError(
            "objective must be a dict of terms by name, or one of this package's terms; got "
            f"{kind_of(objective)}. {_EXAMPLE}"
        )
    given = dict(objective)
    if not given:
        raise ValueError(f"objective must have at least one term; got an empty dict. {_EXAMPLE}")
    parts = [Part(TASK, None, check_weight(f"objective[{TASK!r}]", given.get(TASK, 1.0)))]
    parts += [_part(name, term, taken) for name, term in given.items() if name != TASK]
    if all(part.absent for part in parts):
        raise ValueError(
            "objective must leave something to minimise; got weights that are all 0, for "
            f"{', '.join(repr(part.name) for part in parts)}. Give one of them another weight."
        )
    return Objective(tuple(parts), given)


def check_names(objective: Objective | None, metrics: Mapping[str, Any]) -> None:
    """Raises ValueError if a term has the name of one of the task's metrics."""
    for name in () if objective is None else objective.names:
        if name in metrics:
            raise ValueError(
                f"a term of objective must not be named {name!r}, which is a metric of the task. "
                "Rename the term."
            )


def minimised(
    objective: Objective | None,
    task: Any,
    model: Any,
    batch: Any,
    outputs: Any,
    key: jax.Array,
    step: jax.Array,
) -> tuple[jax.Array, dict[str, TermValue]]:
    """(the scalar to be minimised, the terms that it is made of).

    Args:
      objective: None is the task's loss alone, without terms.
      task: whose loss it is.
      model: as it was called; nothing is written to it.
      batch: of this step.
      outputs: of the model, in training.
      key: for the terms that ask for one: each gets one by its name, whatever others there are.
      step: counted from 0.
    """
    if objective is None:
        return check_loss(task.loss(outputs, batch)), {}
    found, shares = {}, []
    for part in objective.parts:

        def evaluate(model: Any, part: Part = part) -> jax.Array:
            return _value(part, task, model, batch, outputs, key)

        form = jax.eval_shape(evaluate, model)
        nothing = jnp.zeros((), form.dtype)
        if part.absent:
            found[part.name] = TermValue(nothing, jnp.bool_(False), jnp.bool_(True))
            continue
        weight = _weight_at(part, step).astype(form.dtype)
        counted = weight != 0
        if callable(part.weight):
            value = lax.cond(counted, evaluate, lambda _, zero=nothing: zero, model)
        else:
            value = evaluate(model)
        shares.append(weight * value)
        found[part.name] = TermValue(value, counted, jnp.isfinite(shares[-1]))
    widest = shares[0].dtype
    for share in shares[1:]:
        widest = jnp.promote_types(widest, share.dtype)
    return sum((s.astype(widest) for s in shares[1:]), shares[0].astype(widest)), found


def _part(name: Any, term: Any, taken: tuple[str, ...]) -> Part:
    if not isinstance(name, str):
        raise TypeError(
            f"the name of a term must be a string; got {name!r} of type {kind_of(name)}. {_EXAMPLE}"
        )
    if name in RESERVED or name in taken:
        raise ValueError(
            f"a term of objective must not be named {name!r}, which the history has already. "
            "Rename it."
        )
    function, weight = term, getattr(term, "weight", 1.0)
    if isinstance(term, Term):
        function = term.function
    where = f"objective[{name!r}]"
    return Part(
        name, function, check_weight(f"{where}.weight", weight), _asked_for(where, function)
    )


def _asked_for(where: str, function: Any) -> tuple[str, ...]:
    """Which of the offered a term's function takes.

    Raises:
      TypeError: it cannot be called with model, batch, outputs and these.
    """
    rule = (
        f"{where} must be a function of model, batch and outputs, and may take "
        f"{' and '.join(_OFFERED)}"
    )
    fix = "Pass for example lambda model, batch, outputs: jnp.mean(jnp.square(outputs))."
    if not callable(function) or isinstance(function, type):
        raise TypeError(f"{rule}; got {kind_of(function)}. {fix}")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # Built-in callables may have no signature to look at.
        return ()
    named = [p for p in signature.parameters.values() if p.kind is not p.POSITIONAL_ONLY]
    told = tuple(name for name in _OFFERED if name in {parameter.name for parameter in named})
    try:
        signature.bind(None, None, None, **dict.fromkeys(told))
    except TypeError as error:
        raise TypeError(f"{rule}; got one with {signature}: {error}. {fix}") from error
    return told


def _value(part: Part, task: Any, model: Any, batch: Any, outputs: Any, key: Any) -> jax.Array:
    """Of one term, without its weight."""
    if part.function is None:
        return check_loss(task.loss(outputs, batch))
    offered = {
        "key": lambda: jax.random.fold_in(key, zlib.crc32(part.name.encode())),
        "loss": lambda: task.loss,
    }
    # Its own, so that what a call writes into it is lost with it.
    own = jax.tree.map(lambda leaf: leaf, model)
    value = part.function(own, batch, outputs, **{name: offered[name]() for name in part.told})
    if not isinstance(value, jax.Array) or not jnp.issubdtype(value.dtype, jnp.floating):
        got = f"an array of {value.dtype}" if isinstance(value, jax.Array) else kind_of(value)
        raise TypeError(
            f"the term {part.name!r} must return a JAX scalar of real floats; got {got}. Compute "
            "it with jax.numpy."
        )
    if value.shape != ():
        raise ValueError(
            f"the term {part.name!r} must return a scalar; got shape {value.shape}. Return a mean "
            "or a sum."
        )
    return value


def _weight_at(part: Part, step: jax.Array) -> jax.Array:
    if not callable(part.weight):
        return jnp.asarray(part.weight, float)
    # Schedules of optax rely on JAX's ordinary promotion.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        found = part.weight(step)
    number = isinstance(found, (int, float)) and math.isfinite(found)
    real = hasattr(found, "dtype") and jnp.issubdtype(found.dtype, jnp.number)
    if not number and (not real or jnp.issubdtype(found.dtype, jnp.complexfloating)):
        raise TypeError(
            f"the weight of the term {part.name!r} must be a real number at every step; got "
            f"{getattr(found, 'dtype', None) or kind_of(found)}. Compute it with jax.numpy."
        )
    weight = jnp.asarray(found)
    if weight.shape != ():
        raise ValueError(
            f"the weight of the term {part.name!r} must be one number at each step; got shape "
            f"{weight.shape}. Reduce it."
        )
    return weight.astype(float)
