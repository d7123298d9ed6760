"""Scans or kernels: what may be chosen, what is refused, and that both give the same.

The kernels run in Pallas' interpret mode here, with one block for each tile of rows; tests/gpu has
the same on a card, and tests/ahead_of_time what they compile to.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import rnn_jax as rj
import zoo
from rnn_jax.cells.structure import FusedForm, Group, fused_form
from rnn_jax.sequence.kernels import permission
from rnn_jax.sequence.kernels.card import Card
from rnn_jax.sequence.kernels.permission import Permission
from sequence.fused import assert_close, random_like

IN, H, T, B = 2, 3, 5, 3
NAMES = ["lstm", "lstm_coupled", "gru_reset_after", "simple_relu"]
# Sums of some hundred products in float32.
RTOL = 2e-5
LENGTHS = np.asarray([T, 0, 3])
H100 = Permission(Card(132, 227 * 1024, (9, 0)), "")
RESETS = np.asarray([[1, 0, 1, 0, 0], [1, 0, 0, 1, 0], [0, 1, 0, 0, 1]], bool)


@functools.cache
def build(name, dtype=jnp.float32):
    """A cell of the zoo; not to be changed."""
    return jax.tree.map(lambda a: a.astype(dtype), zoo.CELLS[name](IN, H, 0))


def point_at(name):
    """(cell, inputs, carry) in float32."""
    cell = build(name)
    xs = np.random.default_rng(0).normal(size=(B, T, IN)).astype(np.float32)
    carry = jax.tree.map(lambda a: a.astype(jnp.float32), zoo.random_carry(cell, 0, B))
    return cell, jnp.asarray(xs), carry


def loss_of(run, *point):
    return value_of(run, *point)[0]


def value_of(run, *point):
    """(a number that hangs on all results, the results)."""
    results = run(*point)
    return sum(jnp.mean(jnp.sin(2.0 * leaf)) for leaf in jax.tree.leaves(results)), results


def first_and_second(run, point):
    """By mode: results and gradient, and the tangents of both."""
    both = jax.value_and_grad(functools.partial(value_of, run), (0, 1, 2), has_aux=True)
    of_point, along = jax.jvp(both, point, random_like(point))
    return {"values and gradient": of_point, "tangent and forward over reverse": along}


def with_members_and_rows(run, point):
    """By mode: those of `first_and_second`, and gradients under `jax.vmap`."""
    loss = functools.partial(loss_of, run)
    along = random_like(point)
    gradient = jax.grad(loss, (0, 1, 2))
    cells = jax.tree.map(lambda a, d: jnp.stack([a, a + 0.1 * d]), point[0], along[0])
    rows = jnp.stack([point[1], 0.5 * point[1]])
    return {
        **first_and_second(run, point),
        "members": jax.vmap(gradient, (0, None, None))(cells, *point[1:]),
        "rows": jax.vmap(gradient, (None, 0, None))(point[0], rows, point[2]),
        "shared by rows": jax.grad(
            lambda cell: jnp.sum(jax.vmap(lambda xs: loss(cell, xs, point[2]))(rows))
        )(point[0]),
    }


def every_mode(run, point):
    """By mode: all of first order, those of second order that others are made of, `jax.vmap`."""
    gradient = jax.grad(functools.partial(loss_of, run), (0, 1, 2))
    return {
        **with_members_and_rows(run, point),
        "reverse over reverse": jax.grad(lambda xs: loss_of(gradient, point[0], xs, point[2]))(
            point[1]
        ),
    }


# Everything for one cell. A GRU has several kernels, not all of which see the inputs: what members
# and rows share of them is of its own.
MODES = {"lstm": every_mode, "gru_reset_after": with_members_and_rows}
OPTIONS = {
    "lstm": {},
    "lstm_coupled": {"lengths": LENGTHS, "resets": RESETS, "return_carries": True},
    "gru_reset_after": {"lengths": LENGTHS, "resets": RESETS, "reverse": True},
    "simple_relu": {"checkpoint": 2, "truncate": 3, "resets": RESETS, "return_carries": True},
}


@pytest.mark.parametrize("name", NAMES)
def test_kernels_and_scans_give_the_same_in_every_mode(name):
    point, found = point_at(name), {}
    modes = MODES.get(name, first_and_second)
    initial = jax.tree.map(lambda a: 0.5 * a, point[2])
    with jax.default_matmul_precision("highest"):
        for implementation in ("scan", "interpret"):
            run = functools.partial(
                rj.unroll, implementation=implementation, initial=initial, **OPTIONS[name]
            )
            found[implementation] = jax.jit(functools.partial(modes, run))(point)
    for mode, expected in found["scan"].items():
        assert_close(found["interpret"][mode], expected, RTOL)


def lstm(dtype=jnp.float32, **options):
    return rj.LSTMCell(IN, H, param_dtype=dtype, rngs=nnx.Rngs(0), **options)


def flax_cell():
    return rj.as_cell(nnx.SimpleCell(IN, H, param_dtype=jnp.float32, rngs=nnx.Rngs(0)))


class Driven(rj.SimpleRNNCell):
    """h' = φ(x W_x + b), in fused form: nothing sees the state."""

    def step(self, carry, z):
        h = self.activation(z)
        return h, h

    def fused_form(self):
        rows = (self.kernel[...], self.bias[...][None])
        return FusedForm(DrivenMathematics(self.activation), (jnp.concatenate(rows),))


