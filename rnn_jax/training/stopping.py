"""Being asked to leave: what is under way is finished and kept first."""

import signal
import threading
from types import FrameType
from typing import Any

_ASKING = (signal.SIGTERM, signal.SIGINT)


class Terminated(SystemExit):
    """Training was asked to leave, and has left; the same call goes on from there.

    Python ends quietly with the exit status that shells give to the signal: 143 for SIGTERM, 130
    for Ctrl-C.

    Attributes:
      step: training steps done and saved.
    """

    def __init__(self, signal_number: int, step: int):
        super().__init__(128 + signal_number)
        self.step = step


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
