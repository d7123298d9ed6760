"""Cells held against their equations, written once more for NumPy and for jax.numpy.

An oracle is `step(weights, h, x, xp)` for one row, with `xp` either of these and the weights by
attribute name: NumPy gives the values, automatic differentiation of the other the gradients. What
holds of every cell, whatever its equations, is in test_laws_of_cells.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import rnn_jax as rj
from rnn_jax.cells.structure import fused_form, sees_output_alone
from rnn_jax.testing.subject import own_jacobians, stacked, step
from zoo import weights_of

IN, H, T = 2, 3, 6
CLOSE = {"rtol": 1e-11, "atol": 1e-12}
XS = np.random.default_rng(0).normal(size=(T, IN))


def sigmoid(v, xp):
    return 1 / (1 + xp.exp(-v))


def noisy(cell, seed=0, scale=0.4):
    """The cell with noise on all of its weights, so that no term of an equation drops out."""
    rng = np.random.default_rng(seed)

    def moved(leaf):
        noise = np.asarray(scale * rng.normal(size=leaf.shape), leaf.dtype)
        return jnp.asarray(np.asarray(leaf) + noise)

    return jax.tree.map(moved, cell)


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


def assert_follows(cell, oracle, carry=None, seen=None):
    """Values, end, and gradients by weights, inputs and carry are those of the oracle.

    `seen(end, xp)` is what of the last carry has a meaning of its own, if that is not all.
    """
    carry = random_carry(cell) if carry is None else carry
    seen = (lambda end, xp: end) if seen is None else seen
    weights = weights_of(cell)
    assert weights, "an oracle without weights proves little"
    start = jax.tree.map(np.asarray, carry)

    def ours(cell, carry, xs):
        end, ys = rj.unroll(cell, xs, carry)
        return value_of(ys, seen(end, jnp), jnp), (end, ys)

    def theirs(weights, carry, xs):
        end, ys = lax.scan(lambda carry, x: oracle(weights, carry, x, jnp), carry, xs)
        return value_of(ys, seen(end, jnp), jnp)

    gradient = jax.jit(jax.grad(ours, (0, 1, 2), has_aux=True))
    (of_cell, *rest), found = gradient(cell, carry, jnp.asarray(XS))
    chex.assert_trees_all_close(found, by_hand(oracle, weights, start, XS), rtol=1e-12, atol=1e-12)
    # Equations may mix real and complex numbers, and ranks.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
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
        end, ys = by_hand(oracle, there, start, XS)
        return value_of(ys, seen(end, np), np)

    slope = (moved(1e-5) - moved(-1e-5)) / 2e-5
    found = sum(np.sum(along[name] * g) for name, g in weights_of(of_cell).items())
    np.testing.assert_allclose(found, slope, rtol=1e-6, atol=1e-7)


def example(cell, seed=1):
    """A carry and the sequence."""
    return random_carry(cell, seed), jnp.asarray(XS)


def called(cell, xs, carry):
    """A scan of the cell's own call, without a fused form."""
    return lax.scan(lambda carry, x: cell(carry, x), carry, xs)


def jacobian_of_call(cell, carry, x):
    """∂carry'/∂carry of one call, (S, S), by automatic differentiation."""
    one = jax.tree.map(lambda a: jnp.asarray(a)[None], (carry, x))
    return np.asarray(own_jacobians(cell, *one))[0]


def jacobians_by_calls(cell, xs, carry):
    """Those of each step of a sequence, (T, S, S)."""
    carries = []
    for x in xs:
        carries.append(carry)
        carry, _ = step(cell, carry, x)
    return np.asarray(own_jacobians(cell, stacked(carries), xs))


def assert_kernels_compute_the_same(cell, xs):
    """The GPU's kernels, interpreted here, in the single precision that they have."""

    def of(implementation):
        def loss(cell):
            return jnp.sum(jnp.sin(rj.unroll(cell, xs, implementation=implementation)[1]))

        return jax.jit(jax.value_and_grad(loss))(cell)

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
    np.testing.assert_allclose(ys, exact, atol=0.1 * float(np.max(np.abs(exact))))
    form = fused_form(wide)
    if form is not None and sees_output_alone(form.mathematics):
        assert_kernels_compute_the_same(noisy(wide), xs)
