"""Ensembles: each member is the model of its seed, and trains as it would alone."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import rnn_jax as rj
from refusing import refuses, table
from training import toys

PACE = {"steps": 6, "batch_size": 4, "seed": 5, "evaluate_every": 3, "evaluation_size": 6}
MOMENTS = [3, 6]
TASK = toys.Mixing()
SEEDS = [4, 0, 7]
# One object, so that equal programs are compiled once.
ADAM = optax.adam(0.05)


def make_model(rngs):
    cell = rj.SimpleRNNCell(2, 3, rngs=rngs)
    return rj.SequenceModel([cell, rj.SimpleRNNCell(3, 2, rngs=rngs)], 2, rngs=rngs, dropout=0.5)


def by_key(key):
    return toys.Partial(toys.affine_last, {"kernel": jax.random.normal(key, (2, 2)), "bias": ZERO})


ZERO = jnp.zeros(2)
MAKERS = {
    "rngs": (make_model, lambda seed: make_model(nnx.Rngs(seed))),
    "key": (by_key, lambda seed: by_key(jax.random.key(seed))),
    "seed": (toys.linear, toys.linear),
}


def member_agrees(result, index, told, moments=MOMENTS, **tolerance):
    """A member's models, losses and metrics are those of a plain loop that knows only it."""
    own = jax.tree.map(lambda leaf: leaf[index], (result.model, result.best_model))
    toys.same(own, (told.model, told.best_model), **tolerance)
    close = {"rtol": tolerance.get("rtol", 1e-10)}
    history = result.history
    np.testing.assert_allclose(history.loss[index], toys.means(told.losses, moments), **close)
    np.testing.assert_allclose(
        history.gradient_norm[index], toys.means(told.norms, moments), **close
    )
    for name, series in history.metrics.items():
        expected = [told.evaluations[moment][name] for moment in moments]
        np.testing.assert_allclose(series[index], expected, **close)


@pytest.mark.parametrize(("make", "alone"), MAKERS.values(), ids=MAKERS)
def test_each_member_is_the_model_of_its_seed(make, alone):
    models = rj.ensemble(make, SEEDS)
    for index, seed in enumerate(SEEDS):
        toys.identical(rj.member(models, index), alone(seed))


@pytest.mark.parametrize(
    "seeds",
    [(0, 1, 2), range(3), np.arange(3), iter([0, 1, 2])],
    ids=lambda seeds: type(seeds).__name__,
)
def test_a_number_of_seeds_is_that_many_from_nought_on(seeds):
    toys.identical(rj.ensemble(toys.linear, seeds), rj.ensemble(toys.linear, 3))


def test_a_vmapped_call_runs_all_members():
    models = rj.ensemble(make_model, SEEDS)
    xs = jax.random.normal(jax.random.key(0), (5, 4, 2))
    outputs = jax.vmap(lambda model: model(xs))(models)
    for index, seed in enumerate(SEEDS):
        np.testing.assert_allclose(outputs[index], make_model(nnx.Rngs(seed))(xs), rtol=1e-12)


def test_each_member_trains_as_it_would_alone():
    result = rj.fit(rj.ensemble(make_model, SEEDS), TASK, ADAM, **PACE)
    assert result.history.loss.shape == (len(SEEDS), len(MOMENTS))
    for index, seed in enumerate(SEEDS):
        alone = make_model(nnx.Rngs(seed))
        told = toys.plain_loop(alone, TASK, ADAM, stream=index, takes_key=True, **PACE)
        member_agrees(result, index, told)


def test_the_first_member_sees_what_a_single_model_sees():
    many = rj.fit(toys.linears(*SEEDS), TASK, ADAM, members=3, **PACE)
    one = rj.fit(toys.linear(SEEDS[0]), TASK, ADAM, **PACE)
    first = jax.tree.map(lambda leaf: leaf[0], many._asdict() | {"history": None, "steps": None})
    toys.same(first, one._asdict() | {"history": None, "steps": None})
    for name in one.history:
        expected = one.history[name]
        actual = many.history[name]
        np.testing.assert_allclose(actual if name == "step" else actual[0], expected, rtol=1e-12)


