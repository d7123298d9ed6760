"""Checkpoints on disk by Orbax, each with a digest of its own numbers."""

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rnn_jax.checks import is_key

Notes = dict[str, Any]

# The last, and the one before it in case the last is damaged.
_KEPT = 2


class Checkpoints:
    """The checkpoints of one run, written in the background and complete or not there at all.

    Args:
      folder: absolute; it need not exist.
      read_only: leave all as it is, because a run may be writing there.
    """

    def __init__(self, folder: Path, *, read_only: bool = False):
        # Here and not above: importing the package must stay light.
        import orbax.checkpoint as ocp

        self.folder = folder
        self._ocp, self._read_only = ocp, read_only
        self._manager: Any = None
        self._open()

    def _open(self) -> None:
        ocp = self._ocp
        options = ocp.CheckpointManagerOptions(
            max_to_keep=_KEPT,
            enable_async_checkpointing=not self._read_only,
            cleanup_tmp_directories=not self._read_only,
            read_only=self._read_only,
            create=False,
            multiprocessing_options=_alone(),
        )
        if not self._read_only:
            self.folder.mkdir(parents=True, exist_ok=True)
        absl = logging.getLogger("absl")
        level = absl.level
        if self._read_only:
            absl.setLevel(logging.ERROR)  # It warns of options that reading does not use.
        try:
            self._manager = ocp.CheckpointManager(self.folder, options=options)
        finally:
            absl.setLevel(level)

    def save(self, step: int, state: Any, notes: Notes) -> None:
        """Begins to write; what went wrong with the one before is raised here.

        Raises:
          OSError: the disk is full, or cannot be written; earlier checkpoints are as they were.
        """
        arrays = to_arrays(state)
        notes = {**notes, "step": step, "digest": digest(arrays)}
        composite = self._ocp.args.Composite(
            state=self._ocp.args.StandardSave(arrays), notes=self._ocp.args.JsonSave(notes)
        )
        self._guarded(lambda: self._manager.save(step, args=composite, force=True))

    def steps(self) -> list[int]:
        """Of the complete checkpoints, the latest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def load(self, step: int, like: Any) -> tuple[Any, Notes]:
        """(state, notes) of one checkpoint.

        Raises:
          ValueError: as `read`, or it is not of the form of `like`.
        """
        arrays, notes = self.read(step)
        return from_arrays(arrays, like), notes

    def read(self, step: int) -> tuple[dict[str, np.ndarray], Notes]:
        """(arrays by their paths, notes) of one checkpoint.

        Raises:
          ValueError: it cannot be read, or its numbers are not those that were written.
        """
        ocp = self._ocp
        composite = ocp.args.Composite(
            state=ocp.args.StandardRestore(), notes=ocp.args.JsonRestore()
        )
        try:
            found = self._manager.restore(step, args=composite)
            arrays, notes = dict(found.state), dict(found.notes)
        except Exception as error:  # Damage shows as whatever the layer that meets it raises.
            raise ValueError(f"it cannot be read: {_first_line(error)}") from error
        if notes.get("digest") != digest(arrays):
            raise ValueError("its numbers are not those that were written")
        if not all(isinstance(notes.get(name), dict) for name in ("metrics", "probes")):
            raise ValueError("its notes are of another version of this package")
        return arrays, notes

    def set_aside(self, step: int) -> Path:
        """Moves a checkpoint that cannot be used out of the way, and returns where it is."""
        # Orbax would delete the oldest ones to make room, and refuse to write this step again.
        target = self.folder.parent / "damaged" / str(step)
        while target.exists():
            target = target.with_name(target.name + "+")
        target.parent.mkdir(exist_ok=True)
        (self.folder / str(step)).rename(target)
        self._manager.close()
        self._open()
        return target

    def close(self) -> None:
        """Waits for what was begun and gives all up."""
        self._guarded(self._manager.close)

    def _guarded(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except Exception as error:  # TensorStore reports a full disk as a ValueError.
            raise OSError(
                f"a checkpoint could not be written to {self.folder}: {_first_line(error)}. "
                "Earlier checkpoints are as they were; make room or access, and run the same "
                "command again."
            ) from error


def write_once(folder: Path, state: Any, notes: Notes) -> None:
    """A state and what is known of it, outside the series: `state` by Orbax, `notes.json`."""
    import orbax.checkpoint as ocp

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "notes.json").write_text(json.dumps(notes, indent=2) + "\n")
    with ocp.StandardCheckpointer(multiprocessing_options=_alone()) as checkpointer:
        checkpointer.save(folder / "state", to_arrays(state), force=True)


def _alone() -> Any:
    """Only the first process writes: what others hold reaches it over the network."""
    import orbax.checkpoint as ocp

    here = jax.process_index()
    return ocp.options.MultiprocessingOptions(primary_host=here, active_processes={here})


def to_arrays(tree: Any) -> dict[str, np.ndarray]:
    """The leaves of a pytree by their paths; random keys as their bits."""
    return {name: _storable(leaf) for name, leaf in named_leaves(tree)}


def from_arrays(arrays: dict[str, Any], like: Any) -> Any:
    """The inverse of `to_arrays`, for a pytree of the form of `like`.

    Raises:
      ValueError: names, shapes or types are others.
    """
    expected = to_arrays(like)
    differing = sorted(set(expected) ^ set(arrays)) or [
        name
        for name, leaf in expected.items()
        if (leaf.shape, leaf.dtype) != (np.shape(arrays[name]), np.asarray(arrays[name]).dtype)
    ]
    if differing:
        raise ValueError(f"its arrays are not those of this run, first {differing[0]}")
    leaves = [_as_leaf(np.asarray(arrays[name]), leaf) for name, leaf in named_leaves(like)]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """(path, leaf) of every leaf, such as ("model.cells.0.kernel", …)."""
    return [
        (jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value"), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def digest(arrays: dict[str, Any]) -> str:
    """SHA-256 of names, types, shapes and bytes."""
    found = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        found.update(f"{name} {array.dtype} {np.shape(arrays[name])}\n".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def _storable(leaf: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf)


def _as_leaf(array: np.ndarray, like: Any) -> Any:
    if not is_key(like):
        return array
    return jax.random.wrap_key_data(jax.numpy.asarray(array), impl=jax.random.key_impl(like))


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]
