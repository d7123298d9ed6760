"""Which parameters are trained: masks, filters, and what stays as it was."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.tree_util import Partial

import rnn_jax as rj
from refusing import refuses, table
from rnn_jax.training.disk.checkpoints import named_leaves
from rnn_jax.training.parameters.trainable import trained_mask
from training import runs, toys

PACE = {"steps": 6, "batch_size": 4, "seed": 3, "evaluate_every": 3, "evaluation_size": 6}
TASK = toys.Mixing()


class Adapter(nnx.Param):
    """A kind of parameter of one's own."""


class Network(nnx.Module):
    """A cell, normalisation with statistics of its own, and a readout of another kind."""

    def __init__(self, seed=0):
        rngs = nnx.Rngs(seed)
        self.cell = rj.SimpleRNNCell(2, 3, rngs=rngs)
        self.norm = nnx.BatchNorm(3, rngs=rngs, param_dtype=float, dtype=float)
        self.readout = Adapter(0.1 * jnp.ones((3, 2)))
        self.calls = Adapter(jnp.zeros(()))

    def __call__(self, inputs):
        self.calls[...] = self.calls[...] + 1.0
        _, ys = rj.unroll(self.cell, inputs)
        # Flax's BatchNorm keeps float32 statistics of whatever it sees.
        with toys.relaxed():
            return self.norm(ys[:, -1]) @ self.readout[...]


CELL = {"cell.kernel", "cell.recurrent_kernel", "cell.bias"}
NORM = {"norm.scale", "norm.bias"}
READOUT = {"readout", "calls"}


def masked(model, names):
    """Booleans in the place of the arrays of a model."""
    leaves = [name in names for name, _ in named_leaves(model)]
    return jax.tree.unflatten(jax.tree.structure(model), leaves)


def wide(parameters):
    return jax.tree.map(lambda leaf: leaf.ndim > 1, parameters)


# By name the ways to say it, and what of the network is trained.
SELECTIONS = {
    "path": (nnx.PathContains("cell"), CELL),
    "path by a function": (lambda path, value: path[0] == "cell", CELL),
    "path in": (nnx.filterlib.PathIn(("cell", "kernel")), {"cell.kernel"}),
    "type": (Adapter, READOUT),
    "not": (nnx.Not(nnx.PathContains("cell")), NORM | READOUT),
    "several": ([Adapter, nnx.PathContains("scale")], READOUT | {"norm.scale"}),
    "all of several": (nnx.All(nnx.Param, nnx.PathContains("cell")), CELL),
    "value": (
        lambda path, variable: variable[...].ndim > 1,
        {"cell.kernel", "cell.recurrent_kernel", "readout"},
    ),
    "mask": (masked(Network(), CELL), CELL),
    "mask by a function": (wide, {"cell.kernel", "cell.recurrent_kernel", "readout"}),
}


def picked(model, trainable):
    mask = trained_mask(model, trainable)
    leaves = zip(named_leaves(model), mask, strict=True)
    return {name for (name, _), is_trained in leaves if is_trained}


@pytest.mark.parametrize("name", SELECTIONS)
def test_each_way_to_say_it_picks_parameters_and_nothing_else(name):
    trainable, names = SELECTIONS[name]
    assert picked(Network(), trainable) == names
    if name not in ("value", "mask by a function"):  # An ensemble's arrays have an axis more.
        assert picked(rj.ensemble(Network, 2), trainable) == names


def test_of_a_pytree_that_is_no_module_filters_see_arrays_and_masks_may_end_early():
    model = Partial(
        toys.affine_last, {"a": {"x": jnp.ones(2), "y": jnp.ones(())}, "b": jnp.ones(3)}
    )
    by_path = nnx.PathContains("a")
    for trainable in (by_path, Partial(toys.affine_last, {"a": True, "b": False})):
        assert trained_mask(model, trainable) == (True, True, False)
    assert trained_mask(model, lambda path, leaf: leaf.ndim == 1) == (True, False, True)
    # Where all are trained there is nothing to say.
    for trainable in (None, True, ..., nnx.Not(nnx.PathContains("c"))):
        assert trained_mask(model, trainable) is None


def leaves_of(model):
    return {name: np.asarray(leaf) for name, leaf in named_leaves(model)}


def test_what_is_frozen_stays_bit_for_bit_and_the_rest_learns_as_by_hand():
    """A loop over the trained parameters alone, as if the others were constants."""
    trainable = nnx.PathContains("recurrent_kernel")
    optimizer = optax.chain(optax.clip_by_global_norm(0.1), optax.adamw(0.05, weight_decay=0.3))
    model = rj.SequenceModel(rj.SimpleRNNCell(2, 3, rngs=nnx.Rngs(0)), 2, rngs=nnx.Rngs(0))
    result = rj.fit(model, TASK, optimizer, trainable=trainable, **PACE)
    key = toys.member_key(PACE["seed"])

    def with_kernel(kernel):
        copied = jax.tree.map(lambda leaf: leaf, model)
        copied.cells[0].recurrent_kernel[...] = kernel
        return copied

    @jax.jit
    def advance(kernel, state, step):
        batch, _ = toys.training_batch(TASK, key, step, PACE["batch_size"])

        def loss(kernel):
            return TASK.loss(with_kernel(kernel)(batch.inputs), batch)

        gradient = jax.grad(loss)(kernel)
        updates, state = optimizer.update(gradient, state, kernel)
        return optax.apply_updates(kernel, updates), state, optax.tree.norm(gradient)

    kernel, norms = model.cells[0].recurrent_kernel[...], []
    with toys.relaxed():
        state = optimizer.init(kernel)
        for step in range(PACE["steps"]):
            kernel, state, norm = advance(kernel, state, step)
            norms.append(float(norm))
    toys.same(result.model, with_kernel(kernel))
    np.testing.assert_allclose(result.history.gradient_norm, toys.means(norms, (3, 6)))
    toys.same(jax.tree.leaves(result.optimizer_state), jax.tree.leaves(state))
    before, after = leaves_of(model), leaves_of(result.model)
    for name in before.keys() - {"cells.0.recurrent_kernel"}:
        assert before[name].tobytes() == after[name].tobytes()


