"""Optimisers that ask for more than a gradient, against loops that one would write by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import rnn_jax as rj
from refusing import refuses
from training import toys

PACE = {"steps": 4, "batch_size": 4, "seed": 3, "evaluate_every": 2, "evaluation_size": 6}
TASK = toys.Mixing()
ASCENT = optax.chain(optax.contrib.normalize(), optax.sgd(0.1))


def fit(optimizer, model=None, **options):
    model = toys.linear() if model is None else model
    return rj.fit(model, TASK, optimizer, **{**PACE, **options})


@functools.cache
def step_by_hand(optimizer, told):
    """One step of any member, compiled once: (model, state, key, number) → (model, state)."""

    @jax.jit
    def step(model, state, key, number):
        batch, _ = toys.training_batch(TASK, key, number, PACE["batch_size"])

        def value_fn(model):
            return TASK.loss(model(batch.inputs), batch)

        value, grad = jax.value_and_grad(value_fn)(model)
        updates, state = optimizer.update(grad, state, model, **told(value_fn, value, grad))
        return optax.apply_updates(model, updates), state

    return step


def by_hand(optimizer, told, model=None, stream=0):
    """The model after the steps; told(value_fn, value, grad) is what the update is told."""
    model = toys.linear() if model is None else model
    key = toys.member_key(PACE["seed"], stream)
    step = step_by_hand(optimizer, told)
    with toys.relaxed():
        state = optimizer.init(model)
        for number in range(PACE["steps"]):
            model, state = step(model, state, key, number)
    return model


def searched(value_fn, value, grad):
    return {"value_fn": value_fn, "value": value, "grad": grad}


def ascended(value_fn, value, grad):
    return {"grad_fn": lambda model, _: jax.grad(value_fn)(model)}


def nothing(value_fn, value, grad):
    return {}


ASKING = {
    "lbfgs, with its zoom": (optax.lbfgs(), searched),
    "polyak": (optax.polyak_sgd(), lambda value_fn, value, grad: {"value": value}),
    "sharpness-aware": (
        optax.contrib.sam(optax.sgd(0.1), ASCENT, opaque_mode=True),
        ascended,
    ),
}


def test_a_line_search_does_in_fit_what_it_does_by_hand():
    optimizer = optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(5))
    toys.same(fit(optimizer).model, by_hand(optimizer, searched), rtol=1e-8)


# Each kind of thing that is asked for once; several steps have a test of their own, with rates.
@pytest.mark.parametrize("name", ASKING)
def test_members_of_an_ensemble_do_in_fit_what_they_do_by_hand(name):
    optimizer, told = ASKING[name]
    models = fit(optimizer, toys.linears(1, 2), members=2).model
    for index in range(2):
        expected = by_hand(optimizer, told, toys.linear(index + 1), stream=index)
        toys.same(rj.member(models, index), expected, rtol=1e-8)


def test_several_steps_of_each_members_rate():
    rates = [0.1, 0.2]
    models = fit(
        lambda rate: optax.MultiSteps(optax.adam(rate), 2),
        toys.linears(1, 2),
        members=2,
        hyperparameters=rates,
    ).model
    for index, rate in enumerate(rates):
        expected = by_hand(
            optax.MultiSteps(optax.adam(rate), 2), nothing, toys.linear(index + 1), index
        )
        toys.same(rj.member(models, index), expected, rtol=1e-8)


class Noisy(nnx.Module):
    """A model with noise from its own state and from the key that it is given."""

    def __init__(self):
        self.kernel = nnx.Param(jnp.ones((2, 2)))
        self.rngs = nnx.Rngs(0)
        self.calls = nnx.Variable(jnp.int32(0))

    def __call__(self, inputs, key=None):
        self.calls[...] = self.calls[...] + 1
        noise = 0.0 if key is None else jax.random.normal(key, (1, 2))
        own = jax.random.normal(self.rngs(), (1, 2))
        return inputs[:, -1] @ self.kernel[...] + noise + own


def test_a_line_search_sees_one_batch_one_noise_and_one_state():
    """The loss that it is given is, at the parameters, the value that it is given."""
    seen = []

    def update(gradient, state, parameters, *, value, grad, value_fn, obj_fn, grad_fn):
        own = (value_fn(parameters), obj_fn(parameters), grad_fn(parameters, 0))
        jax.debug.callback(lambda *found: seen.append(found), value, grad, *own)
        return jax.tree.map(lambda g: -0.1 * g, gradient), state

    asking = optax.GradientTransformationExtraArgs(lambda parameters: (), update)
    result = fit(asking, Noisy())
    jax.effects_barrier()
    assert len(seen) == PACE["steps"]
    for value, grad, again, once_more, gradient in seen:
        np.testing.assert_allclose([again, once_more], [value, value], rtol=1e-12)
        toys.same(gradient, grad)
    # However often the loss was asked for, each step is one call of the model.
    assert int(result.model.calls[...]) == PACE["steps"]


def test_a_run_with_a_line_search_is_resumed_bit_for_bit(tmp_path):
    whole = fit(optax.lbfgs())
    fit(optax.lbfgs(), steps=2, directory=tmp_path, checkpoint_seconds=0)
    parts = fit(optax.lbfgs(), directory=tmp_path, checkpoint_seconds=0)
    toys.identical(parts.model, whole.model)
    toys.identical(parts.optimizer_state, whole.optimizer_state)


def test_what_asks_for_something_else_is_refused(tmp_path):
    def hungry(gradient, state, parameters, *, hessian):
        return gradient, state

    asking = optax.GradientTransformationExtraArgs(lambda parameters: (), hungry)
    chained = optax.chain(optax.clip(1.0), ASKING["sharpness-aware"][0])
    for optimizer, word in ((asking, "hessian"), (chained, "value")):
        refuses(
            lambda o=optimizer: fit(o, directory=tmp_path / "run"),
            TypeError,
            "must do with value, grad, value_fn",
            word,
            "by itself",
        )
    assert not (tmp_path / "run").exists()


def test_a_line_search_within_several_steps_is_refused_with_the_fix(tmp_path):
    refuses(
        lambda: fit(optax.MultiSteps(optax.lbfgs(), 2), directory=tmp_path / "run"),
        TypeError,
        "must be told so by what holds it",
        "missing",
        "a larger batch_size",
    )
    assert not (tmp_path / "run").exists()
