"""What the other files here test against, written anew and slowly, with tests of its own."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial

import oracles
import rnn_jax as rj
import zoo

T, FEATURES, H = 5, 2, 3
XS = np.random.default_rng(0).normal(size=(T, FEATURES))

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
    "simple_relu",
    "lstm_coupled_peephole",
    "gru_reset_before",
    "nnx_lstm",
    "linen_gru",
    "dict_readout",
    "henon",
)


def arrays_of(lin):
    """Trajectory and Jacobians, without the cell and the inputs that they are of."""
    return (
        lin.carries,
        lin.outputs,
        lin.state_jacobians,
        lin.input_jacobians,
        lin.output_state_jacobians,
        lin.output_input_jacobians,
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
    cell, carry = zoo.build(name, FEATURES, H)
    if carry is None:
        rngs = (nnx.Rngs(0),) if isinstance(cell, nnx.RNNCellBase) else ()
        carry = cell.initialize_carry((FEATURES,), *rngs)
    leaves, structure = jax.tree.flatten(carry)
    rng = np.random.default_rng(7)
    leaves = [
        jnp.asarray(leaf + 0.3 * rng.normal(size=leaf.shape)) for leaf in map(np.asarray, leaves)
    ]
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


@jax.jit
def _jacobians(cell, carry):
    return {
        "input": rj.input_jacobian(cell, jnp.asarray(XS), carry),
        "state": rj.state_jacobian(cell, jnp.asarray(XS), carry),
    }


@functools.cache
def jacobians(name: str) -> dict[str, np.ndarray]:
    """What the package returns for a network, by the argument `wrt`; it is held to account in
    `test_jacobians` and is the reference for what follows from it.
    """
    net = network(name)
    arrays = all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(net.cell))
    cell = net.cell if arrays else Partial(net.cell)
    return jax.tree.map(np.asarray, _jacobians(cell, net.carry))


def log_norm_row(As: Any, Bs: Any, rows: slice, t: int, norm: str = "fro") -> np.ndarray:
    """(T,): ln‖∂y_t/∂x_s‖ in float64, from t backward, rescaled by a power of two at each step."""
    row, product, exponent = np.full(len(As), -np.inf), np.eye(As.shape[1])[rows], 0
    for s in range(t, -1, -1):
        size = np.linalg.norm(product @ Bs[s], {"fro": "fro", "spectral": 2}[norm])
        if size > 0:
            row[s] = np.log(size) + exponent * np.log(2)
        product = product @ As[s]
        shift = np.frexp(np.abs(product).max())[1]
        product, exponent = np.ldexp(product, -shift), exponent + shift
    return row


@pytest.mark.parametrize("name", ["simple_relu", "lstm_peephole", "gru_reset_after"])
def test_unrolled_is_the_loop_of_the_oracle(name):
    net = network(name)
    carries, ys = oracles.run(zoo.oracle(net.cell).step, XS, net.state)
    states, outputs = unrolled(net, jnp.asarray(XS), jnp.asarray(net.state))
    np.testing.assert_allclose(np.asarray(states), carries[1:], rtol=1e-12)
    np.testing.assert_allclose(np.asarray(outputs), ys, rtol=1e-12)


@pytest.mark.parametrize("norm", ["fro", "spectral"])
@pytest.mark.parametrize("gain", [1e-9, 1.0, 1e9])
def test_log_norm_row_is_that_of_the_oracle_far_out_of_range(gain, norm):
    rng = np.random.default_rng(1)
    As, Bs = gain * rng.normal(size=(60, 4, 4)), rng.normal(size=(60, 4, 2))
    rows = slice(1, 4)
    expected = oracles.log_norms(As, Bs, rows, targets=[40, 59], norm=norm)
    for t, values in zip((40, 59), expected, strict=True):
        np.testing.assert_allclose(log_norm_row(As, Bs, rows, t, norm), values, rtol=1e-12)
    assert abs(expected[-1, 0]) > 1000 or gain == 1.0
