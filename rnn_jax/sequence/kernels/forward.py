"""The recurrence as one kernel: all steps in one launch, weights on chip."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from rnn_jax.sequence.kernels.checking import check_forward
from rnn_jax.sequence.kernels.exchange import alive_or_nan, poll, tag_of, tagged
from rnn_jax.sequence.kernels.launching import Place, launch
from rnn_jax.sequence.kernels.lowerable import lowerable
from rnn_jax.sequence.kernels.marking import chosen, marks_in
from rnn_jax.sequence.kernels.padding import (
    Sizes,
    cut,
    forward_weights,
    inside,
    joined_weights,
    padded,
    padded_marks,
    seeing_blocks,
    sizes_of,
)
from rnn_jax.sequence.kernels.products import operands, product
from rnn_jax.sequence.kernels.rules import Arrays, Forward, Keep, StepRule, of_each_part
from rnn_jax.sequence.kernels.tiles import Tiles, joined_count


class _Inputs(NamedTuple):
    """What the kernel reads; in the kernel, refs to it."""

    weights: Any
    drives: Any
    carry: Any
    initial: Any
    spare: Any
    marks: Any
    streams: Any


def run_forward(
    rule: StepRule,
    weights: Arrays,
    drives: tuple[jax.Array | None, ...],
    carry: Arrays,
    *,
    initial: Arrays | None = None,
    spare: Arrays | None = None,
    marks: jax.Array | None = None,
    streams: Arrays = (),
    keep: Keep,
    precision: str,
    tiles: Tiles,
    interpret: bool = False,
) -> Forward:
    """Runs a recurrence over all steps.

    u_t = drive_t + h_{t−1} W,    (carry_t, emitted_t) = function(carry_{t−1}, u_t, streams_t)

    Args:
      rule: the step.
      weights: for each group that sees the state (M, H, blocks·H); bfloat16 for precision "bf16",
        else float32, as all else is.
      drives: for each group (M, T, B, blocks·H); or (M, blocks·H), the same in every step; or None
        for none.
      carry: (M, B, H) a part, before the first step.
      initial: likewise, what a sequence starts from. With `marks` only.
      spare: likewise, what a skipped step is computed from, so that nothing in it can overflow.
        With `marks` only.
      marks: int32 (M, T, B). Bit 0: a sequence starts here, the carry returns to `initial` on the
        way into the step. Bit 1: the step is skipped, the carry passes by.
      streams: (M, T, B, H) each, of which the step is given the rows of its time.
      keep: what is returned of every step.
      precision: of the products, one of `products.PRECISIONS`.
      tiles: from `choose_tiles`.
      interpret: runs it in Pallas' interpret mode, on a CPU.

    Returns:
      `Forward`.

    Raises:
      ValueError: shapes that do not fit together, or marks without the carries that they need.
      TypeError: an array of another type.
    """
    members, steps, rows, units = check_forward(
        rule, weights, drives, carry, initial, spare, marks, streams, precision
    )
    sizes = sizes_of(members, steps, rows, units, tiles)
    w = forward_weights(joined_weights(rule, weights, sizes), sizes)
    inputs = _Inputs(
        weights=operands(w, precision),
        drives=[
            padded(drive, sizes, group.blocks)
            for group, drive in zip(rule.groups, drives, strict=True)
        ],
        carry=padded(carry, sizes),
        initial=padded(initial, sizes),
        spare=padded(spare, sizes),
        marks=padded_marks(marks, sizes),
        streams=padded(streams, sizes),
    )
    out = launch(
        _kernel(rule, sizes, tiles, precision, interpret),
        inputs,
        _outputs(rule, keep, sizes),
        members=members,
        row_tiles=sizes.all_rows // sizes.tile_rows,
        slice_units=sizes.slice_units,
        exchanged=(2, sizes.tile_rows, sizes.all_units),
        tiles=tiles,
        name="recurrence",
        interpret=interpret,
    )
    return cut(out, sizes)


def _outputs(rule: StepRule, keep: Keep, sizes: Sizes) -> Forward:
    """Shapes of what the kernel writes."""
    state, series = sizes.shapes()

    def of(kept: bool | tuple[bool, ...]) -> Any:
        return tuple(series if is_kept else None for is_kept in of_each_part(kept, rule.parts))

    ys: Any = series if keep.ys else None
    emitted: Any = (series,) * rule.emits if keep.emitted else ()
    last: Any = (state,) * rule.parts
    return Forward(ys, of(keep.carries), of(keep.starts), emitted, last)


def _kernel(
    rule: StepRule,
    sizes: Sizes,
    tiles: Tiles,
    precision: str,
    interpret: bool,
) -> Any:
    """The kernel of one block: a tile of rows, a slice of units, all steps."""
    hidden, final, function = rule.hidden, sizes.steps - 1, lowerable(rule.function)
    exchanges, chunk = tiles.split > 1, sizes.all_units // tiles.chunks
    # Of every block of pre-activations its group and its place in it.
    blocks = [(g, i) for g, group in enumerate(rule.groups) for i in range(group.blocks)]

    def kernel(place: Place, refs: _Inputs, out: Forward, buffer: Any) -> None:
        # The units of h in chunks, because a product holds all of what it sums over in registers.
        chunks = [pl.ds(i * chunk, chunk) for i in range(0, sizes.all_units // chunk)]
        weights = [
            tuple(ref[place.member, place.slice, :, k].T for ref in refs.weights) for k in chunks
        ]
        initial, spare = map(place.load, (refs.initial, refs.spare))
        fixed = [_constant_drive(refs.drives[g], i, place, sizes) for g, i in blocks]

        def inputs_at(t: Any) -> Any:
            drives = [_drive(refs.drives[g], i, t, place, sizes) for g, i in blocks]
            return drives, place.load(refs.streams, t)

        def bits_at(t: Any) -> Any:
            return place.load_marks(refs.marks, jnp.minimum(t, final))

        def into(step: Any, carry: Arrays) -> tuple[Arrays, Arrays]:
            """(the carry that enters a step of these marks, the one that it is computed from)."""
            if step is None:
                return carry, carry
            marks = marks_in(step)
            entering = chosen(marks.starts, initial, carry)
            return entering, chosen(marks.skipped, spare, entering)

        def pre_activations(h: list[jax.Array], driven: list[Any]) -> Arrays:
            pre = [a if b is None else b for a, b in zip(fixed, driven, strict=True)]
            terms = [
                product(*kw, precision, interpret=interpret) for kw in zip(h, weights, strict=True)
            ]
            us = jnp.split(sum(terms[1:], start=terms[0]), joined_count(rule), axis=1)
            for block, u in zip(seeing_blocks(rule), us, strict=False):
                pre[block] = u if pre[block] is None else pre[block] + u
            zero = jnp.zeros(place.shape, jnp.float32)
            return tuple(zero if u is None else u for u in pre)

        def step(t: Any, state: Any) -> Any:
            carry, h, alive, (driven, streams), bits, next_bits = state
            entering, source = into(bits, carry)
            pre = pre_activations(h if exchanges else [source[hidden]], driven)
            after, emitted = function(source, pre, streams)
            after = tuple(inside(part, place.units, sizes) for part in after)
            if exchanges:
                # What is emitted, too: a gradient may depend on that alone.
                after, emitted = (
                    tuple(alive_or_nan(x, alive) for x in xs) for xs in (after, emitted)
                )
            skipped = None if bits is None else marks_in(bits).skipped
            carry = after if skipped is None else chosen(skipped, entering, after)
            following = into(next_bits, carry)[1]
            # Before h is sent: Triton then converts its layout once for all.
            y = after[hidden]
            place.store(out.ys, y if skipped is None else jnp.where(skipped, 0.0, y), t)
            place.store(out.carries[hidden], carry[hidden], t)

            # In this step and not the next, into which h would have to be kept beside its copy.
            @pl.when(t < final)
            def _store_starts() -> None:
                place.store(out.starts, following, t + 1)

            if exchanges:
                # A start or a skipped step would make it finite again.
                h_next = alive_or_nan(following[hidden], alive)
                buffer[place.pair, t & 1, :, place.units] = tagged(h_next, tag_of(t))
            # Loads of the next step are issued before this one's other stores and its wait.
            ahead = inputs_at(jnp.minimum(t + 1, final))
            bits_ahead = bits_at(t + 2)
            place.store(others(out.carries), others(carry), t)
            place.store(out.emitted, emitted, t)

            # Likewise, and not after the loop.
            @pl.when(t == final)
            def _store_last() -> None:
                place.store(out.last, carry)

            if exchanges:
                sent = [buffer.at[place.pair, t & 1, :, k] for k in chunks]
                h, alive = poll(sent, tag_of(t), alive)
            return carry, h, alive, ahead, next_bits, bits_ahead

        def others(parts: Any) -> Any:
            return tuple(part for i, part in enumerate(parts) if i != hidden)

        carry = place.load(refs.carry)
        h = [_first_h(refs, hidden, place, k) for k in chunks] if exchanges else None
        alive = jnp.int32(1) if exchanges else None
        place.store(out.starts, into(bits_at(0), carry)[1], 0)
        start = (carry, h, alive, inputs_at(0), bits_at(0), bits_at(1))
        lax.fori_loop(jnp.int32(0), jnp.int32(sizes.steps), step, start)

    return kernel


def _drive(ref: Any, block: int, t: Any, place: Place, sizes: Sizes) -> Any:
    """What is added to the product of a block in step t; None if that does not depend on t."""
    if ref is None or len(ref.shape) == 2:
        return None
    return ref[place.member, t, place.rows, place.units_of_block(block, sizes.all_units)]


def _constant_drive(ref: Any, block: int, place: Place, sizes: Sizes) -> Any:
    """What is added to the product of a block in every step; None if that depends on the step."""
    if ref is None or len(ref.shape) != 2:
        return None
    row = ref[place.member, place.units_of_block(block, sizes.all_units)]
    return jnp.broadcast_to(row[None, :], place.shape)


def _first_h(refs: _Inputs, hidden: int, place: Place, units: Any) -> jax.Array:
    """Some units of the h that the first step is computed from."""
    here = (place.member, place.rows, units)
    h = refs.carry[hidden][here]
    if refs.marks is None:
        return h
    marks = marks_in(place.load_marks(refs.marks, 0))
    h = jnp.where(marks.starts, refs.initial[hidden][here], h)
    return jnp.where(marks.skipped, refs.spare[hidden][here], h)
