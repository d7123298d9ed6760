"""Rows of numbers in a file that only grows, and can be cut back to where a checkpoint was."""

import hashlib
import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]

# Of a place in a file: "bytes" before it, and their "digest".
Position = dict[str, Any]
START: Position = {"bytes": 0, "digest": hashlib.sha256().hexdigest()}


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
        self._digest = hashlib.sha256()

    @property
    def position(self) -> Position:
        """How much was written so far, and a digest of it."""
        return {"bytes": self._file.tell(), "digest": self._digest.hexdigest()}

    def write(self, rows: Iterable[Row]) -> None:
        """Appends rows; they are on the disk when this returns.

        Raises:
          OSError: the disk is full, or cannot be written.
        """
        text = "".join(json.dumps(plain(row), allow_nan=False) + "\n" for row in rows).encode()
        if not text:
            return
        try:
            self._file.write(text)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise OSError(
                f"{self.path} cannot be written: {error.strerror}. Checkpoints are as they were; "
                "make room or access, and run the same command again."
            ) from error
        self._digest.update(text)

    def check(self, position: Position) -> bytes:
        """What was written before `position`.

        Raises:
          ValueError: the file is shorter, or not what was written.
        """
        size = position["bytes"]
        with self.path.open("rb") as file:
            kept = file.read(size)
        if len(kept) < size:
            raise ValueError(f"{self.path} has {len(kept)} bytes where {size} were written")
        if hashlib.sha256(kept).hexdigest() != position["digest"]:
            raise ValueError(f"{self.path} is damaged: its rows are not those that were written")
        return kept

    def cut(self, position: Position) -> list[Row]:
        """Drops all that was written after `position`, and returns the rows that stay.

        Raises:
          ValueError: as `check`.
        """
        kept = self.check(position)
        self._file.truncate(len(kept))
        self._file.seek(len(kept))
        self._digest = hashlib.sha256(kept)
        return [json.loads(line, object_hook=_restored) for line in kept.splitlines()]

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
