"""Cells of other libraries within models: trained, kept on disk, several at once, looked at."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from jax.tree_util import Partial

import rnn_jax as rj
from rnn_jax.training.variables import trained_leaves
from training import runs

H, T = 3, 4
LINEN = linen.GRUCell(H, param_dtype=jnp.float64)
TASK = rj.tasks.Adding(T)
LAGS = "['history']['probes']['gradient_flow']['values']['by_lag']"


def make(rngs):
    """A layer of each library, Equinox, Flax NNX and Linen, and two wrappers."""
    of_equinox = eqx.nn.GRUCell(2, H, dtype=jnp.float64, key=rngs.params())
    variables = LINEN.init(rngs.params(), jnp.zeros(H), jnp.zeros(H))

    # Made anew for each member, and equal in each.
    def step(cell, carry, x):
        h = cell(x, carry)
        return h, h

    start = jnp.full(H, 0.2)
    return rj.SequenceModel(
        [
            rj.LearnedCarry(
                rj.as_cell(Partial(step, of_equinox), initial_carry=start, in_features=2)
            ),
            rj.Zoneout(nnx.LSTMCell(H, H, param_dtype=jnp.float64, rngs=rngs), (0.2, 0.1)),
            Partial(LINEN.apply, variables),
        ],
        1,
        rngs=rngs,
    )


def fit(model, directory=None, steps=4, **options):
    return rj.fit(
        model,
        TASK,
        optax.adam(0.05),
        steps=steps,
        batch_size=2,
        seed=0,
        directory=directory,
        evaluate_every=2,
        evaluation_size=4,
        **options,
    )


def test_models_of_all_libraries_train_and_come_back(tmp_path):
    models = rj.ensemble(make, seeds=2)
    probe = rj.GradientFlowProbe(every=2, batch_size=1)
    whole = fit(models, tmp_path / "whole", probes=probe)
    fit(models, tmp_path / "parts", steps=2, probes=probe)
    in_parts = fit(models, tmp_path / "parts", probes=probe)
    apart, at_once = map(runs.result_bits, (in_parts, whole))
    assert {name for name in at_once if apart[name] != at_once[name]} <= {LAGS}
    # What a run measures at its end is another program, equal to rounding.
    lags = [run.history.probes["gradient_flow"]["by_lag"] for run in (in_parts, whole)]
    np.testing.assert_allclose(*lags, rtol=1e-12)
    assert np.all(np.isfinite(lags))
    back = rj.restore(tmp_path / "whole", models)
    for name, trained, before, after, kept in zip(
        map(jax.tree_util.keystr, paths(models)),
        trained_leaves(models),
        *map(jax.tree.leaves, (models, whole.model, back)),
        strict=True,
    ):
        np.testing.assert_array_equal(*map(raw, (kept, after)), err_msg=name)
        # What is given as the initial carry is state; what LearnedCarry makes of it is not.
        moved = [not np.array_equal(*pair) for pair in zip(*map(raw, (before, after)), strict=True)]
        assert moved == [trained] * 2, name


def paths(tree):
    return [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def raw(leaf):
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


def test_a_model_of_tokens_trains_its_table_and_is_looked_at():
    tokens = rj.tasks.base.Batch

    class Parity:
        """Whether a sequence of 0 and 1 has an odd number of ones."""

        def sample(self, key, batch_size):
            bits = jax.random.randint(key, (batch_size, T), 0, 2)
            return tokens(bits, (jnp.sum(bits, 1) % 2).astype(float), jnp.ones(batch_size))

        def loss(self, outputs, batch):
            return jnp.mean(jnp.square(outputs[:, 0] - batch.targets))

        def metrics(self, outputs, batch):
            return {"mse": self.loss(outputs, batch)}

        def solved(self, metrics):
            return metrics["mse"] < 0

    model = rj.SequenceModel(rj.GRUCell(2, H, rngs=nnx.Rngs(0)), 1, embedding=2, rngs=nnx.Rngs(1))
    probes = rj.GateProbe(every=2, batch_size=2)
    result = rj.fit(
        model,
        Parity(),
        optax.sgd(0.1),
        steps=2,
        batch_size=4,
        seed=0,
        probes=probes,
        evaluate_every=2,
        evaluation_size=4,
    )
    before, after = model.embedding.table[...], result.model.embedding.table[...]
    assert np.all(before != after)
    assert all(
        np.all(np.isfinite(record)) for record in result.history.probes["gates"].values.values()
    )


class Named(NamedTuple):
    """A cell that is a tuple of its weights."""

    kernel: jax.Array

    def __call__(self, carry, x):
        h = jnp.tanh(x @ self.kernel + carry)
        return h, h

    def initialize_carry(self, input_shape):
        return jnp.zeros((*input_shape[:-1], H))


def test_a_cell_that_is_a_tuple_is_trained_wherever_it_stands():
    def cell(size):
        return Named(jnp.ones((size, H)))

    layers = [
        cell(2),
        rj.Bidirectional(cell(H), rj.LearnedCarry(rj.as_cell(cell(H), in_features=H))),
    ]
    model = rj.SequenceModel(layers, in_features=2)
    assert trained_leaves(model) == [True] * 4
    # As against a tuple of arrays that a module keeps.
    model.kept = nnx.data((jnp.zeros(1), jnp.zeros(1)))
    assert sum(trained_leaves(model)) == 4


@pytest.mark.parametrize("index", range(3))
def test_flax_sees_the_leaves_of_every_layer(index):
    model = make(nnx.Rngs(0))
    again = nnx.merge(*nnx.split(model))
    layer, copy = model.cells[index], again.cells[index]
    assert jax.tree.structure(layer) == jax.tree.structure(copy)
    for found, expected in zip(*map(jax.tree.leaves, (copy, layer)), strict=True):
        np.testing.assert_array_equal(*map(raw, (found, expected)))
