"""Cells held against their equations, which a test writes once for NumPy and for JAX.

`equations(xp, weights, parts, x) -> (parts, y)` gets numpy or jax.numpy, weights by name, the parts
of the carry and one input, all without batch axes.
"""

import forms
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.flatten_util import ravel_pytree

import rnn_jax as rj

IN, H, T = 2, 4, 6
CLOSE = {"rtol": 1e-12, "atol": 1e-12}


def noisy(cell, names, seed=0, scale=0.5):
    """The cell with noise added to parameters, so that no term of an equation drops out."""
    rng = np.random.default_rng(seed)
    for name in names:
        param = getattr(cell, name)
        param[...] = param[...] + scale * jnp.asarray(rng.normal(size=param.shape))
    return cell


def weights_of(cell, names):
    return {name: np.asarray(getattr(cell, name)[...]) for name in names}


def parameter_names(cell):
    """The attributes of a cell that are parameters: the tests name them all."""
    return {name for name, value in vars(cell).items() if isinstance(value, nnx.Param)}


def parts_of(carry):
    return tuple(carry) if isinstance(carry, tuple) else (carry,)


def example(cell, seed=1, scale=0.7):
    """A carry and a sequence."""
    rng = np.random.default_rng(seed)
    zeros = cell.initialize_carry((cell.in_features,))
    carry = jax.tree.map(lambda a: jnp.asarray(scale * rng.normal(size=a.shape)), zeros)
    return carry, jnp.asarray(rng.normal(size=(T, cell.in_features)))


def run(xp, equations, weights, parts, xs):
    ys = []
    for x in xs:
        parts, y = equations(xp, weights, parts, x)
        ys.append(y)
    return parts, xp.stack(ys)


def called(cell, xs, carry):
    """A scan of the cell's own call, without a fused form."""
    return lax.scan(lambda carry, x: cell(carry, x), carry, xs)


def loss_of(parts, ys):
    values = [jnp.sum(jnp.cos(part + k)) for k, part in enumerate(parts)]
    return sum(values, start=jnp.sum(jnp.sin(ys * ys + ys)))


def assert_follows(cell, equations, names, carry=None):
    """Values and gradients of `unroll` and of calls are those of the equations."""
    assert parameter_names(cell) == set(names)
    start, xs = example(cell)
    start = start if carry is None else carry
    weights = weights_of(cell, names)
    parts, ys = run(np, equations, weights, tuple(map(np.asarray, parts_of(start))), np.asarray(xs))
    known = jax.tree.map(jnp.asarray, weights)

    def truth(weights, parts, xs):
        return loss_of(*run(jnp, equations, weights, parts, xs))

    by_weights, by_parts, by_xs = jax.jit(jax.grad(truth, (0, 1, 2)))(known, parts_of(start), xs)

    for way in (rj.unroll, lambda cell, xs, carry: called(cell, xs, carry)):

        def loss(cell, carry, xs, way=way):
            end, found = way(cell, xs, carry)
            return loss_of(parts_of(end), found), (end, found)

        gradient = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))
        (by_cell, by_carry, d_xs), (end, found) = gradient(cell, start, xs)
        np.testing.assert_allclose(found, ys, **CLOSE)
        for ours, theirs in zip(parts_of(end), parts, strict=True):
            np.testing.assert_allclose(ours, theirs, **CLOSE)
        np.testing.assert_allclose(d_xs, by_xs, rtol=1e-10, atol=1e-12)
        for ours, theirs in zip(parts_of(by_carry), by_parts, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)
        for name in names:
            np.testing.assert_allclose(
                getattr(by_cell, name)[...], by_weights[name], rtol=1e-10, atol=1e-12, err_msg=name
            )


def assert_form_is_the_step(cell):
    carry, xs = example(cell)
    forms.assert_form_is_the_step(cell, carry, xs[0], **CLOSE)


def jacobians_by_calls(cell, xs, carry):
    """∂carry'/∂carry of each step by automatic differentiation of the cell's own call."""
    found = []
    for x in xs:
        found.append(one_jacobian(cell, carry, x))
        carry, _ = cell(carry, x)
    return np.stack(found)


def one_jacobian(cell, carry, x):
    flat, back = ravel_pytree(carry)
    return jax.jacfwd(lambda s: ravel_pytree(cell(back(s), x)[0])[0])(flat)
