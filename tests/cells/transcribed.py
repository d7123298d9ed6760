"""Cells held against their equations, written once more for NumPy and for jax.numpy.

An oracle is `step(weights, h, x, xp)` for one row, with `xp` either of these and the weights by
attribute name: NumPy gives the values, automatic differentiation of the other the gradients.
"""

import copy
import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from forms import assert_form_is_the_step
from jax.flatten_util import ravel_pytree

import rnn_jax as rj
from rnn_jax.cells.claims import claim, makes_claim
from rnn_jax.cells.structure import fused_form, sees_output_alone

IN, H, T, B = 2, 3, 6, 2
CLOSE = {"rtol": 1e-11, "atol": 1e-12}
XS = np.random.default_rng(0).normal(size=(T, IN))


def sigmoid(v, xp):
    return 1 / (1 + xp.exp(-v))


def noisy(cell, seed=0, scale=0.4):
    """The cell with noise on all of its weights, so that no term of an equation drops out."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: a + jnp.asarray(scale * rng.normal(size=a.shape), a.dtype), cell)


def weights_of(cell):
    found = {name: value for name, value in vars(cell).items() if isinstance(value, nnx.Param)}
    return {name: np.asarray(value[...], np.float64) for name, value in found.items()}


def random_carry(cell, seed=5, low=-1.0):
    rng = np.random.default_rng(seed)
    zeros = cell.initialize_carry((IN,))
    return jax.tree.map(lambda a: jnp.asarray(rng.uniform(low, 1, a.shape), a.dtype), zeros)


def by_hand(oracle, weights, carry, xs):
    ys = []
    for x in xs:
        carry, y = oracle(weights, carry, x, np)
        ys.append(y)
    return carry, np.stack(ys)


def value_of(ys, end, xp):
    """A number that every output and every part of the last carry moves."""
    ends = sum(xp.sum(xp.cos(part) * (k + 2)) for k, part in enumerate(jax.tree.leaves(end)))
    return xp.sum(xp.sin(ys) * xp.asarray(np.linspace(0.5, 1.5, ys.size).reshape(ys.shape))) + ends


def assert_follows(cell, oracle, carry=None):
    """Values, end, and gradients by weights, inputs and carry are those of the oracle."""
    carry = random_carry(cell) if carry is None else carry
    weights = weights_of(cell)
    assert weights, "an oracle without weights proves little"
    end, ys = rj.unroll(cell, jnp.asarray(XS), carry)
    known_end, known = by_hand(oracle, weights, jax.tree.map(np.asarray, carry), XS)
    np.testing.assert_allclose(ys, known, rtol=1e-12, atol=1e-12)
    chex.assert_trees_all_close(end, known_end, rtol=1e-12, atol=1e-12)

    def ours(cell, carry, xs):
        end, ys = rj.unroll(cell, xs, carry)
        return value_of(ys, end, jnp)

    def theirs(weights, carry, xs):
        end, ys = jax.lax.scan(lambda carry, x: oracle(weights, carry, x, jnp), carry, xs)
        return value_of(ys, end, jnp)

    of_cell, *rest = jax.jit(jax.grad(ours, (0, 1, 2)))(cell, carry, jnp.asarray(XS))
    exact = jax.jit(jax.grad(theirs, (0, 1, 2)))(
        jax.tree.map(jnp.asarray, weights), carry, jnp.asarray(XS)
    )
    chex.assert_trees_all_close((weights_of(of_cell), *rest), exact, **CLOSE)
    for name, gradient in weights_of(of_cell).items():
        assert np.any(gradient), f"{name} has no part in the step"
    # The transcription is differentiated too, so once by differences of NumPy's values.
    along = jax.tree.map(lambda a: np.cos(np.arange(a.size)).reshape(a.shape), weights)

    def moved(by):
        there = {name: w + by * along[name] for name, w in weights.items()}
        end, ys = by_hand(oracle, there, jax.tree.map(np.asarray, carry), XS)
        return value_of(ys, end, np)

    slope = (moved(1e-5) - moved(-1e-5)) / 2e-5
    found = sum(np.sum(along[name] * g) for name, g in weights_of(of_cell).items())
    np.testing.assert_allclose(found, slope, rtol=1e-6, atol=1e-7)


def jacobian_of_call(cell, carry, x):
    """∂carry'/∂carry of one call, (S, S), by automatic differentiation."""
    flat, unravel = ravel_pytree(carry)
    return np.asarray(jax.jacfwd(lambda flat: ravel_pytree(cell(unravel(flat), x)[0])[0])(flat))


def assert_tells_the_truth(cell, expected):
    """Its claims are these, and hold; its one-step Jacobians are those of its call."""
    carry, x = random_carry(cell), jnp.asarray(XS[0])
    names = ("fused_form", "gates", "memory_path", "diagonal_part", "jacobian_bound", "slopes")
    said = {name for name in names if makes_claim(cell, name)}
    said -= {"fused_form"} if fused_form(cell) is None else set()
    assert said == expected
    found = np.asarray(rj.linearize(cell, jnp.asarray(XS), carry).state_jacobians)
    for t, xs in enumerate(XS):
        a = jacobian_of_call(cell, carry, jnp.asarray(xs))
        np.testing.assert_allclose(found[t], a, **CLOSE)
        carry, _ = cell(carry, jnp.asarray(xs))
    carry = random_carry(cell)
    a = jacobian_of_call(cell, carry, x)
    if "diagonal_part" in said:
        assert claim(cell, "diagonal_part") == "h"
        np.testing.assert_array_equal(a, np.diag(np.diag(a)))
    if "jacobian_bound" in said:
        slope, kernel = claim(cell, "jacobian_bound")()
        assert np.linalg.norm(a, 2) <= slope * np.linalg.norm(kernel, 2) * (1 + 1e-12)
    if "memory_path" in said:
        assert_memory_is_that_without_recurrence(cell, carry, x)
    if "fused_form" in said:
        assert_form_is_the_step(cell, carry, x, **CLOSE)


