"""Products of one-step Jacobians, swept through time in either direction.

Forward, the derivatives of the present by *all* earlier sources advance together: one matrix
product A_t · P a step. Backward, the derivatives of a few chosen targets by all earlier sources
retreat together: R · A_t. Both carry a whole exponent for each product, so nothing underflows.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax.gradients.linearize import Linearization
from rnn_jax.gradients.numerics.scaled import normalizing_exponent, power_of_two

Emit = Callable[[jax.Array, jax.Array], Any]


def sweep_forward(lin: Linearization, wrt: str, emit: Emit, *, rescale: bool) -> Any:
    """∂(output or state at t)/∂(source at s) for every s at once, t by t.

    P_t[s] = A_t P_{t−1}[s] for s < t, and P_t[t] = B_t (sources are inputs) or I (states).

    Args:
      lin: the one-step Jacobians.
      wrt: "input" (of outputs by inputs) or "state" (of carries by carries).
      emit: called at each t with the derivatives (O or S, T, n), exact zeros for s > t, and their
        exponents (T,); what it returns is stacked over t.
      rescale: keep each P[s] near 1 and count its exponent; False leaves plain numbers.

    Returns:
      What `emit` returned, with a leading axis T.
    """
    steps, size, features = lin.input_jacobians.shape
    dtype = lin.state_jacobians.dtype
    by_state = wrt == "state"
    columns = size if by_state else features
    eye = jnp.eye(size, dtype=dtype)
    # An output that is a part of the state needs no product of its own, only its rows.
    outputs, rows = None, slice(None)
    if not by_state and lin.output_rows:
        rows = slice(*lin.output_rows)
    elif not by_state:
        outputs = (lin.output_state_jacobians, lin.output_input_jacobians)

    def body(carry: tuple[jax.Array, jax.Array], at: Any) -> tuple[Any, Any]:
        p_prev, exponents = carry
        t, a, b, output = at
        p = _put(_times(a, p_prev), t, eye if by_state else b)
        if output is not None:
            c, d = output
            value = _put(_times(c, p_prev), t, d)
            result = emit(_until(t, value), exponents)
        if rescale:
            shift = normalizing_exponent(p, (0, 2))
            p = p * jnp.broadcast_to(power_of_two(-shift, dtype)[None, :, None], p.shape)
            exponents = exponents + shift
        if output is None:
            result = emit(_until(t, p[rows]), exponents)
        return (p, exponents), result

    start = (jnp.zeros((size, steps, columns), dtype), jnp.zeros(steps, jnp.int32))
    inputs = (jnp.arange(steps), lin.state_jacobians, lin.input_jacobians, outputs)
    return lax.scan(body, start, inputs)[1]


def sweep_backward(lin: Linearization, targets: jax.Array, wrt: str, emit: Emit) -> Any:
    """∂(output or state at each target)/∂(source at s), s by s from the last step to the first.

    R_{s−1}[k] = R_s[k] A_s for s below target k, where R_s[k] is the target's derivative by
    carry_s.

    Args:
      lin: the one-step Jacobians.
      targets: the steps t to differentiate, (K,), in [0, T).
      wrt: "input" or "state", as for `sweep_forward`.
      emit: called at each s with the derivatives (K, O or S, n), exact zeros where s > t, and
        their exponents (K,).

    Returns:
      What `emit` returned, with a leading axis T over s.
    """
    steps, size, _ = lin.input_jacobians.shape
    dtype = lin.state_jacobians.dtype
    by_state = wrt == "state"
    rows = size if by_state else lin.outputs.shape[1]
    eye = jnp.eye(size, dtype=dtype)

    def body(carry: tuple[jax.Array, jax.Array], at: Any) -> tuple[Any, Any]:
        r, exponents = carry
        s, a, b, c, d = at
        here = jnp.expand_dims(targets == s, (1, 2))
        # Set to 0 once more, because 0 times a Jacobian that is not finite is NaN.
        ahead = jnp.expand_dims(targets < s, (1, 2))
        if by_state:
            r = _choose(ahead, jnp.zeros_like(eye), _choose(here, eye, r))
            result = emit(r, exponents)
            r = jnp.matmul(r, a, precision="highest")
        else:
            value = _choose(here, d, jnp.matmul(r, b, precision="highest"))
            result = emit(_choose(ahead, jnp.zeros_like(d), value), exponents)
            r = _choose(here, c, jnp.matmul(r, a, precision="highest"))
        shift = normalizing_exponent(r, (1, 2))
        r = r * jnp.broadcast_to(power_of_two(-shift, dtype)[:, None, None], r.shape)
        return (r, exponents + shift), result

    count = targets.shape[0]
    start = (jnp.zeros((count, rows, size), dtype), jnp.zeros(count, jnp.int32))
    inputs = (
        jnp.arange(steps),
        lin.state_jacobians,
        lin.input_jacobians,
        lin.output_state_jacobians,
        lin.output_input_jacobians,
    )
    return lax.scan(body, start, inputs, reverse=True)[1]


def _times(a: jax.Array, p: jax.Array) -> jax.Array:
    """A · P for every source as one matrix product: (m, S) with (S, T, n) to (m, T, n)."""
    return jnp.einsum("ij,jsn->isn", a, p, precision="highest")


def _put(p: jax.Array, t: jax.Array, source: jax.Array) -> jax.Array:
    """P with the newest source, (m, n), entered at t."""
    return lax.dynamic_update_index_in_dim(p, source, t, axis=1)


def _until(t: jax.Array, p: jax.Array) -> jax.Array:
    """P with zeros for the sources after t, also where 0 times a Jacobian was NaN."""
    reached = jnp.expand_dims(jnp.arange(p.shape[1]) <= t, (0, 2))
    return jnp.where(jnp.broadcast_to(reached, p.shape), p, jnp.zeros_like(p))


def _choose(condition: jax.Array, one: jax.Array, other: jax.Array) -> jax.Array:
    """`one`, the same for every target, where the target is reached; else `other`."""
    one = jnp.broadcast_to(one, other.shape)
    return jnp.where(jnp.broadcast_to(condition, other.shape), one, other)