class DrivenMathematics(type(fused_form(build("simple_tanh")).mathematics)):
    groups = (Group(1, sees_state=False, sees_input=True),)


def driven():
    return Driven(IN, H, param_dtype=jnp.float32, rngs=nnx.Rngs(0))


def of_family(kind):
    return lambda: kind(IN, H, param_dtype=jnp.float32, rngs=nnx.Rngs(0))


LOW = {"implementation": "interpret", "key": jax.random.key(0)}
# What asks for a kernel, and what its refusal says.
REFUSED = {
    "unknown name": (lstm, {"implementation": "cuda"}, "must be one of 'auto'"),
    "no name": (lstm, {"implementation": None}, "must be one of 'auto'"),
    "no fused form": (lambda: lstm(peephole=True), LOW, "this cell has no fused form"),
    "another's cell": (flax_cell, LOW, "this cell has no fused form"),
    "no state": (driven, LOW, "nothing here sees the state"),
    "two parts": (of_family(rj.CoRNNCell), LOW, "here weights meet something else"),
    "two stages": (of_family(rj.LEMCell), LOW, "here weights meet something else"),
    "float64": (lambda: lstm(jnp.float64), LOW, "they compute in float32, .* float64"),
    "noise": (lambda: rj.Zoneout(lstm(), 0.1), LOW, "noise in every step"),
    "on a CPU": (lstm, {"implementation": "kernel"}, "compiled for cpu"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_kernels_cannot_run_is_refused_with_the_reason(case):
    make, options, said = REFUSED[case]
    cell = make()
    dtype = jax.tree.leaves(cell.initialize_carry((IN,)))[0].dtype
    with pytest.raises(ValueError, match=said) as refusal:
        rj.unroll(cell, jnp.ones((T, IN), dtype), **options)
    assert re.search("Pass implementation=|must be one of", str(refusal.value))


@pytest.mark.parametrize("implementation", ["kernel", "interpret"])
def test_operations_one_by_one_are_no_kernel(implementation):
    with jax.disable_jit(), pytest.raises(ValueError, match="needs a program that is compiled"):
        rj.unroll(lstm(), jnp.ones((T, IN), jnp.float32), implementation=implementation)


def test_a_precision_without_products_in_kernels_is_refused():
    with (
        jax.default_matmul_precision("F16_F16_F32"),
        pytest.raises(ValueError, match=r"no products of the precision 'F16_F16_F32'"),
    ):
        rj.unroll(lstm(), jnp.ones((T, IN), jnp.float32), implementation="interpret")


@pytest.mark.parametrize(
    ("make", "runs"),
    [
        (lstm, True),
        (driven, False),
        (of_family(rj.CoRNNCell), False),
        (of_family(rj.LEMCell), False),
    ],
)
def test_forms_that_kernels_cannot_run_are_scanned_on_a_card(make, runs, monkeypatch):
    monkeypatch.setattr(permission, "permission_of_lowering", lambda: H100)
    cell = make()

    def gradient(cell, xs):
        return jax.grad(lambda cell: jnp.sum(rj.unroll(cell, xs)[1]))(cell)

    traced = jax.jit(gradient).trace(cell, jnp.ones((B, T, IN), jnp.float32))
    assert ("triton" in traced.lower(lowering_platforms=("cuda",)).as_text()) == runs


EMPTY = {
    "no rows": lambda run, cell: run(cell, jnp.zeros((0, T, IN), jnp.float32)),
    "gradient of no rows": lambda run, cell: jax.grad(
        lambda cell: jnp.sum(run(cell, jnp.zeros((0, T, IN), jnp.float32))[1])
    )(cell),
    "no members": lambda run, cell: jax.vmap(run, (0, None))(
        jax.tree.map(lambda a: a[None][:0], cell), jnp.zeros((T, IN), jnp.float32)
    ),
}


@pytest.mark.parametrize("name", EMPTY)
def test_without_rows_a_card_scans_as_all_others_do(name, monkeypatch):
    monkeypatch.setattr(permission, "permission_of_lowering", lambda: H100)
    cell = lstm()

    def traced(implementation):
        run = functools.partial(rj.unroll, implementation=implementation)
        return jax.jit(functools.partial(EMPTY[name], run)).trace(cell)

    assert "triton" not in traced("auto").lower(lowering_platforms=("cuda",)).as_text()
    with pytest.raises(ValueError, match="there are no rows"):
        traced("kernel").lower(lowering_platforms=("cuda",))
    interpreted = traced("interpret")
    found = jax.tree.leaves(interpreted.lower().compile()(cell))
    assert [leaf.shape for leaf in found] == [
        s.shape for s in jax.tree.leaves(interpreted.out_info)
    ]
    assert not any(jnp.any(leaf) for leaf in found)


def inputs_of_loops(text):
    """Shapes of the slices that loops take of what is (T, B, ...)."""
    return {
        tuple(map(int, found.split("x")))
        for found in re.findall(rf"dynamic_slice.*-> tensor<1x{B}x([\dx]+)xf32>", text)
    }


@pytest.mark.parametrize(
    ("platform", "inside"), [("cpu", True), ("tpu", False), ("cuda", False), ("rocm", False)]
)
def test_the_platform_that_is_lowered_for_decides_where_inputs_are_projected(platform, inside):
    run = functools.partial(rj.unroll, implementation="scan")
    traced = jax.jit(run).trace(*point_at("lstm"))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    taken = inputs_of_loops(text)
    assert ((IN,) in taken) == inside
    assert ((4 * H,) in taken) != inside


def test_one_export_serves_all_platforms():
    cell, xs, carry = point_at("lstm")
    leaves, structure = jax.tree.flatten(cell)

    def gradient(leaves, xs):
        def loss(leaves):
            return loss_of(rj.unroll, jax.tree.unflatten(structure, leaves), xs, carry)

        return jax.grad(loss)(leaves)

    platforms = ("cpu", "cuda", "tpu")
    exported = jax.export.export(jax.jit(gradient), platforms=platforms)(leaves, xs)
    assert exported.platforms == platforms
    assert_close(exported.call(leaves, xs), jax.jit(gradient)(leaves, xs), RTOL)
