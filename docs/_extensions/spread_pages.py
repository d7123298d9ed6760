"""Deals the pages out to the processes that read them, so that each gets notebooks to execute.

Sphinx hands out runs of neighbours in alphabetical order: all of `learn/` would go to one process.
"""

from typing import Any

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.parallel import make_chunks


def deal(app: Sphinx, environment: BuildEnvironment, pages: list[str]) -> None:
    """Puts the pages of each folder into as many runs as Sphinx makes of them all."""
    runs = len(make_chunks(pages, app.parallel))
    pages[:] = [page for first in range(runs) for page in pages[first::runs]]


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers the extension."""
    app.connect("env-before-read-docs", deal)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
