"""Which evaluation is the best one, and when there has been no better one for too long."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax.checks import check_choice, check_number, check_size, kind_of

# Metrics whose better direction is known.
_KNOWN = {"accuracy": "max", "cross_entropy": "min", "loss": "min", "mse": "min"}


@dataclass(frozen=True)
class Selection:
    """How evaluations are compared.

    Attributes:
      metric: by its name in `History.metrics`.
      direction: "min", the smallest is the best, or "max".
      patience: evaluations without improvement after which a member stops; None is no end.
      min_delta: by how much the metric must be better than at the last improvement to be one.
    """

    metric: str = "loss"
    direction: str = "min"
    patience: int | None = None
    min_delta: float = 0.0

    def score(self, metrics: dict[str, jax.Array], dtype: Any) -> jax.Array:
        """The metric of an evaluation, so that smaller is better.

        Raises:
          ValueError: there is no such metric.
        """
        if self.metric not in metrics:
            raise ValueError(
                f"best must name one of the metrics of this task, {', '.join(sorted(metrics))}; "
                f"got {self.metric!r}. Pass one of them."
            )
        value = metrics[self.metric].astype(dtype)
        return -value if self.direction == "max" else value


def make_selection(best: Any, patience: Any, min_delta: Any) -> Selection:
    """Checks what the user gave.

    Raises:
      ValueError, TypeError: with the rule, what arrived and the fix.
    """
    name, *direction = best if isinstance(best, (tuple, list)) else (best,)
    if not isinstance(name, str) or len(direction) > 1:
        raise TypeError(
            "best must be the name of a metric, or a pair of it and its direction; got "
            f'{best!r} of type {kind_of(best)}. Pass for example "loss" or ("accuracy", "max").'
        )
    if not direction and name not in _KNOWN:
        raise ValueError(
            f"best must say whether large or small is good of a metric that is none of "
            f'{", ".join(_KNOWN)}; got {name!r}. Pass ("{name}", "max") or ("{name}", "min").'
        )
    delta = check_number("min_delta", min_delta)
    if delta < 0:
        raise ValueError(f"min_delta must be at least 0; got {delta}. Pass 0 or more.")
    towards = direction[0] if direction else _KNOWN[name]
    return Selection(
        metric=name,
        direction=check_choice("the direction of best", towards, ("min", "max")),
        patience=None if patience is None else check_size("patience", patience),
        min_delta=delta,
    )


def improves(
    selection: Selection, score: jax.Array, reference: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(whether a score is an improvement, what the next one is compared with)."""
    better = score < reference - jnp.asarray(selection.min_delta, reference.dtype)
    return better, jnp.where(better, score, reference)
