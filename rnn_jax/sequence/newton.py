"""All steps of a nonlinear recurrence at once, by Newton's method.

s_t = f(s_{t−1}, x_t) for t = 1 … T is one equation for all states. A Newton step linearizes f about
the states so far and solves the linear recurrence

Δ_t = A_t Δ_{t−1} + r_t,    A_t = ∂f/∂s at s_{t−1},    r_t = f(s_{t−1}, x_t) − s_t

which an associative scan runs in parallel over time. The first k states are exact after k steps, so
T steps always suffice in exact arithmetic; few do where the recurrence contracts. Where it expands,
errors grow along the sequence faster than Newton's method takes them away, and a residual of
rounding does not make a state right: r_t = 0 up to ε leaves an error of ε ‖A_t ⋯ A_1‖. What is
judged is therefore the Newton step itself, which is the error to first order.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax
from jax.flatten_util import ravel_pytree

from rnn_jax.arrays import varying_like
from rnn_jax.cells.asking import as_pytree
from rnn_jax.checks import check_flag, check_positive, check_size
from rnn_jax.sequence.calling import Carry, check_carry_leaves, resolve_carry
from rnn_jax.sequence.inputs import input_of_step, read_inputs, resolve_feature_axes
from rnn_jax.sequence.running.associative import linear_scan
from rnn_jax.sequence.unroll import unroll


@struct.dataclass
class NewtonSolution:
    """A sequence that was solved for, and how well.

    Attributes:
      carry: the last carry.
      ys: outputs, (T, ...).
      carries: the carry after each step, each leaf (T, ...).
      iterations: Newton steps that were taken, ().
      step_size: the largest entry of the last of them, (), which estimates the error of the states.
      residual: the largest |f(s_{t−1}, x_t) − s_t| before it, (); small ones prove nothing.
      converged: whether the step was within the tolerance, ().

    Example:
      >>> solution = rj.newton_unroll(cell, xs)
      >>> bool(solution.converged), bool(solution.iterations < 10)
      (True, True)
    """

    carry: Carry
    ys: Any
    carries: Carry
    iterations: jax.Array
    step_size: jax.Array
    residual: jax.Array
    converged: jax.Array


class _Options(NamedTuple):
    tolerance: float | None
    max_iterations: int
    fall_back: bool


class _Progress(NamedTuple):
    """States so far, (T, S), and what the last Newton step was."""

    states: jax.Array
    iterations: jax.Array
    step_size: jax.Array
    residual: jax.Array


def newton_unroll(
    cell: Any,
    xs: Any,
    carry: Carry | None = None,
    *,
    feature_axes: int | None = None,
    guess: Carry | None = None,
    tolerance: float | None = None,
    max_iterations: int = 100,
    fall_back: bool = True,
) -> NewtonSolution:
    """Runs a cell over a sequence by Newton's method, in parallel over time.

    s ← s + Δ,    Δ_t = A_t Δ_{t−1} + f(s_{t−1}, x_t) − s_t    until max|Δ| is within the tolerance

    For cells that contract, on devices with room for all Jacobians: a Newton step takes T products
    of S × S matrices. Derivatives, in all modes and orders, are those of the states that solve the
    recurrence, by one linear recurrence more; nothing is differentiated through the iteration.

    Args:
      cell: any callable pytree cell(carry, x) -> (carry, y).
      xs: one sequence, (T, I), or a pytree of inputs; `jax.vmap` gives a batch.
      carry: initial carry; None asks the cell.
      feature_axes: trailing axes of xs that are features; as for `unroll`.
      guess: carries to start from, each leaf (T, ...); None is the initial carry at every step.
      tolerance: of the largest entry of a Newton step, in the units of the carry; None is 2¹⁰ times
        the rounding error of the carry's type.
      max_iterations: Newton steps at most.
      fall_back: where it has not converged by then, or is not finite, take the states that `unroll`
        finds step by step; False gives the last ones there were.

    Returns:
      A `NewtonSolution`. Its states are right wherever it has converged and with `fall_back`;
      `.converged` says which.

    Raises:
      ValueError: wrong shapes, an empty sequence, a tolerance or a number of iterations that is not
        above 0.
      TypeError: inputs or carries of the wrong type, or a cell that needs `carry`.

    Example:
      >>> solution = rj.newton_unroll(cell, xs)
      >>> _, ys = rj.unroll(cell, xs)
      >>> bool(jnp.allclose(solution.ys, ys, atol=1e-5))
      True

    References:
      Y. H. Lim, Q. Zhu, J. Selfridge and M. F. Kasim, "Parallelizing non-linear sequential models
      over the sequence length", 2024.
      X. Gonzalez, A. Warrington, J. T. H. Smith and S. W. Linderman, "Towards scalable and stable
      parallelization of nonlinear RNNs", 2024.
    """
    axes = resolve_feature_axes(cell, feature_axes)
    xs, leading = read_inputs(xs, axes, batched=False)
    options = _Options(
        None if tolerance is None else check_positive("tolerance", tolerance),
        check_size("max_iterations", max_iterations),
        check_flag("fall_back", fall_back),
    )
    if carry is not None:
        check_carry_leaves(carry)
    if guess is not None:
        check_carry_leaves(guess, "guess")
    return _newton(as_pytree(cell), xs, carry, guess, axes=axes, steps=leading[0], options=options)


@functools.partial(jax.jit, static_argnames=("axes", "steps", "options"))
def _newton(
    cell: Any,
    xs: Any,
    carry: Carry | None,
    guess: Carry | None,
    *,
    axes: int,
    steps: int,
    options: _Options,
) -> NewtonSolution:
    start = resolve_carry(cell, input_of_step(xs), carry)
    flat, unravel = ravel_pytree(start)
    if guess is None:
        states = jnp.broadcast_to(flat, (steps, flat.size))
    else:
        states = _read_guess(guess, start, steps)
    recurrence = _Recurrence(unravel, axes, options)
    with jax.default_matmul_precision("highest"):
        found = _solution(recurrence, cell, xs, flat, lax.stop_gradient(states))
        carries = jax.vmap(unravel)(found.states)
        before = jax.vmap(unravel)(_before(flat, found.states))
        ys = jax.vmap(lambda s, x: cell(s, x)[1])(before, xs)
    return NewtonSolution(
        carry=jax.tree.map(lambda leaf: leaf[-1], carries),
        ys=ys,
        carries=carries,
        iterations=found.iterations,
        step_size=found.step_size,
        residual=found.residual,
        converged=_within(options, found.step_size),
    )


class _Recurrence(NamedTuple):
    """What is the same for all values: how a carry is flattened, and what was asked for."""

    unravel: Any
    axes: int
    options: _Options

    def step(self, cell: Any, state: jax.Array, x: Any) -> jax.Array:
        """f, over the flattened carry."""
        return ravel_pytree(cell(self.unravel(state), x)[0])[0]

    def after(self, cell: Any, xs: Any, before: jax.Array) -> jax.Array:
        """f at every step, (T, S)."""
        return jax.vmap(functools.partial(self.step, cell))(before, xs)

    def jacobians(self, cell: Any, xs: Any, before: jax.Array) -> jax.Array:
        """A_t, (T, S, S)."""
        return jax.vmap(jax.jacfwd(functools.partial(self.step, cell)))(before, xs)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _solution(
    recurrence: _Recurrence, cell: Any, xs: Any, start: jax.Array, guess: jax.Array
) -> _Progress:
    """The states that solve the recurrence, as far as the iteration found them."""
    options = recurrence.options

    def goes_on(progress: _Progress) -> jax.Array:
        left = progress.iterations < options.max_iterations
        moves = jnp.isfinite(progress.step_size) | (progress.iterations == 0)
        return left & moves & ~_within(options, progress.step_size)

    def improve(progress: _Progress) -> _Progress:
        before = _before(start, progress.states)
        residual = recurrence.after(cell, xs, before) - progress.states
        move = _recurrent(recurrence.jacobians(cell, xs, before), residual)
        return _Progress(
            progress.states + move, progress.iterations + 1, _largest(move), _largest(residual)
        )

    infinite = jnp.full((), jnp.inf, guess.dtype)
    first = _Progress(guess, jnp.zeros((), jnp.int32), infinite, infinite)
    first = varying_like(first, cell, xs, start, guess)
    found = lax.while_loop(goes_on, improve, first)
    if not options.fall_back:
        return found
    states = lax.cond(
        _within(options, found.step_size),
        lambda: found.states,
        lambda: _step_by_step(recurrence, cell, xs, start),
    )
    return found._replace(states=states)


@_solution.defjvp
def _solution_jvp(recurrence: _Recurrence, primals: Any, tangents: Any) -> tuple[Any, Any]:
    """ds_t = A_t ds_{t−1} + ∂f/∂(weights, x_t) · d(weights, x_t), at the states that solve it."""
    cell, xs, start, _ = primals
    found = _solution(recurrence, *primals)

    def driven(cell: Any, xs: Any, start: jax.Array) -> jax.Array:
        return recurrence.after(cell, xs, _before(start, found.states))

    _, drive = jax.jvp(driven, (cell, xs, start), tangents[:3])
    jacobians = recurrence.jacobians(cell, xs, _before(start, found.states))
    still = jax.tree.map(_no_tangent, found)
    return found, still._replace(states=_recurrent(jacobians, drive))


def _recurrent(jacobians: jax.Array, drive: jax.Array) -> jax.Array:
    """Δ_t = A_t Δ_{t−1} + b_t from Δ_0 = 0, (T, S)."""
    return linear_scan("block", jacobians[:, None], drive[:, None], jnp.zeros_like(drive[:1]))[:, 0]


def _step_by_step(recurrence: _Recurrence, cell: Any, xs: Any, start: jax.Array) -> jax.Array:
    _, _, carries = unroll(
        cell, xs, recurrence.unravel(start), feature_axes=recurrence.axes, return_carries=True
    )
    return jax.vmap(lambda carry: ravel_pytree(carry)[0])(carries)


def _before(start: jax.Array, states: jax.Array) -> jax.Array:
    """The state before every step."""
    return jnp.concatenate([start[None], states[:-1]])


def _largest(values: jax.Array) -> jax.Array:
    """The largest entry by size; infinity if one is not finite.

    Asked apart, because a maximum that XLA merges into other work may skip what is not a number.
    """
    return jnp.where(jnp.isfinite(values).all(), jnp.max(jnp.abs(values)), jnp.inf)


def _within(options: _Options, step_size: jax.Array) -> jax.Array:
    """Whether a Newton step is within the tolerance; one that is not a number is not."""
    tolerance = options.tolerance
    if tolerance is None:
        tolerance = 2**10 * float(jnp.finfo(step_size.dtype).eps)
    return step_size <= tolerance


def _no_tangent(leaf: jax.Array) -> Any:
    """A tangent of 0, which for whole numbers has a type of its own."""
    if jnp.issubdtype(leaf.dtype, jnp.inexact):
        return jnp.zeros_like(leaf)
    return np.zeros(leaf.shape, jax.dtypes.float0)


def _read_guess(guess: Carry, start: Carry, steps: int) -> jax.Array:
    """Carries of every step, flattened, (T, S).

    Raises:
      ValueError: they are not of the carry's structure and shape.
    """
    wanted = jax.tree.map(lambda leaf: (steps, *leaf.shape), start)
    found = jax.tree.map(jnp.shape, guess)
    if wanted != found:
        raise ValueError(
            f"guess must hold the carry of every step, of shapes {wanted}; got {found}. Pass what "
            "return_carries=True gives, or leave it out."
        )
    typed = jax.tree.map(lambda leaf, like: jnp.asarray(leaf, like.dtype), guess, start)
    return jax.vmap(lambda carry: ravel_pytree(carry)[0])(typed)
