"""Optimisers: what counts as one, and how one is called."""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rnn_jax.checks import kind_of
from rnn_jax.training.parameters.variables import split


@contextlib.contextmanager
def standard_promotion() -> Iterator[None]:
    """Optax relies on JAX's ordinary promotion, whatever the user has chosen for their own code."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def check_optimizer(optimizer: Any, hyperparameters: Any) -> Any:
    """Returns an optax transformation, or with hyperparameters a function from them to one.

    Raises:
      TypeError: it is neither.
    """
    if hyperparameters is None:
        return as_transformation(optimizer)
    if _is_optax(optimizer) or not callable(optimizer):
        raise TypeError(
            "with hyperparameters, optimizer must be a function from one member's hyperparameters "
            f"to an optax transformation; got {kind_of(optimizer)}. Pass for example optax.adam "
            "and hyperparameters=[1e-3, 3e-3]."
        )
    return optimizer


def as_transformation(
    optimizer: Any, *, returned: bool = False
) -> optax.GradientTransformationExtraArgs:
    """An optimiser as a transformation that can be told more than the gradient.

    Args:
      optimizer: an optax transformation or `optax.MultiSteps`.
      returned: it was made by a function of hyperparameters.

    Raises:
      TypeError: it is something else.
    """
    if isinstance(optimizer, optax.MultiSteps):
        optimizer = optimizer.gradient_transformation()
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(
            "optimizer must return an optax transformation for each member's hyperparameters; got "
            f"{kind_of(optimizer)}. Pass for example optax.adam."
            if returned
            else f"optimizer must be an optax transformation; got {kind_of(optimizer)}. Pass for "
            "example optax.adam(1e-3), or with hyperparameters= a function of them."
        )
    return optax.with_extra_args_support(optimizer)


def apply_optimizer(
    optimizer: optax.GradientTransformationExtraArgs,
    optimizer_state: Any,
    parameters: Any,
    loss: jax.Array,
    gradient: Any,
    loss_of: Callable[[Any], jax.Array],
) -> tuple[Any, Any]:
    """(parameters, optimizer_state) after one update.

    The transformation is told what optax's line searches, plateau schedules and sharpness-aware
    methods ask for, each by its name, and only what it asks for: `value` and `grad` at the
    parameters, `value_fn` and `obj_fn`, the loss of other parameters on the same batch with the
    same noise, and `grad_fn`, its gradient.

    Raises:
      TypeError: it asks for something else, or refuses one of these.
    """

    def value_fn(other: Any, *, obj_fn: Any = None, grad_fn: Any = None) -> jax.Array:
        # A line search hands on whatever else it was told, by name.
        return loss_of(other)

    known = {
        "value": loss,
        "grad": gradient,
        "value_fn": value_fn,
        "obj_fn": loss_of,
        "grad_fn": lambda other, *_: jax.grad(loss_of)(other),
    }
    taken = inspect.signature(optimizer.update).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in taken.values())
    told = {name: value for name, value in known.items() if takes_all or name in taken}
    with standard_promotion():
        try:
            updates, optimizer_state = optimizer.update(
                gradient, optimizer_state, parameters, **told
            )
        except TypeError as error:
            if "keyword" not in str(error):
                raise
            if "missing" in str(error) and any(f"'{name}'" in str(error) for name in known):
                raise TypeError(
                    "an optimizer that is more than a gradient's must be told so by what holds it; "
                    f"got one whose holder hands on the gradient alone: {error}. Pass a line "
                    "search by itself or in optax.chain; in place of optax.MultiSteps around it, "
                    "a larger batch_size."
                ) from error
            raise TypeError(
                f"an optimizer must do with {', '.join(known)} beside gradient, state and "
                f"parameters; got one that says: {error}. Within a chain each link is told all of "
                "them: pass one that takes fewer, such as optax.contrib.sam, by itself, with the "
                "chain inside it."
            ) from error
        return optax.apply_updates(parameters, updates), optimizer_state


def check_hyperparameters(
    values: Any, members: int | None, model: Any, trained: Sequence[bool] | None = None
) -> Any:
    """Arrays with a leading E, in the type of the parameters that are trained; see `split`.

    Raises:
      ValueError: a single model, or another number of values than members.
      TypeError: they are no numbers.
    """
    if values is None:
        return None
    if members is None:
        raise ValueError(
            "hyperparameters need a model with a leading axis, one member for each; got a single "
            "model. Make one with rnn_jax.ensemble(make_model, seeds=[0] * E), and pass members=E "
            "if it is none of this package's."
        )
    dtype = parameters_type(model, trained)
    named = values if isinstance(values, dict) else {"hyperparameters": values}
    arrays = {name: _numbers(name, value, dtype) for name, value in named.items()}
    for name, array in arrays.items():
        if array.ndim == 0 or array.shape[0] != members:
            raise ValueError(
                f"{name} must have one value for each of the {members} members; got shape "
                f"{array.shape}. Pass {members} numbers."
            )
    return arrays if isinstance(values, dict) else arrays["hyperparameters"]


def parameters_type(model: Any, trained: Sequence[bool] | None = None) -> Any:
    """The widest type among what is trained of a model; see `split`."""
    with standard_promotion():
        return jnp.result_type(*jax.tree.leaves(split(model, trained)[0]))


def _is_optax(optimizer: Any) -> bool:
    return isinstance(optimizer, (optax.GradientTransformation, optax.MultiSteps))


def _numbers(name: str, value: Any, dtype: Any) -> jax.Array:
    """An array, or a list of plain numbers, one for each member."""
    listed = isinstance(value, (list, tuple))
    if listed and not all(isinstance(n, (int, float, np.number)) for n in value):
        raise TypeError(
            f"{name} must be an array or a list of numbers, one for each member; got {value!r}. "
            'Several hyperparameters go into a dict: {"rate": [1e-3, 3e-3], "decay": [0.9, 0.8]}.'
        )
    if not listed and not jnp.issubdtype(getattr(value, "dtype", bool), jnp.number):
        raise TypeError(
            f"{name} must be an array or a list of numbers, one for each member; got "
            f"{kind_of(value)}. Pass for example [1e-3, 3e-3]."
        )
    return jnp.asarray(value, dtype)
