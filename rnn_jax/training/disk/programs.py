"""What functions compute, as digests: by them another task, model or optimiser is told apart."""

import hashlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jax.sharding import Mesh, Sharding

from rnn_jax.tasks.base import Batch
from rnn_jax.training.data.batches import (
    Data,
    batch_form,
    data_of,
    entries_of,
    holding,
    training_batch,
)
from rnn_jax.training.disk.values import number_digest, without_addresses
from rnn_jax.training.model_call import run_model
from rnn_jax.training.objective.terms import Objective, Part, minimised
from rnn_jax.training.parameters.optimizer import apply_optimizer, standard_promotion
from rnn_jax.training.parameters.variables import in_evaluation, merge, split, state_after
from rnn_jax.training.plan import Plan

# Of an operation: where it came from and where it runs, and not what it computes.
_BESIDE_THE_POINT = ("name", "debug_info", "ctx_mesh")


def program_digests(plan: Plan, model: Any, hyperparameters: Any) -> dict[str, str]:
    """Digests of all programs that decide what a run computes, by what they are of.

    Args:
      plan: how to train.
      model: one member, its arrays or their forms.
      hyperparameters: of the first member, or None.
    """
    task, key = plan.task, jax.eval_shape(lambda: jax.random.key(0))
    batch = batch_form(plan)
    outputs = jax.eval_shape(
        lambda model, batch: run_model(in_evaluation(model), batch, None), model, batch
    )
    metrics = jax.eval_shape(task.metrics, outputs, batch)
    digests = {
        "task.sample": _sample_digest(plan, key),
        # With its gradient, because a rule for that may be the task's own.
        "task.loss": program_digest(jax.value_and_grad(task.loss), outputs, batch),
        "task.metrics": program_digest(task.metrics, outputs, batch),
        "task.solved": program_digest(task.solved, metrics),
        "model": model_digest(model, batch),
        "optimizer": _optimizer_digest(plan, model, hyperparameters),
    }
    if plan.objective is not None:
        digests |= {
            f"objective.{part.name}": _term_digest(plan, part, model, batch)
            for part in plan.objective.parts
            if not part.absent
        }
    if hasattr(task, "sample_held_out"):
        draw = task.sample_held_out
        digests["task.sample_held_out"] = program_digest(
            lambda key: draw(key, plan.evaluation_size), key
        )
    return digests


def _sample_digest(plan: Plan, key: Any) -> str:
    """Of what a step trains on; the user's own data are arguments, and have digests themselves."""

    def draw(data: Data, key: Any, first: Any) -> Any:
        own = holding(plan, data)
        entry = jax.tree.map(lambda leaf: leaf[0], entries_of(own, key, first, 1))
        return training_batch(own, key, entry)

    return program_digest(draw, data_of(plan.task), key, jax.ShapeDtypeStruct((), np.int32))


def model_digest(model: Any, batch: Any) -> str:
    """Of what one model computes in evaluation, and in training with its gradient.

    Args:
      model: one member, its arrays or their forms.
      batch: the form of one, its targets and weights apart.
    """
    parameters, variables = split(model)
    key = jax.eval_shape(lambda: jax.random.key(0))

    valid = (getattr(batch, name, None) for name in ("lengths", "mask"))
    read: Any = Batch(batch.inputs, None, None, *valid)  # type: ignore[arg-type]

    def evaluate(model: Any, batch: Any) -> Any:
        return run_model(in_evaluation(model), batch, None)

    def train(parameters: Any, variables: Any, batch: Any, key: Any, cotangent: Any) -> Any:
        def outputs(parameters: Any) -> tuple[Any, Any]:
            called = merge(parameters, variables)
            ys = run_model(called, batch, key)
            return ys, state_after(called, merge(parameters, variables))

        ys, pull_back, state = jax.vjp(outputs, parameters, has_aux=True)
        return ys, state, pull_back(cotangent)

    outputs = jax.eval_shape(evaluate, model, read)
    parts = (
        program_digest(evaluate, model, read),
        program_digest(train, parameters, variables, read, key, outputs),
    )
    return _short("".join(parts))


def _term_digest(plan: Plan, part: Part, model: Any, batch: Any) -> str:
    """Of one term of an objective with its weight and its gradient, at any step."""
    parameters, variables = split(model, plan.trained)
    alone = Objective((part,), {})
    key = jax.eval_shape(lambda: jax.random.key(0))

    def term(parameters: Any, variables: Any, batch: Any, key: Any, step: Any) -> Any:
        called = merge(parameters, variables)
        outputs = run_model(called, batch, key)
        value, found = minimised(alone, plan.task, called, batch, outputs, key, step)
        return value, found

    def with_gradient(*arguments: Any) -> Any:
        return jax.value_and_grad(term, has_aux=True)(*arguments)

    step = jax.ShapeDtypeStruct((), np.int32)
    return program_digest(with_gradient, parameters, variables, batch, key, step)


