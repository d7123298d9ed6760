"""What one member does: its state, a training step, an evaluation, its probes, many steps."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from rnn_jax.tasks.base import Batch, Metrics, check_batch, check_loss, check_metrics, check_solved
from rnn_jax.training.monitoring import global_norm
from rnn_jax.training.objective import TermValue, check_names, minimised
from rnn_jax.training.optimizer import apply_optimizer, parameters_type, standard_promotion
from rnn_jax.training.plan import Plan
from rnn_jax.training.probes import Finding, Probe, check_finding
from rnn_jax.training.variables import (
    in_evaluation,
    merge,
    split,
    state_after,
    state_stays_finite,
)

# The value of a step that has not come.
NEVER = -1
# More steps than a run can have.
_NO_STEP = 2**31 - 1

# Each use of randomness has a stream of its own, so that a step's data depend on its number alone.
_TRAINING, _EVALUATION, _OBJECTIVE = range(3)

# Lays the batch axis of inputs over devices, where there are several.
Spread = Callable[[Any], Any]

# By probe.
Findings = dict[str, Finding]


class MemberStatus(NamedTuple):
    """How a member stands; whole numbers, `NEVER` where it has not happened.

    Attributes:
      solved_at: training steps done when an evaluation first said that the task is solved.
      failed_at: the first step, counted from 0, whose loss or update was not finite.
      skipped: steps whose update was left out because it was not finite.
    """

    solved_at: jax.Array
    failed_at: jax.Array
    skipped: jax.Array


class TrainState(NamedTuple):
    """One member's state, or with a leading axis that of an ensemble.

    Attributes:
      model: as it is now, its own state (batch statistics, counters) included.
      optimizer_state: as it is now.
      best_model: the model of the best evaluation so far.
      best_loss: its loss on fresh data; inf before the first evaluation.
      status: see `MemberStatus`.
    """

    model: Any
    optimizer_state: Any
    best_model: Any
    best_loss: jax.Array
    status: MemberStatus


class Report(NamedTuple):
    """What one member did over some steps.

    Attributes:
      loss: mean of what was minimised at the steps whose update was made; NaN if there was none.
      gradient_norm: mean of the gradients' global norms, before the optimiser, over these steps.
      updates: how many these were.
      metrics: of the model after the last step, on fresh data.
      probes: by probe what it measured, with a leading axis for the moments it might have.
      status: after the last step.
      terms: by name, mean of each term of an objective over those of the steps at which its weight
        was not 0; NaN if there was none.
      broken: by name, whether a term was not finite at the step at which the member failed.
    """

    loss: jax.Array
    gradient_norm: jax.Array
    updates: jax.Array
    metrics: dict[str, jax.Array]
    probes: dict[str, dict[str, jax.Array]]
    status: MemberStatus
    terms: dict[str, jax.Array]
    broken: dict[str, jax.Array]


class StepReport(NamedTuple):
    """What one training step did.

    Attributes:
      loss: what was minimised, before the update.
      gradient_norm: of its gradient.
      updated: whether the update was made.
      terms: of the objective, by name.
      broken: by name, whether a term was not finite where the member failed for the first time.
    """

    loss: jax.Array
    gradient_norm: jax.Array
    updated: jax.Array
    terms: dict[str, TermValue]
    broken: dict[str, jax.Array]


def init_train_state(plan: Plan, model: Any, hyperparameters: Any) -> TrainState:
    """A member before its first step."""
    parameters, _ = split(model, plan.trained)
    with standard_promotion():
        dtype = jnp.result_type(jnp.float32, parameters_type(model, plan.trained))
        optimizer_state = plan.optimizer_for(hyperparameters).init(parameters)
    return TrainState(
        model=model,
        optimizer_state=optimizer_state,
        best_model=model,
        best_loss=jnp.full((), jnp.inf, dtype),
        status=initial_status(),
    )


def train_steps(
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
    update = functools.partial(train_step, plan, spread, key, plan.optimizer_for(hyperparameters))
    measure = functools.partial(run_probes, plan, probe_key)
    stride = plan.stride(length)

    def measure_and_train(state: TrainState, start: jax.Array) -> tuple[TrainState, Any]:
        found = measure(state.model, start)
        state, steps = lax.scan(update, state, start + jnp.arange(stride, dtype=jnp.int32))
        return state, (found, steps)

    starts = first + stride * jnp.arange(length // stride, dtype=jnp.int32)
    state, (found, steps) = lax.scan(measure_and_train, state, starts)
    state, metrics = evaluate(plan, spread, key, state, first + length)
    return state, Report(
        loss=_mean_over(steps.loss, steps.updated),
        gradient_norm=_mean_over(steps.gradient_norm, steps.updated),
        updates=jnp.sum(steps.updated, dtype=jnp.int32),
        metrics=metrics,
        probes=found,
        status=state.status,
        terms={
            name: _mean_over(term.value, steps.updated & term.counted)
            for name, term in steps.terms.items()
        },
        broken={name: jnp.any(broken) for name, broken in steps.broken.items()},
    )


def has_stopped(plan: Plan, status: MemberStatus) -> Any:
    """Whether a member's steps no longer change it."""
    by_failure = (status.failed_at != NEVER) & (plan.on_nonfinite != "skip")
    by_success = (status.solved_at != NEVER) & plan.stop_when_solved
    return by_failure | by_success


