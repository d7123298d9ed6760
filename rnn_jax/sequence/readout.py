"""A linear readout of states that is solved for, and not trained by gradients."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from rnn_jax.arrays import at_least_float32, call_automatic
from rnn_jax.checks import check_count, check_number, kind_of
from rnn_jax.sequence.calling import ArrayLike


class RidgeReadout(NamedTuple):
    """A linear readout o = h W_o + b_o.

    Attributes:
      kernel: W_o, (H, O).
      bias: b_o, (O,).

    Example:
      >>> _, states = rj.unroll(cell, xs)
      >>> readout = rj.ridge_readout(states, xs[:, :1], 1e-3)
      >>> readout.kernel.shape, readout.bias.shape
      ((8, 1), (1,))
      >>> model = readout.put_into(rj.SequenceModel(cell, 1, readout="all", rngs=nnx.Rngs(0)))
      >>> bool(jnp.allclose(model(xs), states @ readout.kernel + readout.bias, atol=1e-5))
      True
    """

    kernel: jax.Array
    bias: jax.Array

    def __call__(self, states: jax.Array) -> jax.Array:
        """Outputs (..., O) for states (..., H)."""
        outputs = states @ self.kernel
        return outputs + jnp.broadcast_to(self.bias, outputs.shape)

    def put_into(self, model: Any) -> Any:
        """A copy of a model, whose dense readout this is.

        Args:
          model: a `SequenceModel` with a dense readout of the same size.

        Raises:
          TypeError: it has no dense readout.
          ValueError: one of another size.
        """
        kernel, bias = getattr(model, "kernel", None), getattr(model, "bias", None)
        if not isinstance(kernel, nnx.Variable) or not isinstance(bias, nnx.Variable):
            raise TypeError(
                f"model must be a SequenceModel with a dense readout; got {kind_of(model)} without "
                f"one. Build it with out_features={self.bias.shape[0]}."
            )
        if kernel.shape != self.kernel.shape:
            raise ValueError(
                f"the model's readout must be of shape {self.kernel.shape}, as this one is; got "
                f"{kernel.shape}. Take the states that its top layer gives, and build it with "
                f"out_features={self.bias.shape[0]}."
            )
        copied = nnx.clone(model)
        copied.kernel[...] = self.kernel.astype(kernel.dtype)
        copied.bias[...] = self.bias.astype(bias.dtype)
        return copied


def ridge_readout(
    states: ArrayLike, targets: ArrayLike, penalty: float | jax.Array, *, washout: int = 0
) -> RidgeReadout:
    """The linear readout with the least squared error, ridge regression of targets on states.

    minimise Σ ‖h_t W + b − o_t‖² + λ ‖W‖² over W and b

    over all steps of all sequences after the washout. Solved by a QR decomposition of the centred
    states with √λ I below them, in full precision. That has the condition number of the states,
    which of a reservoir is large; the normal equations (HᵀH + λ I) W = Hᵀ O, whose condition number
    is its square, lose twice as many digits. Works under `jax.jit`, maps over penalties with
    `jax.vmap`, and is differentiable in all arguments.

      cell = rnn_jax.EchoStateCell(1, 200, rngs=rngs)
      _, states = rnn_jax.unroll(cell, inputs)
      readout = rnn_jax.ridge_readout(states, targets, 1e-6, washout=100)
      model = readout.put_into(rnn_jax.SequenceModel(cell, 1, readout="all", rngs=rngs))

    Args:
      states: h, (..., T, H), outputs of `unroll`.
      targets: o, (..., T, O).
      penalty: λ > 0. That of scikit-learn's and reservoirpy's Ridge, which is not divided by the
        number of steps.
      washout: leading steps of each sequence that are left out, in which states still depend on
        where they started.

    Returns:
      A `RidgeReadout`, in the type of the states, float32 at least.

    Raises:
      ValueError: shapes that do not fit, a washout that leaves no step, a penalty that is not
        above 0.
      TypeError: no arrays of real numbers, a washout that is no int, a penalty that is no number.

    Example:
      >>> reservoir = rj.EchoStateCell(2, 50, rngs=nnx.Rngs(0))
      >>> _, states = rj.unroll(reservoir, xs)
      >>> readout = rj.ridge_readout(states[1:], xs[:-1], 1e-6)  # Recalls the input before
      >>> errors = states[1:] @ readout.kernel + readout.bias - xs[:-1]
      >>> bool(jnp.abs(errors).max() < 0.05)
      True

    References:
      A. E. Hoerl and R. W. Kennard, "Ridge regression: biased estimation for nonorthogonal
      problems", 1970.
      H. Jaeger, "The 'echo state' approach to analysing and training recurrent neural networks",
      2001.
    """
    h, o = _read("states", states, "H"), _read("targets", targets, "O")
    if h.shape[:-1] != o.shape[:-1]:
        raise ValueError(
            "states and targets must lead with the same (..., T); got shapes "
            f"{h.shape} and {o.shape}. Pass one target for each step, (..., T, O)."
        )
    if check_count("washout", washout) >= h.shape[-2]:
        raise ValueError(
            f"washout must leave at least one step; got {washout} of T = {h.shape[-2]}. Pass a "
            "smaller one, or longer sequences."
        )
    common = at_least_float32(h.dtype)
    return _solved(h.astype(common), o.astype(common), _check_penalty(penalty, common), washout)


@functools.partial(jax.jit, static_argnames="washout")
def _solved(h: jax.Array, o: jax.Array, penalty: jax.Array, washout: int) -> RidgeReadout:
    # JAX's decomposition cannot say how its parts lie on the explicit axes of a mesh.
    solve = functools.partial(_solved_by_qr, washout=washout)
    readout: RidgeReadout = call_automatic(solve, h, o, penalty)
    return readout


def _solved_by_qr(h: jax.Array, o: jax.Array, penalty: jax.Array, *, washout: int) -> RidgeReadout:
    rows, outputs = (a[..., washout:, :].reshape(-1, a.shape[-1]) for a in (h, o))
    size = rows.shape[-1]
    mean, mean_output = jnp.mean(rows, axis=0, keepdims=True), jnp.mean(outputs, axis=0)
    root = jnp.sqrt(penalty) * jnp.eye(size, dtype=rows.dtype)
    # The rows of √λ I have the target 0. The mean of the targets needs no subtraction, because the
    # centred states are orthogonal to it, but what is left is smaller.
    centred = outputs - jnp.broadcast_to(mean_output, outputs.shape)
    with jax.default_matmul_precision("highest"):
        q, r = jnp.linalg.qr(jnp.concatenate([rows - jnp.broadcast_to(mean, rows.shape), root]))
        seen = q[: rows.shape[0]].T @ centred
        kernel = jax.scipy.linalg.solve_triangular(r, seen)
        return RidgeReadout(kernel, mean_output - (mean @ kernel)[0])


def _read(name: str, values: Any, features: str) -> jax.Array:
    """An array (..., T, features) of real numbers, as floats."""
    try:
        array = jnp.asarray(values)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{name} must be an array (..., T, {features}) of real numbers; got "
            f"{kind_of(values)}. Pass a JAX or NumPy array. ({error})"
        ) from error
    if jnp.issubdtype(array.dtype, jnp.complexfloating) or not jnp.issubdtype(
        array.dtype, jnp.number
    ):
        raise TypeError(
            f"{name} must be an array (..., T, {features}) of real numbers; got dtype "
            f"{array.dtype}. Cast it, for example jnp.asarray(value, jnp.float32)."
        )
    if array.ndim < 2:
        raise ValueError(
            f"{name} must have shape (..., T, {features}); got shape {array.shape}. Add the "
            "missing axis, for example values[:, None] for one feature."
        )
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(float)


def _check_penalty(penalty: Any, dtype: Any) -> jax.Array:
    """λ as an array; one that cannot be read yet, being traced, is believed."""
    if isinstance(penalty, jax.core.Tracer):
        return jnp.asarray(penalty, dtype)
    number = check_number("penalty", penalty)
    if number <= 0:
        raise ValueError(
            f"penalty must be above 0, or weights of states that depend on one another are not "
            f"determined; got {number:g}. Pass a small one, such as 1e-8."
        )
    return jnp.asarray(number, dtype)
