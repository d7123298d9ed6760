"""Cells that multiply in a narrow type and keep their carry in a wide one, in fused form.

Held against the plain scan of the same cell's step. Products of float32 with carries of float64
show the structure, for a bias that is rounded or a product added up in float32 is off by 1e-8;
bfloat16 with float32 is what is meant for use, and runs through the kernels too.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import rnn_jax as rj
import zoo
from rnn_jax.cells.structure import fused_form, fused_form_for
from rnn_jax.sequence.running.boundaries import Boundaries
from rnn_jax.sequence.running.platforms import kernel_precision, why_no_kernel
from rnn_jax.sequence.running.scanned import Inputs, Settings, run_by_scan
from sequence.fused import assert_close, is_fused, random_like

IN, H, T, B = 2, 3, 5, 3
LENGTHS = np.asarray([T, 0, 3])
RESETS = np.asarray([[1, 0, 1, 0, 0], [1, 0, 0, 1, 0], [0, 1, 0, 0, 1]], bool)
BOUNDARIES = {"lengths": LENGTHS, "resets": RESETS}
DOUBLE, HALF = ("float32", "float64"), ("bfloat16", "float32")
# Sums in another order may be rounded to the next number of the narrow type.
ROUNDING = {DOUBLE: 16 * 2.0**-24, HALF: 16 * 2.0**-8}


class PlainLSTM(rj.LSTMCell):
    def fused_form(self):
        return None


class PlainGRU(rj.GRUCell):
    def fused_form(self):
        return None


class PlainSimple(rj.SimpleRNNCell):
    def fused_form(self):
        return None


# In fused form, and the same step scanned as it is.
PAIRS = {
    "lstm": (rj.LSTMCell, PlainLSTM),
    "gru": (rj.GRUCell, PlainGRU),
    "simple": (rj.SimpleRNNCell, PlainSimple),
}


def point_at(make, types):
    """(cell, inputs, carry), of the wide type."""
    narrow, wide = types
    cell = make(IN, H, dtype=narrow, carry_dtype=wide, param_dtype=wide, rngs=nnx.Rngs(0))
    cell = zoo.randomised(cell, 1)
    xs = jnp.asarray(np.random.default_rng(0).normal(size=(B, T, IN)), wide)
    carry = jax.tree.map(lambda a: a.astype(wide), zoo.random_carry(cell, 0, B))
    return cell, xs, carry


def narrow_directions(point, narrow):
    """Tangents that the narrow type holds, so that nothing of them is rounded."""
    return jax.tree.map(lambda a: a.astype(narrow).astype(a.dtype), random_like(point))


def loss_of(run, *point):
    return sum(jnp.mean(jnp.sin(2.0 * leaf)) for leaf in jax.tree.leaves(run(*point)))


def both(name, types, function, **options):
    """function(run, point), compiled, of the cell in fused form and of its plain scan."""
    results = []
    for make, fused in zip(PAIRS[name], (True, False), strict=True):
        point = point_at(make, types)
        run = functools.partial(rj.unroll, **options)
        assert is_fused(run, *point) == fused
        results.append(jax.tree.leaves(jax.jit(functools.partial(function, run))(point)))
    return results


@pytest.mark.parametrize(
    ("name", "options"), [("lstm", {**BOUNDARIES, "reverse": True}), ("gru", {}), ("simple", {})]
)
def test_values_and_tangents_are_rounded_where_the_step_rounds(name, options):
    def along(run, point):
        return jax.jvp(run, point, narrow_directions(point, "float32"))

    # Of float64, though all that is multiplied has been rounded to float32.
    assert_close(*both(name, DOUBLE, along, **options, return_carries=True), rtol=1e-13)


def test_one_projection_ahead_is_the_same():
    cell, xs, carry = point_at(rj.GRUCell, DOUBLE)
    form = fused_form_for(cell, xs, carry)
    settings = Settings(form.mathematics, False, True, product_type=form.product_type)
    xs = jnp.moveaxis(xs, 1, 0).astype(form.input_type)
    inputs = Inputs(form.kernels, xs, Boundaries(None, None), carry, carry)
    found, expected = (
        jax.jit(functools.partial(run_by_scan, settings, save=True, inside=inside))(inputs)
        for inside in (False, True)
    )
    assert_close(found, expected, rtol=1e-13)


def derivatives(run, point):
    """Gradients, their tangents, and gradients of stacked cells."""
    gradient = jax.grad(functools.partial(loss_of, run), (0, 1, 2))
    along = random_like(point)
    cells = jax.tree.map(lambda a, d: jnp.stack([a, a + 0.1 * d]), point[0], along[0])
    return {
        "gradient and tangent": jax.jvp(gradient, point, along),
        "members": jax.vmap(gradient, (0, None, None))(cells, *point[1:]),
    }


@pytest.mark.parametrize(("name", "types"), [("lstm", HALF), ("gru", DOUBLE)])
def test_derivatives_are_those_of_the_step(name, types):
    found, expected = both(name, types, derivatives, **BOUNDARIES)
    assert [leaf.dtype for leaf in found] == [leaf.dtype for leaf in expected]
    assert_close(found, expected, ROUNDING[types])


@pytest.mark.parametrize(("name", "options"), [("lstm", BOUNDARIES), ("gru", {})])
def test_kernels_and_scans_give_the_same(name, options):
    def results(run, point):
        gradient = jax.grad(functools.partial(loss_of, run), (0, 1))
        cells = jax.tree.map(lambda a: jnp.stack([a, 0.5 * a]), point[0])
        return jax.jvp(gradient, point, random_like(point)), jax.vmap(run, (0, None))(
            cells, point[1]
        )

    point = point_at(PAIRS[name][0], HALF)[:2]
    found, expected = (
        jax.jit(
            functools.partial(
                results, functools.partial(rj.unroll, implementation=implementation, **options)
            )
        )(point)
        for implementation in ("interpret", "scan")
    )
    assert_close(found, expected, ROUNDING[HALF])


def test_the_gradient_of_weights_is_not_rounded():
    cell, xs, _ = point_at(rj.LSTMCell, HALF)
    gradient = jax.grad(lambda cell: loss_of(rj.unroll, cell, xs))(cell).recurrent_kernel[...]
    assert gradient.dtype == jnp.float32
    assert jnp.any(gradient != gradient.astype(jnp.bfloat16).astype(jnp.float32))


def test_inputs_of_every_real_type_are_cast_as_the_step_casts_them():
    cell, plain = (point_at(make, HALF)[0] for make in PAIRS["lstm"])
    for dtype in ("int32", "bfloat16", "float64"):
        xs = (3 * point_at(rj.LSTMCell, HALF)[1]).astype(dtype)
        assert is_fused(rj.unroll, cell, xs)
        results = [rj.unroll(one, xs, lengths=[2, T, T]) for one in (cell, plain)]
        assert_close(*results, ROUNDING[HALF])


# (products, carry, parameters)
@pytest.mark.parametrize(
    "types",
    [
        ("float16", "float32", "float32"),  # A range of its own.
        ("bfloat16", "float32", "float64"),  # Weights that the carry's type does not hold.
        ("float32", "bfloat16", "float32"),
    ],
    ids=str,
)
def test_other_pairs_of_types_are_scanned_as_they_are(types):
    kinds = dict(zip(("dtype", "carry_dtype", "param_dtype"), types, strict=True))
    cell = rj.LSTMCell(IN, H, **kinds, rngs=nnx.Rngs(0))
    assert not is_fused(rj.unroll, cell, jnp.ones((T, IN), types[2]))


def test_instruments_take_the_derivative_of_the_step():
    found, expected = (
        rj.linearize(point_at(make, HALF)[0], point_at(make, HALF)[1][0]).state_jacobians
        for make in PAIRS["lstm"]
    )
    np.testing.assert_array_equal(found, expected)


def test_kernels_multiply_bfloat16_for_carries_of_float32_alone():
    half, single, double = map(jnp.dtype, ("bfloat16", "float32", "float64"))
    assert kernel_precision("highest", half) == kernel_precision("bfloat16", half) == "bf16"
    why = functools.partial(why_no_kernel, fused_form(point_at(rj.LSTMCell, HALF)[0]).mathematics)
    assert why({half, single}, None, half) is None
    assert "bfloat16, float32" in why({half, single}, None, None)
    assert "float64" in why({single, double}, None, single)
    assert "'F16_F16_F32'" in why({half, single}, "F16_F16_F32", half)
