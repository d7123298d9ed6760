"""Which form of a recurrence a program gets, by the platform that it is lowered for.

| platform | form                                                                  |
|----------|-----------------------------------------------------------------------|
| CPU      | scan, each step projecting its own input                              |
| CUDA     | kernels where they apply, else the scan with one projection ahead     |
| other    | scan with one projection ahead                                        |

The kernels are imported where a program needs them, and so is what they are written in.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.interpreters import mlir

from rnn_jax.cells.structure import Mathematics, groups_of, sees_output_alone
from rnn_jax.sequence.running.scanned import Settings

# A function of a call and the leaves of its operands.
Form = Callable[..., Any]

# What `jax.default_matmul_precision` may be, and the kernels' products for it. What is not here
# names products that the kernels do not have.
_PRECISIONS = {
    None: "tf32",
    "default": "tf32",
    "fastest": "tf32",
    "tensorfloat32": "tf32",
    "TF32_TF32_F32": "tf32",
    "high": "bf16x3",
    "bfloat16_3x": "bf16x3",
    "BF16_BF16_F32_X3": "bf16x3",
    "highest": "tf32x3",
    "float32": "tf32x3",
    "TF32_TF32_F32_X3": "tf32x3",
    "F32_F32_F32": "tf32x3",
}
# Where values are rounded to bfloat16 before they are multiplied, these are one and the same.
_PRECISIONS_OF_BFLOAT16 = dict.fromkeys((*_PRECISIONS, "bfloat16", "BF16_BF16_F32"), "bf16")


class Forms(NamedTuple):
    """The forms of one operation.

    Attributes:
      on_cpu: a scan that projects inside.
      elsewhere: a scan that does not.
      by_kernel: the name of one in `on_kernels.py`, which takes a `Launch` first.
      which: of the kernels, "forward" or "adjoint".
    """

    on_cpu: Form
    elsewhere: Form
    by_kernel: str
    which: str


# (form, leaves, call) -> leaves of what the form gives, mapped over the levels of the call.
LeavesOf = Callable[..., list[jax.Array]]


def rules_of(forms: Forms, leaves_of: LeavesOf) -> dict[str | None, Any]:
    """By platform, None being any other, the rule that lowers an operation."""

    def by_scan(form: Form) -> Form:
        return lambda *leaves, call: leaves_of(form, *leaves, call=call)

    def by_kernel(launch: Any) -> Form:
        from rnn_jax.sequence.running import on_kernels

        def form(*leaves: jax.Array, call: Any) -> list[jax.Array]:
            with as_traced(call.settings, leaves):
                found: list[jax.Array] = getattr(on_kernels, forms.by_kernel)(launch, call, *leaves)
                return found

        return form

    def on_cpu(context: Any, *operands: Any, call: Any) -> Any:
        _refuse(call, "kernel", "an NVIDIA GPU", context)
        form = by_scan(forms.on_cpu)
        if call.settings.implementation == "interpret" and not _is_empty(context):
            form = by_kernel(_interpreted(call))
        return mlir.lower_fun(form)(context, *operands, call=call)

    def on_cuda(context: Any, *operands: Any, call: Any) -> Any:
        _refuse(call, "interpret", "a CPU", context)
        launch = _launch(context, forms.which, call)
        if not isinstance(launch, str):
            try:
                with without_notice_of_triton():
                    return mlir.lower_fun(by_kernel(launch))(context, *operands, call=call)
            except NotImplementedError as error:
                # A version of JAX may make a cell's functions of operations that Triton lacks.
                launch = f"this version of JAX cannot lower them: {error}"
        if call.settings.implementation == "kernel":
            raise ValueError(
                f'implementation="kernel" needs a program that the kernels can run; {launch}. Pass '
                'implementation="auto", which scans it instead.'
            )
        return mlir.lower_fun(by_scan(forms.elsewhere))(context, *operands, call=call)

    def elsewhere(context: Any, *operands: Any, call: Any) -> Any:
        _refuse(call, "kernel", "an NVIDIA GPU", context)
        _refuse(call, "interpret", "a CPU", context)
        return mlir.lower_fun(by_scan(forms.elsewhere))(context, *operands, call=call)

    return {"cpu": on_cpu, "cuda": on_cuda, None: elsewhere}


@contextlib.contextmanager
def without_notice_of_triton() -> Iterator[None]:
    """Within it, Pallas does not say that its lowering through Triton is to go.

    Were it gone, what needs no kernel would remain.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The Pallas Triton backend", DeprecationWarning)
        yield


@contextlib.contextmanager
def as_traced(settings: Settings, leaves: Sequence[Any]) -> Iterator[None]:
    """Within it, a call's forms compute as where it was traced.

    A primitive is lowered, and perhaps differentiated, elsewhere: after `jax.jit(f).trace`, within
    `jax.checkpoint`, or going back from what `jax.linearize` gave.

    Args:
      settings: with the precision of products.
      leaves: of the operands: with float64 among them, JAX had types of 64 bits.
    """
    wide = any(leaf.dtype == jnp.float64 for leaf in leaves)
    with (
        jax.default_matmul_precision(settings.precision),
        jax.enable_x64(wide or jax.config.jax_enable_x64),  # type: ignore[attr-defined]
    ):
        yield


