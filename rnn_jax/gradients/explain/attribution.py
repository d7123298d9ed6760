"""Why a step shrinks or grows the signal: slopes, gates, blocks of the carry, the memory path."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from rnn_jax.cells.asking import kernel_of_state
from rnn_jax.cells.claims import claim, makes_claim
from rnn_jax.checks import check_number
from rnn_jax.gradients.explain.memory_path import MemoryPath, split_path
from rnn_jax.gradients.linearize import Record, Source, accept, check_jacobians, sizes_of
from rnn_jax.gradients.numerics.scaled import log_exactly, log_frobenius
from rnn_jax.gradients.precision import compiled
from rnn_jax.sequence.calling import Carry


@struct.dataclass
class Attribution:
    """What each one-step Jacobian A_t = ∂carry_t/∂carry_{t−1} is made of.

    Attributes:
      step_log_norms: ln‖A_t‖_F, (T,).
      block_log_norms: ln‖∂to_t/∂from_{t−1}‖_F, (T,), by "to_from": "c_c", "c_h", "h_c", "h_h" of an
        LSTM; the squares of the norms add up to that of A_t.
      gates: activations by gate name, each (T, H); empty for cells without gates.
      paths: the `MemoryPath` of each part that the cell hands on by itself, by name; empty for
        cells that name none.
      slopes: φ' at every unit and step, (T, H), for simple cells; None for others.
      slope_log: how much of ln‖A_t‖_F is due to the slopes, ½ ln(Σ_i φ'_i² ‖w_i‖² / ‖W_h‖_F²), with
        w_i the weights into unit i, (T,); None where there is no such split.
      recurrent_log: how much is due to the recurrent matrix, ln‖W_h‖_F, (); the two add up to
        `step_log_norms` exactly.
      slope_bound: sup|φ'|; None if nothing is known about the activation.

    Example:
      >>> tanh = rj.SimpleRNNCell(2, 8, rngs=nnx.Rngs(0))
      >>> why = rj.attribution(tanh, xs)
      >>> bool(jnp.allclose(why.slope_log + why.recurrent_log, why.step_log_norms, atol=1e-5))
      True
      >>> why.saturated_share(0.1).shape
      (20,)
    """

    step_log_norms: jax.Array
    block_log_norms: dict[str, jax.Array]
    gates: dict[str, jax.Array]
    paths: dict[str, MemoryPath]
    slopes: jax.Array | None = None
    slope_log: jax.Array | None = None
    recurrent_log: jax.Array | None = None
    slope_bound: float | None = struct.field(pytree_node=False, default=None)

    def saturated_share(self, threshold: float = 0.1) -> jax.Array:
        """The share of units whose slope is below `threshold` of the steepest, (T,), dead ones too.

        Args:
          threshold: in (0, 1], relative to sup|φ'|.

        Raises:
          ValueError: the cell has no slopes, or nothing is known about its activation.
        """
        threshold = check_number("threshold", threshold)
        if not 0 < threshold <= 1:
            raise ValueError(
                f"threshold must lie in (0, 1]; got {threshold}. Pass for example 0.1."
            )
        slopes = self._slopes()
        if self.slope_bound is None:
            raise ValueError(
                "saturation is relative to sup|φ'|, which is not known for this activation. State "
                "it: rnn_jax.Activation('my_activation', function, slope_range=(low, high))."
            )
        low = jnp.abs(slopes) < threshold * self.slope_bound
        return jnp.mean(low.astype(slopes.dtype), axis=-1)

    def dead_share(self) -> jax.Array:
        """The share of units whose slope is exactly 0, (T,): they pass nothing on.

        Raises:
          ValueError: the cell has no slopes.
        """
        slopes = self._slopes()
        return jnp.mean((slopes == 0).astype(slopes.dtype), axis=-1)

    def gate_statistics(self) -> dict[str, dict[str, jax.Array]]:
        """By gate: mean, and the shares that are shut (below 0.1) and open (above 0.9)."""

        def share(condition: jax.Array, like: jax.Array) -> jax.Array:
            return jnp.mean(condition.astype(like.dtype))

        return {
            name: {
                "mean": jnp.mean(gate),
                "shut": share(gate < 0.1, gate),
                "open": share(gate > 0.9, gate),
            }
            for name, gate in self.gates.items()
        }

    def _slopes(self) -> jax.Array:
        if self.slopes is None:
            raise ValueError(
                "only cells with one activation have slopes, such as SimpleRNNCell; this one has "
                "none. Look at gates, paths and block_log_norms instead."
            )
        return self.slopes


def attribution(
    cell: Any,
    xs: Any = None,
    carry: Carry | None = None,
    *,
    feature_axes: int | None = None,
) -> Attribution:
    """Takes every one-step Jacobian apart, to say why the signal shrinks or grows there.

    Every cell gets the norm of each step and of each block between the parts of its carry. A cell
    that has them also gets its gates (`cell.gates(carry, x)`), its memory path
    (`cell.memory_path(carry, x)`, {part: factor}) and its slopes (`cell.slopes(carry, x)`, which
    with `cell.recurrent_kernel`, or `cell.transition_kernel()` where there is that, are
    A_t = diag(φ') W_hᵀ).

    Args:
      cell: any callable pytree cell(carry, x) -> (carry, y).
      xs: one sequence, (T, I), or a pytree of inputs; `jax.vmap` gives a batch.
      carry: initial carry; None asks the cell.
      feature_axes: trailing axes of xs that are features; as for `unroll`.

    Returns:
      An `Attribution`.

    Raises:
      ValueError: wrong shapes, an empty sequence, or a result too large for memory.
      TypeError: inputs or carries of the wrong type, or a cell that needs `carry`.

    Example:
      >>> lstm = rj.LSTMCell(2, 8, rngs=nnx.Rngs(0))
      >>> why = rj.attribution(lstm, xs)
      >>> sorted(why.block_log_norms)
      ['c_c', 'c_h', 'h_c', 'h_h']
      >>> sorted(why.paths)
      ['c']

    References:
      S. Hochreiter and J. Schmidhuber, "Long short-term memory", 1997 (the constant error
      carousel, here with its forget gate).
    """
    source = accept(cell, xs, carry, feature_axes)
    check_jacobians("attribution", sizes_of(source), of=source)
    return _attribution(source)


@compiled
def _attribution(source: Source) -> Attribution:
    return attribution_of(Record(source))


def attribution_of(record: Record) -> Attribution:
    """`attribution`, read off a record."""
    cell, parts, a = record.cell, record.flat.parts, record.jacobians.state_by_state
    paths = {
        name: split_path(record, factors, _rows_of(name, parts))
        for name, factors in along_trajectory(record, "memory_path").items()
    }
    simple = makes_claim(cell, "slopes") and kernel_of_state(cell) is not None
    slopes = along_trajectory(record, "slopes") if simple else None
    slope_log, recurrent_log = _split_slopes(cell, slopes)
    return Attribution(
        step_log_norms=log_frobenius(a, (1, 2)),
        block_log_norms=_block_log_norms(a, parts),
        gates=along_trajectory(record, "gates"),
        paths=paths,
        slopes=slopes,
        slope_log=slope_log,
        recurrent_log=recurrent_log,
        slope_bound=None if slopes is None else _slope_bound(cell),
    )


def along_trajectory(record: Record, method: str) -> Any:
    """What the claim cell.method(carry, x) gives at every step, with a leading T; {} without it."""
    found = claim(record.cell, method)
    if found is None:
        return {}
    before = jax.vmap(record.flat.unravel)(record.states[:-1])
    return jax.vmap(found)(before, record.inputs)


def _rows_of(name: str, parts: dict[str, tuple[int, int]]) -> tuple[int, int]:
    """Where a part that `memory_path` names stands in the state; the only part needs no name."""
    if name in parts:
        return parts[name]
    if len(parts) == 1:
        return next(iter(parts.values()))
    raise ValueError(
        f"memory_path must name parts of the carry, {', '.join(map(repr, parts))}; got {name!r}. "
        "Name the parts in the cell's carry_parts, in the order of the carry's leaves."
    )


def _block_log_norms(a: jax.Array, parts: dict[str, tuple[int, int]]) -> dict[str, jax.Array]:
    return {
        f"{to}_{origin}": log_frobenius(a[:, slice(*rows), slice(*columns)], (1, 2))
        for to, rows in parts.items()
        for origin, columns in parts.items()
    }


def _split_slopes(cell: Any, slopes: jax.Array | None) -> tuple[jax.Array | None, jax.Array | None]:
    if slopes is None:
        return None, None
    kernel = jnp.asarray(kernel_of_state(cell)[...], slopes.dtype)
    whole = log_frobenius(kernel, (0, 1))
    into = log_exactly(jnp.linalg.norm(kernel, axis=0))
    weighted = slopes * jnp.broadcast_to(jnp.exp(into - whole)[None], slopes.shape)
    return log_frobenius(weighted, 1), whole


def _slope_bound(cell: Any) -> float | None:
    """sup|φ'|, if the cell states a bound with it."""
    bound = claim(cell, "jacobian_bound")
    try:
        return None if bound is None else bound()[0]
    except ValueError:  # A plain callable whose slopes no one has stated.
        return None
