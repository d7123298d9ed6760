"""What each experiment does around its question: command line, output folder, display, numbers."""

import contextlib
import dataclasses
import io
import math
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import matplotlib as mpl
import numpy as np
import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

C = TypeVar("C")

# Errors whose message is all that a user needs; the rest are faults of a script and keep their
# traceback.
_SAID = (
    ValueError,
    TypeError,
    OSError,
    ImportError,
    FloatingPointError,
    MemoryError,
    jax.errors.JaxRuntimeError,
)


def prepare(
    config_type: type[C], resolve: Callable[[C], C], console: Console, prog: str | None = None
) -> C:
    """Parses the command line and makes the output folder; a bad option ends the program.

    Args:
      config_type: a dataclass with a field `out`, the folder.
      resolve: fills in what was left open; raises ValueError for what cannot be measured.
      console: where an error is said, in one line.
      prog: the program as the help text has it; the script's file if it is None.

    Returns:
      The resolved configuration.
    """
    with refusing(console):
        config: Any = resolve(parse(config_type, sys.argv[1:], prog))
        config = dataclasses.replace(config, out=config.out.expanduser())
        make_folder(config.out)
    settle(console)
    return config


def make_folder(folder: Path) -> None:
    """Makes the output folder, and a file in it for a moment: not only once all is measured.

    Raises:
      ValueError: it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"--out must be a folder that can be written; got {folder} ({error.strerror}). Pass "
            "another one, or make room there."
        ) from None


def parse(config_type: type[C], arguments: Sequence[str], prog: str | None = None) -> C:
    """The command line as a dataclass; `--help` prints and leaves.

    Raises:
      ValueError: what tyro says against it, in one line.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(config_type, args=list(arguments), prog=prog)
    except SystemExit as leaving:
        if not leaving.code:
            raise
        raise ValueError(_in_one_line(said.getvalue())) from None


def _in_one_line(box: str) -> str:
    """What stands in a box drawn in a terminal, up to the hint at the help text."""
    inside = [re.sub(r"[─-╿]+", " ", line) for line in box.splitlines()[1:]]  # Without its title.
    text = re.split(r"Argument helptext:|For full helptext", " ".join(inside))[0]
    return " ".join(text.split()).rstrip(".") + ". See --help."


@contextlib.contextmanager
def refusing(console: Console) -> Iterator[None]:
    """Says in one line what cannot be done, and leaves with status 2 instead of a traceback."""
    try:
        yield
    except _SAID as error:
        line = " ".join(str(error).split())
        console.print(Text.assemble(("error: ", "bold red"), line), soft_wrap=True)
        sys.exit(2)


@contextlib.contextmanager
def resumable(console: Console) -> Iterator[None]:
    """Leaves on Ctrl-C in one line: for a program that keeps what it has and goes on from there."""
    try:
        yield
    except KeyboardInterrupt:
        console.print("Stopped; the same line goes on from here.")
        sys.exit(130)


def settle(console: Console) -> None:
    """What every experiment wants of warnings, matplotlib, LAPACK and the compiler."""

    def say(message: Warning | str, *_: Any, **__: Any) -> None:
        console.print(
            f"warning: {message}", style="yellow", markup=False, highlight=False, soft_wrap=True
        )

    warnings.showwarning = say
    mpl.use("Agg")
    use_one_thread_for_lapack()
    use_compilation_cache()


def fill_in(config: Any, defaults: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
    """The options that were left open (None or empty), by name, and those that were given.

    Args:
      config: a dataclass with a field `quick`.
      defaults: by option, (its value, its value if quick).
    """
    chosen: dict[str, Any] = {}
    for name, values in defaults.items():
        given = getattr(config, name)
        chosen[name] = values[config.quick] if given in (None, ()) else given
    return chosen


@dataclasses.dataclass(frozen=True)
class Range:
    """What a number may be: from `low`, or above it, up to `high`."""

    low: float
    high: float = math.inf
    above: bool = False

    def __contains__(self, value: float) -> bool:
        enough = value > self.low if self.above else value >= self.low
        return enough and value <= self.high and value < math.inf

    def __str__(self) -> str:
        if self.above:
            return f"a number above {self.low:g}"
        if self.high < math.inf:
            return f"between {self.low:g} and {self.high:g}"
        return f"at least {self.low:g}"


# A seed, of which a script may make a few more by counting on.
SEED = Range(0, 2_000_000_000)
SIZE = Range(1)
RATE = Range(0, above=True)


def check_ranges(config: Any, ranges: Mapping[str, Range]) -> None:
    """Refuses numbers that nothing can be done with, before anything is done.

    Args:
      config: a dataclass; options that are None are left out.
      ranges: by option, what it, or each number in it, may be.

    Raises:
      ValueError: one is out of range, or there is none where there should be some.
    """
    for name, allowed in ranges.items():
        given = getattr(config, name)
        if given == ():
            raise ValueError(
                f"{flag(name)} must be one or more numbers; got none. Pass some, each of them "
                f"{allowed}."
            )
        for value in given if isinstance(given, tuple) else (given,):
            if value is not None and value not in allowed:
                such = allowed.low + 1 if allowed.above else allowed.low
                raise ValueError(
                    f"{flag(name)} must be {allowed}; got {value}. Pass one that is, such as "
                    f"{such:g}, or leave the option out."
                )


def flag(name: str) -> str:
    """An option as it is typed."""
    return "--" + name.replace("_", "-")


def display(console: Console) -> Progress:
    """Bars with what is being done and for how long."""
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TimeElapsedColumn())
    return Progress(*columns, console=console)


def plain(value: Any) -> Any:
    """Numbers as JSON has them: six digits, and null for what is not finite."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, np.ndarray) and value.ndim:
        return [plain(inner) for inner in value]
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def use_one_thread_for_lapack() -> None:
    """Call before the first decomposition; what the environment already says stays.

    The library behind `jnp.linalg.qr` on a CPU starts threads from 128 columns on, and on cores
    that other work shares they wait for each other far longer than they compute.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def use_compilation_cache() -> None:
    """Keeps compiled programs for later runs, in JAX_COMPILATION_CACHE_DIR or the user's cache."""
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(caches / "rnn_jax"))
    # JAX by itself keeps only what took a second; an experiment is many smaller programs.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
