"""A step's function in operations that Triton has, and that keep NaN.

Pallas' Triton lowering has no erf and no erfc, and its maximum of NaN and a number is the number,
where JAX's is NaN: a ReLU would turn NaN into 0. `lowerable` writes those operations out.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal


def lowerable(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function of float32 arrays, to be called inside of a kernel."""

    def substituted(*arguments: Any) -> Any:
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
        results = _evaluated(closed.jaxpr, closed.consts, jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(shapes), results)

    return substituted


def _evaluated(jaxpr: Jaxpr, constants: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    """What a jaxpr returns for these arguments, calls inlined."""
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *arguments], strict=True))

    def value_of(variable: Any) -> Any:
        return variable.val if isinstance(variable, Literal) else values[variable]

    for equation in jaxpr.eqns:
        inputs = [value_of(variable) for variable in equation.invars]
        called = equation.params.get("call_jaxpr", equation.params.get("jaxpr"))
        if isinstance(called, ClosedJaxpr):
            results = _evaluated(called.jaxpr, called.consts, inputs)
        elif equation.primitive in _SUBSTITUTES:
            results = [_SUBSTITUTES[equation.primitive](*inputs, **equation.params)]
        else:
            found = equation.primitive.bind(*inputs, **equation.params)
            results = found if equation.primitive.multiple_results else [found]
        values.update(zip(equation.outvars, results, strict=True))
    return [value_of(variable) for variable in jaxpr.outvars]


def _max(a: Any, b: Any, **_: Any) -> Any:
    return jnp.where((a != a) | (b != b), a + b, lax.max_p.bind(a, b))


def _min(a: Any, b: Any, **_: Any) -> Any:
    return jnp.where((a != a) | (b != b), a + b, lax.min_p.bind(a, b))


def _clamp(low: Any, x: Any, high: Any, **_: Any) -> Any:
    return jnp.where(x != x, x, lax.clamp_p.bind(low, x, high))


def _erf(x: Any, **_: Any) -> Any:
    return jnp.where(jnp.abs(x) < 1, _erf_near_0(x), 1 - _erfc_far(x))


def _erfc(x: Any, **_: Any) -> Any:
    return jnp.where(jnp.abs(x) < 1, 1 - _erf_near_0(x), _erfc_far(x))


def _erf_near_0(x: Any) -> Any:
    """erf x for |x| < 1: x T(x²)."""
    return x * _polynomial(x * x, _ERF)


def _erfc_far(x: Any) -> Any:
    """erfc x for |x| ≥ 1: exp(−x²)/x · P(1/x²), and 2 minus that of −x where x < 0."""
    inverse = 1 / jnp.abs(x)
    square = inverse * inverse
    factor = jnp.where(
        jnp.abs(x) < 2, _polynomial(square, _ERFC_TO_2), _polynomial(square, _ERFC_FROM_2)
    )
    tail = jnp.exp(-x * x) * inverse * factor
    return jnp.where(x < 0, 2 - tail, tail)


def _polynomial(x: Any, coefficients: Sequence[Any]) -> Any:
    """By Horner's rule, the highest power first."""
    total = jnp.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        total = total * x + coefficient
    return total


# From ndtrf.c of the Cephes library (S. Moshier, 1984 to 2000), as in XLA.
_ERF = (
    7.853861353153693e-5,
    -8.010193625184903e-4,
    5.188327685732524e-3,
    -2.685381193529856e-2,
    1.128358514861418e-1,
    -3.761262582423300e-1,
    1.128379165726710e0,
)
_ERFC_TO_2 = (
    2.326819970068386e-2,
    -1.387039388740657e-1,
    3.687424674597105e-1,
    -5.824733027278666e-1,
    6.210004621745983e-1,
    -4.944515323274145e-1,
    3.404879937665872e-1,
    -2.741127028184656e-1,
    5.638259427386472e-1,
)
_ERFC_FROM_2 = (
    -1.047766399936249e1,
    1.297719955372516e1,
    -7.495518717768503e0,
    2.921019019210786e0,
    -1.015265279202700e0,
    4.218463358204948e-1,
    -2.820767439740514e-1,
    5.641895067754075e-1,
)

_SUBSTITUTES: dict[Any, Callable[..., Any]] = {
    lax.max_p: _max,
    lax.min_p: _min,
    lax.clamp_p: _clamp,
    lax.erf_p: _erf,
    lax.erfc_p: _erfc,
    # What JAX puts where an array must be another one than it came in; Triton has no such thing.
    lax.copy_p: lambda x, **_: x,
}
# In newer versions of JAX the derivative of erfc is made of this one.
_POLYNOMIAL = getattr(lax, "polynomial_p", None)
if _POLYNOMIAL is not None:
    _SUBSTITUTES[_POLYNOMIAL] = lambda x, *ascending, **_: _polynomial(x, ascending[::-1])
