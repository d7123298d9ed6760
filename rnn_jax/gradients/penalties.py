"""Penalties on how gradients travel, to be added to a loss and differentiated with it."""

from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax.cells.asking import kernel_of_state
from rnn_jax.checks import check_flag
from rnn_jax.gradients.differentiation import pullback
from rnn_jax.gradients.linearize import Record, Source, accept
from rnn_jax.gradients.precision import compiled, full_precision
from rnn_jax.gradients.signals.backprop import (
    Loss,
    check_loss,
    loss_gradient,
    outputs_of,
    signal_of,
)
from rnn_jax.gradients.spectra.lyapunov import lyapunov_exponents
from rnn_jax.gradients.trajectory import FlatCell
from rnn_jax.sequence.calling import ArrayLike, Carry


def vanishing_penalty(
    loss: Loss,
    cell: Any,
    xs: Any = None,
    carry: Carry | None = None,
    *,
    feature_axes: int | None = None,
    immediate: bool = False,
) -> jax.Array:
    """Penalty on error signals that change their length on the way back through a step.

    Ω = Σ_{t=1}^{T−1} (‖A_{t+1}ᵀ δ_{t+1}‖ / ‖δ_{t+1}‖ − 1)²,    δ_t = dL/dcarry_t

    Steps that no error reaches (δ exactly 0) are left out. Signals far below the smallest float
    count like any other: only ratios enter.

    Args:
      loss: loss(ys) -> scalar, of the outputs (T, H) that `unroll` gives.
      cell: any callable pytree cell(carry, x) -> (carry, y); differentiate by it.
      xs: one sequence, (T, I), or a pytree of inputs.
      carry: initial carry; None asks the cell.
      feature_axes: trailing axes of xs that are features; as for `unroll`.
      immediate: what is held constant when this is differentiated. False: nothing, the gradient of
        Ω as it is written. True: inputs, carries and the δ, so that only the weights inside
        A_{t+1} count: the cheaper gradient that the authors used. The value is the same.

    Returns:
      Ω, a scalar.

    Raises:
      ValueError: a loss that is no scalar, wrong shapes, or an empty sequence.
      TypeError: a loss that is not callable, inputs or carries of the wrong type, or a cell that
        needs `carry`.

    Example:
      >>> def penalty(cell):
      ...     return rj.vanishing_penalty(lambda ys: ys[-1].sum(), cell, xs, immediate=True)
      >>> jax.grad(penalty)(cell).recurrent_kernel.shape
      (8, 24)

    References:
      R. Pascanu, T. Mikolov and Y. Bengio, "On the difficulty of training recurrent neural
      networks", 2013, equations 9 (Ω) and 10 (its immediate derivative).
    """
    check_loss(loss)
    source = accept(cell, xs, carry, feature_axes)
    if check_flag("immediate", immediate):
        ran, ys = jax.lax.stop_gradient(outputs_of(source))
        # The loss may close over weights of its own.
        gradients = jax.lax.stop_gradient(loss_gradient(loss, ys))
    else:
        ran, ys = outputs_of(source)
        gradients = loss_gradient(loss, ys)
    return _vanishing_penalty(source.cell, ran, gradients)


@compiled
def _vanishing_penalty(cell: Any, source: Source, output_gradients: Any) -> jax.Array:
    """Ω with the trajectory and the signal of a source and the one-step Jacobians of `cell`."""
    record = Record(source)
    _, signal = signal_of(record, output_gradients)
    deviations = jax.vmap(lambda *at: _deviation(record.flat, cell, *at))(
        record.states[1:-1],
        jax.tree.map(lambda a: a[1:], record.inputs),
        signal.total_directions[1:],
    )
    return jnp.sum(deviations)


def _deviation(flat: FlatCell, cell: Any, state: jax.Array, x: Any, delta: jax.Array) -> jax.Array:
    """(‖Aᵀδ‖ / ‖δ‖ − 1)² of one step; 0 where δ is 0."""
    _, pull = pullback(lambda before: flat.step_of(cell, before, x)[0], state)
    (pulled,) = pull(delta)
    silent = jnp.all(delta == 0)
    ratio = _norm(pulled) / _norm(jnp.where(silent, jnp.ones_like(delta), delta))
    return jnp.where(silent, jnp.zeros_like(ratio), jnp.square(ratio - 1))


def _norm(vector: jax.Array) -> jax.Array:
    """‖v‖ with the derivative 0 at 0, where it has none."""
    zero = jnp.all(vector == 0)
    length = jnp.linalg.norm(jnp.where(zero, jnp.ones_like(vector), vector))
    return jnp.where(zero, jnp.zeros_like(length), length)


