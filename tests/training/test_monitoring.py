"""`record_gradient_norms`: what passes through, and the norms by NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import rnn_jax as rj
from refusing import refuses, table
from rnn_jax.training import GradientNorms
from training import toys

PACE = {"steps": 4, "batch_size": 4, "seed": 5, "evaluate_every": 2, "evaluation_size": 6}
TASK = toys.Mixing()


def tree(seed):
    rng = np.random.default_rng(seed)
    return {
        "encoder": {"kernel": jnp.asarray(rng.normal(size=(3, 2))), "bias": jnp.zeros(2)},
        "decoder": [jnp.asarray(rng.normal(size=4)), jnp.asarray(rng.normal())],
    }


def norm(*leaves):
    return np.sqrt(sum(np.sum(np.square(np.asarray(leaf))) for leaf in leaves))


def first_word(path):
    return path.partition(".")[0]


def test_gradients_pass_through_unchanged():
    recorder = rj.record_gradient_norms()
    gradient = tree(1)
    passed, _ = recorder.update(gradient, recorder.init(tree(0)), tree(0))
    toys.identical(passed, gradient)


def test_each_array_has_a_norm_under_its_path():
    recorder = rj.record_gradient_norms()
    state = recorder.init(tree(0))
    assert isinstance(state, GradientNorms)
    assert all(value == 0 for value in rj.recorded_gradient_norms(state).values())
    gradient = tree(1)
    _, state = jax.jit(recorder.update)(gradient, state)
    expected = {
        "encoder.kernel": norm(gradient["encoder"]["kernel"]),
        "encoder.bias": 0.0,
        "decoder.0": norm(gradient["decoder"][0]),
        "decoder.1": norm(gradient["decoder"][1]),
    }
    found = rj.recorded_gradient_norms(state)
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-14)
    assert state.steps == 1


def test_groups_have_the_norm_of_all_their_arrays():
    recorder = rj.record_gradient_norms(first_word)
    gradient = tree(1)
    _, state = recorder.update(gradient, recorder.init(tree(0)))
    found = rj.recorded_gradient_norms(state)
    assert set(found) == {"encoder", "decoder"}
    for name in found:
        np.testing.assert_allclose(found[name], norm(*jax.tree.leaves(gradient[name])), rtol=1e-14)
    # Groups share out the whole.
    np.testing.assert_allclose(norm(*found.values()), norm(*jax.tree.leaves(gradient)), rtol=1e-14)


def test_the_place_in_a_chain_says_which_norms():
    limit = 1e-3
    chain = [rj.record_gradient_norms(lambda path: "all"), optax.clip_by_global_norm(limit)]
    for order, expected in ((chain, norm(*jax.tree.leaves(tree(1)))), (chain[::-1], limit)):
        optimizer = optax.chain(*order, optax.sgd(0.1))
        _, state = optimizer.update(tree(1), optimizer.init(tree(0)), tree(0))
        np.testing.assert_allclose(rj.recorded_gradient_norms(state)["all"], expected, rtol=1e-12)


def test_paths_of_a_network_are_its_attributes():
    cells = [rj.SimpleRNNCell(2, 3, rngs=nnx.Rngs(0)), rj.SimpleRNNCell(3, 3, rngs=nnx.Rngs(1))]
    model = rj.SequenceModel(cells, 1, rngs=nnx.Rngs(2))
    found = rj.recorded_gradient_norms(rj.record_gradient_norms().init(model))
    assert {"cells.0.recurrent_kernel", "cells.1.kernel", "bias"} <= set(found)


def test_it_does_not_change_the_training_and_keeps_the_last_norms():
    optimizer = optax.adam(0.05)
    plain = rj.fit(toys.linear(), TASK, optimizer, **PACE)
    recording = optax.chain(rj.record_gradient_norms(), optimizer)
    watched = rj.fit(toys.linear(), TASK, recording, **PACE)
    toys.same(watched.model, plain.model)
    found = rj.recorded_gradient_norms(watched.optimizer_state)
    told = toys.plain_loop(toys.linear(), TASK, optimizer, **PACE)
    np.testing.assert_allclose(norm(*found.values()), told.norms[-1], rtol=1e-10)


def test_each_member_of_an_ensemble_has_norms_of_its_own():
    optimizer = optax.chain(rj.record_gradient_norms(lambda path: "all"), optax.sgd(0.05))
    result = rj.fit(toys.linears(1, 2), TASK, optimizer, members=2, **PACE)
    found = rj.recorded_gradient_norms(result.optimizer_state)["all"]
    expected = [
        toys.plain_loop(toys.linear(seed), TASK, optimizer, stream=index, **PACE).norms[-1]
        for index, seed in enumerate([1, 2])
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=["bfloat16", "float16"])
def test_norms_are_right_in_any_precision(dtype):
    # Squares of numbers like these are beyond float16, and a sum of them stalls in bfloat16.
    gradient = {"kernel": jnp.full(4096, 300.0, dtype)}
    recorder = rj.record_gradient_norms()
    passed, state = recorder.update(gradient, recorder.init(gradient))
    toys.identical(passed, gradient)
    found = np.asarray(rj.recorded_gradient_norms(state)["kernel"], float)
    exact = norm(np.asarray(gradient["kernel"], float))
    np.testing.assert_allclose(found, exact, rtol=2 * float(jnp.finfo(dtype).eps))


@pytest.mark.parametrize(
    ("size", "dtype"),
    [(1e30, jnp.float32), (1e-30, jnp.float32), (1e200, jnp.float64), (1e-200, jnp.float64)],
)
def test_norms_neither_overflow_nor_vanish_when_squares_do(size, dtype):
    gradient = [jnp.full((3, 4), size, dtype), jnp.asarray(2 * size, dtype)]
    found = rj.record_gradient_norms(lambda path: "all")
    _, state = found.update(gradient, found.init(gradient))
    np.testing.assert_allclose(
        float(rj.recorded_gradient_norms(state)["all"]) / size, 4.0, rtol=1e-6
    )


def test_norms_of_mixed_complex_and_broken_gradients():
    recorder = rj.record_gradient_norms(lambda path: "all")

    def norm_of(*leaves):
        _, state = recorder.update(list(leaves), recorder.init(list(leaves)))
        return rj.recorded_gradient_norms(state)["all"]

    mixed = norm_of(jnp.full(2, 3.0, jnp.float16), jnp.full(2, 4.0, jnp.bfloat16), jnp.zeros(0))
    np.testing.assert_allclose(mixed, np.sqrt(50.0), rtol=1e-6)
    np.testing.assert_allclose(norm_of(jnp.asarray([3.0 + 4.0j, 12.0j])), 13.0, rtol=1e-14)
    assert norm_of(jnp.zeros((0, 3))) == 0.0
    assert norm_of(jnp.asarray([1.0, -jnp.inf])) == jnp.inf
    assert jnp.isnan(norm_of(jnp.asarray([jnp.inf]), jnp.asarray([jnp.nan])))


TWO = optax.chain(rj.record_gradient_norms(), rj.record_gradient_norms(first_word))


@table(
    text=(
        lambda: rj.record_gradient_norms("encoder"),
        TypeError,
        "group must be a function",
        "str",
        "Pass",
    ),
    none=(
        lambda: rj.recorded_gradient_norms(optax.adam(0.1).init(tree(0))),
        ValueError,
        "must have one record_gradient_norms",
        "0",
        "Build it as",
    ),
    two=(
        lambda: rj.recorded_gradient_norms(TWO.init(tree(0))),
        ValueError,
        "must have one record_gradient_norms",
        "2",
        "Build it as",
    ),
    nameless=(
        lambda: rj.record_gradient_norms(lambda path: None).init(tree(0)),
        TypeError,
        "group must",
        "NoneType",
        "Pass",
    ),
)
def test_what_is_refused(call, error, words):
    refuses(call, error, *words)
