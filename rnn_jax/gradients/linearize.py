"""One sequence, run once and linearized once: the record that every measure reads.

A measure is given either a cell with its inputs (a `Problem`) or what was recorded of one before (a
`Linearization`). Inside its compiled program it makes a `Record` of it, which computes trajectory
and Jacobians when they are first asked for, and never twice.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from rnn_jax.arrays import varying_like
from rnn_jax.cells.asking import as_pytree
from rnn_jax.gradients.differentiation import Jacobians
from rnn_jax.gradients.input_vectors import input_size
from rnn_jax.gradients.memory import check_fits
from rnn_jax.gradients.one_step import StepJacobians, one_step_jacobians
from rnn_jax.gradients.precision import compiled
from rnn_jax.gradients.trajectory import FlatCell, flatten_cell, run
from rnn_jax.sequence.calling import Carry, check_carry_leaves
from rnn_jax.sequence.inputs import input_of_step, read_inputs, resolve_feature_axes


class Problem(NamedTuple):
    """A cell, its inputs and where it starts: checked, and not run yet."""

    cell: Any
    inputs: Any
    carry: Carry | None


class Trajectory(NamedTuple):
    """A problem whose states (T+1, S) and outputs (T, O) are known."""

    problem: Problem
    states: jax.Array
    outputs: jax.Array


@struct.dataclass
class Linearization:
    """A trajectory and its one-step Jacobians; carries and outputs are flattened.

    Every measure takes it in place of `cell, xs, carry`, and then runs and differentiates nothing
    again: `jacobian_log_norms(lin)`, `backprop_signal(loss, lin)`, `gradient_flow(lin)`.

    Attributes:
      carries: carry_0 … carry_T, (T+1, S).
      outputs: y_1 … y_T, (T, O).
      state_jacobians: A_t = ∂carry_t/∂carry_{t−1}, (T, S, S).
      input_jacobians: B_t = ∂carry_t/∂x_t, (T, S, I), by the floats of x_t, flattened.
      output_state_jacobians: C_t = ∂y_t/∂carry_{t−1}, (T, O, S).
      output_input_jacobians: D_t = ∂y_t/∂x_t, (T, O, I).
      cell: the cell, a pytree.
      inputs: x_1 … x_T, in the form in which they were given, (T, ...).
      carry: where it started, as it was given; None asked the cell.
      output_rows: (start, stop) where y_t stands in carry_t; None if it is no part of it.
      diagonal_columns: (start, stop) of the columns of A_t that are known to be diagonal blocks,
        one on top of the other; None if none are.
      diagonal_width: the columns of one such block, of which several may lie side by side; None
        if it has all of them.

    Example:
      >>> lin = rj.linearize(cell, xs)
      >>> J = rj.input_jacobian(lin)
      >>> chain = lin.state_jacobians[6] @ lin.state_jacobians[5] @ lin.input_jacobians[4]
      >>> bool(jnp.allclose(J[6, :, 4], chain, atol=1e-6))
      True
    """

    carries: jax.Array
    outputs: jax.Array
    state_jacobians: jax.Array
    input_jacobians: jax.Array
    output_state_jacobians: jax.Array
    output_input_jacobians: jax.Array
    cell: Any = None
    inputs: Any = None
    carry: Carry | None = None
    output_rows: tuple[int, int] | None = struct.field(pytree_node=False, default=None)
    diagonal_columns: tuple[int, int] | None = struct.field(pytree_node=False, default=None)
    diagonal_width: int | None = struct.field(pytree_node=False, default=None)

    @property
    def steps(self) -> int:
        """T, the length of the sequence."""
        return self.outputs.shape[-2]


# What a measure is given, and what its programs may be given: the same, or partly run.
Given = Problem | Linearization
Source = Given | Trajectory


class Sizes(NamedTuple):
    """What a measure's memory depends on: T, S, O, I and the type of the carry."""

    steps: int
    state: int
    output: int
    inputs: int
    dtype: Any