def flossing_penalty(
    cell: Any,
    xs: Any = None,
    carry: Carry | None = None,
    *,
    feature_axes: int | None = None,
    k: int | None = None,
    target: ArrayLike = 0.0,
    warmup: int = 0,
    interval: int = 1,
) -> jax.Array:
    """Gradient flossing: the mean square of the leading finite-time Lyapunov exponents.

    1/k · Σ_i (λ_i − target_i)²

    At target 0 it asks that k directions neither shrink nor grow over this sequence, so that
    gradients can pass along them; a few hundred steps on it before training, or now and then
    during it, are usual.

    Args:
      cell: any callable pytree cell(carry, x) -> (carry, y); differentiate by it.
      xs: one sequence, (T, I), or a pytree of inputs; `jax.vmap` gives a batch.
      carry: initial carry; None asks the cell.
      feature_axes: trailing axes of xs that are features; as for `unroll`.
      k: how many exponents, the leading ones; None is all S.
      target: what they should be, nats a step: one number or (k,).
      warmup, interval: as in `lyapunov_exponents`.

    Returns:
      A scalar; inf if one of the exponents is −inf (dead units).

    Raises:
      ValueError: a target of another shape, and as `lyapunov_exponents`.
      TypeError: as `lyapunov_exponents`.

    Example:
      >>> value, gradient = jax.value_and_grad(rj.flossing_penalty)(cell, xs)
      >>> exponents = rj.lyapunov_exponents(cell, xs).exponents
      >>> bool(jnp.allclose(value, jnp.mean(exponents**2), rtol=1e-4))
      True
      >>> gradient.recurrent_kernel.shape
      (8, 24)

    References:
      R. Engelken, "Gradient flossing: improving gradient descent through dynamic control of
      Jacobians", 2023.
    """
    spectrum = lyapunov_exponents(
        cell, xs, carry, feature_axes=feature_axes, k=k, warmup=warmup, interval=interval
    )
    exponents = spectrum.exponents
    try:
        goal = jnp.asarray(target, exponents.dtype)
    except (TypeError, ValueError) as error:
        raise TypeError(f"target must be a number or (k,) numbers; got {target!r}.") from error
    if goal.ndim and goal.shape != exponents.shape:
        raise ValueError(
            f"target must be one number or one for each exponent, shape {exponents.shape}; got "
            f"{goal.shape}. Pass target=0.0 or an array of that shape."
        )
    return jnp.mean(jnp.square(exponents - jnp.broadcast_to(goal, exponents.shape)))


def orthogonality_penalty(cell: Any) -> jax.Array:
    """How far the recurrent matrices are from orthogonal.

    Σ ‖WᵀW − I‖_F² over the H×H blocks W (one for each gate) of the matrix that multiplies the state

    That is a cell's `transition_kernel()`, what its step makes of the weights (0 for `ExpRNNCell`,
    to rounding), of another library's cell `recurrent_kernel`.

    Args:
      cell: a cell with such a matrix, (H, G·H), a stack of such cells (summed over its layers), or
        the matrix itself.

    Returns:
      A scalar, 0 exactly where every block is orthogonal.

    Raises:
      TypeError: there is no such matrix.
      ValueError: the kernel does not consist of square blocks.

    Example:
      >>> bool(rj.orthogonality_penalty(cell) < 1e-8)  # GRUs start orthogonal
      True
      >>> float(rj.orthogonality_penalty(2 * jnp.eye(3)))
      27.0

    References:
      E. Vorontsov, C. Trabelsi, S. Kadoury and C. Pal, "On orthogonality and learning recurrent
      networks with long term dependencies", 2017.
    """
    if hasattr(cell, "cells"):
        return sum((orthogonality_penalty(layer) for layer in cell.cells), jnp.zeros(()))
    kernel = cell if hasattr(cell, "ndim") else kernel_of_state(cell)
    if not hasattr(kernel, "ndim"):
        raise TypeError(
            "the penalty needs a matrix (H, G·H) that multiplies the state; got "
            f"{type(cell).__name__}, whose step has no such recurrent_kernel. Leave the penalty "
            "out for it, or pass the matrix itself."
        )
    kernel = jnp.asarray(kernel[...])
    sizes = [getattr(cell, f"{which}_features", None) for which in ("output", "hidden")]
    if sizes[0] != sizes[1] and None not in sizes:
        raise ValueError(
            "a recurrent kernel must consist of square blocks for the penalty; got a "
            f"{type(cell).__name__} that projects {sizes[1]} features to {sizes[0]}. Leave the "
            "penalty out for it, or build it without a projection."
        )
    if not jnp.issubdtype(kernel.dtype, jnp.floating):
        raise TypeError(f"a recurrent kernel must hold floats; got dtype {kernel.dtype}. Cast it.")
    if kernel.ndim != 2 or kernel.shape[0] == 0 or kernel.shape[1] % kernel.shape[0]:
        raise ValueError(
            "a recurrent kernel must have shape (H, G·H), square blocks side by side; got "
            f"{kernel.shape}. Transpose it, or pass one block."
        )
    size = kernel.shape[0]
    blocks = kernel.reshape(size, -1, size).transpose(1, 0, 2)
    with full_precision():
        gram = jnp.matmul(blocks.mT, blocks)
    eye = jnp.broadcast_to(jnp.eye(size, dtype=gram.dtype), gram.shape)
    return jnp.sum(jnp.square(gram - eye))
