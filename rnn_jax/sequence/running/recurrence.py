"""The recurrence, its tangent and its adjoint as operations whose form is chosen when lowered.

Which form is fastest depends on the device: scans that project inside on a CPU, kernels on an
NVIDIA GPU, scans with one projection ahead elsewhere. What a program runs on is known when it is
lowered, not when it is traced: `jax.export` and ahead-of-time compilation lower for machines that
are not this one. So each of the three is one primitive, traced in no time, whose lowering for each
platform takes the form that fits it.

recurrence: Inputs -> Run
tangent:    Recorded, Tangents -> Run of tangents           linear in Tangents
adjoint:    Recorded, Run of cotangents -> Tangents         the transpose of a tangent

`jax.vmap` of one is written down as a level. A scan is then mapped as `jax.vmap` maps it; a kernel
takes levels that map kernels as members, and folds the others into its rows.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from rnn_jax.arrays import varying_like
from rnn_jax.cells.stages import advance_step
from rnn_jax.sequence.running.levels import Levels, batching_rule, mapped_over
from rnn_jax.sequence.running.linear_system import tangent_by_system
from rnn_jax.sequence.running.platforms import Forms, as_traced, chosen_by_platform, rules_of
from rnn_jax.sequence.running.scanned import (
    Carry,
    Inputs,
    Recorded,
    Run,
    Settings,
    Tangents,
    run_by_scan,
    tangent_by_scan,
)


class Call(NamedTuple):
    """What is fixed of one call of a primitive.

    Attributes:
      settings: see there.
      record: whether a recurrence also returns starts and what steps save, a tangent those of the
        starts.
      operands: structure of the operands.
      results: structure of the results.
      levels: of `jax.vmap`, from the outermost to the innermost.
      tangent: of an adjoint the call whose transpose it is.
      like: of an adjoint the shapes and types of that call's tangents.
    """

    settings: Settings
    record: bool
    operands: Any
    results: Any
    levels: Levels = ()
    tangent: "Call | None" = None
    like: tuple[tuple[tuple[int, ...], Any], ...] = ()


# A function of a call and the leaves of its operands.
Form = Callable[..., Any]


def run_recurrence(settings: Settings, inputs: Inputs, *, save: bool) -> Run:
    """Runs a cell in fused form; see `run_by_scan`. Its derivative is in `fused_scan.py`."""
    return _bind(RECURRENCE, settings, save, inputs)


def run_tangent(
    settings: Settings, record: Recorded, tangents: Tangents, *, starts: bool = False
) -> Run:
    """The derivative of a run along tangents; see `tangent_by_scan`. Has every derivative."""
    return _bind(_TANGENT, settings, starts, (record, tangents))


def _bind(primitive: Any, settings: Settings, record: bool, operands: Any) -> Run:
    leaves, structure = jax.tree.flatten(varying_like(operands, operands))
    call = _call(_RESULTS[primitive], settings, record, structure, leaves)
    run: Run = jax.tree.unflatten(call.results, primitive.bind(*leaves, call=call))
    return run


def _call(
    results: Form, settings: Settings, record: bool, structure: Any, leaves: Sequence[Any]
) -> Call:
    call = Call(settings, record, structure, None)
    of = jax.eval_shape(functools.partial(results, call), *leaves)
    return call._replace(results=jax.tree.structure(of))


# ---- Forms.


def _recurrence_by_scan(inside: bool, call: Call, *leaves: jax.Array) -> Run:
    inputs = jax.tree.unflatten(call.operands, leaves)
    return run_by_scan(call.settings, inputs, save=call.record, inside=inside)


def _tangent_by_scan(call: Call, *leaves: jax.Array) -> Run:
    record, tangents = jax.tree.unflatten(call.operands, leaves)
    return tangent_by_scan(call.settings, record, tangents, starts=call.record)


def _tangent_by_system(call: Call, *leaves: jax.Array) -> Run:
    record, tangents = jax.tree.unflatten(call.operands, leaves)
    return tangent_by_system(
        call.settings,
        record,
        tangents,
        starts=call.record,
        solve=lambda *operands: run_tangent(*operands).carries,
        transpose_solve=_transpose_solve,
    )


def _transpose_solve(settings: Settings, record: Recorded, cotangents: Carry) -> Tangents:
    """What `run_tangent(...).carries` is linear in, as cotangents of it say."""
    at_rest = jax.tree.map(lambda a: jnp.zeros_like(a[0]), record.starts)
    like = Tangents((None,) * len(record.kernels), None, at_rest, at_rest, cotangents)
    leaves, structure = jax.tree.flatten((record, like))
    call = _call(_tangent_results, settings, False, structure, leaves)
    ys = jnp.zeros_like(settings.mathematics.hidden(cotangents))
    shapes = [jax.typeof(leaf) for leaf in jax.tree.leaves(like)]
    run = Run(at_rest, ys, cotangents)
    found = _bind_adjoint(call, jax.tree.leaves(record), run, shapes)
    return jax.tree.unflatten(jax.tree.structure(like), found)


def _adjoint_of(tangent: Form, call: Call, *leaves: jax.Array) -> list[jax.Array]:
    """The transpose of a form of a tangent: cotangents by leaf of `Tangents`."""
    of = call.tangent
    assert of is not None
    record, cotangents = jax.tree.unflatten(call.operands, leaves)
    known = jax.tree.leaves(record)
    run = mapped_over(of.levels, functools.partial(tangent, of))
    like = varying_like([jnp.zeros(shape, dtype) for shape, dtype in call.like], leaves)
    transpose = jax.linear_transpose(lambda *tangents: run(*known, *tangents), *like)
    return list(transpose(cotangents))


def _recurrence_results(call: Call, *leaves: jax.Array) -> Run:
    """Arrays of the shapes of what a recurrence gives, computed in no time."""
    settings, inputs = call.settings, jax.tree.unflatten(call.operands, leaves)
    mathematics = settings.mathematics
    hidden = mathematics.hidden(inputs.carry)

    def stacked(tree: Any) -> Any:
        steps = inputs.xs.shape[0]
        return jax.tree.map(lambda a: jnp.broadcast_to(a[None], (steps, *a.shape)), tree)

    def products(k: int, _: Any) -> jax.Array:
        kernel = inputs.kernels[k]
        return jnp.zeros((*hidden.shape[:-1], kernel.shape[1]), kernel.dtype)

    saved = advance_step(mathematics, inputs.carry, products)[1] if call.record else None
    return Run(
        inputs.carry,
        stacked(hidden),
        stacked(inputs.carry) if settings.return_carries else None,
        stacked(inputs.carry) if call.record else None,
        stacked(saved),
    )


def _tangent_results(call: Call, *leaves: jax.Array) -> Run:
    record, _ = jax.tree.unflatten(call.operands, leaves)
    return Run(
        jax.tree.map(lambda a: a[0], record.starts),
        call.settings.mathematics.hidden(record.starts),
        record.starts if call.settings.return_carries else None,
        record.starts if call.record else None,
    )


def _adjoint_results(call: Call, *leaves: jax.Array) -> list[jax.Array]:
    return varying_like([jnp.zeros(shape, dtype) for shape, dtype in call.like], leaves)


# ---- Primitives.


def leaves_of(form: Form, *leaves: jax.Array, call: Call) -> list[jax.Array]:
    """A form, mapped over the levels."""
    with as_traced(call.settings, leaves):
        return jax.tree.leaves(mapped_over(call.levels, functools.partial(form, call))(*leaves))


def _abstract(results: Form, *avals: Any, call: Call) -> list[Any]:
    traced = jax.make_jaxpr(functools.partial(leaves_of, results, call=call))(*avals)
    # As of a scan: a type that gives way to others, as of `jnp.full(H, 0.5)`, is none of results.
    return [aval.update(weak_type=False) for aval in traced.out_avals]


def _evaluated(forms: Forms, *leaves: jax.Array, call: Call) -> list[jax.Array]:
    """Without `jax.jit`, operation by operation."""
    wanted = call.settings.implementation
    if wanted in ("kernel", "interpret"):
        raise ValueError(
            f'implementation="{wanted}" needs a program that is compiled; got one whose operations '
            'are evaluated one by one (jax.disable_jit). Pass implementation="auto".'
        )
    form = forms.on_cpu if jax.default_backend() == "cpu" else forms.elsewhere
    return leaves_of(form, *leaves, call=call)


# By primitive, what it may be lowered to.
FORMS: dict[Any, Forms] = {}


def _primitive(name: str, results: Form, forms: Forms) -> Any:
    primitive = Primitive(name)
    FORMS[primitive] = forms
    primitive.multiple_results = True
    primitive.def_impl(functools.partial(_evaluated, forms))
    primitive.def_abstract_eval(functools.partial(_abstract, results))
    batching.primitive_batchers[primitive] = batching_rule(primitive)
    for platform, rule in rules_of(forms, leaves_of).items():
        mlir.register_lowering(primitive, rule, platform=platform)
    return primitive


RECURRENCE = _primitive(
    "rnn_recurrence",
    _recurrence_results,
    Forms(
        functools.partial(_recurrence_by_scan, True),
        functools.partial(_recurrence_by_scan, False),
        "recurrence_by_kernel",
        "forward",
    ),
)
_TANGENT = _primitive(
    "rnn_tangent",
    _tangent_results,
    Forms(_tangent_by_scan, _tangent_by_scan, "tangent_by_kernel", "forward"),
)
_ADJOINT_BY_SCAN = functools.partial(_adjoint_of, _tangent_by_scan)
_ADJOINT = _primitive(
    "rnn_adjoint",
    _adjoint_results,
    Forms(_ADJOINT_BY_SCAN, _ADJOINT_BY_SCAN, "adjoint_by_kernel", "adjoint"),
)
_RESULTS = {RECURRENCE: _recurrence_results, _TANGENT: _tangent_results}


# ---- Derivatives.


def _bind_adjoint(call: Call, record: list[Any], cotangents: Run, like: Sequence[Any]) -> list[Any]:
    """The transpose of a call of a tangent, from the leaves of its record.

    By leaf of its `Tangents`, which are of the types `like`.
    """
    operands = varying_like((record, cotangents), (record, cotangents))
    leaves, structure = jax.tree.flatten(operands)
    shapes = tuple((aval.shape, aval.dtype) for aval in like)
    adjoint = Call(call.settings, call.record, structure, None, tangent=call, like=shapes)
    return list(_ADJOINT.bind(*leaves, call=adjoint))


def _jvp(
    form: Form, primitive: Any, record: int, primals: Any, tangents: Any, *, call: Call
) -> tuple[list[Any], list[Any]]:
    """Linear in the operands from number `record` on, and by `form` in all of them."""
    active = [not isinstance(tangent, ad.Zero) for tangent in tangents]
    if not any(active[:record]):
        linear = [ad.instantiate_zeros(tangent) for tangent in tangents[record:]]
        operands = (*primals[:record], *linear)
        return primitive.bind(*primals, call=call), primitive.bind(*operands, call=call)

    run = functools.partial(leaves_of, form, call=call)
    along = [t if moves else None for t, moves in zip(tangents, active, strict=True)]
    results: tuple[list[Any], list[Any]] = jvp_along(run, primals, along)
    return results


def jvp_along(
    function: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any | None]
) -> Any:
    """`jax.jvp` of a function of arrays; those whose tangent is None are constants."""
    moving = {k: tangent for k, tangent in enumerate(tangents) if tangent is not None}

    def of_moving(*values: jax.Array) -> Any:
        at = dict(zip(moving, values, strict=True))
        return function(*(at.get(k, primal) for k, primal in enumerate(primals)))

    return jax.jvp(of_moving, tuple(primals[k] for k in moving), tuple(moving.values()))


def _recorded(call: Call) -> int:
    """Of how many leaves the record is, of a tangent's or an adjoint's operands."""
    return call.operands.children()[0].num_leaves


def _tangent_to_differentiate(call: Call, *leaves: jax.Array) -> Run:
    """The tangent in the form whose derivatives are fastest where the program is to run."""
    by_system, by_scan = (
        functools.partial(form, call) for form in (_tangent_by_system, _tangent_by_scan)
    )
    run: Run = chosen_by_platform(call.settings, leaves, cuda=by_system, default=by_scan)
    return run


def _tangent_jvp(primals: Any, tangents: Any, *, call: Call) -> Any:
    form = _tangent_to_differentiate
    return _jvp(form, _TANGENT, _recorded(call), primals, tangents, call=call)


_ADJOINT_TO_DIFFERENTIATE = functools.partial(_adjoint_of, _tangent_to_differentiate)


def _adjoint_jvp(primals: Any, tangents: Any, *, call: Call) -> Any:
    form = _ADJOINT_TO_DIFFERENTIATE
    return _jvp(form, _ADJOINT, _recorded(call), primals, tangents, call=call)


def _tangent_transpose(cotangents: Sequence[Any], *operands: Any, call: Call) -> list[Any]:
    known, like = _split_linear(call, operands)
    run = jax.tree.unflatten(call.results, [ad.instantiate_zeros(one) for one in cotangents])
    # The leaves by themselves are a record of the same leaves.
    return _of_undefined(operands, _bind_adjoint(call, known, run, like))


def _adjoint_transpose(cotangents: Sequence[Any], *operands: Any, call: Call) -> list[Any]:
    known, like = _split_linear(call, operands)
    form = functools.partial(leaves_of, _ADJOINT_TO_DIFFERENTIATE, *known, call=call)
    zeros = [jnp.zeros(aval.shape, aval.dtype) for aval in like]
    found = jax.linear_transpose(form, *zeros)([ad.instantiate_zeros(one) for one in cotangents])
    return _of_undefined(operands, found)


def _split_linear(call: Call, operands: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """(the leaves of the record, the types of those that a call is linear in)."""
    count = _recorded(call)
    linear = [
        operand.aval if ad.is_undefined_primal(operand) else jax.typeof(operand)
        for operand in operands[count:]
    ]
    return list(operands[:count]), linear


def _of_undefined(operands: Sequence[Any], found: Sequence[Any]) -> list[Any]:
    """Cotangents of the operands that have one."""
    known = len(operands) - len(found)
    return [None] * known + [
        one if ad.is_undefined_primal(operand) else None
        for one, operand in zip(found, operands[known:], strict=True)
    ]


ad.primitive_jvps[_TANGENT] = _tangent_jvp
ad.primitive_jvps[_ADJOINT] = _adjoint_jvp
ad.primitive_transposes[_TANGENT] = _tangent_transpose
ad.primitive_transposes[_ADJOINT] = _adjoint_transpose
