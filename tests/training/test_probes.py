"""Probes: the record is what measuring a model directly gives, and training is as without."""

import dataclasses
import functools
import itertools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import rnn_jax as rj
from refusing import refuses
from training import toys

PACE = {"steps": 6, "batch_size": 4, "seed": 5, "evaluate_every": 3, "evaluation_size": 6}
TASK = toys.Mixing()
ADDING = rj.tasks.Adding(5)
# One object each, so that the loop by hand compiles its steps once.
ADAM, FAST = optax.adam(0.05), optax.adam(0.1)


def flat(model):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(model)])


@functools.cache
def linear_fit(*probes, **options):
    return rj.fit(toys.linear(), TASK, ADAM, probes=probes, **{**PACE, **options})


@pytest.mark.parametrize(
    ("every", "evaluate_every", "steps", "moments"),
    [
        (2, 3, 7, [0, 2, 4, 6, 7]),
        (4, 2, 6, [0, 4, 6]),
        (100, 3, 6, [0, 6]),
        (1, 100, 3, [0, 1, 2, 3]),
        (1, 1, 0, [0]),
    ],
)
def test_it_measures_at_the_start_every_so_many_steps_and_at_the_end(
    every, evaluate_every, steps, moments
):
    result = linear_fit(toys.Seen(every), evaluate_every=evaluate_every, steps=steps)
    record = result.history.probes["seen"]
    np.testing.assert_array_equal(record.step, moments)
    told = toys.plain_loop(toys.linear(), TASK, ADAM, **{**PACE, "steps": steps})
    expected = [flat(told.models[moment]) for moment in moments]
    np.testing.assert_allclose(record["weights"], expected, rtol=1e-10)


def test_it_sees_the_same_sequences_of_the_task_each_time():
    record = linear_fit(toys.Seen(2)).history.probes["seen"]
    assert record["xs"].shape == (4, 3, TASK.steps, 2)
    assert np.all(record["xs"] == record["xs"][0])
    # No batch that is trained on, but what any batch might be.
    assert np.std(record["xs"][0]) > 0
    key = toys.member_key(PACE["seed"])
    for step in range(PACE["steps"]):
        batch, _ = toys.training_batch(TASK, key, step, 3)
        assert not np.any(batch.inputs == record["xs"][0])


SEVERAL = (toys.Seen(2), toys.Seen(5, batch_size=1, name="five"))


def test_probes_of_several_paces_do_not_disturb_each_other():
    together = linear_fit(*SEVERAL).history.probes
    assert list(together) == ["seen", "five"]
    for probe in SEVERAL:
        alone = linear_fit(dataclasses.replace(probe, name="seen")).history.probes["seen"]
        np.testing.assert_array_equal(together[probe.name].step, alone.step)
        for name in alone.values:
            np.testing.assert_allclose(together[probe.name][name], alone[name], rtol=1e-12)


def test_measuring_does_not_change_the_training():
    measured, plain = linear_fit(*SEVERAL), linear_fit()
    assert not plain.history.probes
    for name in ("model", "best_model", "optimizer_state"):
        toys.same(getattr(measured, name), getattr(plain, name))
    for name in plain.history:
        np.testing.assert_allclose(measured.history[name], plain.history[name], rtol=1e-12)


@pytest.mark.parametrize("kind", [list, tuple, lambda probes: probes[0]])
def test_probes_come_alone_or_in_any_sequence(kind):
    result = rj.fit(toys.linear(), TASK, ADAM, probes=kind([toys.Seen(2)]), **PACE)
    toys.identical(
        result.history.probes["seen"].values, linear_fit(toys.Seen(2)).history.probes["seen"].values
    )


def test_each_member_of_an_ensemble_is_measured():
    rates = [0.1, 0.0]
    result = rj.fit(
        toys.linears(1, 2),
        TASK,
        optax.sgd,
        hyperparameters=rates,
        members=2,
        probes=toys.Seen(3),
        **PACE,
    )
    record = result.history.probes["seen"]
    np.testing.assert_array_equal(record.step, [0, 3, 6])
    assert record["xs"].shape == (2, 3, 3, TASK.steps, 2)
    assert np.all(record["xs"] == record["xs"][0, 0])
    for index, rate in enumerate(rates):
        told = toys.plain_loop(toys.linear(1 + index), TASK, optax.sgd(rate), stream=index, **PACE)
        expected = [flat(told.models[moment]) for moment in record.step]
        np.testing.assert_allclose(record["weights"][index], expected, rtol=1e-10)


