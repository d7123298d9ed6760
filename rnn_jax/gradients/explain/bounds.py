"""What theory says before anything is run."""

from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax.cells.claims import claim, owner_of
from rnn_jax.checks import check_size, kind_of


def jacobian_log_bound(cell: Any, T: int) -> jax.Array:
    """Upper bound on ln‖∂h_t/∂h_{t−k}‖₂ by lag k, from the weights alone.

    k · ln(sup|φ'| · σ₁(W_h))

    because each factor is diag(φ')·W_hᵀ and norms of factors multiply. It holds for every
    trajectory and is rarely tight: the norms of a product of matrices seldom add up.

    Args:
      cell: a cell that states `jacobian_bound()`, as `SimpleRNNCell` does.
      T: how many lags, 0 … T−1.

    Returns:
      (T,); 0 at lag 0.

    Raises:
      ValueError: theory gives no such bound for this cell, or T is below 1.
      TypeError: T is no whole number.

    Example:
      >>> tanh = rj.SimpleRNNCell(2, 8, rngs=nnx.Rngs(0))
      >>> bound = rj.jacobian_log_bound(tanh, 20)
      >>> logs = rj.jacobian_log_norms(tanh, xs, wrt="state", norm="spectral")
      >>> bool((rj.by_lag(logs, "max") <= bound + 1e-4).all())
      True

    References:
      Y. Bengio, P. Simard and P. Frasconi, "Learning long-term dependencies with gradient descent
      is difficult", 1994; R. Pascanu, T. Mikolov and Y. Bengio, 2013, section 2.
    """
    steps = check_size("T", T)
    bound = claim(cell, "jacobian_bound")
    if bound is None:
        raise ValueError(
            "the bound (sup|φ'|·σ₁(W_h))^k needs a cell whose step is one recurrent kernel inside "
            f"one activation, such as SimpleRNNCell; got {kind_of(owner_of(cell))}, which states "
            "no jacobian_bound of its own step. Measure it: jacobian_log_norms(cell, xs, "
            'wrt="state", norm="spectral").'
        )
    slope, kernel = bound()
    largest = jnp.linalg.norm(kernel, ord=2)
    factor = jnp.log(largest) + jnp.log(jnp.asarray(slope, largest.dtype))
    lags = jnp.arange(steps, dtype=largest.dtype)
    # At lag 0 there is no factor, whatever it is: 0 · (−inf) must not arise.
    return jnp.where(lags == 0, jnp.zeros_like(lags), jnp.where(lags == 0, 1.0, lags) * factor)
