"""Training as `fit` does it: an ensemble against one after another, bookkeeping, probes."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import rnn_jax as rj
from benchmarks.timing import Benchmark, Row, ratio, time_in_turn
from rnn_jax.training.compiled.program import Program
from rnn_jax.training.devices.layout import Layout
from rnn_jax.training.plan import Plan, make_plan

CELLS: dict[str, Callable[..., rj.RNNCell]] = {
    "LSTM": rj.LSTMCell,
    "GRU": rj.GRUCell,
    "simple RNN": rj.SimpleRNNCell,
}
# (members, batch, time, hidden)
SHAPES = [(8, 64, 100, 32), (4, 64, 100, 128)]
STEPS = 20


def ensembles(name: str, shape: tuple[int, int, int, int], rounds: int) -> Row:
    """All members in one program, as `fit` does, against one after another and against `vmap`."""
    members, batch, time, hidden = shape
    models = rj.ensemble(_maker(name, hidden), members)
    plan = _plan(batch, time)
    together = Program(plan, Layout(members), 0, None)
    alone = Program(plan, Layout(None), 0, None)
    whole = together.start(models)
    parts = [alone.start(rj.member(models, index)) for index in range(members)]
    by_vmap, arguments = _by_vmap(plan, models)
    timings = time_in_turn(
        {
            "one after another": lambda: list(map(partial(_run, alone), parts)),
            "ensemble": lambda: _run(together, whole),
            "vmap": lambda: jax.block_until_ready(by_vmap(*arguments)),
        },
        rounds=rounds,
    )
    first, second = timings["ensemble"], timings["one after another"]
    return {**timings, "ensemble ÷ one after another": ratio(first, second)}


def probing(name: str, rounds: int) -> Row:
    """A call of the loop with and without a probe at its start, and the probe by itself."""
    _, batch, time, hidden = SHAPES[0]
    model = _maker(name, hidden)(nnx.Rngs(0))
    probe = rj.GradientFlowProbe(every=STEPS)
    plans = {"without": _plan(batch, time), "with": _plan(batch, time, probe)}
    programs = {key: Program(plan, Layout(None), 0, None) for key, plan in plans.items()}
    states = {key: program.start(model) for key, program in programs.items()}
    timings = time_in_turn(
        {
            "loop": lambda: _run(programs["without"], states["without"]),
            "loop with probe": lambda: _run(programs["with"], states["with"]),
            "probe alone": lambda: programs["with"].measure(states["with"]),
        },
        rounds=rounds,
    )
    added = timings["loop with probe"].best - timings["loop"].best
    return {**timings, "added ÷ probe alone": f"{added / timings['probe alone'].best:.2f}"}


def bookkeeping(name: str, rounds: int) -> Row:
    """A call of `fit`'s loop against the shortest loop that one could write."""
    _, batch, time, hidden = SHAPES[0]
    model, plan = _maker(name, hidden)(nnx.Rngs(0)), _plan(batch, time)
    program = Program(plan, Layout(None), 0, None)
    state = program.start(model)
    bare = jax.jit(partial(_bare, plan))
    timings = time_in_turn(
        {
            "bare scan": lambda: jax.block_until_ready(bare(model, jax.random.key(0))),
            "fit's loop": lambda: _run(program, state),
        },
        rounds=rounds,
    )
    return {**timings, "fit ÷ bare": ratio(timings["fit's loop"], timings["bare scan"])}


def _maker(name: str, hidden: int) -> Callable[[nnx.Rngs], rj.SequenceModel]:
    return lambda rngs: rj.SequenceModel(CELLS[name](2, hidden, rngs=rngs), 1, rngs=rngs)


def _plan(batch: int, time: int, *probes: rj.Probe) -> Plan:
    return make_plan(
        rj.tasks.Adding(time),
        optax.chain(optax.clip_by_global_norm(1.0), optax.adam(3e-3)),
        batch_size=batch,
        evaluation_size=batch,
        evaluate_every=STEPS,
        stop_when_solved=False,
        on_nonfinite="stop",
        probes=probes,
        hyperparameters=None,
    )


def _run(program: Program, state: Any) -> Any:
    return jax.block_until_ready(program.advance(state, 0, STEPS))


def _bare(plan: Plan, model: Any, key: jax.Array) -> Any:
    """Training steps and nothing else."""

    def update(state: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        model, memory = state
        batch = plan.task.sample(key, plan.batch_size)
        loss, gradient = jax.value_and_grad(lambda m: plan.task.loss(m(batch.inputs), batch))(model)
        updates, memory = plan.optimizer.update(gradient, memory, model)
        return (optax.apply_updates(model, updates), memory), loss

    state = (model, plan.optimizer.init(model))
    return jax.lax.scan(update, state, jax.random.split(key, STEPS))


def _by_vmap(plan: Plan, models: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    members = jnp.arange(np.shape(jax.tree.leaves(models)[0])[0])
    keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(0)))(members)
    return jax.jit(jax.vmap(partial(_bare, plan))), (models, keys)


BENCHMARKS = [
    Benchmark(
        "Ensembles",
        f"{STEPS} training steps of all members on the adding problem, each with an evaluation at "
        "the end, and the same steps under a bare `jax.vmap`. (members, B, T, H).",
        {f"{name} {shape}": partial(ensembles, name, shape) for shape in SHAPES for name in CELLS},
    ),
    Benchmark(
        "Probes in the loop",
        f"{STEPS} training steps (B = 64, T = 100, H = 32) with and without a `GradientFlowProbe` "
        "of 4 sequences before the first.",
        {name: partial(probing, name) for name in CELLS},
    ),
    Benchmark(
        "Bookkeeping",
        f"{STEPS} training steps (B = 64, T = 100, H = 32) and an evaluation by `fit`, which looks "
        "for what is not finite and freezes members, against a bare `lax.scan` without.",
        {name: partial(bookkeeping, name) for name in CELLS},
    ),
]
