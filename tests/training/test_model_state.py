"""State of a model that is not trained: carried through steps, frozen elsewhere, kept on disk."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.tree_util import Partial

import rnn_jax as rj
from leaks import checking_leaks
from rnn_jax.training.parameters.variables import in_evaluation, split, trained_leaves
from training import toys

PACE = {"batch_size": 4, "seed": 3, "evaluate_every": 3, "evaluation_size": 6}
TASK = toys.Mixing()


class Running(nnx.Variable):
    """A kind of variable that no library knows."""


class Network(nnx.Module):
    """Normalisation before and after a cell, dropout, a counter and an average of one's own."""

    def __init__(self, seed=0, rate=0.5):
        rngs = nnx.Rngs(seed)
        self.before = nnx.BatchNorm(2, rngs=rngs, param_dtype=float, dtype=float)
        self.cell = rj.SimpleRNNCell(2, 3, rngs=rngs, param_dtype=float)
        self.after = nnx.BatchNorm(3, rngs=rngs, param_dtype=float, dtype=float)
        self.dropout = nnx.Dropout(rate, rngs=rngs)
        self.readout = nnx.Linear(3, 2, rngs=rngs, param_dtype=float, dtype=float)
        self.calls = nnx.Variable(jnp.int32(0))
        self.average = Running(jnp.zeros(()))
        self.scale = jnp.full((), 0.5)

    def __call__(self, inputs):
        self.calls[...] = self.calls[...] + 1
        self.average[...] = 0.9 * self.average[...] + 0.1 * jnp.mean(inputs)
        _, states = rj.unroll(self.cell, self.before(inputs))
        return self.readout(self.dropout(self.after(states[:, -1]))) * self.scale


class Lean(nnx.Module):
    """Less of that, for where the whole is not the point."""

    def __init__(self, seed=0):
        rngs = nnx.Rngs(seed)
        self.norm = nnx.BatchNorm(2, rngs=rngs, param_dtype=float, dtype=float)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.readout = nnx.Linear(2, 2, rngs=rngs, param_dtype=float, dtype=float)
        self.calls = nnx.Variable(jnp.int32(0))
        self.average = Running(jnp.zeros(()))

    def __call__(self, inputs):
        self.calls[...] = self.calls[...] + 1
        self.average[...] = 0.9 * self.average[...] + 0.1 * jnp.mean(inputs)
        return self.readout(self.dropout(self.norm(inputs[:, -1])))


@pytest.fixture(autouse=True)
def _ordinary_promotion():
    """Flax's BatchNorm keeps float32 statistics of whatever it sees, and mixes them with it."""
    with toys.relaxed():
        yield


STATE = {
    "before.mean",
    "before.var",
    "after.mean",
    "after.var",
    "dropout.rngs.count",
    "dropout.rngs.key",
    "calls",
    "average",
    "scale",
}


def fit(model, optimizer=None, **options):
    optimizer = optax.adamw(0.05, weight_decay=0.3) if optimizer is None else optimizer
    return rj.fit(model, TASK, optimizer, **{"steps": 6, **PACE, **options})


def by_name(model):
    named = jax.tree_util.tree_leaves_with_path(model)
    return {
        jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value"): leaf
        for path, leaf in named
    }


@functools.cache
def trained():
    return fit(Network())


@functools.cache
def lean(seed=0):
    return fit(Lean(seed))


def test_which_variables_are_trained():
    model = Network()
    names = by_name(model)
    kinds = dict(zip(names, trained_leaves(model), strict=True))
    assert {name for name, is_trained in kinds.items() if not is_trained} == STATE
    # A pytree that is no NNX module holds parameters, also within a module and around one.
    around = Partial(lambda model, own, inputs: model(inputs) + own, model, jnp.zeros(2))
    assert sum(trained_leaves(around)) == sum(kinds.values()) + 1
    model.foreign = nnx.data(Partial(jnp.multiply, jnp.ones(2)))
    assert sum(trained_leaves(model)) == sum(kinds.values()) + 1