class Record:
    """What is known of one sequence while a measure of it is traced; each thing computed once.

    What is asked for first must be asked for outside of loops and branches, whose values do not
    outlive them.
    """

    def __init__(self, source: Source):
        self._given: Linearization | None = None
        if isinstance(source, Trajectory):
            self.trajectory = source.states, source.outputs
            source = source.problem
        elif isinstance(source, Linearization):
            self.trajectory = source.carries, source.outputs
            self._given = source
        # What differs from device to device makes all the rest do so: inside `jax.shard_map` a
        # gradient by what all devices share would be the sum over their sequences.
        own = (source.cell, source.inputs, source.carry)
        self.cell, self.inputs, self.carry = varying_like(own, own)

    @functools.cached_property
    def flat(self) -> FlatCell:
        """The cell as a map between vectors."""
        return flatten_cell(self.cell, self.inputs, self.carry)

    @functools.cached_property
    def trajectory(self) -> tuple[jax.Array, jax.Array]:
        """States (T+1, S) from the initial one on, and outputs (T, O)."""
        return run(self.flat, self.inputs)

    @property
    def states(self) -> jax.Array:
        """carry_0 … carry_T, (T+1, S)."""
        return self.trajectory[0]

    @functools.cached_property
    def jacobians(self) -> Jacobians:
        """Of every step."""
        if self._given is None:
            return one_step_jacobians(self.flat, self.states, self.inputs)
        lin = self._given
        return Jacobians(
            lin.state_jacobians,
            lin.input_jacobians,
            lin.output_state_jacobians,
            lin.output_input_jacobians,
        )

    @property
    def steps(self) -> StepJacobians:
        """The Jacobians, without the cell."""
        return StepJacobians(
            self.jacobians, self.output_rows, self.diagonal_columns, self.diagonal_width
        )

    def varying(self, tree: Any, *others: Any) -> Any:
        """The start of a loop over the sequence, as `varying_like` all that the loop may use."""
        return varying_like(tree, self.cell, self.inputs, self.carry, self.trajectory, others)

    @property
    def is_linearized(self) -> bool:
        """Whether the Jacobians are at hand, so that using them costs no derivative of the step."""
        return self._given is not None or "jacobians" in vars(self)

    @property
    def sizes(self) -> Sizes:
        """T, S, O, I and the type of the carry."""
        if self._given is not None:
            return _sizes_of_linearization(self._given)
        flat, steps = self.flat, _length(self.inputs)
        return Sizes(steps, flat.state_size, flat.output_size, flat.input_size, flat.initial.dtype)

    @property
    def output_rows(self) -> tuple[int, int] | None:
        """Where y_t stands in carry_t, (start, stop)."""
        return self.flat.output_rows if self._given is None else self._given.output_rows

    @property
    def diagonal_columns(self) -> tuple[int, int] | None:
        """Columns of A_t that are diagonal blocks, (start, stop)."""
        return self.flat.diagonal_columns if self._given is None else self._given.diagonal_columns

    @property
    def diagonal_width(self) -> int | None:
        """Columns of one of these blocks."""
        return self.flat.diagonal_width if self._given is None else self._given.diagonal_width

    def source(self) -> Source:
        """What is known so far, from which another record of the sequence can be made."""
        if self.is_linearized:
            return self.linearization()
        problem = Problem(self.cell, self.inputs, self.carry)
        return Trajectory(problem, *self.trajectory) if "trajectory" in vars(self) else problem

    def linearization(self) -> Linearization:
        """All of it."""
        return Linearization(
            *self.trajectory,
            *self.jacobians,
            cell=self.cell,
            inputs=self.inputs,
            carry=self.carry,
            output_rows=self.output_rows,
            diagonal_columns=self.diagonal_columns,
            diagonal_width=self.diagonal_width,
        )


def linearize(
    cell: Any,
    xs: Any = None,
    carry: Carry | None = None,
    *,
    feature_axes: int | None = None,
) -> Linearization:
    """One-step Jacobians of the full carry and of the output along a sequence.

    carry_t ≈ A_t carry_{t−1} + B_t x_t,    y_t ≈ C_t carry_{t−1} + D_t x_t

    in the directions around the trajectory. Everything else in the instrument is products of
    these, and every measure takes the result in place of `cell, xs, carry`. All products are in
    full precision, on every device.

    Args:
      cell: any callable pytree cell(carry, x) -> (carry, y).
      xs: one sequence, (T, I), or a pytree of inputs.
      carry: initial carry; None asks the cell.
      feature_axes: trailing axes of xs that are features; as for `unroll`.

    Returns:
      A `Linearization`.

    Raises:
      ValueError: wrong shapes, an empty sequence, or a result too large for memory.
      TypeError: inputs or carries of the wrong type, or a cell that needs `carry`.

    Example:
      >>> lin = rj.linearize(cell, xs)
      >>> lin.state_jacobians.shape
      (20, 8, 8)
      >>> norms = rj.jacobian_log_norms(lin)  # Runs and differentiates nothing again
      >>> exponents = rj.lyapunov_exponents(lin).exponents
      >>> norms.shape, exponents.shape
      ((20, 20), (8,))
    """
    source = accept(cell, xs, carry, feature_axes)
    if isinstance(source, Linearization):
        return source
    check_jacobians("linearize", sizes_of(source), of=source)
    return _linearize(source)


@compiled
def _linearize(source: Source) -> Linearization:
    return Record(source).linearization()


