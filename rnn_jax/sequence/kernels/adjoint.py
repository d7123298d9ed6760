"""The transposed recurrence as one kernel: cotangents from the last step to the first."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax.sequence.kernels.checking import check_adjoint
from rnn_jax.sequence.kernels.exchange import alive_or_nan, poll, tag_of, tagged
from rnn_jax.sequence.kernels.launching import Place, launch
from rnn_jax.sequence.kernels.lowerable import lowerable
from rnn_jax.sequence.kernels.marking import chosen, marks_in
from rnn_jax.sequence.kernels.padding import (
    Sizes,
    adjoint_weights,
    cut,
    inside,
    interleaved,
    joined_weights,
    padded,
    padded_marks,
    seeing_blocks,
    sizes_of,
)
from rnn_jax.sequence.kernels.products import operands, product
from rnn_jax.sequence.kernels.rules import Adjoint, Arrays, Keep, Parts, StepRule, of_each_part
from rnn_jax.sequence.kernels.tiles import Tiles, joined_count


class _Inputs(NamedTuple):
    """What the kernel reads; in the kernel, refs to it."""

    weights: Any
    y: Any
    last: Any
    marks: Any
    streams: Any


def run_adjoint(
    rule: StepRule,
    weights: Arrays,
    y: Parts,
    last: Arrays,
    *,
    marks: jax.Array | None = None,
    streams: Arrays = (),
    keep: Keep,
    precision: str,
    tiles: Tiles,
    interpret: bool = False,
) -> Adjoint:
    """Runs the transpose of a recurrence that is linear in its carry and its drives.

    From the last step to the first, λ being the cotangent of the carry after the step:

    λ ← λ + y_t,    (λ, ḋ_t) ← function(λ, streams_t),    λ_h ← λ_h + ḋ_t Wᵀ

    Past a skipped step λ goes as it is, and ḋ_t = 0; where a sequence starts, λ is added to the
    cotangent of the carry that it starts from, and goes on as 0.

    Args:
      rule: the transposed step, from `transposed`.
      weights: as of the recurrence, (M, H, blocks·H) for each group that sees the state.
      y: (M, T, B, H) a part, cotangents of the carry after each step; None where there are none.
      last: (M, B, H) a part, of the carry after the last step.
      marks: int32 (M, T, B), as of the recurrence.
      streams: (M, T, B, H) each, of which the step is given the rows of its time.
      keep: of which parts the λ of every step are returned, after y_t is added.
      precision: of the products, one of `products.PRECISIONS`.
      tiles: from `choose_tiles`.
      interpret: runs it in Pallas' interpret mode, on a CPU.

    Returns:
      `Adjoint`.

    Raises:
      ValueError: shapes that do not fit together.
      TypeError: an array of another type.
    """
    members, steps, rows, units = check_adjoint(rule, weights, y, last, marks, streams, precision)
    sizes = sizes_of(members, steps, rows, units, tiles)
    w = adjoint_weights(joined_weights(rule, weights, sizes), sizes, tiles.parts)
    inputs = _Inputs(
        weights=operands(w, precision),
        y=padded(y, sizes),
        last=padded(last, sizes),
        marks=padded_marks(marks, sizes),
        streams=padded(streams, sizes),
    )
    out = launch(
        _kernel(rule, sizes, tiles, precision, interpret),
        inputs,
        _outputs(rule, keep, sizes, with_marks=marks is not None),
        members=members,
        row_tiles=sizes.all_rows // sizes.tile_rows,
        slice_units=sizes.slice_units,
        exchanged=(2, tiles.split, sizes.tile_rows, sizes.all_units),
        tiles=tiles,
        name="adjoint",
        interpret=interpret,
    )
    d_drives = tuple(
        cut(drive, sizes, group.blocks)
        for group, drive in zip(rule.groups, out.d_drives, strict=True)
    )
    return cut(out._replace(d_drives=()), sizes)._replace(d_drives=d_drives)


def _outputs(rule: StepRule, keep: Keep, sizes: Sizes, *, with_marks: bool) -> Adjoint:
    """Shapes of what the kernel writes."""
    state, series = sizes.shapes()
    d_drives: Any = tuple(
        jax.ShapeDtypeStruct((*series.shape[:-1], group.blocks * sizes.all_units), series.dtype)
        for group in rule.groups
    )
    kept = of_each_part(keep.lambdas, rule.parts)
    lambdas: Any = tuple(series if is_kept else None for is_kept in kept)
    d_carry: Any = (state,) * rule.parts
    return Adjoint(d_drives, lambdas, d_carry, d_carry if with_marks else ())


def _kernel(
    rule: StepRule,
    sizes: Sizes,
    tiles: Tiles,
    precision: str,
    interpret: bool,
) -> Any:
    """The kernel of one block: a tile of rows, a slice of units, all steps.

    The slice is taken in parts, and cotangents are lists of what belongs to each of them.
    """
    hidden, exchanges, function = rule.hidden, tiles.split > 1, lowerable(rule.function)
    blocks = [(g, i) for g, group in enumerate(rule.groups) for i in range(group.blocks)]

    def kernel(place: Place, refs: _Inputs, out: Adjoint, buffer: Any) -> None:
        places = [place.part(i, tiles.parts) for i in range(tiles.parts)]
        weights = tuple(ref[place.member, place.slice].T for ref in refs.weights)
        zero = jnp.zeros(places[0].shape, jnp.float32)

        def inputs_at(t: Any) -> Any:
            return [(part.load(refs.y, t), part.load(refs.streams, t)) for part in places]

        def bits_at(t: Any) -> Any:
            return place.load_marks(refs.marks, jnp.maximum(t, 0))

        def through_weights(d_pre: list[Arrays]) -> jax.Array:
            """Σ ḋ Wᵀ over this slice's units, for all units."""
            missing = [zero] * (joined_count(rule) - len(seeing_blocks(rule)))
            blocks = [[part[b] for b in seeing_blocks(rule)] + missing for part in d_pre]
            side_by_side = interleaved([block for part in blocks for block in part])
            return product(side_by_side, weights, precision, interpret=interpret)

        def step(k: Any, state: Any) -> Any:
            t = sizes.steps - 1 - k
            lambdas, d_initial, alive, ahead, bits = state
            marks = None if bits is None else marks_in(bits)
            lambdas = [
                tuple(x if y is None else x + y for x, y in zip(part, ys, strict=True))
                for part, (ys, _) in zip(lambdas, ahead, strict=True)
            ]
            results = [function(x, streams) for x, (_, streams) in zip(lambdas, ahead, strict=True)]
            before = [direct for direct, _ in results]
            d_pre = [
                tuple(d_drive(d, part.units, marks) for d in ds)
                for (_, ds), part in zip(results, places, strict=True)
            ]
            total = through_weights(d_pre)
            if exchanges:
                # Past a start it would be finite again.
                sent = alive_or_nan(total, alive)
                buffer[place.pair, k & 1, place.slice] = tagged(sent, tag_of(k))
            # Loads of the next step are issued before this one's stores and, above all, its wait.
            ahead = inputs_at(jnp.maximum(t - 1, 0))
            bits_ahead = bits_at(t - 1)
            for part, ds, values in zip(places, d_pre, lambdas, strict=True):
                for (group, block), d in zip(blocks, ds, strict=True):
                    units = part.units_of_block(block, sizes.all_units)
                    out.d_drives[group][part.member, t, part.rows, units] = d
                part.store(out.lambdas, values, t)
            if exchanges:
                slices = map(jnp.int32, range(tiles.split))
                shares = [buffer.at[place.pair, k & 1, c, :, place.units] for c in slices]
                terms, alive = poll(shares, tag_of(k), alive)
                total = alive_or_nan(sum(terms[1:], start=terms[0]), alive)
            through_h = jnp.split(total, tiles.parts, axis=1)
            after = lambdas
            lambdas = [
                tuple(x + d if i == hidden else x for i, x in enumerate(part))
                for part, d in zip(before, through_h, strict=True)
            ]
            if marks is not None:
                lambdas = [chosen(marks.skipped, a, b) for a, b in zip(after, lambdas, strict=True)]
                d_initial = [
                    tuple(d + jnp.where(marks.starts, x, zero) for d, x in zip(*pair, strict=True))
                    for pair in zip(d_initial, lambdas, strict=True)
                ]
                lambdas = [tuple(jnp.where(marks.starts, zero, x) for x in xs) for xs in lambdas]
            return lambdas, d_initial, alive, ahead, bits_ahead

        def d_drive(d: jax.Array, units: Any, marks: Any) -> jax.Array:
            d = inside(d, units, sizes)
            return d if marks is None else jnp.where(marks.skipped, 0.0, d)

        zeros = (zero,) * rule.parts
        start = (
            [part.load(refs.last) for part in places],
            None if refs.marks is None else [zeros for _ in places],
            jnp.int32(1) if exchanges else None,
            inputs_at(sizes.steps - 1),
            bits_at(sizes.steps - 1),
        )
        lambdas, d_initial, *_ = lax.fori_loop(jnp.int32(0), jnp.int32(sizes.steps), step, start)
        for i, part in enumerate(places):
            part.store(out.d_carry, lambdas[i])
            if d_initial is not None:
                part.store(out.d_initial, d_initial[i])

    return kernel
