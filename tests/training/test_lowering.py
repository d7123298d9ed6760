"""Programs follow the platform that they are for, and can be had without running them."""

import types

import jax
import numpy as np
import optax
import pytest

from rnn_jax.training.compiled.lowering import lowered_call
from rnn_jax.training.compiled.program import Program
from rnn_jax.training.devices.layout import Layout, make_layout
from rnn_jax.training.plan import make_plan
from training import toys


def device_of(platform):
    """As much of a device that is not there as decides what is written for it."""
    return types.SimpleNamespace(platform=platform)


def loops(layout):
    """Whether what all members do is a loop over them."""
    program = jax.make_jaxpr(layout.over_members(lambda _, x: 2 * x))(np.ones(2))
    return any(equation.primitive.name == "scan" for equation in program.eqns)


def test_members_go_one_after_another_where_the_program_is_for_one_cpu():
    assert loops(Layout(2))  # The only device that there is.
    assert loops(Layout(2, device=device_of("cpu")))
    assert not loops(Layout(2, device=device_of("gpu")))
    assert not loops(Layout(2, device=device_of("tpu")))
    assert not loops(Layout(2, mesh=jax.make_mesh((1,), ("batch",))))


def test_the_device_is_that_of_the_model_else_the_default_one():
    model, device = toys.linear(), jax.devices()[0]
    assert make_layout(None, None, 4, 4, model).device is None
    assert make_layout(None, None, 4, 4, jax.device_put(model, device)).device == device
    for default in (device, "cpu", None):
        with jax.default_device(default):
            assert Layout(2).platform == "cpu"


# On a mesh, and where members go one after another.
CASES = {
    "a model": lambda: (toys.linear(), None, toys.Mixing(), optax.adam(0.05), None),
    "members with rates, own data": lambda: (
        toys.linears(0, 1),
        2,
        toys.tasks.Arrays(*toys.batch(0, 9)[:2], validation=toys.batch(1, 5)[:2]),
        optax.adam,
        np.array([0.01, 0.1]),
    ),
}


@pytest.mark.parametrize(
    ("name", "mesh"), [("a model", True), ("members with rates, own data", False)]
)
def test_what_is_lowered_from_forms_is_the_program_that_fit_runs(name, mesh):
    model, members, task, optimizer, rates = CASES[name]()
    plan = make_plan(
        task,
        optimizer,
        batch_size=3,
        evaluation_size=6,
        evaluate_every=2,
        stop_when_solved=True,
        on_nonfinite="stop",
        probes=(),
        hyperparameters=rates,
    )
    layout = Layout(members, jax.make_mesh((1,), ("batch",), (jax.sharding.AxisType.Auto,)))
    layout = layout if mesh else Layout(members)
    forms = jax.eval_shape(lambda: (model, rates))
    compiled = lowered_call(plan, layout, forms[0], 2, forms[1]).compile()

    program = Program(plan, layout, 5, rates)
    state = program.start(model)
    call = program.advance(state, 4, 2)
    arguments = jax.tree.map(jax.numpy.asarray, program._arguments(state))
    found = compiled(*jax.device_put(arguments, layout.sharding(everywhere=True)), np.int32(4))
    toys.identical(found, (call.state, call.report))
