"""Being asked to leave: what is under way is finished and kept first."""

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

_ASKING = (signal.SIGTERM, signal.SIGINT)


class Terminated(SystemExit):
    """Training was asked to leave, and has left; the same call goes on from there.

    Python ends quietly with the exit status that shells give to the signal: 143 for SIGTERM, 130
    for Ctrl-C. As text, it says what was saved and how to go on.

    Attributes:
      signal_number: that it was asked by.
      step: training steps done and saved.
      directory: where they are saved.

    Example:
      >>> try:
      ...     raise rj.Terminated(15, step=200)  # As `fit` does on SIGTERM
      ... except rj.Terminated as left:
      ...     print(left.code, left.step)
      143 200
    """

    def __init__(self, signal_number: int, step: int, directory: Path | None = None):
        # All of them, so that a copy and one from another process are the same.
        super().__init__(signal_number, step, directory)
        self.signal_number, self.step, self.directory = signal_number, step, directory
        self.code = 128 + signal_number

    def __str__(self) -> str:
        asked = "Ctrl-C" if self.signal_number == signal.SIGINT else "SIGTERM"
        where = "" if self.directory is None else f" in {self.directory}"
        return (
            f"stopped by {asked}: training is saved{where} after step {self.step}, and the same "
            "call goes on from there"
        )


class Stopping:
    """Within it, SIGTERM and Ctrl-C are noted and not obeyed at once; a second Ctrl-C is.

    Only the main thread of a program may handle signals; in another one this does nothing.
    """

    def __init__(self) -> None:
        self.requested: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Stopping":
        if threading.current_thread() is threading.main_thread():
            for number in _ASKING:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.requested is not None:
            raise KeyboardInterrupt
        self.requested = number
