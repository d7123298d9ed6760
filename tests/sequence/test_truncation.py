"""Truncated backpropagation through time, against a plain loop that cuts the carry by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnn_jax as rj
from sequence.running import one_step
from zoo import build

STEPS = 5


def by_hand(cell, xs, carry, *, truncate, reverse):
    """Outputs of a Python loop in which each stretch starts from a constant.

    But the first one, if it starts from an initial carry.
    """
    order = list(range(STEPS))
    stretches = [order[start : start + truncate] for start in range(0, STEPS, truncate)]
    if reverse:
        stretches = [stretch[::-1] for stretch in stretches[::-1]]
    ys = [None] * STEPS
    for number, stretch in enumerate(stretches):
        if number:
            carry = jax.lax.stop_gradient(carry)
        for t in stretch:
            carry, ys[t] = one_step(cell, carry, xs[t])
    return carry, jnp.stack(ys)


def loss(run, *arguments):
    last, ys = run(*arguments)
    weights = jnp.arange(1.0, STEPS + 1)[:, None]
    return jnp.sum(jnp.sin(ys) * jnp.broadcast_to(weights, ys.shape)) + sum(
        jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(last)
    )


# A quarter of all combinations: each value of one option with every value of each other.
@pytest.mark.parametrize(
    ("name", "truncate", "reverse", "checkpoint"),
    [
        (name, truncate, bool((i + j) % 2), (None, 2)[(i + j // 2) % 2])
        for i, name in enumerate(["lstm", "gru_reset_before"])
        for j, truncate in enumerate([1, 2, STEPS, 50])
    ],
)
def test_gradients_are_those_of_a_loop_that_is_cut(name, truncate, reverse, checkpoint):
    cell, _ = build(name, 2, 3)
    xs = jax.random.normal(jax.random.key(0), (STEPS, 2))
    carry = jax.tree.map(lambda a: a + 0.3, cell.initialize_carry((2,)))
    options = {"truncate": truncate, "reverse": reverse}

    def fast(cell, xs, initial):
        return rj.unroll(cell, xs, initial=initial, **options, checkpoint=checkpoint)

    slow = functools.partial(by_hand, **options)
    value, found = jax.value_and_grad(functools.partial(loss, fast), (0, 1, 2))(cell, xs, carry)
    known, expected = jax.value_and_grad(functools.partial(loss, slow), (0, 1, 2))(cell, xs, carry)
    np.testing.assert_allclose(value, known, rtol=1e-12)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("reverse", [False, True])
def test_no_gradient_passes_to_a_carry_that_comes_from_the_stretch_before(reverse):
    cell, _ = build("lstm", 2, 3)
    xs = jax.random.normal(jax.random.key(0), (STEPS, 2))
    carry = jax.tree.map(lambda a: a + 0.3, cell.initialize_carry((2,)))
    fast = functools.partial(rj.unroll, truncate=2, reverse=reverse)
    by_carry = jax.grad(functools.partial(loss, fast), 2)(cell, xs, carry)
    assert all((np.asarray(leaf) == 0).all() for leaf in by_carry)
    uncut = functools.partial(rj.unroll, cell, xs, carry, reverse=reverse)
    jax.tree.map(np.testing.assert_array_equal, fast(cell, xs, carry), uncut())


def test_an_early_input_reaches_no_further_than_its_own_stretch():
    cell, _ = build("gru_reset_after", 2, 3)
    xs = jax.random.normal(jax.random.key(0), (STEPS, 2))

    def last_output(xs):
        return jnp.sum(rj.unroll(cell, xs, truncate=3)[1][-1])

    reach = np.abs(np.asarray(jax.grad(last_output)(xs))).max(axis=1)
    assert (reach[:3] == 0).all()
    assert (reach[3:] > 0).all()


def test_with_lengths_and_resets_the_values_are_those_without():
    cell, _ = build("lstm", 2, 3)
    xs = jax.random.normal(jax.random.key(0), (3, STEPS, 2))
    resets = jax.random.bernoulli(jax.random.key(1), 0.2, (3, STEPS))
    options = {"lengths": jnp.asarray([STEPS, 0, 4]), "resets": resets}
    found = rj.unroll(cell, xs, truncate=3, **options)
    expected = rj.unroll(cell, xs, **options)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-12), found, expected)


@pytest.mark.parametrize(
    ("truncate", "error"), [(0, ValueError), (-2, ValueError), (2.5, TypeError)]
)
def test_what_is_no_number_of_steps_is_refused(truncate, error):
    cell, _ = build("gru_reset_after", 2, 3)
    with pytest.raises(error, match="truncate must be"):
        rj.unroll(cell, jnp.zeros((STEPS, 2)), truncate=truncate)
