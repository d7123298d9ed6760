"""Where a run's rows and states go: into memory, or into a folder that survives the process."""

import contextlib
import json
import os
import shutil
import time
import warnings
from pathlib import Path
from typing import Any

from rnn_jax.training.disk import configuration, source
from rnn_jax.training.disk.checkpoints import Checkpoints, write_once
from rnn_jax.training.disk.records import START, Position, Records, Row, plain
from rnn_jax.training.step import TrainState


class Journal:
    """Rows in memory: a run that leaves nothing on disk.

    Attributes:
      rows: of metrics.
      found: of probes.
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.found: list[Row] = []

    def restore(self, start: TrainState) -> tuple[TrainState, int]:
        """(state, training steps done) to go on from: `start` and 0 if there is no checkpoint."""
        return start, 0

    def record(self, rows: list[Row], found: list[Row]) -> None:
        """Adds rows of metrics and of probes."""
        self.rows += rows
        self.found += found

    def save_is_due(self) -> bool:
        """Whether it is time to keep the state."""
        return False

    def save(self, step: int, state: TrainState) -> None:
        """Keeps the state, so that a later process can go on from it."""

    def keep_failed(self, name: str, state: TrainState, notes: dict[str, Any]) -> Path | None:
        """Keeps a member's last finite state for inspection; says where."""
        return None

    def close(self, how: str, step: int) -> None:
        """Waits for the disk, and notes how the run was left."""


class RunDirectory(Journal):
    """A folder that holds all of one run, and lets only one process at a time write to it.

    config.json     what the run is: enough to repeat it, and to refuse another one here
    metrics.jsonl   a row for each evaluation; equal, byte for byte, however often it was killed
    probes.jsonl    a row for each measurement of a probe
    sessions.jsonl  a row for each process that worked here: when, where, from and to which step
    checkpoints/    the last two states: models, best models, optimiser, status
    nonfinite/      last finite states of members that failed
    damaged/        checkpoints that could not be read

    Args:
      path: of the folder; made if need be.
      description: of the run, from `configuration.describe`.
      key_data: bits of the random keys, kept in each checkpoint.
      resume: go on with the run that the folder holds; False refuses one.
      seconds: at least between two checkpoints.

    Raises:
      FileExistsError: the folder holds a run and `resume` is False.
      ValueError: it holds another run, or one whose files are damaged.
      OSError: it cannot be written, or another process is training there.
    """

    def __init__(
        self, path: Path, description: Row, key_data: Any, *, resume: bool, seconds: float
    ):
        super().__init__()
        self.path = path.absolute()
        self._key_data, self._seconds = key_data, seconds
        self._saved_at = time.monotonic()
        self._started = False
        with contextlib.ExitStack() as undone:
            undone.callback(os.close, _lock(_made(self.path)))
            self._enter(description, resume)
            self._metrics, self._probes, self._sessions = (
                undone.enter_context(contextlib.closing(Records(self.path / name)))
                for name in ("metrics.jsonl", "probes.jsonl", "sessions.jsonl")
            )
            self._checkpoints = Checkpoints(self.path / "checkpoints")
            self._open = undone.pop_all()

    def restore(self, start: TrainState) -> tuple[TrainState, int]:
        """The latest checkpoint that can be read; one that cannot is set aside, with a warning.

        Raises:
          ValueError: there are checkpoints and none can be read.
        """
        state, step = self._latest(start)
        session = {
            "event": "start",
            "at": _now(),
            "from_step": step,
            "versions": configuration.versions(),
            **configuration.surroundings(),
        }
        self._sessions.write([session])
        self._started = True
        return state, step

    def record(self, rows: list[Row], found: list[Row]) -> None:
        """Adds rows; they are on the disk when this returns."""
        super().record(rows, found)
        self._metrics.write(rows)
        self._probes.write(found)

    def save_is_due(self) -> bool:
        """Whether enough seconds have passed since the last time."""
        return time.monotonic() - self._saved_at >= self._seconds

    def save(self, step: int, state: TrainState) -> None:
        """Begins to write a checkpoint of all that was recorded so far."""
        notes = {
            "metrics": self._metrics.position,
            "probes": self._probes.position,
            "key": plain(self._key_data),
        }
        self._checkpoints.save(step, state, notes)
        self._saved_at = time.monotonic()

    def keep_failed(self, name: str, state: TrainState, notes: dict[str, Any]) -> Path:
        """Keeps a member's last finite state for inspection; says where."""
        folder = self.path / "nonfinite" / name
        write_once(folder, state, plain(notes))
        return folder

    def close(self, how: str, step: int) -> None:
        """Waits for the disk, and notes how the run was left."""
        with self._open:
            self._checkpoints.close()
            if self._started:
                self._sessions.write([{"event": "end", "at": _now(), "to_step": step, "how": how}])

    def _enter(self, description: Row, resume: bool) -> None:
        """Writes config.json, or compares the run with the one that it describes."""
        file = self.path / "config.json"
        if not file.exists():
            taken = [n for n in ("metrics.jsonl", "checkpoints") if (self.path / n).exists()]
            if taken:
                raise ValueError(
                    f"{self.path} holds {' and '.join(taken)} but no config.json, so it cannot be "
                    "told which run they are of. Bring it back, or pass another directory."
                )
            _write_config(self.path, description)
            return
        if not resume:
            raise FileExistsError(
                f"{self.path} already holds a run. Pass resume=True to go on with it, or another "
                "directory."
            )
        there = _read_config(file)
        here = {**description, "versions": configuration.versions()}
        unlike = configuration.differences(there, here)
        if unlike:
            raise ValueError(
                f"{self.path} holds another run, which this one must not overwrite: "
                f"{'; '.join(unlike)}. Start it as it was, or pass another directory."
            )

    def _latest(self, start: TrainState) -> tuple[TrainState, int]:
        """Nothing is moved or cut before it is known what to go on from."""
        troubles: dict[int, str] = {}
        readable = False
        for step in self._checkpoints.steps():
            try:
                state, notes = self._checkpoints.load(step, start)
                readable = True
                self._metrics.check(notes["metrics"])
                self._probes.check(notes["probes"])
            except ValueError as error:
                troubles[step] = str(error)
                continue
            self._set_aside(troubles)
            self._cut(notes["metrics"], notes["probes"])
            return state, step
        if not troubles:
            self._cut(START, START)
            return start, 0
        said = "; ".join(f"step {step}: {trouble}" for step, trouble in troubles.items())
        if readable:
            raise ValueError(
                f"no checkpoint in {self.path} can be used ({said}). Nothing was changed, and "
                "restore still reads the models; bring the files back to go on, or pass another "
                "directory."
            )
        self._set_aside(troubles)
        for file in (self._metrics, self._probes):
            shutil.copy2(file.path, self.path / "damaged")
        raise ValueError(
            f"no checkpoint in {self.path} can be used ({said}). They lie in its folder damaged/, "
            "with copies of metrics.jsonl and probes.jsonl; start the same command once more to "
            "train from the beginning, or pass another directory."
        )

    def _set_aside(self, troubles: dict[int, str]) -> None:
        for step, trouble in troubles.items():
            where = self._checkpoints.set_aside(step)
            warnings.warn(
                f"the checkpoint of step {step} cannot be used: {trouble}. It now lies in {where}.",
                stacklevel=2,
            )

    def _cut(self, metrics: Position, probes: Position) -> None:
        self.rows, self.found = self._metrics.cut(metrics), self._probes.cut(probes)


