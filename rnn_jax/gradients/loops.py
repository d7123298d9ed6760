"""Loops and branches of `jax.lax` that hold in all of JAX's modes.

Inside `jax.shard_map` a constant and a value that differs from device to device are of different
types, and a loop must start from the type that its body returns, as branches must return one type:
here what is constant is cast to what varies. And under `jax.disable_jit`, where `lax.scan` refuses
to make no step, a scan over nothing gives back its start.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType

from rnn_jax.arrays import varying_like


def scan(
    body: Callable[[Any, Any], tuple[Any, Any]],
    start: Any,
    xs: Any,
    length: int | None = None,
    reverse: bool = False,
) -> tuple[Any, Any]:
    """`lax.scan`."""
    if not (jax.tree.leaves(xs)[0].shape[0] if length is None else length):
        first = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), xs)
        ys = jax.eval_shape(body, start, first)[1]
        return start, jax.tree.map(lambda y: jnp.zeros((0, *y.shape), y.dtype), ys)
    if _inside_shard_map():
        first = None if xs is None else jax.tree.map(lambda a: a[0], xs)
        start = _settled(lambda carry: body(carry, first)[0], start)
        given = body

        def body(carry: Any, x: Any) -> tuple[Any, Any]:
            after, y = given(carry, x)
            return _each_like(after, start), y

    return lax.scan(body, start, xs, length=length, reverse=reverse)


def while_loop(condition: Callable[[Any], Any], body: Callable[[Any], Any], start: Any) -> Any:
    """`lax.while_loop`."""
    if _inside_shard_map():
        start, given = _settled(body, start), body

        def body(carry: Any) -> Any:
            return _each_like(given(carry), start)

    return lax.while_loop(condition, body, start)


def fori_loop(lower: Any, upper: Any, body: Callable[[Any, Any], Any], start: Any) -> Any:
    """`lax.fori_loop`."""
    if _inside_shard_map():
        start, given = _settled(lambda carry: body(lower, carry), start), body

        def body(index: Any, carry: Any) -> Any:
            return _each_like(given(index, carry), start)

    return lax.fori_loop(lower, upper, body, start)


def cond(condition: Any, yes: Callable[..., Any], no: Callable[..., Any], *operands: Any) -> Any:
    """`lax.cond`."""
    if not _inside_shard_map():
        return lax.cond(condition, yes, no, *operands)
    kinds = [_types_of(branch, *operands) for branch in (yes, no)]

    def like_both(branch: Callable[..., Any]) -> Callable[..., Any]:
        def call(*operands: Any) -> Any:
            leaves, structure = jax.tree.flatten(branch(*operands))
            cast = map(varying_like, leaves, *kinds)
            return jax.tree.unflatten(structure, cast)

        return call

    return lax.cond(condition, like_both(yes), like_both(no), *operands)


def _settled(step: Callable[[Any], Any], start: Any) -> Any:
    """The start of a loop in the type that stays the same from step to step."""
    while True:
        leaves, structure = jax.tree.flatten(start)
        wider = list(map(varying_like, leaves, _types_of(step, start)))
        if all(one is other for one, other in zip(wider, leaves, strict=True)):
            return start
        start = jax.tree.unflatten(structure, wider)


def _types_of(function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """The types of a function's results, leaf by leaf."""
    return list(jax.make_jaxpr(function)(*arguments).out_avals)


def _each_like(tree: Any, like: Any) -> Any:
    return jax.tree.map(varying_like, tree, like)


def _inside_shard_map() -> bool:
    return AxisType.Manual in (jax.sharding.get_abstract_mesh().axis_types or ())
