"""One function, computed in the way that suits the platform that a program is lowered for.

What is fastest on a CPU, where work counts, is slow on a GPU, where the number of operations that
wait for one another counts. Which of two ways a program takes is decided when it is lowered, so
what is compiled ahead of time or exported for another platform takes that platform's. The other
ways are not even traced.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.extend.core import Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir

from rnn_jax.gradients.precision import full_precision

Function = Callable[..., Any]

_ACCELERATORS = ("cuda", "tpu")


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


def by_platform(function: Function, **others: Function) -> Function:
    """A function that is computed by another one where it is lowered for another platform.

    Batched by `jax.vmap`, each platform's function is. Differentiated, it is `function` that is, on
    every platform.

    Args:
      function: of pytrees of arrays to a pytree of floats; it is given all arrays that depend on
        what is traced as arguments, and closes over none.
      others: functions of the same arguments to results of the same types, by platform, "cuda" or
        "tpu", traced where a program is lowered for it; their products are in full precision.

    Returns:
      A function of the same arguments.
    """
    assert set(others) <= set(_ACCELERATORS), others

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
    moving = [i for i, tangent in enumerate(tangents) if not isinstance(tangent, ad.Zero)]

    def of_moving(*values: Any) -> list[Any]:
        operands = list(primals)
        for i, value in zip(moving, values, strict=True):
            operands[i] = value
        return ways.usual(*operands)

    return jax.jvp(of_moving, [primals[i] for i in moving], [tangents[i] for i in moving])


def _batch(operands: Any, axes: Any, *, ways: _Ways) -> tuple[list[Any], list[int]]:
    def mapped(function: Function) -> Function:
        return jax.vmap(function, in_axes=tuple(axes))

    others = ((name, mapped(other)) for name, other in ways.others)
    found = _chosen.bind(*operands, ways=_Ways.of(mapped(ways.usual), others, operands))
    return found, [0] * len(found)


def _lowering(platform: str | None) -> Function:
    def lower(context: Any, *operands: Any, ways: _Ways) -> Any:
        function = dict(ways.others).get(platform, ways.usual)
        return mlir.lower_fun(function, multiple_results=True)(context, *operands)

    return lower


ad.primitive_jvps[_chosen] = _jvp
batching.primitive_batchers[_chosen] = _batch
mlir.register_lowering(_chosen, _lowering(None))
for _platform in _ACCELERATORS:
    mlir.register_lowering(_chosen, _lowering(_platform), platform=_platform)
