"""The gradient of the summed outputs by all weights: what a training step spends its time on."""

from functools import partial

from benchmarks.peers import OURS, Shape, candidates, products
from benchmarks.timing import Benchmark, Row, ratio, time_in_turn

SHAPES: list[Shape] = [
    (64, 200, 2, 128),
    (16, 1000, 32, 256),
    (128, 100, 128, 512),
    (32, 200, 64, 128),
]

PEERS = ["rnn_jax", "Flax Linen", "Equinox", "PyTorch"]


def measure(kind: str, shape: Shape, rounds: int) -> Row:
    """Milliseconds of one gradient for ours and each peer, and of its bare products."""
    runs = candidates(kind, shape) | {"products": products(kind, shape)}
    row = time_in_turn(runs, rounds=rounds)
    named = {name: row.get(name, "–") for name in PEERS}
    return {
        **named,
        "its products alone": row["products"],
        "ours / products": ratio(row["rnn_jax"], row["products"]),
    }


BENCHMARKS = [
    Benchmark(
        "Training step",
        "Gradient of the summed outputs by all weights. Its products: one a step forward, one a "
        "step backward, one over all steps for the weights' gradient, and the inputs' projection.",
        {
            f"{kind}, (B, T, I, H) = {shape}": partial(measure, kind, shape)
            for kind in OURS
            for shape in SHAPES
        },
    )
]
