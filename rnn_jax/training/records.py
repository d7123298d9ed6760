"""Rows of numbers in a file that only grows, and can be cut back to where a checkpoint was."""

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]


class Records:
    """A file with one JSON object a line.

    Floats are written so that they are read back bit for bit; NaN and infinities, which JSON does
    not have, as the strings "nan", "inf" and "-inf".

    Args:
      path: of the file; it need not exist.
    """

    def __init__(self, path: Path):
        self.path = path
        self._file = path.open("ab")

    @property
    def position(self) -> int:
        """Bytes written so far."""
        return self._file.tell()

    def write(self, rows: Iterable[Row]) -> None:
        """Appends rows; they are on the disk when this returns.

        Raises:
          OSError: the disk is full, or cannot be written.
        """
        text = "".join(json.dumps(plain(row), allow_nan=False) + "\n" for row in rows)
        if not text:
            return
        try:
            self._file.write(text.encode())
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise OSError(
                f"{self.path} cannot be written: {error.strerror}. Checkpoints are as they were; "
                "make room or access, and run the same command again."
            ) from error

    def cut(self, position: int) -> list[Row]:
        """Drops all that was written after `position`, and returns the rows that stay.

        Raises:
          ValueError: the file is shorter, or no such rows.
        """
        with self.path.open("rb") as file:
            kept = file.read(position)
        if len(kept) < position:
            raise ValueError(f"{self.path} has {len(kept)} bytes where {position} were written")
        try:
            rows = [json.loads(line, object_hook=_restored) for line in kept.splitlines()]
        except ValueError as error:
            raise ValueError(f"{self.path} is damaged: {error}") from error
        self._file.truncate(position)
        self._file.seek(position)
        return rows

    def close(self) -> None:
        """Gives the file back."""
        self._file.close()


def plain(value: Any) -> Any:
    """Numbers, arrays and nested containers of them as JSON has them, without loss."""
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _restored(row: Row) -> Row:
    return {key: _number(value) for key, value in row.items()}


def _number(value: Any) -> Any:
    """The inverse of what `plain` does to floats."""
    if isinstance(value, list):
        return [_number(inner) for inner in value]
    return float(value) if value in ("nan", "inf", "-inf") else value
