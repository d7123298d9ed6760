"""From starts to the nearest minima of ½‖F(h) − h‖², all at once, and from there to rounding.

The unknown is a whole orbit z = (h_0, …, h_{n−1}), and G(z)_i = F(h_i) − h_{i+1 mod n}; a fixed
point is the orbit with n = 1. (Shooting with all points at once keeps Newton's region of attraction
where Fⁿ, whose derivative grows with n, would lose it.)

1. Levenberg and Marquardt's method, δ = −(JᵀJ + μ‖G‖·1)⁻¹ JᵀG with J = DG: a Newton step where G is
   small, a short step down the gradient where it is not, so that a point is found from near it. μ
   follows the ratio of the descent to its prediction (Nielsen, 1999). Each start stops by itself.
2. Newton's method on those that have arrived, to rounding. It needs no squared condition number.

References:
  D. Sussillo and O. Barak, "Opening the black box: low-dimensional dynamics in high-dimensional
  recurrent neural networks", 2013.
  H. B. Nielsen, "Damping parameter in Marquardt's method", 1999.
  N. Yamashita and M. Fukushima, "On the rate of convergence of the Levenberg–Marquardt method",
  2001 (damping by ‖G‖).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rnn_jax.gradients.fixed_points.state_map import Map, double_precision, map_of
from rnn_jax.gradients.precision import compiled

# Iterations after which the starts that still move go on in smaller batches.
_ROUND = 25
# Elements of the matrices that are decomposed side by side, at most: 64 MiB of each.
_ELEMENTS = 2**23
_NEWTON_STEPS = 6
# Relative descent of ‖G‖²/2 in one iteration at which a minimum counts as reached.
_LEVEL = 1e-9
# Up to so many starts, smaller batches are not worth compiling them.
_FEW = 100


class Orbits(NamedTuple):
    """Where a search ended, N of them.

    Attributes:
      states: (N, n, S).
      speeds: ‖G‖₂, (N,); for n = 1 the length of the last step that the network would make.
      jacobians: DF at each point, (N, n, S, S).
      stationary: ‖JᵀG‖ / (‖J‖ ‖G‖), (N,): near 0 at a minimum of ‖G‖ that is no zero of it.
    """

    states: Any
    speeds: Any
    jacobians: Any
    stationary: Any


class _Equations(NamedTuple):
    """G, DG and the blocks DF, of an orbit (n, S): (n·S,), (n·S, n·S) and (n, S, S)."""

    residual: Callable[[jax.Array], jax.Array]
    jacobian: Callable[[jax.Array], jax.Array]
    blocks: Callable[[jax.Array], jax.Array]


class _Descent(NamedTuple):
    """One start on its way: the orbit (n, S), μ, its next growth, iterations, whether to stop."""

    orbit: jax.Array
    damping: jax.Array
    growth: jax.Array
    steps: jax.Array
    done: jax.Array


def search(
    where: Map,
    x: np.ndarray,
    starts: np.ndarray,
    *,
    period: int,
    goal: float,
    max_steps: int,
    batch: int | None = None,
) -> Orbits:
    """Orbits near starts (N, S); Newton's method takes over at a speed of `goal` · max(1, ‖z‖).

    With `batch`, the starts are taken as if they were so many, by the programs compiled for them.
    """
    count, size = batch or len(starts), starts.shape[1]
    most = max(1, min(count, _ELEMENTS // (period * size) ** 2))
    few = max(1, min(most, -(-count // 8)))
    with double_precision():
        given = (where, jnp.asarray(x), jnp.asarray(goal))

        def go_on(steps: int) -> Callable[..., Any]:
            return functools.partial(_go_on, *given, jnp.asarray(steps, jnp.int32))

        begin = functools.partial(_begin, *given[:2], period=period)
        if count <= _FEW:
            whole = functools.partial(_go_on_and_finish, *given, jnp.asarray(max_steps, jnp.int32))
            return _in_batches(lambda starts: whole(*begin(starts)), (starts,), most)
        descents = _in_batches(begin, (starts,), most)
        moving, steps = np.arange(len(starts)), min(_ROUND, max_steps)
        while moving.size:
            # Most arrive soon; what a few need should not be computed for all.
            rest = tuple(array[moving] for array in descents)
            at_once = most if moving.size > most // 2 else few
            for whole, part in zip(descents, _in_batches(go_on(steps), rest, at_once), strict=True):
                whole[moving] = part
            moving = np.flatnonzero(~descents.done) if steps < max_steps else moving[:0]
            steps = min(2 * steps, max_steps)
        return _in_batches(functools.partial(_finish_all, *given), descents, most)


def _in_batches(program: Callable[..., Any], arrays: tuple[np.ndarray, ...], batch: int) -> Any:
    """Results of a program for all rows, in batches of one size, so that it is compiled once."""
    results = []
    for start in range(0, len(arrays[0]), batch):
        part = [array[start : start + batch] for array in arrays]
        short = batch - len(part[0])
        if short:
            part = [np.concatenate([a, np.repeat(a[-1:], short, axis=0)]) for a in part]
        found = program(*map(jnp.asarray, part))
        results.append(jax.tree.map(lambda a, n=batch - short: np.asarray(a)[:n], found))
    return jax.tree.map(lambda *pieces: np.concatenate(pieces), *results)  # anew, to be written to


@functools.partial(compiled, static=("period",), marks_unknown=True)
def _begin(where: Map, x: jax.Array, starts: jax.Array, *, period: int) -> _Descent:
    """Each start followed for as many steps as the orbit is long."""
    step, _ = map_of(where)

    def follow(start: jax.Array) -> jax.Array:
        return lax.scan(lambda h, _: (step(h, x), h), start, None, length=period)[1]

    count, dtype = starts.shape[0], starts.dtype
    orbits = jax.vmap(follow)(starts)
    return _Descent(
        orbits,
        jnp.ones(count, dtype),
        jnp.full(count, 2.0, dtype),
        jnp.zeros(count, jnp.int32),
        ~jnp.all(jnp.isfinite(orbits), axis=(1, 2)),
    )


def _descend(
    where: Map, x: jax.Array, goal: jax.Array, most: jax.Array, *descents: jax.Array
) -> _Descent:
    """Up to `most` iterations of each."""
    improve = functools.partial(_improve, _equations(where, x), goal)

    def one(*descent: jax.Array) -> _Descent:
        start = _Descent(*descent)
        return lax.while_loop(lambda d: ~d.done & (d.steps < most), improve, start)

    return jax.vmap(one)(*descents)


_go_on = compiled(_descend, marks_unknown=True)


@functools.partial(compiled, marks_unknown=True)
def _finish_all(where: Map, x: jax.Array, goal: jax.Array, *descents: jax.Array) -> Orbits:
    """Where descents end."""
    equations = _equations(where, x)
    return jax.vmap(lambda *descent: _finish(equations, goal, _Descent(*descent)))(*descents)


@functools.partial(compiled, marks_unknown=True)
def _go_on_and_finish(
    where: Map, x: jax.Array, goal: jax.Array, most: jax.Array, *descents: jax.Array
) -> Orbits:
    """Both in one program."""
    ended = _descend(where, x, goal, most, *descents)
    equations = _equations(where, x)
    return jax.vmap(functools.partial(_finish, equations, goal))(ended)


def _improve(equations: _Equations, goal: jax.Array, descent: _Descent) -> _Descent:
    """One iteration of Levenberg and Marquardt's method."""
    z, mu, growth, steps, _ = descent
    eye = jnp.eye(z.size, dtype=z.dtype)
    g, J = equations.residual(z), equations.jacobian(z)
    gradient, size = g @ J, jnp.linalg.norm(g)
    damping = mu * size
    delta = -jnp.linalg.solve(J.T @ J + damping * eye, gradient)
    trial = z + delta.reshape(z.shape)
    g_trial = equations.residual(trial)
    descended = (g @ g - g_trial @ g_trial) / 2
    predicted = (delta @ (damping * delta - gradient)) / 2
    ratio = descended / predicted
    better = jnp.isfinite(ratio) & (ratio > 0) & jnp.all(jnp.isfinite(trial))
    kept = jnp.where(better, ratio, jnp.zeros_like(ratio))
    calmer = mu * jnp.clip(1 - (2 * kept - 1) ** 3, 0.1, 2.0)
    speed = jnp.where(better, jnp.linalg.norm(g_trial), size)
    scale = jnp.maximum(1.0, jnp.linalg.norm(z))
    short = jnp.linalg.norm(delta) <= 1e-13 * scale
    # On its way to a zero it falls by factors; so it is near a minimum that is none.
    level = descended <= _LEVEL * (g @ g)
    lost = ~jnp.all(jnp.isfinite(g)) | (~better & (mu > 1e12))
    return _Descent(
        orbit=jnp.where(better, trial, z),
        damping=jnp.where(better, calmer, mu * growth),
        growth=jnp.where(better, jnp.full_like(growth, 2.0), 2 * growth),
        steps=steps + 1,
        done=(speed <= goal * scale) | (better & (short | level)) | lost,
    )


