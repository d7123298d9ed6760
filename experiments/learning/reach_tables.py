"""What `experiments/compare.py` writes and prints."""

import datetime
import json
import math
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from launching import plain
from learning.comparison import RATES, Outcome
from learning.rank_statistics import RESAMPLES, Estimate, kendall
from learning.verdicts import (
    FEWEST,
    MEASURES,
    Ranked,
    Verdict,
    across_lengths,
    by_problem,
    correlation,
    superior,
)

VERDICT_COLUMNS = (
    "hypothesis",
    "statement",
    "verdict",
    "estimate",
    "95 % interval",
    "supported above",
    "refuted below",
)


def number(value: float) -> str:
    """Two digits with a sign; an en dash for what is not defined."""
    return "–" if math.isnan(value) else f"{value:+.2f}".replace("-", "−")


def interval(estimate: Estimate) -> str:
    """From … to …."""
    if math.isnan(estimate.value):
        return "–"
    return f"{number(estimate.low)} to {number(estimate.high)}"


def both(estimate: Estimate) -> str:
    """The estimate with its interval in brackets."""
    if math.isnan(estimate.value):
        return "–"
    return f"{number(estimate.value)} ({interval(estimate)})"


def verdict_rows(verdicts: Sequence[Verdict]) -> list[tuple[str, ...]]:
    """One row for each hypothesis; signs where no effect is 0, and not of a probability."""
    return [
        (
            v.name,
            v.says,
            v.verdict,
            *(
                text if v.null == 0 else text.replace("+", "")
                for text in (number(v.estimate.value), interval(v.estimate))
            ),
            f"{v.null:g}",
            f"{v.weak:g}",
        )
        for v in verdicts
    ]


def measure_rows(ranks: Ranked) -> list[tuple[str, ...]]:
    """What each measure before training is worth, and the length alone."""
    rows = [
        (
            name,
            both(correlation(ranks, name)),
            both(correlation(ranks, name, statistic=kendall)),
            both(superior(ranks, name)).replace("+", ""),
            both(across_lengths(ranks, name)),
        )
        for name in MEASURES
    ]
    return [
        *rows,
        ("length alone, shorter first", "–", "–", "–", both(across_lengths(ranks, None))),
    ]


def problem_rows(ranks: Ranked) -> list[tuple[str, ...]]:
    """Each problem: how many networks solve it, and what reach says of it."""
    return [
        (task, str(length), f"{solved.sum()} of {solved.size}", both(estimate))
        for (task, length), solved, estimate in zip(
            ranks.problems, ranks.solved, by_problem(ranks, "reach"), strict=True
        )
    ]


def kind_rows(ranks: Ranked) -> list[tuple[str, ...]]:
    """Each kind of network: how far its gradients reach, and how much of the problems it solves."""
    rows: list[tuple[str, ...]] = []
    for kind in dict.fromkeys(ranks.kinds):
        own = [index for index, name in enumerate(ranks.kinds) if name == kind]
        reach, solved = ranks.measures["reach"][:, own], ranks.solved[:, own]
        share = f"{solved.sum()} of {solved.size}"
        rows.append((kind, str(len(own)), _finite(float(np.median(reach)), ".1f"), share))
    return rows


def network_columns(ranks: Ranked) -> tuple[str, ...]:
    """The head of the table of networks."""
    last = max(length for _, length in ranks.problems)
    problems = (f"{task} {length}" for task, length in ranks.problems)
    return ("network", "kind", f"reach, T = {last}", f"horizon, T = {last}", "|λ₁|", *problems)


def network_rows(outcomes: Sequence[Outcome], ranks: Ranked) -> list[tuple[str, ...]]:
    """Each network: medians before training, and how it learnt; the fastest first."""
    last = max(length for _, length in ranks.problems)
    order = np.argsort(-ranks.learning.mean(0), kind="stable")
    rows = []
    for index in order:
        name = ranks.networks[index]
        own = {(o.task, o.length): o for o in outcomes if o.network == name}
        first = next(own[problem] for problem in ranks.problems if problem[1] == last)
        row = next(i for i, problem in enumerate(ranks.problems) if problem[1] == last)
        rows.append(
            (
                name,
                ranks.kinds[index],
                _finite(ranks.measures["reach"][row, index], ".1f"),
                f"{np.median(first.horizon):.0f}",
                _finite(-ranks.measures["−|λ₁|"][row, index], ".3f"),
                *(_learnt(own[problem]) for problem in ranks.problems),
            )
        )
    return rows


def _finite(value: float, form: str) -> str:
    # With z what rounds to 0 has no sign.
    return format(value, f"z{form}").replace("-", "−") if math.isfinite(value) else "−∞"


