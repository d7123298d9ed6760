"""The compiled loop: many training steps, an evaluation and the probes, for one member."""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from rnn_jax.tasks.base import Batch
from rnn_jax.training.norms import global_norm
from rnn_jax.training.plan import Plan
from rnn_jax.training.probes import Probe
from rnn_jax.training.state import NEVER, Report, Standing, TrainState, initial_standing

# Each use of randomness has a stream of its own, so that a step's data depend on its number alone.
_TRAINING, _EVALUATION = range(2)

# Lays the batch axis of inputs over devices, where there are several.
Spread = Callable[[Any], Any]

Findings = dict[str, dict[str, jax.Array]]


def initialize(plan: Plan, model: Any, hyperparameters: Any) -> TrainState:
    """A member before its first step."""
    with relaxed():
        dtype = jnp.result_type(jnp.float32, *jax.tree.leaves(model))
        optimizer_state = plan.optimizer_for(hyperparameters).init(model)
    return TrainState(
        model=model,
        optimizer_state=optimizer_state,
        best_model=model,
        best_loss=jnp.full((), jnp.inf, dtype),
        standing=initial_standing(),
    )


def advance(
    plan: Plan,
    spread: Spread,
    length: int,
    state: TrainState,
    key: jax.Array,
    probe_key: jax.Array,
    hyperparameters: Any,
    first: jax.Array,
) -> tuple[TrainState, Report]:
    """`length` training steps from step `first` on, then an evaluation.

    Args:
      plan: how to train.
      spread: see `Spread`.
      length: how many steps.
      state: the member's.
      key: the member's; each step folds its number in.
      probe_key: of the sequences that the probes look at, the same at all steps.
      hyperparameters: of this member, or None.
      first: how many steps were done before.
    """
    update = functools.partial(_update, plan, spread, key, plan.optimizer_for(hyperparameters))
    measure = functools.partial(_measure, plan, probe_key)
    stride = plan.stride(length)

    def stretch(state: TrainState, start: jax.Array) -> tuple[TrainState, Any]:
        found = measure(state.model, start)
        state, steps = lax.scan(update, state, start + jnp.arange(stride, dtype=jnp.int32))
        return state, (found, steps)

    starts = first + stride * jnp.arange(length // stride, dtype=jnp.int32)
    state, (found, (losses, norms, made)) = lax.scan(stretch, state, starts)
    state, metrics = _evaluate(plan, spread, key, state, first + length)
    return state, Report(
        loss=_mean_over(losses, made),
        gradient_norm=_mean_over(norms, made),
        updates=jnp.sum(made, dtype=jnp.int32),
        metrics=metrics,
        probes=found,
        standing=state.standing,
    )


def stopped(plan: Plan, standing: Standing) -> Any:
    """Whether a member's steps no longer change it."""
    by_failure = (standing.failed_at != NEVER) & (plan.on_nonfinite != "skip")
    by_success = (standing.solved_at != NEVER) & plan.stop_when_solved
    return by_failure | by_success


def probe_inputs(plan: Plan, probe: Any, probe_key: jax.Array) -> jax.Array:
    """The sequences (B, T, I) that a probe looks at."""
    return plan.task.sample(probe_key, probe.batch_size).inputs


def look(plan: Plan, probe: Probe, probe_key: jax.Array, model: Any) -> dict[str, jax.Array]:
    """What one probe finds in a model."""
    return probe.measure(model, probe_inputs(plan, probe, probe_key))


def _measure(plan: Plan, probe_key: jax.Array, model: Any, step: jax.Array) -> Findings:
    """What each probe finds, if it is its turn; zeros if not."""
    found = {}
    for probe in plan.probes:
        see = functools.partial(look, plan, probe, probe_key)
        shapes = jax.eval_shape(see, model)
        nothing = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
        found[probe.name] = lax.cond(
            step % int(probe.every) == 0, see, lambda _, empty=nothing: empty, model
        )
    return found


def _update(
    plan: Plan,
    spread: Spread,
    key: jax.Array,
    optimizer: optax.GradientTransformationExtraArgs,
    state: TrainState,
    step: jax.Array,
) -> tuple[TrainState, tuple[jax.Array, jax.Array, jax.Array]]:
    """One training step: (state, (loss, gradient norm, whether the update was made))."""
    data_key, noise_key = jax.random.split(_fold(key, _TRAINING, step))
    batch: Batch = spread(plan.task.sample(data_key, plan.batch_size))

    def objective(model: Any) -> jax.Array:
        loss = plan.task.loss(run_model(model, batch.inputs, noise_key), batch)
        if jnp.shape(loss) != ():
            raise ValueError(
                f"the task's loss must be a scalar; got shape {jnp.shape(loss)}. Return a mean."
            )
        return loss

    loss, gradient = jax.value_and_grad(objective)(state.model)
    with relaxed():
        updates, optimizer_state = optimizer.update(
            gradient, state.optimizer_state, state.model, value=loss
        )
        model = optax.apply_updates(state.model, updates)
    norm = global_norm(jax.tree.leaves(gradient))
    finite = _all_finite((loss, gradient, model))
    active = ~stopped(plan, state.standing)
    made = active & finite
    failed = active & ~finite
    standing = state.standing._replace(
        failed_at=jnp.where(
            failed & (state.standing.failed_at == NEVER), step, state.standing.failed_at
        ),
        skipped=state.standing.skipped + failed.astype(jnp.int32),
    )
    model, optimizer_state = _choose(
        made, (model, optimizer_state), (state.model, state.optimizer_state)
    )
    state = state._replace(model=model, optimizer_state=optimizer_state, standing=standing)
    return state, (loss, norm, made)


def _evaluate(
    plan: Plan, spread: Spread, key: jax.Array, state: TrainState, done: jax.Array
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Metrics on fresh data, or held-out data if the task has some; keeps the best model."""
    draw = getattr(plan.task, "sample_held_out", plan.task.sample)
    batch: Batch = spread(draw(_fold(key, _EVALUATION, done), plan.evaluation_size))
    outputs = run_model(state.model, batch.inputs, None)
    loss = plan.task.loss(outputs, batch)
    metrics = plan.task.metrics(outputs, batch)
    score = loss.astype(state.best_loss.dtype)
    better = score < state.best_loss
    solved = plan.task.solved(metrics) & (state.standing.solved_at == NEVER)
    standing = state.standing._replace(
        solved_at=jnp.where(solved, done.astype(jnp.int32), state.standing.solved_at)
    )
    best_model, best_loss = _choose(
        better, (state.model, score), (state.best_model, state.best_loss)
    )
    state = state._replace(best_model=best_model, best_loss=best_loss, standing=standing)
    return state, {**metrics, "loss": loss}


def run_model(model: Any, inputs: jax.Array, key: jax.Array | None) -> jax.Array:
    """The model's outputs; the key goes to models that take one, for dropout and noise."""
    noisy = key is not None and _takes_key(model)
    outputs = model(inputs, key=key) if noisy else model(inputs)
    if not hasattr(outputs, "shape"):
        raise TypeError(
            f"a model must return one array of outputs; got {type(outputs).__name__}. Return what "
            "the task's loss takes."
        )
    return outputs


def _takes_key(model: Any) -> bool:
    try:
        return "key" in inspect.signature(model).parameters
    except (TypeError, ValueError):  # Built-in callables may have no signature to look at.
        return False


@contextlib.contextmanager
def relaxed() -> Iterator[None]:
    """Optax relies on JAX's ordinary promotion, whatever the user has chosen for their own code."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def _fold(key: jax.Array, stream: int, step: jax.Array) -> jax.Array:
    return jax.random.fold_in(jax.random.fold_in(key, stream), step)


def _all_finite(tree: Any) -> jax.Array:
    return functools.reduce(
        jnp.logical_and, [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]
    )


def _choose(condition: jax.Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def _mean_over(values: jax.Array, made: jax.Array) -> jax.Array:
    """Mean over the steps whose update was made; NaN if there was none."""
    return jnp.mean(values, where=made)