def test_a_run_is_the_loop_that_one_would_write():
    """Every step by hand: gradients of the parameters alone, state from the last call."""
    model = Network()
    parameters, _ = split(model)
    optimizer = optax.adamw(0.05, weight_decay=0.3)
    key = toys.member_key(PACE["seed"])
    with toys.relaxed():
        optimizer_state = optimizer.init(parameters)
    names = by_name(model)
    types = {name: leaf.dtype for name, leaf in names.items()}
    structure = jax.tree.structure(model)

    @jax.jit
    def differentiated(own, names, batch):
        def loss(own):
            called = jax.tree.unflatten(structure, list({**names, **own}.values()))
            value = TASK.loss(called(batch.inputs), batch)
            state = {n: v for n, v in by_name(called).items() if n in STATE}
            # A variable keeps its type.
            return value, {n: v if "key" in n else v.astype(types[n]) for n, v in state.items()}

        return jax.value_and_grad(loss, has_aux=True)(own)

    for step in range(6):
        batch, _ = toys.training_batch(TASK, key, step, PACE["batch_size"])
        own = {name: leaf for name, leaf in names.items() if name not in STATE}
        (_, state), gradient = differentiated(own, names, batch)
        named_gradient = jax.tree.unflatten(jax.tree.structure(parameters), list(gradient.values()))
        with toys.relaxed():
            updates, optimizer_state = optimizer.update(named_gradient, optimizer_state, parameters)
            parameters = optax.apply_updates(parameters, updates)
        names = {**names, **by_name(parameters), **state}
    found = by_name(trained().model)
    assert found.keys() == names.keys()
    for name, expected in names.items():
        toys.same(found[name], expected, rtol=1e-5)  # Statistics are float32.


def test_state_moves_and_is_neither_decayed_nor_counted_in_norms():
    before, after = by_name(Network()), by_name(trained().model)
    assert int(after["calls"]) == 6  # Six training steps; evaluations and probes leave no trace.
    assert int(after["dropout.rngs.count"]) == 6
    assert float(after["scale"]) == 0.5
    assert np.all(after["before.var"] != before["before.var"])
    # 0.99^6 of the start at least: what decays a weight would take more.
    assert np.all(after["before.var"] > 0.9)
    moments = by_name(trained().optimizer_state[0].mu)
    assert moments.keys() == before.keys() - STATE


def test_the_users_model_stays_as_it_is():
    model = Network()
    leaves, structure = by_name(model), jax.tree.structure(model)
    fit(model)
    assert jax.tree.structure(model) == structure
    toys.identical(by_name(model), leaves)
    assert jax.tree.structure(trained().model) == structure
    assert not model.dropout.deterministic
    assert not model.after.use_running_average


def test_evaluation_sees_the_switches_and_changes_nothing():
    """The metrics are those of the model after `.eval()`, and of the state as it was then."""
    result = trained()
    batch = toys.evaluation_batch(TASK, toys.member_key(PACE["seed"]), 6, PACE["evaluation_size"])
    model = jax.tree.map(lambda leaf: leaf, result.model)
    model.eval()
    expected = TASK.loss(jax.jit(lambda model, xs: model(xs))(model, batch.inputs), batch)
    np.testing.assert_allclose(result.history.metrics["loss"][-1], expected, rtol=1e-10)


def test_modules_anywhere_in_a_pytree_are_switched():
    inner, outer = Network(1), Network(2)
    wrapped = {"a": [Partial(lambda model, x: model(x), inner)], "b": outer}
    switched = in_evaluation(wrapped)
    for model in (switched["a"][0].args[0], switched["b"]):
        assert model.dropout.deterministic
        assert model.before.use_running_average
    assert not inner.dropout.deterministic
    assert not outer.before.use_running_average


def test_a_module_of_ones_own_says_what_evaluation_is():
    class Monte(Network):
        def eval(self, **attributes):
            self.before.eval()
            self.after.eval()

    switched = in_evaluation(Monte())
    assert switched.after.use_running_average
    assert not switched.dropout.deterministic


def test_probes_see_the_frozen_model():
    class Averages:
        name, every, batch_size = "averages", 2, 3

        def measure(self, model, xs):
            calls = model.calls[...]
            model(xs)  # Which writes.
            return {"calls": calls, "still": jnp.asarray(model.dropout.deterministic)}

    result = fit(Lean(), probes=Averages())
    probe = result.history.probes["averages"]
    np.testing.assert_array_equal(probe["calls"], [0, 2, 4, 6])
    assert np.all(probe["still"])
    # However often it is measured.
    toys.same(result.model, lean().model)