def test_members_do_not_see_how_many_they_are():
    few, many = (
        rj.fit(toys.linears(*SEEDS[:size]), TASK, ADAM, members=size, **PACE) for size in (2, 3)
    )
    chex.assert_trees_all_close(
        jax.tree.leaves(few.model), [leaf[:2] for leaf in jax.tree.leaves(many.model)], rtol=1e-12
    )
    np.testing.assert_allclose(few.history.loss, many.history.loss[:2], rtol=1e-12)


def test_members_see_other_data_than_each_other():
    result = rj.fit(toys.linears(1, 1), TASK, ADAM, members=2, **PACE)
    first, second = result.history.loss
    assert not np.any(first == second)


# Such as are the same number in any precision.
RATES = [0.25, 0.015625]


KINDS = {
    "list": list,
    "tuple": tuple,
    "array": jnp.asarray,
    "numbers of numpy": lambda rates: [np.float32(rate) for rate in rates],
}


@functools.cache
def told_alone(make, *values, stream):
    """The loop of one member that is given its values, which is the same for all ways to do so."""
    return toys.plain_loop(toys.linear(1), TASK, make(*values), stream=stream, **PACE)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_each_member_has_a_learning_rate_of_its_own(kind):
    models, rates = toys.linears(1, 1), kind(RATES)
    result = rj.fit(models, TASK, optax.adam, hyperparameters=rates, members=2, **PACE)
    for index, rate in enumerate(RATES):
        member_agrees(result, index, told_alone(optax.adam, rate, stream=index))


def test_a_single_member_may_have_its_rate_too():
    result = rj.fit(toys.linears(1), TASK, optax.sgd, hyperparameters=[0.1], members=1, **PACE)
    told = toys.plain_loop(toys.linear(1), TASK, optax.sgd(0.1), **PACE)
    member_agrees(result, 0, told)


DECAYS = [0.5, 0.9]
# (hyperparameters, optimiser of one member's share)
SEVERAL = {
    "by name": (
        {"rate": RATES, "decay": jnp.asarray(DECAYS)},
        lambda own: optax.sgd(own["rate"], momentum=own["decay"]),
    ),
    "a table": (
        np.stack([RATES, DECAYS], axis=1),
        lambda own: optax.sgd(own[0], momentum=own[1]),
    ),
}


@pytest.mark.parametrize(("values", "make"), SEVERAL.values(), ids=SEVERAL)
def test_each_member_has_several_hyperparameters_of_its_own(values, make):
    result = rj.fit(toys.linears(1, 1), TASK, make, hyperparameters=values, members=2, **PACE)
    for index, (rate, decay) in enumerate(zip(RATES, DECAYS, strict=True)):
        member_agrees(result, index, told_alone(optax.sgd, rate, decay, stream=index))


def test_members_of_several_precisions_have_hyperparameters():
    mixed = toys.linears(1, 2)
    mixed = jax.tree.map(lambda leaf: leaf.astype(jnp.float32) if leaf.ndim == 2 else leaf, mixed)
    result = rj.fit(mixed, TASK, optax.sgd, hyperparameters=RATES, members=2, **PACE)
    before, after = jax.tree.leaves(mixed), jax.tree.leaves(result.model)
    assert [leaf.dtype for leaf in before] == [leaf.dtype for leaf in after]


def test_a_member_that_has_solved_the_task_waits_for_the_others():
    easy = toys.Mixing(solved_below=1.0)
    rates = [0.2, 0.0, 0.05]
    pace = {**PACE, "steps": 60, "evaluate_every": 5, "evaluation_size": 100}
    result = rj.fit(
        toys.linears(1, 1, 1), easy, optax.sgd, hyperparameters=rates, members=3, **pace
    )
    history = result.history
    np.testing.assert_array_equal(history.solved, [True, False, True])
    assert history.solved_at[0] < history.solved_at[2] < pace["steps"] == result.steps
    assert np.isnan(history.solved_at[1])
    for index, at in ((0, history.solved_at[0]), (2, history.solved_at[2])):
        optimizer = optax.sgd(rates[index])
        own = {**pace, "steps": int(at)}
        told = toys.plain_loop(toys.linear(1), easy, optimizer, stream=index, **own)
        toys.same(rj.member(result.model, index), told.model)
        after = history.step > at
        assert np.any(after)
        np.testing.assert_array_equal(history.updates[index], np.where(after, 0, 5))
        np.testing.assert_array_equal(np.isnan(history.loss[index]), after)
        np.testing.assert_array_equal(np.isnan(history.gradient_norm[index]), after)
    assert np.all(history.updates[1] == 5)


