"""Cells and tasks by the names that are typed, with their own options."""

import dataclasses
import inspect
import itertools
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from flax import nnx

import rnn_jax as rj

Initializer = Literal["orthogonal", "identity", "glorot_uniform", "lecun_normal", "zeros"]


@dataclass(frozen=True)
class SimpleOptions:
    """Options of the simple RNN."""

    activation: Literal["tanh", "sigmoid", "relu", "leaky_relu", "identity"] = "tanh"
    """φ."""
    recurrent_init: Initializer = "orthogonal"
    """How recurrent weights start; identity with relu is the IRNN."""

    def build(self, inputs: int, hidden: int, rngs: nnx.Rngs) -> rj.SimpleRNNCell:
        return rj.SimpleRNNCell(
            inputs,
            hidden,
            activation=self.activation,
            recurrent_kernel_init=self.recurrent_init,
            rngs=rngs,
        )


@dataclass(frozen=True)
class LSTMOptions:
    """Options of the LSTM."""

    forget_bias: float = 1.0
    """Added to the forget gate's bias at the start."""
    peephole: bool = False
    """Gates see the cell state."""
    coupled: bool = False
    """i = 1 − f."""
    recurrent_init: Initializer = "orthogonal"
    """How recurrent weights start, gate by gate."""

    def __post_init__(self) -> None:
        if not math.isfinite(self.forget_bias):
            raise ValueError(
                f"--cell.forget-bias must be a finite number; got {self.forget_bias}. Pass one, "
                "such as 1, or leave the option out."
            )

    def build(self, inputs: int, hidden: int, rngs: nnx.Rngs) -> rj.LSTMCell:
        return rj.LSTMCell(
            inputs,
            hidden,
            forget_bias=self.forget_bias,
            peephole=self.peephole,
            coupled=self.coupled,
            recurrent_kernel_init=self.recurrent_init,
            rngs=rngs,
        )


@dataclass(frozen=True)
class GRUOptions:
    """Options of the GRU."""

    reset_after: bool = True
    """The reset gate acts after the recurrent product, as in cuDNN."""
    recurrent_init: Initializer = "orthogonal"
    """How recurrent weights start, gate by gate."""

    def build(self, inputs: int, hidden: int, rngs: nnx.Rngs) -> rj.GRUCell:
        return rj.GRUCell(
            inputs,
            hidden,
            reset_after=self.reset_after,
            recurrent_kernel_init=self.recurrent_init,
            rngs=rngs,
        )


CellOptions = SimpleOptions | LSTMOptions | GRUOptions
CELLS: dict[str, type[CellOptions]] = {
    "simple": SimpleOptions,
    "lstm": LSTMOptions,
    "gru": GRUOptions,
}


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