def test_a_run_that_is_resumed_ends_bit_for_bit(tmp_path):
    fit(Network(), steps=3, directory=tmp_path, checkpoint_seconds=0)
    resumed = fit(Network(), steps=6, directory=tmp_path, checkpoint_seconds=0)
    toys.identical(resumed.model, trained().model)
    toys.identical(resumed.best_model, trained().best_model)
    toys.identical(resumed.optimizer_state, trained().optimizer_state)
    for which, model in (("last", resumed.model), ("best", resumed.best_model)):
        toys.identical(rj.restore(tmp_path, Network(), which=which), model)


def test_members_of_an_ensemble_are_single_runs():
    models = rj.ensemble(Lean, seeds=[4, 5])
    together = fit(models, members=2)
    for index, seed in enumerate((4, 5)):
        state = by_name(rj.member(together.model, index))
        assert int(state["calls"]) == 6
        if index == 0:  # A single model draws from stream 0, as member 0 does.
            toys.same(rj.member(together.model, 0), lean(seed).model)


def test_a_step_that_makes_state_infinite_is_left_out():
    class Fragile(Lean):
        def __call__(self, inputs):
            outputs = super().__call__(inputs)
            bad = jnp.where(self.calls[...] == 3, jnp.nan, 0.0)
            self.average[...] = self.average[...] + jax.lax.stop_gradient(bad)
            return outputs

    with pytest.warns(RuntimeWarning, match="step 2 is not finite"):
        result = fit(Fragile(), on_nonfinite="skip")
    state = by_name(result.model)
    assert int(state["calls"]) == 2  # And would become 3 again at every later step.
    assert np.isfinite(state["average"])
    assert int(result.history.failed_at) == 2


def test_infinities_that_state_starts_with_are_no_failure():
    class Least(Lean):
        def __init__(self):
            super().__init__()
            self.least = Running(jnp.array([jnp.inf, -jnp.inf]))

    result = fit(Least(), steps=3)
    assert np.isnan(result.history.failed_at)
    assert np.all(np.isinf(by_name(result.model)["least"]))


class Sowing(Lean):
    def __call__(self, inputs):
        outputs = super().__call__(inputs)
        self.sow(nnx.Intermediate, "seen", outputs)
        return outputs


@pytest.mark.filterwarnings("ignore:Using 'Module.sow:DeprecationWarning")
def test_what_a_call_sows_is_nobodys_state():
    model = Sowing()
    result = fit(model)
    toys.same(by_name(result.model), by_name(lean().model))
    model(jnp.ones((4, 2, 2)))  # Now it holds something of a call of the user's.
    sown = by_name(fit(model, steps=1).model)
    assert [name for name in sown if name.startswith("seen")] == ["seen.value.0"]


def test_a_run_that_is_debugged_is_the_same_run():
    expected = fit(Lean(), optax.sgd(0.1), steps=1).model
    with jax.disable_jit():
        toys.same(fit(Lean(), optax.sgd(0.1), steps=1).model, expected, rtol=1e-5, atol=1e-6)
    with jax.debug_nans(True), checking_leaks():
        toys.same(fit(Lean(), optax.sgd(0.1), steps=1).model, expected, rtol=1e-5, atol=1e-6)


class Growing(Network):
    def __call__(self, inputs):
        self.new = nnx.Variable(jnp.zeros(2))
        return super().__call__(inputs)


class Widening(Network):
    def __call__(self, inputs):
        outputs = super().__call__(inputs)
        self.average.set_value(jnp.zeros(2))
        return outputs


class Casting(Network):
    def __call__(self, inputs):
        outputs = super().__call__(inputs)
        self.average.set_value(jnp.int32(0))
        return outputs


class Tied(Network):
    def __init__(self):
        super().__init__()
        self.also = self.readout


class WholeParameter(Network):
    def __init__(self):
        super().__init__()
        self.count = nnx.Param(jnp.arange(3))


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (Growing, TypeError, r"must keep its variables.*got new.* added.*Make all"),
        (Widening, TypeError, r"must keep the shapes and types.*float64\[2\] for average.*Cast"),
        (Casting, TypeError, r"must keep the shapes and types.*int32\[\] for average.*Cast"),
        (Tied, ValueError, r"must stand in one place.*also.*readout.*Keep one"),
        (WholeParameter, TypeError, r"must be an array of floats.*int64 at count.*Close"),
    ],
)
def test_state_that_cannot_be_carried_is_refused_before_anything_is_written(
    make, error, says, tmp_path
):
    with pytest.raises(error, match=says):
        fit(make(), directory=tmp_path / "run")
    assert not (tmp_path / "run").exists()
