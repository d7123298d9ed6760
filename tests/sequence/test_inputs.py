"""What a sequence of inputs may be: every kind, run as the same numbers in one float array."""

from collections import namedtuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from jax.tree_util import Partial

import rnn_jax as rj
import zoo

B, T, IN, H = 2, 5, 4, 3
# Numbers that every type holds.
FLAT = np.random.default_rng(0).integers(0, 2, size=(B, T, IN)).astype(float)
RNG = np.random.default_rng(1)
WEIGHTS = {
    "u": jnp.asarray(RNG.normal(size=(IN, H))),
    "w": jnp.asarray(RNG.normal(size=(H, H))) * 0.7,
}
Both = namedtuple("Both", ["left", "right"])

# kind: (inputs from (..., T, 4) numbers, the numbers of one input again, feature_axes)
KINDS = {
    "whole numbers": (lambda v: v.astype(int), lambda x: x, None),
    "booleans": (lambda v: v > 0, lambda x: x, None),
    "nested lists": (lambda v: v.tolist(), lambda x: x, None),
    "tuple": (lambda v: (v[..., :1], v[..., 1:]), jnp.concatenate, None),
    "named tuple": (lambda v: Both(v[..., :2], v[..., 2:]), jnp.concatenate, None),
    "floats and tokens": (
        lambda v: {"x": v[..., :3], "token": v[..., 3].astype(int)},
        lambda x: jnp.append(x["x"], x["token"].astype(float)),
        None,
    ),
    "images": (lambda v: v.reshape(*v.shape[:-1], 2, 2, 1), jnp.ravel, 3),
    "images and numbers": (
        lambda v: [v[..., :2].reshape(*v.shape[:-1], 1, 2), v[..., 2:3], v[..., 3] > 0],
        lambda x: jnp.concatenate([x[0].ravel(), x[1], x[2].astype(float)[None]]),
        2,
    ),
}


def cell_of(numbers):
    """A cell that asks only for the numbers of an input."""

    def step(weights, carry, x):
        v = numbers(x).astype(float)
        h = jnp.tanh(carry @ weights["w"] + v @ weights["u"])
        return h, h

    return Partial(step, WEIGHTS)


OPTIONS = {
    "lengths backwards": {"lengths": [3, T], "reverse": True, "return_carries": True},
    "mask and resets": {
        "mask": np.asarray([[0, 1, 1, 0, 1], [0] * 5], bool),
        "resets": np.asarray([[0, 0, 1, 0, 0], [0] * 5], bool),
        "checkpoint": 2,
        "truncate": 2,
    },
}


@pytest.fixture(scope="module")
def expected():
    """By option: results and gradient of the float array, run in the plainest form."""

    def of(name):
        if name not in found:
            found[name] = jax.tree.map(np.asarray, run(cell_of(lambda x: x), FLAT, name))
        return found[name]

    found = {}
    return of


def run(cell, xs, name, **more):
    def loss(cell, xs):
        result = rj.unroll(cell, xs, jnp.zeros((B, H)), initial=START, **OPTIONS[name], **more)
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(result)), result

    # Inputs are no argument of the program, so that they are what they are.
    both = jax.jit(lambda cell: jax.value_and_grad(loss, has_aux=True)(cell, xs))
    (_, result), gradient = both(cell)
    return result, jax.tree.leaves(gradient)


START = jnp.full((B, H), 0.1)


# Of all marks one that is an array, a pytree, and one of several feature axes.
MARKED = ["whole numbers", "floats and tokens", "images and numbers"]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        *((kind, "lengths backwards") for kind in KINDS),
        *((kind, "mask and resets") for kind in MARKED),
    ],
)
def test_every_kind_of_inputs_is_run_as_its_numbers(kind, options, expected):
    make, numbers, feature_axes = KINDS[kind]
    found = run(cell_of(numbers), make(FLAT), options, feature_axes=feature_axes)
    chex.assert_trees_all_close(found, expected(options), rtol=1e-12, atol=1e-14)


def test_padding_of_any_kind_may_hold_anything():
    make, _, _ = KINDS["floats and tokens"]
    table = jnp.eye(2)

    def step(carry, x):
        # `take` gives NaN beyond the table, and log is not finite at 0.
        carry = carry + jnp.log(x["x"]) + jnp.sum(jnp.take(table, x["token"], axis=0))
        return carry, carry

    def run(weight, xs):
        _, ys = rj.unroll(
            lambda carry, x: step(weight * carry, x), xs, jnp.zeros((B, 3)), lengths=[2, 0]
        )
        return jnp.sum(ys)

    xs = make(FLAT + 1.0)
    xs["token"] = np.zeros((B, T), int)
    padded = {"x": np.where(np.arange(T)[:, None] < 2, xs["x"], -np.inf), "token": xs["token"] - 9}
    padded["token"][0, :2] = 0
    expected = jax.value_and_grad(run)(0.5, xs)
    chex.assert_trees_all_close(jax.value_and_grad(run)(0.5, padded), expected, rtol=1e-13)


def test_random_keys_may_stand_beside_the_inputs():
    keys = jax.random.split(jax.random.key(0), T)

    def step(carry, x):
        carry = carry + x["x"] * jax.random.normal(x["key"], (IN,))
        return carry, carry

    xs = {"x": FLAT[0], "key": keys}
    _, ys = rj.unroll(step, xs, jnp.zeros(IN), mask=np.arange(T) != 1)
    noise = np.stack([jax.random.normal(key, (IN,)) for key in keys])
    kept = FLAT[0] * noise * (np.arange(T) != 1)[:, None]
    np.testing.assert_allclose(ys[-1], kept.sum(0), rtol=1e-12)


