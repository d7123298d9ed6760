"""What the tests of state spaces and of the xLSTM share: equations, run by NumPy and by JAX.

An equation is `step(xp, weights, carry, x) -> (carry, y)`, with `xp` NumPy or jax.numpy and the
weights by attribute name.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree

import rnn_jax as rj

IN, H, T = 2, 4, 6
CLOSE = {"rtol": 1e-12, "atol": 1e-12}


def sigmoid(xp, u):
    return 0.5 * (1 + xp.tanh(0.5 * u))


def weights_of(cell):
    return {k: v[...] for k, v in vars(cell).items() if isinstance(v, nnx.Param)}


def build(make, seed=0, **options):
    """The cell, with noise on weights that start at a constant."""
    cell = make(IN, H, rngs=nnx.Rngs(seed), **options)
    rng = np.random.default_rng(seed)
    for weight in ("bias", "gate_bias", "recurrent_kernel", "memory_encoder", "rate", "kernel"):
        param = getattr(cell, weight, None)
        if isinstance(param, nnx.Param):
            param[...] = param[...] + 0.3 * jnp.asarray(rng.normal(size=param.shape))
    if make is rj.SLSTMCell:  # Or most units would forget at once.
        cell.bias[...] = 0.2 * cell.bias[...]
    return cell


def carry_of(cell, seed=3):
    """A carry that a run could have: normalisers are positive."""
    rng = np.random.default_rng(seed)
    zeros = cell.initialize_carry((IN,))
    leaves, structure = jax.tree.flatten(zeros)
    parts = [jnp.asarray(rng.normal(size=leaf.shape)) for leaf in leaves]
    if isinstance(cell, rj.SLSTMCell):
        parts[1] = 1 + jnp.abs(parts[1])
    return jax.tree.unflatten(structure, parts)


def xs_of(seed=0, steps=T):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(steps, IN)))


def run_equations(xp, equations, weights, carry, xs):
    ys = []
    # The equations may mix real and complex numbers.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for x in xs:
            carry, y = equations(xp, weights, carry, x)
            ys.append(y)
        return carry, xp.stack(ys)


def assert_follows(cell, equations, seen=lambda carry: carry):
    """Values and gradients of `unroll` are those of the equations; `seen` is what of the carry."""
    carry, xs = carry_of(cell), xs_of()
    numbers = jax.tree.map(np.asarray, (weights_of(cell), carry, xs))
    chex.assert_trees_all_close(
        rj.unroll(cell, xs, carry), run_equations(np, equations, *numbers), **CLOSE
    )

    def loss(run, weights, carry, xs):
        last, ys = run(weights, carry, xs)
        ends = jax.tree.leaves(seen(last))
        return jnp.sum(jnp.sin(ys)) + sum(jnp.sum(jnp.cos(part)) for part in ends)

    ours = functools.partial(loss, lambda cell, carry, xs: rj.unroll(cell, xs, carry))
    theirs = functools.partial(loss, functools.partial(run_equations, jnp, equations))
    found = jax.jit(jax.grad(ours, (0, 1, 2)))(cell, carry, xs)
    expected = jax.jit(jax.grad(theirs, (0, 1, 2)))(weights_of(cell), carry, xs)
    found = (weights_of(found[0]), *found[1:])
    chex.assert_trees_all_close(found, expected, rtol=1e-10, atol=1e-11)


def jacobian(cell, carry, x):
    """∂carry'/∂carry of one call, (S, S)."""
    flat, unravel = ravel_pytree(carry)
    return jax.jacfwd(lambda state: ravel_pytree(cell(unravel(state), x)[0])[0])(flat)


def assert_first_steps_and_extremes_are_finite(cell):
    for scale in (1.0, 1e4, -1e4):
        xs = scale * xs_of()[:3]

        def loss(cell, xs):
            _, ys = rj.unroll(cell, xs)
            return jnp.sum(ys), ys

        gradient, ys = jax.grad(loss, (0, 1), has_aux=True)(cell, xs)
        chex.assert_tree_all_finite((gradient, ys))


def assert_keeps_its_types(make, **options):
    """All in float32, and products in bfloat16 with carries in float32."""
    xs = xs_of().astype(jnp.float32)
    options = {"param_dtype": jnp.float32, "rngs": nnx.Rngs(0), **options}
    _, ys = rj.unroll(make(IN, H, **options), xs)
    options = {"dtype": jnp.bfloat16, "carry_dtype": jnp.float32, **options, "rngs": nnx.Rngs(0)}
    carry, rounded = rj.unroll(make(IN, H, **options), xs)
    kinds = {leaf.dtype for leaf in jax.tree.leaves((carry, rounded, ys))}
    assert kinds == {jnp.dtype("float32")}
    np.testing.assert_allclose(rounded, ys, rtol=0.1, atol=0.05 * float(jnp.abs(ys).max()))


def assert_refuses_bad_calls(cell):
    carry = cell.initialize_carry((IN,))
    for error, message, call in (
        (ValueError, "in_features=2; got shape", lambda: cell(carry, jnp.ones(IN + 1))),
        (TypeError, "real numbers", lambda: cell(carry, jnp.ones(IN, complex))),
        (
            ValueError,
            "carry",
            lambda: cell(jax.tree.map(lambda a: a[1:], carry), jnp.ones(IN)),
        ),
        (TypeError, "input_shape must be a tuple", lambda: cell.initialize_carry(IN)),
    ):
        with pytest.raises(error, match=message):
            call()
