"""Rows of numbers in a file that only grows, and can be cut back to where a checkpoint was."""

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from rnn_jax.training.disk.files import reason, write_all

Row = dict[str, Any]

# Of a place in a file: "bytes" before it, and their "digest".
Position = dict[str, Any]
START: Position = {"bytes": 0, "digest": hashlib.sha256().hexdigest()}


class Records:
    """A file with one JSON object a line.

    Floats are written so that they are read back bit for bit; NaN and infinities, which JSON does
    not have, as the strings "nan", "inf" and "-inf".

    Args:
      path: of the file; it need not exist, and is made when it is cut or written to.
    """

    def __init__(self, path: Path):
        self.path = path
        self._descriptor: int | None = None
        self._bytes, self._digest = 0, hashlib.sha256()

    @property
    def position(self) -> Position:
        """How much was written so far, and a digest of it."""
        return {"bytes": self._bytes, "digest": self._digest.hexdigest()}

    def size(self) -> int:
        """Bytes that the file has now; 0 if there is none."""
        return self.path.stat().st_size if self.path.exists() else 0

    def check(self, position: Position) -> bytes:
        """What was written before `position`.

        Raises:
          ValueError: the file is shorter, or not what was written.
        """
        size, kept = position["bytes"], b""
        if self.path.exists():
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
          OSError: it cannot be written.
        """
        kept = self.check(position)
        try:
            os.ftruncate(self._opened(), len(kept))
        except OSError as error:
            raise self._unwritable(error) from error
        self._bytes, self._digest = len(kept), hashlib.sha256(kept)
        return [json.loads(line, object_hook=_restored) for line in kept.splitlines()]

    def write(self, rows: Iterable[Row]) -> None:
        """Appends rows; they are on the disk when this returns.

        Raises:
          OSError: the disk is full, or cannot be written.
        """
        text = "".join(json.dumps(plain(row), allow_nan=False) + "\n" for row in rows).encode()
        if not text:
            return
        try:
            self._append(text)
        except OSError as error:
            raise self._unwritable(error) from error
        self._bytes += len(text)
        self._digest.update(text)

    def close(self) -> None:
        """Gives the file back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _append(self, text: bytes) -> None:
        descriptor = self._opened()
        if not os.path.samestat(os.fstat(descriptor), os.stat(self.path)):
            raise FileNotFoundError("another file has come into its place")
        before = os.fstat(descriptor).st_size
        try:
            write_all(descriptor, text)
            os.fsync(descriptor)
        except BaseException:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, before)  # Half a row is none.
            raise

    def _unwritable(self, error: OSError) -> OSError:
        return OSError(
            f"{self.path} cannot be written: {reason(error)}. Checkpoints are as they were; make "
            "room or access, and run the same command again."
        )

    def _opened(self) -> int:
        if self._descriptor is None:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
            self._descriptor = os.open(self.path, flags, 0o644)
        return self._descriptor


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
    # A probe may have any name.
    return {key: value if key == "probe" else _number(value) for key, value in row.items()}


def _number(value: Any) -> Any:
    """The inverse of what `plain` does to floats."""
    if isinstance(value, list):
        return [_number(inner) for inner in value]
    return float(value) if value in ("nan", "inf", "-inf") else value
