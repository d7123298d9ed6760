"""Estimates by random probes, for networks whose Jacobians are too large to form."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from rnn_jax.arrays import nan_unless
from rnn_jax.checks import check_choice, check_count, check_key
from rnn_jax.gradients import loops
from rnn_jax.gradients.input_vectors import check_by_input
from rnn_jax.gradients.jacobians.log_norms import check_targets
from rnn_jax.gradients.linearize import (
    Given,
    Record,
    Source,
    accept,
    check_decomposable,
    sizes_of,
    up_to,
)
from rnn_jax.gradients.memory import check_fits
from rnn_jax.gradients.numerics.graded import Graded, empty_product, flip, multiply
from rnn_jax.gradients.numerics.jacobi import log_singular_values
from rnn_jax.gradients.numerics.scaled import LN2, log_frobenius, normalizing_exponent, power_of_two
from rnn_jax.gradients.precision import compiled
from rnn_jax.gradients.step_maps import StepMaps, step_maps
from rnn_jax.sequence.calling import ArrayLike, Carry


@struct.dataclass
class Estimate:
    """Random estimates, and how far off they are likely to be.

    Attributes:
      values: the estimates.
      standard_errors: of the same shape; 0 where the value is exact.

    Example:
      >>> guess = rj.estimate_jacobian_log_norms(cell, xs, key=jax.random.key(0))
      >>> guess.values.shape  # Of the last output by each input
      (1, 20)
      >>> bool((guess.standard_errors < 0.5).all())
      True
    """

    values: jax.Array
    standard_errors: jax.Array


def estimate_jacobian_log_norms(
    cell: Any,
    xs: Any = None,
    carry: Carry | None = None,
    *,
    feature_axes: int | None = None,
    key: jax.Array,
    probes: int = 16,
    wrt: str = "input",
    targets: ArrayLike | None = None,
) -> Estimate:
    """Frobenius log-norms as `jacobian_log_norms` gives them, estimated without any Jacobian.

    ‖J‖_F² = E‖Jᵀ u‖²,  u ~ N(0, I):    ½ ln of the mean over the probes

    All sources s of a target come out of the same backward sweep. Memory: the states, T · S
    numbers, and K · probes · S for the probes, whatever T is. (H = 2048, T = 10 000, 16 probes,
    float32: 82 MB and 0.1 MB a target for a simple cell.)

    Args:
      cell: any callable pytree cell(carry, x) -> (carry, y).
      xs: one sequence, (T, I), or a pytree of inputs.
      carry: initial carry; None asks the cell.
      feature_axes: trailing axes of xs that are features; as for `unroll`.
      key: a JAX random key.
      probes: how many random vectors for each target, at least 2; the standard error falls like
        1/√probes.
      wrt: "input", outputs by inputs, or "state", carries by carries.
      targets: steps t in [−T, T), (K,); None is the last step only.

    Returns:
      An `Estimate` with fields (K, T), in nats; the standard errors are those of the logs, by the
      delta method. −inf with standard error 0 where the derivative is exactly 0, as for s > t.

    Raises:
      ValueError: wrong shapes, unknown names, targets out of range, fewer than 2 probes, an empty
        sequence, or a result too large for memory.
      TypeError: inputs or carries of the wrong type, a key that is none, or a cell that needs
        `carry`.

    Example:
      >>> guess = rj.estimate_jacobian_log_norms(cell, xs, key=jax.random.key(0))
      >>> exact = rj.jacobian_log_norms(cell, xs, targets=[-1])
      >>> bool((jnp.abs(guess.values - exact) < 4 * guess.standard_errors).all())
      True

    References:
      H. Avron and S. Toledo, "Randomized algorithms for estimating the trace of an implicit
      symmetric positive semi-definite matrix", 2011.
    """
    check_choice("wrt", wrt, ("input", "state"))
    probes = check_count("probes", probes, low=2)
    key, source = check_key(key), accept(cell, xs, carry, feature_axes)
    check_by_input(wrt, source.inputs)
    steps, size, outputs, _, dtype = sizes_of(source)
    ranks = check_targets([-1] if targets is None else targets, steps)
    rows, count = size if wrt == "state" else outputs, ranks.shape[0]
    check_fits(
        "estimate_jacobian_log_norms",
        [(2, count, steps), (steps, size + outputs), (3, count * probes, size + rows)],
        dtype,
        "Pass fewer targets or fewer probes.",
        of=(source, key, ranks),
    )
    return _estimated_log_norms(source, key, ranks, probes=probes, wrt=wrt)


@functools.partial(compiled, static=("probes", "wrt"))
def _estimated_log_norms(
    source: Source, key: jax.Array, targets: jax.Array, *, probes: int, wrt: str
) -> Estimate:
    record = Record(source)
    steps, size, outputs, _, dtype = record.sizes
    rows = size if wrt == "state" else outputs
    vectors = jax.random.normal(key, (targets.shape[0], probes, rows), dtype)
    logs = _probe(record, targets % steps, vectors, wrt)
    known = jnp.broadcast_to(((targets >= -steps) & (targets < steps))[:, None], logs.values.shape)
    return jax.tree.map(functools.partial(nan_unless, known), logs)


def _probe(record: Record, targets: jax.Array, vectors: jax.Array, wrt: str) -> Estimate:
    """Carries the probes (K, m, rows) of all targets back through the sequence."""
    size, dtype = record.sizes.state, record.sizes.dtype
    count, probes, _ = vectors.shape
    maps = step_maps(record)

    def body(moving: Any, at: Any) -> tuple[Any, Estimate]:
        r, exponents = moving
        s, here = at
        is_target = jnp.broadcast_to((targets == s)[:, None, None], vectors.shape)
        reached = (targets >= s)[:, None, None]
        fresh = jnp.where(is_target, vectors, jnp.zeros_like(vectors))

        if wrt == "state":
            r = r + fresh
            found = r
            r = jax.vmap(jax.vmap(maps.pull_state(here)))(r)
        else:
            r, found = jax.vmap(jax.vmap(maps.pull(here)))(r, fresh)
        # Set to 0 once more, because 0 times a Jacobian that is not finite is NaN.
        found, r = (jnp.where(jnp.broadcast_to(reached, a.shape), a, 0.0) for a in (found, r))
        logs = log_frobenius(found, 2) + LN2 * exponents.astype(dtype)
        shift = normalizing_exponent(r, 2)
        r = r * jnp.broadcast_to(power_of_two(-shift, dtype)[..., None], r.shape)
        return (r, exponents + shift), _average(logs)

    start = (jnp.zeros((count, probes, size), dtype), jnp.zeros((count, probes), jnp.int32))
    at = (jnp.arange(record.sizes.steps), maps.at)
    estimates = loops.scan(body, start, at, reverse=True)[1]
    return jax.tree.map(jnp.transpose, estimates)


def _average(logs: jax.Array) -> Estimate:
    """½ ln of the mean of the squares exp(2·logs) over the last axis, and its standard error."""
    count = logs.shape[-1]
    largest = jnp.max(logs, axis=-1, keepdims=True)
    zero = jnp.isneginf(largest)
    top = jnp.where(zero, jnp.zeros_like(largest), largest)
    squares = jnp.exp(2 * (logs - jnp.broadcast_to(top, logs.shape)))
    mean = jnp.mean(squares, axis=-1)
    spread = jnp.std(squares, axis=-1, ddof=1)
    zero, top = zero[..., 0], top[..., 0]
    safe = jnp.where(zero, jnp.ones_like(mean), mean)
    value = jnp.where(zero, jnp.full_like(mean, -jnp.inf), 0.5 * jnp.log(safe) + top)
    return Estimate(value, spread / (2 * safe * count**0.5))


def estimate_jacobian_log_singular_values(
    cell: Any,
    xs: Any = None,
    carry: Carry | None = None,
    *,
    feature_axes: int | None = None,
    k: int,
    key: jax.Array,
    start: int = 0,
    stop: int | None = None,
    oversample: int = 8,
    iterations: int = 3,
) -> jax.Array:
    """The leading singular values of ∂carry_stop/∂carry_start in logs, without any Jacobian.

    Subspace iteration: k + oversample random directions go forward by Jacobian-vector products and
    back by vector-Jacobian products, made orthonormal at every step; then forward once more, and
    the singular values of what arrives are the estimates. Each is a lower bound, up to rounding,
    that closes like (σ_{k+oversample+1}/σ_i)^{2·iterations}; over long stretches the spectrum is so
    steep that the first pass has it.

    Memory: the states, (stop − start) · S numbers, and a few blocks of S · (k + oversample).

    Args:
      cell: any callable pytree cell(carry, x) -> (carry, y).
      xs: one sequence, (T, I), or a pytree of inputs.
      carry: initial carry; None asks the cell.
      feature_axes: trailing axes of xs that are features; as for `unroll`.
      k: how many, at most S.
      key: a JAX random key.
      start, stop: the two carries, as in `jacobian_log_singular_values`.
      oversample: extra directions, at least 0.
      iterations: forward and backward passes before the last forward one, at least 0.

    Returns:
      (k,), descending; −inf for exact zeros.

    Raises:
      ValueError: wrong shapes, numbers out of range, an empty sequence, or a result too large for
        memory.
      TypeError: inputs or carries of the wrong type, a key that is none, or a cell that needs
        `carry`.

    Example:
      >>> key = jax.random.key(0)
      >>> few = rj.estimate_jacobian_log_singular_values(cell, xs, k=2, key=key, oversample=4)
      >>> bool(jnp.allclose(few, rj.jacobian_log_singular_values(cell, xs, k=2), atol=1e-3))
      True

    References:
      N. Halko, P.-G. Martinsson and J. Tropp, "Finding structure with randomness", 2011.
    """
    key, source = check_key(key), accept(cell, xs, carry, feature_axes)
    sizes = sizes_of(source)
    stop = sizes.steps if stop is None else check_count("stop", stop, high=sizes.steps)
    start = check_count("start", start, high=stop)
    k = check_count("k", k, low=1)
    if k > sizes.state:
        raise ValueError(f"k must be at most the size of the carry, S = {sizes.state}; got {k}.")
    extra = check_count("oversample", oversample)
    iterations = check_count("iterations", iterations)
    check_decomposable(sizes, "estimate_jacobian_log_singular_values")
    width = min(sizes.state, k + extra)
    check_fits(
        "estimate_jacobian_log_singular_values",
        [(stop + 1, sizes.state + sizes.output), (6, sizes.state, width)],
        sizes.dtype,
        "Use fewer steps, or a smaller k.",
        of=(source, key),
    )
    if start == stop:
        return jnp.zeros(k, sizes.dtype)
    return _leading(source, key, start=start, stop=stop, k=k, width=width, iterations=iterations)


@functools.partial(compiled, static=("start", "stop", "k", "width", "iterations"))
def _leading(
    source: Given, key: jax.Array, *, start: int, stop: int, k: int, width: int, iterations: int
) -> jax.Array:
    record = Record(up_to(source, stop))
    basis = jax.random.normal(key, (record.sizes.state, width), record.sizes.dtype)
    basis, _ = jnp.linalg.qr(basis)
    maps = step_maps(record)
    maps = maps._replace(at=jax.tree.map(lambda a: a[start:stop], maps.at))

    def there_and_back(basis: jax.Array, _: None) -> tuple[jax.Array, None]:
        return _pass(maps, _pass(maps, basis, back=False).q, back=True).q, None

    if iterations:
        basis, _ = loops.scan(there_and_back, basis, None, length=iterations)
    graded = flip(_pass(maps, basis, back=False))
    return log_singular_values(graded.mantissa, graded.exponent, graded.y)[:k]


def _pass(maps: StepMaps, basis: jax.Array, *, back: bool) -> Graded:
    """The product of all steps on a basis (S, b), or of their transposes in reverse."""

    def body(graded: Graded, at: Any) -> tuple[Graded, None]:
        move = maps.pull_state(at) if back else maps.push_state(at)
        z = jax.vmap(move, in_axes=1, out_axes=1)(graded.q)
        # Without A at hand: its rows as far as the basis shows them.
        rows = jnp.linalg.norm(z, axis=1, keepdims=True)
        return multiply(graded, z, jnp.broadcast_to(rows, z.shape)), None

    return loops.scan(body, empty_product(basis), maps.at, reverse=back)[0]
