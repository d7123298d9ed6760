"""The weight gradient, split by the step at which the weights were used."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax.gradients.memory import check_fits
from rnn_jax.gradients.numerics.scaled import LN2, log_frobenius, power_of_two, zero_or_never
from rnn_jax.gradients.signals.backprop import Loss, check_loss, loss_gradient, signal_sweep
from rnn_jax.gradients.trajectory import FlatCell, flatten_cell, flatten_outputs
from rnn_jax.sequence.calling import ArrayLike, Carry, as_pytree, as_sequence


def weight_gradient_by_step(
    loss: Loss, cell: Any, xs: ArrayLike, carry: Carry | None = None
) -> Any:
    """The share of dL/dW that comes through the use of the weights at each step.

    If step s had weights W_s of its own, all of equal value, this is dL/dW_s; their sum over s is
    `jax.grad` of the loss by W. Weights that make the initial carry (`LearnedCarry`) are used at
    the first step.

    Args:
      loss: loss(ys) -> scalar, of the outputs (T, H) that `unroll` gives.
      cell: a callable pytree cell(carry, x) -> (carry, y) with at least one array.
      xs: one sequence, (T, I); `jax.vmap` gives a batch.
      carry: initial carry; None asks the cell.

    Returns:
      A pytree like `cell`, each leaf with a leading axis T.

    Raises:
      ValueError: a loss that is no scalar, wrong shapes, an empty sequence, a cell without arrays,
        or a result too large for memory.
      TypeError: a loss that is not callable, inputs or carries that are no floats, or a cell that
        needs `carry`.
    """
    check_loss(loss)
    cell, xs = _with_weights(cell), as_sequence(xs, batched=False)
    leaves = jax.tree.leaves(cell)
    check_fits(
        "weight_gradient_by_step",
        [(xs.shape[0], sum(jnp.size(leaf) for leaf in leaves))],
        jnp.result_type(leaves[0]),
        "Use weight_gradient_log_norms, which keeps one number for each step.",
    )
    return _by_step(cell, xs, carry, loss_gradient(loss, cell, xs, carry))


def weight_gradient_log_norms(
    loss: Loss, cell: Any, xs: ArrayLike, carry: Carry | None = None
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
    """
    check_loss(loss)
    cell, xs = _with_weights(cell), as_sequence(xs, batched=False)
    return _log_norms(cell, xs, carry, loss_gradient(loss, cell, xs, carry))


@jax.jit
def _by_step(cell: Any, xs: jax.Array, carry: Carry | None, output_gradients: Any) -> Any:
    flat = flatten_cell(cell, xs, carry)
    states, _, signal = signal_sweep(flat, xs, output_gradients)
    step = _step_of_weights(flat, xs, carry)

    def share(use: Any, total: jax.Array, gradient: jax.Array) -> Any:
        _, pull = jax.vjp(lambda k: step(k, *use), cell)
        return pull((total, gradient))[0]

    gradients = _beside_total(flat, output_gradients)
    return jax.vmap(share)(_uses(states, xs), signal.total, gradients)


@jax.jit
def _log_norms(cell: Any, xs: jax.Array, carry: Carry | None, output_gradients: Any) -> jax.Array:
    flat = flatten_cell(cell, xs, carry)
    states, exponents, signal = signal_sweep(flat, xs, output_gradients)
    dtype, step = signal.total.dtype, _step_of_weights(flat, xs, carry)

    def log_norm(at: Any) -> jax.Array:
        use, direction, exponent, gradient = at
        # A share is linear in the signal: pull it back near 1 and put the exponent on afterwards.
        own = zero_or_never(gradient)
        common = jnp.maximum(exponent, own)
        _, pull = jax.vjp(lambda k: step(k, *use), cell)
        signal_near_one = direction * power_of_two(exponent - common, dtype)
        share = pull((signal_near_one, gradient * power_of_two(own - common, dtype)))[0]
        return _stack_log_norms(share, dtype) + LN2 * common.astype(dtype)

    gradients = _beside_total(flat, output_gradients)
    return lax.map(log_norm, (_uses(states, xs), signal.total_directions, exponents, gradients))


def _step_of_weights(flat: FlatCell, xs: jax.Array, carry: Carry | None) -> Callable[..., Any]:
    """One step as a function of the weights, those that make the initial carry among them."""

    def step(cell: Any, is_first: jax.Array, state_prev: jax.Array, x: jax.Array) -> Any:
        if carry is None:
            # An initial carry that is learned acts through the first step alone.
            initial = flatten_cell(cell, xs, None).initial
            state_prev = lax.select(is_first, initial, state_prev)
        return flat.step_of(cell, state_prev, x)

    return step


def _uses(states: jax.Array, xs: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(is it the first, the state before, the input) of each use of the weights."""
    return jnp.arange(xs.shape[0]) == 0, states[:-1], xs


def _beside_total(flat: FlatCell, output_gradients: Any) -> jax.Array:
    """∂L/∂y_t as vectors, or zeros where the total dL/dcarry_t has counted them already."""
    gradients = flatten_outputs(output_gradients, flat.initial.dtype)
    return jnp.zeros_like(gradients) if flat.output_rows else gradients


def _stack_log_norms(tree: Any, dtype: jax.typing.DTypeLike) -> jax.Array:
    parts = [leaf.ravel().astype(dtype) for leaf in jax.tree.leaves(tree)]
    return log_frobenius(jnp.concatenate(parts), 0)


def _with_weights(cell: Any) -> Any:
    cell = as_pytree(cell)
    leaves = jax.tree.leaves(cell)
    kinds = [jnp.result_type(leaf) for leaf in leaves]
    if not leaves or not all(jnp.issubdtype(kind, jnp.floating) for kind in kinds):
        raise ValueError(
            "a weight gradient needs a cell whose pytree leaves are its weights, all floats; got "
            f"{len(leaves)} leaves of a {type(cell).__name__}. Pass parameters with "
            "jax.tree_util.Partial(function, parameters)."
        )
    return cell
