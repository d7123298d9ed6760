"""Where a run's rows and states go, if nowhere else: into memory."""

from pathlib import Path
from typing import Any

from rnn_jax.training.disk.records import Row
from rnn_jax.training.step import TrainState


class Journal:
    """Rows in memory: a run that leaves nothing on disk.

    Attributes:
      metric_rows: of metrics.jsonl.
      probe_rows: of probes.jsonl.
      path: of the folder that holds the run, or None.
      data_position: the place in the data of the checkpoint that was restored, or None.
    """

    path: Path | None = None

    def __init__(self) -> None:
        self.metric_rows: list[Row] = []
        self.probe_rows: list[Row] = []
        self.data_position: Any = None

    def restore(self, start: TrainState, position: Any = None) -> tuple[TrainState, int]:
        """(state, training steps done) to go on from: `start` and 0 if there is no checkpoint.

        Args:
          start: the state before the first step.
          position: the place in the data before it, if they have one.
        """
        return start, 0

    def record(self, metric_rows: list[Row], probe_rows: list[Row]) -> None:
        """Adds rows of metrics and of probes."""
        self.metric_rows += metric_rows
        self.probe_rows += probe_rows

    def save_is_due(self) -> bool:
        """Whether it is time to keep the state."""
        return False

    def save(self, step: int, state: TrainState, position: Any = None) -> None:
        """Keeps the state and its place in the data, so that a later process can go on from it."""

    def keep_failed(self, name: str, state: TrainState, notes: dict[str, Any]) -> Path | None:
        """Keeps a member's last finite state for inspection; says where."""
        return None

    def close(self, how: str, step: int) -> None:
        """Notes how the run was left."""
