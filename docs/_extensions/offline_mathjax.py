"""Puts MathJax beside the pages, so that equations need no network."""

import shutil
from importlib.metadata import files
from pathlib import Path

from sphinx.application import Sphinx

SCRIPT = "tex-svg.js"  # One file: glyphs are paths in it, so no fonts are loaded.


def _copy(app: Sphinx, failure: Exception | None) -> None:
    if failure is not None or app.builder.format != "html":
        return
    (packed,) = (f for f in files("sphinx-mathjax-offline") or () if f.name == SCRIPT)
    target = Path(app.outdir) / "_static" / "mathjax"
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(str(packed.locate()), target / SCRIPT)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("build-finished", _copy)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
