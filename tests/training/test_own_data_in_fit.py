"""Training on the user's own data, from arrays and from loaders of the host."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.tree_util import Partial

import rnn_jax as rj
from refusing import refuses
from rnn_jax.training.disk.checkpoints import read_checkpoint
from training import runs, toys

PACE = {"steps": 7, "seed": 5, "evaluate_every": 3, "evaluation_size": 4}
MOMENTS = [3, 6, 7]
SIZE = 4
RATE = optax.adam(0.05)
COUNT = 10


def examples(seed=0, count=COUNT):
    batch = toys.batch(seed, count)
    return batch.inputs, batch.targets


def arrays(**options):
    return rj.tasks.Arrays(*examples(), **options)


def fit(task, directory=None, **options):
    if not isinstance(task, rj.tasks.Loader):
        options = {"batch_size": SIZE, **options}
    model = options.pop("model", None) or toys.linear()
    return rj.fit(model, task, RATE, directory=directory, **{**PACE, **options})


def rows_of_steps(stream, steps=PACE["steps"]):
    """Which examples each step has, by the rule: a permutation for each epoch."""
    key = jax.random.fold_in(toys.member_key(PACE["seed"], stream), 3)
    epochs = [jax.random.permutation(jax.random.fold_in(key, e), COUNT) for e in range(4)]
    return np.concatenate(epochs)[: steps * SIZE].reshape(steps, SIZE)


@jax.jit
def advance(model, state, xs, ys):
    def loss(model):
        return jnp.mean(jnp.sum(jnp.square(model(xs) - ys), axis=-1))

    value, gradient = jax.value_and_grad(loss)(model)
    updates, state = RATE.update(gradient, state, model)
    return optax.apply_updates(model, updates), state, value


def plain_loop(pairs):
    """(model, loss) after each step, one after another, by hand."""
    model = toys.linear()
    with toys.relaxed():
        state = RATE.init(model)
        for xs, ys in pairs:
            model, state, value = advance(model, state, xs, ys)
            yield model, float(value)


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
    assert result.history.probes["seen"]["xs"].shape == (5, 3, 1, 2)
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
    for steps in (3, 6, 7):
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


# Loaders.


def batches(count=3):
    return [toys.batch(seed, SIZE) for seed in range(count)]


def by_epoch(epoch):
    rng = np.random.default_rng(epoch)
    for seed in rng.permutation(3):
        yield toys.batch(int(seed), SIZE)


class Stateful:
    """An iterator without end that keeps its place, as Grain's do."""

    def __init__(self, form=dict):
        self.place, self.form = 0, form

    def __iter__(self):
        return self

    def __next__(self):
        self.place += 1
        return toys.batch(self.place % 5, SIZE)

    def get_state(self):
        return {"place": self.place} if self.form is dict else str(self.place).encode()

    def set_state(self, state):
        self.place = state["place"] if self.form is dict else int(state)


def reusing():
    """Batches in the same arrays, written into for each of them."""
    inputs, targets = np.empty((SIZE, 2, 2)), np.empty((SIZE, 2))
    for batch in batches():
        inputs[:], targets[:] = batch.inputs, batch.targets
        yield inputs, targets
    inputs[:] = 7.0


SOURCES = {
    "list": lambda: batches(),
    "function": lambda: lambda: iter(batches()),
    "by epoch": lambda: by_epoch,
    "the same arrays": lambda: reusing,
    "state": Stateful,
    "state in bytes": lambda: Stateful(bytes),
    "dicts": lambda: [batch._asdict() for batch in batches()],
    "tuples": lambda: [(batch.inputs, batch.targets, batch.weights) for batch in batches()],
}


def as_drawn(name):
    """The batches that a source gives, without end."""
    if name == "by epoch":
        return itertools.chain.from_iterable(map(by_epoch, itertools.count()))
    if name.startswith("state"):
        return (toys.batch(place % 5, SIZE) for place in itertools.count(1))
    return itertools.cycle(batches())


@pytest.mark.parametrize("name", SOURCES)
def test_a_loader_trains_on_its_batches_in_order_and_goes_on_where_it_was(name, tmp_path):
    drawn = itertools.islice(as_drawn(name), PACE["steps"])
    *_, (told, _) = plain_loop((batch.inputs, batch.targets) for batch in drawn)
    whole = fit(toys.loader(SOURCES[name]()), tmp_path / "whole")
    toys.same(whole.model, told)
    held_out = toys.batch(100, 5)
    errors = np.asarray(whole.model(held_out.inputs)) - held_out.targets
    expected = np.mean(np.sum(errors**2, axis=-1))
    np.testing.assert_allclose(whole.history.metrics["mse"][-1], expected, rtol=1e-12)
    for steps in (3, 7):
        task = toys.loader(SOURCES[name]())
        parts = fit(task, tmp_path / "parts", steps=steps, checkpoint_seconds=0)
    assert runs.result_bits(parts) == runs.result_bits(whole)


