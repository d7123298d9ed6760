"""The catalogue of cells: directives that show what is known and measured of each cell.

    ```{cell-picture} LSTMCell     the gradient map and the curve by lag
    ```{cell-facts} LSTMCell       carry, structure, measured numbers, source; constructor
    ```{cell-claims} LSTMCell      what papers claim of gradients, and what was measured
    ```{cell-wall}                 all gradient maps, small, by family

Cells are measured and drawn once, before the first page is read, in a process of its own
(`cell_maps.py`), and again only when the package or that file changes. A cell without a page, or a
page without a cell, ends the build.
"""

import hashlib
import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from docutils import nodes
from public_names import GROUPS
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

from benchmarks.cells import every_cell
from results import ROOT, Rows, row, table

MAPS = "cells/maps"
MEASURE = Path(__file__).parent / "cell_maps.py"
CLAIMS = "experiments/RESULTS_CELLS.md"
TIMES = "benchmarks/RESULTS_CELLS.md"
COMMON = ("in_features", "hidden_features", "dtype", "carry_dtype", "param_dtype", "rngs")


def entries(source: Path) -> set[str]:
    """The names of the pages of the catalogue."""
    return {page.stem for page in (source / "cells").glob("*.md")} - {"index"}


def check_entries(source: Path) -> None:
    """Each cell has a page, and each page a cell.

    Raises:
      ExtensionError: otherwise.
    """
    cells, pages = set(every_cell()), entries(source)
    if cells != pages:
        raise ExtensionError(
            f"docs/cells must have one page for each cell; cells without a page: "
            f"{sorted(cells - pages)}, pages without a cell: {sorted(pages - cells)}. Write or "
            "delete docs/cells/NAME.md, and list it in docs/cells/index.md."
        )


def digest() -> str:
    """Of all that the pictures depend on."""
    found = hashlib.sha256()
    for file in sorted([*(ROOT / "rnn_jax").rglob("*.py"), MEASURE]):
        found.update(file.read_bytes())
    for library in ("jax", "flax", "matplotlib"):
        found.update(version(library).encode())
    return found.hexdigest()


def draw(app: Sphinx) -> None:
    """Measures and draws all cells, unless that was done of the same package."""
    check_entries(Path(app.srcdir))
    folder = Path(app.srcdir) / MAPS
    mark, now = folder / "digest", digest()
    if not mark.exists() or mark.read_text(encoding="utf-8") != now:
        done = subprocess.run(
            [sys.executable, str(MEASURE), str(folder)], capture_output=True, text=True
        )
        if done.returncode or done.stderr:
            raise ExtensionError(f"{MEASURE.name} must draw all cells; it said:\n{done.stderr}")
        mark.write_text(now, encoding="utf-8")


class CellDirective(SphinxDirective):
    """Of one cell, whose name is its argument."""

    required_arguments = 1

    @property
    def folder(self) -> Path:
        """Of the pictures."""
        return Path(self.env.srcdir) / MAPS

    def measured(self) -> dict[str, Any]:
        """What `cell_maps.py` found; the page is read again when that changes."""
        self.env.note_dependency(str(self.folder / "cells.json"))
        found: dict[str, Any] = json.loads((self.folder / "cells.json").read_text(encoding="utf-8"))
        return found

    def numbers(self, file: str, containing: str) -> Rows:
        """A table of a committed results file."""
        self.env.note_dependency(str(ROOT / file))
        return table(file, containing=containing)

    def cell(self) -> tuple[str, dict[str, Any]]:
        """The name, and what is known of it."""
        (name,) = self.arguments
        known = self.measured()["cells"]
        if name not in known:
            raise self.error(f"{self.name} must name a cell, one of {list(known)}; got {name!r}.")
        return name, known[name]


class CellPicture(CellDirective):
    """The gradient map beside the curve by lag."""

    def run(self) -> list[nodes.Node]:
        name, cell = self.cell()
        measured = self.measured()
        panels = []
        for what, words in (
            ("map", f"Gradient map of {name}, every pair of output step t and input step s"),
            ("curve", f"Mean over steps and its range by lag, for {name}: {said(cell, measured)}"),
        ):
            svg = (self.folder / f"{name}-{what}.svg").read_text(encoding="utf-8")
            panels.append(svg.replace("<svg", f'<svg role="img" aria-label="{words}"', 1))
        figure = nodes.container(classes=["cell-picture"])
        figure += nodes.raw("", "\n".join(panels), format="html")
        caption = (
            "$\\ln\\|\\partial y_t/\\partial x_s\\|$ at initialization, above its mean at lag 0; "
            f"H = {measured['hidden']}, normal inputs, one seed; {said(cell, measured)}. "
            "The colors are those of every cell."
        )
        return [figure, *self.parse_text_to_nodes(caption)]


