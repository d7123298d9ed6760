"""The table of cells against modes, from the tables that the tests sweep."""

import inspect
import sys
from pathlib import Path

import jax
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import rnn_jax as rj
from rnn_jax.cells.structure import fused_form
from rnn_jax.gradients.explain.wide_networks import THEORIES
from rnn_jax.sequence.running.platforms import why_no_kernel

TESTS = Path(__file__).parents[2] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "cells")]

import test_laws_of_cells as laws  # noqa: E402
import test_mixed_precision as mixed  # noqa: E402

# Each column that a law stands behind.
COLUMNS = {
    "jvp": "forward and reverse",
    "grad": "gradient",
    "second order": "second derivative",
    "vmap": "vmap",
    "lengths, resets": "lengths and resets",
    "fused": "fused form",
}


def rows() -> dict[str, list[bool]]:
    """Whether each cell has each mode, by class: `COLUMNS`, bfloat16, a theory, and a kernel.

    Raises:
      ValueError: the tests sweep no cell of a public class.
    """
    narrow = {type(mixed.make(name)).__name__ for name in mixed.BUILD}
    found = {}
    for name in laws.CLAIMS:
        if name in laws.VARIANTS:
            continue
        cell = laws.EVERY[name](laws.IN, laws.H, 0)
        kind = type(cell).__name__
        held = [_holds(name, law) for law in COLUMNS.values()]
        found[kind] = [*held, kind in narrow, type(cell) in THEORIES, has_kernel(cell)]
    if missing := cells() - set(found):
        raise ValueError(
            "every cell of rnn_jax has a row in the feature matrix; tests/cells/"
            f"test_laws_of_cells.py sweeps none of {', '.join(sorted(missing))}. Add it to CLAIMS."
        )
    return found


def cells() -> set[str]:
    """The names of all public cells; wrappers are cells only with one in them."""
    wrappers = (rj.RNNCell, rj.LearnedCarry, rj.RecurrentDropout, rj.Zoneout)
    public = {name: getattr(rj.cells, name) for name in rj.cells.__all__}
    return {
        name
        for name, value in public.items()
        if inspect.isclass(value) and issubclass(value, rj.RNNCell) and value not in wrappers
    }


def has_kernel(cell: rj.RNNCell) -> bool:
    """Whether a cell in float32 is one kernel on an NVIDIA GPU, by the kernels' own rule."""
    form = fused_form(jax.tree.map(lambda leaf: leaf.astype("float32"), cell))
    if form is None:
        return False
    dtypes = {kernel.dtype for kernel in form.kernels}
    return why_no_kernel(form.mathematics, dtypes, None, form.product_type) is None


def _holds(name: str, law: str) -> bool:
    # The sweep asserts laws on claims for the cells in its table, and all others for every cell.
    return law not in laws.ABOUT_CLAIMS or law in laws.CLAIMS[name]


class FeatureMatrix(SphinxDirective):
    """The table, where a page asks for it."""

    def run(self) -> list[nodes.Node]:
        """The nodes of the table."""
        head = ["Cell", *COLUMNS, "bfloat16", "mean field", "GPU kernel"]
        lines = ["| " + " | ".join(head) + " |", "|---" + "|:-:" * (len(head) - 1) + "|"]
        for kind, marks in sorted(rows().items()):
            link = f"[{kind}](cells/{kind}.md)"
            lines.append("| " + " | ".join([link, *("✓" if one else "" for one in marks)]) + " |")
        parent = nodes.container()
        self.state.nested_parse(StringList(lines), self.content_offset, parent)
        for table in parent.findall(nodes.table):
            table["classes"].append("features")
        return parent.children


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("feature-matrix", FeatureMatrix)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
