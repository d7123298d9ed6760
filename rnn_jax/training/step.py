"""What one member does: its state, a training step, an evaluation, its probes, many steps."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from rnn_jax.tasks.base import Metrics
from rnn_jax.tasks.contract import check_loss, check_metrics, check_solved
from rnn_jax.training.data.batches import (
    entries_of,
    evaluated,
    probe_sequences,
    step_keys,
    training_batch,
)
from rnn_jax.training.model_call import run_model
from rnn_jax.training.objective.terms import check_names, minimised
from rnn_jax.training.parameters.monitoring import global_norm
from rnn_jax.training.parameters.optimizer import (
    apply_optimizer,
    parameters_type,
    standard_promotion,
)
from rnn_jax.training.parameters.variables import (
    in_evaluation,
    merge,
    split,
    state_after,
    state_stays_finite,
)
from rnn_jax.training.plan import Plan
from rnn_jax.training.probes import Finding, Probe, check_finding
from rnn_jax.training.report import (
    NEVER,
    Findings,
    MemberStatus,
    Records,
    Report,
    StepReport,
    has_stopped,
    initial_status,
    mean_over,
)
from rnn_jax.training.selection import improves

# More steps than a run can have.
_NO_STEP = 2**31 - 1

# Lays the batch axis of inputs over devices, where there are several.
Spread = Callable[[Any], Any]


class TrainState(NamedTuple):
    """One member's state, or with a leading axis that of an ensemble.

    Attributes:
      model: as it is now, its own state (batch statistics, counters) included.
      optimizer_state: as it is now.
      best_model: the model of the best evaluation so far.
      best_score: its metric, so that smaller is better; inf before the first evaluation.
      reference: the score at the last improvement.
      status: see `MemberStatus`.
    """

    model: Any
    optimizer_state: Any
    best_model: Any
    best_score: jax.Array
    reference: jax.Array
    status: MemberStatus


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
        best_score=jnp.full((), jnp.inf, dtype),
        reference=jnp.full((), jnp.inf, dtype),
        status=initial_status(),
    )


def unless_all_stopped(
    plan: Plan, advance: Callable[[TrainState], tuple[TrainState, Any]], state: TrainState
) -> tuple[TrainState, Any]:
    """advance(state), or where every member has stopped the state as it is, and zeros.

    What is started before it is known that there is nothing more to do should not take long.
    """
    advance = jax.jit(advance)  # Traced once, and not for its forms and its branch.
    _, forms = jax.eval_shape(advance, state)
    nothing = jax.tree.map(lambda form: jnp.zeros(form.shape, form.dtype), forms)
    over = jnp.all(has_stopped(plan, state.status))
    return lax.cond(over, lambda state: (state, nothing), advance, state)


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
    stride = plan.stride(length)
    state, records = run_steps(
        plan, spread, length, stride, state, key, probe_key, hyperparameters, first
    )
    return conclude(plan, spread, key, state, records, first + length)


def run_steps(
    plan: Plan,
    spread: Spread,
    length: int,
    stride: int,
    state: TrainState,
    key: jax.Array,
    probe_key: jax.Array,
    hyperparameters: Any,
    first: jax.Array,
) -> tuple[TrainState, Records]:
    """As `train_steps`, without the evaluation; probes may measure every `stride` steps."""
    update = functools.partial(train_step, plan, spread, key, plan.optimizer_for(hyperparameters))
    measure = functools.partial(run_probes, plan, probe_key)
    strides = length // stride

    def measure_and_train(state: TrainState, of: tuple[jax.Array, Any]) -> tuple[TrainState, Any]:
        start, entries = of
        found = measure(state.model, start)
        steps = start + jnp.arange(stride, dtype=jnp.int32)
        state, outcomes = lax.scan(update, state, (steps, entries))
        return state, (found, outcomes)

    starts = first + stride * jnp.arange(strides, dtype=jnp.int32)
    entries = jax.tree.map(
        lambda leaf: leaf.reshape(strides, stride, *leaf.shape[1:]),
        entries_of(plan, key, first, length),
    )
    state, (found, reports) = lax.scan(measure_and_train, state, (starts, entries))
    return state, Records(found, jax.tree.map(lambda leaf: jnp.reshape(leaf, -1), reports))


def conclude(
    plan: Plan, spread: Spread, key: jax.Array, state: TrainState, records: Records, done: jax.Array
) -> tuple[TrainState, Report]:
    """An evaluation after `done` steps, and the report on the steps since the one before."""
    state, metrics = evaluate(plan, spread, key, state, done)
    steps = records.steps
    return state, Report(
        loss=mean_over(steps.loss, steps.updated),
        gradient_norm=mean_over(steps.gradient_norm, steps.updated),
        updates=jnp.sum(steps.updated, dtype=jnp.int32),
        metrics=metrics,
        probes=records.found,
        status=state.status,
        terms={
            name: mean_over(term.value, steps.updated & term.counted)
            for name, term in steps.terms.items()
        },
        broken={name: jnp.any(broken) for name, broken in steps.broken.items()},
    )


def run_probe(plan: Plan, probe: Probe, probe_key: jax.Array, model: Any) -> Finding:
    """What one probe finds in a model."""
    sequences = probe_sequences(plan, int(probe.batch_size), probe_key)
    found = probe.measure(in_evaluation(model), sequences)
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
    step_and_entry: tuple[jax.Array, Any],
) -> tuple[TrainState, StepReport]:
    """One training step."""
    step, entry = step_and_entry
    data_key, noise_key, term_key = step_keys(key, step)
    batch = spread(training_batch(plan, data_key, entry))
    parameters, variables = split(state.model, plan.trained)

    def loss_of(parameters: Any) -> tuple[jax.Array, Any]:
        model = merge(parameters, variables)
        outputs = run_model(model, batch, noise_key)
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
    """Metrics on fresh, held-out or validation data; keeps the best model, and may stop."""
    model = in_evaluation(state.model)
    outputs, batch = evaluated(plan, spread, key, done, lambda part: run_model(model, part, None))
    loss = check_loss(plan.task.loss(outputs, batch))
    taken = {probe.name for probe in plan.probes}
    metrics = check_metrics(plan.task.metrics(outputs, batch), taken)
    check_names(plan.objective, metrics)
    solved = check_solved(plan.task.solved(metrics)) & (state.status.solved_at == NEVER)
    metrics = {**metrics, "loss": loss}
    state = _select(plan, state, metrics, done.astype(jnp.int32))
    solved_at = jnp.where(solved, done.astype(jnp.int32), state.status.solved_at)
    return state._replace(status=state.status._replace(solved_at=solved_at)), metrics


def _select(plan: Plan, state: TrainState, metrics: Metrics, done: jax.Array) -> TrainState:
    """Keeps the best model, and stops a member that has not improved for too long."""
    status, selection = state.status, plan.selection
    score = selection.score(metrics, state.best_score.dtype)
    better = score < state.best_score
    best_model, best_score, best_at = _choose(
        better,
        (state.model, score, done),
        (state.best_model, state.best_score, status.best_at),
    )
    improved, reference = improves(selection, score, state.reference)
    waited = jnp.where(improved, jnp.zeros_like(status.waited), status.waited + 1)
    stopped_at = status.stopped_at
    if selection.patience is not None:
        over = (waited >= selection.patience) & ~has_stopped(plan, status)
        stopped_at = jnp.where(over, done, stopped_at)
    return state._replace(
        best_model=best_model,
        best_score=best_score,
        reference=reference,
        status=status._replace(best_at=best_at, waited=waited, stopped_at=stopped_at),
    )


def _all_finite(tree: Any) -> jax.Array:
    return functools.reduce(
        jnp.logical_and, [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]
    )


def _choose(condition: jax.Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
