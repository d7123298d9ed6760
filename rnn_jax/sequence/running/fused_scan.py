"""The recurrence of a cell in fused form, differentiated in one sweep.

The derivative of u_t = [h_{t−1}, x_t, 1] K by K needs no recurrence: it is one product over many
steps, [h_{t−1}, x_t, 1] K̇, and what remains inside the loop is ḣ_{t−1} K_h. Written as a tangent
(`custom_jvp`), that holds for forward mode as it stands, and for reverse mode by transposition: the
weights' gradient is then one product over many steps too, where a plain scan adds up T small ones.

What is saved by the forward pass is the starts of the steps and the gates alone. Gates have a
tangent of their own, of all steps at once, so that derivatives of any order are made of the same
recurrences: `recurrence.py` has them, for every platform.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from rnn_jax.sequence.running.boundaries import Boundaries
from rnn_jax.sequence.running.linear_system import saved_by_steps
from rnn_jax.sequence.running.recurrence import run_recurrence, run_tangent
from rnn_jax.sequence.running.scanned import (
    Carry,
    Inputs,
    Kernels,
    Recorded,
    Run,
    Settings,
    Tangents,
)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def fused_scan(
    settings: Settings,
    kernels: Kernels,
    xs: jax.Array,
    boundaries: Boundaries,
    carry: Carry,
    initial: Carry,
) -> Run:
    """Runs a cell in fused form over sequences that lie side by side, time first.

    Args:
      settings: the cell's mathematics and the direction.
      kernels: as in `FusedForm`, of one type with the inputs and carries.
      xs: inputs, (T, ..., I).
      boundaries: of the sequences, (T, ...).
      carry: where to start, each part (..., H).
      initial: where sequences start that begin within a row, likewise.

    Returns:
      A `Run`, as `lax.scan` over the cell gives, without starts and what steps save.
    """
    return run_recurrence(settings, Inputs(kernels, xs, boundaries, carry, initial), save=False)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _recorded_run(settings: Settings, inputs: Inputs) -> Run:
    """The same with starts and what steps save."""
    return run_recurrence(settings, inputs, save=True)


def _jvp(settings: Settings, primals: Any, tangents: Any) -> tuple[Run, Run]:
    inputs = Inputs(*primals)
    run = _recorded_run(settings, inputs)
    moved = _tangent(settings, inputs, run, Inputs(*tangents), starts=False)
    return run._replace(starts=None, saved=None), moved


def _recorded_jvp(settings: Settings, primals: Any, tangents: Any) -> tuple[Run, Run]:
    (inputs,), (moves,) = primals, tangents
    run = _recorded_run(settings, inputs)
    moved = _tangent(settings, inputs, run, moves, starts=True)

    def saved(kernels: Kernels, xs: jax.Array, starts: Carry) -> Any:
        of = inputs._replace(kernels=kernels, xs=xs)
        return saved_by_steps(settings, of, starts)

    point = (inputs.kernels, inputs.xs, run.starts)
    along = (_written_out(moves.kernels, inputs.kernels), _written_out(moves.xs, inputs.xs))
    _, d_saved = jax.jvp(saved, point, (*along, moved.starts))
    return run, moved._replace(saved=d_saved)


fused_scan.defjvp(_jvp, symbolic_zeros=True)
_recorded_run.defjvp(_recorded_jvp, symbolic_zeros=True)


def _tangent(settings: Settings, inputs: Inputs, run: Run, moves: Inputs, *, starts: bool) -> Run:
    record = Recorded(inputs.kernels, inputs.xs, inputs.boundaries, run.starts, run.saved)
    tangents = Tangents(
        tuple(_none_if_zero(kernel) for kernel in moves.kernels),
        _none_if_zero(moves.xs),
        _written_out(moves.carry, inputs.carry),
        _written_out(moves.initial, inputs.initial),
    )
    return run_tangent(settings, record, tangents, starts=starts)


def _none_if_zero(tangent: Any) -> Any:
    return None if isinstance(tangent, SymbolicZero) else tangent


def _written_out(tangents: Any, primals: Any) -> Any:
    """Tangents with symbolic zeros written out."""
    return jax.tree.map(
        lambda p, t: jnp.zeros_like(p) if isinstance(t, SymbolicZero) else t, primals, tangents
    )
