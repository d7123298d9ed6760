"""The rows of metrics.jsonl for TensorBoard."""

import time
from pathlib import Path
from typing import Any

import numpy as np

from rnn_jax.training.disk.records import Row


class TensorBoard:
    """Writes each row as scalars, one series for each member.

    Args:
      folder: of the event files.
      done: training steps done before; what an earlier process wrote of later ones is hidden.

    Raises:
      ImportError: tensorboardX is missing.
    """

    def __init__(self, folder: Path, done: int):
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise ImportError(
                "tensorboard=True needs tensorboardX. Install it: pip install "
                "'rnn_jax[tensorboard]'."
            ) from error
        # The library names files by the second, and writes over what an earlier process, or an
        # earlier part of this one, has written in the same second.
        suffix = f".{time.time_ns()}"
        self._writer: Any = SummaryWriter(str(folder), purge_step=done + 1, filename_suffix=suffix)

    def write(self, rows: list[Row]) -> None:
        """Adds rows of metrics."""
        for row in rows:
            scalars = {"training/loss": row["loss"], "training/gradient_norm": row["gradient_norm"]}
            scalars |= {f"training/{name}": v for name, v in row.get("terms", {}).items()}
            scalars |= {f"evaluation/{name}": v for name, v in row["evaluation"].items()}
            for name, value in scalars.items():
                self._add(name, np.asarray(value, float), row["step"])
        self._writer.flush()

    def close(self) -> None:
        """Writes what is left."""
        self._writer.close()

    def _add(self, name: str, values: np.ndarray, step: int) -> None:
        if values.ndim == 0:
            self._writer.add_scalar(name, float(values), step)
            return
        for member, value in enumerate(values):
            self._writer.add_scalar(f"{name}/{member}", float(value), step)
