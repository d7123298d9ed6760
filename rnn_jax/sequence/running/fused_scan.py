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
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.interpreters import ad

from rnn_jax.sequence.running.boundaries import Boundaries
from rnn_jax.sequence.running.levels import mapped_over
from rnn_jax.sequence.running.linear_system import saved_by_steps
from rnn_jax.sequence.running.platforms import as_traced, chosen_by_platform
from rnn_jax.sequence.running.recurrence import (
    RECURRENCE,
    Call,
    jvp_along,
    run_recurrence,
    run_tangent,
)
from rnn_jax.sequence.running.scanned import (
    Carry,
    Inputs,
    Kernels,
    Recorded,
    Run,
    Settings,
    Tangents,
    run_by_scan,
)


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
      kernels: as in `FusedForm`, of one type with the carries.
      xs: inputs, (T, ..., I), of the type of products.
      boundaries: of the sequences, (T, ...).
      carry: where to start, each part (..., H).
      initial: where sequences start that begin within a row, likewise.

    Returns:
      A `Run`, as `lax.scan` over the cell gives, without starts and what steps save.
    """
    return run_recurrence(settings, Inputs(kernels, xs, boundaries, carry, initial), save=False)


def _jvp(primals: Sequence[Any], tangents: Sequence[Any], *, call: Call) -> Any:
    """The rule of `jax.jvp`, from which every mode of differentiation follows."""
    moving = [k for k, tangent in enumerate(tangents) if not isinstance(tangent, ad.Zero)]

    def rule(*leaves: jax.Array) -> tuple[list[jax.Array], list[jax.Array]]:
        found = dict(zip(moving, leaves[len(primals) :], strict=True))
        inputs = jax.tree.unflatten(call.operands, leaves[: len(primals)])
        moves = jax.tree.unflatten(call.operands, [found.get(k) for k in range(len(primals))])
        run, moved = _run_and_tangent(call.settings, inputs, moves, record=call.record)
        return jax.tree.leaves(run), jax.tree.leaves(moved)

    levels = tuple((*level, *(level[k] for k in moving)) for level in call.levels)
    with as_traced(call.settings, primals):
        return mapped_over(levels, rule)(*primals, *(tangents[k] for k in moving))


ad.primitive_jvps[RECURRENCE] = _jvp


def _run_and_tangent(
    settings: Settings, inputs: Inputs, moves: Inputs, *, record: bool
) -> tuple[Run, Run]:
    """A run, recorded if so wished, and its tangent; `moves` has None where nothing moves."""
    run = run_recurrence(settings, inputs, save=True)
    if not record:
        moved = _tangent(settings, inputs, run, moves, starts=False)
        return run._replace(starts=None, saved=None), moved
    moved = chosen_by_platform(
        settings,
        (inputs, run, moves),
        cuda=functools.partial(_recorded_by_system, settings),
        cpu=functools.partial(_recorded_by_scan, settings, inside=True),
        default=functools.partial(_recorded_by_scan, settings, inside=False),
    )
    return run, moved


def _recorded_by_system(settings: Settings, inputs: Inputs, run: Run, moves: Inputs) -> Run:
    """The tangent of a recorded run by one recurrence, and of what steps save by none."""
    moved = _tangent(settings, inputs, run, moves, starts=True)

    def saved(kernels: Kernels, xs: jax.Array, starts: Carry) -> Any:
        return saved_by_steps(settings, inputs._replace(kernels=kernels, xs=xs), starts)

    point = (inputs.kernels, inputs.xs, run.starts)
    along = (_written_out(moves.kernels, inputs.kernels), _written_out(moves.xs, inputs.xs))
    return moved._replace(saved=jax.jvp(saved, point, (*along, moved.starts))[1])


def _recorded_by_scan(
    settings: Settings, inputs: Inputs, run: Run, moves: Inputs, *, inside: bool
) -> Run:
    """The tangent of a recorded run as JAX finds it for a scan."""
    structure: Any
    leaves, structure = jax.tree.flatten(inputs)

    def scanned(*leaves: jax.Array) -> Run:
        return run_by_scan(
            settings, jax.tree.unflatten(structure, leaves), save=True, inside=inside
        )

    moved: Run = jvp_along(scanned, leaves, structure.flatten_up_to(moves))[1]
    return moved


def _tangent(settings: Settings, inputs: Inputs, run: Run, moves: Inputs, *, starts: bool) -> Run:
    assert run.saved is not None
    record = Recorded(inputs.kernels, inputs.xs, inputs.boundaries, run.starts, run.saved)
    tangents = Tangents(
        moves.kernels,
        moves.xs,
        _written_out(moves.carry, inputs.carry),
        _written_out(moves.initial, inputs.initial),
    )
    return run_tangent(settings, record, tangents, starts=starts)


def _written_out(tangents: Any, primals: Any) -> Any:
    """Tangents with zeros for None."""
    return jax.tree.map(lambda p, t: jnp.zeros_like(p) if t is None else t, primals, tangents)
