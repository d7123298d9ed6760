"""What `fit` compiles, for one chip, for several, and for an NVIDIA GPU."""

import functools
import itertools

import jax
import numpy as np
import optax
import platforms
import pytest
from flax import nnx

import rnn_jax as rj
from rnn_jax.training.compiled import fed_program, program
from rnn_jax.training.devices.layout import Layout

platforms.require()
as_a_user = platforms.as_a_user

TASK = rj.tasks.Adding(30)
OBJECTIVE = {
    "flossing": rj.Term(rj.Flossing(k=2), 0.1),
    "orthogonality": rj.Orthogonality(),
    "decay": rj.WeightDecay(1e-4),
}
PROBES = [rj.GradientFlowProbe(every=10), rj.LyapunovProbe(every=10, k=2), rj.GateProbe(every=10)]


def make_model(rngs):
    return rj.SequenceModel(rj.LSTMCell(2, 16, rngs=rngs), 1, rngs=rngs)


def optimizer():
    return optax.chain(rj.record_gradient_norms(), optax.clip_by_global_norm(1.0), optax.adam(1e-3))


class Seen(Exception):
    """All programs that were wanted have been seen."""


def programs_of_fit(monkeypatch, platform, model, task=TASK, *, wanted, **options):
    """The functions that `fit` compiles and what it calls them on, the first `wanted` of them.

    None of them is run, and nothing placed: the devices are not there.
    """
    seen = []

    def see(function, *arguments):
        seen.append((function, arguments))
        if len(seen) == wanted:
            raise Seen
        return functools.partial(jax.eval_shape, function)

    def stay(layout, tree):
        return tree

    for module in (program, fed_program):
        monkeypatch.setattr(module, "cached_program", see)
    for name in ("place", "place_everywhere"):
        monkeypatch.setattr(Layout, name, stay)
    monkeypatch.setattr(Layout, "platform", platform)
    options = {"optimizer": optimizer(), "batch_size": 8, "evaluation_size": 16, **options}
    with pytest.raises(Seen):
        rj.fit(model, task, steps=20, seed=0, evaluate_every=10, **options)
    return seen


def compiled(platform, seen, mesh=None):
    """The executables' texts."""
    mesh = platforms.mesh_of(platform) if mesh is None else mesh
    return [
        platforms.compiled_for(platform, function, *placed(mesh, arguments), mesh=mesh)
        for function, arguments in seen
    ]


def placed(mesh, arguments):
    """Members lie apart on a mesh that says so: their models and states, and their keys."""
    if "ensemble" not in mesh.axis_names:
        return arguments
    apart = platforms.shapes_on(mesh, arguments[:2], "ensemble")
    return (*apart, *arguments[2:])


@pytest.mark.parametrize("platform", platforms.PLATFORMS)
def test_on_one_device(platform, monkeypatch):
    seen = programs_of_fit(monkeypatch, platform, make_model(nnx.Rngs(0)), wanted=2)
    start, train = compiled(platform, seen)
    assert "all-reduce(" not in start + train


@pytest.mark.parametrize("platform", platforms.PLATFORMS)
def test_members_on_one_device(platform, monkeypatch):
    members = rj.ensemble(make_model, 3)
    options = {"optimizer": optax.adam, "hyperparameters": [1e-3, 2e-3, 3e-3]}
    compiled(platform, programs_of_fit(monkeypatch, platform, members, wanted=2, **options))


def test_a_batch_on_four_chips(monkeypatch):
    mesh = platforms.mesh_of("tpu", batch=4)
    seen = programs_of_fit(monkeypatch, "tpu", make_model(nnx.Rngs(0)), wanted=2, mesh=mesh)
    _, train = compiled("tpu", seen, mesh)
    assert "num_partitions=4" in train
    assert "all-reduce(" in train, "gradients of the parts of a batch are not added up"


def test_members_and_batches_on_two_by_two_chips(monkeypatch):
    mesh = platforms.mesh_of("tpu", ensemble=2, batch=2)
    members = rj.ensemble(make_model, 4)
    seen = programs_of_fit(monkeypatch, "tpu", members, wanted=2, mesh=mesh)
    _, train = compiled("tpu", seen, mesh)
    assert "num_partitions=4" in train


# The other probe takes a minute more for a GPU, and is no other program than `gradient_flow`.
@pytest.mark.parametrize(("platform", "probes"), [("tpu", PROBES), ("cuda", PROBES[1:])])
def test_with_penalties_and_probes(platform, probes, monkeypatch):
    options = {"objective": OBJECTIVE, "probes": probes}
    compiled(
        platform,
        programs_of_fit(monkeypatch, platform, make_model(nnx.Rngs(0)), wanted=2, **options),
    )


@pytest.mark.parametrize("platform", platforms.PLATFORMS)
def test_on_batches_of_the_host(platform, monkeypatch):
    batch = jax.tree.map(np.asarray, TASK.sample(jax.random.key(0), 8))
    task = rj.tasks.Loader(lambda: itertools.repeat(batch), validation=batch)
    seen = programs_of_fit(
        monkeypatch, platform, make_model(nnx.Rngs(0)), task, wanted=3, batch_size=None
    )
    compiled(platform, seen)
