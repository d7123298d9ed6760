"""The weight gradient, split by the step at which the weights were used."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax.gradients.differentiation import pullback
from rnn_jax.gradients.linearize import Record, Source, accept, sizes_of
from rnn_jax.gradients.memory import check_fits
from rnn_jax.gradients.numerics.scaled import LN2, log_frobenius, power_of_two, zero_or_never
from rnn_jax.gradients.precision import compiled
from rnn_jax.gradients.signals.backprop import (
    Loss,
    check_loss,
    loss_gradient,
    outputs_of,
    signal_of,
)
from rnn_jax.gradients.trajectory import flatten_outputs
from rnn_jax.sequence.calling import Carry


def weight_gradient_by_step(
    loss: Loss,
    cell: Any,
    xs: Any = None,
    carry: Carry | None = None,
    *,
    feature_axes: int | None = None,
) -> Any:
    """The share of dL/dW that comes through the use of the weights at each step.

    If step s had weights W_s of its own, all of equal value, this is dL/dW_s; their sum over s is
    `jax.grad` of the loss by W. Weights that make the initial carry (`LearnedCarry`) are used at
    the first step.

    Args:
      loss: loss(ys) -> scalar, of the outputs (T, H) that `unroll` gives.
      cell: a callable pytree cell(carry, x) -> (carry, y) with at least one array.
      xs: one sequence, (T, I), or a pytree of inputs; `jax.vmap` gives a batch.
      carry: initial carry; None asks the cell.
      feature_axes: trailing axes of xs that are features; as for `unroll`.

    Returns:
      A pytree like `cell`, each leaf with a leading axis T.

    Raises:
      ValueError: a loss that is no scalar, wrong shapes, an empty sequence, a cell without arrays,
        or a result too large for memory.
      TypeError: a loss that is not callable, inputs or carries of the wrong type, or a cell that
        needs `carry`.

    Example:
      >>> def loss(ys):
      ...     return ys[-1].sum()
      >>> shares = rj.weight_gradient_by_step(loss, cell, xs)
      >>> shares.kernel.shape  # T, then the shape of the weights
      (20, 2, 24)
      >>> whole = jax.grad(lambda cell: loss(rj.unroll(cell, xs)[1]))(cell)
      >>> bool(jnp.allclose(shares.kernel[...].sum(0), whole.kernel[...], atol=1e-5))
      True
    """
    check_loss(loss)
    source = _with_weights(accept(cell, xs, carry, feature_axes))
    sizes, leaves = sizes_of(source), jax.tree.leaves(source.cell)
    check_fits(
        "weight_gradient_by_step",
        [(sizes.steps, sum(jnp.size(leaf) for leaf in leaves))],
        jnp.result_type(leaves[0]),
        "Use weight_gradient_log_norms, which keeps one number for each step.",
        of=source,
    )
    ran, ys = outputs_of(source)
    return _by_step(ran, loss_gradient(loss, ys))


def weight_gradient_log_norms(
    loss: Loss,
    cell: Any,
    xs: Any = None,
    carry: Carry | None = None,
    *,
    feature_axes: int | None = None,
) -> jax.Array:
    """ln of the Frobenius norm, over all weights together, of each step's share of dL/dW.

    The same shares as `weight_gradient_by_step`, from error signals that are kept near 1, so that
    an early step whose share has fallen below the smallest float still has its number.

    Args:
      loss, cell, xs, carry: as for `weight_gradient_by_step`.

    Returns:
      (T,); −inf where a share is exactly 0.

    Raises:
      ValueError, TypeError: as `weight_gradient_by_step`.

    Example:
      >>> logs = rj.weight_gradient_log_norms(lambda ys: ys[-1].sum(), cell, xs)
      >>> logs.shape
      (20,)
      >>> int(jnp.argmax(logs))  # The step that teaches most is the last
      19
    """
    check_loss(loss)
    ran, ys = outputs_of(_with_weights(accept(cell, xs, carry, feature_axes)))
    return _share_log_norms(ran, loss_gradient(loss, ys))


@compiled
def _by_step(source: Source, output_gradients: Any) -> Any:
    record = Record(source)
    _, signal = signal_of(record, output_gradients)
    step = _step_of_weights(record)

    def share(use: Any, total: jax.Array, gradient: jax.Array) -> Any:
        _, pull = pullback(lambda cell: step(cell, *use), record.cell)
        return pull((total, gradient))[0]

    gradients = _beside_total(record, output_gradients)
    return jax.vmap(share)(_uses(record), signal.total, gradients)


@compiled
def _share_log_norms(source: Source, output_gradients: Any) -> jax.Array:
    return weight_log_norms_of(Record(source), output_gradients)


def weight_log_norms_of(record: Record, output_gradients: Any) -> jax.Array:
    """`weight_gradient_log_norms`, (T,), read off a record."""
    exponents, signal = signal_of(record, output_gradients)
    dtype, step = signal.total.dtype, _step_of_weights(record)

    def log_norm(at: Any) -> jax.Array:
        use, direction, exponent, gradient = at
        # A share is linear in the signal: pull it back near 1 and put the exponent on afterwards.
        own = zero_or_never(gradient)
        common = jnp.maximum(exponent, own)
        _, pull = pullback(lambda cell: step(cell, *use), record.cell)
        signal_near_one = direction * power_of_two(exponent - common, dtype)
        share = pull((signal_near_one, gradient * power_of_two(own - common, dtype)))[0]
        return _norm_of_all(share, dtype) + LN2 * common.astype(dtype)

    gradients = _beside_total(record, output_gradients)
    return lax.map(log_norm, (_uses(record), signal.total_directions, exponents, gradients))


def _step_of_weights(record: Record) -> Callable[..., Any]:
    """One step as a function of the weights, those that make the initial carry among them."""
    flat = record.flat

    def step(cell: Any, is_first: jax.Array, state_prev: jax.Array, x: Any) -> Any:
        if flat.initial_of is not None:
            # An initial carry that is learned acts through the first step alone.
            state_prev = lax.select(is_first, flat.initial_of(cell), state_prev)
        return flat.step_of(cell, state_prev, x)

    return step


def _uses(record: Record) -> tuple[jax.Array, jax.Array, Any]:
    """(is it the first, the state before, the input) of each use of the weights."""
    return jnp.arange(record.sizes.steps) == 0, record.states[:-1], record.inputs


def _beside_total(record: Record, output_gradients: Any) -> jax.Array:
    """∂L/∂y_t as vectors, or zeros where the total dL/dcarry_t has counted them already."""
    gradients = flatten_outputs(output_gradients, record.sizes.dtype)
    return jnp.zeros_like(gradients) if record.output_rows else gradients


def _norm_of_all(tree: Any, dtype: jax.typing.DTypeLike) -> jax.Array:
    parts = [leaf.ravel().astype(dtype) for leaf in jax.tree.leaves(tree)]
    return log_frobenius(jnp.concatenate(parts), 0)


def why_without_weights(cell: Any) -> str | None:
    """What is missing for a weight gradient of a cell; None if nothing is."""
    leaves = jax.tree.leaves(cell)
    kinds = [jnp.result_type(leaf) for leaf in leaves]
    if leaves and all(jnp.issubdtype(kind, jnp.floating) for kind in kinds):
        return None
    return (
        "a cell whose pytree leaves are its weights, all floats; got "
        f"{len(leaves)} leaves of a {type(cell).__name__}"
    )


def _with_weights(source: Any) -> Any:
    reason = why_without_weights(source.cell)
    if reason is not None:
        raise ValueError(
            f"a weight gradient needs {reason}. Pass parameters with "
            "jax.tree_util.Partial(function, parameters)."
        )
    return source
