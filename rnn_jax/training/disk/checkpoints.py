"""Checkpoints: the arrays of a state in one file, which is whole or not there at all.

    rnn_jax checkpoint 2                                  a line
    {"notes": {…}, "arrays": [[name, type, shape], …]}    a line of JSON
    the bytes of these arrays, one after the other        little-endian, C order
    SHA-256 of all before, hexadecimal                    a line

Types are NumPy's names and those that ml_dtypes adds, such as bfloat16; random keys are stored as
their bits.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rnn_jax.checks import is_key
from rnn_jax.training.disk.files import (
    PART,
    make_folder,
    reason,
    sync_folder,
    unsealed,
    write_whole,
)
from rnn_jax.training.disk.records import plain

Notes = dict[str, Any]
Arrays = dict[str, np.ndarray]

_FIRST_LINE = b"rnn_jax checkpoint 2\n"
# As `path` writes them: 007.ckpt is none, and would be looked for as 7.ckpt.
_NAME = re.compile(r"(0|[1-9][0-9]*)\.ckpt")

# The last, and the one before it in case the last is damaged.
_KEPT = 2


class Checkpoints:
    """The checkpoints of one run, `<step>.ckpt` in a folder of their own.

    Args:
      folder: absolute; it need not exist.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def steps(self) -> list[int]:
        """Of the checkpoints that there are, the latest first."""
        paths = self.folder.iterdir() if self.folder.is_dir() else ()
        names = [path.name for path in paths if path.exists()]  # A link may lead nowhere.
        found = [match for match in map(_NAME.fullmatch, names) if match is not None]
        return sorted((int(match[1]) for match in found), reverse=True)

    def save(self, step: int, state: Any, notes: Notes) -> None:
        """Writes a checkpoint, and drops all but the last two; on the disk when this returns.

        Raises:
          OSError: the disk is full, or cannot be written; earlier checkpoints are as they were.
        """
        try:
            self._clear()
            write_checkpoint(self.path(step), to_arrays(state), {**notes, "step": step})
            for old in self.steps()[_KEPT:]:
                self.path(old).unlink()
        except OSError as error:
            raise OSError(
                f"a checkpoint could not be written to {self.folder}: {reason(error)}. Earlier "
                "checkpoints are as they were; make room or access, and run the same command again."
            ) from error

    def load(self, step: int, like: Any) -> tuple[Any, Notes]:
        """(state, notes) of one checkpoint.

        Raises:
          ValueError: as `read`, or it is not of the form of `like`.
        """
        arrays, notes = self.read(step)
        return from_arrays(arrays, like), notes

    def read(self, step: int) -> tuple[Arrays, Notes]:
        """(arrays by their paths, notes) of one checkpoint.

        Raises:
          ValueError: it cannot be read, or is not what was written.
          FileNotFoundError: it is not there.
          PermissionError: it may not be read.
        """
        arrays, notes = read_checkpoint(self.path(step))
        if notes.get("step") != step:
            raise ValueError(f"it is that of step {notes.get('step')}")
        if not all(isinstance(notes.get(name), dict) for name in ("metrics", "probes")):
            raise ValueError("its notes do not say which rows belong to it")
        return arrays, notes

    def path(self, step: int) -> Path:
        """Of one checkpoint."""
        return self.folder / f"{step}.ckpt"

    def _clear(self) -> None:
        """Makes the folder, and room: what a killed process had begun is of no use."""
        if not self.folder.is_dir():
            make_folder(self.folder)
            sync_folder(self.folder.parent)
        for part in self.folder.iterdir():
            if part.name.endswith(PART) and not part.is_dir():
                part.unlink()


def set_aside(path: Path, run: Path) -> Path:
    """Moves what lies in the folder of a run to its damaged/; says where it is."""
    target = make_folder(run / "damaged") / path.name
    while target.exists():
        target = target.with_name(target.name + "+")
    return Path(shutil.move(path, target))  # Checkpoints may lie on another disk.


