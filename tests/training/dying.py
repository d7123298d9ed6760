"""Death at a use of the disk, within a process: from then on nothing in a folder can be touched."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

# What changes a folder, or makes what was changed last.
USES = (
    *("open", "write", "fsync", "mkdir", "rename", "replace", "unlink", "rmdir"),
    *("truncate", "ftruncate"),
)


class Died(BaseException):
    """Nothing that tidies up after it can do so."""


class Life:
    """What was done, and whether it has ended.

    Attributes:
      uses: so far, as "write 7" or "rename checkpoints/2.ckpt.part".
    """

    def __init__(self, folder: Path, end: int | None):
        self.uses: list[str] = []
        self._folder, self._end = str(folder), end
        self._opened: set[int] = set()

    def use(self, name: str, original: Any, target: Any, *rest: Any, **options: Any) -> Any:
        """Calls the original, unless it is the last use of all: of a write, half of it is done."""
        own = target in self._opened if isinstance(target, int) else self._within(target)
        if not own:
            return original(target, *rest, **options)
        if self._end is not None and len(self.uses) >= self._end:
            if name == "write" and len(self.uses) == self._end:
                original(target, bytes(rest[0])[: len(rest[0]) // 2])
            self._end = 0
            raise Died
        self.uses.append(f"{name} {str(target).removeprefix(self._folder)}")
        found = original(target, *rest, **options)
        if name == "open":
            self._opened.add(found)
        return found

    def closed(self, descriptor: int) -> None:
        """Its number may come to be that of another file."""
        self._opened.discard(descriptor)

    def _within(self, path: Any) -> bool:
        return os.fspath(path).startswith(self._folder)


@contextlib.contextmanager
def life_in(folder: Path, end: int | None = None) -> Iterator[Life]:
    """Counts what is done in a folder, up to the use with the number `end`."""
    life = Life(folder, end)
    with contextlib.ExitStack() as stack:
        for name in USES:
            original = getattr(os, name)
            stack.enter_context(
                mock.patch.object(
                    os, name, lambda *a, _n=name, _o=original, **o: life.use(_n, _o, *a, **o)
                )
            )
        close = os.close

        def closing(descriptor: int) -> None:
            life.closed(descriptor)
            close(descriptor)

        stack.enter_context(mock.patch.object(os, "close", closing))
        yield life
