"""The state of the source that a run is made with: commits, and what is not committed."""

import subprocess
from pathlib import Path
from typing import Any, NamedTuple

# Seconds; a run must not wait long for a question about its surroundings.
_PATIENCE = 20


class Repository(NamedTuple):
    """A working tree under git.

    Attributes:
      folder: its top level.
      commit: what is checked out.
    """

    folder: Path
    commit: str


def repositories() -> list[Repository]:
    """That of this package and that of the working folder, where they lie in one; each once."""
    found = [_repository_of(folder) for folder in (Path(__file__).parent, Path.cwd())]
    return list(dict.fromkeys(repository for repository in found if repository is not None))


def state() -> list[dict[str, Any]]:
    """Folder, commit and whether there is nothing uncommitted, of each of `repositories`."""
    return [
        {
            "folder": str(folder),
            "commit": commit,
            "clean": _ask(folder, "status", "--porcelain") == b"",
        }
        for folder, commit in repositories()
    ]


def uncommitted() -> dict[str, bytes]:
    """What leads from the commits to the files as they are, as patches by name of the repository.

    Of files that git does not know, those of Python are taken: the rest may be data of any size.
    """
    patches: dict[str, bytes] = {}
    for folder, _ in repositories():
        patch = (_ask(folder, "diff", "HEAD") or b"") + _unknown_to_git(folder)
        if patch:
            name = folder.name if folder.name not in patches else f"{folder.name}-2"
            patches[name] = patch
    return patches


def _unknown_to_git(folder: Path) -> bytes:
    listed = _ask(folder, "ls-files", "-z", "--others", "--exclude-standard", "--", "*.py") or b""
    files = [file.decode(errors="surrogateescape") for file in listed.split(b"\0") if file]
    # Comparing says 1 where there is a difference, and there always is.
    patches = (_ask(folder, "diff", "--no-index", "--", "/dev/null", f, fine=1) for f in files)
    return b"".join(patch for patch in patches if patch is not None)


def _repository_of(folder: Path) -> Repository | None:
    told = _ask(folder, "rev-parse", "--show-toplevel", "HEAD")
    if told is None:
        return None
    top, commit = told.decode(errors="surrogateescape").strip().rsplit("\n", 1)
    return Repository(Path(top), commit)


def _ask(folder: Path, *words: str, fine: int = 0) -> bytes | None:
    """What git says in this folder; None if it does not end with 0 or the status `fine`."""
    try:
        asked = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, timeout=_PATIENCE
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return asked.stdout if asked.returncode in (0, fine) else None
