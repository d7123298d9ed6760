"""Sequences under JAX's own modes, and spread over devices by `shard_map` and by explicit axes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import rnn_jax as rj
import zoo
from leaks import checking_leaks
from two_devices import read_known, run_on_two_devices, write_known

# Both directions together give as many numbers as they are given, so operations meet few shapes.
IN, H, T, B = 6, 3, 3, 4
CLOSE = {"rtol": 1e-11, "atol": 1e-13}
XS = np.random.default_rng(0).normal(size=(B, T, IN))
MARKS = {
    "mask": np.asarray([[0, 1, 1], [1, 0, 1], [0, 0, 0], [1, 1, 1]], bool),
    "resets": np.asarray([[1, 0, 1], [0, 1, 0], [0, 1, 0], [0, 0, 0]], bool),
}
LENGTHS = {"lengths": np.asarray([3, 2, 0, 1]), "resets": MARKS["resets"]}


def unrolled(name, **options):
    return (lambda: zoo.CELLS[name](IN, H, 1)), functools.partial(rj.unroll, **options)


def learned():
    return rj.LearnedCarry(zoo.CELLS["gru_reset_after"](IN, H, 1), rngs=nnx.Rngs(0))


def both():
    return rj.Bidirectional(learned(), zoo.CELLS["simple_sigmoid"](IN, H, 2))


def model():
    return rj.SequenceModel(
        [both(), zoo.CELLS["simple_tanh"](2 * H, 2 * H, 3)],
        2,
        residual=True,
        layer_norm=True,
        dropout=0.2,
        rngs=nnx.Rngs(0),
    )


def of_another_library():
    cell, start = zoo.build("equinox_gru_partial", IN, H, 1)
    cell = rj.as_cell(cell, initial_carry=start, in_features=IN)
    return rj.SequenceModel(rj.LearnedCarry(cell))


def in_pieces(layer, xs):
    """The carry and the output after a piece and one more step."""
    carry, _ = layer(xs[:, :2], return_carry=True)
    return layer.step(carry, xs[:, 2])


def called(layer, xs, **marks):
    return layer(xs, **marks)


KEY = jax.random.key(3)
# How the layer is made, how it is called on inputs, and what the call says of the steps.
CALLS = {
    "marks": (*unrolled("lstm", truncate=2, checkpoint=2, return_carries=True), MARKS),
    "plain": (*unrolled("lstm_peephole", checkpoint="sqrt", reverse=True), LENGTHS),
    "noise": (
        lambda: rj.Zoneout(zoo.CELLS["gru_reset_after"](IN, H, 1), 0.3),
        functools.partial(rj.unroll, key=KEY),
        MARKS,
    ),
    "both": (both, called, MARKS),
    "pieces": (of_another_library, in_pieces, {}),
    "model": (model, functools.partial(called, key=KEY), MARKS),
}


def value_and_grad(call, layer, xs, marks):
    """The call's results, and a gradient by all that it computes with."""

    def loss(layer, xs):
        results = call(layer, xs, **marks)
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(results)), results

    gradients, results = jax.grad(loss, (0, 1), has_aux=True)(layer, xs)
    return results, *gradients


def assert_close(found, expected):
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(one, other, **CLOSE)


@functools.cache
def expected(name):
    """What a call gives, traced and compiled under the search for faults if that is tested."""
    make, call, marks = CALLS[name]
    layer = make()
    if name == "both":
        return jax.jit(functools.partial(value_and_grad, call))(layer, XS, marks)
    with jax.debug_nans(True), checking_leaks():
        return value_and_grad(call, layer, XS, marks)


# What is in both directions is a layer of the model.
@pytest.mark.parametrize("name", [name for name in CALLS if name != "both"])
def test_modes_that_find_faults_find_none(name):
    make, call, marks = CALLS[name]
    known, layer = expected(name), make()
    with jax.disable_jit():
        assert_close(value_and_grad(call, layer, XS, marks), known)


# ---- Several devices, faked in a process of its own.


def on_shards(mesh, make, call, marks):
    """Rows split by `shard_map`: each device has its own, and the layer is the same on all."""

    def run(layer, xs, marks):
        return value_and_grad(call, layer, xs, marks)

    rows = P("rows")
    spread = jax.shard_map(run, mesh=mesh, in_specs=(P(), rows, rows), out_specs=(rows, P(), rows))
    return jax.jit(spread)(make(), XS, marks)


def of_a_layer_each(mesh, make, call, marks):
    """An ensemble split by `shard_map`: layers vary over devices, inputs do not."""
    layers = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), make())

    def run(layers, xs, marks):
        layer = jax.tree.map(lambda leaf: leaf[0], layers)
        results, by_layer, by_xs = value_and_grad(call, layer, xs, marks)
        # The inputs serve both layers, which are equal, so their gradient adds up to twice as much.
        found = (results, by_layer, by_xs / 2)
        return jax.tree.map(lambda leaf: leaf[None], found)

    rows = P("rows")
    spread = jax.shard_map(run, mesh=mesh, in_specs=(rows, P(), P()), out_specs=rows)
    return jax.tree.map(lambda leaf: leaf[1], jax.jit(spread)(layers, XS, marks))


def on_explicit_axes(mesh, make, call, marks):
    """Rows laid out by a mesh whose axes are part of each array's type."""
    rows = NamedSharding(mesh, P("rows"))
    with jax.set_mesh(mesh):
        xs, marks = jax.device_put((jnp.asarray(XS), marks), rows)
        found = jax.jit(functools.partial(value_and_grad, call))(make(), xs, marks)
        spread = {leaf.sharding.spec[0] for leaf in jax.tree.leaves((found[0], found[2]))}
        assert spread == {"rows"}
        assert_close(call(make(), xs, **marks), found[0])
    return found


# Which call is spread which way; under `shard_map` each device would draw noise of its own.
WAYS = {
    "marks": (on_shards, of_a_layer_each, on_explicit_axes),
    "plain": (on_shards, of_a_layer_each),
    "noise": (on_explicit_axes,),
    "both": (on_shards,),
    "model": (on_explicit_axes,),
}


def check_on_devices(known):
    """All calls on two devices, in a process that has two.

    Args:
      known: a file with what each call gives on one device.
    """
    known = read_known(known)
    devices = jax.devices()[:2]
    auto = jax.make_mesh((2,), ("rows",), (AxisType.Auto,), devices=devices)
    explicit = jax.make_mesh((2,), ("rows",), (AxisType.Explicit,), devices=devices)
    for name, ways in WAYS.items():
        make, call, marks = CALLS[name]
        for way in ways:
            mesh = explicit if way is on_explicit_axes else auto
            try:
                assert_close(way(mesh, make, call, marks), known[name])
            except Exception as error:
                raise AssertionError(f"{name}, {way.__name__}") from error


def test_rows_and_layers_spread_over_devices_give_the_same(tmp_path):
    file = tmp_path / "known.pickle"
    write_known({name: expected(name) for name in WAYS}, file)
    run_on_two_devices(
        "from sequence import test_modes_of_jax_sequences as modes; "
        f"modes.check_on_devices({str(file)!r})"
    )
