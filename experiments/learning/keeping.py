"""Results that are kept one by one, so that a run that was stopped goes on."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import rnn_jax as rj
from launching import plain

R = TypeVar("R")


class NotMeasuredError(LookupError):
    """A result that is not there, and is not to be measured now."""


@dataclass(frozen=True)
class Kept:
    """A folder of results.

    Attributes:
      folder: where they are, a file each.
      reads_only: measure nothing.
    """

    folder: Path
    reads_only: bool = False

    def result(
        self, name: str, settings: dict[str, Any], kind: Callable[..., R], measure: Callable[[], R]
    ) -> R:
        """What `measure` gives, or what it gave before if the settings were the same.

        Args:
          name: of the file, without its ending.
          settings: all that the result depends on.
          kind: a dataclass of plain values, or dict.
          measure: gives one.

        Raises:
          NotMeasuredError: it is not there, and `reads_only`.
          ValueError: there is a file, and it is no such record.
        """
        settings = plain({**settings, "rnn_jax": rj.__version__})
        file = self.folder / f"{name}.json"
        if file.exists():
            try:
                record = json.loads(file.read_text(encoding="utf-8"))
                if record["settings"] == settings:
                    return kind(**record["result"])
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{file} must hold what was measured before; it cannot be read ({error!r}). "
                    "Remove the file, and it is measured again."
                ) from None
        if self.reads_only:
            raise NotMeasuredError(name)
        result = plain(measure())
        # Whole or not at all, so that a killed run leaves nothing half; two that share the folder
        # have parts of their own.
        part = self.folder / f"{name}.{os.getpid()}.part"
        self.folder.mkdir(parents=True, exist_ok=True)
        record = {"settings": settings, "result": result}
        part.write_text(json.dumps(record) + "\n", encoding="utf-8")
        part.replace(file)
        return kind(**result)
