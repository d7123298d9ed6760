"""The memory path of each unit followed through all steps by a block of threads, for a GPU.

The columns of the rest, one for each unit of the part, need nothing of one another. So each is a
block's own, which keeps it on chip with its exponent, and meets A_t once a step.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax.gradients.numerics.on_chip import (
    exponent_on_chip,
    launch,
    padded_to_tiles,
    power_of_two_on_chip,
)
from rnn_jax.gradients.numerics.scaled import LN2, NEVER, log_exactly

# (x, e) stands for x · 2^e, x a column or one number.
Scaled = tuple[jax.Array, jax.Array]


class ColumnLogs(NamedTuple):
    """By step and unit, (T, H).

    Attributes:
      path: ln of the unit's path.
      rest: ln of the length of its column of the rest, within the part.
      total: the same of rest and path together.
    """

    path: jax.Array
    rest: jax.Array
    total: jax.Array


def column_logs(
    jacobians: jax.Array, factors: jax.Array, rows: tuple[int, int], *, interpret: bool = False
) -> ColumnLogs:
    """The split of `split_path` unit by unit.

    Args:
      jacobians: A_t, (T, S, S), float32.
      factors: f_t, (T, H).
      rows: where the part stands in the state, (start, stop).
      interpret: run it in Pallas' interpret mode, on a CPU.
    """
    steps, units = factors.shape
    numbers, exponents = ((steps, units), jnp.float32), ((steps, units), jnp.int32)
    matrices = padded_to_tiles(jacobians)
    path, path_exponents, rest, rest_exponents, total, total_exponents = launch(
        _kernel(steps, matrices.shape[-1], rows),
        (matrices, factors),
        (numbers, exponents) * 3,
        blocks=units,
        name="memory_path",
        interpret=interpret,
    )

    def log(x: jax.Array, exponents: jax.Array) -> jax.Array:
        return log_exactly(x) + LN2 * exponents.astype(x.dtype)

    return ColumnLogs(
        log(jnp.abs(path), path_exponents),
        log(jnp.sqrt(rest), rest_exponents),
        log(jnp.sqrt(total), total_exponents),
    )


def _kernel(steps: int, side: int, rows: tuple[int, int]) -> Any:
    """The kernel of one unit."""
    begin, end = rows

    def kernel(matrices: Any, factors: Any, *out: Any) -> None:
        from jax.experimental import pallas as pl

        unit = pl.program_id(0)
        place = unit + begin
        column = lax.broadcasted_iota(jnp.int32, (side, side), 1)
        row = lax.broadcasted_iota(jnp.int32, (side,), 0)
        is_unit = (row == place).astype(jnp.float32)
        in_part = ((row >= begin) & (row < end)).astype(jnp.float32)

        def step(t: jax.Array, state: Any) -> Any:
            rest, exponent, path, path_exponent, a = state
            t = t.astype(jnp.int32)
            # Of the next step, so that reading it takes no time of its own.
            ahead = matrices[jnp.minimum(t + 1, steps - 1)]
            f = factors[t, unit]
            leaves = jnp.sum(jnp.where(column == place, a, jnp.zeros_like(a)), axis=1)
            leaving = (leaves - is_unit * f) * path
            moved = jnp.sum(a * rest[None, :], axis=1)
            rest, exponent = _sum((moved, exponent), (leaving, path_exponent))
            path = path * f
            shift = exponent_on_chip(jnp.abs(path))
            path, path_exponent = path * power_of_two_on_chip(-shift), path_exponent + shift
            own = _near_one(rest * in_part, exponent)
            total = _sum(own, (is_unit * path, path_exponent))
            found = (
                path,
                path_exponent,
                jnp.sum(own[0] * own[0]),
                own[1],
                jnp.sum(total[0] * total[0]),
                total[1],
            )
            for ref, value in zip(out, found, strict=True):
                ref[t, unit] = value
            return rest, exponent, path, path_exponent, ahead

        nothing = (jnp.zeros((side,), jnp.float32), jnp.int32(0))
        lax.fori_loop(0, steps, step, (*nothing, jnp.float32(1), jnp.int32(0), matrices[0]))

    return kernel


def _sum(one: Scaled, other: Scaled) -> Scaled:
    """Of two columns, near 1; what is all zero does not hold the other's scale up."""

    def exponent(scaled: Scaled) -> jax.Array:
        return jnp.where(jnp.max(jnp.abs(scaled[0])) == 0, jnp.int32(NEVER), scaled[1])

    exponents = exponent(one), exponent(other)
    common = jnp.maximum(*exponents)
    terms = (
        x * power_of_two_on_chip(e - common)
        for x, e in zip((one[0], other[0]), exponents, strict=True)
    )
    return _near_one(sum(terms, jnp.zeros_like(one[0])), common)


def _near_one(x: jax.Array, exponent: jax.Array) -> Scaled:
    shift = exponent_on_chip(jnp.max(jnp.abs(x)))
    return x * power_of_two_on_chip(-shift), exponent + shift
