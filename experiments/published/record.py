"""A published result beside what came out here: findings, their criteria, and the verdict."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from matplotlib.figure import Figure

Relation = Literal["within", "within a factor of", "at most", "at least", "below", "above"]
Verdict = Literal["reproduced", "reproduced with a condition", "not reproduced"]

# What a step of a run is called, and how much of the whole is done.
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Finding:
    """One number of a paper, what was measured, and when they count as the same result.

    Attributes:
      quantity: what is measured, in a few words.
      published: the number of the paper, or the bound that follows from what it says.
      measured: what came out.
      relation: how the measured number must lie to the published one.
      tolerance: by how much it may miss it, in the unit of both; relative if `relative`; the factor
        itself where that is the relation.
      relative: whether the tolerance is a share of the published number.
      unit: of both numbers; empty for pure numbers.
    """

    quantity: str
    published: float
    measured: float
    relation: Relation = "within"
    tolerance: float = 0.0
    relative: bool = False
    unit: str = ""

    @property
    def slack(self) -> float:
        """The tolerance in the unit of the numbers, upwards."""
        if self.relation == "within a factor of":
            return (self.tolerance - 1) * abs(self.published)
        return self.tolerance * abs(self.published) if self.relative else self.tolerance

    @property
    def holds(self) -> bool:
        """Whether the criterion is met; what is not a number meets none."""
        difference = self.measured - self.published
        if math.isnan(difference):
            return self.measured == self.published  # Both infinite, of one sign.
        return {
            "within": abs(difference) <= self.slack,
            "within a factor of": self._by_factor,
            "at most": difference <= self.slack,
            "at least": difference >= -self.slack,
            "below": difference < self.slack,
            "above": difference > -self.slack,
        }[self.relation]

    @property
    def criterion(self) -> str:
        """The criterion in words."""
        unit = f" {self.unit}" if self.unit else ""
        if self.relation == "within a factor of":
            return f"{self.relation} {number(self.tolerance)}"
        if self.relation != "within":
            return f"{self.relation} {number(self.published + self._sign * self.slack)}{unit}"
        if self.relative:
            return (
                f"within {number(self.tolerance)} of it"
                if not self.published
                else f"within {number(100 * self.tolerance)} %"
            )
        return f"within {number(self.tolerance)}{unit}"

    @property
    def _sign(self) -> int:
        return 1 if self.relation in ("at most", "below") else -1

    @property
    def _by_factor(self) -> bool:
        """Whether both numbers are of one sign, and neither is larger than the other by more."""
        pair = self.measured * self.published, self.published**2
        return min(pair) > 0 and max(pair) <= self.tolerance * min(pair)


@dataclass(frozen=True)
class Outcome:
    """What one published result came to.

    Attributes:
      findings: every number that is judged.
      condition: under which the findings hold, where the paper states none; empty without one.
      tried: where it does not come out, what was tried.
      curves: what the picture is drawn from, by name; numbers, or nested lists of them.
    """

    findings: tuple[Finding, ...]
    condition: str = ""
    tried: str = ""
    curves: Mapping[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """Reproduced where every finding holds."""
        if not self.findings or not all(finding.holds for finding in self.findings):
            return "not reproduced"
        return "reproduced with a condition" if self.condition else "reproduced"


@dataclass(frozen=True)
class Result:
    """A result that can be run again.

    Attributes:
      name: of its file, the paper and the year.
      source: authors and year.
      says: what the paper says, in a sentence.
      protocol: the configuration of the paper.
      quick: a smaller one that runs in seconds.
      run: takes a configuration and a callback for progress, returns an `Outcome`.
      draw: takes an `Outcome`, returns its picture.
      minutes: how long the protocol takes on two CPU cores, as measured.
      device: "gpu" for what takes too long on a CPU.
    """

    name: str
    source: str
    says: str
    protocol: Any
    quick: Any
    run: Callable[[Any, Progress], Outcome]
    draw: Callable[[Outcome], Figure]
    minutes: float
    device: Literal["cpu", "gpu"] = "cpu"


def number(value: float) -> str:
    """A number as a table shows it."""
    text = f"{value:,.0f}" if 1e4 <= abs(value) < 1e7 else f"{value:.4g}"
    return text.replace("-", "−").replace("inf", "∞")