def test_the_end_is_where_the_run_ends():
    easy = toys.Mixing(solved_below=1e9)
    result = rj.fit(toys.linear(), easy, optax.sgd(0.1), probes=toys.Seen(2), **PACE)
    np.testing.assert_array_equal(result.history.probes["seen"].step, [0, 2, 3])
    np.testing.assert_array_equal(result.history.probes["seen"]["weights"][-1], flat(result.model))


@dataclasses.dataclass(frozen=True)
class Odd:
    """Findings of several kinds."""

    every: int = 2
    batch_size: int = 1
    name: str = "odd"

    def measure(self, model: Any, xs: jax.Array) -> dict[str, Any]:
        single = jnp.float32(0.1)
        return {"number": 0.5, "whole": jnp.int32(3), "said": jnp.array(True), "single": single}


def test_findings_may_be_numbers_of_any_kind():
    record = linear_fit(Odd()).history.probes["odd"]
    np.testing.assert_array_equal(record["number"], [0.5] * 4)
    np.testing.assert_array_equal(record["whole"], [3] * 4)
    np.testing.assert_array_equal(record["said"], [1] * 4)
    np.testing.assert_array_equal(record["single"], [np.float32(0.1)] * 4)


# The probes of this package, against what its functions and NumPy say of the same model.


def by_hand_flow(cell, xs, wrt="input", threshold=0.01):
    """by_lag by NumPy, from tables of one sequence each."""
    tables = np.stack([rj.jacobian_log_norms(cell, x, wrt=wrt) for x in xs])
    curve = np.array(
        [np.mean(np.diagonal(tables, -lag, axis1=1, axis2=2)) for lag in range(xs.shape[1])]
    )
    reached = np.flatnonzero(curve >= curve[0] + np.log(threshold))
    return {"by_lag": curve, "horizon": reached[-1]}


def by_hand_exponents(cell, xs, k, warmup):
    spectra = [rj.lyapunov_exponents(cell, x, k=k, warmup=warmup).exponents for x in xs]
    return {"exponents": np.mean(spectra, axis=0)}


def by_hand_gates(cell, xs):
    gates = rj.gradient_flow(cell, xs, k=1).gates
    found = {}
    for name, gate in gates.items():
        gate = np.asarray(gate)
        found |= {f"{name}_mean": gate.mean(), f"{name}_shut": np.mean(gate < 0.1)}
        found[f"{name}_open"] = np.mean(gate > 0.9)
    return found


def lstm():
    rngs = nnx.Rngs(0)
    return rj.SequenceModel(rj.LSTMCell(2, 3, rngs=rngs), 1, rngs=rngs)


def simple():
    rngs = nnx.Rngs(0)
    return rj.SequenceModel(rj.SimpleRNNCell(2, 3, rngs=rngs), 1, rngs=rngs)


def stacked():
    rngs = nnx.Rngs(0)
    cells = [rj.GRUCell(2, 2, rngs=rngs), rj.SimpleRNNCell(2, 2, rngs=rngs)]
    return rj.SequenceModel(cells, 1, rngs=rngs)


def only_cell(model):
    return model.cells[0]


def whole_stack(model):
    return rj.StackedCell(list(model.cells))


def second_cell(model):
    return model.cells[1]


# (model, probe, the cell that is looked at, what it must find in it)
KNOWN = {
    "flow of states": (
        lstm,
        rj.GradientFlowProbe(2, wrt="state", threshold=0.5),
        only_cell,
        lambda cell, xs: by_hand_flow(cell, xs, "state", 0.5),
    ),
    "flow through a stack": (stacked, rj.GradientFlowProbe(2), whole_stack, by_hand_flow),
    "flow through one layer": (
        stacked,
        rj.GradientFlowProbe(2, cell=second_cell, name="one layer"),
        second_cell,
        by_hand_flow,
    ),
    "lyapunov": (
        lstm,
        rj.LyapunovProbe(2, k=2, warmup=1),
        only_cell,
        lambda cell, xs: by_hand_exponents(cell, xs, 2, 1),
    ),
    "gates of an lstm": (lstm, rj.GateProbe(2), only_cell, by_hand_gates),
    "gates of a layer": (stacked, rj.GateProbe(2, cell=only_cell), only_cell, by_hand_gates),
}