class CellFacts(CellDirective):
    """What the cell says of itself, what was measured at the size of the table, and defaults."""

    def run(self) -> list[nodes.Node]:
        name, cell = self.cell()
        numbers = row(self.numbers("docs/cells/index.md", "horizon"), "cell", name)
        products = row(self.numbers(TIMES, "its products alone"), "cell", name)
        ratio = products["step / products"].split(" ")[0]
        times = "" if ratio == "–" else f", {ratio} of its matrix products alone"
        rows = {
            "Carry, H = 128": cell["carry"],
            "Parameters, I = 2, H = 128": cell["parameters"],
            "Fused form": fused(cell["stages"]),
            "Linear form": "no" if cell["linear"] == "–" else f"yes, {cell['linear']}",
            "Diagonal part of the carry": cell["diagonal"],
            "Gates": listed(cell["gates"]),
            "Memory path": listed(cell["memory_path"]),
            "Bound of one step": "yes, `jacobian_log_bound`" if cell["bound"] else "–",
            "Horizon, H = 128, T = 200": f"{numbers['horizon']} steps",
            "λ₁, H = 128": f"{numbers['λ₁']} nats a step",
            "Training step": f"{numbers['training step, ms']} ms{times}",
            "Source": cell["source"],
            "API": f"[`{name}`](../reference/api/{name}.md)",
            "Code": f"`{cell['module']}`",
        }
        lines = ["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())]
        return [*self.parse_text_to_nodes("\n".join(lines)), *self.constructor(name, cell)]

    def constructor(self, name: str, cell: dict[str, Any]) -> list[nodes.Node]:
        """The call with the defaults of what is the cell's own."""
        own = [part for part in cell["constructor"] if part.split("=")[0] not in COMMON]
        lines = [f"{name}(", "    in_features,", "    hidden_features,"]
        lines += [f"    {part}," for part in own]
        block = nodes.literal_block("", "\n".join([*lines, "    rngs,", ")"]), language="python")
        return [*self.parse_text_to_nodes("Options and their defaults:"), block]


class CellClaims(CellDirective):
    """The claims of papers that `experiments/cells.py` measures."""

    def run(self) -> list[nodes.Node]:
        name, _ = self.cell()
        claims = [
            claim
            for claim in self.numbers(CLAIMS, "verdict")
            if claim["cell"].split(" ")[0] == name
        ]
        if not claims:
            return self.parse_text_to_nodes(
                "No claim about its gradients is among those that `experiments/cells.py` measures."
            )
        lines = ["| claim | options | measured | verdict |", "|---|---|---|---|"]
        for claim in claims:
            setting = claim["cell"].partition(" ")[2].strip("()") or "defaults"
            cells = (claim["claim"], setting, claim["measured"], claim["verdict"])
            lines.append("| " + " | ".join(cells) + " |")
        lines += [
            "",
            "Measured by `experiments/cells.py` in float64 on untrained cells, H = 32, T = 200.",
        ]
        return self.parse_text_to_nodes("\n".join(lines))


class CellWall(CellDirective):
    """All gradient maps as small multiples, by family."""

    required_arguments = 0

    def run(self) -> list[nodes.Node]:
        measured = self.measured()
        (group,) = (group for group in GROUPS if group.slug == "cells")
        wall: list[nodes.Node] = []
        for section in group.sections:
            names = [name for name in section.names if name in measured["cells"]]
            if names:
                wall.append(nodes.rubric("", section.title))
                tiles = nodes.container(classes=["cell-wall"])
                tiles += [self.tile(name, measured) for name in names]
                wall.append(tiles)
        return wall

    def tile(self, name: str, measured: dict[str, Any]) -> nodes.Node:
        """A map with its name, which lead to the cell's page."""
        words = said(measured["cells"][name], measured)
        uri = self.env.app.builder.get_relative_uri(self.env.docname, f"cells/{name}")
        image = nodes.image(uri=f"/{MAPS}/{name}.png", alt=f"Gradient map of {name}: {words}")
        # A narrow tile breaks a long name between its parts.
        title = nodes.inline("", re.sub(r"(?<=[a-z])(?=[A-Z])|(?=Cell$)", "\u200b", name))
        link = nodes.reference("", "", image, title, refuri=uri, internal=True)
        return nodes.paragraph("", "", link, nodes.inline("", words), classes=["cell-tile"])


def said(cell: dict[str, Any], measured: dict[str, Any]) -> str:
    """The horizon in words."""
    at_least = "at least " if cell["horizon"] == measured["steps"] - 1 else ""
    steps = "step" if cell["horizon"] == 1 else "steps"
    return f"1 % is left after {at_least}{cell['horizon']} {steps}"


def fused(stages: int) -> str:
    """How a sequence is run and differentiated."""
    if not stages:
        return "no, scanned step by step"
    return f"yes, {stages} stage" + ("s" if stages > 1 else "")


def listed(names: list[str]) -> str:
    """Names with commas, or a dash."""
    return ", ".join(names) or "–"


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", draw)
    app.add_directive("cell-picture", CellPicture)
    app.add_directive("cell-facts", CellFacts)
    app.add_directive("cell-claims", CellClaims)
    app.add_directive("cell-wall", CellWall)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
