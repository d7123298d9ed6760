"""Whether a linear recurrence is run step by step or by an associative scan, and why.

What is faster hangs on the kind of Λ, on the length, the batch, the size of the state and the
device. On a CPU that was measured: `linear_recurrences.csv`, written by
`benchmarks/linear_recurrences.py`. Taken is what was faster at the measured sizes nearest to those
asked for; on two cores that was the scan at all sizes but one, which is noise.

On a GPU or a TPU nothing was measured. There the rule is a default with a reason: an associative
scan does a few times the work of a scan, but takes 2 log₂ K rounds for a chunk of K steps instead
of K, and a device with thousands of lanes waits for rounds, not for work.

The choice is made when a program is lowered, by the platform that it is lowered for.
"""

import csv
import functools
import math
from importlib.resources import files
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax.arrays import type_of
from rnn_jax.cells.asking import as_pytree
from rnn_jax.cells.linear import Kind, LinearForm, linear_form_for
from rnn_jax.cells.wrappers.noise import draw_noise, has_noise
from rnn_jax.checks import check_choice, check_key
from rnn_jax.sequence.calling import Carry, resolve_carry
from rnn_jax.sequence.inputs import read_inputs, resolve_feature_axes
from rnn_jax.sequence.running.associative import LONGEST
from rnn_jax.sequence.running.ways import IMPLEMENTATIONS

METHODS = ("auto", "scan", "associative")

# By how much an associative scan must have been faster: what is closer than that is noise.
_CLEARLY = 0.8

# Where nothing was measured: shorter sequences are scanned, and so is what multiplies matrices
# larger than this, of which an associative scan needs products with one another.
_LEAST_STEPS = 128
_LARGEST_MATRIX = 16


class UnrollMethod(NamedTuple):
    """How `unroll` runs a cell over a sequence.

    Attributes:
      method: "scan" or "associative".
      reason: why, in words.

    Example:
      >>> how = rj.unroll_method(cell, xs)
      >>> how.method
      'scan'
      >>> print(how.reason)
      GRUCell has no linear_form that holds for its step
    """

    method: str
    reason: str


class Resolved(NamedTuple):
    """What `method=` comes to for one call.

    Attributes:
      form: the linear form that is to be run; None where the cell is scanned on every platform.
      by_platform: the method on a "cpu", and the "default" on any other platform.
    """

    form: LinearForm | None
    by_platform: dict[str, UnrollMethod]


def unroll_method(
    cell: Any,
    xs: Any,
    carry: Carry | None = None,
    *,
    feature_axes: int | None = None,
    key: jax.Array | None = None,
    implementation: str = "auto",
    platform: str | None = None,
) -> UnrollMethod:
    """What `unroll(..., method="auto")` does with a cell and inputs, and why; runs nothing.

    Args:
      cell, xs, carry, feature_axes, key, implementation: as for `unroll`; of xs and carry only
        shapes and types matter, and `jax.ShapeDtypeStruct` says these too.
      platform: that the program is for, "cpu", "gpu" or "tpu"; None is JAX's default one.

    Returns:
      An `UnrollMethod`, for example ("scan", "LSTMCell has no linear_form that holds for its
      step").

    Raises:
      ValueError, TypeError: as `unroll`, or an unknown platform.

    Example:
      >>> rj.unroll_method(cell, xs).method
      'scan'
      >>> linear, long = rj.LRUCell(2, 64, rngs=nnx.Rngs(0)), jnp.zeros((4096, 2))
      >>> rj.unroll_method(linear, long, platform="gpu").method
      'associative'
    """
    check_choice("implementation", implementation, IMPLEMENTATIONS)
    platform = jax.default_backend() if platform is None else platform
    check_choice("platform", platform, {"cpu", "gpu", "tpu", jax.default_backend()})
    cell = as_pytree(cell)
    feature_axes = resolve_feature_axes(cell, feature_axes)
    leading: tuple[int, ...] = ()

    def read(xs: Any) -> Any:
        nonlocal leading
        arrays, leading = read_inputs(xs, feature_axes, batched=True)
        return arrays

    xs = jax.eval_shape(read, xs)
    axes = len(leading)
    x = without_leading(xs, axes)
    if carry is None:
        start = jax.eval_shape(lambda cell: resolve_carry(cell, x, None), cell)
    else:
        start = without_leading(carry, axes - 1)
    noise = None
    if key is not None:
        noise = jax.eval_shape(lambda cell, k: draw_noise(cell, k, 1), cell, check_key(key))
    resolved = resolve_method(
        cell,
        x,
        start,
        noise,
        steps=leading[-1],
        rows=math.prod(leading[:-1]),
        method="auto",
        implementation=implementation,
    )
    return resolved.by_platform["cpu" if platform == "cpu" else "default"]


