"""How sequences are run: `unroll` with each of its options, models, stacks, wrappers."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import rnn_jax as rj

# Programs take as long to compile for many steps as for few.
B, T, FEATURES, H = 16, 50, 2, 32
XS = jax.ShapeDtypeStruct((B, T, FEATURES), jnp.float32)
ROW = jax.ShapeDtypeStruct((T, FEATURES), jnp.float32)
CARRY = jax.ShapeDtypeStruct((B, H), jnp.float32)
MARKS = jax.ShapeDtypeStruct((B, T), jnp.bool_)
LENGTHS = jax.ShapeDtypeStruct((B,), jnp.int32)
KEY = jax.random.key(0)

Call = tuple[Callable[..., Any], tuple[Any, ...]]  # a function and the arrays that it is called on


def lstm(features: int = FEATURES, hidden: int = H) -> rj.LSTMCell:
    return rj.LSTMCell(features, hidden, rngs=nnx.Rngs(0))


def gru(features: int = FEATURES, hidden: int = H) -> rj.GRUCell:
    return rj.GRUCell(features, hidden, rngs=nnx.Rngs(0))


def simple(features: int = FEATURES, hidden: int = H) -> rj.SimpleRNNCell:
    return rj.SimpleRNNCell(features, hidden, rngs=nnx.Rngs(0))


def loss(ys: Any) -> jax.Array:
    return jnp.mean(jnp.square(ys))


def run(cell: Any, xs: Any, **options: Any) -> Any:
    return rj.unroll(cell, xs, **options)


def total(cell: Any, xs: Any, **options: Any) -> jax.Array:
    """What is differentiated."""
    return loss(rj.unroll(cell, xs, **options)[1])


gradient = jax.grad(total, argnums=(0, 1))


def with_options(cell: Any, *arrays: Any, names: tuple[str, ...] = (), **static: Any) -> Call:
    """The outputs and the gradient of a call, some of whose options are arrays."""

    def both(cell: Any, xs: Any, *given: Any) -> Any:
        options = {**static, **dict(zip(names, given, strict=True))}
        return run(cell, xs, **options), gradient(cell, xs, **options)

    return both, (cell, XS, *arrays)


def tangent(cell: Any, xs: Any) -> Any:
    """jvp by weights and inputs."""
    return jax.jvp(total, (cell, xs), (cell, xs))


def hessian_product(cell: Any, xs: Any) -> Any:
    return jax.jvp(jax.grad(total), (cell, xs), (cell, xs))


def of_members(function: Callable[..., Any], size: int = 3) -> Call:
    """As `jax.vmap` runs several cells, each on inputs of its own."""
    members = rj.ensemble(lambda rngs: rj.LSTMCell(FEATURES, H, rngs=rngs), size)
    return jax.vmap(function), (members, jax.ShapeDtypeStruct((size, *XS.shape), XS.dtype))


def in_bfloat16() -> Call:
    cell = rj.LSTMCell(FEATURES, H, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    return gradient, (cell, XS.update(dtype=jnp.bfloat16))


def own_step(kernel: jax.Array, h: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    h = jnp.tanh(jnp.sum(x) + h @ kernel)
    return h, h


def own_cell() -> Call:
    cell = rj.as_cell(jax.tree_util.Partial(own_step, jnp.eye(H)), initial_carry=jnp.zeros(H))
    return gradient, (cell, XS)


def model() -> rj.SequenceModel:
    return rj.SequenceModel([lstm(), gru(H)], 3, rngs=nnx.Rngs(0))


def of_model(model: Any) -> Call:
    return jax.grad(lambda model, xs: loss(model(xs))), (model, XS)


def both_directions(cells: rj.Bidirectional) -> Call:
    return jax.grad(lambda cells, xs: loss(cells(xs)[1])), (cells, XS)


def with_noise(wrapped: Any) -> Call:
    return with_options(wrapped, KEY, names=("key",))


def projected(cell: Any) -> Any:
    """A step of gradient descent that keeps weights between −0.1 and 0.1."""
    keep = rj.project_updates(lambda w: jnp.clip(w, -0.1, 0.1), lambda path: path == "kernel")
    optimizer = optax.chain(optax.sgd(1.0), keep)
    return optimizer.update(cell, optimizer.init(cell), cell)[0]


# By public name and, after a colon, what of it: a function that makes the call.
CALLS: dict[str, Callable[[], Call]] = {
    "unroll: of one row": lambda: (run, (lstm(), ROW)),
    "unroll: by jvp": lambda: (tangent, (lstm(), XS)),
    "unroll: gradient under jit": lambda: (jax.jit(gradient), (gru(), XS)),
    "unroll: Hessian times a vector": lambda: (hessian_product, (lstm(), XS)),
    "unroll: Hessian by a row": lambda: (
        jax.hessian(total, argnums=1),
        (simple(hidden=4), jax.ShapeDtypeStruct((5, FEATURES), jnp.float32)),
    ),
    "unroll: Jacobian by inputs": lambda: (jax.jacrev(lambda c, x: run(c, x)[1], 1), (gru(), ROW)),
    "unroll: members": lambda: of_members(run),
    "unroll: gradient of members": lambda: of_members(gradient),
    "unroll: lengths": lambda: with_options(lstm(), LENGTHS, names=("lengths",)),
    "unroll: mask": lambda: with_options(gru(), MARKS, names=("mask",)),
    "unroll: resets": lambda: with_options(lstm(), MARKS, names=("resets",)),
    "unroll: lengths and resets": lambda: with_options(
        gru(), LENGTHS, MARKS, names=("lengths", "resets")
    ),
    "unroll: reverse": lambda: with_options(lstm(), reverse=True),
    "unroll: return_carries": lambda: with_options(lstm(), return_carries=True),
    "unroll: checkpoint": lambda: with_options(lstm(), checkpoint="sqrt"),
    "unroll: truncate": lambda: with_options(lstm(), truncate=7),
    "unroll: carry and initial": lambda: with_options(
        gru(), CARRY, CARRY, MARKS, names=("carry", "initial", "resets")
    ),
    "unroll: bfloat16": in_bfloat16,
    "newton_unroll": lambda: (rj.newton_unroll, (simple(), ROW)),
    "project_updates": lambda: (projected, (simple(),)),
    "as_cell": own_cell,
    "leaky_relu": lambda: (
        gradient,
        (rj.SimpleRNNCell(FEATURES, H, activation=rj.leaky_relu(0.1), rngs=nnx.Rngs(0)), XS),
    ),
    "LearnedCarry": lambda: with_options(rj.LearnedCarry(lstm())),
    "Zoneout": lambda: with_noise(rj.Zoneout(lstm(), 0.1)),
    "RecurrentDropout": lambda: with_noise(rj.RecurrentDropout(gru(), 0.1)),
    "StackedCell": lambda: with_options(rj.StackedCell([lstm(), gru(H)])),
    "Bidirectional": lambda: both_directions(rj.Bidirectional(lstm(), gru())),
    "SequenceModel": lambda: of_model(model()),
    "SequenceModel: every output": lambda: of_model(
        rj.SequenceModel(rj.Bidirectional(gru(), gru()), 3, readout="all", rngs=nnx.Rngs(0))
    ),
}