def assert_memory_is_that_without_recurrence(cell, carry, x):
    def cleared(path, leaf):
        return 0 * leaf if "recurrent_kernel" in jax.tree_util.keystr(path) else leaf

    bare = jax.tree_util.tree_map_with_path(cleared, cell)
    a, start = jacobian_of_call(bare, carry, x), 0
    path = bare.memory_path(carry, x)
    assert path
    for name, leaf in zip(cell.carry_parts, jax.tree.leaves(carry), strict=True):
        rows = slice(start, start + leaf.size)
        start += leaf.size
        if name in path:
            np.testing.assert_allclose(a[rows, rows], np.diag(path[name]), **CLOSE)


def assert_is_a_good_cell(cell, extreme=1e4):
    """Batches, pieces, resets, copies, second derivatives and extreme inputs."""
    rng = np.random.default_rng(2)
    xs = jnp.asarray(rng.normal(size=(B, T, IN)))
    end, ys = jax.jit(rj.unroll)(cell, xs)
    for b in range(B):
        one_end, one = rj.unroll(cell, xs[b])
        np.testing.assert_allclose(ys[b], one, **CLOSE)
        chex.assert_trees_all_close(jax.tree.map(lambda a, b=b: a[b], end), one_end, **CLOSE)
    carry, first = rj.unroll(cell, xs[:, :2])
    last, second = rj.unroll(cell, xs[:, 2:], carry)
    np.testing.assert_allclose(ys, jnp.concatenate([first, second], 1), **CLOSE)
    chex.assert_trees_all_close(end, last, **CLOSE)
    marks = jnp.zeros((B, T), bool).at[:, 3].set(True)
    _, cut = rj.unroll(cell, xs, resets=marks, lengths=jnp.asarray([T, 4]))
    np.testing.assert_allclose(cut[0, 3:], rj.unroll(cell, xs[0, 3:])[1], **CLOSE)
    assert not np.any(cut[1, 4:])
    for twin in (pickle.loads(pickle.dumps(cell)), copy.deepcopy(cell), nnx.clone(cell)):
        assert jax.tree.structure(twin) == jax.tree.structure(cell)
        np.testing.assert_array_equal(rj.unroll(twin, xs)[1], rj.unroll(cell, xs)[1])
    layer = nnx.RNN(cell)
    np.testing.assert_allclose(layer(xs), ys, **CLOSE)
    twice = jax.grad(lambda x: jnp.sum(jax.grad(lambda x: jnp.sum(rj.unroll(cell, x)[1]))(x) ** 2))
    assert np.all(np.isfinite(twice(xs[0])))
    for sign in (1, -1):
        far = sign * extreme * jnp.sign(xs[0])
        value, gradient = jax.value_and_grad(lambda c, x=far: jnp.mean(rj.unroll(c, x)[1]))(cell)
        chex.assert_tree_all_finite((value, gradient))


def assert_kernels_compute_the_same(cell, xs):
    """The GPU's kernels, interpreted here, in the single precision that they have."""

    def of(implementation):
        def loss(cell):
            return jnp.sum(jnp.sin(rj.unroll(cell, xs, implementation=implementation)[1]))

        return jax.value_and_grad(loss)(cell)

    chex.assert_trees_all_close(of("interpret"), of("scan"), rtol=2e-3, atol=2e-3)


def assert_keeps_its_types(make):
    """make(**types) -> cell: products in bfloat16, carries in float32; all in float32."""
    cell = make(dtype=jnp.bfloat16, carry_dtype=jnp.float32, param_dtype=jnp.float32)
    wide = make(param_dtype=jnp.float32)
    xs = jnp.asarray(XS, jnp.float32)
    end, ys = rj.unroll(cell, xs)
    assert {a.dtype for a in jax.tree.leaves((end, ys))} == {jnp.dtype(jnp.float32)}
    text = str(jax.make_jaxpr(cell)(cell.initialize_carry((IN,)), xs[0]))
    assert text.count("preferred_element_type=float32") == text.count("dot_general[") > 0
    assert "bf16" in text
    exact = rj.unroll(wide, xs)[1]
    assert exact.dtype == jnp.float32
    np.testing.assert_allclose(ys, exact, atol=0.1 * float(jnp.max(jnp.abs(exact))))
    form = fused_form(wide)
    if form is not None and sees_output_alone(form.mathematics):
        assert_kernels_compute_the_same(noisy(wide), xs)
    narrow = make(dtype=jnp.bfloat16, param_dtype=jnp.float32)
    assert rj.unroll(narrow, jnp.asarray(XS, jnp.bfloat16))[1].dtype == jnp.bfloat16
