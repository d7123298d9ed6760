"""The smallest, the largest and the uneven; what kernels do not cover; several devices.

Run in interpret mode on a CPU; the sizes of a card were compiled for an H100 ahead of time. On a
card not run yet.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import on_card
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import rnn_jax as rj

RUN = functools.partial(rj.unroll, implementation=on_card.implementation_here(__name__))
INTERPRETED = RUN.keywords["implementation"] == "interpret"
SCAN = functools.partial(rj.unroll, implementation="scan")
AUTO = functools.partial(rj.unroll, implementation="auto")

# (T, B, H)
SMALL = [(1, 1, 1), (1, 2, 3), (4, 1, 1), (2, 17, 2), (3, 1, 17)]
LARGE = [
    (1, 513, 16),  # One row more than tiles of any size hold.
    (7, 513, 33),
    (3, 2, 1024),
    (5, 64, 512),
    (1000, 1, 64),
    (20, 4096, 128),  # Far more tiles than multiprocessors.
]
BOUND = 2e-5


def gradient(run):
    """(outputs, gradient by everything)."""

    def loss(point):
        results = run(*point)
        return sum(jnp.mean(jnp.sin(leaf)) for leaf in jax.tree.leaves(results)), results

    def both(*point):
        (_, results), gradients = jax.value_and_grad(loss, has_aux=True)(point)
        return results, gradients

    return both


@pytest.mark.parametrize(("steps", "rows", "units"), SMALL if INTERPRETED else SMALL + LARGE)
@pytest.mark.parametrize("name", ["lstm", "gru", "tanh"])
def test_size(name, steps, rows, units):
    """Through the kernels where they can be had; what is too large for them, through a scan."""
    point = on_card.point_at(name, steps=steps, batch=(rows,), units=units)
    expected = on_card.on_cpu(gradient(SCAN), *point)
    run = AUTO if units > 512 else RUN
    on_card.assert_close(on_card.on_card(gradient(run), *point), expected, BOUND)


@pytest.mark.parametrize("members", [3] if INTERPRETED else [2, 33, 300])
def test_members(members):
    """More of them than multiprocessors, too."""
    sizes = {"steps": 5, "batch": (2,), "units": 3 if INTERPRETED else 64}
    points = [on_card.point_at("lstm", seed=seed, **sizes) for seed in range(members)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *points)
    noise = np.random.default_rng(0)
    cells = jax.tree.map(lambda a: a + jnp.asarray(0.1 * noise.normal(size=a.shape)), stacked[0])
    point = (cells, *stacked[1:])
    expected, actual = (
        where(jax.vmap(gradient(way)), *point)
        for where, way in ((on_card.on_cpu, SCAN), (on_card.on_card, RUN))
    )
    on_card.assert_close(actual, expected, BOUND)


# ---- What the kernels do not cover is scanned, or refused if kernels were asked for.


def test_float64_is_scanned():
    point = on_card.point_at("lstm", steps=6, batch=(3,), units=5)
    expected = on_card.on_cpu(gradient(SCAN), *point)
    on_card.assert_close(jax.device_get(jax.jit(gradient(AUTO))(*point)), expected, 1e-11)


@pytest.mark.skipif(INTERPRETED, reason="what is refused depends on the card")
def test_float64_through_kernels_is_refused():
    point = on_card.point_at("lstm", steps=6, batch=(3,), units=5)
    with pytest.raises(ValueError, match=r"float32.*float64"):
        jax.jit(RUN)(*point)


@pytest.mark.parametrize("types", [("bfloat16", None), ("bfloat16", "float32")], ids=str)
def test_bfloat16_weights(types):
    """With carries of the same type, or in float32."""
    param_dtype, carry_dtype = types
    cell = rj.LSTMCell(
        2,
        16,
        param_dtype=param_dtype,
        dtype=param_dtype,
        carry_dtype=carry_dtype,
        rngs=nnx.Rngs(0),
    )
    xs = jnp.asarray(np.random.default_rng(0).normal(size=(3, 8, 2)), jnp.bfloat16)
    with jax.numpy_dtype_promotion("standard"):
        outputs = jax.jit(AUTO)(cell, xs)
        expected = jax.jit(SCAN)(cell, xs)
    types = [jax.tree.map(lambda a: a.dtype, tree) for tree in (outputs, expected)]
    assert types[0] == types[1]
    in_float64 = (
        on_card.on_cpu(SCAN, on_card.in_type(cell, jnp.float64), xs.astype(jnp.float64))
        if carry_dtype is None
        else expected
    )
    on_card.assert_close(
        outputs, jax.tree.map(lambda a: np.asarray(a, np.float64), in_float64), 3e-2
    )


@pytest.mark.skipif(INTERPRETED, reason="on a CPU a scan is what auto gives")
def test_auto_takes_the_kernels():
    point = on_card.in_type(on_card.point_at("lstm", steps=6, batch=(3,), units=64), jnp.float32)
    assert "triton" in jax.jit(AUTO).lower(*point).as_text()
    assert "triton" not in jax.jit(SCAN).lower(*point).as_text()


# ---- Several devices: as many as there are.


def test_rows_spread_over_devices_by_shard_map():
    mesh = Mesh(np.asarray(jax.devices()), ("rows",))
    rows, whole = PartitionSpec("rows"), PartitionSpec()
    cell, xs, carry = on_card.point_at(
        "lstm", steps=5, batch=(2 * mesh.size,), units=3 if INTERPRETED else 64
    )

    def both(cell, xs, carry):
        """(ys, gradient by the cell summed over devices)."""

        def loss(cell):
            ys = RUN(cell, xs, carry)[1]
            return jnp.sum(jnp.sin(ys)), ys

        gradients, ys = jax.grad(loss, has_aux=True)(cell)
        return ys, jax.lax.psum(gradients, "rows")

    def reference(cell, xs, carry):
        def loss(cell):
            ys = SCAN(cell, xs, carry)[1]
            return jnp.sum(jnp.sin(ys)), ys

        gradients, ys = jax.grad(loss, has_aux=True)(cell)
        return ys, gradients

    spread = jax.shard_map(
        both,
        mesh=mesh,
        in_specs=(whole, rows, rows),
        out_specs=(rows, whole),
        check_vma=False,
    )
    expected = on_card.on_cpu(reference, cell, xs, carry)
    on_card.assert_close(on_card.on_card(spread, cell, xs, carry), expected, BOUND)


def test_rows_spread_over_devices_by_the_compiler():
    """What is partitioned by the compiler is scanned; on one device nothing is."""
    mesh = Mesh(np.asarray(jax.devices()), ("rows",))
    point = on_card.point_at("gru", steps=5, batch=(2 * mesh.size,), units=3)
    expected = on_card.on_cpu(gradient(SCAN), *point)
    cell, *by_row = on_card.in_type(point, jnp.float32)
    placed = (
        jax.device_put(cell, NamedSharding(mesh, PartitionSpec())),
        *jax.device_put(by_row, NamedSharding(mesh, PartitionSpec("rows"))),
    )
    with jax.default_matmul_precision("highest"):
        actual = jax.device_get(jax.jit(gradient(AUTO))(*placed))
    on_card.assert_close(actual, expected, BOUND)
