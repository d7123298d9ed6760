"""How a run is doing, live in a terminal or line by line in a log."""

import time
import warnings
from typing import Any

import numpy as np

from rnn_jax.training.plan import Plan
from rnn_jax.training.report import NEVER, Report, has_stopped

# Lines for a whole run where there is no terminal to draw in.
_LINES = 20


class Display:
    """Says nothing: what `fit` has where no progress is asked for."""

    def __enter__(self) -> "Display":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def begin(self, done: int) -> None:
        """Training starts, or goes on, after `done` steps."""

    def update(self, done: int, report: Report, *, finished: bool) -> None:
        """`done` steps are made."""

    def say(self, text: str) -> None:
        """Something that the user should know, in a line."""
        warnings.warn(text, RuntimeWarning, stacklevel=2)


class LiveDisplay(Display):
    """A bar with steps a second and time left, and below it loss and metrics.

    Where the output is no terminal, a plain line now and then.

    Args:
      title: what is trained.
      steps: training steps of the whole run.
      plan: how it is trained.
      console: a rich console; None is the standard error.
    """

    def __init__(self, title: str, steps: int, plan: Plan, console: Any = None):
        # Here and not above: importing the package must stay light.
        from rich.console import Console
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._steps, self._plan = steps, plan
        self._console = console or Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[pace]}"),
            expand=True,
            console=self._console,
        )
        self._task = self._bar.add_task(title, total=steps, pace="compiling")
        self._live = Live(self._bar, console=self._console, refresh_per_second=4)
        self._clock: tuple[float, int] | None = None
        self._lines = 0

    def __enter__(self) -> "LiveDisplay":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def begin(self, done: int) -> None:
        """Training starts, or goes on, after `done` steps."""
        if done:
            self.say(f"going on from step {done}")
        self._bar.update(self._task, completed=done)

    def update(self, done: int, report: Report, *, finished: bool) -> None:
        """`done` steps are made."""
        from rich.console import Group
        from rich.text import Text

        pace, numbers = self._pace(done, finished), describe(self._plan, report)
        self._bar.update(self._task, completed=done, pace=pace)
        if self._console.is_terminal:
            self._live.update(Group(self._bar, Text(numbers, style="dim")))
        elif done * _LINES >= self._steps * self._lines or finished:
            self._lines = 1 + done * _LINES // max(1, self._steps)
            self.say(f"{done}/{self._steps}  {numbers}  {pace}")

    def say(self, text: str) -> None:
        """Something that the user should know, in a line."""
        self._console.print(text, highlight=False, markup=False)

    def _pace(self, done: int, finished: bool) -> str:
        """Steps a second and time left, by the steps after the first call, which compiles."""
        now = time.monotonic()
        if self._clock is None:
            self._clock = (now, done)
            return "compiled"
        rate = (done - self._clock[1]) / max(now - self._clock[0], 1e-9)
        left = "done" if finished else f"{_duration((self._steps - done) / rate)} left"
        return f"{rate:.3g} steps/s  {left}"


def describe(plan: Plan, report: Report) -> str:
    """Loss, terms and metrics in a line; of an ensemble median, range and how many are done."""
    fresh = {name: value for name, value in report.metrics.items() if name != "loss"}
    numbers = {"loss": report.loss, **report.terms, **fresh}
    parts = [f"{name} {_number(np.asarray(value, float))}" for name, value in numbers.items()]
    status = report.status
    members = np.size(status.solved_at)
    solved = int(np.sum(np.asarray(status.solved_at) != NEVER))
    failed = int(np.sum(np.asarray(status.failed_at) != NEVER))
    still = members - int(np.sum(has_stopped(plan, status)))
    if members > 1:
        parts.append(f"solved {solved} of {members}")
    elif solved:
        parts.append("solved")
    if failed:
        parts.append(f"not finite {failed}")
    if 0 < still < members:
        parts.append(f"{still} still training")
    return "  ".join(parts)


def _number(values: np.ndarray) -> str:
    if values.ndim == 0:
        return f"{float(values):.4g}"
    known = values[~np.isnan(values)]
    if not known.size:
        return "–"
    return f"{np.median(known):.3g} ({known.min():.2g}–{known.max():.2g})"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
