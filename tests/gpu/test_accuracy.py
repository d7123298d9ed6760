"""Values and gradients through the kernels: every cell at every precision.

Run in interpret mode on a CPU, where all products are float32; the sizes of a card were compiled
for an H100 ahead of time. On a card not run yet.
"""

import functools

import jax
import jax.numpy as jnp
import on_card
import pytest

import rnn_jax as rj

RUN = functools.partial(rj.unroll, implementation=on_card.implementation_here(__name__))
INTERPRETED = RUN.keywords["implementation"] == "interpret"
SCAN = functools.partial(rj.unroll, implementation="scan")

# One block for each tile of rows; two and more, in all of which units are split.
UNITS = [3] if INTERPRETED else [16, 48, 128, 256]
STEPS, BATCH = (4, (2,)) if INTERPRETED else (100, (33,))


def value_and_gradient(run):
    """Of all outputs and the last carry, whose sines are summed."""

    def outputs(point):
        return run(*point)

    def loss(point):
        results = outputs(point)
        return sum(jnp.mean(jnp.sin(leaf)) for leaf in jax.tree.leaves(results)), results

    return lambda *point: jax.value_and_grad(loss, has_aux=True)(point)


@functools.cache
def reference(name, units):
    point = on_card.point_at(name, steps=STEPS, batch=BATCH, units=units)
    return point, on_card.on_cpu(value_and_gradient(SCAN), *point)


@pytest.mark.parametrize("precision", on_card.BOUNDS)
@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize("name", on_card.CELLS)
def test_value_and_gradient(name, units, precision):
    point, ((_, outputs), gradients) = reference(name, units)
    (_, actual_outputs), actual_gradients = on_card.on_card(
        value_and_gradient(RUN), *point, precision=precision
    )
    bound = on_card.BOUNDS[precision]
    on_card.assert_close(actual_outputs, outputs, bound)
    # Gradients come of as many products again.
    on_card.assert_close(actual_gradients, gradients, 4 * bound)


@pytest.mark.parametrize("name", ["lstm", "gru", "tanh"])
def test_a_sequence_without_a_batch(name):
    cell, xs, carry = on_card.point_at(name, steps=STEPS, batch=(), units=UNITS[-1])
    expected = on_card.on_cpu(SCAN, cell, xs, carry)
    on_card.assert_close(on_card.on_card(RUN, cell, xs, carry), expected, on_card.BOUNDS["highest"])


def test_more_axes_of_batch():
    cell, xs, carry = on_card.point_at("lstm", steps=STEPS, batch=(2, 1, 3), units=UNITS[-1])
    expected = on_card.on_cpu(SCAN, cell, xs, carry)
    on_card.assert_close(on_card.on_card(RUN, cell, xs, carry), expected, on_card.BOUNDS["highest"])
