"""The table of docs/cells/index.md: what each cell is, what it claims, what is measured of it."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.flatten_util import ravel_pytree
from rich.console import Console

import rnn_jax as rj
from benchmarks.report import markdown_table
from benchmarks.timing import Timing
from rnn_jax.cells.claims import claim
from rnn_jax.cells.linear import linear_form

PAGE = Path(__file__).parents[1] / "docs" / "cells" / "index.md"
BEGIN, END = "<!-- written by python -m benchmarks.cells --docs -->", "<!-- end of the table -->"

# Of a sequence; and before it, so that no state is that at the start, and again so that changes of
# the state have turned to where they grow most.
STEPS, WARMUP = 200, 64
THRESHOLD = 0.01
MEASURED = ("training step, ms", "horizon", "λ₁")
# Above this many numbers in a carry, Jacobians are estimated: formed, they would take gigabytes.
_LARGE = 2048


def description(cell: rj.RNNCell) -> dict[str, str]:
    """What is known of a cell without measuring it; the cell may be an abstract one."""
    return {
        "parameters": _parameters(cell),
        "carry": _carry(cell),
        "linear": "–" if (form := linear_form(cell)) is None else form.kind,
        "diagonal": claim(cell, "diagonal_part") or "–",
        "source": source(type(cell)),
    }


def source(cell: type) -> str:
    """Authors and year of the first reference in a class's docstring."""
    _, _, references = (cell.__doc__ or "").partition("References:")
    found = re.search(r'^(.*?), "[^"]*", (\d{4})', " ".join(references.split()))
    if found is None:
        raise ValueError(
            f'the docstring of {cell.__name__} must name its source as Authors, "Title", year; got '
            f"{references.strip()!r}."
        )
    authors = re.split(r", | and ", found[1])
    surnames = [author.split(". ")[-1] for author in authors]
    if len(surnames) > 2:
        return f"{surnames[0]} et al., {found[2]}"
    return f"{' and '.join(surnames)}, {found[2]}"


def horizon_and_exponent(cell: rj.RNNCell) -> tuple[str, str]:
    """The horizon in steps and λ₁ in nats a step, for normal inputs."""
    xs = jax.random.normal(jax.random.key(1), (2 * WARMUP + STEPS, cell.in_features))
    carry, _ = rj.unroll(cell, xs[:WARMUP])
    later, about = xs[-STEPS:], ""
    if sum(leaf.size for leaf in jax.tree.leaves(carry)) > _LARGE:
        about = "≈ "
        estimates = rj.estimate_jacobian_log_norms(
            cell, later, carry, key=jax.random.key(2), probes=8, targets=np.arange(STEPS)
        )
        flow = rj.GradientFlow(estimates.values)
    else:
        flow = rj.gradient_flow(cell, later, carry, measures=[])
    horizon = int(flow.horizon(THRESHOLD))
    at_least = "≥ " if horizon == STEPS - 1 else ""
    growth = growth_of_a_change(cell, xs[WARMUP:], carry)[WARMUP:]
    return f"{at_least or about}{horizon}", _signed(float(np.mean(growth)))


@jax.jit
def growth_of_a_change(cell: rj.RNNCell, xs: jax.Array, carry: Any) -> jax.Array:
    """ln of the growth of a small change of the carry in each step, (T,), from a random one on.

    The mean of it is λ₁. A frame that starts on axes of the state would not do: where units, or
    modules of them, see themselves alone it stays there, and finds their exponents for the largest.
    """
    flat, unravel = ravel_pytree(carry)

    def body(at: Any, x: jax.Array) -> tuple[Any, jax.Array]:
        carry, change = at
        after, moved = jax.jvp(lambda carry: cell(carry, x)[0], (carry,), (unravel(change),))
        change, _ = ravel_pytree(moved)
        size = jnp.linalg.norm(change)
        return (after, change / jnp.where(size > 0, size, 1)), jnp.log(size)

    change = jax.random.normal(jax.random.key(3), flat.shape)
    return jax.lax.scan(body, (carry, change / jnp.linalg.norm(change)), xs)[1]


