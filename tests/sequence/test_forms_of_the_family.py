"""Fused forms of the long-memory family against plain scans of the same steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import rnn_jax as rj
from rnn_jax.cells.structure import fused_form, sees_output_alone
from rnn_jax.sequence.running import recurrence
from rnn_jax.sequence.running.boundaries import Boundaries
from rnn_jax.sequence.running.linear_system import saved_by_steps, tangent_by_system
from rnn_jax.sequence.running.scanned import (
    Inputs,
    Recorded,
    Settings,
    Tangents,
    tangent_by_scan,
)
from sequence.fused import assert_close, is_fused, random_like

IN, H, T, B = 2, 4, 6, 2
FORMS = {
    "leaky_learnt": lambda **o: rj.LeakyIntegratorCell(
        IN, H, time_constant=3.0, learn_time_constant=True, **o
    ),
    "scornn": lambda **o: rj.ScoRNNCell(IN, H, **o),
    "antisymmetric": lambda **o: rj.AntisymmetricRNNCell(IN, H, epsilon=0.3, **o),
    "antisymmetric_gated": lambda **o: rj.AntisymmetricRNNCell(IN, H, epsilon=0.3, gated=True, **o),
    "fast_grnn": lambda **o: rj.FastGRNNCell(IN, H, **o),
    "mgu_reset_after": lambda **o: rj.MGUCell(IN, H, reset_after=True, **o),
    "mgu": lambda **o: rj.MGUCell(IN, H, **o),
    "minimal_rnn": lambda **o: rj.MinimalRNNCell(IN, H, recurrent_gain=1.0, **o),
    "ugrnn": lambda **o: rj.UGRNNCell(IN, H, **o),
    "cfc": lambda **o: rj.CfCCell(IN, H, backbone_layers=0, **o),
    "slstm": lambda **o: rj.SLSTMCell(IN, H, num_heads=2, **o),
    "gru_reset_before": lambda **o: rj.GRUCell(IN, H, reset_after=False, **o),
    "cornn": lambda **o: rj.CoRNNCell(IN, H, time_step=0.3, gamma=1.7, epsilon=0.9, **o),
    "lem": lambda **o: rj.LEMCell(IN, H, time_step=0.8, **o),
    "unitary": lambda **o: rj.UnitaryRNNCell(IN, H, **o),
}
# Whose weights meet other parts of the carry than the output, or what a step computes on its way.
BEYOND_OUTPUT = ["cornn", "lem", "gru_reset_before", "mgu", "minimal_rnn", "unitary"]
# One of each kind of form, of which two sets of weights are run side by side.
MEMBERS = ["leaky_learnt", "slstm", "cornn", "lem"]
# Padding and starts within a row.
MASK = np.arange(B * T).reshape(B, T) % 5 > 0
RESETS = np.arange(B * T).reshape(B, T) % 4 == 2
OPTIONS = {"mask": MASK, "resets": RESETS, "reverse": True, "return_carries": True}


def without_claims(cell):
    """The cell as a function that says nothing of itself."""
    leaves, structure = jax.tree.flatten(cell)

    def call(*leaves_carry_x):
        *leaves, carry, x = leaves_carry_x
        return jax.tree.unflatten(structure, leaves)(carry, x)

    return jax.tree_util.Partial(call, *leaves)


def point_at(name, seed=1, **types):
    """(cell, inputs, carry) of random weights."""
    cell = FORMS[name](rngs=nnx.Rngs(seed), **types)
    cell = jax.tree.map(
        lambda a, d: jnp.asarray(np.asarray(a) + 0.4 * np.asarray(d), a.dtype),
        cell,
        random_like(cell, seed),
    )
    rng = np.random.default_rng(seed)
    xs = jnp.asarray(rng.normal(size=(B, T, IN)))
    carry = jax.tree.map(
        lambda a: jnp.asarray(rng.uniform(0.1, 1, a.shape), a.dtype),
        cell.initialize_carry((B, IN)),
    )
    return cell, xs, carry


def run(cell, xs, carry):
    initial = jax.tree.map(lambda a: 0.5 * a, carry)
    return rj.unroll(cell, xs, carry, initial=initial, **OPTIONS)


def value_of(cell, xs, carry):
    """(a number that hangs on all results, the results)."""
    results = run(cell, xs, carry)
    leaves = jax.tree.leaves(results)
    return sum(jnp.mean(jnp.sin((k + 1.0) * leaf)) for k, leaf in enumerate(leaves)), results


@pytest.mark.parametrize("name", FORMS)
def test_values_and_derivatives_are_those_of_the_steps(name):
    """Results, gradient, tangents, Hessian-vector product."""
    point = point_at(name)
    cell, *rest = point
    if name in MEMBERS:
        cell = jax.tree.map(lambda *leaves: np.stack(leaves), cell, point_at(name, 2)[0])

    def everything(wrap):
        def of_member(cell):
            point = (cell, *rest)
            slope = jax.value_and_grad(
                lambda cell, *rest: value_of(wrap(cell), *rest), (0, 1, 2), has_aux=True
            )
            return jax.jvp(slope, point, random_like(point))

        return jax.jit(jax.vmap(of_member) if name in MEMBERS else of_member)(cell)

    assert is_fused(rj.unroll, *point)
    assert sees_output_alone(fused_form(point[0]).mathematics) == (name not in BEYOND_OUTPUT)
    assert_close(everything(lambda cell: cell), everything(without_claims))


@pytest.mark.parametrize("name", [name for name in BEYOND_OUTPUT if name != "unitary"])
def test_products_in_a_narrow_type_are_those_of_the_steps(name):
    """Of float32, carries being of float64: a bias that is rounded too is off by 1e-8."""
    point = point_at(name, dtype=jnp.float32, carry_dtype=jnp.float64)
    assert is_fused(rj.unroll, *point)

    def both(wrap):
        return jax.jit(jax.value_and_grad(lambda cell, *rest: value_of(wrap(cell), *rest)[0]))(
            *point
        )

    (value, gradient), (known, known_gradient) = both(lambda cell: cell), both(without_claims)
    np.testing.assert_allclose(value, known, rtol=1e-9)
    assert_close(gradient, known_gradient, 1e-6)


def test_states_of_the_unitary_cell_turn_in_the_type_of_the_carry_so_there_it_has_no_form():
    assert not is_fused(rj.unroll, *point_at("unitary", dtype=jnp.float32, carry_dtype=float))
    assert not is_fused(rj.unroll, *point_at("unitary", dtype=jnp.bfloat16, carry_dtype="float32"))


def test_a_large_unitary_matrix_is_not_made_for_a_sequence():
    for size, has_form in ((257, False), (256, True)):
        forms = []

        def ask(size=size, forms=forms):
            forms.append(fused_form(rj.UnitaryRNNCell(1, size, rngs=nnx.Rngs(0))))

        jax.eval_shape(ask)
        assert (forms[0] is not None) == has_form


@pytest.mark.parametrize("name", ["cornn", "lem"])
def test_a_tangent_as_a_linear_system_is_the_scanned_one(name):
    cell, xs, carry = point_at(name)
    form = fused_form(cell)
    boundaries = Boundaries(jnp.asarray(MASK.T), jnp.asarray(RESETS.T))
    inputs = Inputs(form.kernels, jnp.moveaxis(xs, 1, 0), boundaries, carry, carry)
    settings = Settings(form.mathematics, reverse=True, return_carries=True)

    @jax.jit
    def tangents_of(inputs):
        done = recurrence.run_recurrence(settings, inputs, save=True)
        record = Recorded(inputs.kernels, inputs.xs, boundaries, done.starts, done.saved)
        moves = random_like((form.kernels, inputs.xs, carry, carry))
        by_scan = tangent_by_scan(settings, record, Tangents(*moves), starts=True)
        by_system = tangent_by_system(
            settings,
            record,
            Tangents(*moves),
            starts=True,
            solve=lambda *operands: recurrence.run_tangent(*operands).carries,
            transpose_solve=recurrence._transpose_solve,
        )
        saved = saved_by_steps(settings, inputs, done.starts)
        return (by_scan, done.saved), (by_system, saved)

    expected, found = tangents_of(inputs)
    assert_close(found, expected)
