"""What a fused form must be: the step of its cell, and the derivative of that."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.cells.stages import (
    advance_step,
    coefficients_of,
    products_at,
    states_seen,
    tangent_step,
)
from rnn_jax.cells.structure import fused_form


def assert_form_is_the_step(cell, carry, x, **close):
    """The form advances as the call does, and its tangent by all there is is the derivative."""
    form = fused_form(cell)
    assert form is not None
    mathematics, kernels, _ = form
    hash(mathematics)

    def advanced(carry, x, kernels):
        of = form._replace(kernels=kernels)
        return advance_step(mathematics, carry, products_at(of, x))

    after, saved = advanced(carry, x, kernels)
    chex.assert_trees_all_close((after, mathematics.hidden(after)), cell(carry, x), **close)
    rng = np.random.default_rng(1)
    point = (carry, x, kernels)
    along = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), point)
    d_carry, d_x, d_kernels = along
    states = states_seen(mathematics, carry, saved)

    def products(k, d_h):
        by_kernel = products_at(form._replace(kernels=d_kernels), x)(k, states[k])
        return products_at(form, d_x)(k, d_h) - kernels[k][-1] + by_kernel

    found = tangent_step(mathematics, coefficients_of(mathematics, carry, saved), d_carry, products)
    _, exact = jax.jvp(lambda *point: advanced(*point)[0], point, along)
    chex.assert_trees_all_close(found, exact, **close)
