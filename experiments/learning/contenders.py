"""The networks that are compared: every cell of the package, and other starts of three of them."""

from dataclasses import dataclass, field
from typing import Any

from family.networks import Make, cell_names, make_network


@dataclass(frozen=True)
class Contender:
    """One network of the comparison.

    Attributes:
      cell: name of its class.
      kind: one of `KINDS`.
      options: what differs from the cell as `family.networks` has it.
    """

    cell: str
    kind: str
    options: dict[str, Any] = field(default_factory=dict)

    def network(self, hidden: int, task_name: str, task: Any) -> Make:
        """A function that builds one layer of the cell with a dense readout."""
        return make_network(self.cell, hidden, task_name, task, **self.options)


KINDS = ("gated", "not gated, dense", "norm-preserving or oscillating", "linear or diagonal")

_DENSE = ("SimpleRNNCell", "LeakyIntegratorCell", "EchoStateCell", "ClockworkRNNCell")
_CONSERVING = (
    "ExpRNNCell",
    "ScoRNNCell",
    "UnitaryRNNCell",
    "AntisymmetricRNNCell",
    "CoRNNCell",
    "UnICORNNCell",
)
_LINEAR = ("LRUCell", "S5Cell", "LMUCell", "IndRNNCell")


def kind_of_cell(cell: str) -> str:
    """Which of `KINDS` a class belongs to: gated unless it is listed elsewhere."""
    for kind, members in zip(KINDS[1:], (_DENSE, _CONSERVING, _LINEAR), strict=True):
        if cell in members:
            return kind
    return KINDS[0]


def _contenders() -> dict[str, Contender]:
    found = {
        cell.removesuffix("Cell"): Contender(cell, kind_of_cell(cell)) for cell in cell_names()
    }
    starts: dict[str, tuple[str, dict[str, Any]]] = {
        "SimpleRNN (Glorot)": ("SimpleRNNCell", {"recurrent_kernel_init": "glorot_uniform"}),
        "SimpleRNN (ReLU)": ("SimpleRNNCell", {"activation": "relu"}),
        "SimpleRNN (ReLU, identity)": (
            "SimpleRNNCell",
            {"activation": "relu", "recurrent_kernel_init": "identity"},
        ),
        "LSTM (forget bias 0)": ("LSTMCell", {"forget_bias": 0.0}),
        "LSTM (forget bias 5)": ("LSTMCell", {"forget_bias": 5.0}),
        "GRU (Glorot)": ("GRUCell", {"recurrent_kernel_init": "glorot_uniform"}),
    }
    for name, (cell, options) in starts.items():
        found[name] = Contender(cell, kind_of_cell(cell), options)
    return found


NETWORKS = _contenders()