def test_frozen_parameters_are_not_written_to_while_state_goes_on():
    model, trainable = rj.ensemble(Network, 2), nnx.PathContains("cell")
    with toys.relaxed():
        result = rj.fit(model, TASK, optax.adamw(0.05), members=2, trainable=trainable, **PACE)
    before, after = leaves_of(model), leaves_of(result.model)
    changed = {name for name in before if before[name].tobytes() != after[name].tobytes()}
    assert changed == CELL | {"norm.mean", "norm.var"}
    best = leaves_of(result.best_model)
    assert best["readout"].tobytes() == before["readout"].tobytes()


def test_each_members_rate_and_a_line_search_see_the_trained_alone():
    frozen = toys.linears(1, 2).args[0]["bias"]
    for optimizer, rates in ((optax.sgd, [0.1, 0.2]), (optax.lbfgs(), None)):
        result = rj.fit(
            toys.linears(1, 2),
            TASK,
            optimizer,
            members=2,
            hyperparameters=rates,
            trainable=nnx.PathContains("kernel"),
            **PACE,
        )
        toys.identical(result.model.args[0]["bias"], frozen)
        assert (result.model.args[0]["kernel"] != toys.linears(1, 2).args[0]["kernel"]).any()


def test_whole_numbers_may_stand_in_a_model_where_they_are_not_trained():
    def call(weights, inputs):
        return toys.affine_last(weights, inputs) + weights["shift"].astype(float)

    model = Partial(call, {**toys.linear().args[0], "shift": jnp.int32(2)})
    result = rj.fit(model, TASK, optax.adam(0.1), trainable=nnx.PathContains("kernel"), **PACE)
    assert result.model.args[0]["shift"] == 2
    refuses(
        lambda: rj.fit(model, TASK, optax.adam(0.1), **PACE),
        TypeError,
        "must be an array of floats",
        "int32 at",
        "trainable=",
    )


def test_a_run_with_frozen_parameters_is_resumed_and_restored(tmp_path):
    options = {"trainable": nnx.PathContains("kernel"), "optimizer": optax.adam(0.1)}
    whole = runs.toy(tmp_path / "whole", **options)
    runs.toy(tmp_path / "parts", steps=4, **options)
    parts = runs.toy(tmp_path / "parts", **options)
    assert runs.result_bits(parts) == runs.result_bits(whole)
    assert runs.bits(rj.restore(tmp_path / "parts", toys.linear())) == runs.bits(whole.model)


def fit(trainable):
    return rj.fit(toys.linear(), TASK, optax.sgd(0.1), trainable=trainable, **PACE)


@table(
    nothing=(
        lambda: fit(nnx.PathContains("kernle")),
        ValueError,
        "trainable must pick at least one parameter",
        "PathContains('kernle'",
        "bias",
        "Pass",
    ),
    a_tag=(lambda: fit("kernel"), ValueError, "must pick at least one", "'kernel'", "Pass"),
    false=(lambda: fit(False), ValueError, "must pick at least one parameter", "False", "Pass"),
    no_bool=(lambda: fit({}), TypeError, "trainable must be a pytree of booleans", "dict", "Pass"),
    number=(lambda: fit(3), TypeError, "trainable must be a pytree of booleans", "int", "Pass"),
    structure=(
        lambda: fit({"kernel": True}),
        ValueError,
        "trainable must have the structure of the model",
        "'kernel'",
        "jax.tree.map",
    ),
    mask_of_another=(
        lambda: fit(lambda parameters: {"kernel": True}),
        ValueError,
        "trainable must have the structure",
        "jax.tree.map",
    ),
    arguments=(
        lambda: fit(lambda: True),
        TypeError,
        "trainable must take the parameters, or the path and the variable",
        "()",
        "Pass",
    ),
    no_mask=(
        lambda: fit(lambda parameters: parameters),
        TypeError,
        "must return a pytree of booleans",
        "Partial",
        "Return",
    ),
    no_answer=(
        lambda: fit(lambda path, leaf: leaf > 0),
        TypeError,
        "as a filter must return True or False",
        "bias",
        "Compare",
    ),
)
def test_selections_that_are_refused(call, error, words):
    refuses(call, error, *words)


def test_state_alone_is_nothing_to_train():
    refuses(
        functools.partial(trained_mask, Network(), nnx.BatchStat),
        ValueError,
        "must pick at least one parameter",
        "BatchStat",
        "cell.kernel",
    )