def _optimizer_digest(plan: Plan, model: Any, hyperparameters: Any) -> str:
    """Its rates and schedules are numbers in its program.

    Of a step from any state: from the first one, a count that is a number of Python is 0, and what
    is multiplied by it is nothing.
    """

    def begin(parameters: Any) -> Any:
        with standard_promotion():
            return plan.optimizer_for(hyperparameters).init(parameters)

    def step(gradient: Any, state: Any, parameters: Any, value: Any) -> Any:
        optimizer = plan.optimizer_for(hyperparameters)
        return apply_optimizer(optimizer, state, parameters, value, gradient, _square_sum)

    parameters, _ = split(model, plan.trained)
    value = jax.eval_shape(lambda: jax.numpy.zeros(()))
    state = jax.eval_shape(begin, parameters)
    parts = (
        program_digest(begin, parameters),
        program_digest(step, parameters, state, parameters, value),
    )
    return _short("".join(parts))


def program_digest(function: Callable[..., Any], *arguments: Any) -> str:
    """A digest of what a function computes of arguments of these forms.

    It covers each operation with its options, the forms of all intermediate results, and all
    numbers that the function closes over. It does not depend on the process, on names in the source
    or on how many devices there are, but on the versions of the packages that wrote the program,
    and on the kind of device, for which they may choose another one.
    """
    with jax.disable_jit(False), jax.default_matmul_precision(None):
        closed = jax.make_jaxpr(lambda *arguments: function(*arguments))(*arguments)
    return _closed(closed, {})


def _closed(closed: ClosedJaxpr, known: dict[int, str]) -> str:
    return _short(_program(closed.jaxpr, known) + repr([number_digest(c) for c in closed.consts]))


def _program(jaxpr: Jaxpr, known: dict[int, str]) -> str:
    """Its operations in order, variables by number; `known` holds digests of parts met before."""
    if id(jaxpr) in known:
        return known[id(jaxpr)]
    numbers: dict[Any, int] = {}

    def bind(variable: Any) -> str:
        return f"{numbers.setdefault(variable, len(numbers))}:{_form(variable.aval)}"

    def read(atom: Any) -> str:
        if isinstance(atom, Literal):
            return f"={number_digest(atom.val)}:{_form(atom.aval)}"
        return str(numbers[atom])

    lines = [" ".join(map(bind, [*jaxpr.constvars, *jaxpr.invars]))]
    for equation in jaxpr.eqns:
        options = {
            name: value for name, value in equation.params.items() if name not in _BESIDE_THE_POINT
        }
        parts = [equation.primitive.name, *map(read, equation.invars), _text(options, known)]
        lines.append(" ".join([*parts, *map(bind, equation.outvars)]))
    lines.append(" ".join(map(read, jaxpr.outvars)))
    known[id(jaxpr)] = digest = _short("\n".join(lines))
    return digest


def _text(option: Any, known: dict[int, str]) -> str:
    """An option of an operation; functions and layouts say nothing of what it computes."""
    if isinstance(option, ClosedJaxpr):
        return _closed(option, known)
    if isinstance(option, Jaxpr):
        return _program(option, known)
    if isinstance(option, (np.ndarray, jax.Array)):
        return number_digest(option)
    if isinstance(option, dict):
        parts = [f"{name}={_text(value, known)}" for name, value in option.items()]
        return f"{{{' '.join(sorted(parts))}}}"
    if isinstance(option, (set, frozenset)):
        return f"{{{' '.join(sorted(_text(value, known) for value in option))}}}"
    if isinstance(option, (list, tuple)):
        return f"{type(option).__name__}({' '.join(_text(value, known) for value in option)})"
    if isinstance(option, (Sharding, Mesh)) or _is_function(option):
        return type(option).__name__ if _is_function(option) else ""
    return without_addresses(str(option))


def _is_function(option: Any) -> bool:
    return callable(option) and not isinstance(option, type)


def _form(aval: Any) -> str:
    if not hasattr(aval, "dtype"):
        return without_addresses(str(aval))
    return f"{aval.dtype}{tuple(aval.shape)}{'~' if getattr(aval, 'weak_type', False) else ''}"


def _square_sum(tree: Any) -> Any:
    """A loss, for optimisers that ask for one."""
    return sum(jax.numpy.sum(jax.numpy.square(abs(leaf))) for leaf in jax.tree.leaves(tree))


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