@functools.cache
def measured_and_told(make):
    """What one run finds with all the probes of a model, and the models of the loop by hand."""
    pace = {**PACE, "steps": 3}
    probes = [probe for of, probe, *_ in KNOWN.values() if of is make]
    (size,) = {probe.batch_size for probe in probes}
    seen = toys.Seen(2, batch_size=size)
    result = rj.fit(make(), ADDING, FAST, probes=[*probes, seen], **pace)
    return result.history.probes, toys.plain_loop(make(), ADDING, FAST, **pace).models


@pytest.mark.parametrize(("make", "probe", "cell_of", "by_hand"), KNOWN.values(), ids=KNOWN)
def test_the_record_is_what_measuring_the_model_directly_gives(make, probe, cell_of, by_hand):
    found, models = measured_and_told(make)
    record, xs = found[probe.name], found["seen"]["xs"][0]
    np.testing.assert_array_equal(record.step, [0, 2, 3])
    for index, moment in enumerate(record.step):
        expected = by_hand(cell_of(models[moment]), jnp.asarray(xs))
        assert set(record.values) == set(expected)
        for name, value in expected.items():
            np.testing.assert_allclose(record[name][index], value, rtol=1e-8, atol=1e-10)
    # Training has moved what is measured.
    assert any(np.any(values[0] != values[-1]) for values in record.values.values())


class Scaled(rj.SequenceModel):
    """Gives its layers something else than it is given."""

    def __call__(self, xs, **options):
        return super().__call__(0.1 * xs, **options)


class Squashed(rj.SequenceModel):
    """Something else between its layers."""

    def _normalised(self, level, h):
        return jnp.tanh(super()._normalised(level, h))


class Titled(rj.SequenceModel):
    """Another class with the same call."""

    title = "a model"


@pytest.mark.parametrize("probe", [rj.GradientFlowProbe, rj.LyapunovProbe, rj.GateProbe])
def test_what_a_model_with_a_call_of_its_own_gives_its_layers_is_not_guessed(probe):
    xs = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 2)))
    make = lambda cls: cls(rj.GRUCell(2, 2, rngs=nnx.Rngs(0)), 1, rngs=nnx.Rngs(0))  # noqa: E731
    for cls in (Scaled, Squashed):
        refuses(
            lambda: probe(1).measure(make(cls), xs),  # noqa: B023
            ValueError,
            "simply stacked on the inputs",
            cls.__name__,
            "Pass cell=",
        )
    told = probe(1, cell=only_cell).measure(make(Scaled), xs)
    chex.assert_trees_all_close(told, probe(1).measure(make(rj.SequenceModel), xs))
    chex.assert_trees_all_close(told, probe(1).measure(make(Titled), xs))


def test_each_network_of_an_ensemble_is_measured_by_a_probe_of_the_package():
    probes = [rj.GradientFlowProbe(2), toys.Seen(2, batch_size=4)]
    models = jax.tree.map(lambda a: jnp.stack([a, 0.5 * a]), simple())
    result = rj.fit(models, ADDING, FAST, probes=probes, **{**PACE, "steps": 2})
    found = result.history.probes
    xs = jnp.asarray(found["seen"]["xs"][0, 0])
    assert found["gradient_flow"]["by_lag"].shape == (2, 2, 5)
    assert found["gradient_flow"]["horizon"].shape == (2, 2)
    for index, when in itertools.product(range(2), range(2)):
        cell = only_cell(rj.member([models, result.model][when], index))
        for name, value in by_hand_flow(cell, xs).items():
            np.testing.assert_allclose(found["gradient_flow"][name][index, when], value, rtol=1e-8)


def test_a_pace_may_be_any_whole_number():
    assert rj.GateProbe(np.int64(2)).every == 2
    found = rj.fit(toys.linear(), TASK, ADAM, probes=toys.Seen(np.int64(2)), **PACE).history.probes
    np.testing.assert_array_equal(found["seen"].step, [0, 2, 4, 6])


def test_a_record_is_read_by_name():
    record = linear_fit(toys.Seen(2)).history.probes["seen"]
    np.testing.assert_array_equal(record["weights"], record.values["weights"])
    assert isinstance(record, rj.ProbeRecord)
    assert isinstance(toys.Seen(2), rj.Probe)
