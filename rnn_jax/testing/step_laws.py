"""Laws of one step: what goes in and comes out, compiled or not, alone or many at once."""

import copy
import pickle
import types
from typing import Any

import jax
import numpy as np
from flax import nnx

from rnn_jax.cells.cell import RNNCell
from rnn_jax.cells.claims import CLAIMS, makes_claim
from rnn_jax.sequence.calling import describe, resolve_step
from rnn_jax.sequence.inputs import input_of_step
from rnn_jax.testing.law import Broken, Law, NotApplicable
from rnn_jax.testing.subject import Subject, difference, step


def _contract(subject: Subject) -> float | None:
    """(carry, y) comes back, with the carry's structure, shapes and types."""
    found = resolve_step(subject.given, input_of_step(subject.xs), subject.start)
    if not jax.tree.leaves(found.output):
        raise Broken(f"an output without arrays, {describe(found.output)}")
    return None


def _is_pure(subject: Subject) -> float | None:
    """One call twice, with another one in between, run operation by operation."""
    cell, first, other = subject.cell, subject.at(0), subject.at(1)
    before = jax.tree.leaves(cell)
    one = cell(*first)
    cell(*other)
    again = cell(*first)
    size, where, pair = difference(again, one)
    if size:
        raise Broken(f"(carry, y){where} of the second call: {pair[0]:.6g} against {pair[1]:.6g}")
    if any(a is not b for a, b in zip(before, jax.tree.leaves(cell), strict=True)):
        raise Broken("arrays of the cell that are others than before the call")
    return None


def _is_compiled_alike(subject: Subject) -> float:
    carry, x = subject.at(0)
    return subject.check_close(
        "(carry, y) of the compiled step", step(subject.cell, carry, x), subject.cell(carry, x)
    )


def _takes_batches(subject: Subject) -> float:
    if not isinstance(subject.owner, nnx.RNNCellBase):
        raise NotApplicable("only cells of Flax's RNNCellBase take batch axes in their call")
    return subject.check_close(
        "(carry, y) of a batch", step(subject.cell, *subject.points), _one_by_one(subject)
    )


@jax.jit
def _mapped_step(cell: Any, carries: Any, xs: Any) -> Any:
    return jax.vmap(cell)(carries, xs)


def _is_mapped(subject: Subject) -> float:
    found = _mapped_step(subject.cell, *subject.points)
    return subject.check_close("(carry, y) of jax.vmap", found, _one_by_one(subject))


def _one_by_one(subject: Subject) -> Any:
    carries, ys = subject.path
    return jax.tree.map(lambda leaf: leaf[1:], carries), ys


def _is_copied(subject: Subject) -> None:
    _check_twin(subject, "copy.deepcopy", copy.deepcopy(subject.given))
    if isinstance(subject.given, nnx.Module):
        _check_twin(subject, "flax.nnx.clone", nnx.clone(subject.given))


def _is_pickled(subject: Subject) -> None:
    function = subject.given.func if hasattr(subject.given, "func") else subject.given
    if isinstance(function, types.FunctionType):
        raise NotApplicable("a function is pickled by its name alone")
    _check_twin(subject, "pickle", pickle.loads(pickle.dumps(subject.given)))


def _check_twin(subject: Subject, how: str, twin: Any) -> None:
    cell = subject.given
    structures: list[Any] = [jax.tree.structure(tree) for tree in (twin, cell)]
    # What others' cells hold (a function of JAX that is copied) may compare by identity.
    if structures[0] != structures[1] and isinstance(subject.owner, RNNCell):
        raise Broken(f"a copy by {how} of structure {structures[0]} against {structures[1]}")
    leaves = jax.tree.leaves(twin), jax.tree.leaves(cell)
    if len(leaves[0]) != len(leaves[1]):
        raise Broken(f"a copy by {how} of {len(leaves[0])} arrays against {len(leaves[1])}")
    pairs = zip(*leaves, strict=True)
    if not all(np.array_equal(a, b, equal_nan=True) for a, b in pairs if hasattr(b, "shape")):
        raise Broken(f"a copy by {how} with other arrays")
    lost = [name for name in sorted(CLAIMS) if makes_claim(twin, name) != makes_claim(cell, name)]
    if lost:
        raise Broken(f"a copy by {how} that claims other things: {', '.join(lost)}")
    args = subject.at(0)
    size, where, pair = difference(step(twin, *args), step(cell, *args))
    if size:
        raise Broken(f"(carry, y){where} of a copy by {how}: {pair[0]:.6g} against {pair[1]:.6g}")


LAWS = (
    Law(
        "contract",
        _contract,
        "cell(carry, x) returns (carry, y), the carry of the structure, shapes and types it had",
        "a part of the carry is returned in another order, shape or type; a float64 or float32 "
        "constant promotes it (cast to carry.dtype), or the state alone is returned.",
    ),
    Law(
        "pure",
        _is_pure,
        "the same arguments give the same result, whatever was computed in between",
        "the step keeps something in an attribute, a list or a closure. What lasts from step to "
        "step belongs in the carry.",
    ),
    Law(
        "jit equals eager",
        _is_compiled_alike,
        "a compiled step gives what the step gives operation by operation",
        "the step reads values by NumPy or Python (a random number, a list), which jit takes for "
        "constants.",
    ),
    Law(
        "batch axes",
        _takes_batches,
        "a call with leading axes gives for each row what the row alone gives",
        "a reduction or a reshape over all axes, such as jnp.mean(h), where axis=-1 is meant.",
    ),
    Law(
        "vmap",
        _is_mapped,
        "jax.vmap gives for each row what the row alone gives",
        "the step branches in Python on shapes or ranks, or calls back into the host.",
    ),
)
COPY_LAWS = (
    Law(
        "copy",
        _is_copied,
        "a copy has the same arrays and claims, is no other program, and takes the same step",
        "an attribute is compared by identity: give it __eq__ and __hash__, or make it a function "
        "of a module.",
    ),
    Law(
        "pickle",
        _is_pickled,
        "what pickle writes and reads back takes the same step",
        "an attribute is a lambda, a local function or an open resource, or the class is defined "
        "inside a function; define it in a module.",
    ),
)
