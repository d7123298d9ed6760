"""What a fused form must be: the step of its cell, and the derivative of that."""

import chex

from rnn_jax.cells.structure import fused_form
from rnn_jax.testing.claim_laws import step_of_form


def assert_form_is_the_step(cell, carry, x, **close):
    """The form advances as the call does, and its tangent by all there is is the derivative."""
    form = fused_form(cell)
    assert form is not None
    hash(form.mathematics)
    *found, tangent, exact = step_of_form(form, carry, x)
    chex.assert_trees_all_close(tuple(found), cell(carry, x), **close)
    chex.assert_trees_all_close(tangent, exact, **close)
