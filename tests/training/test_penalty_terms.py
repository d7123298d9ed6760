"""The package's penalties as terms: what each cell of a model sees, and training with them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import rnn_jax as rj
from refusing import refuses, table
from rnn_jax.training.objective.penalty_terms import cells_of, places_of
from training import toys

B, T = 3, 5
TASK = rj.tasks.DelayedRecall(2, length=T)
BATCH = TASK.sample(jax.random.key(0), B)
RNGS = functools.partial(nnx.Rngs, 0)


def simple(inputs, size, cell=rj.SimpleRNNCell):
    return cell(inputs, size, param_dtype=float, rngs=RNGS())


def model(cells, **options):
    return rj.SequenceModel(cells, 1, **{"readout": "all", "rngs": RNGS(), **options})


def both(inputs, size):
    backward = rj.SimpleRNNCell(inputs, size, param_dtype=float, rngs=nnx.Rngs(1))
    return rj.Bidirectional(simple(inputs, size, rj.GRUCell), backward)


MODELS = {
    "one": lambda: model(simple(1, 3)),
    "last": lambda: model([simple(1, 3), simple(3, 2, rj.LSTMCell)], readout="last"),
    "residual and norm": lambda: model(
        [simple(1, 3), simple(3, 3)], residual=True, layer_norm=True
    ),
    "wrapped, no readout": lambda: rj.SequenceModel(rj.Zoneout(simple(1, 3), 0.3), readout="all"),
    "tokens": lambda: model(simple(2, 3), embedding=4, in_features=2),
    "both ways": lambda: model([both(1, 2), both(4, 2)]),
    "both ways, last": lambda: model([simple(1, 3), both(3, 2)], readout="last"),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_goes_through_each_of_its_places(name):
    @jax.jit
    def through(network, xs):
        places = places_of(network, xs)
        assert [place.cell for place in places] == cells_of(network)
        found = [rest(rj.unroll(cell, inputs)[1]) for cell, inputs, rest in places]
        return found, network(xs)

    xs = np.arange(T) % 4 if name == "tokens" else BATCH.inputs[0]
    found, expected = through(MODELS[name](), xs)
    np.testing.assert_allclose(found, [expected] * len(found), rtol=1e-12)


def outputs_of(network):
    return network(BATCH.inputs)


def test_flossing_is_the_mean_penalty_of_cells_along_what_they_see():
    network = MODELS["last"]()
    lower, upper = network.cells

    @jax.jit
    def by_hand(xs):
        _, hs = rj.unroll(lower, xs)
        penalty = functools.partial(rj.flossing_penalty, warmup=1, interval=2)
        return penalty(lower, xs, k=3, target=-0.1), penalty(upper, hs, k=4, target=-0.1)

    sums = [value for xs in BATCH.inputs[:2] for value in by_hand(xs)]
    # Four exponents, or all where there are fewer.
    term = rj.Flossing(k=4, target=-0.1, warmup=1, interval=2, sequences=2)
    found = jax.jit(term)(network, BATCH, outputs_of(network))
    np.testing.assert_allclose(found, np.mean(sums))


def test_flossing_takes_a_target_for_each_exponent():
    network = MODELS["one"]()
    goals = (0.0, -0.5)
    penalty = functools.partial(rj.flossing_penalty, k=2, target=goals)
    expected = jax.jit(penalty)(network.cells[0], BATCH.inputs[0])
    found = jax.jit(rj.Flossing(k=2, target=goals))(network, BATCH, outputs_of(network))
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize("immediate", [False, True])
def test_vanishing_is_the_penalty_of_the_losses_own_signal(immediate):
    """One sequence, so that its loss may be written as a function of the cell's outputs."""
    network = MODELS["one"]()
    row = jax.tree.map(lambda leaf: leaf[:1], BATCH)

    def by_hand(network):
        def loss(ys):
            outputs = ys @ network.kernel[...] + network.bias[...][None]
            return TASK.loss(outputs[None], row)

        return rj.vanishing_penalty(loss, network.cells[0], row.inputs[0], immediate=immediate)

    term = rj.Vanishing(immediate=immediate, sequences=1)

    def found(network):
        return term(network, BATCH, network(BATCH.inputs), TASK.loss)

    value, gradient = jax.jit(jax.value_and_grad(found))(network)
    expected, slope = jax.jit(jax.value_and_grad(by_hand))(network)
    np.testing.assert_allclose(value, expected)
    toys.same(gradient, slope, rtol=1e-7)


def test_vanishing_of_a_batch_and_a_stack_is_a_mean_and_a_sum():
    network = MODELS["last"]()
    lower, upper = network.cells
    task = rj.tasks.Adding(T)
    batch = task.sample(jax.random.key(1), B)._replace(inputs=BATCH.inputs)

    @jax.jit
    def by_hand(alone):
        def of_upper(ys):
            outputs = ys[-1] @ network.kernel[...] + network.bias[...]
            return task.loss(outputs[None], alone)

        def of_lower(ys):
            return of_upper(rj.unroll(upper, ys)[1])

        (xs,) = alone.inputs
        hs = rj.unroll(lower, xs)[1]
        below = rj.vanishing_penalty(of_lower, lower, xs)
        return below + rj.vanishing_penalty(of_upper, upper, hs)

    rows = [jax.tree.map(lambda leaf, r=row: leaf[r : r + 1], batch) for row in range(B)]
    found = jax.jit(lambda network: rj.Vanishing()(network, batch, None, task.loss))(network)
    np.testing.assert_allclose(found, sum(map(by_hand, rows)) / B)