def _learnt(outcome: Outcome) -> str:
    """Seeds that solved it: their median steps; or the median share of the loss that is left."""
    solved = [at for at in outcome.solved_at if at is not None]
    if solved:
        return f"{len(solved)}: {np.median(solved):.0f}"
    left = float(np.median([1.0 if loss is None else loss for loss in outcome.loss]))
    return f"0: {min(left, 9.99):.0%}"


def write(
    settings: dict[str, Any],
    outcomes: Sequence[Outcome],
    ranks: Ranked,
    verdicts: Sequence[Verdict],
    table: Path,
    rows: Path,
) -> None:
    """The tables in Markdown, and every number in JSON."""
    where = f"{platform.machine()}, {os.cpu_count()} cores; JAX on {jax.devices()[0].device_kind}"
    about = facts(settings, outcomes, ranks)
    lines = [
        "# Does gradient reach predict learning?",
        "",
        f"Written by `python experiments/compare.py` on {where}, with Python "
        f"{platform.python_version()} and jax {jax.__version__}, on {datetime.date.today()}.",
        "",
        f"Intervals: 95 %, {RESAMPLES} bootstrap draws of whole networks. Learning rates of Adam "
        f"from {', '.join(f'{rate:g}' for rate in RATES)}.",
        "",
        *_table(("fact", "value"), about),
        "",
        "Hypotheses, as written in `compare.py` before the run:",
        "",
        *_table(VERDICT_COLUMNS, verdict_rows(verdicts)),
        "",
        "Measures before training: mean over problems of the rank correlation with learning, the "
        "probability of superiority of a network that solves a problem over one that does not, "
        "and ρ over the networks and lengths of a task together.",
        "",
        *_table(
            ("measure", "Spearman's ρ", "Kendall's τ", "superiority", "ρ across lengths"),
            measure_rows(ranks),
        ),
        "",
        "Each problem:",
        "",
        *_table(("task", "T", "networks that solve it", "ρ of reach"), problem_rows(ranks)),
        "",
        "Each kind of network, the median over networks and problems:",
        "",
        *_table(("kind", "how many", "median reach", "problems solved"), kind_rows(ranks)),
        "",
        "Each network: reach (nats), horizon (steps) and |λ₁| (nats a step) before training, then "
        "seeds that solved a problem and their median steps, or the median share of the loss "
        "without memory that is left; the best learner first.",
        "",
        *_table(network_columns(ranks), network_rows(outcomes, ranks)),
    ]
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    numbers = {"config": settings, "facts": dict(about), "verdicts": verdicts}
    text = json.dumps(plain(numbers), ensure_ascii=False, indent=1)
    # A line for each row keeps the file small and its changes readable.
    listed = ",\n".join(json.dumps(plain(row), ensure_ascii=False) for row in outcomes)
    rows.write_text(f'{text[:-2]},\n "rows": [\n{listed}\n]}}\n', encoding="utf-8")


def facts(
    settings: dict[str, Any], outcomes: Sequence[Outcome], ranks: Ranked
) -> list[tuple[str, str]]:
    """Sizes of the study, by name."""
    tasks = dict.fromkeys(task for task, _ in ranks.problems)
    lengths = sorted({length for _, length in ranks.problems})
    planned = len(settings["tasks"]) * len(settings["lengths"])
    return [
        ("networks", str(len(ranks.networks))),
        ("cells", str(len({outcome.cell for outcome in outcomes}))),
        ("seeds", str(settings["seeds"])),
        ("hidden units", str(settings["hidden"])),
        ("batch size", str(settings["batch_size"])),
        ("training steps", str(settings["steps"])),
        ("tasks", ", ".join(tasks)),
        ("lengths", ", ".join(map(str, lengths))),
        ("problems", f"{len(ranks.problems)} of {planned} planned"),
        ("processor minutes", f"{sum(outcome.seconds for outcome in outcomes) / 60:.0f}"),
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        _line(head),
        "|" + "---|" * len(head),
        *map(_line, rows),
    ]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def show(console: Console, ranks: Ranked, verdicts: Sequence[Verdict]) -> None:
    """The answers."""
    problems = ", ".join(f"{task} {length}" for task, length in ranks.problems)
    table = Table(
        title=f"{len(ranks.networks)} networks; {problems}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    # Without what each is held against, which stands in the file.
    for column in ("", "", *VERDICT_COLUMNS[2:5]):
        table.add_column(column)
    for row in verdict_rows(verdicts):
        table.add_row(*row[:5])
    console.print(table)
    if len(ranks.networks) < FEWEST:
        console.print(f"Fewer than {FEWEST} networks are too few to correlate anything.")
    for name, spearman, *_ in measure_rows(ranks)[:-1]:
        console.print(f"{name}: mean rank correlation with learning {spearman}", highlight=False)
