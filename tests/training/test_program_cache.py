"""Programs are found again by what they compute: never a stale one, and no second compilation."""

import threading
from collections import OrderedDict

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree_util import Partial

import rnn_jax as rj
from rnn_jax.training.compiled import program_cache
from training import toys

PACE = {"steps": 2, "batch_size": 4, "seed": 3, "evaluate_every": 2, "evaluation_size": 6}


def fit(model=None, task=None, optimizer=None, **options):
    model = toys.linear() if model is None else model
    task = toys.Mixing() if task is None else task
    optimizer = optax.sgd(0.1) if optimizer is None else optimizer
    return rj.fit(model, task, optimizer, **{**PACE, **options})


def built_anew(**arguments):
    """The same without any of the programs that are kept, which stay for the other tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program_cache, "_programs", OrderedDict())
        return fit(**arguments)


def compilations(call):
    """How many programs a call adds to those that are kept."""
    before = set(program_cache._programs)
    call()
    return len(set(program_cache._programs) - before)


class Base(toys.Mixing):
    """Targets times `self.factor`, and a loss times `self.weight`."""

    factor = weight = 1.0

    def sample(self, key, batch_size):
        batch = super().sample(key, batch_size)
        return batch._replace(targets=self.scaled(batch.targets))

    def scaled(self, targets):
        return targets * jnp.asarray(self.factor, float)

    def loss(self, outputs, batch):
        return super().loss(outputs, batch) * self.weight


class ArrayInPlace(Base):
    """Its data are an array of NumPy that is written into."""

    def __init__(self):
        super().__init__()
        object.__setattr__(self, "factor", np.ones((1, 2)))

    def change(self):
        self.factor[:] = 3.0


class InAScan(Base):
    """Its data are in a list in a dict, and read by a method that a scan calls."""

    def __init__(self):
        super().__init__()
        object.__setattr__(self, "held", {"factors": [1.0]})

    def change(self):
        self.held["factors"][0] = 3.0

    def scaled(self, targets):
        return jax.lax.scan(self.one, None, targets)[1]

    def one(self, _, target):
        return None, target * self.held["factors"][0]


class OnTheHost(InAScan):
    """Its data are read by the host while the program runs."""

    def scaled(self, targets):
        factor = self.held["factors"][0]
        shape = jax.ShapeDtypeStruct(targets.shape, targets.dtype)
        times = {1.0: np.positive, 3.0: lambda array: 3.0 * array}[factor]
        return jax.pure_callback(times, shape, targets, vmap_method="sequential")


class Loss(Base):
    """What is changed is the loss, by an attribute of an object with the default hash."""

    __hash__ = object.__hash__
    __eq__ = object.__eq__

    def change(self):
        object.__setattr__(self, "weight", 3.0)


GLOBAL = {"factor": 1.0}


class Global(Base):
    """Its data are those of its module."""

    def change(self):
        GLOBAL["factor"] = 3.0

    def scaled(self, targets):
        return targets * GLOBAL["factor"]


@pytest.mark.parametrize("kind", [ArrayInPlace, InAScan, OnTheHost, Loss, Global])
def test_a_task_that_was_changed_in_place_is_not_answered_from_a_stale_program(kind):
    GLOBAL["factor"] = 1.0
    task, fresh = kind(), kind()
    before = fit(task=task)
    toys.identical(fit(task=task).model, before.model)
    task.change()
    after = fit(task=task)
    fresh.change()
    expected = built_anew(task=fresh)
    toys.identical(after.model, expected.model)
    np.testing.assert_array_equal(after.history.loss, expected.history.loss)
    assert not np.array_equal(after.history.loss, before.history.loss)


def test_a_task_need_not_be_hashable():
    class Plain(Base):
        __hash__ = None

    toys.identical(fit(task=Plain()).model, fit().model)


def test_a_model_that_is_a_changed_object_is_not_answered_from_a_stale_program():
    class Scaled:
        factor = 1.0

        def __call__(self, weights, inputs):
            return self.factor * toys.affine_last(weights, inputs)

    function = Scaled()
    model = Partial(function, *toys.linear().args)
    before = fit(model)
    function.factor = 2.0
    after = fit(model)
    assert before.history.loss != after.history.loss
    np.testing.assert_array_equal(after.history.loss, built_anew(model=model).history.loss)


def test_a_probe_that_was_changed_in_place_is_not_answered_from_a_stale_program():
    class Scales:
        name, every, batch_size, factor = "scales", 1, 2, 1.0

        def measure(self, model, xs):
            return {"factor": jnp.asarray(self.factor)}

    probe = Scales()
    np.testing.assert_array_equal(fit(probes=probe).history.probes["scales"]["factor"], 1.0)
    probe.factor = 5.0
    np.testing.assert_array_equal(fit(probes=probe).history.probes["scales"]["factor"], 5.0)


EQUAL = {
    "chain with a schedule": lambda: optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(optax.cosine_decay_schedule(0.1, 10))
    ),
    "several steps of a rate": lambda: optax.MultiSteps(optax.adam(0.1), 2),
    "line search": lambda: optax.lbfgs(),
}


@pytest.mark.parametrize("name", EQUAL)
def test_equal_but_new_objects_compile_nothing(name):
    fit(optimizer=EQUAL[name]())
    again = {"task": toys.Mixing(), "optimizer": EQUAL[name](), "probes": ()}
    assert compilations(lambda: fit(**again, seed=4)) == 0


def test_other_numbers_compile_again():
    slow = fit(optimizer=optax.sgd(lambda count: 0.1 / (1.0 + count)))
    found = []
    faster = optax.sgd(lambda count: 0.2 / (1.0 + count))
    assert compilations(lambda: found.append(fit(optimizer=faster))) > 0
    assert slow.history.metrics["loss"] != found[0].history.metrics["loss"]


def test_arrays_that_a_schedule_closes_over_tell_programs_apart():
    def after(rates):
        return fit(optimizer=optax.sgd(lambda count: jnp.asarray(rates)[count])).model

    one, other = after(np.array([0.1, 0.2])), after(np.array([0.1, 0.3]))
    assert not np.array_equal(one.args[0]["kernel"], other.args[0]["kernel"])


def test_a_run_traces_each_function_once():
    """The loop, for each length of it, is traced before anything is written, and not again."""
    pairs = [(6, 2), (7, 3)]  # Steps, evaluations: calls of 2 steps, and of 3 and 1.
    for (steps, every), lengths in zip(pairs, (1, 2), strict=True):
        chex.clear_trace_counter()
        # Training and evaluation call the model once each in every traced loop.
        model = chex.assert_max_traces(toys.affine_last, n=2 * lengths)
        fit(
            Partial(model, *toys.linear().args),
            optimizer=optax.sgd(0.05),
            steps=steps,
            evaluate_every=every,
        )


def test_what_is_kept_does_not_follow_arrays():
    """A program is another one's for as long as its own numbers are what they were."""
    data = np.arange(3.0)
    run = program_cache.cached_program(lambda x: x + jnp.asarray(data), np.float64(1))
    np.testing.assert_array_equal(run(np.float64(1)), [1, 2, 3])
    data[:] = 7
    np.testing.assert_array_equal(run(np.float64(1)), [1, 2, 3])
    with jax.default_matmul_precision("highest"):  # Under another setting it is built once more.
        np.testing.assert_array_equal(run(np.float64(1)), [1, 2, 3])
    again = program_cache.cached_program(lambda x: x + jnp.asarray(data), np.float64(1))
    np.testing.assert_array_equal(again(np.float64(1)), [8, 8, 8])


def test_arrays_within_inner_programs_tell_programs_apart():
    def program(data):
        inner = jax.jit(lambda x: jax.lax.cond(x > 0, lambda: x * data, lambda: data - x))
        return program_cache.cached_program(inner, np.float64(1))(np.float64(2))

    np.testing.assert_array_equal(program(np.array([1.0, 2.0])), [2, 4])
    np.testing.assert_array_equal(program(np.array([1.0, 5.0])), [2, 10])


def test_no_more_programs_are_kept_than_are_meant_to():
    program_cache._programs.clear()
    for number in range(program_cache._KEPT + 5):
        program_cache.cached_program(lambda x, n=number: x + n, np.float64(1))
    assert len(program_cache._programs) == program_cache._KEPT


def test_threads_share_what_is_kept():
    found, rates = {}, (0.05, 0.1, 0.05, 0.1)

    def work(index):
        with jax.enable_x64(True):
            found[index] = fit(optimizer=optax.sgd(rates[index]))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(rates))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, rate in enumerate(rates):
        toys.identical(found[index].model, fit(optimizer=optax.sgd(rate)).model)
