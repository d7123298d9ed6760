"""check_cell: it lets good cells of any make pass, and catches each broken one by its law."""

import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from broken_cells import BROKEN, IN, H, broken
from flax import nnx

import rnn_jax as rj
import zoo
from refusing import refuses, table
from rnn_jax.testing.checking_cells import _laws
from rnn_jax.testing.subject import Subject

NAMES = [law.name for law in _laws()]
DERIVATIVES = ("gradient", "forward and reverse", "second derivative")


def test_each_law_is_broken_by_some_cell():
    """Causality cannot be by a cell alone: what a step is not given it cannot see."""
    # Float64 is the type of the tests themselves.
    assert {law for _, law in BROKEN.values()} == set(NAMES) - {"causality", "float64"}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_cell_is_caught_by_its_law(name):
    law = BROKEN[name][1]
    cell, xs, carry = broken(name)
    with pytest.raises(rj.testing.LawError) as caught:
        rj.testing.check_cell(cell, xs, carry, only=["contract", law])
    assert caught.value.law == law
    assert caught.value.report[law].status == "broken"
    assert "What arrived" in str(caught.value)


def test_a_sequence_that_is_run_with_a_look_ahead_is_not_causal(monkeypatch):
    cell = rj.SimpleRNNCell(IN, H, rngs=nnx.Rngs(0))
    honest = Subject.unrolled

    def normalised(self, *args, **options):
        last, ys, carries = honest(self, *args, **options)
        return last, ys - jnp.mean(ys, axis=-2, keepdims=True), carries

    monkeypatch.setattr(Subject, "unrolled", normalised)
    with pytest.raises(rj.testing.LawError, match="outputs 0 to 2, with later inputs changed"):
        rj.testing.check_cell(cell, only="causality")


def test_the_first_law_that_is_named_is_the_cause():
    """Of all laws, what a dropped bias breaks: that of its claim comes first."""
    cell, _, _ = broken("fused form: no bias")
    skipped = {"float32", "bfloat16", "ensemble", "causality", *DERIVATIVES}
    with pytest.raises(rj.testing.LawError) as caught:
        rj.testing.check_cell(cell, skip=skipped)
    error = caught.value
    assert error.law == "fused form"
    assert "unroll equals steps" in error.report.names("broken")
    assert set(error.report.names("left out")) == skipped
    message = str(error)
    for words in (
        'DropsItsBias breaks the law "fused form"',
        "What arrived: (carry, y) of the fused form",
        " against ",
        "is allowed",
        "Usual cause: a bias that is left out",
        'Also broken, often by the same cause: "unroll equals steps"',
        'skip=("fused form",)',
    ):
        assert words in message
    twin = pickle.loads(pickle.dumps(error))
    assert (twin.law, str(twin), twin.report) == (error.law, message, error.report)


@pytest.mark.parametrize("name", ["nnx_gru", "dict_readout", "equinox_gru_partial"])
def test_cells_of_others_keep_the_laws(name):
    cell, carry = zoo.build(name, IN, 3)
    xs = None if name == "nnx_gru" else jnp.asarray(np.random.default_rng(1).normal(size=(9, IN)))
    # Flax's holds JAX's sigmoid, which pickle cannot find again.
    skip = ["pickle"] if name == "nnx_gru" else []
    report = rj.testing.check_cell(cell, xs, carry, skip=skip)
    assert not report.names("broken")
    assert len(report.names("holds")) >= 15
    for law in report.names("not applicable"):
        assert report[law].note
    assert report["gates"].note == "the cell does not claim gates"


