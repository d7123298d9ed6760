"""Runs published results, keeps what came out, and goes on where it was stopped."""

import dataclasses
import json
import math
import os
import platform
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from launching import plain
from published.record import Finding, Outcome, Progress, Result


@dataclass(frozen=True)
class Record:
    """An outcome as it is kept.

    Attributes:
      name: of the result.
      config: the protocol that was run.
      machine: on what.
      seconds: how long it took.
      outcome: what came out.
    """

    name: str
    config: dict[str, Any]
    machine: str
    seconds: float
    outcome: Outcome


def machine() -> str:
    """What the results are measured on."""
    device = jax.devices()[0].device_kind
    return f"{device} ({platform.machine()}, {os.cpu_count()} cores), jax {jax.__version__}"


def choose_within(results: Sequence[Result], minutes: float) -> list[Result]:
    """As many results as fit into the time, the shortest first, in their own order."""
    chosen: set[str] = set()
    for result in sorted(results, key=lambda result: result.minutes):
        if result.minutes <= minutes:
            chosen.add(result.name)
            minutes -= result.minutes
    return [result for result in results if result.name in chosen]


def run(result: Result, config: Any, progress: Progress) -> Record:
    """Runs one result in JAX's ordinary mode; those that need float64 turn it on themselves."""
    start = time.perf_counter()
    outcome = result.run(config, progress)
    seconds = time.perf_counter() - start
    # Each result has programs of its own; kept, they fill the process's memory map.
    jax.clear_caches()
    return Record(result.name, plain(config), machine(), round(seconds, 1), outcome)


def keep(record: Record, folder: Path) -> None:
    """Writes a record whole or not at all."""
    path = _file(folder, record.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(_json(record), encoding="utf-8")
    part.replace(path)
    path.with_suffix(".error.txt").unlink(missing_ok=True)


def kept(results: Sequence[Result], folder: Path) -> dict[str, Record]:
    """The record of each result that has one, by name, whatever its protocol was.

    Raises:
      ValueError: there is a file, and it is no record.
    """
    found = ((result.name, _kept(result.name, folder)) for result in results)
    return {name: record for name, record in found if record is not None}


def _kept(name: str, folder: Path) -> Record | None:
    path = _file(folder, name)
    if not path.exists():
        return None
    try:
        return _read(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} must hold the outcome of {name}; it cannot be read ({error!r}). Remove the "
            "file, and it is measured again."
        ) from None


def is_of(record: Record, protocol: Any) -> bool:
    """Whether it is the outcome of this very protocol."""
    return bool(record.config == plain(protocol))


def keep_error(name: str, error: Exception, folder: Path) -> Path:
    """Writes the traceback of what ended a result, beside the outcomes."""
    path = _file(folder, name).with_suffix(".error.txt")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    return path


def write_all(records: Sequence[Record], folder: Path) -> None:
    """outcomes.json: every record that there is."""
    part = folder / "outcomes.json.part"
    part.write_text(f"[{','.join(map(_json, records))}]\n", encoding="utf-8")
    part.replace(folder / "outcomes.json")


def _file(folder: Path, name: str) -> Path:
    return folder / "outcomes" / f"{name}.json"


def _json(record: Record) -> str:
    numbers = {**dataclasses.asdict(record), "verdict": record.outcome.verdict}
    numbers["outcome"]["findings"] = [
        {key: _exact(value) for key, value in finding.items()}
        for finding in numbers["outcome"]["findings"]
    ]
    numbers["outcome"]["curves"] = plain(numbers["outcome"]["curves"])
    return json.dumps(numbers, indent=1, ensure_ascii=False, allow_nan=False)


def _exact(value: Any) -> Any:
    """A number to its last digit; in words where JSON has none."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _read(numbers: dict[str, Any]) -> Record:
    outcome = numbers["outcome"]
    findings = tuple(
        Finding(
            **{
                **found,
                "published": float(found["published"]),
                "measured": float(found["measured"]),
            }
        )
        for found in outcome["findings"]
    )
    fields = {field.name: numbers[field.name] for field in dataclasses.fields(Record)}
    return Record(**{**fields, "outcome": Outcome(**{**outcome, "findings": findings})})
