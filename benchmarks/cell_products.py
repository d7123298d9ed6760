"""The matrix products that a training step of a cell must contain, and nothing else.

What they are is read off the cell itself: the products in the derivative of its step by the carry.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

import rnn_jax as rj
from benchmarks.peers import Run, Shape, inputs

# How many sequences a step is traced with: a number that no axis of weights has.
_ROWS = 1009


class Product(NamedTuple):
    """Rows (heads, B, k) times a matrix of weights (heads, k, n)."""

    heads: int
    k: int
    n: int

    def __str__(self) -> str:
        return f"{'' if self.heads == 1 else f'{self.heads}×'}{self.k}×{self.n}"


class Products(NamedTuple):
    """The products with the state in one step of a cell.

    Attributes:
      recurrent: those on the way to the next state, which wait for one another.
      readout: those on the way to the output alone, which all steps can do at once.
      projected: the features of the projected input, a product with the input.
      is_trained: whether there are weights to be trained, without which nothing runs backward.
    """

    recurrent: tuple[Product, ...]
    readout: tuple[Product, ...]
    projected: int
    is_trained: bool

    def __str__(self) -> str:
        named = [str(one) for one in self.recurrent]
        named += [f"{one} at the end" for one in self.readout]
        return ", ".join(named) or "none"


def products_of(cell: rj.RNNCell) -> Products:
    """The products with the state in one step of a cell."""
    x = jnp.zeros((_ROWS, cell.in_features))
    carry, z = cell.initialize_carry(x.shape), cell.project(x)

    def through(function: Callable[[Any], Any]) -> Counter[Product]:
        derivative = jax.linearize(function, carry)[1]
        return Counter(_with_weights(jax.make_jaxpr(derivative)(carry).jaxpr))

    recurrent = through(lambda carry: cell.step(carry, z)[0])
    whole = through(lambda carry: cell.step(carry, z))
    return Products(
        tuple(recurrent.elements()),
        tuple((whole - recurrent).elements()),
        sum(leaf.shape[-1] for leaf in jax.tree.leaves(z)),
        any(isinstance(value, nnx.Param) for value in vars(cell).values()),
    )


def _with_weights(program: Any) -> Iterator[Product]:
    """The products of a linear program in which rows meet a matrix that is the same for all."""
    for equation in program.eqns:
        for inner in equation.params.values():
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from _with_weights(inner)
        if equation.primitive.name != "dot_general":
            continue
        (contracted, _), (batch, _) = equation.params["dimension_numbers"]
        left, right = (operand.aval.shape for operand in equation.invars)
        heads = math.prod(left[axis] for axis in batch)
        k = math.prod(left[axis] for axis in contracted)
        if heads % _ROWS:
            yield Product(heads, k, math.prod(left) * math.prod(right) // (heads * k) ** 2 // _ROWS)


def bare_run(products: Products, shape: Shape) -> Run:
    """A call that runs the products of one training step.

    For each product with the state one a step forward, one a step backward, and one over all steps
    for the gradient of its weights; for one that is read out, and for that of the inputs, one over
    all steps each.
    """
    batch, steps, features, _ = shape
    key = jax.random.key(0)

    def normal(*sizes: int) -> jax.Array:
        return jax.random.normal(key, sizes)

    recurrent = [normal(p.heads, p.k, p.n) / p.k for p in products.recurrent]
    readout = [normal(p.heads, p.k, p.n) / p.k for p in products.readout]
    rows = [normal(p.heads, steps * batch, p.k) for p in (*products.recurrent, *products.readout)]
    back = [normal(p.heads, steps * batch, p.n) for p in (*products.recurrent, *products.readout)]
    xs = inputs(shape).reshape(-1, features)
    projected, w_x = normal(steps * batch, products.projected), normal(features, products.projected)

    @jax.jit
    def in_turn(kernels: list[jax.Array]) -> Any:
        def body(states: list[jax.Array], _: None) -> tuple[list[jax.Array], None]:
            made = [state @ kernel for state, kernel in zip(states, kernels, strict=True)]
            return [
                _of_size(one, state.shape[-1]) for one, state in zip(made, states, strict=True)
            ], None

        starts = [jnp.ones((w.shape[0], batch, w.shape[1])) for w in kernels]
        return jax.lax.scan(body, starts, None, length=steps)[0]

    @jax.jit
    def at_once(ones: list[jax.Array], others: list[jax.Array]) -> Any:
        return [one @ other for one, other in zip(ones, others, strict=True)]

    def transposed(kernels: list[jax.Array]) -> list[jax.Array]:
        return [jnp.swapaxes(kernel, -1, -2) for kernel in kernels]

    recurrent_back, readout_back, rows_back = map(transposed, (recurrent, readout, rows))
    read, read_back = rows[len(recurrent) :], back[len(recurrent) :]
    xs_back = xs.T

    def run() -> None:
        jax.block_until_ready((in_turn(recurrent), at_once([*read, xs], [*readout, w_x])))
        if products.is_trained:
            jax.block_until_ready((in_turn(recurrent_back), at_once(read_back, readout_back)))
            jax.block_until_ready(at_once([*rows_back, xs_back], [*back, projected]))

    return run


def _of_size(values: jax.Array, size: int) -> jax.Array:
    """The features repeated or cut to so many, so that a product can go on with them."""
    times = -(-size // values.shape[-1])
    return jnp.concatenate([values] * times, axis=-1)[..., :size]