def _write_config(folder: Path, description: Row) -> None:
    """All at once, so that no half of it is ever seen.

    Raises:
      OSError: the disk is full, or cannot be written.
    """
    config = {
        "run": {**description, "versions": configuration.versions()},
        "surroundings": configuration.surroundings(),
    }
    draft = folder / "config.json.part"
    try:
        for repository, patch in source.uncommitted().items():
            (folder / f"uncommitted-{repository}.diff").write_bytes(patch)
        draft.write_text(json.dumps(plain(config), indent=2) + "\n")
        draft.replace(folder / "config.json")
    except OSError as error:
        raise OSError(
            f"the description of the run could not be written to {folder}: {error}. Make room or "
            "access, and run the same command again."
        ) from error


def _read_config(file: Path) -> Row:
    """The description of the run in it."""
    try:
        config = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(
            f"{file} is damaged: {error}. Bring it back, or pass another directory."
        ) from error
    run = config.get("run") if isinstance(config, dict) else None
    model = run.get("model") if isinstance(run, dict) else None
    if run is None or not isinstance(model, dict) or not isinstance(model.get("weights"), dict):
        raise ValueError(
            f"{file} is damaged: it describes no run. Bring it back, or pass another directory."
        )
    return run


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise type(error)(
            f"{folder} cannot be made a directory: {error.strerror}. Pass another directory."
        ) from error
    return folder


def _lock(folder: Path) -> int:
    """A lock that the system releases when this process ends, however it ends."""
    import fcntl  # Not on every platform that can import this package.

    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise OSError(
            f"another process is training in {folder}. Wait for it, or pass another directory."
        ) from error
    return descriptor