def accept(
    cell: Any,
    xs: Any,
    carry: Carry | None,
    feature_axes: int | None = None,
    *,
    batched: bool = False,
) -> Given:
    """What a measure was given, checked.

    Args:
      cell: a cell, or a `Linearization` in place of all three.
      xs: inputs, (T, I), or (B, T, I) if `batched`, or a pytree of them.
      carry: initial carry, or None.
      feature_axes: as for `unroll`.
      batched: whether one batch axis is allowed.

    Raises:
      TypeError: a `Linearization` beside inputs of its own, a cell without inputs; and as
        `as_pytree`, `read_inputs` and `check_carry_leaves`.
      ValueError: wrong ranks.
    """
    if isinstance(cell, Linearization):
        if any(given is not None for given in (xs, carry, feature_axes)):
            raise TypeError(
                "a Linearization stands for the cell, its inputs and its carry; got xs=, carry= or "
                "feature_axes= beside it. Pass it alone, or linearize(cell, xs, carry) anew."
            )
        if cell.cell is None or cell.inputs is None:
            raise TypeError(
                "a Linearization must hold the cell and the inputs that it is of; got one without. "
                "Make it by rnn_jax.linearize(cell, xs)."
            )
        if cell.outputs.ndim > (3 if batched else 2):
            raise ValueError(
                "one Linearization at a time: got one with batch axes, outputs of shape "
                f"{cell.outputs.shape}. Map over them: jax.vmap(call)(linearization)."
            )
        return cell
    if xs is None:
        raise TypeError(
            "xs is missing: a cell is measured along a sequence of inputs (T, I). Pass xs, or a "
            "Linearization in place of the cell."
        )
    cell, axes = as_pytree(cell), resolve_feature_axes(cell, feature_axes)
    inputs, leading = read_inputs(xs, axes, batched=batched)
    problem = Problem(cell, inputs, check_carry_leaves(carry))
    if jax.config.jax_debug_nans and len(leading) == 1:  # type: ignore[attr-defined]
        # Some measures mark by NaN what cannot be known; a cell that makes one is found here.
        _outputs(problem)
    return problem


@compiled
def _outputs(problem: Problem) -> tuple[jax.Array, jax.Array]:
    return Record(problem).trajectory


def check_jacobians(call: str, sizes: Sizes, *, of: Any, batch: int = 1) -> None:
    """Raises ValueError unless the Jacobians of all steps fit; arguments as for `check_fits`."""
    steps, size, outputs, inputs, dtype = sizes
    check_fits(
        call,
        [(steps, size, size), (steps, size, inputs), (steps, outputs, size + inputs)],
        dtype,
        "Use a shorter sequence, or backprop_signal, which forms no Jacobian.",
        of=of,
        batch=batch,
    )


def up_to(source: Given, stop: int) -> Given:
    """The first `stop` steps of what is to be run; what is recorded already stays whole."""
    if isinstance(source, Linearization):
        return source
    return source._replace(inputs=jax.tree.map(lambda a: a[:stop], source.inputs))


def sizes_of(source: Given, *, batched: bool = False) -> Sizes:
    """T, S, O, I and the type of the carry, before anything is computed.

    Args:
      source: as `accept` gives it.
      batched: whether inputs and carry lead with a batch axis.

    Raises:
      ValueError, TypeError: as `flatten_cell`.
    """
    if isinstance(source, Linearization):
        return _sizes_of_linearization(source)
    cell, xs, carry = source
    if batched:
        xs = input_of_step(xs)
        carry = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(jnp.shape(a)[1:], jnp.result_type(a)), carry
        )
    state, output = _vectors.eval_shape(Problem(cell, xs, carry))
    inputs = input_size(input_of_step(xs))
    return Sizes(_length(xs), state.size, output.size, inputs, state.dtype)


def _length(xs: Any) -> int:
    """T, the steps of one sequence."""
    return jax.tree.leaves(xs)[0].shape[0]


@compiled
def _vectors(problem: Problem) -> tuple[jax.Array, jax.Array]:
    """An initial state and an output, of which only the shapes matter."""
    flat = Record(problem).flat
    return flat.initial, jnp.zeros(flat.output_size)


def _sizes_of_linearization(lin: Linearization) -> Sizes:
    *_, steps, size, inputs = lin.input_jacobians.shape
    return Sizes(steps, size, lin.outputs.shape[-1], inputs, lin.carries.dtype)


def check_decomposable(sizes: Sizes, what: str) -> None:
    """Raises TypeError unless matrices of the carry's type can be decomposed."""
    reason = why_undecomposable(sizes)
    if reason is not None:
        raise TypeError(
            f"{what} needs {reason}. Build the cell with carry_dtype=jnp.float32, or pass a carry "
            "of that type."
        )


def why_undecomposable(sizes: Sizes) -> str | None:
    """What is missing for matrices of the carry's type to be decomposed; None if nothing is."""
    if jnp.finfo(sizes.dtype).bits >= 32:
        return None
    return f"a carry of float32 or float64, which LAPACK can decompose; got {sizes.dtype}"
