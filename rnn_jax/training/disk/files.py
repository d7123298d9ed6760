"""Files that are there whole or not at all, and a lock on the folder that they lie in."""

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rnn_jax.checks import kind_of

# What a file is called until all of it is on the disk.
PART = ".part"

# Of a seal: hexadecimal digits and the end of their line.
_SEAL = 2 * hashlib.sha256().digest_size + 1

_CHUNK = 1 << 20


def write_whole(path: Path, pieces: Iterable[bytes | memoryview], *, sealed: bool = False) -> None:
    """Writes a file beside its place, reads it back, and renames it.

    Whenever the process or the machine stops, the path holds what it held before or all that is
    new.

    Args:
      path: of the file.
      pieces: its content.
      sealed: end it by a line with the SHA-256 of all before, for `unsealed`.

    Raises:
      OSError: the disk is full, cannot be written, or does not give back what was written; the path
        holds what it held before.
    """
    part = path.with_name(path.name + PART)
    try:
        written = _write(part, pieces, sealed)
        if _digest_of(part) != written:
            raise OSError(errno.EIO, "the disk does not give back what was written to it")
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()  # What is not whole takes room from what is.
        raise
    sync_folder(path.parent)


def unsealed(content: bytes) -> memoryview:
    """A sealed file without its last line.

    Raises:
      ValueError: it is not what was written.
    """
    body, seal = memoryview(content)[:-_SEAL], content[-_SEAL:]
    if seal != _seal_of(hashlib.sha256(body)):
        raise ValueError("its bytes are not those that were written")
    return body


def write_all(descriptor: int, piece: bytes | memoryview) -> None:
    """All bytes of a piece: the system may take a part of them, and refuse the next part."""
    rest = memoryview(piece)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def sync_folder(folder: Path) -> None:
    """Names of files that were made, renamed or deleted in a folder survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # Some file systems cannot, and need not.
            raise
    finally:
        os.close(descriptor)


def folder_of(directory: str | Path) -> Path:
    """The folder that a user means: absolute, "~" as in a shell, and all else literally.

    Raises:
      TypeError: it is no path.
    """
    if not isinstance(directory, (str, Path)):
        raise TypeError(f"directory must be a path; got {kind_of(directory)}. Pass a str or Path.")
    try:
        path = Path(directory).expanduser()
    except RuntimeError:  # No user of that name, and a shell takes that literally too.
        path = Path(directory)
    return path.absolute()


def make_folder(folder: Path) -> Path:
    """The folder, made if need be.

    Raises:
      OSError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise type(error)(
            f"{folder} cannot be made a directory: {reason(error)}. Pass another directory."
        ) from error
    return folder


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps all others out of a folder; the system gives it back when this process ends.

    Raises:
      OSError: another call has it, it cannot be written, or the file system has no locks.
    """
    import fcntl  # Not on every platform that can import this package.

    try:
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise type(error)(
            f"{folder} cannot be written: {reason(error)}. Get access, or pass another directory."
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OSError(
                f"another process is training in {folder}, or another call of this one. Wait for "
                "it, or pass another directory."
            ) from error
        except OSError as error:
            raise OSError(
                f"{folder} cannot be locked against other processes: {reason(error)}. Pass a "
                "directory on a file system that has locks, and copy it afterwards."
            ) from error
        process = os.getpid()
        try:
            yield
        finally:
            # A process that was forked meanwhile shares the lock: it must not keep it from then on,
            # and must not give it back for the one that has it.
            if os.getpid() == process:
                fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def reason(error: BaseException) -> str:
    """Why something failed, in a line."""
    said = getattr(error, "strerror", None) or str(error)
    return next(iter(said.strip().splitlines()), type(error).__name__)[:300]


def _write(path: Path, pieces: Iterable[bytes | memoryview], sealed: bool) -> bytes:
    """The digest of what is on the disk when this returns."""
    digest = hashlib.sha256()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        for piece in pieces:
            write_all(descriptor, piece)
            digest.update(piece)
        if sealed:
            seal = _seal_of(digest)
            write_all(descriptor, seal)
            digest.update(seal)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return digest.digest()


def _digest_of(path: Path) -> bytes:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.digest()


def _seal_of(digest: Any) -> bytes:
    return f"{digest.hexdigest()}\n".encode()
