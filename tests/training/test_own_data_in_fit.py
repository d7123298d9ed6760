"""Training on the user's own data, from arrays; from loaders in `test_loaders_in_fit.py`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.tree_util import Partial

import rnn_jax as rj
from refusing import refuses
from training import runs, toys
from training.own_data import PACE, RATE, SIZE, fit, plain_loop

MOMENTS = [2, 4, 6]
COUNT = 10


def examples(seed=0, count=COUNT):
    batch = toys.batch(seed, count)
    return batch.inputs, batch.targets


def arrays(**options):
    return rj.tasks.Arrays(*examples(), **options)


def rows_of_steps(stream, steps=PACE["steps"]):
    """Which examples each step has, by the rule: a permutation for each epoch."""
    key = jax.random.fold_in(toys.member_key(PACE["seed"], stream), 3)
    epochs = [jax.random.permutation(jax.random.fold_in(key, e), COUNT) for e in range(4)]
    return np.concatenate(epochs)[: steps * SIZE].reshape(steps, SIZE)


def told_of(member):
    """That of examples in the order of a member."""
    inputs, targets = examples()
    return list(plain_loop((inputs[index], targets[index]) for index in rows_of_steps(member)))


def test_training_on_arrays_is_the_plain_loop_over_epochs():
    told = told_of(0)
    result = fit(arrays())
    toys.same(result.model, told[-1][0])
    expected = toys.means([loss for _, loss in told], MOMENTS)
    np.testing.assert_allclose(result.history.loss, expected, rtol=1e-10)


def test_members_have_orders_of_their_own_and_the_first_is_a_single_model():
    result = fit(arrays(), model=toys.linears(0, 0), members=2)
    for member in range(2):
        *_, (model, _) = told_of(member)
        toys.same(rj.member(result.model, member), model)
    assert not np.array_equal(rows_of_steps(0), rows_of_steps(1))


@pytest.mark.parametrize("size", [2, 100])
def test_validation_is_of_all_examples_whatever_is_run_at_a_time(size):
    """Also of metrics that are no means: the outputs are put together first."""

    class Largest(rj.tasks.SquaredError):
        def metrics(self, outputs, batch):
            return {"largest": jnp.max(abs(outputs - batch.targets))}

    inputs, targets = examples(1, 5)
    weights = np.arange(1.0, 6.0)
    held_out = {"inputs": inputs, "targets": targets, "weights": weights}
    task = arrays(validation=held_out, loss=Largest())
    result = fit(task, evaluation_size=size)
    outputs = np.asarray(result.model(inputs))
    errors = np.sum((outputs - targets) ** 2, axis=-1)
    metrics = result.history.metrics
    np.testing.assert_allclose(metrics["loss"][-1], np.average(errors, weights=weights), rtol=1e-12)
    np.testing.assert_allclose(metrics["largest"][-1], np.max(abs(outputs - targets)), rtol=1e-12)


def test_a_function_is_a_loss_without_metrics():
    def loss(outputs, batch):
        return jnp.mean(jnp.sum(jnp.square(outputs - batch.targets), axis=-1))

    task = arrays(loss=loss, validation=examples(1, 5))
    result = fit(task)
    toys.same(result.model, fit(arrays()).model)
    assert list(result.history.metrics) == ["loss"]
    assert np.isnan(task.chance_loss)


def test_without_validation_it_evaluates_on_examples_that_it_trains_on():
    inputs, targets = examples()
    result = fit(arrays(), evaluation_size=1)
    errors = np.sum((np.asarray(result.model(inputs)) - targets) ** 2, axis=-1)
    assert np.isclose(errors, result.history.metrics["loss"][-1], rtol=1e-12).any()


# Lengths and masks.


class Padded(nnx.Module):
    """A model that says what it is told of its sequences."""

    def __init__(self, by):
        self.kernel = nnx.Param(jnp.ones((2, 2)))
        self.by = by

    def _mean(self, inputs, valid):
        inputs = jnp.where(valid[..., None], inputs, 0.0)
        return inputs.sum(axis=1) @ self.kernel[...]


class ByLengths(Padded):
    def __call__(self, inputs, lengths=None):
        return self._mean(inputs, jnp.arange(inputs.shape[1])[None] < lengths[:, None])


class ByMask(Padded):
    def __call__(self, inputs, *, mask=None):
        return self._mean(inputs, mask)


def test_lengths_and_masks_reach_models_in_training_and_in_evaluation():
    inputs, targets = examples()
    lengths = np.array([1, 2] * (COUNT // 2))
    valid = np.arange(2) < lengths[:, None]
    dirty = np.where(valid[..., None], inputs, np.nan)
    ways = [
        (ByLengths("lengths"), {"lengths": lengths}),
        (ByMask("lengths"), {"lengths": lengths}),
        (ByMask("mask"), {"mask": valid}),
    ]
    found = []
    for model, given in ways:
        part = {name: value[:4] for name, value in given.items()}
        held_out = {"inputs": dirty[:4], "targets": targets[:4], **part}
        task = rj.tasks.Arrays(dirty, targets, **given, validation=held_out)
        result = fit(task, model=model)
        kernel = np.asarray(result.model.kernel[...])
        outputs = np.where(valid[..., None], inputs, 0)[:4].sum(axis=1) @ kernel
        expected = np.mean(np.sum((outputs - targets[:4]) ** 2, axis=-1))
        np.testing.assert_allclose(result.history.metrics["loss"][-1], expected, rtol=1e-12)
        found.append(kernel)
    np.testing.assert_allclose(found[1:], [found[0]] * 2, rtol=1e-12)


def test_a_model_that_would_read_padding_as_data_is_refused(tmp_path):
    lengths = np.full(COUNT, 2)
    for name, given in {"lengths": lengths, "mask": np.ones((COUNT, 2), bool)}.items():
        task = rj.tasks.Arrays(*examples(), **{name: given})
        words = (f"a model must take {name}= in its call", "Partial", "leave")
        refuses(lambda task=task: fit(task, tmp_path / "run"), TypeError, *words)
    refuses(
        lambda: fit(rj.tasks.Arrays(*examples(), mask=np.ones((10, 2), bool)), model=ByLengths("")),
        TypeError,
        "a model must take mask=",
        "ByLengths",
    )
    assert not (tmp_path / "run").exists()


def test_a_probe_looks_at_no_padding():
    inputs = np.array(examples()[0])
    inputs[:, 1] = np.nan
    task = rj.tasks.Arrays(inputs, examples()[1], np.ones(COUNT, int))
    result = fit(task, model=ByLengths("lengths"), probes=Shown(2))
    assert result.history.probes["seen"]["xs"].shape == (4, 3, 1, 2)
    assert np.isfinite(result.history.probes["seen"]["xs"]).all()


class Shown(toys.Seen):
    """The sequences alone."""

    def measure(self, model, xs):
        return {"xs": xs}


def test_inputs_may_be_a_pytree():
    inputs, targets = examples()
    pair = Partial(lambda w, xs: toys.affine_last(w, xs["a"] + xs["b"]), toys.linear().args[0])
    task = rj.tasks.Arrays({"a": inputs, "b": 0.0 * inputs}, targets)
    toys.same(fit(task, model=pair).model.args[0], fit(arrays()).model.args[0])


# Data as arguments.


def test_data_are_no_constants_of_the_compiled_program(monkeypatch):
    programs = []
    from rnn_jax.training.compiled import program

    cached = program.cached_program

    def look(function, *arguments):
        programs.append(jax.make_jaxpr(function)(*arguments))
        return cached(function, *arguments)

    monkeypatch.setattr(program, "cached_program", look)
    data = rj.tasks.Arrays(np.zeros((1000, 2, 2)), np.zeros((1000, 2)), validation=0.5)
    rj.fit(toys.linear(), data, RATE, steps=1, batch_size=1, seed=0, evaluation_size=500)
    sizes = [np.size(constant) for closed in programs for constant in closed.consts]
    assert len(programs) == 2
    assert all(size < 100 for size in sizes)


# On the disk.


def test_a_run_on_arrays_in_parts_is_the_run_at_once(tmp_path):
    task = arrays(validation=0.3)
    whole = fit(task, tmp_path / "whole")
    for steps in (2, 4, 6):
        parts = fit(arrays(validation=0.3), tmp_path / "parts", steps=steps, checkpoint_seconds=0)
    assert runs.result_bits(parts) == runs.result_bits(whole)
    assert (tmp_path / "whole" / "config.json").stat().st_size < 20_000


def test_other_data_are_another_run(tmp_path):
    fit(arrays(), tmp_path)
    inputs, targets = examples()
    before = runs.tree_of(tmp_path)
    for task, name in [
        (rj.tasks.Arrays(inputs + 1e-9, targets), "task.examples.inputs.digest"),
        (arrays(loss=rj.tasks.SquaredError(solved_below=0.1)), "task.loss.solved_below"),
        (arrays(validation=0.5), "task.examples"),
    ]:
        with pytest.raises(ValueError, match=f"holds another run.*{name}"):
            fit(task, tmp_path)
    assert runs.tree_of(tmp_path) == before


# As a stranger would do it.


def test_own_data_with_lengths_in_a_few_lines():
    rng = np.random.default_rng(0)
    inputs, lengths = rng.normal(size=(60, 9, 2)), rng.integers(3, 10, 60)
    labels = (inputs[:, 0, 0] > 0).astype(int)
    # From here on as in the guide.
    data = rj.tasks.Arrays(inputs, labels, lengths, validation=0.25)
    rngs = nnx.Rngs(0)
    cell = rj.GRUCell(data.in_features, 8, rngs=rngs)
    model = rj.SequenceModel(cell, data.out_features, rngs=rngs)
    result = rj.fit(
        model,
        data,
        optax.adam(0.05),
        steps=data.steps_for(epochs=30, batch_size=15),
        batch_size=15,
        seed=0,
        best="accuracy",
        patience=5,
        evaluate_every=10,
    )
    held_out = data.validation
    outputs = result.best_model(held_out.inputs, lengths=held_out.lengths)
    right = np.argmax(outputs, axis=-1) == np.asarray(held_out.targets)
    assert np.mean(right) > 0.7
    np.testing.assert_allclose(max(result.history["accuracy"]), np.mean(right), rtol=1e-6)
