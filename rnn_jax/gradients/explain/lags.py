"""Tables of pairs of steps, read by the lag between them."""

import functools

import jax
import jax.numpy as jnp

from rnn_jax.checks import check_choice
from rnn_jax.gradients.precision import compiled


def by_lag(table: jax.Array, statistic: str = "mean") -> jax.Array:
    """A statistic over all pairs (t, s) of one lag k = t − s, and over batch axes.

    Args:
      table: (..., T, T), row t, column s, such as `jacobian_log_norms` and
        `backprop_signal_log_norms` give.
      statistic: "mean" (of logs: the log of the geometric mean of the norms), "min" or "max".

    Returns:
      (T,), index k; −inf if any pair at that lag is exactly 0 (for "mean" and "min").

    Raises:
      ValueError: an unknown statistic, or a table that is not square.

    Example:
      >>> logs = rj.jacobian_log_norms(cell, xs)
      >>> curve = rj.by_lag(logs)
      >>> curve.shape
      (20,)
      >>> bool((rj.by_lag(logs, "min") <= curve).all())
      True
    """
    check_choice("statistic", statistic, ("mean", "min", "max"))
    table = jnp.asarray(table)
    if table.ndim < 2 or table.shape[-1] != table.shape[-2]:
        raise ValueError(
            f"a table by lag must be square, (..., T, T); got shape {table.shape}. Call "
            "jacobian_log_norms without targets."
        )
    return _by_lag(table, statistic=statistic)


@functools.partial(compiled, static=("statistic",))
def _by_lag(table: jax.Array, statistic: str) -> jax.Array:
    steps = table.shape[-1]
    t, k = jnp.arange(steps)[:, None], jnp.arange(steps)[None, :]
    exists = jnp.broadcast_to(k <= t, (steps, steps))
    pairs = table[..., t, jnp.where(k <= t, t - k, 0)]
    exists = jnp.broadcast_to(exists, pairs.shape)
    over = tuple(range(pairs.ndim - 1))
    if statistic == "mean":
        return jnp.mean(pairs, axis=over, where=exists)
    if statistic == "min":
        extreme = jnp.min(pairs, axis=over, where=exists, initial=jnp.inf)
    else:
        extreme = jnp.max(pairs, axis=over, where=exists, initial=-jnp.inf)
    # Of 4096 numbers or more, XLA's minimum and maximum on a CPU leave out those that are NaN.
    unknown = jnp.where(exists & jnp.isnan(pairs), pairs, jnp.zeros_like(pairs))
    return extreme + jnp.sum(unknown, axis=over)


@functools.partial(compiled, marks_unknown=True)
def slope_by_lag(curve: jax.Array) -> jax.Array:
    """The least-squares slope of a curve (T,); −inf if it falls to −inf, NaN for one point."""
    lags = jnp.arange(curve.shape[0], dtype=curve.dtype)
    centred = lags - jnp.mean(lags)
    zero = jnp.any(jnp.isneginf(curve)) & ~jnp.any(jnp.isnan(curve))
    line = jnp.where(zero, jnp.zeros_like(curve), curve)
    slope = jnp.sum(centred * line) / jnp.sum(centred * centred)
    return jnp.where(zero, -jnp.inf, slope)


@compiled
def last_lag_above(curve: jax.Array, log_share: jax.Array) -> jax.Array:
    """The largest lag at which a curve (T,) is no more than −log_share below its first number."""
    first = jnp.argmax(jnp.isfinite(curve))
    within = (curve >= curve[first] + log_share) & (curve > -jnp.inf)
    return jnp.max(jnp.where(within, jnp.arange(curve.shape[0]), 0))
