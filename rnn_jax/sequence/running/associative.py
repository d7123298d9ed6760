"""A recurrence that is linear in its carry, over a sequence, by an associative scan in chunks.

h_t = Λ_t h_{t−1} + b_t

Steps (Λ, b) are composed: first (Λ₁, b₁), then (Λ₂, b₂) is (Λ₂ Λ₁, Λ₂ b₁ + b₂). That is
associative, so the prefixes of K steps take log K rounds of parallel work. Chunks of K steps follow
one another, so products of Λ's are kept for one chunk at a time, and any T compiles as fast.

Products are not kept as logarithms, and need not be. The closed form h_t = A_t (h_0 + Σ_s b_s/A_s)
with A_t = Λ_t … Λ_1 divides by products, which is why implementations of it work in log space, and
with positive carries alone. Here nothing is divided by a product: a prefix multiplies the carry
that enters a chunk and is added to what the chunk itself wrote. One that underflows is off by less
than the smallest number of its type, as in a scan, and so is the adjoint, which is the same
recurrence of Λᵀ. Carries may have any sign. The logarithms of products that are 0 here are the
instrument's affair, which keeps an exponent beside each (`rnn_jax.jacobian_log_norms`).

A product that overflows does harm, though: 0 · ∞ for a carry that is 0. So Λ should not grow
(`LinearForm.contracts`), or be run so only where it is known not to.

Derivatives are those of the linear system h_t − Λ_t h_{t−1} = b_t, which `lax.custom_linear_solve`
differentiates: the tangent is the same recurrence, driven by Λ̇_t h_{t−1} + ḃ_t, the adjoint is the
recurrence of Λᵀ backwards, and nothing but the carries is kept for it. All orders and modes follow.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax.arrays import varying_like
from rnn_jax.cells.linear import Kind, apply, compose, identity_like, transposed
from rnn_jax.sequence.running.boundaries import Boundaries, select

# Elements of the products of Λ's of one chunk, and the longest chunk.
_CHUNK_ELEMENTS = 2**20
LONGEST = 256

_NONE = Boundaries(None, None)
_ASSOCIATIVE = {"default": "associative"}


def linear_scan(
    kind: Kind,
    factor: jax.Array,
    added: jax.Array,
    carry: jax.Array,
    initial: jax.Array | None = None,
    boundaries: Boundaries = _NONE,
    *,
    reverse: bool = False,
    methods: Mapping[str, str] = _ASSOCIATIVE,
    every: int | None = None,
) -> jax.Array:
    """Runs a linear recurrence over sequences that lie side by side, time first.

    Where a sequence starts, its first step starts from `initial`, whatever the carry before; a
    skipped step hands the carry on as it is. Neither what a sequence before left behind nor what a
    skipped step holds has a part in values or gradients.

    Args:
      kind: of Λ; see `rnn_jax.cells.linear`, also for the trailing axes of what follows.
      factor: Λ, (T, ..., ·), or (1, ..., ·) if it is the same at all steps.
      added: b, (T, ..., ·).
      carry: where to start, (..., ·).
      initial: where sequences start that begin within a row, (..., ·); None is `carry`.
      boundaries: of the sequences, (T, ...): resets mark steps on the way *into* which, in the
        order in which steps are run, a sequence starts.
      reverse: run from the last step to the first.
      methods: "associative", or "scan" for one step after another with the same derivatives, by
        the platform that the program is lowered for, with a "default".
      every: K, the length of a chunk; None takes as many steps as keep the products of a chunk
        within some megabytes.

    Returns:
      The carry after each step, (T, ..., ·).
    """
    initial = carry if initial is None else initial
    # Of one type before the solver, whose rules cannot make what all devices share their own.
    operands = (factor, added, carry, initial)
    factor, added, carry, initial = varying_like(operands, operands, boundaries)
    steps = added.shape[0]
    every = _interval(kind, factor, added) if every is None else every
    driven = _driven(kind, factor, added, carry, initial, boundaries, reverse)
    ways = {
        "associative": functools.partial(_prefixes, kind, every=min(every, steps)),
        "scan": functools.partial(_one_by_one, kind),
    }

    def run(factor: jax.Array, b: jax.Array, *, reverse: bool) -> jax.Array:
        if len(set(methods.values())) == 1:
            return ways[methods["default"]](factor, b, boundaries, reverse=reverse)
        by_platform = {
            platform: functools.partial(ways[method], reverse=reverse)
            for platform, method in methods.items()
        }
        found: jax.Array = lax.platform_dependent(factor, b, boundaries, **by_platform)
        return found

    def left(h: jax.Array) -> jax.Array:
        return h - _moved(kind, factor, _shifted(h, reverse=reverse), boundaries)

    def solved(_: Any, b: jax.Array) -> jax.Array:
        return run(factor, b, reverse=reverse)

    def solved_transposed(_: Any, g: jax.Array) -> jax.Array:
        # With p_t what step t hands to the one before, p_t = Λ_tᵀ (p_{t+1} + g_t).
        back = transposed(kind, factor)
        p = run(back, _moved(kind, back, g, boundaries), reverse=not reverse)
        return g + _shifted(p, reverse=not reverse)

    found: jax.Array = lax.custom_linear_solve(left, driven, solved, solved_transposed)
    return found


def _driven(
    kind: Kind,
    factor: jax.Array,
    added: jax.Array,
    carry: jax.Array,
    initial: jax.Array,
    boundaries: Boundaries,
    reverse: bool,
) -> jax.Array:
    """b_t with what carries from outside add to it; 0 beside these where a step is skipped."""
    valid, resets = boundaries
    if valid is None and resets is None:
        at = -1 if reverse else 0
        first = apply(kind, factor[at], carry)
        return added.at[at].add(first)
    steps = added.shape[0]
    nothing = jnp.zeros_like(added)
    is_first = jnp.arange(steps) == (steps - 1 if reverse else 0)
    entering = select(is_first, jnp.broadcast_to(carry[None], added.shape), nothing)
    if resets is not None:
        entering = select(resets, jnp.broadcast_to(initial[None], added.shape), entering)
    if valid is None:
        return apply(kind, factor, entering) + added
    # What passes by a skipped step may be infinite, which Λ's derivative, though 0, must not meet.
    moved = apply(kind, factor, select(valid, entering, nothing))
    return select(valid, moved + added, entering)


def _moved(kind: Kind, factor: jax.Array, before: jax.Array, boundaries: Boundaries) -> jax.Array:
    """What steps make of carries: 0 where a sequence starts, the same where one is skipped."""
    valid, resets = boundaries
    # What has no part in a product stays out of it: it may be NaN, and so would be Λ's derivative.
    nothing = jnp.zeros_like(before)
    own = before if resets is None else select(resets, nothing, before)
    if valid is None:
        return apply(kind, factor, own)
    return select(valid, apply(kind, factor, select(valid, own, nothing)), own)


def _shifted(h: jax.Array, *, reverse: bool) -> jax.Array:
    """The carries before each step, the first being 0."""
    nothing = jnp.zeros_like(h[:1])
    parts = [h[1:], nothing] if reverse else [nothing, h[:-1]]
    return jnp.concatenate(parts)


def _prefixes(
    kind: Kind,
    factor: jax.Array,
    added: jax.Array,
    boundaries: Boundaries,
    *,
    reverse: bool,
    every: int,
) -> jax.Array:
    """Solves h_t − Λ_t h_{t−1} = b_t, from h = 0 before the first step that is run."""
    steps = added.shape[0]
    is_constant = factor.shape[0] == 1 and steps > 1

    def chunk(h: jax.Array, part: Any) -> tuple[jax.Array, jax.Array]:
        own, b, (valid, resets) = part
        own = factor if is_constant else own
        own = jnp.broadcast_to(own, (b.shape[0], *own.shape[1:]))
        if valid is not None:
            own = _unless_skipped(kind, own, b, valid)
        composed = functools.partial(_composed, kind)
        elements = (own, b, resets)
        whole, c, starts = lax.associative_scan(composed, elements, reverse=reverse)
        after = apply(kind, whole, jnp.broadcast_to(h[None], b.shape)) + c
        # What comes before a start may be NaN, and 0 times that is no 0.
        after = after if starts is None else select(starts, c, after)
        return after[0 if reverse else -1], after

    count = -(-steps // every)
    # From h = 0, steps that add nothing leave 0 behind: it may stand at either end.
    missing = count * every - steps

    def cut(array: jax.Array) -> jax.Array:
        ends = [(0, missing)] + [(0, 0)] * (array.ndim - 1)
        padded = jnp.pad(array, ends) if missing else array
        return padded.reshape(count, every, *array.shape[1:])

    start = varying_like(jnp.zeros_like(added[0]), factor, added, boundaries)
    parts = (None if is_constant else factor, added, boundaries)
    if count == 1:
        return chunk(start, parts)[1]
    _, found = lax.scan(chunk, start, jax.tree.map(cut, parts), reverse=reverse)
    return found.reshape(count * every, *added.shape[1:])[:steps]


def _one_by_one(
    kind: Kind,
    factor: jax.Array,
    added: jax.Array,
    boundaries: Boundaries,
    *,
    reverse: bool,
) -> jax.Array:
    """As `_prefixes`, step by step."""
    is_constant = factor.shape[0] == 1

    def body(h: jax.Array, at: Any) -> tuple[jax.Array, jax.Array]:
        own, b, marks = at
        h = _moved(kind, factor[0] if is_constant else own, h, marks) + b
        return h, h

    start = varying_like(jnp.zeros_like(added[0]), factor, added, boundaries)
    steps = (None if is_constant else factor, added, boundaries)
    return lax.scan(body, start, steps, reverse=reverse)[1]


def _composed(kind: Kind, earlier: Any, later: Any) -> Any:
    """The step that is two, and whether a sequence starts within it."""
    (one, b, starts), (other, c, starts_later) = earlier, later
    after = apply(kind, other, b) + c
    if starts is not None:
        after = select(starts_later, c, after)
        starts = starts | starts_later
    return compose(kind, other, one), after, starts


def _unless_skipped(kind: Kind, factor: jax.Array, added: jax.Array, valid: jax.Array) -> jax.Array:
    """Λ, the identity at skipped steps."""
    rows = valid.ndim
    whole = jnp.broadcast_to(factor, (*added.shape[:rows], *factor.shape[rows:]))
    return select(valid, whole, identity_like(kind, whole))


def _interval(kind: Kind, factor: jax.Array, added: jax.Array) -> int:
    """The longest chunk, a power of 2, whose products stay within bounds."""
    one_step = max(factor[0].size, added[0].size, 1)
    return max(16, min(LONGEST, 1 << max(0, (_CHUNK_ELEMENTS // one_step).bit_length() - 1)))