def probe_inputs(plan: Plan, probe: Any, probe_key: jax.Array) -> jax.Array:
    """The sequences (B, T, I) that a probe looks at."""
    size = int(probe.batch_size)
    return check_batch(plan.task.sample(probe_key, size), size, "sample").inputs


def run_probe(plan: Plan, probe: Probe, probe_key: jax.Array, model: Any) -> Finding:
    """What one probe finds in a model."""
    found = probe.measure(in_evaluation(model), probe_inputs(plan, probe, probe_key))
    return check_finding(probe, found)


def run_probes(plan: Plan, probe_key: jax.Array, model: Any, step: jax.Array) -> Findings:
    """What each probe finds, if it is its turn; zeros if not."""
    found = {}
    for probe in plan.probes:
        see = functools.partial(run_probe, plan, probe, probe_key)
        shapes = jax.eval_shape(see, model)
        nothing = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
        found[probe.name] = lax.cond(
            step % min(int(probe.every), _NO_STEP) == 0, see, lambda _, empty=nothing: empty, model
        )
    return found


def train_step(
    plan: Plan,
    spread: Spread,
    key: jax.Array,
    optimizer: optax.GradientTransformationExtraArgs,
    state: TrainState,
    step: jax.Array,
) -> tuple[TrainState, StepReport]:
    """One training step."""
    data_key, noise_key = jax.random.split(_fold(key, _TRAINING, step))
    size = plan.batch_size
    batch: Batch = spread(check_batch(plan.task.sample(data_key, size), size, "sample"))
    parameters, variables = split(state.model, plan.trained)
    term_key = _fold(key, _OBJECTIVE, step)

    def loss_of(parameters: Any) -> tuple[jax.Array, Any]:
        model = merge(parameters, variables)
        outputs = run_model(model, batch.inputs, noise_key)
        loss, terms = minimised(plan.objective, plan.task, model, batch, outputs, term_key, step)
        return loss, (state_after(model, state.model, plan.trained), terms)

    (loss, (new_variables, terms)), gradient = jax.value_and_grad(loss_of, has_aux=True)(parameters)
    parameters, optimizer_state = apply_optimizer(
        optimizer,
        state.optimizer_state,
        parameters,
        loss,
        gradient,
        lambda other: loss_of(other)[0],
    )
    model = merge(parameters, new_variables)
    norm = global_norm(jax.tree.leaves(gradient))
    finite = _all_finite((loss, gradient, parameters))
    finite &= state_stays_finite(variables, new_variables)
    active = ~has_stopped(plan, state.status)
    updated = active & finite
    failed = active & ~finite
    first = failed & (state.status.failed_at == NEVER)
    status = state.status._replace(
        failed_at=jnp.where(first, step, state.status.failed_at),
        skipped=state.status.skipped + failed.astype(jnp.int32),
    )
    model, optimizer_state = _choose(
        updated, (model, optimizer_state), (state.model, state.optimizer_state)
    )
    state = state._replace(model=model, optimizer_state=optimizer_state, status=status)
    broken = {name: first & ~term.finite for name, term in terms.items()}
    return state, StepReport(loss, norm, updated, terms, broken)


def evaluate(
    plan: Plan, spread: Spread, key: jax.Array, state: TrainState, done: jax.Array
) -> tuple[TrainState, Metrics]:
    """Metrics on fresh data, or held-out data if the task has some; keeps the best model."""
    name = "sample_held_out" if hasattr(plan.task, "sample_held_out") else "sample"
    size = plan.evaluation_size
    drawn = getattr(plan.task, name)(_fold(key, _EVALUATION, done), size)
    batch: Batch = spread(check_batch(drawn, size, name))
    outputs = run_model(in_evaluation(state.model), batch.inputs, None)
    loss = check_loss(plan.task.loss(outputs, batch))
    taken = {probe.name for probe in plan.probes}
    metrics = check_metrics(plan.task.metrics(outputs, batch), taken)
    check_names(plan.objective, metrics)
    score = loss.astype(state.best_loss.dtype)
    better = score < state.best_loss
    solved = check_solved(plan.task.solved(metrics)) & (state.status.solved_at == NEVER)
    status = state.status._replace(
        solved_at=jnp.where(solved, done.astype(jnp.int32), state.status.solved_at)
    )
    best_model, best_loss = _choose(
        better, (state.model, score), (state.best_model, state.best_loss)
    )
    state = state._replace(best_model=best_model, best_loss=best_loss, status=status)
    return state, {**metrics, "loss": loss}


def initial_status() -> MemberStatus:
    """Of a member that has not begun."""
    never = jnp.int32(NEVER)
    return MemberStatus(solved_at=never, failed_at=never, skipped=jnp.int32(0))


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


def _fold(key: jax.Array, stream: int, step: jax.Array) -> jax.Array:
    return jax.random.fold_in(jax.random.fold_in(key, stream), step)


def _all_finite(tree: Any) -> jax.Array:
    return functools.reduce(
        jnp.logical_and, [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]
    )


def _choose(condition: jax.Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def _mean_over(values: jax.Array, updated: jax.Array) -> jax.Array:
    """Mean over the steps that updated the model; NaN if there was none."""
    return jnp.mean(values, where=updated)