def test_how_batches_are_stacked_changes_no_step(monkeypatch):
    whole = fit(toys.loader(batches()), probes=runs.Weights(every=3))
    from rnn_jax.training.data import feeding

    monkeypatch.setattr(feeding, "_CHUNK_BYTES", 1)
    single = fit(toys.loader(batches()), probes=runs.Weights(every=3))
    toys.same(single.model, whole.model)
    np.testing.assert_allclose(single.history.loss, whole.history.loss, rtol=1e-12)
    toys.same(single.history.probes["weights"].values, whole.history.probes["weights"].values)


def test_members_share_the_batches_of_a_loader():
    single = fit(toys.loader(batches()))
    both = fit(toys.loader(batches()), model=toys.linears(0, 1), members=2)
    toys.same(rj.member(both.model, 0), single.model)


def cut(batch, count):
    return jax.tree.map(lambda leaf: leaf[:count], batch)


def nan_in(batch):
    inputs = np.array(batch.inputs)
    inputs[1, 0, 1] = np.nan
    return batch._replace(inputs=inputs)


def failing(epoch):
    yield from batches()
    raise OSError("the disk of the data is gone")


# Sources that break after the third batch: (source, error, words).
BREAKING = {
    "ends": (
        lambda: lambda epoch: iter(batches() if epoch == 0 else []),
        ValueError,
        ("source must yield batches; epoch 1 of it had none, after 3 batches", "pass the function"),
    ),
    "smaller": (
        lambda: [*batches(), cut(toys.batch(7, SIZE), 2)],
        ValueError,
        ("all batches must have the shapes", "inputs float64[2, 2, 2]", "as batch 3", "drop_last"),
    ),
    "other type": (
        lambda: [*batches(), toys.batch(7, SIZE)._replace(inputs=np.ones((SIZE, 2, 2), int))],
        ValueError,
        ("all batches must have the shapes and types", "int64[4, 2, 2]", "Drop"),
    ),
    "nan": (
        lambda: [*batches(), nan_in(toys.batch(7, SIZE))],
        ValueError,
        ("inputs of batch 3 must be finite", "nan in sequence 1, step 0", "Clean"),
    ),
    "no batch": (
        lambda: [*batches(), None],
        TypeError,
        ("batch 3 must be inputs and targets", "NoneType", "Pass"),
    ),
    "its own": (lambda: failing, OSError, ("the disk of the data is gone",)),
}


@pytest.mark.parametrize("name", BREAKING)
def test_a_loader_that_breaks_loses_nothing_and_goes_on_when_it_is_mended(name, tmp_path):
    source, error, words = BREAKING[name]
    options = {"checkpoint_seconds": 1e6}
    with pytest.raises(error) as caught:
        fit(toys.loader(source()), tmp_path / "run", **options)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert (tmp_path / "run" / "checkpoints" / "3.ckpt").exists()
    notes = read_checkpoint(tmp_path / "run" / "checkpoints" / "3.ckpt")[1]
    assert notes["data"]["batches"] == 3
    if not callable(source()):
        mended = [*batches(), toys.batch(7, SIZE)]
        result = fit(toys.loader(mended), tmp_path / "run", **options)
        whole = fit(toys.loader(mended))
        toys.identical(result.model, whole.model)


class Unkept(Stateful):
    """An iterator whose state no checkpoint can keep."""

    def get_state(self):
        return object()


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        (lambda: [], ValueError, ("source must yield batches", "pass the function")),
        (
            lambda: iter(batches()),
            ValueError,
            ("needs data", "a plain iterator", "Pass a function"),
        ),
        (lambda: Unkept(), TypeError, ("get_state of an iterator must return", "object", "Wrap")),
        (
            lambda: [cut(toys.batch(0, SIZE), 1)._replace(inputs=np.ones((1, 2, 3)))],
            ValueError,
            ("validation must be of the form", "Pass"),
        ),
        (lambda: lambda a, b: [], TypeError, ("must take the epoch or nothing", "a, b", "partial")),
        (lambda: lambda: 3, TypeError, ("must return an iterable of batches", "int", "yield")),
        (lambda: [3], TypeError, ("batch 0 must be inputs and targets", "int", "Pass")),
    ],
)
def test_loaders_that_are_refused_before_anything_is_written(source, error, words, tmp_path):
    refuses(lambda: fit(toys.loader(source()), tmp_path / "run"), error, *words)
    assert not (tmp_path / "run").exists()


def test_an_iterator_trains_without_a_directory_and_says_when_it_ends():
    toys.same(fit(toys.loader(iter(batches(7)))).model, fit(toys.loader(batches(7))).model)
    with pytest.raises(ValueError, match=r"must have a batch.*; it ended after 5"):
        fit(toys.loader(iter(batches(5))))


def test_data_that_come_in_another_order_are_not_gone_on_with(tmp_path):
    fit(toys.loader(batches()), tmp_path, steps=3, checkpoint_seconds=0)
    other = [batches()[place] for place in (0, 2, 1)]
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(ValueError, match=r"must give the same batches.*batch 2.*seed"):
        fit(toys.loader(other), tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    assert fit(toys.loader(batches()), tmp_path).steps == 7


def test_the_batch_size_of_a_loader_is_its_own():
    with pytest.raises(ValueError, match=r"batch_size must be that of.*4; got 5.*Leave"):
        fit(toys.loader(batches()), batch_size=5)
    assert fit(toys.loader(batches()), batch_size=4).steps == 7


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
