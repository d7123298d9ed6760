"""One function, computed in the way that suits the platform that a program is lowered for.

What is fastest on a CPU, where work counts, is slow on a GPU, where the number of operations that
wait for one another counts. Which of two ways a program takes is decided when it is lowered, so
what is compiled ahead of time or exported for another platform takes that platform's. The other
ways are not even traced.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.extend.core import Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir

from rnn_jax.gradients.precision import full_precision
from rnn_jax.sequence.running.platforms import is_for_one_device, without_notice_of_triton
from rnn_jax.sequence.running.recurrence import jvp_along

Function = Callable[..., Any]

# Beside the names of platforms.
_KERNEL, _ANY_OTHER = "kernel", "any other"


class _Ways(NamedTuple):
    """How the same results are computed, from flat operands to flat results.

    Attributes:
      usual: as it was traced, an evaluation of its jaxpr.
      others: (platform, function), not traced yet.
      types: of the results.
    """

    usual: Function
    others: tuple[tuple[str, Function], ...]
    types: tuple[Any, ...]

    @classmethod
    def of(cls, function: Function, others: Any, operands: Any) -> "_Ways":
        """Traces the usual way."""
        jaxpr = jax.make_jaxpr(function)(*operands)
        return cls(jaxpr_as_fun(jaxpr), tuple(others), tuple(jaxpr.out_avals))


def by_platform(
    function: Function,
    *,
    cuda: Function | None = None,
    kernel: Function | None = None,
) -> Function:
    """A function that is computed by another one where it is lowered for another platform.

    Batched by `jax.vmap`, each platform's function is. Differentiated, it is `function` that is, on
    every platform.

    Args:
      function: of pytrees of arrays to a pytree of floats; it is given all arrays that depend on
        what is traced as arguments, and closes over none.
      cuda: a function of the same arguments to results of the same types, for an NVIDIA GPU;
        traced where a program is lowered for one, its products in full precision.
      kernel: as `cuda`, of a kernel that is this package's own: not for what is exported, or
        partitioned over several devices.

    Returns:
      A function of the same arguments.
    """
    given = {"cuda": cuda, _KERNEL: kernel}
    others = {name: other for name, other in given.items() if other is not None}

    def call(*operands: Any) -> Any:
        leaves, structure = jax.tree.flatten(operands)
        results: Any = None

        def usual(*leaves: Any) -> list[Any]:
            nonlocal results
            found, results = jax.tree.flatten(function(*jax.tree.unflatten(structure, leaves)))
            return found

        def flat(other: Function) -> Function:
            def of_leaves(*leaves: Any) -> list[Any]:
                with full_precision():
                    return jax.tree.leaves(other(*jax.tree.unflatten(structure, leaves)))

            return of_leaves

        ways = _Ways.of(usual, ((name, flat(other)) for name, other in others.items()), leaves)
        return jax.tree.unflatten(results, _chosen.bind(*leaves, ways=ways))

    return call


_chosen = Primitive("chosen_by_platform")
_chosen.multiple_results = True


@_chosen.def_impl
def _evaluate(*operands: Any, ways: _Ways) -> list[Any]:
    """Outside `jit`, as under `jax.disable_jit`: nothing is lowered, so there is no choice."""
    return ways.usual(*operands)


@_chosen.def_abstract_eval
def _types(*_: Any, ways: _Ways) -> list[Any]:
    return list(ways.types)


def _jvp(primals: Any, tangents: Any, *, ways: _Ways) -> tuple[list[Any], list[Any]]:
    moves = [None if isinstance(tangent, ad.Zero) else tangent for tangent in tangents]
    results: tuple[list[Any], list[Any]] = jvp_along(ways.usual, primals, moves)
    return results


def _batch(operands: Any, axes: Any, *, ways: _Ways) -> tuple[list[Any], list[int]]:
    def mapped(function: Function) -> Function:
        return jax.vmap(function, in_axes=tuple(axes))

    others = ((name, mapped(other)) for name, other in ways.others)
    found = _chosen.bind(*operands, ways=_Ways.of(mapped(ways.usual), others, operands))
    return found, [0] * len(found)


def _lower(context: Any, *operands: Any, platform: str, ways: _Ways) -> Any:
    others = dict(ways.others)
    way = others.get(platform, ways.usual)
    if platform == "cuda" and _KERNEL in others and _may_launch_kernels(context):
        way = others[_KERNEL]
    with without_notice_of_triton():
        return mlir.lower_fun(way, multiple_results=True)(context, *operands)


def _may_launch_kernels(context: Any) -> bool:
    """Whether a program for a GPU may have kernels whose blocks wait for no others."""
    module = context.module_context
    if module.lowering_parameters.for_export or not is_for_one_device(module.axis_context):
        return False
    try:
        from jax.experimental.pallas import triton  # noqa: F401

        from rnn_jax.sequence.kernels.permission import permission_of_lowering
    except ImportError:  # Not every version of JAX has it.
        return False
    # The self-test is of blocks that exchange.
    return permission_of_lowering(works=lambda _: True).card is not None


ad.primitive_jvps[_chosen] = _jvp
batching.primitive_batchers[_chosen] = _batch
mlir.register_lowering(_chosen, functools.partial(_lower, platform="cuda"), platform="cuda")
mlir.register_lowering(_chosen, functools.partial(_lower, platform=_ANY_OTHER))
