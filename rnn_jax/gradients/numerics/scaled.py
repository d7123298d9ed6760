"""Numbers too small or too large for their type: an array and an exact power of two beside it.

Scaling by powers of two rounds nothing, and whole exponents add up without error, so a product of
a thousand Jacobians keeps the relative precision of its factors.
"""

import math

import jax
import jax.numpy as jnp

LN2 = math.log(2.0)

# The exponent of an exact zero: below every other, and far from the ends of int32.
NEVER = -(2**24)


def exponent_of(x: jax.Array, axis: int | tuple[int, ...] | None = None) -> jax.Array:
    """The whole number e with max|x| in [2^{e−1}, 2^e); 0 where max|x| is 0 or not finite.

    The max|x| of no numbers, such as an empty part of a carry, is 0.

    It is a constant to differentiation: the value it is taken out of and the value it is put back
    into cancel exactly.
    """
    largest = jnp.max(jnp.abs(jax.lax.stop_gradient(x)), axis=axis, initial=0)
    usable = jnp.isfinite(largest)
    _, exponent = jnp.frexp(jnp.where(usable, largest, jnp.ones_like(largest)))
    return jnp.where(usable, exponent, jnp.zeros_like(exponent))


def power_of_two(exponent: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """2^exponent, exactly; 0 or inf where the type does not reach."""
    info = jnp.finfo(dtype)
    # ldexp builds subnormals, which accelerators and XLA's CPU code flush; stay clear of them.
    within = jnp.clip(exponent, int(info.minexp), int(info.maxexp) - 1)
    value = jnp.ldexp(jnp.ones((), dtype), within)
    value = jnp.where(exponent < info.minexp, jnp.zeros_like(value), value)
    return jnp.where(exponent >= info.maxexp, jnp.full_like(value, jnp.inf), value)


def normalizing_exponent(x: jax.Array, axis: int | tuple[int, ...] | None = None) -> jax.Array:
    """`exponent_of`, kept in the range in which 2^{−e} is itself a normal number."""
    info = jnp.finfo(x.dtype)
    return jnp.clip(exponent_of(x, axis), int(info.minexp) + 2, -int(info.minexp) - 2)


def in_middle(square: jax.Array) -> jax.Array:
    """Whether numbers whose squares add up to this are near enough to 1 to be used as they are."""
    info = jnp.finfo(square.dtype)
    reach = min(-int(info.minexp), int(info.maxexp)) // 6
    return (square > 2.0**-reach) & (square < 2.0**reach)


def log_exactly(x: jax.Array) -> jax.Array:
    """ln x with −inf at 0, and a derivative of 0 there instead of NaN."""
    zero = x == 0
    log = jnp.log(jnp.where(zero, jnp.ones_like(x), x))
    return jnp.where(zero, jnp.full_like(log, -jnp.inf), log)


def log_frobenius(x: jax.Array, axis: int | tuple[int, ...]) -> jax.Array:
    """ln of the root of the sum of squares over `axis`, for numbers of any magnitude."""
    exponent = normalizing_exponent(x, axis)
    scale = power_of_two(-exponent, x.dtype)
    unit = x * jnp.broadcast_to(jnp.expand_dims(scale, axis), x.shape)
    return 0.5 * log_exactly(jnp.sum(unit * unit, axis=axis)) + LN2 * exponent.astype(x.dtype)


def log_spectral(x: jax.Array) -> jax.Array:
    """ln σ₁ of the matrices in the last two axes.

    The square of the largest singular value is the largest eigenvalue of the smaller Gram matrix;
    that one is accurate to rounding, however ill-conditioned the matrix.
    """
    rows, columns = x.shape[-2:]
    if min(rows, columns) == 1:
        return log_frobenius(x, (-2, -1))
    exponent = normalizing_exponent(x, (-2, -1))
    scale = power_of_two(-exponent, x.dtype)[..., None, None]
    unit = x * jnp.broadcast_to(scale, x.shape)
    if rows < columns:
        unit = unit.mT
    gram = jnp.matmul(unit.mT, unit)
    largest = jnp.linalg.eigvalsh(gram)[..., -1]
    return 0.5 * log_exactly(largest) + LN2 * exponent.astype(x.dtype)


def normalised(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """x with its largest entry along `axis` brought into [0.5, 1), and the exponents taken out."""
    exponents = exponent_of(x, axis)
    scale = jnp.expand_dims(power_of_two(-exponents, x.dtype), axis)
    return x * jnp.broadcast_to(scale, x.shape), exponents


def times_powers(
    x: jax.Array, exponents: jax.Array, axis: int | tuple[int, ...]
) -> tuple[jax.Array, jax.Array]:
    """x · 2^exponents with its largest entry along `axis` in [0.5, 1), and the exponents taken out.

    Each entry has an exponent of its own, of any size: what counts beside the largest is kept. The
    exponent of what is all zero is about `NEVER`.
    """
    own = normalizing_exponent(x, ())
    unit = x * power_of_two(-own, x.dtype)
    total = jnp.where(x == 0, jnp.full_like(own, NEVER), own + exponents)
    top = jnp.max(total, axis=axis)
    below = total - jnp.broadcast_to(jnp.expand_dims(top, axis), total.shape)
    return unit * power_of_two(below, x.dtype), top


def log_of_sum(logs: jax.Array, *, power: int) -> jax.Array:
    """ln of (Σ x_i^power)^(1/power) from ln x_i; −inf if all are."""
    largest = jax.lax.stop_gradient(jnp.max(logs))
    top = jnp.where(jnp.isfinite(largest), largest, jnp.zeros_like(largest))
    return log_exactly(jnp.sum(jnp.exp(power * (logs - top)))) / power + top


def zero_or_never(x: jax.Array, axis: int | None = None) -> jax.Array:
    """The exponent of plain numbers: 0, or `NEVER` where all of them (along `axis`) are 0."""
    zero = jnp.all(x == 0, axis=axis)
    return jnp.where(zero, jnp.int32(NEVER), jnp.int32(0))


def add_scaled(
    one: jax.Array,
    exponent: jax.Array,
    other: jax.Array,
    other_exponent: jax.Array,
    axis: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """one · 2^e + other · 2^e', near 1 with its own exponents; one exponent for all along `axis`.

    What is all zero does not hold the other's scale up; where both are, the exponent is `NEVER`.
    """

    def times(x: jax.Array, exponents: jax.Array) -> jax.Array:
        scale = power_of_two(exponents, x.dtype)
        if axis is not None:
            scale = jnp.broadcast_to(jnp.expand_dims(scale, axis), x.shape)
        return x * scale

    exponent = jnp.maximum(exponent + zero_or_never(one, axis), NEVER)
    other_exponent = jnp.maximum(other_exponent + zero_or_never(other, axis), NEVER)
    common = jnp.maximum(exponent, other_exponent)
    total = times(one, exponent - common) + times(other, other_exponent - common)
    shift = normalizing_exponent(total, axis)
    return times(total, -shift), common + shift
