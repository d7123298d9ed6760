"""Cells without biases: those with biases of 0, but with nothing in their place."""

import inspect
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import rnn_jax as rj
from refusing import refuses, table
from rnn_jax.cells.claims import claim
from rnn_jax.cells.structure import fused_form

IN, H, T = 2, 4, 5
XS = jnp.asarray(np.random.default_rng(0).normal(size=(T, IN)))
CLOSE = {"rtol": 1e-12, "atol": 1e-13}
BIASES = ("bias", "candidate_recurrent_bias", "gate_bias", "head_bias", "backbone_biases")

# Options with which a cell has other biases, or uses them elsewhere.
VARIANTS = {
    rj.LSTMCell: [{"peephole": True}, {"coupled": True}, {"projection": 2}],
    rj.GRUCell: [{"reset_after": False}],
    rj.MGUCell: [{"reset_after": True}],
    rj.AntisymmetricRNNCell: [{"gated": True}],
    rj.CfCCell: [{"backbone_layers": 0}, {"backbone_layers": 2, "backbone_features": 3}],
}
CLASSES = [
    found
    for name in rj.cells.__all__
    if isinstance(found := getattr(rj.cells, name), type)
    and issubclass(found, rj.RNNCell)
    and found is not rj.RNNCell
    and "use_bias" in inspect.signature(found.__init__).parameters
]
CASES = [(of, options) for of in CLASSES for options in [{}, *VARIANTS.get(of, [])]]
by_case = pytest.mark.parametrize(
    ("make", "options"), CASES, ids=[f"{of.__name__}{options or ''}" for of, options in CASES]
)


def pair(make, options, **more):
    """A cell without biases, and the same with biases that are 0."""
    bare, full = (
        make(IN, H, use_bias=use_bias, rngs=nnx.Rngs(0), **options, **more)
        for use_bias in (False, True)
    )
    for name in BIASES:
        param = getattr(full, name, None)
        if param is not None:
            param[...] = 0 * param[...]
    return bare, full


def by_path(tree):
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def of_a_step(cell, carry):
    """A number that depends on all that a step does, the step, and what is said of it."""
    after, y = cell(carry, XS[0])
    claims = [claim(cell, name) for name in ("gates", "memory_path")]
    said = [made(carry, XS[0]) for made in claims if made is not None]
    value = sum(jnp.sum(jnp.sin(part)) for part in jax.tree.leaves((after, y)))
    return value, (after, y, said)


@jax.jit
def both(bare, full, carry):
    """Values and gradients of a step of either, by one program."""
    run = jax.value_and_grad(of_a_step, (0, 1), has_aux=True)
    return run(bare, carry), run(full, carry)


@by_case
def test_no_bias_is_a_bias_of_zero_without_its_weights(make, options):
    bare, full = pair(make, options)
    assert all(getattr(bare, name, None) is None for name in BIASES)
    weights, others = by_path(bare), by_path(full)
    dropped = set(others) - set(weights)
    assert dropped
    assert all(any(f".{name}" in path for name in BIASES) for path in dropped)
    chex.assert_trees_all_equal(weights, {path: others[path] for path in weights})

    rng = np.random.default_rng(1)
    start = bare.initialize_carry((IN,))
    carry = jax.tree.map(lambda a: np.asarray(a) + rng.uniform(0.1, 0.5, a.shape), start)
    found, expected = both(bare, full, carry)
    values, (by_weights, by_carry) = found
    values_0, (by_weights_0, by_carry_0) = expected
    chex.assert_trees_all_close(values, values_0, **CLOSE)
    chex.assert_trees_all_close(by_carry, by_carry_0, **CLOSE)
    by_others = by_path(by_weights_0)
    for path, gradient in by_path(by_weights).items():
        np.testing.assert_allclose(gradient, by_others[path], err_msg=path, **CLOSE)

    form, form_0 = fused_form(bare), fused_form(full)
    assert (form is None) == (form_0 is None)
    if form is not None:
        assert form.mathematics == form_0.mathematics
        chex.assert_trees_all_equal(form.kernels, form_0.kernels)


def test_every_cell_whose_equations_have_a_bias_can_be_without():
    """The others have none, or name it by a number of their own."""
    without = {"LMUCell", "LRUCell", "S5Cell", "EchoStateCell"}
    cells = {n for n in rj.cells.__all__ if n.endswith("Cell") and n not in ("Cell", "RNNCell")}
    assert {of.__name__ for of in CLASSES} == cells - without


