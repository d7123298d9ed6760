"""What a step takes beside what it must take: exchange, arithmetic, memory."""

from typing import NamedTuple

from benchmarks.gpu import exchange
from benchmarks.gpu.candidates import KINDS, Shape
from benchmarks.gpu.recurrences import (
    FORWARD,
    GRADIENT,
    MORE_FORWARD,
    MORE_GRADIENT,
    MORE_SHAPES,
    SHAPES,
    label,
)
from benchmarks.gpu.results import Results

TITLE = "Beside the floor"
NOTE = (
    "Microseconds a time step, the best round of the kernel at JAX's default precision, beside "
    "what it cannot be without: an exchange between blocks in each direction where one block's "
    "shared memory does not hold the weights (as measured above, with no more blocks than "
    "needed), and the larger of arithmetic at the card's published peak for dense TF32 and of "
    "memory traffic at its published bandwidth. Of the traffic there is what a gradient without "
    "recomputation must move: inputs, outputs, what is saved of each step, and the cotangents of "
    "its pre-activations. The last column is what reading the weights in each step would cost "
    "at that bandwidth, which the kernels do not do."
)
COLUMNS = (
    "kernel",
    "floor",
    "kernel ÷ floor",
    "exchange",
    "arithmetic",
    "memory",
    "weights, were they read",
)


class Peaks(NamedTuple):
    """Published peaks of a card.

    Attributes:
      tf32: dense TFLOP/s of TF32 products.
      bandwidth: of the memory, TB/s.
      shared_memory: kibibytes that a block may have.
      source: where these stand.
    """

    tf32: float
    bandwidth: float
    shared_memory: float
    source: str


# By compute capability and a word of the card's name; figures with sparsity are halved.
PEAKS = {
    ("9.0", "H200"): Peaks(494.7, 4.8, 227, "NVIDIA H200 Tensor Core GPU datasheet, SXM"),
    ("9.0", "H100"): Peaks(494.7, 3.35, 227, "NVIDIA H100 Tensor Core GPU datasheet, SXM"),
    ("8.0", "A100"): Peaks(156.0, 2.039, 163, "NVIDIA A100 Tensor Core GPU datasheet, 80 GB SXM"),
}

# Blocks of pre-activations that are products with the state; that there are in all; and arrays
# that a step saves for the gradient beside its output.
_PRODUCTS = {"LSTM": 4, "GRU": 3, "simple RNN": 1}
_PRE = {"LSTM": 4, "GRU": 4, "simple RNN": 1}
_SAVED = {"LSTM": 5, "GRU": 4, "simple RNN": 1}


def peaks_of(device: str, capability: str) -> Peaks | None:
    """The peaks of a card; None where they are not listed here."""
    for (generation, name), peaks in PEAKS.items():
        if generation == capability and name in device:
            return peaks
    return None


def flops(kind: str, shape: Shape, *, gradient: bool) -> float:
    """Operations of a step: the products with state and input; and, backward, their transposes."""
    batch, _, features, size = shape
    columns = _PRODUCTS[kind] * size
    forward = 2 * batch * (size + features) * columns
    # Backward: the cotangent of the state, and the weights' gradient.
    return forward + (2 * batch * size * columns + forward if gradient else 0)


def traffic(kind: str, shape: Shape, *, gradient: bool) -> float:
    """Bytes of a step that must be read or written, all in float32."""
    batch, _, features, size = shape
    numbers = batch * (features + size)
    if gradient:
        # Saved arrays and cotangents are written and read; states and inputs are read again.
        numbers += batch * (2 * (_SAVED[kind] + _PRE[kind]) * size + size + features)
    return 4.0 * numbers


def weight_bytes(kind: str, shape: Shape) -> float:
    """Of W_h, which every step needs."""
    size = shape[3]
    return 4.0 * size * _PRODUCTS[kind] * size


def rows(results: Results, peaks: Peaks) -> dict[str, list[str]]:
    """The table's cells by row, of all rows whose kernel was measured."""
    found: dict[str, list[str]] = {}
    for gradient, titles in ((True, (GRADIENT, MORE_GRADIENT)), (False, (FORWARD, MORE_FORWARD))):
        for title, shapes in zip(titles, (SHAPES, MORE_SHAPES), strict=True):
            for shape in shapes:
                for kind in KINDS:
                    record = results.get(title, label(kind, shape))
                    best = record and record["cells"].get("kernel", {}).get("best")
                    if best:
                        name = f"{label(kind, shape)}, {'gradient' if gradient else 'forward'}"
                        found[name] = _row(results, peaks, kind, shape, gradient, best)
    return found


def _row(
    results: Results, peaks: Peaks, kind: str, shape: Shape, gradient: bool, best: float
) -> list[str]:
    taken = 1e3 * best / shape[1]
    arithmetic = flops(kind, shape, gradient=gradient) / peaks.tf32 / 1e6
    memory = traffic(kind, shape, gradient=gradient) / peaks.bandwidth / 1e6
    weights = weight_bytes(kind, shape) / peaks.bandwidth / 1e6 * (2 if gradient else 1)
    handed = _exchange(results, peaks, kind, shape, gradient)
    numbers = [f"{x:.2f}" for x in (arithmetic, memory, weights)]
    if handed is None:
        return [f"{taken:.2f}", "–", "–", "not measured", *numbers]
    floor = handed + max(arithmetic, memory)
    return [f"{taken:.2f}", f"{floor:.2f}", f"{taken / floor:.1f}", f"{handed:.2f}", *numbers]


def _exchange(
    results: Results, peaks: Peaks, kind: str, shape: Shape, gradient: bool
) -> float | None:
    """Microseconds of the exchanges of a step; None if they were not measured."""
    needed = weight_bytes(kind, shape) / (1024 * peaks.shared_memory)
    if needed <= 1:
        return 0.0
    blocks = next((count for count in exchange.BLOCKS if count >= needed), exchange.BLOCKS[-1])
    record = results.get(exchange.TITLE, f"{blocks} blocks")
    microseconds = record and record["cells"]["one tile"].get("microseconds")
    return None if not microseconds else microseconds * (2 if gradient else 1)