def resolve_method(
    cell: Any,
    x: Any,
    carry: Any,
    noise: Any,
    *,
    steps: int,
    rows: int,
    method: str,
    implementation: str,
) -> Resolved:
    """What to run.

    Args:
      cell: a pytree.
      x, carry: shapes and types of one input and of the carry of one sequence.
      noise: of the steps, or None.
      steps, rows: T, and how many sequences lie side by side.
      method, implementation: as asked for, see `unroll`.

    Raises:
      ValueError: method="associative" for a cell that is not linear in its carry.
    """
    if method == "scan":
        return _scanned("it was asked for")
    if method == "auto" and implementation != "auto":
        return _scanned(f'implementation="{implementation}" says how to go step by step')
    form: LinearForm | str = "the cell has noise in every step"
    if not has_noise(noise):
        form = linear_form_for(cell, x, carry)
    if isinstance(form, str):
        if method == "associative":
            raise ValueError(
                'method="associative" needs a recurrence that is linear in its carry for given '
                f'inputs; {form}. Pass method="auto", which goes step by step instead, or give the '
                "cell a linear_form (see rnn_jax.LinearForm)."
            )
        return _scanned(form)
    if method == "associative":
        return Resolved(form, {"default": UnrollMethod("associative", "it was asked for")})
    shape = jax.eval_shape(form.pack, carry).shape
    found = {
        "cpu": _choose(form, shape, steps, rows, measured=True),
        "default": _choose(form, shape, steps, rows, measured=False),
    }
    is_scan = all(choice.method == "scan" for choice in found.values())
    return Resolved(None if is_scan else form, found)


def _scanned(reason: str) -> Resolved:
    return Resolved(None, dict.fromkeys(("cpu", "default"), UnrollMethod("scan", reason)))


def without_leading(tree: Any, axes: int) -> Any:
    """Shapes and types of the leaves, without so many leading axes."""

    def inner(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(jnp.shape(leaf)[axes:], type_of(leaf))

    return jax.tree.map(inner, tree)


def _choose(
    form: LinearForm, shape: tuple[int, ...], steps: int, rows: int, *, measured: bool
) -> UnrollMethod:
    if not form.contracts:
        return UnrollMethod(
            "scan",
            "products of Λ may grow, so that those of many steps may overflow where the carries do "
            'not; where they do not, pass method="associative"',
        )
    if measured:
        return _as_measured(form.kind, steps, rows, math.prod(shape))
    size = shape[-1] if form.kind in ("block", "dense") else 1
    if steps < _LEAST_STEPS:
        return UnrollMethod(
            "scan", f"{steps} steps are few (a rule for GPUs and TPUs that is not measured)"
        )
    if size > _LARGEST_MATRIX:
        return UnrollMethod(
            "scan",
            f"products of matrices ({size}, {size}) with one another cost more than waiting for "
            "steps (a rule for GPUs and TPUs that is not measured)",
        )
    return UnrollMethod(
        "associative",
        f"{steps} steps run in chunks of up to {LONGEST}, of {2 * int(math.log2(LONGEST))} rounds "
        "each (a rule for GPUs and TPUs that is not measured)",
    )


def _as_measured(kind: Kind, steps: int, rows: int, elements: int) -> UnrollMethod:
    """What was faster at the nearest sizes that were measured on a CPU."""
    known = [row for row in _measurements() if row.kind == kind]
    if steps < min(row.steps for row in known) / 2:
        return UnrollMethod("scan", f"{steps} steps are fewer than were measured on a CPU")

    def distance(row: "_Measurement") -> float:
        size = abs(math.log(max(1, rows * elements) / (row.rows * row.elements)))
        return abs(math.log(steps / row.steps)) + size

    row = min(known, key=distance)
    method = "associative" if row.associative < _CLEARLY * row.scan else "scan"
    return UnrollMethod(
        method,
        f'the nearest that was measured on a CPU, "{kind}" with T = {row.steps}, B = {row.rows} '
        f"and {row.elements} numbers in a carry, took {row.scan:g} ms by a scan and "
        f"{row.associative:g} ms by an associative scan",
    )


class _Measurement(NamedTuple):
    """Milliseconds of a gradient, see `linear_recurrences.csv`."""

    kind: str
    steps: int
    rows: int
    elements: int
    scan: float
    associative: float


@functools.cache
def _measurements() -> tuple[_Measurement, ...]:
    text = files("rnn_jax.sequence").joinpath("linear_recurrences.csv").read_text(encoding="utf-8")
    lines = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    return tuple(
        _Measurement(
            row["kind"],
            int(row["T"]),
            int(row["B"]),
            int(row["numbers"]),
            float(row["scan_ms"]),
            float(row["associative_ms"]),
        )
        for row in lines
    )