def write_checkpoint(path: Path, arrays: Arrays, notes: Notes) -> None:
    """Writes one file.

    Raises:
      OSError: the disk is full, or cannot be written; the path holds what it held before.
    """
    forms = [[name, array.dtype.name, list(array.shape)] for name, array in arrays.items()]
    header = json.dumps(plain({"notes": notes, "arrays": forms}), allow_nan=False)

    pieces = [_FIRST_LINE, f"{header}\n".encode(), *map(_bytes_of, arrays.values())]
    write_whole(path, pieces, sealed=True)


def read_checkpoint(path: Path) -> tuple[Arrays, Notes]:
    """(arrays by their names, notes) of one file.

    Raises:
      ValueError: it cannot be read, or is not what was written.
      FileNotFoundError: it is not there.
      PermissionError: it may not be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise
    except PermissionError as error:
        raise PermissionError(
            f"{path} cannot be read: {reason(error)}. Get access to it."
        ) from error
    except OSError as error:
        raise ValueError(f"it cannot be read: {reason(error)}") from error
    if not content.startswith(_FIRST_LINE):
        raise ValueError("it does not begin as a checkpoint of this package does")
    body = unsealed(content)
    start = len(_FIRST_LINE)
    end = content.index(b"\n", start)
    header = json.loads(content[start:end])
    arrays, offset = {}, end + 1
    for name, dtype, shape in header["arrays"]:
        form = np.dtype(dtype)
        count = int(np.prod(shape, dtype=np.int64))
        packed = np.frombuffer(body, form, count, offset) if count else np.empty(0, form)
        arrays[name] = packed.reshape(shape).copy()
        offset += count * form.itemsize
    return arrays, header["notes"]


def to_arrays(tree: Any) -> Arrays:
    """The leaves of a pytree by their paths; random keys as their bits."""
    return {name: _storable(leaf) for name, leaf in named_leaves(tree)}


def from_arrays(arrays: Arrays, like: Any) -> Any:
    """The inverse of `to_arrays`, for a pytree of the form of `like`.

    Raises:
      ValueError: names, shapes or types are others.
    """
    expected = named_leaves(like)
    forms = {name: form_of(leaf) for name, leaf in expected}
    unlike = form_differences({name: form_of(array) for name, array in arrays.items()}, forms)
    if unlike:
        raise ValueError(f"its arrays are not those of this run: {'; '.join(unlike)}")
    leaves = [_as_leaf(arrays[name], leaf) for name, leaf in expected]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


Form = tuple[str, tuple[int, ...]]


def form_of(leaf: Any) -> Form:
    """(type, shape) in which an array is stored."""
    if is_key(leaf):
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    return (np.dtype(leaf.dtype).name, tuple(leaf.shape))


def form_differences(there: dict[str, Form], here: dict[str, Form]) -> list[str]:
    """In which arrays two states differ, in words; the first few."""
    found = []
    for name in [*here, *(name for name in there if name not in here)]:
        before, now = there.get(name), here.get(name)
        if before != now:
            found.append(f"{name} is {_words(before)} there, {_words(now)} here")
    return found[:3] + ([f"and {len(found) - 3} more"] if len(found) > 3 else [])


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """(path, leaf) of every leaf, such as ("model.cells.0.kernel", …); no path comes twice."""
    seen: dict[str, int] = {}
    found = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")
        # {"a": {"b": x}, "a.b": y} has two leaves whose paths read alike.
        seen[name] = count = seen.get(name, 0) + 1
        found.append((name if count == 1 else f"{name}#{count}", leaf))
    return found


def _words(form: Form | None) -> str:
    return "missing" if form is None else f"{form[0]}{list(form[1])}"


def _storable(leaf: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf)


def _bytes_of(array: np.ndarray) -> bytes | memoryview:
    """Of an array of any type: those of ml_dtypes have no buffers of their own."""
    if not array.size:
        return b""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _as_leaf(array: np.ndarray, like: Any) -> Any:
    if not is_key(like):
        return array
    return jax.random.wrap_key_data(jax.numpy.asarray(array), impl=jax.random.key_impl(like))