def test_the_run_ends_when_all_members_have_solved_the_task():
    easy = toys.Mixing(solved_below=0.5)
    pace = {**PACE, "steps": 100, "evaluate_every": 5}
    result = rj.fit(toys.linears(1, 2), easy, optax.sgd(0.1), members=2, **pace)
    assert result.steps == max(result.history.solved_at) < 100


def test_each_member_has_a_best_model_of_its_own():
    # The first goes down the slope, the second up.
    rates, pace = [0.1, -0.1], {**PACE, "evaluation_size": 100}
    models = toys.linears(1, 1)
    result = rj.fit(models, TASK, optax.sgd, hyperparameters=rates, members=2, **pace)
    for index, rate in enumerate(rates):
        told = toys.plain_loop(toys.linear(1), TASK, optax.sgd(rate), stream=index, **pace)
        toys.same(rj.member(result.best_model, index), told.best_model)
    best = np.argmin(result.history.metrics["loss"], axis=1)
    np.testing.assert_array_equal(best, [len(MOMENTS) - 1, 0])


def numbered(size):
    return toys.linears(*range(size))


@table(
    no_function=(lambda: rj.ensemble(3, 2), TypeError, "make_model must be", "int", "Pass"),
    no_seeds=(lambda: rj.ensemble(toys.linear, []), ValueError, "at least one seed", "Pass"),
    nought=(lambda: rj.ensemble(toys.linear, 0), ValueError, "seeds must be", "0", "Pass"),
    negative=(lambda: rj.ensemble(toys.linear, [1, -1]), ValueError, "at least 0", "-1", "Pass"),
    fraction=(lambda: rj.ensemble(toys.linear, [0.5]), TypeError, "whole number", "0.5", "Pass"),
    a_float=(lambda: rj.ensemble(toys.linear, 2.0), TypeError, "whole number", "2.0", "Pass"),
    boolean=(lambda: rj.ensemble(toys.linear, True), TypeError, "whole number", "True", "Pass"),
    text=(lambda: rj.ensemble(toys.linear, "12"), TypeError, "whole number", "'1'", "Pass"),
    nothing=(lambda: rj.ensemble(toys.linear, None), TypeError, "whole number", "None", "Pass"),
    shapes=(
        lambda: rj.ensemble(lambda seed: jnp.zeros(1 + seed), 2),
        ValueError,
        "one structure and equal shapes",
        "member 1",
        "Let make_model",
    ),
    structures=(
        lambda: rj.ensemble(lambda seed: {str(seed): ZERO}, 2),
        ValueError,
        "one structure",
        "member 1",
    ),
    types=(
        lambda: rj.ensemble(lambda seed: jnp.zeros(1, [float, jnp.float32][seed]), 2),
        ValueError,
        "one structure",
        "member 1",
    ),
    beyond=(lambda: rj.member(numbered(2), 2), ValueError, "index must be at most 1", "2", "Pass"),
    before=(lambda: rj.member(numbered(2), -1), ValueError, "index must be", "-1", "Pass"),
    index=(lambda: rj.member(numbered(2), 0.0), TypeError, "whole number", "0.0", "Pass"),
    flag=(lambda: rj.member(numbered(2), True), TypeError, "whole number", "True", "Pass"),
    single=(
        lambda: rj.member(make_model(nnx.Rngs(0)), 0),
        ValueError,
        "leading axis",
        "Pass",
    ),
    empty=(lambda: rj.member({}, 0), ValueError, "must", "Pass"),
    scalar=(lambda: rj.member(ZERO[0], 0), ValueError, "leading axis", "Pass"),
    uneven=(lambda: rj.member((ZERO, ZERO[:1]), 0), ValueError, "leading axis", "Pass"),
)
def test_what_is_refused(call, error, words):
    refuses(call, error, *words)
