"""Pre-activations with the inputs projected inside the loop, as on a CPU, and ahead of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zoo
from rnn_jax.cells.structure import fused_form, groups_of
from rnn_jax.sequence.running.scanned import split_products

STEPS, FEATURES, SIZE = 5, 2, 3


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("name", ["lstm", "gru_reset_after", "simple_tanh"])
def test_either_way_they_are_the_affine_maps_of_state_and_input(name, inside):
    cell = zoo.CELLS[name](FEATURES, SIZE, 0)
    form = fused_form(cell)
    xs = jax.random.normal(jax.random.key(0), (STEPS, FEATURES))
    carry = zoo.random_carry(cell, 1)
    h, ones = form.mathematics.hidden(carry), jnp.ones(1)
    products_of, inputs = split_products(form, xs, inside=inside)
    # A step is given its input, or what is ready of its pre-activations.
    shapes = [leaf.shape[1:] for leaf in jax.tree.leaves(inputs)]
    assert shapes == ([(FEATURES,)] if inside else [kernel.shape[1:] for kernel in form.kernels])
    for t, x in enumerate(xs):
        products = products_of(jax.tree.map(lambda leaf, t=t: leaf[t], inputs))
        for k, group in enumerate(groups_of(form.mathematics)):
            seen = [*([h] if group.sees_state else []), *([x] if group.sees_input else []), ones]
            expected = np.concatenate(seen) @ np.asarray(form.kernels[k])
            found = products(k, h if group.sees_state else None)
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)
