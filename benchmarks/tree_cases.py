"""What is timed in two versions of the package: each case by the public calls alone."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import rnn_jax as rj
from benchmarks.gradient_flow import nothing_compiled

# (batch, steps, input features, hidden features)
Shape = tuple[int, int, int, int]

KINDS: dict[str, Callable[..., rj.RNNCell]] = {
    "LSTM": rj.LSTMCell,
    "GRU": rj.GRUCell,
    "simple RNN": rj.SimpleRNNCell,
}
# One sequence, (steps, input features, hidden features).
SEQUENCE = (200, 2, 64)
# Batch, steps and hidden features of training on the adding problem.
TRAINING = (64, 100, 32)
CHUNK = 20

# Runs a case so many times; returns only when all results are ready, with the milliseconds a run
# where the case keeps the time itself.
Repeat = Callable[[int], float | None]


class Case(NamedTuple):
    """One row of the comparison.

    Attributes:
      make: builds what is to be run, outside of the time.
      once: a round is a single run, however short, because a second one would find it compiled.
    """

    make: Callable[[], Repeat]
    once: bool = False


def cases(shapes: Sequence[Shape]) -> Mapping[str, Case]:
    """All cases by name."""
    found: dict[str, Case] = {}
    for name, function in BATCHED.items():
        for kind in KINDS:
            for shape in shapes:
                label = f"{name}, {kind} {shape}"
                found[label] = Case(partial(_batched, function, kind, shape))
    for name, call in INSTRUMENT.items():
        for kind in KINDS:
            found[f"{name}, {kind}"] = Case(partial(_instrument, call, kind))
    for kind in KINDS:
        found[f"fit, {CHUNK} steps, {kind}"] = Case(partial(_fit, kind))
    for kind in KINDS:
        for name in FIRST:
            make = partial(_first_batched, BATCHED[name], kind, shapes[0])
            found[f"first call of {name}, {kind} {shapes[0]}"] = Case(make, once=True)
        for name, call in INSTRUMENT.items():
            make = partial(_first_call, partial(_instrument, call, kind))
            found[f"first call of {name}, {kind}"] = Case(make, once=True)
    return found


def _summed(cell: Any, xs: jax.Array) -> jax.Array:
    return jnp.sum(rj.unroll(cell, xs)[1])


def _forward(cell: Any, xs: jax.Array) -> jax.Array:
    return rj.unroll(cell, xs)[1]


def _tangent(cell: Any, xs: jax.Array) -> jax.Array:
    """Of the outputs, along the weights themselves."""
    return jax.jvp(_forward, (cell, xs), (cell, xs))[1]


def _second_order(cell: Any, xs: jax.Array) -> Any:
    """The product of the Hessian with the weights themselves, forward over reverse."""
    return jax.jvp(jax.grad(_summed), (cell, xs), (cell, jnp.zeros_like(xs)))[1]


BATCHED: dict[str, Callable[[Any, jax.Array], Any]] = {
    "gradient": jax.grad(_summed),
    "forward": _forward,
    "jvp": _tangent,
    "hvp": _second_order,
}
FIRST = ["gradient", "hvp"]
INSTRUMENT: dict[str, Callable[[Any, jax.Array], Any]] = {
    "jacobian_log_norms": rj.jacobian_log_norms,
    "gradient_flow": rj.gradient_flow,
}


def _repeated(call: Callable[..., Any], *arguments: Any) -> Repeat:
    def repeat(times: int) -> None:
        for _ in range(times):
            jax.block_until_ready(jax.tree.leaves(call(*arguments)))

    return repeat


def _cell_and_inputs(kind: str, shape: tuple[int, ...]) -> tuple[rj.RNNCell, jax.Array]:
    features, size = shape[-2:]
    cell = KINDS[kind](features, size, rngs=nnx.Rngs(0))
    return cell, jax.random.normal(jax.random.key(0), shape[:-1])


def _batched(function: Callable[..., Any], kind: str, shape: Shape) -> Repeat:
    return _repeated(jax.jit(function), *_cell_and_inputs(kind, shape))


def _instrument(call: Callable[..., Any], kind: str) -> Repeat:
    return _repeated(call, *_cell_and_inputs(kind, SEQUENCE))


def _first_batched(function: Callable[..., Any], kind: str, shape: Shape) -> Repeat:
    return _first_call(lambda: _batched(lambda *arguments: function(*arguments), kind, shape))


def _first_call(make: Callable[[], Repeat]) -> Repeat:
    """Traces and compiles anew each time; making inputs and weights is not counted."""

    def repeat(times: int) -> float:
        taken = 0.0
        for _ in range(times):
            with nothing_compiled():
                run = make()
                start = time.perf_counter()
                run(1)
                taken += time.perf_counter() - start
        return 1e3 * taken / times

    return repeat


def _fit(kind: str) -> Repeat:
    """Training as a user sees it: the time from one evaluation's row to a later one."""
    batch, steps, size = TRAINING
    model = rj.SequenceModel(KINDS[kind](2, size, rngs=nnx.Rngs(0)), 1, rngs=nnx.Rngs(1))
    task, optimizer = rj.tasks.Adding(steps), optax.adam(1e-3)

    def repeat(times: int) -> float:
        seen: list[float] = []
        # The first row comes after tracing, compiling and the start.
        rj.fit(
            model,
            task,
            optimizer,
            steps=(times + 1) * CHUNK,
            batch_size=batch,
            seed=0,
            evaluate_every=CHUNK,
            evaluation_size=batch,
            stop_when_solved=False,
            on_evaluation=lambda _: seen.append(time.perf_counter()),
        )
        # The evaluation before the first step has a row, too.
        return 1e3 * (seen[-1] - seen[-1 - times]) / times

    return repeat
