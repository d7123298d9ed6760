"""Cells and tasks by the names that are typed."""

import dataclasses
import inspect
import itertools
import re
from collections.abc import Callable, Mapping
from typing import Any

from flax import nnx

import rnn_jax as rj
from learning.cell_options import CellOptions, cells

CELLS: dict[str, type[Any]] = cells()


def _typed(name: str) -> str:
    """CopyMemory as copy-memory, SequentialMNIST as sequential-mnist."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()


TASKS: dict[str, type[Any]] = {
    _typed(kind.__name__): kind
    for kind in vars(rj.tasks).values()
    if inspect.isclass(kind) and dataclasses.is_dataclass(kind) and hasattr(kind, "sample")
}


def choose(what: str, name: str, among: Mapping[str, Any]) -> Any:
    """What a name stands for.

    Raises:
      ValueError: no such name.
    """
    if name not in among:
        raise ValueError(f"unknown {what} {name!r}; there are {', '.join(sorted(among))}.")
    return among[name]


def make_model(
    cell: CellOptions, task: Any, hidden: int, layers: int
) -> Callable[[nnx.Rngs], rj.SequenceModel]:
    """A function that builds a stack of cells with a readout that fits the task."""

    def make(rngs: nnx.Rngs) -> rj.SequenceModel:
        sizes = [task.in_features, *[hidden] * layers]
        cells = [cell.build(below, above, rngs) for below, above in itertools.pairwise(sizes)]
        return rj.SequenceModel(cells, task.out_features, readout=task.readout, rngs=rngs)

    return make
