"""What a run recorded: losses and metrics by training step, and what its probes saw."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from rnn_jax.training.disk.records import Row, plain
from rnn_jax.training.plan import Plan
from rnn_jax.training.report import NEVER, Findings, Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class ProbeRecord:
    """What one probe found; "…" stands for the axis of an ensemble, if there is one.

    Attributes:
      step: training steps done at each measurement, (P,).
      values: by name, (…, P, *shape of the value).

    Example:
      >>> record = rj.ProbeRecord(np.array([0, 100]), {"horizon": np.array([12, 19])})
      >>> record.values["horizon"][record.step == 100].item()
      19
    """

    step: np.ndarray
    values: dict[str, np.ndarray]

    def __getitem__(self, name: str) -> np.ndarray:
        """One of the values."""
        return self.values[name]


@dataclasses.dataclass(frozen=True)
class History:
    """Losses and metrics of a run, one entry for each K evaluations.

    "…" stands for the axis of an ensemble, (E,); a single model has none.

    Attributes:
      step: training steps done, (K,).
      loss: mean of what was minimised since the entry before, (…, K): the task's loss, or with an
        `objective` the weighted sum of its terms; NaN once a member has stopped.
      gradient_norm: mean global norm of the gradient over the same steps, (…, K).
      updates: how many of these steps changed the model, (…, K).
      metrics: on fresh data, by name, (…, K); "loss" and those of the task.
      solved_at: training steps done when an evaluation first met the task's `solved`, (…); NaN if
        none did.
      failed_at: the first step, counted from 0, whose loss or update was not finite, (…); NaN if
        none.
      skipped: steps left out because they were not finite, (…).
      best_at: training steps done at the best evaluation, that of `FitResult.best_model`, (…); NaN
        if there was none.
      stopped_at: training steps done when the patience with evaluations that are no better was
        over, (…); NaN if it was not.
      probes: by probe.
      terms: of an `objective`, by name, the mean of each term, without its weight, over the same
        steps as `loss`, (…, K); "task" is the task's own loss. Steps at which a term had weight 0
        are left out, so NaN where that were all. Terms are of the training alone: what is to be
        seen on fresh data is a metric of the task or a probe.

    A training series, a term or a metric can also be read by its name, history["mse"];
    history["loss"] is that of the training.

    Example:
      >>> model = rj.SequenceModel(cell, 1, rngs=nnx.Rngs(0))
      >>> task = rj.tasks.Adding(20)
      >>> history = rj.fit(model, task, optax.adam(1e-2), steps=20, batch_size=8, seed=0).history
      >>> sorted(history.metrics)
      ['loss', 'mse']
      >>> history.loss.shape, bool(history.solved)
      ((1,), False)
    """

    step: np.ndarray
    loss: np.ndarray
    gradient_norm: np.ndarray
    updates: np.ndarray
    metrics: dict[str, np.ndarray]
    solved_at: np.ndarray
    failed_at: np.ndarray
    skipped: np.ndarray
    best_at: np.ndarray
    stopped_at: np.ndarray
    probes: dict[str, ProbeRecord]
    terms: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def solved(self) -> np.ndarray:
        """Which members have solved the task, (…)."""
        return np.isfinite(self.solved_at)

    def plot(
        self,
        *,
        chance: float | None = None,
        figsize: tuple[float, float] | None = None,
        title: str | None = None,
    ) -> Figure:
        """One figure: losses by training step; terms and gradient flow where there are some.

        Args:
          chance: the loss of a predictor that remembers nothing, such as task.chance_loss.
          figsize: width and height in inches; None is as wide as the style.
          title: above all.

        Returns:
          A matplotlib `Figure`; needs the `experiments` extra.
        """
        # Here and not above: only plotting may import matplotlib, and importing this package
        # must not.
        from rnn_jax.plotting.training_curves import training_figure

        return training_figure(self, chance=chance, figsize=figsize, title=title)

    def keys(self) -> tuple[str, ...]:
        """Names that can be read with history[name]."""
        series = ("step", "loss", "gradient_norm", "updates")
        return tuple(dict.fromkeys((*series, *self.terms, *self.metrics)))

    def __getitem__(self, name: str) -> np.ndarray:
        """A training series, a term of the objective, or a metric on fresh data."""
        if name not in self.keys():
            raise KeyError(f"history has {', '.join(self.keys())}; got {name!r}")
        if name in ("step", "loss", "gradient_norm", "updates"):
            series: np.ndarray = getattr(self, name)
            return series
        return self.terms[name] if name in self.terms else self.metrics[name]

    def __iter__(self) -> Iterator[str]:
        """The names, as of a mapping."""
        return iter(self.keys())


def row_of(step: int, report: Report) -> Row:
    """One line of metrics.jsonl: a report, numbers alone or in lists of E."""
    status = report.status
    return plain(
        {
            "step": step,
            "loss": report.loss,
            **({"terms": report.terms} if report.terms else {}),
            "gradient_norm": report.gradient_norm,
            "updates": report.updates,
            "evaluation": report.metrics,
            "solved_at": status.solved_at,
            "failed_at": status.failed_at,
            "skipped": status.skipped,
            "best_at": status.best_at,
            "stopped_at": status.stopped_at,
        }
    )


def probe_rows(
    plan: Plan, findings: Findings, first: int, length: int, members: int | None
) -> list[Row]:
    """The lines of probes.jsonl for a call of the loop: what was measured when it was its turn."""
    stride = plan.stride(length)
    return [
        _probe_row(
            probe.name, first + index * stride, _moment(findings[probe.name], index, members)
        )
        for index in range(length // stride)
        for probe in plan.probes
        if (first + index * stride) % probe.every == 0
    ]


def last_probe_rows(step: int, findings: Findings) -> list[Row]:
    """The lines for measurements of the models as they are at the end."""
    return [_probe_row(name, step, found) for name, found in findings.items()]


def make_history(rows: list[Row], found: list[Row], members: int | None) -> History:
    """Rows, as written or read back, as arrays."""
    batch = () if members is None else (members,)

    def series(pick: Any, dtype: type = float) -> np.ndarray:
        table: np.ndarray = np.array([pick(row) for row in rows], dtype)
        return np.moveaxis(table.reshape(len(rows), *batch), 0, -1)

    def last(name: str, empty: float) -> np.ndarray:
        value = np.array(rows[-1][name] if rows else empty, float)
        value = np.broadcast_to(value, batch)
        return np.where(value == NEVER, np.nan, value)

    metrics = tuple(rows[0]["evaluation"]) if rows else ()
    terms = tuple(rows[0].get("terms", {})) if rows else ()
    return History(
        step=np.array([row["step"] for row in rows], int),
        loss=series(lambda row: row["loss"]),
        gradient_norm=series(lambda row: row["gradient_norm"]),
        updates=series(lambda row: row["updates"], int),
        metrics={name: series(lambda row, n=name: row["evaluation"][n]) for name in metrics},
        solved_at=last("solved_at", NEVER),
        failed_at=last("failed_at", NEVER),
        skipped=last("skipped", 0).astype(int),
        best_at=last("best_at", NEVER),
        stopped_at=last("stopped_at", NEVER),
        probes=_probe_records(found, members),
        terms={name: series(lambda row, n=name: row["terms"][n]) for name in terms},
    )


def _probe_row(name: str, step: int, values: dict[str, Any]) -> Row:
    return plain({"step": step, "probe": name, "values": values})


def _moment(found: dict[str, Any], index: int, members: int | None) -> dict[str, Any]:
    """One of the moments of a call, whose axis comes after that of the members."""
    return {
        name: value[index] if members is None else value[:, index] for name, value in found.items()
    }


def _probe_records(found: list[Row], members: int | None) -> dict[str, ProbeRecord]:
    axis = 0 if members is None else 1
    records = {}
    for name in dict.fromkeys(row["probe"] for row in found):
        own = [row for row in found if row["probe"] == name]
        records[name] = ProbeRecord(
            step=np.array([row["step"] for row in own], int),
            values={
                key: np.stack([np.array(row["values"][key], float) for row in own], axis=axis)
                for key in own[0]["values"]
            },
        )
    return records
