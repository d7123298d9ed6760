"""The error signal on its way back through time."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from rnn_jax.gradients.numerics.scaled import (
    LN2,
    add_scaled,
    log_frobenius,
    normalizing_exponent,
    power_of_two,
)
from rnn_jax.gradients.trajectory import FlatCell, flatten_cell, flatten_outputs, run
from rnn_jax.sequence.calling import ArrayLike, Carry, as_pytree, as_sequence
from rnn_jax.sequence.unroll import unroll

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
      inputs: dL/dx_t, (T, I).
      input_log_norms: ln‖dL/dx_t‖, (T,).
      initial: dL/dcarry_0, (S,).
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
    loss: Loss, cell: Any, xs: ArrayLike, carry: Carry | None = None
) -> BackpropSignal:
    """The gradient of a loss with respect to each carry, by step, in plain numbers and in logs.

    δ_t = ∂L/∂carry_t + A_{t+1}ᵀ δ_{t+1}

    By one vector-Jacobian product a step, so no Jacobian is formed. If the cell's output is a part
    of its carry, as in most recurrent cells, ∂L/∂carry_t is ∂L/∂y_t in that part; if not, carry_t
    first shows in y_{t+1} and ∂L/∂carry_t is C_{t+1}ᵀ ∂L/∂y_{t+1}.

    Args:
      loss: loss(ys) -> scalar, of the outputs (T, H) that `unroll` gives.
      cell: any callable pytree cell(carry, x) -> (carry, y).
      xs: one sequence, (T, I); `jax.vmap` gives a batch.
      carry: initial carry; None asks the cell.

    Returns:
      A `BackpropSignal`.

    Raises:
      ValueError: a loss that is no scalar, wrong shapes, or an empty sequence.
      TypeError: a loss that is not callable, inputs or carries that are no floats, or a cell that
        needs `carry`.

    References:
      R. Pascanu, T. Mikolov and Y. Bengio, "On the difficulty of training recurrent neural
      networks", 2013, equations 3 to 5.
    """
    check_loss(loss)
    cell, xs = as_pytree(cell), as_sequence(xs, batched=False)
    output_gradients = loss_gradient(loss, cell, xs, carry)
    return _signal(cell, xs, carry, output_gradients)


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


def loss_gradient(loss: Loss, cell: Any, xs: jax.Array, carry: Carry | None) -> Any:
    """∂L/∂y_t at every step, in the form of the outputs.

    The loss runs here, outside the compiled sweep, so that a new closure compiles nothing again.

    Raises:
      ValueError: the loss does not return one real number.
    """
    _, ys = unroll(cell, xs, carry)
    value = jax.eval_shape(loss, ys)
    if getattr(value, "shape", None) != () or not jnp.issubdtype(value.dtype, jnp.floating):
        got = f"{value.dtype}{list(value.shape)}" if hasattr(value, "shape") else str(value)
        raise ValueError(
            f"loss must return one real number, loss(ys) -> scalar; got {got}. Sum or average it."
        )
    return jax.grad(loss)(ys)


def signal_sweep(
    flat: FlatCell, xs: jax.Array, output_gradients: Any
) -> tuple[jax.Array, jax.Array, BackpropSignal]:
    """The backward sweep itself, for a flattened cell.

    Returns:
      (states carry_0 … carry_T, exponents e_t of total = total_directions · 2^{e_t}, the signal).
    """
    states, _ = run(flat, xs)
    dtype, zero = flat.initial.dtype, jnp.zeros_like(flat.initial)
    gradients = flatten_outputs(output_gradients, dtype)
    plain = jnp.asarray(0, jnp.int32)  # The exponent of numbers as they are.

    def body(later: Any, at: Any) -> tuple[Any, Any]:
        (pulled, pulled_exponent), direct = later
        state_prev, x, gradient = at
        if flat.output_rows:
            direct = zero.at[slice(*flat.output_rows)].set(gradient)
        total, exponent = add_scaled(pulled, pulled_exponent, direct, plain)
        _, pull = jax.vjp(flat.step, state_prev, x)
        silent = jnp.zeros_like(gradient)
        pulled, by_input = pull((total, silent))
        shift = normalizing_exponent(pulled)
        pulled = pulled * power_of_two(-shift, dtype)
        if flat.output_rows:
            direct_prev = zero
            input_exponent = exponent
        else:
            direct_prev, by_output = pull((zero, gradient))
            by_input, input_exponent = add_scaled(by_input, exponent, by_output, plain)
        row = (direct, total, exponent, by_input, input_exponent)
        return ((pulled, exponent + shift), direct_prev), row

    start = ((zero, plain), zero)
    last, rows = lax.scan(body, start, (states[:-1], xs, gradients), reverse=True)
    direct, total, exponents, by_input, input_exponents = rows
    (pulled, pulled_exponent), direct_initial = last
    initial, initial_exponent = add_scaled(pulled, pulled_exponent, direct_initial, plain)
    scales = LN2 * exponents.astype(dtype)
    signal = BackpropSignal(
        direct=direct,
        total=_plain(total, exponents),
        total_directions=total,
        direct_log_norms=log_frobenius(direct, 1),
        total_log_norms=log_frobenius(total, 1) + scales,
        part_log_norms={
            name: log_frobenius(total[:, slice(*rows)], 1) + scales
            for name, rows in flat.parts.items()
        },
        inputs=_plain(by_input, input_exponents),
        input_log_norms=log_frobenius(by_input, 1) + LN2 * input_exponents.astype(dtype),
        initial=_plain(initial[None], initial_exponent[None])[0],
    )
    return states, exponents, signal


@jax.jit
def _signal(cell: Any, xs: jax.Array, carry: Carry | None, output_gradients: Any) -> BackpropSignal:
    return signal_sweep(flatten_cell(cell, xs, carry), xs, output_gradients)[2]


def _plain(rows: jax.Array, exponents: jax.Array) -> jax.Array:
    """Rows times 2^exponent, in plain numbers."""
    # In two halves, so that a small number does not underflow on the way to a normal result; and
    # each half finite, so that an exact zero stays one beside what overflows.
    exponents = jnp.minimum(exponents, 2 * (int(jnp.finfo(rows.dtype).maxexp) - 1))
    half = exponents // 2
    for part in (half, exponents - half):
        rows = rows * power_of_two(part, rows.dtype)[:, None]
    return rows
