"""Members whose loss or update was not finite: said, kept for inspection, or raised."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rnn_jax.training.display import Display
from rnn_jax.training.report import NEVER, MemberStatus
from rnn_jax.training.step import TrainState


@dataclass
class Failure:
    """A member that failed.

    Attributes:
      member: its index; 0 for a single model.
      step: the first step, counted from 0, whose loss, gradient or update was not finite.
      terms: of the objective that were not finite there, as far as is known.
      kept: where its last finite state lies, if anywhere.
    """

    member: int
    step: int
    terms: tuple[str, ...] = ()
    kept: Path | None = None

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"member-{self.member}-step-{self.step}"

    @property
    def notes(self) -> dict[str, Any]:
        """What is kept beside its state."""
        return {
            "member": self.member,
            "step": self.step,
            **({"terms": list(self.terms)} if self.terms else {}),
            "meaning": "the state before this step, counted from 0; with the run's config.json the "
            "step can be made again",
        }

    def state_of(self, state: TrainState, members: int | None) -> TrainState:
        """This member's part of a state."""
        if members is None:
            return state
        return jax.tree.map(lambda leaf: leaf[self.member], state)

    def report(self, on_nonfinite: str, display: Display) -> None:
        """Says it on the display.

        Raises:
          FloatingPointError: if that is what was asked for.
        """
        where = "" if self.kept is None else f" Its last finite state lies in {self.kept}."
        named = " and ".join(map(repr, self.terms))
        of_terms = f", by the objective's term {named}" if self.terms else ""
        text = (
            f"member {self.member}: loss, gradient or update of training step {self.step} is not "
            f"finite{of_terms}.{where}"
        )
        if on_nonfinite == "raise":
            raise FloatingPointError(
                f"{text} Lower the learning rate, clip the gradient, or pass "
                'on_nonfinite="stop" or "skip"; in another directory, if you gave one.'
            )
        done = "It stays as it was." if on_nonfinite == "stop" else "Such steps are skipped."
        display.say(f"{text} {done}")


def new_failures(
    before: MemberStatus | None, after: MemberStatus, broken: Mapping[str, Any] | None = None
) -> list[Failure]:
    """The members that failed between two moments, or ever.

    Args:
      before, after: of all members; None is before the first step.
      broken: which terms of the objective were not finite there; see `Report`.
    """
    steps = np.atleast_1d(after.failed_at)
    fresh = steps != NEVER
    if before is not None:
        fresh &= np.atleast_1d(before.failed_at) == NEVER
    by_term = {name: np.atleast_1d(values) for name, values in (broken or {}).items()}
    return [
        Failure(
            int(member),
            int(steps[member]),
            tuple(name for name, values in by_term.items() if values[member]),
        )
        for member in np.flatnonzero(fresh)
    ]