def measured(
    cells: Mapping[str, rj.RNNCell], steps: Mapping[str, Timing], console: Console
) -> dict[str, dict[str, str]]:
    """What is measured of each cell, by name and column; shows on a console how far it is."""
    columns = {}
    for name, cell in cells.items():
        with console.status(f"horizon and exponent of {name}"):
            values = (f"{steps[name].best:.1f}", *horizon_and_exponent(cell))
        columns[name] = dict(zip(MEASURED, values, strict=True))
    return columns


def write_page(
    cells: Mapping[str, rj.RNNCell],
    values: Mapping[str, Mapping[str, str]] | None = None,
    where: Mapping[str, str] | None = None,
) -> Path:
    """Replaces the table of the page.

    Args:
      cells: by name, of the size that the table is for; abstract ones will do.
      values: what is `measured` of them; None keeps what the page has, "–" for a new cell.
      where: the machine that measured it, with versions and date; None keeps what the page says.

    Returns:
      The page's path.
    """
    known = written_rows() if values is None else values
    rows = {}
    for name, cell in cells.items():
        columns = description(cell)
        last = {"source": columns.pop("source")}
        found = {column: known.get(name, {}).get(column, "–") for column in MEASURED}
        rows[f"`{name}`"] = columns | found | last
    before, old, after = _parts()
    if where is None:
        lines = [line for line in old.splitlines() if line and not line.startswith("|")]
    else:
        lines = [
            f"Measured on {where['machine']}, with {where['versions']}, on {where['date']}; cells "
            "with their defaults, I = 2 and H = 128, as `rngs=nnx.Rngs(0)` draws them."
        ]
    table = markdown_table(rows, "cell", words=("carry", "linear", "diagonal", "source"))
    inside = "\n\n".join([BEGIN, table, *lines, END])
    PAGE.write_text(before + inside + after, encoding="utf-8")
    return PAGE


def written_rows() -> dict[str, dict[str, str]]:
    """The table that stands on the page, by cell and column."""
    lines = [line for line in _parts()[1].splitlines() if line.startswith("|")]
    if not lines:
        return {}
    head, _, *rows = ([part.strip() for part in line.strip("|").split("|")] for line in lines)
    return {row[0].strip("`"): dict(zip(head[1:], row[1:], strict=True)) for row in rows}


def _parts() -> tuple[str, str, str]:
    """The page before its table, the table with what is said of it, and the page after it."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    inside, _, after = rest.partition(END)
    return before, inside, after


def _parameters(cell: rj.RNNCell) -> str:
    """How many are trained, and how many numbers are fixed."""
    variables = jax.tree.leaves(cell, is_leaf=lambda node: isinstance(node, nnx.Variable))
    counts = [sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(v)) for v in variables]
    trained = [isinstance(variable, nnx.Param) for variable in variables]
    free = sum(n for n, is_trained in zip(counts, trained, strict=True) if is_trained)
    fixed = sum(counts) - free
    return _grouped(free) + (f" ({_grouped(fixed)} fixed)" if fixed else "")


def _carry(cell: rj.RNNCell) -> str:
    """The parts of the carry of one sequence, and their shapes."""
    carry = jax.eval_shape(lambda: cell.initialize_carry((cell.in_features,)))
    parts = [leaf.shape for leaf in jax.tree.leaves(carry)]
    sizes = ["×".join(map(str, shape)) for shape in parts]
    return ", ".join(f"{n} {size}" for n, size in zip(cell.carry_parts, sizes, strict=True))


def _grouped(number: int) -> str:
    return f"{number:,}".replace(",", " ")


def _signed(number: float) -> str:
    if math.isinf(number):
        return "−∞" if number < 0 else "∞"
    text = f"{number:.3f}"
    return "0.000" if float(text) == 0 else text.replace("-", "−")
