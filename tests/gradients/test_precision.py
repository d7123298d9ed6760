"""The instrument multiplies in full precision whatever JAX is told to do by default.

On a GPU float32 products are TF32, whose states are off by 1e-3. Here the traced programs are read:
every product in them must say that it wants all of its digits.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.tree_util import Partial
from test_one_record import FEATURES, MEASURES, XS, H, loss

import rnn_jax as rj
import zoo

FULL = (lax.Precision.HIGHEST, lax.Precision.HIGHEST)


def readout(w, h, x):
    h = jnp.tanh(w["w"] @ h + x @ w["u"])
    return h, {"y": h @ w["v"]}


WEIGHTS = {"w": jnp.eye(H), "u": jnp.ones((FEATURES, H)), "v": jnp.ones((H, 2))}
CELLS = {
    "fused": (zoo.CELLS["lstm"](FEATURES, H, 1), None),
    "plain": (zoo.CELLS["gru_reset_before"](FEATURES, H, 1), None),
    "flax": (zoo.FOREIGN["nnx_optimized_lstm"](FEATURES, H, 0)[0], None),
    "function": (Partial(readout, WEIGHTS), jnp.zeros(H)),
}


def products_of(jaxpr):
    """The equations of all products in a program and the programs inside it."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for inner in jax.tree.leaves(
            list(equation.params.values()),
            is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr"),
        ):
            if hasattr(inner, "jaxpr"):
                inner = inner.jaxpr
            if hasattr(inner, "eqns"):
                yield from products_of(inner)


def check(call, *args, some=True):
    found = list(products_of(jax.make_jaxpr(call)(*args).jaxpr))
    assert found or not some
    rough = [equation for equation in found if equation.params["precision"] != FULL]
    assert not rough, rough[0].source_info.traceback


# Every measure with the output in the carry and with an output that is not, under one of the two
# defaults in turn; and of the other cells those that run the step each in another way.
@pytest.mark.parametrize(
    ("measure", "name", "default"),
    [
        (measure, name, ("bfloat16", None)[(i + j) % 2])
        for i, measure in enumerate(MEASURES)
        for j, name in enumerate(CELLS)
        if name in ("fused", "function")
        or measure in ("linearize", "operator", "weight_gradient_by_step", "backprop_signal")
    ],
)
def test_every_product_is_in_full_precision(measure, name, default):
    cell, carry = CELLS[name]
    with jax.default_matmul_precision(default):
        check(lambda cell, xs: MEASURES[measure](cell, xs, carry), cell, jnp.asarray(XS))


@pytest.mark.parametrize(
    ("penalty", "name"),
    [
        (lambda *given: rj.flossing_penalty(*given, k=2), "fused"),
        (lambda *given: rj.vanishing_penalty(loss, *given), "fused"),
        (lambda *given: rj.vanishing_penalty(loss, *given), "function"),
        (lambda *given: jnp.sum(rj.jacobian_log_norms(*given, targets=[-1])), "function"),
    ],
    ids=["flossing", "vanishing", "vanishing, readout", "log_norms"],
)
def test_so_is_every_product_of_a_derivative(penalty, name):
    cell, carry = CELLS[name]

    def gradient(cell, xs):
        return jax.grad(lambda cell: penalty(cell, xs, carry))(cell)

    with jax.default_matmul_precision("bfloat16"):
        check(gradient, cell, jnp.asarray(XS))


@pytest.mark.parametrize(
    ("call", "some"),
    [(rj.orthogonality_penalty, True), (lambda c: rj.jacobian_log_bound(c, 4), False)],
)
def test_what_reads_the_weights_alone(call, some):
    with jax.default_matmul_precision("bfloat16"):
        check(call, zoo.CELLS["simple_tanh"](FEATURES, H, 0), some=some)


@pytest.mark.parametrize("probe", [rj.GradientFlowProbe, rj.LyapunovProbe, rj.GateProbe])
def test_so_is_every_product_of_a_probe(probe):
    model = rj.SequenceModel(CELLS["fused"][0], 1, rngs=nnx.Rngs(0))
    with jax.default_matmul_precision("bfloat16"):
        check(probe(every=1).measure, model, jnp.asarray(XS)[None])


def test_a_cell_that_names_a_precision_keeps_it():
    def step(w, h, x):
        h = jnp.tanh(jnp.matmul(w, h, precision="default") + x[0])
        return h, h

    traced = jax.make_jaxpr(lambda w: rj.linearize(Partial(step, w), XS, jnp.zeros(H)).carries)
    found = {equation.params["precision"] for equation in products_of(traced(jnp.eye(H)).jaxpr)}
    assert found == {(lax.Precision.DEFAULT, lax.Precision.DEFAULT)}


def test_training_keeps_the_default():
    with jax.default_matmul_precision("bfloat16"):
        jaxpr = jax.make_jaxpr(rj.unroll)(CELLS["fused"][0], jnp.asarray(XS)).jaxpr
    assert {equation.params["precision"] for equation in products_of(jaxpr)} != {FULL}


def test_the_default_is_what_it_was_afterwards():
    before = jax.config.jax_default_matmul_precision
    rj.gradient_flow(CELLS["fused"][0], XS, measures=())
    assert jax.config.jax_default_matmul_precision == before
    assert np.isfinite(XS).all()