def _finish(equations: _Equations, goal: jax.Array, descent: _Descent) -> Orbits:
    """Newton's method where it is near, and what there is to know of where it ended."""
    z = descent.orbit
    speed = jnp.linalg.norm(equations.residual(z))
    near = speed <= goal * jnp.maximum(1.0, jnp.linalg.norm(z))

    def newton(state: Any, _: None) -> tuple[Any, None]:
        best, least, now = state
        delta = jnp.linalg.solve(equations.jacobian(now), equations.residual(now))
        now = now - delta.reshape(now.shape)
        speed = jnp.linalg.norm(equations.residual(now))
        better = near & (speed < least)
        return (jnp.where(better, now, best), jnp.where(better, speed, least), now), None

    (z, speed, _), _ = lax.scan(newton, (z, speed, z), None, length=_NEWTON_STEPS)
    J, g = equations.jacobian(z), equations.residual(z)
    bound = jnp.linalg.norm(J) * jnp.linalg.norm(g)
    stationary = jnp.linalg.norm(g @ J) / jnp.maximum(bound, jnp.finfo(z.dtype).tiny)
    return Orbits(z, speed, equations.blocks(z), stationary)


def _equations(where: Map, x: jax.Array) -> _Equations:
    step, jacobians = map_of(where)

    def residual(z: jax.Array) -> jax.Array:
        after = jax.vmap(lambda h: step(h, x))(z)
        return (after - jnp.roll(z, -1, axis=0)).reshape(-1)

    def blocks(z: jax.Array) -> jax.Array:
        return jax.vmap(lambda h: jacobians(h, x)[0])(z)

    def jacobian(z: jax.Array) -> jax.Array:
        n, size = z.shape
        eye, unit = jnp.eye(n, dtype=z.dtype), jnp.eye(size, dtype=z.dtype)
        along = jnp.einsum("ij,iab->iajb", eye, blocks(z))
        onward = jnp.einsum("ij,ab->iajb", jnp.roll(eye, 1, axis=1), unit)
        return (along - onward).reshape(n * size, n * size)

    return _Equations(residual, jacobian, blocks)