def test_the_report_is_a_table_of_all_laws():
    cell = rj.SimpleRNNCell(IN, H, rngs=nnx.Rngs(0))
    report = rj.testing.check_cell(cell, only=["contract", "pure", "unroll equals steps", "gates"])
    assert [result.law for result in report.laws] == NAMES
    assert report["unroll equals steps"].difference < 1e-15
    text = str(report)
    others = len(NAMES) - 4
    assert text.startswith(f"SimpleRNNCell: 3 laws hold, 1 not applicable, {others} left out")
    rows = text.splitlines()[2:]
    assert [re.split("  +", row)[0] for row in rows] == NAMES
    assert re.search(r"unroll equals steps  holds +largest difference: ", text)
    assert re.search(r"gates +not applicable  the cell does not claim gates", text)
    with pytest.raises(KeyError, match="there is no law 'gate'; the laws are 'contract', "):
        report["gate"]


def spike_step(carry, x):
    """A step whose derivative is a surrogate, in reverse alone."""
    v = 0.5 * carry + x
    return v - spike(v), spike(v)


@jax.custom_vjp
def spike(v):
    return (v > 0).astype(v.dtype)


spike.defvjp(lambda v: (spike(v), v), lambda v, g: (g / (1 + v**2),))


def test_a_surrogate_gradient_is_left_out_by_name():
    xs = jnp.asarray(np.random.default_rng(1).normal(size=(6, 3)))
    only = ["gradient", "forward and reverse", "second derivative", "causality", "Jacobian"]
    with pytest.raises(rj.testing.LawError, match='breaks the law "gradient"'):
        rj.testing.check_cell(spike_step, xs, jnp.zeros(3), only=only)
    report = rj.testing.check_cell(spike_step, xs, jnp.zeros(3), only=only, skip="gradient")
    assert report.names("holds") == ("causality", "Jacobian")
    assert "custom_vjp" in report["forward and reverse"].note


def count(carry, token):
    """Tokens in, and a carry of whole numbers: nothing to differentiate but the weightless step."""
    carry = carry + token
    return carry, carry.astype(jnp.float64)


def test_what_cannot_apply_says_why():
    report = rj.testing.check_cell(count, jnp.arange(6) % 3, jnp.asarray(0), skip="pickle")
    assert not report.names("broken")
    notes = {law: report[law].note for law in report.names("not applicable")}
    assert notes["Jacobian"] == "the instrument takes carries of floats of one type"
    assert notes["extreme inputs"] == "the inputs hold no floats"
    assert notes["ensemble"] == "the cell has no arrays"
    assert "dtype" in notes["float32"]


def cell_of(**attributes):
    return type("Own", (), {"__call__": lambda self, c, x: (c, c), **attributes})()


@table(
    features=(
        lambda: rj.testing.check_cell(cell_of(initialize_carry=lambda self, s: jnp.zeros(s))),
        TypeError,
        "check_cell needs inputs for a cell that does not say by in_features",
        "got Own and xs=None",
        "Pass one sequence",
    ),
    carry=(
        lambda: rj.testing.check_cell(cell_of(in_features=2)),
        TypeError,
        "check_cell must be given the carry",
        "got Own and carry=None",
        "as_cell(cell, initial_carry=…)",
    ),
    short=(
        lambda: rj.testing.check_cell(rj.GRUCell(2, 3, rngs=nnx.Rngs(0)), jnp.ones((3, 2))),
        ValueError,
        "check_cell needs a sequence of at least 4 steps",
        "got 3",
        "Pass xs",
    ),
    skip=(
        lambda: rj.testing.check_cell(rj.GRUCell(2, 3, rngs=nnx.Rngs(0)), skip="gate"),
        ValueError,
        "skip must hold names of laws",
        "got 'gate'",
        "The laws are 'contract', 'pure'",
    ),
    only=(
        lambda: rj.testing.check_cell(rj.GRUCell(2, 3, rngs=nnx.Rngs(0)), only=["speed"]),
        ValueError,
        "only must hold names of laws",
        "got 'speed'",
    ),
    no_cell=(lambda: rj.testing.check_cell(3), TypeError, "a cell must be callable"),
)
def test_what_it_refuses(call, error, words):
    refuses(call, error, *words)
