"""A run in a folder, which survives the process."""

import contextlib
import json
import time
import warnings
from pathlib import Path
from typing import Any

from rnn_jax.training.disk import configuration
from rnn_jax.training.disk.checkpoints import (
    Checkpoints,
    set_aside,
    to_arrays,
    write_checkpoint,
)
from rnn_jax.training.disk.files import locked, make_folder, reason, write_whole
from rnn_jax.training.disk.journal import Journal
from rnn_jax.training.disk.records import START, Position, Records, Row, plain
from rnn_jax.training.disk.surroundings import surroundings, versions
from rnn_jax.training.step import TrainState

# What a folder without config.json may not hold: it would be some other run's.
_OF_A_RUN = (
    "metrics.jsonl",
    "probes.jsonl",
    "sessions.jsonl",
    "checkpoints",
    "nonfinite",
    "damaged",
)

# Training between two checkpoints takes at least so many times as long as writing one.
_LEAST_WORK = 20


class RunDirectory(Journal):
    """A folder that holds all of one run, and lets only one call at a time write to it.

    config.json     what the run is: enough to repeat it, and to refuse another one here
    metrics.jsonl   a row for each evaluation; equal, byte for byte, however often it was killed
    probes.jsonl    a row for each measurement of a probe
    sessions.jsonl  a row for each call that worked here: when, where, from and to which step
    checkpoints/    the last two states: models, best models, optimiser, status; of a `Loader` the
                    place in the data
    uncommitted-*   of each git repository in use, its changes since the commit that config.json
                    names; only of files under git, no others are copied
    nonfinite/      last finite states of members that failed
    damaged/        what could not be read

    A checkpoint is there before the first row is, so rows without one are rows whose checkpoints
    were lost, and are not written over.

    Args:
      path: of the folder, taken literally; made if need be.
      description: of the run, from `configuration.describe`.
      key_data: bits of the random keys, kept in each checkpoint.
      resume: go on with the run that the folder holds; False refuses one.
      seconds: at least between two checkpoints.

    Raises:
      FileExistsError: the folder holds a run and `resume` is False.
      ValueError: it holds another run, or one whose files are damaged or incomplete.
      OSError: it cannot be written, or another call is training there.
    """

    def __init__(
        self, path: Path, description: Row, key_data: Any, *, resume: bool, seconds: float
    ):
        super().__init__()
        # A relative one must not follow a caller who goes to another folder meanwhile.
        self.path: Path = path.absolute()
        self._key_data, self._seconds = key_data, seconds
        self._saved_at, self._pause = time.monotonic(), seconds
        self._restored = False
        self._checkpoints = Checkpoints(self.path / "checkpoints")
        with contextlib.ExitStack() as undone:
            undone.enter_context(locked(make_folder(self.path)))
            self._identify(description, resume)
            self._metrics, self._probes, self._sessions = (
                undone.enter_context(contextlib.closing(Records(self.path / name)))
                for name in ("metrics.jsonl", "probes.jsonl", "sessions.jsonl")
            )
            self._open = undone.pop_all()

    def restore(self, start: TrainState, position: Any = None) -> tuple[TrainState, int]:
        """The latest checkpoint that can be read; one that cannot is set aside, with a warning.

        Raises:
          ValueError: there are checkpoints and none can be read, or there are rows and none.
        """
        state, step = self._latest(start, position)
        session = {
            "event": "start",
            "at": _now(),
            "from_step": step,
            "versions": versions(),
            **surroundings(),
        }
        self._sessions.write([session])
        self._restored = True
        return state, step

    def record(self, metric_rows: list[Row], probe_rows: list[Row]) -> None:
        """Adds rows; they are on the disk when this returns."""
        super().record(metric_rows, probe_rows)
        self._metrics.write(metric_rows)
        self._probes.write(probe_rows)

    def save_is_due(self) -> bool:
        """Whether enough seconds have passed since the last time."""
        return time.monotonic() - self._saved_at >= self._pause

    def save(self, step: int, state: TrainState, position: Any = None) -> None:
        """Writes a checkpoint of all that was recorded so far; on the disk when this returns."""
        notes = {
            "metrics": self._metrics.position,
            "probes": self._probes.position,
            "key": plain(self._key_data),
            "data": position,
        }
        begun = time.monotonic()
        self._checkpoints.save(step, state, notes)
        self._saved_at = time.monotonic()
        if self._seconds:  # And 0 is a checkpoint for each evaluation, whatever that takes.
            self._pause = max(self._seconds, _LEAST_WORK * (self._saved_at - begun))

    def keep_failed(self, name: str, state: TrainState, notes: dict[str, Any]) -> Path:
        """Keeps a member's last finite state for inspection; says where."""
        folder = self.path / "nonfinite" / name
        try:
            make_folder(folder)
            write_checkpoint(folder / "state.ckpt", to_arrays(state), notes)
            text = json.dumps(plain(notes), indent=2) + "\n"
            write_whole(folder / "notes.json", [text.encode()])
        except OSError as error:
            raise OSError(
                f"the last state of a member that failed could not be written to {folder}: "
                f"{reason(error)}. Make room or access, and run the same command again."
            ) from error
        return folder

    def close(self, how: str, step: int) -> None:
        """Notes how the run was left, and lets others in."""
        with self._open:
            if self._restored:
                self._sessions.write([{"event": "end", "at": _now(), "to_step": step, "how": how}])

    def _identify(self, description: Row, resume: bool) -> None:
        """Writes config.json, or compares the run with the one that it describes."""
        if not (self.path / "config.json").exists():
            taken = [name for name in _OF_A_RUN if (self.path / name).exists()]
            if taken:
                raise ValueError(
                    f"{self.path} holds {' and '.join(taken)} but no config.json, so which run "
                    "they are of is not known. Bring it back, or pass another directory."
                )
            configuration.write_config(self.path, description)
            return
        if not resume:
            raise FileExistsError(
                f"{self.path} already holds a run. Pass resume=True to go on with it, or another "
                "directory."
            )
        unlike = configuration.differences(configuration.read_config(self.path), description)
        if unlike:
            raise ValueError(
                f"{self.path} holds another run, which this one must not overwrite: "
                f"{'; '.join(unlike)}. Start it as it was, or pass another directory."
            )

    def _latest(self, start: TrainState, position: Any) -> tuple[TrainState, int]:
        """Nothing is moved or cut before it is known what to go on from."""
        unusable: dict[int, str] = {}
        whole = False
        for step in self._checkpoints.steps():
            try:
                state, notes = self._checkpoints.load(step, start)
                whole = True
                self._metrics.check(notes["metrics"])
                self._probes.check(notes["probes"])
            except ValueError as error:
                unusable[step] = str(error)
                continue
            self._set_aside(unusable)
            self._cut(notes["metrics"], notes["probes"])
            self.data_position = notes.get("data")
            return state, step
        if unusable:
            self._refuse(unusable, whole)
        self._begin(start, position)
        return start, 0

    def _begin(self, start: TrainState, position: Any) -> None:
        """The first checkpoint, before the first row."""
        rows = [file.path.name for file in (self._metrics, self._probes) if file.size()]
        if rows:
            raise ValueError(
                f"{self.path} holds rows in {' and '.join(rows)} but no checkpoint to go on from, "
                "and training from the beginning would write over them. Nothing was changed. "
                f"Bring the folder checkpoints back to go on, move {' and '.join(rows)} elsewhere "
                "to begin again, or pass another directory."
            )
        self._cut(START, START)
        self.save(0, start, position)

    def _refuse(self, unusable: dict[int, str], whole: bool) -> None:
        """Says what is wrong; if no state is left, makes way for a new beginning."""
        said = "; ".join(f"step {step}: {why}" for step, why in unusable.items())
        if whole:
            raise ValueError(
                f"no checkpoint in {self.path} can be used ({said}). Nothing was changed, and "
                "restore still reads the models; bring the files back to go on, or pass another "
                "directory."
            )
        # The rows first: as long as a checkpoint is there, nothing begins from the start.
        for file in (self._metrics, self._probes):
            if file.path.exists():
                set_aside(file.path, self.path)
        self._set_aside(unusable)
        raise ValueError(
            f"no checkpoint in {self.path} can be used ({said}). They lie in its folder damaged/, "
            "with metrics.jsonl and probes.jsonl; start the same command once more to train from "
            "the beginning, or pass another directory."
        )

    def _set_aside(self, unusable: dict[int, str]) -> None:
        for step, why in unusable.items():
            where = set_aside(self._checkpoints.path(step), self.path)
            warnings.warn(
                f"the checkpoint of step {step} cannot be used: {why}. It now lies in {where}.",
                stacklevel=2,
            )

    def _cut(self, metrics: Position, probes: Position) -> None:
        self.metric_rows, self.probe_rows = self._metrics.cut(metrics), self._probes.cut(probes)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
