"""The error signal on its way back through time."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from rnn_jax.arrays import call_automatic
from rnn_jax.gradients import loops
from rnn_jax.gradients.linearize import Problem, Record, Source, Trajectory, accept
from rnn_jax.gradients.numerics.scaled import (
    LN2,
    add_scaled,
    log_frobenius,
    normalizing_exponent,
    power_of_two,
)
from rnn_jax.gradients.precision import compiled, full_precision
from rnn_jax.gradients.step_maps import step_maps
from rnn_jax.gradients.trajectory import flatten_outputs
from rnn_jax.sequence.calling import Carry

Loss = Callable[[Any], jax.Array]


@struct.dataclass
class BackpropSignal:
    """How a loss reaches back through the carries; carries are flattened, index t is step t.

    Attributes:
      direct: ∂L/∂carry_t through the output that reads carry_t and no later carry, (T, S).
      total: dL/dcarry_t through everything after, (T, S): plain numbers, which may underflow.
      total_directions: the same up to a positive factor for each step, never underflowing, (T, S).
      direct_log_norms: ln‖∂L/∂carry_t‖, (T,); −inf where the loss does not read step t.
      total_log_norms: ln‖dL/dcarry_t‖, (T,), right far below the smallest float.
      part_log_norms: the same for each part of the carry alone, (T,) by name: "c" and "h" of an
        LSTM, "0.h", "1.h" … of a `StackedCell`, else the part's path in the carry.
      inputs: dL/dx_t, (T, I), by the floats of one input, flattened.
      input_log_norms: ln‖dL/dx_t‖, (T,).
      initial: dL/dcarry_0, (S,).

    Example:
      >>> def loss(ys):
      ...     return ys[-1].sum()
      >>> signal = rj.backprop_signal(loss, cell, xs)
      >>> gradient = jax.grad(lambda xs: loss(rj.unroll(cell, xs)[1]))(xs)
      >>> bool(jnp.allclose(signal.inputs, gradient, atol=1e-6))
      True
      >>> list(signal.part_log_norms)
      ['h']
    """

    direct: jax.Array
    total: jax.Array
    total_directions: jax.Array
    direct_log_norms: jax.Array
    total_log_norms: jax.Array
    part_log_norms: dict[str, jax.Array]
    inputs: jax.Array
    input_log_norms: jax.Array
    initial: jax.Array


def backprop_signal(
    loss: Loss,
    cell: Any,
    xs: Any = None,
    carry: Carry | None = None,
    *,
    feature_axes: int | None = None,
) -> BackpropSignal:
    """The gradient of a loss with respect to each carry, by step, in plain numbers and in logs.

    δ_t = ∂L/∂carry_t + A_{t+1}ᵀ δ_{t+1}

    By one vector-Jacobian product a step, so no Jacobian is formed. If the cell's output is a part
    of its carry, as in most recurrent cells, ∂L/∂carry_t is ∂L/∂y_t in that part; if not, carry_t
    first shows in y_{t+1} and ∂L/∂carry_t is C_{t+1}ᵀ ∂L/∂y_{t+1}.

    Args:
      loss: loss(ys) -> scalar, of the outputs (T, H) that `unroll` gives.
      cell: any callable pytree cell(carry, x) -> (carry, y).
      xs: one sequence, (T, I), or a pytree of inputs; `jax.vmap` gives a batch.
      carry: initial carry; None asks the cell.
      feature_axes: trailing axes of xs that are features; as for `unroll`.

    Returns:
      A `BackpropSignal`.

    Raises:
      ValueError: a loss that is no scalar, wrong shapes, or an empty sequence.
      TypeError: a loss that is not callable, inputs or carries of the wrong type, or a cell that
        needs `carry`.

    Example:
      >>> signal = rj.backprop_signal(lambda ys: ys[-1].sum(), cell, xs)
      >>> signal.total.shape
      (20, 8)
      >>> bool(signal.total_log_norms[0] < signal.total_log_norms[-1])  # It shrinks on its way back
      True

    References:
      R. Pascanu, T. Mikolov and Y. Bengio, "On the difficulty of training recurrent neural
      networks", 2013, equations 3 to 5.
    """
    check_loss(loss)
    source, ys = outputs_of(accept(cell, xs, carry, feature_axes))
    return _signal(source, loss_gradient(loss, ys))


def check_loss(loss: Any) -> None:
    """Raises unless `loss` can be a loss.

    Raises:
      TypeError: it is not callable, or it is a cell: the arguments are swapped.
    """
    if not callable(loss) or hasattr(loss, "initialize_carry"):
        raise TypeError(
            f"loss must be a function of the outputs, loss(ys) -> scalar; got "
            f"{type(loss).__name__}. The order of arguments is (loss, cell, xs)."
        )


def outputs_of(source: Source) -> tuple[Source, Any]:
    """(the sequence, run once; its outputs in the cell's own form, leading axis T)."""
    trajectory, ys = _run(source)
    return (Trajectory(source, *trajectory) if isinstance(source, Problem) else source), ys


@compiled
def _run(source: Source) -> tuple[tuple[jax.Array, jax.Array], Any]:
    record = Record(source)
    return record.trajectory, own_outputs(record)


def own_outputs(record: Record) -> Any:
    """The outputs in the cell's own form, leading axis T."""
    return jax.vmap(record.flat.unravel_output)(record.trajectory[1])


def loss_gradient(loss: Loss, ys: Any) -> Any:
    """∂L/∂y_t at every step, in the form of the outputs.

    The loss runs here, outside the compiled sweep, so that a new closure compiles nothing again.

    Raises:
      ValueError: the loss does not return one real number.
    """
    with full_precision():
        value = jax.eval_shape(loss, ys)
        if getattr(value, "shape", None) != () or not jnp.issubdtype(value.dtype, jnp.floating):
            got = f"{value.dtype}{list(value.shape)}" if hasattr(value, "shape") else str(value)
            raise ValueError(
                f"loss must return one real number, loss(ys) -> scalar; got {got}. Sum or average "
                "it."
            )
        return call_automatic(jax.grad(loss), ys)


def signal_of(record: Record, output_gradients: Any) -> tuple[jax.Array, BackpropSignal]:
    """`backprop_signal`, read off a record.

    Returns:
      (exponents e_t of total = total_directions · 2^{e_t}, the signal).
    """
    dtype, rows = record.sizes.dtype, record.output_rows
    zero = jnp.zeros(record.sizes.state, dtype)
    gradients = flatten_outputs(output_gradients, dtype)
    plain = jnp.asarray(0, jnp.int32)  # The exponent of numbers as they are.
    maps = step_maps(record)

    def body(later: Any, at: Any) -> tuple[Any, Any]:
        (pulled, pulled_exponent), direct = later
        here, gradient = at
        if rows:
            direct = zero.at[slice(*rows)].set(gradient)
        total, exponent = add_scaled(pulled, pulled_exponent, direct, plain)
        pull = maps.pull(here)
        pulled, by_input = pull(total, jnp.zeros_like(gradient))
        shift = normalizing_exponent(pulled)
        pulled = pulled * power_of_two(-shift, dtype)
        if rows:
            direct_prev = zero
            input_exponent = exponent
        else:
            direct_prev, by_output = pull(zero, gradient)
            by_input, input_exponent = add_scaled(by_input, exponent, by_output, plain)
        row = (direct, total, exponent, by_input, input_exponent)
        return ((pulled, exponent + shift), direct_prev), row

    start = ((zero, plain), zero)
    last, found = loops.scan(body, start, (maps.at, gradients), reverse=True)
    direct, total, exponents, by_input, input_exponents = found
    (pulled, pulled_exponent), direct_initial = last
    initial, initial_exponent = add_scaled(pulled, pulled_exponent, direct_initial, plain)
    scales = LN2 * exponents.astype(dtype)
    signal = BackpropSignal(
        direct=direct,
        total=_in_full(total, exponents),
        total_directions=total,
        direct_log_norms=log_frobenius(direct, 1),
        total_log_norms=log_frobenius(total, 1) + scales,
        part_log_norms={
            name: log_frobenius(total[:, slice(*part)], 1) + scales
            for name, part in record.flat.parts.items()
        },
        inputs=_in_full(by_input, input_exponents),
        input_log_norms=log_frobenius(by_input, 1) + LN2 * input_exponents.astype(dtype),
        initial=_in_full(initial[None], initial_exponent[None])[0],
    )
    return exponents, signal


@compiled
def _signal(source: Source, output_gradients: Any) -> BackpropSignal:
    return signal_of(Record(source), output_gradients)[1]


def _in_full(rows: jax.Array, exponents: jax.Array) -> jax.Array:
    """Rows times 2^exponent, in plain numbers."""
    # In two halves, so that a small number does not underflow on the way to a normal result; and
    # each half finite, so that an exact zero stays one beside what overflows.
    exponents = jnp.minimum(exponents, 2 * (int(jnp.finfo(rows.dtype).maxexp) - 1))
    half = exponents // 2
    for part in (half, exponents - half):
        rows = rows * power_of_two(part, rows.dtype)[:, None]
    return rows
