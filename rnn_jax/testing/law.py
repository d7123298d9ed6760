"""What a law is, what becomes of it, and how that is shown."""

import dataclasses
import textwrap
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

Status = Literal["holds", "broken", "not applicable", "left out"]


class Law(NamedTuple):
    """A property of cells.

    Attributes:
      name: by which reports, errors and `skip` refer to it.
      holds: subject -> the largest difference found, or None where nothing is measured; raises
        `NotApplicable` or `Broken`.
      rule: what it says.
      cause: what usually breaks it, and what to do.
    """

    name: str
    holds: Callable[[Any], float | None]
    rule: str
    cause: str


class NotApplicable(Exception):
    """The cell has nothing that the law speaks of; the message says what is missing."""


class Broken(Exception):
    """The law does not hold; the message says what arrived, and what was expected."""

    def __init__(
        self, arrived: str, difference: float | None = None, allowed: float | None = None
    ) -> None:
        super().__init__(arrived)
        self.difference = difference
        self.allowed = allowed


@dataclasses.dataclass(frozen=True)
class LawResult:
    """What became of one law.

    Attributes:
      law: its name.
      status: "holds", "broken", "not applicable" or "left out".
      note: why it does not apply, or what arrived where it is broken.
      difference: the largest that was found, relative to max(1, largest expected value) of each
        array; None where nothing is measured.
      allowed: the largest difference that the law tolerates.

    Example:
      >>> result = rj.testing.check_cell(cell, only="contract")["contract"]
      >>> result.law, result.status
      ('contract', 'holds')
    """

    law: str
    status: Status
    note: str = ""
    difference: float | None = None
    allowed: float | None = None


@dataclasses.dataclass(frozen=True)
class CellReport:
    """What became of each law; `print(report)` shows a table.

    Attributes:
      cell: the cell's class, or the name of the function.
      laws: a `LawResult` for each law, in the order in which they were checked.

    Example:
      >>> report = rj.testing.check_cell(cell, only=("contract", "gates"))
      >>> print(str(report).splitlines()[0])
      GRUCell: 2 laws hold, 27 left out
      >>> report["gates"].status
      'holds'
    """

    cell: str
    laws: tuple[LawResult, ...]

    def __getitem__(self, law: str) -> LawResult:
        """The result of a law by its name."""
        found = [result for result in self.laws if result.law == law]
        if not found:
            known = ", ".join(repr(result.law) for result in self.laws)
            raise KeyError(f"there is no law {law!r}; the laws are {known}")
        return found[0]

    def names(self, status: Status) -> tuple[str, ...]:
        """The laws of one status, for example `report.names("not applicable")`."""
        return tuple(result.law for result in self.laws if result.status == status)

    def __str__(self) -> str:
        summary = [f"{len(self.names('holds'))} laws hold"]
        statuses: tuple[Status, ...] = ("broken", "not applicable", "left out")
        for status in statuses:
            count = len(self.names(status))
            summary += [f"{count} {status}"] if count else []
        lines = [f"{self.cell}: {', '.join(summary)}", ""]
        width = max((len(result.law) for result in self.laws), default=0)
        for result in self.laws:
            what = result.note
            if result.difference is not None:
                what = f"{what or 'largest difference'}: {_measured(result)}"
            row = f"{result.law:<{width}}  {result.status:<14}  {what}".rstrip()
            lines += textwrap.wrap(row, 100, subsequent_indent=" " * (width + 18)) or [row]
        return "\n".join(lines)


class LawError(AssertionError):
    """A cell breaks a law.

    Attributes:
      law: the name of the first law that is broken.
      report: what became of all laws, a `CellReport`.

    Example:
      >>> def leaking(h, x):  # its carry changes its shape
      ...     return jnp.append(h, x), h
      ...
      >>> try:
      ...     rj.testing.check_cell(leaking, xs, jnp.zeros(3), only="contract")
      ... except rj.testing.LawError as error:
      ...     print(error.law, error.report["contract"].status)
      ...
      contract broken
    """

    def __init__(self, law: str, message: str, report: CellReport):
        super().__init__(message)
        self.law = law
        self.report = report

    def __reduce__(self) -> Any:
        return type(self), (self.law, self.args[0], self.report)


def law_error(broken: list[tuple[Law, LawResult]], report: CellReport) -> LawError:
    """The error for what is broken: the first law in full, the others by name."""
    law, result = broken[0]
    lines = [
        f'{report.cell} breaks the law "{law.name}": {law.rule}.',
        f"  What arrived: {result.note}",
    ]
    if result.difference is not None:
        lines.append(f"  Difference: {_measured(result)}.")
    lines.append(f"  Usual cause: {law.cause}")
    if len(broken) > 1:
        others = ", ".join(f'"{other.name}"' for other, _ in broken[1:])
        lines.append(f"  Also broken, often by the same cause: {others}.")
    lines.append(f'  A law that is not meant to hold can be left out: skip=("{law.name}",).')
    return LawError(law.name, "\n".join(lines), report)


def _measured(result: LawResult) -> str:
    if result.difference is None:
        return ""
    allowed = "" if result.allowed is None else f", and {result.allowed:.1e} is allowed"
    return f"{result.difference:.1e}{allowed}"
