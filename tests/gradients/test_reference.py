"""What the other files here test against, written anew and slowly, with tests of its own."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import zoo
from flax import nnx
from jax.flatten_util import ravel_pytree

T, I, H = 5, 2, 3
XS = np.random.default_rng(0).normal(size=(T, I))

# What runs once is not worth optimising.
QUICK = {"xla_backend_optimization_level": 0}

# Where the output stands in the flattened carry, (start, stop).
OUTPUT_ROWS = {
    **{name: (H, 2 * H) if name.startswith("lstm") else (0, H) for name in zoo.CELLS},
    "nnx_simple": (0, H),
    "nnx_lstm": (H, 2 * H),
    "nnx_optimized_lstm": (H, 2 * H),
    "nnx_gru": (0, H),
    "linen_lstm": (H, 2 * H),
    "linen_gru": (0, H),
    "equinox_gru_partial": (0, H),
    "equinox_lstm_function": (0, H),
    "dict_readout": None,
    "henon": None,
    "plain_object": None,
}

# One of each kind, for what need not be swept over every variant.
FAMILIES = (
    "simple_tanh",
    "simple_relu",
    "lstm_coupled_peephole",
    "gru_reset_before",
    "nnx_lstm",
    "linen_gru",
    "equinox_gru_partial",
    "dict_readout",
    "henon",
)


class Network(NamedTuple):
    """A cell, a carry away from zero, and the same as functions of vectors."""

    cell: Any
    carry: Any
    state: np.ndarray  # the carry, flat
    step: Callable[..., Any]  # (state, x) -> (state, y)
    step_of: Callable[..., Any]  # (cell, state, x) -> (state, y)
    rows: tuple[int, int] | None


@functools.cache
def network(name: str) -> Network:
    cell, carry = zoo.build(name, I, H)
    if carry is None:
        rngs = (nnx.Rngs(0),) if isinstance(cell, nnx.RNNCellBase) else ()
        carry = cell.initialize_carry((I,), *rngs)
    leaves, structure = jax.tree.flatten(carry)
    rng = np.random.default_rng(7)
    leaves = [leaf + 0.3 * jnp.asarray(rng.normal(size=leaf.shape)) for leaf in leaves]
    carry = jax.tree.unflatten(structure, leaves)
    state, unravel = ravel_pytree(carry)

    def step_of(cell, state, x):
        after, y = cell(unravel(state), x)
        return ravel_pytree(after)[0], ravel_pytree(y)[0]

    step = functools.partial(step_of, cell)
    return Network(cell, carry, np.asarray(state), step, step_of, OUTPUT_ROWS[name])


def unrolled(net: Network, xs: Any, state: Any, nudges: Any = None) -> tuple[Any, Any]:
    """States after each step (T, S) and outputs (T, O), with something added to each new state.

    An output that is a part of the state is read from the nudged state.
    """
    nudges = jnp.zeros((len(xs), len(state))) if nudges is None else nudges

    def body(state, at):
        x, nudge = at
        state, y = net.step(state, x)
        state = state + nudge
        y = y if net.rows is None else state[slice(*net.rows)]
        return state, (state, y)

    return jax.lax.scan(body, state, (xs, nudges))[1]


def log_norm_table(As: Any, Bs: Any, rows: slice, norm: str = "fro") -> np.ndarray:
    """(T, T): ln‖∂y_t/∂x_s‖ in float64, each product rescaled by a power of two at each step."""
    steps, _, features = Bs.shape
    products, exponents = np.zeros((steps, As.shape[1], features)), np.zeros(steps)
    table = np.full((steps, steps), -np.inf)
    for t in range(steps):
        past = products[:t].transpose(1, 0, 2).reshape(As.shape[1], t * features)
        products[:t] = (As[t] @ past).reshape(As.shape[1], t, features).transpose(1, 0, 2)
        products[t] = Bs[t]
        shift = np.frexp(np.abs(products[: t + 1]).max(axis=(1, 2)))[1]
        products[: t + 1] = np.ldexp(products[: t + 1], -shift[:, None, None])
        exponents[: t + 1] += shift
        seen = products[: t + 1, rows]
        if norm == "fro":
            norms = np.sqrt((seen**2).sum(axis=(1, 2)))
        else:
            norms = np.linalg.norm(seen, 2, axis=(1, 2))
        with np.errstate(divide="ignore"):
            table[t, : t + 1] = np.log(norms) + np.log(2) * exponents[: t + 1]
    return table


@pytest.mark.parametrize("name", ["simple_relu", "lstm_peephole", "gru_reset_after"])
def test_unrolled_is_the_loop_of_the_oracle(name):
    net = network(name)
    carries, ys = oracles.run(zoo.oracle(net.cell).step, XS, net.state)
    states, outputs = unrolled(net, jnp.asarray(XS), jnp.asarray(net.state))
    np.testing.assert_allclose(np.asarray(states), carries[1:], rtol=1e-12)
    np.testing.assert_allclose(np.asarray(outputs), ys, rtol=1e-12)


@pytest.mark.parametrize("norm", ["fro", "spectral"])
@pytest.mark.parametrize("gain", [1e-9, 1.0, 1e9])
def test_log_norm_table_is_that_of_the_oracle_far_out_of_range(gain, norm):
    rng = np.random.default_rng(1)
    As, Bs = gain * rng.normal(size=(60, 4, 4)), rng.normal(size=(60, 4, 2))
    rows = slice(1, 4)
    table = log_norm_table(As, Bs, rows, norm)
    np.testing.assert_allclose(table, oracles.log_norms(As, Bs, rows, norm=norm), rtol=1e-12)
    assert abs(table[59, 0]) > 1000 or gain == 1.0