def test_tokens_alone_have_no_feature_axis():
    table = jnp.asarray(RNG.normal(size=(7, H)))
    tokens = RNG.integers(0, 7, size=(B, T))

    def step(table, carry, token):
        h = jnp.tanh(carry + table[token])
        return h, h

    start = jnp.zeros((B, H))
    _, ys = rj.unroll(Partial(step, table), tokens, start, feature_axes=0)
    _, expected = rj.unroll(lambda h, x: (jnp.tanh(h + x),) * 2, table[tokens], start)
    np.testing.assert_allclose(ys, expected, rtol=1e-13)


class Tokens(nnx.RNNCellBase):
    """A cell of tokens that says itself that they have no feature axis."""

    num_feature_axes = 0

    def __init__(self):
        self.inner = zoo.CELLS["gru_reset_after"](H, H, 0)
        self.table = nnx.Param(jnp.asarray(RNG.normal(size=(7, H))))

    def __call__(self, carry, token):
        return self.inner(carry, self.table[...][token])

    def initialize_carry(self, input_shape, rngs=None):
        return self.inner.initialize_carry((*input_shape, H))


def test_a_cell_says_how_many_axes_its_features_have():
    cell, tokens = Tokens(), RNG.integers(0, 7, size=(B, T))
    _, ys = rj.unroll(cell, tokens)
    _, expected = rj.unroll(cell.inner, cell.table[...][tokens])
    np.testing.assert_allclose(ys, expected, rtol=1e-12)
    norms = rj.jacobian_log_norms(cell, tokens[0], wrt="state")
    expected = rj.jacobian_log_norms(cell.inner, cell.table[...][tokens[0]], wrt="state")
    np.testing.assert_allclose(norms, expected, rtol=1e-10)


def test_a_convolutional_lstm_of_flax_runs_as_flax_runs_it():
    cell = linen.ConvLSTMCell(features=2, kernel_size=(2, 2), param_dtype=jnp.float64)
    xs = jnp.asarray(RNG.normal(size=(B, T, 3, 2, 1)))
    carry = cell.initialize_carry(jax.random.key(0), (B, 3, 2, 1))
    outer = linen.RNN(cell, return_carry=True)
    variables = outer.init(jax.random.key(1), xs)
    bound = Partial(cell.apply, {"params": variables["params"]["cell"]})
    lengths = jnp.asarray([3, T])
    found_carry, found = rj.unroll(bound, xs, carry, lengths=lengths)
    their_carry, theirs = outer.apply(variables, xs, initial_carry=carry, seq_lengths=lengths)
    chex.assert_trees_all_close(found_carry, their_carry, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(found[1], theirs[1], rtol=1e-12, atol=1e-14)
    assert not np.any(found[0, 3:])


@pytest.mark.parametrize(
    ("name", "dtype"), [("lstm", int), ("gru_reset_before", bool), ("simple_tanh", "uint8")]
)
def test_our_cells_promote_whole_numbers_as_jax_does(name, dtype):
    cell = zoo.CELLS[name](IN, H, 2)
    xs = FLAT.astype(dtype)
    found, expected = rj.unroll(cell, xs), rj.unroll(cell, FLAT)
    chex.assert_trees_all_equal(found, expected)
    carry = cell.initialize_carry((B, IN))
    chex.assert_trees_all_equal(cell(carry, jnp.asarray(xs[:, 0])), cell(carry, FLAT[:, 0]))
    single = zoo.CELLS[name](IN, H, 2)
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), single)
    assert (
        rj.unroll(half, xs, jax.tree.map(lambda a: a.astype(jnp.bfloat16), carry))[1].dtype
        == jnp.bfloat16
    )


def test_whole_numbers_take_the_fused_form_and_noise():
    cell = zoo.CELLS["lstm"](IN, H, 2)
    program = str(jax.make_jaxpr(rj.unroll)(cell, FLAT.astype(int)))
    assert "rnn_recurrence" in program
    noisy, key = rj.RecurrentDropout(cell, 0.5, input_rate=0.5), jax.random.key(0)
    found = rj.unroll(noisy, FLAT.astype(int), key=key)
    chex.assert_trees_all_close(found, rj.unroll(noisy, FLAT, key=key), rtol=1e-13)


def test_words_beside_their_pitch():
    """The guide's example."""
    gru = rj.GRUCell(6, 3, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    table = jax.random.normal(jax.random.key(0), (50, 4))

    def cell(h, x):
        return gru(h, jnp.concatenate([table[x["word"]], x["pitch"]]))

    xs = {"word": jnp.arange(T) % 3, "pitch": jnp.ones((T, 2))}
    _, hs = rj.unroll(cell, xs, jnp.zeros(3))
    embedded = jnp.concatenate([table[xs["word"]], xs["pitch"]], axis=-1)
    np.testing.assert_allclose(hs, rj.unroll(gru, embedded)[1], rtol=1e-12)
    by_pitch = rj.input_jacobian(cell, xs, jnp.zeros(3))
    expected = rj.input_jacobian(gru, embedded)[..., 4:]
    np.testing.assert_allclose(by_pitch, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("kind", ["floats and tokens", "images"])
def test_a_function_is_told_its_carry_and_feature_axes(kind):
    make, numbers, feature_axes = KINDS[kind]
    cell = rj.as_cell(cell_of(numbers), initial_carry=START[0], feature_axes=feature_axes)
    _, found = rj.unroll(cell, make(FLAT), lengths=[3, T])
    _, expected = rj.unroll(cell_of(lambda x: x), FLAT, START, lengths=[3, T])
    np.testing.assert_allclose(found, expected, rtol=1e-12)
