"""The search that one would write first: SciPy's solver, one start after another."""

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jax.flatten_util import ravel_pytree


class PlainSearch(NamedTuple):
    """What a plain loop found.

    Attributes:
      points: distinct, (N, S).
      seconds: without compilation.
    """

    points: np.ndarray
    seconds: float


def search_by_loop(cell: Any, x: np.ndarray, starts: Any, *, distance: float = 1e-6) -> PlainSearch:
    """F(h) − h = 0 from each start by MINPACK's hybrid method, with the Jacobian, in float64."""
    with jax.enable_x64(True):
        cell, starts = jax.tree.map(lambda a: jnp.asarray(a, np.float64), (cell, starts))
        _, unravel = ravel_pytree(jax.tree.map(lambda a: a[0], starts))
        rows = np.asarray(jax.vmap(lambda start: ravel_pytree(start)[0])(starts))

        @jax.jit
        def residual(state: jax.Array) -> jax.Array:
            return ravel_pytree(cell(unravel(state), jnp.asarray(x))[0])[0] - state

        jacobian = jax.jit(jax.jacfwd(residual))
        jax.block_until_ready((residual(rows[0]), jacobian(rows[0])))
        begun = time.perf_counter()
        found: list[np.ndarray] = []
        for start in rows:
            # Not in MINPACK's own words for success, which stops at a relative change of the state.
            done = scipy.optimize.root(
                lambda h: np.asarray(residual(h)),
                start,
                jac=lambda h: np.asarray(jacobian(h)),
                tol=1e-14,
            )
            if np.linalg.norm(done.fun) > 1e-11:
                continue
            if all(np.linalg.norm(done.x - other) > distance for other in found):
                found.append(done.x)
        seconds = time.perf_counter() - begun
    return PlainSearch(np.reshape(found, (-1, rows.shape[1])), seconds)
