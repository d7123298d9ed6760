"""What a run takes, checked: shapes that fit together, and types that the kernels compute in."""

from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax.sequence.kernels.products import PRECISIONS
from rnn_jax.sequence.kernels.rules import StepRule


def check_precision(precision: str) -> None:
    """Raises ValueError unless the precision is known."""
    if precision not in PRECISIONS:
        raise ValueError(
            f"precision must be one of {', '.join(PRECISIONS)}; got {precision!r}. Pass what "
            "jax.default_matmul_precision stands for."
        )


def check_weights(
    rule: StepRule, weights: tuple[jax.Array, ...], precision: str, units: int
) -> None:
    """Raises unless there are weights (M, H, blocks·H) for each group that sees the state."""
    seeing = [group for group in rule.groups if group.sees_state]
    if len(weights) != len(seeing):
        raise ValueError(
            f"there must be weights for each of the {len(seeing)} groups that see the state; got "
            f"{len(weights)}. Leave out those of groups that do not."
        )
    kind = jnp.bfloat16 if precision == "bf16" else jnp.float32
    for group, w in zip(seeing, weights, strict=True):
        check_array("weights", w, (weights[0].shape[0], units, group.blocks * units), kind)


def check_array(name: str, x: jax.Array, shape: tuple[int, ...], kind: Any = jnp.float32) -> None:
    """Raises unless an array has this shape and type."""
    if x.dtype != kind:
        raise TypeError(
            f"{name} must be {jnp.dtype(kind).name}, which the kernels compute with; got "
            f"{x.dtype.name}. Cast it, or take the scan for other types."
        )
    if x.shape != shape:
        raise ValueError(
            f"{name} must have shape {shape}, to fit the weights and the carry; got {x.shape}. "
            "Give every array its axis of members, of length 1 if there is one."
        )


def check_parts(
    name: str, parts: tuple[jax.Array, ...], count: int, shape: tuple[int, ...]
) -> None:
    """Raises unless there is an array of this shape for each part of the carry."""
    if len(parts) != count:
        raise ValueError(
            f"{name} must have one array for each of the {count} parts of the carry; got "
            f"{len(parts)}. Pass them as a tuple."
        )
    for part in parts:
        check_array(name, part, shape)


def check_not_empty(members: int, steps: int, rows: int, units: int) -> None:
    """Raises ValueError if there is nothing to run."""
    if 0 in (members, steps, rows, units):
        raise ValueError(
            "a kernel needs at least one member, step, row and unit; got "
            f"M={members}, T={steps}, B={rows}, H={units}. Take the scan for empty arrays."
        )


def check_forward(
    rule: StepRule,
    weights: tuple[jax.Array, ...],
    drives: tuple[jax.Array | None, ...],
    carry: tuple[jax.Array, ...],
    initial: tuple[jax.Array, ...] | None,
    spare: tuple[jax.Array, ...] | None,
    marks: jax.Array | None,
    streams: tuple[jax.Array, ...],
    precision: str,
) -> tuple[int, int, int, int]:
    """Checks what a forward run is given; returns (M, T, B, H)."""
    check_precision(precision)
    members, rows, units = carry[0].shape
    timed = [x for x in (*drives, *streams, marks) if x is not None and x.ndim > 2]
    if not timed:
        raise ValueError(
            "a drive, a stream or marks must have an axis of time, which says how many steps there "
            "are; got none. Repeat a constant drive over the steps."
        )
    steps = timed[0].shape[1]
    check_not_empty(members, steps, rows, units)
    check_weights(rule, weights, precision, units)
    for group, drive in zip(rule.groups, drives, strict=True):
        if drive is not None:
            width = group.blocks * units
            whole = (members, steps, rows, width)
            check_array("drives", drive, whole if drive.ndim > 2 else (members, width))
    for name, parts in {"carry": carry, "initial": initial, "spare": spare}.items():
        if parts is not None:
            check_parts(name, parts, rule.parts, (members, rows, units))
    for stream in streams:
        check_array("streams", stream, (members, steps, rows, units))
    if len({marks is None, initial is None, spare is None}) > 1:
        raise ValueError(
            "marks, initial and spare must come together: what a start returns to, and what a "
            f"skipped step is computed from; got marks={marks is not None}, "
            f"initial={initial is not None}, spare={spare is not None}. Pass all or none."
        )
    if marks is not None:
        check_array("marks", marks, (members, steps, rows), jnp.int32)
    return members, steps, rows, units


def check_adjoint(
    rule: StepRule,
    weights: tuple[jax.Array, ...],
    y: tuple[jax.Array | None, ...],
    last: tuple[jax.Array, ...],
    marks: jax.Array | None,
    streams: tuple[jax.Array, ...],
    precision: str,
) -> tuple[int, int, int, int]:
    """Checks what an adjoint run is given; returns (M, T, B, H)."""
    check_precision(precision)
    members, rows, units = last[0].shape
    timed = [x for x in (*streams, *y, marks) if x is not None]
    if not timed:
        raise ValueError(
            "streams, y or marks must have an axis of time, which says how many steps there are; "
            "got none. Pass zeros as y of the hidden part."
        )
    steps = timed[0].shape[1]
    check_not_empty(members, steps, rows, units)
    check_weights(rule, weights, precision, units)
    if len(y) != rule.parts:
        raise ValueError(
            f"y must have one entry for each of the {rule.parts} parts of the carry, None where "
            f"there is nothing to add; got {len(y)}."
        )
    check_parts("last", last, rule.parts, (members, rows, units))
    for x in (*y, *streams):
        if x is not None:
            check_array("y and streams", x, (members, steps, rows, units))
    if marks is not None:
        check_array("marks", marks, (members, steps, rows), jnp.int32)
    return members, steps, rows, units
