"""Training on batches that a loader of the host gives."""

import itertools

import jax
import numpy as np
import pytest

import rnn_jax as rj
from refusing import refuses
from rnn_jax.training.disk.checkpoints import read_checkpoint
from training import runs, toys
from training.own_data import PACE, SIZE, fit, plain_loop


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


def dict_of(batch):
    return batch._asdict()


def tuple_of(batch):
    return (batch.inputs, batch.targets, batch.weights)


SOURCES = {
    "list": lambda: batches(),
    "function": lambda: lambda: iter(batches()),
    "by epoch": lambda: by_epoch,
    "the same arrays": lambda: reusing,
    "state": Stateful,
    "state in bytes": lambda: Stateful(bytes),
    "dicts and tuples": lambda: [dict_of(batches()[0]), *map(tuple_of, batches()[1:])],
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
    for steps in (4, 6):  # The first in the middle of an epoch.
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
    assert (tmp_path / "run" / "checkpoints" / "2.ckpt").exists()
    notes = read_checkpoint(tmp_path / "run" / "checkpoints" / "2.ckpt")[1]
    assert notes["data"]["batches"] == 2
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
    toys.same(fit(toys.loader(iter(batches(6)))).model, fit(toys.loader(batches(6))).model)
    with pytest.raises(ValueError, match=r"must have a batch.*; it ended after 5"):
        fit(toys.loader(iter(batches(5))))


def test_data_that_come_in_another_order_are_not_gone_on_with(tmp_path):
    fit(toys.loader(batches()), tmp_path, steps=2, checkpoint_seconds=0)
    other = [batches()[place] for place in (0, 2, 1)]
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(ValueError, match=r"must give the same batches.*batch 1.*seed"):
        fit(toys.loader(other), tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    assert fit(toys.loader(batches()), tmp_path).steps == 6


def test_the_batch_size_of_a_loader_is_its_own():
    with pytest.raises(ValueError, match=r"batch_size must be that of.*4; got 5.*Leave"):
        fit(toys.loader(batches()), batch_size=5)
    assert fit(toys.loader(batches()), batch_size=4).steps == 6
