"""The state of the source that a run is made with: commits, and what is not committed."""

import subprocess
from pathlib import Path
from typing import Any, NamedTuple

# Seconds; a run must not wait long for a question about its surroundings.
_PATIENCE = 20
# Whatever the user's own settings make of a difference.
_AS_A_PATCH = (
    *("--binary", "--full-index", "--no-color", "--no-ext-diff", "--no-textconv"),
    *("--src-prefix=a/", "--dst-prefix=b/"),
)


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
    folders = (Path(__file__).parent, working_folder())
    found = [_repository_of(folder) for folder in folders if folder is not None]
    return list(dict.fromkeys(repository for repository in found if repository is not None))


def working_folder() -> Path | None:
    """That of this process; None if it was deleted meanwhile."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return None


def state() -> list[dict[str, Any]]:
    """Folder, commit and whether that is all, of each of `repositories`.

    "clean" is False for changes since the commit, which `uncommitted` gives, and for files that git
    does not know, which nothing gives.
    """
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

    Only of files under git: others may hold anything, such as a password, and are nobody's to copy.
    """
    patches: dict[str, bytes] = {}
    for folder, _ in repositories():
        patch = _ask(folder, "diff", *_AS_A_PATCH, "HEAD")
        if patch:
            name = folder.name if folder.name not in patches else f"{folder.name}-2"
            patches[name] = patch
    return patches


def _repository_of(folder: Path) -> Repository | None:
    answer = _ask(folder, "rev-parse", "--show-toplevel", "HEAD")
    if answer is None:
        return None
    top, commit = answer.decode(errors="surrogateescape").strip().rsplit("\n", 1)
    return Repository(Path(top), commit)


def _ask(folder: Path, *words: str) -> bytes | None:
    """What git says in this folder; None if it fails."""
    # A question must not touch the index, which the user's own git may be using.
    command = ["git", "--no-optional-locks", "-C", str(folder), *words]
    try:
        answer = subprocess.run(command, capture_output=True, timeout=_PATIENCE)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout if answer.returncode == 0 else None
