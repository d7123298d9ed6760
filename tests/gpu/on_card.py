"""What the tests of the kernels share: where they run, and what they are held against.

On a machine with an NVIDIA GPU (`make test-gpu`) the kernels run on it. Elsewhere these tests are
skipped, a line for each file; with RNN_JAX_TEST_INTERPRET=1 those that need no card are run in
Pallas' interpret mode on the CPU, at small sizes and with one block for each tile of rows.

The reference is always the scan in float64 on the CPU, which the rest of the suite holds against
independent oracles.
"""

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import rnn_jax as rj
import zoo

CPU = jax.devices("cpu")[0]

# Cells that run in fused form.
CELLS = {
    "tanh": lambda i, h: simple(i, h, "tanh"),
    "relu": lambda i, h: simple(i, h, "relu"),
    "softsign": lambda i, h: simple(i, h, "softsign"),
    "lstm": zoo.CELLS["lstm"],
    "lstm_coupled": zoo.CELLS["lstm_coupled"],
    "lstm_1997": zoo.CELLS["lstm_1997"],
    "gru": zoo.CELLS["gru_reset_after"],
}

# By `jax.default_matmul_precision`: the largest relative deviation of outputs, as the kernels'
# emulation and a prototype on an H100 have it (`tests/sequence/test_split_precision.py`).
BOUNDS = {"default": 2e-3, "high": 1e-5, "highest": 2e-6}


def simple(in_features, hidden_features, activation):
    cell = rj.SimpleRNNCell(in_features, hidden_features, activation=activation, rngs=nnx.Rngs(0))
    return zoo.randomised(cell, 0)


def implementation_here(file, *, interpretable=True):
    """How the tests of a file run the kernels; skips the file where they cannot.

    Args:
      file: its name.
      interpretable: whether they can be interpreted on a CPU, too.
    """
    if cuda_devices():
        # Compiled as users have it, unlike the many small programs of the rest of the suite.
        jax.config.update("jax_disable_most_optimizations", False)
        return "kernel"
    if interpretable and os.environ.get("RNN_JAX_TEST_INTERPRET") == "1":
        return "interpret"
    instead = ", or RNN_JAX_TEST_INTERPRET=1 to interpret the kernels" if interpretable else ""
    pytest.skip(f"{file} needs an NVIDIA GPU (make test-gpu){instead}", allow_module_level=True)


def cuda_devices():
    try:
        return jax.devices("cuda")
    except RuntimeError:
        return []


@functools.cache
def build(name, features, units):
    """A cell in float64; not to be changed."""
    return in_type(CELLS[name](features, units), jnp.float64)


def in_type(tree, dtype):
    """A pytree whose floats are of this type."""
    return jax.tree.map(
        lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, tree
    )


def point_at(name, *, steps, batch, units, features=2, seed=1):
    """(cell, inputs, carry) in float64, all random."""
    cell = build(name, features, units)
    xs = np.random.default_rng(seed).normal(size=(*batch, steps, features))
    return cell, jnp.asarray(xs), zoo.random_carry(cell, seed, *batch)


def on_cpu(function, *arguments):
    """What a function of arrays gives in float64 on the CPU."""
    arguments = jax.device_put(arguments, CPU)
    with jax.default_device(CPU):
        return jax.device_get(jax.jit(function)(*arguments))


def on_card(function, *arguments, precision="highest"):
    """What it gives in float32 where the kernels run."""
    with jax.default_matmul_precision(precision):
        return jax.device_get(jax.jit(function)(*in_type(arguments, jnp.float32)))


def assert_close(actual, expected, bound):
    """Each leaf deviates by no more than this, relative to the Frobenius norm of what it should be.

    A leaf that is nothing beside the others is measured by them.
    """
    pairs = list(zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True))
    scale = max(np.max(np.abs(e), initial=0) for _, e in pairs)
    for a, e in pairs:
        assert a.shape == e.shape
        size = max(np.linalg.norm(e), 1e-3 * scale * np.sqrt(e.size))
        deviation = np.linalg.norm(np.asarray(a, np.float64) - e)
        assert deviation <= bound * size, f"{deviation / size:.1e} of {bound:.1e}, {a.shape}"