def test_all_that_is_built_of_a_cell_goes_without(tmp_path):
    bare, full = pair(rj.GRUCell, {})
    key = jax.random.key(0)
    for wrap in (
        lambda cell: rj.RecurrentDropout(cell, 0.5, 0.5),
        lambda cell: rj.Zoneout(cell, 0.5),
        rj.LearnedCarry,
    ):
        found, expected = (rj.unroll(wrap(cell), XS, key=key) for cell in (bare, full))
        chex.assert_trees_all_close(found, expected, **CLOSE)
    path = tmp_path / "cell.safetensors"
    rj.save(path, bare)
    chex.assert_trees_all_equal(rj.load(path, pair(rj.GRUCell, {})[0]), bare)
    with pytest.raises(ValueError, match="bias"):
        rj.load(path, full)


@pytest.mark.parametrize("make", [rj.LSTMCell, rj.GRUCell])
def test_products_of_half_types(make):
    types = {"dtype": jnp.bfloat16, "carry_dtype": jnp.float32, "param_dtype": jnp.float32}
    bare, full = pair(make, {}, **types)
    chex.assert_trees_all_equal(rj.unroll(bare, XS), rj.unroll(full, XS))


def test_a_model_of_them_is_trained_and_has_no_state_for_what_is_not_there(tmp_path):
    bare = rj.GRUCell(2, H, use_bias=False, rngs=nnx.Rngs(0))
    model = rj.SequenceModel([bare], 1, rngs=nnx.Rngs(1))
    moments = jax.tree.leaves(optax.adam(1e-2).init(nnx.state(model, nnx.Param)))
    assert len(moments) == 1 + 2 * len(jax.tree.leaves(nnx.state(model, nnx.Param)))
    options = {"batch_size": 2, "seed": 0, "directory": tmp_path}
    result = rj.fit(model, rj.tasks.Adding(4), optax.adam(1e-2), steps=2, **options)
    assert result.model.cells[0].bias is None
    again = rj.fit(model, rj.tasks.Adding(4), optax.adam(1e-2), steps=2, **options)
    chex.assert_trees_all_equal(again.model, result.model)


def rngs():
    return nnx.Rngs(0)


@table(
    no_flag=(
        lambda: rj.GRUCell(IN, H, use_bias=0, rngs=rngs()),
        TypeError,
        "use_bias must be True or False",
        "got 0",
        "Pass a bool",
    ),
    forget_bias=(
        lambda: rj.LSTMCell(IN, H, use_bias=False, forget_bias=2.0, rngs=rngs()),
        ValueError,
        "there must be one",
        "forget_bias=2 with use_bias=False",
        "Leave forget_bias out",
    ),
    forget_bias_of_layer_norm=(
        lambda: rj.LayerNormLSTMCell(IN, H, use_bias=False, forget_bias=-1.0, rngs=rngs()),
        ValueError,
        "there must be one",
        "forget_bias=-1",
        "pass use_bias=True",
    ),
    update_bias=(
        lambda: rj.UGRNNCell(IN, H, use_bias=False, update_bias=3.0, rngs=rngs()),
        ValueError,
        "there must be one",
        "update_bias=3",
        "Leave update_bias out",
    ),
    depth=(
        lambda: rj.SLSTMCell(IN, H, use_bias=False, depth=0.5, rngs=rngs()),
        ValueError,
        "there must be some",
        "depth=0.5",
        "Leave depth out",
    ),
    initialiser=(
        lambda: rj.SimpleRNNCell(IN, H, use_bias=False, bias_init="ones", rngs=rngs()),
        ValueError,
        "there must be one",
        "got 'ones' with use_bias=False",
        "Leave bias_init out",
    ),
    initialiser_beside_a_default=(
        lambda: rj.LEMCell(IN, H, use_bias=False, bias_init="zeros", rngs=rngs()),
        ValueError,
        "there must be one",
        "got 'zeros'",
        "Leave bias_init out",
    ),
    unknown_initialiser=(
        lambda: rj.CfCCell(IN, H, use_bias=False, bias_init="one", rngs=rngs()),
        ValueError,
        "bias_init must be one of",
        "got 'one'",
    ),
)
def test_what_is_refused(call, error, words):
    refuses(call, error, *words)


def test_defaults_may_stand_beside_it():
    for make, options in itertools.chain(
        [(rj.LSTMCell, {"forget_bias": 1.0}), (rj.LSTMCell, {"forget_bias": 0})],
        [(rj.FastGRNNCell, {"bias_init": "ones"}), (rj.GRUCell, {"bias_init": "zeros"})],
    ):
        assert make(IN, H, use_bias=False, rngs=rngs(), **options).bias is None