def chosen_by_platform(
    settings: Settings, arguments: Sequence[Any], **forms: Callable[..., Any]
) -> Any:
    """What the form for the platform gives that the program is lowered for.

    Unlike the lowering of a primitive this traces every form, so it is for what is rarely traced.

    Args:
      settings: of the recurrence.
      arguments: of the forms, pytrees of arrays.
      forms: by platform, as `jax.lax.platform_dependent` takes them; that for "cuda" is for the
        kernels.
    """
    by_kernels = forms.pop("cuda")
    if settings.implementation in ("kernel", "interpret"):
        return by_kernels(*arguments)
    possible = settings.implementation == "auto" and not why_no_kernel(
        settings.mathematics,
        {leaf.dtype for leaf in jax.tree.leaves(arguments)},
        settings.precision,
        settings.product_type,
    )
    if possible:
        forms["cuda"] = by_kernels
    elif len(forms) == 1:
        return forms["default"](*arguments)
    return lax.platform_dependent(*arguments, **forms)


def _refuse(call: Any, implementation: str, there: str, context: Any) -> None:
    """Raises ValueError if a call asks for an implementation that is not had here."""
    if call.settings.implementation == implementation:
        platforms = " and ".join(context.platforms or context.module_context.platforms)
        raise ValueError(
            f'implementation="{implementation}" runs on {there} alone; got a program that is '
            f'compiled for {platforms}. Pass implementation="auto".'
        )


def _is_empty(context: Any) -> bool:
    """Whether an array without elements takes part, as of a batch without rows."""
    return any(0 in aval.shape for aval in context.avals_in)


def _interpreted(call: Any) -> Any:
    """The `Launch` of kernels on a CPU, where one block follows another."""
    from rnn_jax.sequence.kernels.tiles import SMALLEST_TILE, Tiles
    from rnn_jax.sequence.running.on_kernels import Launch

    tiles = Tiles(rows=SMALLEST_TILE, split=1, warps=4, parts=1, chunks=1, at_once=1)
    precision = kernel_precision(call.settings.precision, call.settings.product_type)
    return Launch(tiles, precision or "tf32x3", interpret=True)


def _launch(context: Any, which: str, call: Any) -> Any:
    """The `Launch` of a call on a CUDA device, or a string: why no kernel runs it."""
    if call.settings.implementation == "scan":
        return "a scan was asked for"
    if _is_empty(context):
        return "there are no rows here"
    module = context.module_context
    if module.lowering_parameters.for_export:
        # JAX does not promise that a kernel can be run by a later version.
        return "this one is exported"
    if not is_for_one_device(module.axis_context):
        return "this one is partitioned over several devices (inside of jax.shard_map none is)"
    asked_for = (call.settings.precision, call.settings.product_type)
    dtypes = {aval.dtype for aval in context.avals_in}
    reason = why_no_kernel(call.settings.mathematics, dtypes, *asked_for)
    if reason is not None:
        return reason
    try:
        from rnn_jax.sequence.kernels.permission import permission_of_lowering
        from rnn_jax.sequence.kernels.tiles import choose_tiles
        from rnn_jax.sequence.running.on_kernels import Launch, size_of
    except ImportError as error:
        # Not every version of JAX has what the kernels are written in.
        return f"the kernels need a part of JAX that this version lacks: {error}"
    permission = permission_of_lowering()
    if permission.card is None:
        return permission.reason
    precision = kernel_precision(*asked_for)
    assert precision is not None
    size = size_of(call, context.avals_in)
    choice = choose_tiles(
        size.rule,
        size.rows,
        size.units,
        members=size.members,
        precision=precision,
        card=permission.card,
        which=which,
    )
    if choice.tiles is None:
        return "; ".join(filter(None, (choice.reason, permission.reason)))
    return Launch(choice.tiles, precision, interpret=False)


def why_no_kernel(
    mathematics: Mathematics, dtypes: set[Any], precision: str | None, product_type: Any
) -> str | None:
    """Why no kernel runs it; None if one does.

    Args:
      mathematics: of the cell.
      dtypes: of all arrays that take part.
      precision: a `jax.default_matmul_precision`.
      product_type: in which values are multiplied, see `FusedForm`.
    """
    if not any(group.sees_state for group in groups_of(mathematics)):
        return "they have one product with the state a step, and nothing here sees the state"
    if not sees_output_alone(mathematics):
        return (
            "they have one product with the state a step, of the part of the carry that is the "
            "output, and here weights meet something else"
        )
    kinds = {str(dtype) for dtype in dtypes if jnp.issubdtype(dtype, jnp.inexact)}
    if kinds - ({"bfloat16"} if product_type == jnp.bfloat16 else set()) != {"float32"}:
        return (
            "they compute in float32, with products of float32 or bfloat16, and here is "
            f"{', '.join(sorted(kinds))}"
        )
    if kernel_precision(precision, product_type) is None:
        known = ", ".join(repr(name) for name in _precisions(product_type) if name is not None)
        return f"they have no products of the precision {precision!r}, only of {known}"
    return None


def kernel_precision(precision: str | None, product_type: Any) -> str | None:
    """The kernels' products for a `jax.default_matmul_precision`; None if there are none.

    Args:
      precision: see there.
      product_type: in which values are multiplied, see `FusedForm`.
    """
    return _precisions(product_type).get(precision)


def _precisions(product_type: Any) -> dict[str | None, str]:
    return _PRECISIONS_OF_BFLOAT16 if product_type == jnp.bfloat16 else _PRECISIONS


def is_for_one_device(axes: Any) -> bool:
    """Whether each device runs the program as it stands, none of its arrays being split."""
    mesh = getattr(axes, "mesh", None)
    if mesh is None:
        return int(axes.num_devices) == 1
    return mesh.size == 1 or set(mesh.axis_names) <= set(axes.manual_axes)
