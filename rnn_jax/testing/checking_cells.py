"""All laws of a cell, by one call."""

import functools
from collections.abc import Iterable
from typing import Any

import jax

from rnn_jax.cells.asking import as_pytree, asked, carry_maker
from rnn_jax.cells.claims import owner_of
from rnn_jax.checks import check_count, kind_of
from rnn_jax.sequence.calling import check_carry_leaves
from rnn_jax.sequence.inputs import read_inputs
from rnn_jax.testing.law import Broken, CellReport, Law, LawResult, NotApplicable, law_error
from rnn_jax.testing.subject import STEPS, Subject, default_inputs


@functools.cache
def _laws() -> tuple[Law, ...]:
    """All laws, in the order in which they are checked: causes before what follows from them."""
    # Imported when they are first wanted, so that `import rnn_jax` does not wait for them.
    from rnn_jax.testing import claim_laws, derivative_laws, sequence_laws, step_laws, value_laws

    return (
        *step_laws.LAWS,
        *claim_laws.LAWS,
        *sequence_laws.LAWS,
        *derivative_laws.LAWS,
        *value_laws.LAWS,
        *step_laws.COPY_LAWS,
    )


def check_cell(
    cell: Any,
    xs: Any = None,
    carry: Any = None,
    *,
    only: Iterable[str] | None = None,
    skip: Iterable[str] = (),
    seed: int = 0,
) -> CellReport:
    """Checks a cell against every law that this package relies on.

    One call for the author of a cell: the contract of a step, batches, sequences in pieces, packed
    and reversed, derivatives to second order, the instrument's Jacobians, numbers far out and in
    other types, copies, and the truth of whatever the cell claims of itself. `print` the result to
    see each law, and why some do not apply. Weights are examined 0.1·N(0, 1) away from those that
    the cell has, because an error in what a bias of 0 multiplies would not show at 0.

    Differences are measured relative to max(1, largest expected value), and may be eps^(2/3) of the
    coarsest type that the cell computes in, 2e-5 in float32; 30 √eps where a derivative is compared
    with differences. They are sharper with JAX set to float64.

    Args:
      cell: any cell(carry, x) -> (carry, y): of this package, of Flax or Equinox, or a function.
      xs: one sequence, each leaf (T, ...) with T of at least 4, of which the first 6 steps are
        used; None draws (6, I) from a standard normal distribution for a cell that says its
        `in_features`.
      carry: the carry that sequences start from; None asks the cell.
      only: names of the laws to check; None checks all.
      skip: names of laws that are not meant to hold, such as "gradient" for a surrogate gradient.
      seed: of the inputs, the directions of derivatives, and the weights' move.

    Returns:
      A `CellReport`: for each law whether it holds, the largest difference found, or why it does
      not apply.

    Raises:
      LawError: laws are broken. The message says of the first which it is, what arrived against
        what was expected, how far apart they are, and what usually causes that; `.report` has all.
      ValueError: a sequence of fewer than 4 steps, or `only` or `skip` name no law.
      TypeError: the cell is none, or cannot make its carry or say its features where these are not
        given.

    Example:
      >>> report = rj.testing.check_cell(cell, only=("contract", "gates"))
      >>> report.names("holds")
      ('contract', 'gates')
    """
    known = [law.name for law in _laws()]
    left_out = _read_names("skip", skip, known)
    if only is not None:
        left_out |= set(known) - _read_names("only", only, known)
    check_count("seed", seed)
    cell = as_pytree(cell)
    if carry is not None:
        check_carry_leaves(carry)
    elif carry_maker(cell) is None:
        raise TypeError(
            "check_cell must be given the carry that sequences start from for a cell without "
            f"initialize_carry(input_shape); got {kind_of(owner_of(cell))} and carry=None. Pass "
            "carry=, or give the cell one with rnn_jax.as_cell(cell, initial_carry=…)."
        )
    xs = _read_sequence(default_inputs(cell, seed) if xs is None else xs)
    with jax.default_matmul_precision("highest"):
        return _check_all(cell, xs, carry, left_out, seed)


def _check_all(cell: Any, xs: Any, carry: Any, left_out: frozenset[str], seed: int) -> CellReport:
    subject = Subject(cell, xs, carry, seed)
    results: list[LawResult] = []
    for law in _laws():
        if law.name in left_out:
            results.append(LawResult(law.name, "left out"))
        elif any(result.status == "broken" and result.law == "contract" for result in results):
            results.append(LawResult(law.name, "not applicable", "the contract is broken"))
        else:
            results.append(_examine(law, subject))
    report = CellReport(_name_of(cell), tuple(results))
    broken = [pair for pair in zip(_laws(), results, strict=True) if pair[1].status == "broken"]
    if broken:
        raise law_error(broken, report)
    return report


def _name_of(cell: Any) -> str:
    owner = asked(cell)
    return getattr(owner, "__name__", type(owner).__name__)


def _examine(law: Law, subject: Subject) -> LawResult:
    try:
        difference = law.holds(subject)
    except NotApplicable as reason:
        return LawResult(law.name, "not applicable", str(reason))
    except Broken as broken:
        return LawResult(law.name, "broken", str(broken), broken.difference, broken.allowed)
    except Exception as error:  # Of the cell: it is what breaks the law.
        return LawResult(law.name, "broken", f"{type(error).__name__}: {error}")
    return LawResult(law.name, "holds", "", difference)


def _read_names(argument: str, names: Iterable[str], known: list[str]) -> frozenset[str]:
    found = frozenset([names] if isinstance(names, str) else names)
    for name in found:
        if name not in known:
            raise ValueError(
                f"{argument} must hold names of laws; got {name!r}. The laws are "
                f"{', '.join(map(repr, known))}."
            )
    return found


def _read_sequence(xs: Any) -> Any:
    """The first steps of one sequence, as arrays."""
    longest = max((jax.numpy.ndim(leaf) for leaf in jax.tree.leaves(xs)), default=1)
    arrays, (steps,) = read_inputs(xs, max(longest - 1, 0), batched=False)
    if steps < 4:
        raise ValueError(
            f"check_cell needs a sequence of at least 4 steps; got {steps}. Pass xs of shape "
            f"(T, ...) with T of at least 4; {STEPS} are used."
        )
    return jax.tree.map(lambda leaf: leaf[:STEPS], arrays)