def test_orthogonality_and_decay_are_sums_over_what_they_are_of():
    decay = rj.WeightDecay(where=nnx.PathContains("recurrent_kernel"))

    @jax.jit
    def measured(network):
        slopes = jax.grad(lambda network: decay(network, BATCH, None))(network)
        return (
            rj.Orthogonality()(network, BATCH, None),
            sum(map(rj.orthogonality_penalty, cells_of(network))),
            decay(network, BATCH, None),
            cells_of(slopes)[0],
        )

    network = MODELS["both ways"]()
    penalty, expected, decayed, slopes = measured(network)
    np.testing.assert_allclose(penalty, expected)
    kernels = [np.asarray(cell.recurrent_kernel[...]) for cell in cells_of(network)]
    np.testing.assert_allclose(decayed, sum(np.sum(kernel**2) for kernel in kernels) / 2)
    np.testing.assert_allclose(slopes.recurrent_kernel[...], kernels[0])
    np.testing.assert_array_equal(slopes.kernel[...], 0.0)


def test_flossing_in_training_is_one_argument_and_the_loop_that_one_would_write():
    network, optimizer = MODELS["one"](), optax.adam(0.03)
    pace = {"steps": 4, "batch_size": 2, "seed": 5, "evaluate_every": 2, "evaluation_size": 2}
    result = rj.fit(network, TASK, optimizer, objective=rj.Flossing(0.3, k=2), **pace)
    key = toys.member_key(5)

    @jax.jit
    def advance(model, state, step):
        batch, _ = toys.training_batch(TASK, key, step, 2)

        def total(model):
            penalty = rj.flossing_penalty(model.cells[0], batch.inputs[0], k=2)
            return TASK.loss(model(batch.inputs), batch) + 0.3 * penalty, penalty

        (_, penalty), gradient = jax.value_and_grad(total, has_aux=True)(model)
        updates, state = optimizer.update(gradient, state, model)
        return optax.apply_updates(model, updates), state, penalty

    trained, penalties = network, []
    with toys.relaxed():
        state = optimizer.init(trained)
        for step in range(4):
            trained, state, penalty = advance(trained, state, step)
            penalties.append(float(penalty))
    toys.same(result.model, trained)
    np.testing.assert_allclose(result.history["flossing"], toys.means(penalties, (2, 4)))


def test_all_of_them_at_once_in_an_ensemble():
    networks = rj.ensemble(
        lambda rngs: rj.SequenceModel(
            rj.SimpleRNNCell(1, 3, param_dtype=float, rngs=rngs), 1, readout="all", rngs=rngs
        ),
        2,
    )
    terms = (rj.Flossing(0.1, k=2), rj.Vanishing(0.1), rj.Orthogonality(0.1), rj.WeightDecay(0.1))
    objective = {term.name: term for term in terms}
    result = rj.fit(
        networks, TASK, optax.sgd(0.01), steps=2, batch_size=2, seed=0, objective=objective
    )
    history = result.history
    assert set(history.terms) == {"task", *objective}
    assert all(series.shape == (2, 1) for series in history.terms.values())
    assert np.isfinite(history.loss).all()


def fit(objective, network=None):
    pace = {"steps": 2, "batch_size": 2, "seed": 5}
    return rj.fit(network or MODELS["one"](), TASK, optax.sgd(0.1), objective=objective, **pace)


@table(
    another_model=(
        lambda: rj.fit(
            toys.linear(),
            toys.Mixing(),
            optax.sgd(0.1),
            steps=1,
            batch_size=2,
            seed=0,
            objective=rj.Flossing(k=2),
        ),
        TypeError,
        "needs a SequenceModel",
        "Partial",
        "rnn_jax.flossing_penalty",
    ),
    weight=(lambda: rj.Flossing("much"), TypeError, "weight must be a number", "str", "Pass"),
    k=(lambda: rj.Flossing(k=0), ValueError, "k must be at least 1", "0", "Pass"),
    target=(lambda: rj.Flossing(target="0"), TypeError, "target must be a number", "'0'"),
    targets=(
        lambda: rj.Flossing(k=3, target=(0.0, 0.1)),
        ValueError,
        "target must be one number or k of them",
        "got 2",
        "Pass",
    ),
    interval=(lambda: rj.Flossing(interval=0), ValueError, "interval must be at least 1", "0"),
    warmup=(lambda: fit(rj.Flossing(warmup=9)), ValueError, "warmup must", "9"),
    sequences=(lambda: rj.Vanishing(sequences=0), ValueError, "sequences must be at least 1", "0"),
    immediate=(lambda: rj.Vanishing(immediate=1), TypeError, "immediate must be True or False"),
    where=(lambda: rj.WeightDecay(where=3), TypeError, "where must be a pytree of booleans", "int"),
    nothing=(
        lambda: fit(rj.WeightDecay(where=nnx.PathContains("kernle"))),
        ValueError,
        "where must pick at least one parameter",
        "kernle",
        "cells.0.",
    ),
)
def test_terms_that_are_refused(call, error, words):
    refuses(call, error, *words)


def test_padding_is_refused():
    padded = type("Padded", (), {"lengths": jnp.ones(2), "inputs": BATCH.inputs})()
    network = MODELS["one"]()
    refuses(
        lambda: rj.Flossing(k=2)(network, padded, None),
        ValueError,
        "needs sequences that are valid at every step",
        "lengths",
        "Pass",
    )
