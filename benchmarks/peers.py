"""The gradient of the summed outputs by all weights, in each library: a call that runs it once."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
from flax import linen, nnx

import rnn_jax as rj

# (batch, steps, input features, hidden features)
Shape = tuple[int, int, int, int]
Run = Callable[[], object]

OURS: dict[str, Callable[..., rj.RNNCell]] = {
    "LSTM": rj.LSTMCell,
    "GRU": rj.GRUCell,
    "simple RNN": rj.SimpleRNNCell,
}
_LINEN = {
    "LSTM": linen.OptimizedLSTMCell,
    "GRU": linen.GRUCell,
    "simple RNN": linen.SimpleCell,
}
_EQUINOX = {"LSTM": eqx.nn.LSTMCell, "GRU": eqx.nn.GRUCell}
_TORCH = {"LSTM": "LSTM", "GRU": "GRU", "simple RNN": "RNN"}
# Not every Python has a build of it for the CPU; without one, its column stays empty.
torch: Any = import_module("torch") if find_spec("torch") else None

# Pre-activations a unit that are products with the state.
GATES = {"LSTM": 4, "GRU": 3, "simple RNN": 1}


def candidates(kind: str, shape: Shape) -> dict[str, Run]:
    """By name, every library that has the cell and runs on this machine's default device."""
    runs = {"rnn_jax": rnn_jax(kind, shape), "Flax Linen": _linen(kind, shape)}
    if kind in _EQUINOX:
        runs["Equinox"] = _equinox(kind, shape)
    on_gpu = jax.default_backend() == "gpu"
    if torch is not None and (not on_gpu or torch.cuda.is_available()):
        runs["PyTorch"] = _torch(kind, shape, "cuda" if on_gpu else "cpu")
    return runs


def inputs(shape: Shape) -> jax.Array:
    """Normal inputs, (batch, steps, input features)."""
    return jax.random.normal(jax.random.key(0), shape[:3])


def _gradient(summed: Callable[..., jax.Array], weights: Any, shape: Shape) -> Run:
    gradient, xs = jax.jit(jax.grad(summed)), inputs(shape)
    return lambda: jax.block_until_ready(gradient(weights, xs))


def rnn_jax(kind: str, shape: Shape) -> Run:
    """This package's."""
    cell = OURS[kind](shape[2], shape[3], rngs=nnx.Rngs(0))
    return _gradient(lambda cell, xs: jnp.sum(rj.unroll(cell, xs)[1]), cell, shape)


def _linen(kind: str, shape: Shape) -> Run:
    model = linen.RNN(_LINEN[kind](shape[3]))
    variables = model.init(jax.random.key(0), inputs(shape))

    def summed(variables: Any, xs: jax.Array) -> jax.Array:
        return jnp.sum(cast(jax.Array, model.apply(variables, xs)))

    return _gradient(summed, variables, shape)


def _equinox(kind: str, shape: Shape) -> Run:
    """Equinox has cells alone: its documentation scans them, one sequence at a time under vmap."""
    cell = _EQUINOX[kind](shape[2], shape[3], key=jax.random.key(0))
    zero = jnp.zeros(shape[3])

    def outputs(cell: Any, xs: jax.Array) -> jax.Array:
        def step(carry: Any, x: jax.Array) -> tuple[Any, jax.Array]:
            carry = cell(x, carry)
            return carry, carry[0] if kind == "LSTM" else carry

        return jax.lax.scan(step, (zero, zero) if kind == "LSTM" else zero, xs)[1]

    def summed(cell: Any, xs: jax.Array) -> jax.Array:
        return jnp.sum(jax.vmap(outputs, in_axes=(None, 0))(cell, xs))

    return _gradient(summed, cell, shape)


def _torch(kind: str, shape: Shape, device: str) -> Run:
    model = getattr(torch.nn, _TORCH[kind])(shape[2], shape[3], batch_first=True).to(device)
    xs = torch.randn(*shape[:3], device=device)

    def run() -> None:
        model.zero_grad()
        model(xs)[0].sum().backward()
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def products(kind: str, shape: Shape) -> Run:
    """The matrix products that such a gradient must contain, and nothing else.

    One a step forward, one a step backward, one for the weights' gradient over all steps, and one
    more for the inputs' projection.
    """
    batch, steps, features, size = shape
    columns = GATES[kind] * size
    keys = jax.random.split(jax.random.key(0), 4)
    w_h = jax.random.normal(keys[0], (size, columns)) / size
    w_x = jax.random.normal(keys[1], (features, columns)) / size
    hs = jax.random.normal(keys[2], (steps, batch, size))
    ds = jax.random.normal(keys[3], (steps, batch, columns))
    xs = jnp.swapaxes(inputs(shape), 0, 1)

    @jax.jit
    def forward(h: jax.Array) -> jax.Array:
        def body(h: jax.Array, _: None) -> tuple[jax.Array, None]:
            return (h @ w_h)[:, :size], None

        return jax.lax.scan(body, h, None, length=steps)[0]

    @jax.jit
    def backward(d: jax.Array) -> jax.Array:
        w_t = w_h.T

        def body(d: jax.Array, _: None) -> tuple[jax.Array, None]:
            return jnp.tile(d @ w_t, (1, GATES[kind])), None

        return jax.lax.scan(body, d, None, length=steps)[0]

    @jax.jit
    def weights(hs: jax.Array, xs: jax.Array, ds: jax.Array) -> jax.Array:
        seen = jnp.concatenate([hs, xs], axis=-1).reshape(steps * batch, -1)
        return seen.T @ ds.reshape(steps * batch, -1)

    project = jax.jit(lambda xs: xs @ w_x)
    run = partial(jax.block_until_ready)
    return lambda: (
        run(forward(hs[0])),
        run(backward(ds[0])),
        run(weights(hs, xs, ds)),
        run(project(xs)),
    )
