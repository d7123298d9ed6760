"""Linear recurrences by an associative scan, against a loop over steps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from rnn_jax.cells.linear import KINDS, apply
from rnn_jax.sequence.running.associative import linear_scan
from rnn_jax.sequence.running.boundaries import Boundaries

T, B = 11, 2
# By kind, trailing axes of Λ and of what it is applied to.
SHAPES = {
    "diagonal": ((3,), (3,)),
    "complex": ((2, 3), (2, 3)),
    "block": ((2, 2, 2), (2, 2)),
    "dense": ((3, 3), (3,)),
    "shared": ((2, 1), (2, 3)),  # Diagonal, one number for several units.
}
CLOSE = {"rtol": 1e-12, "atol": 1e-12}
MARKS = ["none", "valid", "resets", "both"]
EITHER = ["none", "both"]


def kind_of(name):
    return "diagonal" if name == "shared" else name


def problem(name, marks, steps=T, *, constant=False, seed=0):
    rng = np.random.default_rng(seed)
    own, state = SHAPES[name]
    rows = (1, 1) if constant else (steps, B)
    values = {
        "factor": 0.7 * rng.normal(size=(*rows, *own)),
        "added": rng.normal(size=(steps, B, *state)),
        "carry": rng.normal(size=(B, *state)),
        "initial": rng.normal(size=(B, *state)),
    }
    valid = rng.random((steps, B)) < 0.7 if marks in ("valid", "both") else None
    resets = rng.random((steps, B)) < 0.3 if marks in ("resets", "both") else None
    return values, Boundaries(valid, resets)


def matrix(kind, factor):
    """Λ of one row as a matrix of real numbers over the flattened state."""
    if kind == "diagonal":
        return np.diag(factor.ravel())
    if kind == "complex":
        a, b = np.diag(factor[0]), np.diag(factor[1])
        return np.block([[a, -b], [b, a]])
    if kind == "dense":
        return factor
    whole = np.zeros((factor.shape[0] * factor.shape[1],) * 2)
    k = factor.shape[1]
    for n, block in enumerate(factor):
        whole[n * k : (n + 1) * k, n * k : (n + 1) * k] = block
    return whole


def by_hand(name, values, boundaries, reverse):
    """With NumPy, row by row and step by step, each Λ as a matrix."""
    kind, state = kind_of(name), SHAPES[name][1]
    values = {k: np.asarray(v) for k, v in values.items()}
    steps, rows = values["added"].shape[:2]
    factors = np.broadcast_to(values["factor"], (steps, rows, *values["factor"].shape[2:]))
    if kind == "diagonal":
        factors = np.broadcast_to(factors, (steps, rows, *state))
    found = np.zeros(values["added"].shape)
    valid, resets = (None if mark is None else np.asarray(mark) for mark in boundaries)
    for row in range(rows):
        h = values["carry"][row].ravel()
        for t in range(steps)[:: -1 if reverse else 1]:
            if resets is not None and resets[t, row]:
                h = values["initial"][row].ravel()
            if valid is None or valid[t, row]:
                h = matrix(kind, factors[t, row]) @ h + values["added"][t, row].ravel()
            found[t, row] = h.reshape(state)
    return found


def by_loop(kind, values, boundaries, reverse):
    """With `lax.scan`, for derivatives."""
    valid, resets = boundaries
    steps, rows = values["added"].shape[:2]
    factor = values["factor"]
    factor = jnp.broadcast_to(factor, (steps, *factor.shape[1:]))
    valid = jnp.ones((steps, rows), bool) if valid is None else valid
    resets = jnp.zeros((steps, rows), bool) if resets is None else resets

    def body(h, at):
        own, b, is_valid, is_reset = at
        wide = (slice(None), *(None,) * (h.ndim - 1))
        h = jnp.where(is_reset[wide], values["initial"], h)
        h = jnp.where(is_valid[wide], apply(kind, own, h) + b, h)
        return h, h

    over = (factor, values["added"], valid, resets)
    return lax.scan(body, values["carry"], over, reverse=reverse)[1]


def scanned(kind, values, boundaries, reverse, every):
    """With chunks of `every` steps, or "scan" for one step after another."""
    how = {"methods": {"default": "scan"}} if every == "scan" else {"every": every}
    return linear_scan(kind, **values, boundaries=boundaries, reverse=reverse, **how)


# With every kind none or both, as where its Λ is 1 differs by kind; either alone with one.
@pytest.mark.parametrize(
    ("name", "marks"),
    [(name, marks) for name in SHAPES for marks in MARKS if name == "complex" or marks in EITHER],
)
def test_carries_are_those_of_a_loop(name, marks):
    # One Λ for all steps backwards, one for each forwards.
    for reverse in (False, True):
        values, boundaries = problem(name, marks, constant=reverse)
        expected = by_hand(name, values, boundaries, reverse)
        run = functools.partial(scanned, kind_of(name), reverse=reverse)
        both = jax.jit(lambda run=run, **case: [run(every=every, **case) for every in (4, "scan")])
        for found in both(values=values, boundaries=boundaries):
            np.testing.assert_allclose(found, expected, **CLOSE)


def test_a_chunk_may_hold_all_steps():
    values, boundaries = problem("complex", "both")
    run = functools.partial(scanned, "complex", reverse=False, every=None)
    found = jax.jit(run)(values=values, boundaries=boundaries)
    np.testing.assert_allclose(found, by_hand("complex", values, boundaries, False), **CLOSE)


# Without marks, where they are those of the same program with less in it, one kind.
@pytest.mark.parametrize(
    ("name", "marks", "reverse"),
    [
        ("diagonal", "none", False),
        *((name, "both", True) for name in SHAPES),
    ],
)
def test_derivatives_are_those_of_a_loop(name, marks, reverse):
    kind = kind_of(name)
    values, boundaries = problem(name, marks, constant=name == "complex")
    moves = problem(name, marks, constant=name == "complex", seed=1)[0]
    weights = jnp.asarray(np.random.default_rng(2).normal(size=values["added"].shape))

    def derivatives(run):
        def loss(values):
            return jnp.sum(weights * jnp.sin(run(values)))

        def along(values):
            return jax.jvp(loss, (values,), (moves,))[1]

        return (
            jax.jvp(run, (values,), (moves,)),
            jax.jvp(jax.grad(loss), (values,), (moves,)),
            jax.grad(along)(values),  # Of second order, in both modes.
        )

    @jax.jit
    def all_of_them():
        return [
            derivatives(lambda values: by_loop(kind, values, boundaries, reverse)),
            derivatives(lambda values: scanned(kind, values, boundaries, reverse, 4)),
            derivatives(lambda values: scanned(kind, values, boundaries, reverse, "scan")),
        ]

    loop, *ours = all_of_them()
    for found in ours:
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(loop), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-11)


def test_maps_over_members():
    values = [problem("diagonal", "both", seed=seed)[0] for seed in range(3)]
    boundaries = problem("diagonal", "both")[1]
    run = functools.partial(scanned, "diagonal", boundaries=boundaries, reverse=False, every=4)

    @jax.jit
    def gradient(values):
        return jax.grad(lambda values: jnp.sum(run(values) ** 2))(values)

    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *values)
    found = jax.jit(jax.vmap(gradient))(stacked)
    for k, one in enumerate(values):
        expected = gradient(one)
        for name in expected:
            np.testing.assert_allclose(found[name][k], expected[name], **CLOSE)


@pytest.mark.parametrize("every", [4, "scan"])
@pytest.mark.parametrize("reverse", [False, True])
def test_what_another_sequence_holds_changes_nothing(reverse, every):
    """A sequence that ends in NaN, beside one that starts after it in the same row."""
    values, _ = problem("complex", "none")
    resets = np.repeat(np.arange(T) == 6, B).reshape(T, B)
    # Of the steps run before the mark, or on the way into it.
    others = slice(7, None) if reverse else slice(0, 6)
    own = slice(0, 7) if reverse else slice(6, None)
    added = np.array(values["added"])
    added[others] = np.nan
    spoilt = {**values, "added": jnp.asarray(added)}

    @jax.jit
    def gradient_and_carries(values):
        def loss(values):
            found = scanned("complex", values, Boundaries(None, resets), reverse, every)
            return jnp.sum(found[own] ** 2), found

        return jax.grad(loss, has_aux=True)(values)

    for run in (values, spoilt):
        gradient, found = gradient_and_carries(run)
        if run is values:
            known = gradient, found
    np.testing.assert_array_equal(found[own], known[1][own])
    for name in ("factor", "added", "initial"):
        at = own if name != "initial" else slice(None)
        np.testing.assert_allclose(gradient[name][at], known[0][name][at], **CLOSE)


def test_products_that_underflow_are_0_in_values_and_gradients():
    steps = 600
    factor = np.full((steps, 1, 1), 1e-3, np.float32)
    added = np.ones((steps, 1, 1), np.float32)
    carry = np.ones((1, 1), np.float32)

    @jax.jit
    def run(factor, added, carry):
        return linear_scan("diagonal", factor, added, carry, every=64)

    found = run(factor, added, carry)
    np.testing.assert_allclose(found[1:], 1 / (1 - 1e-3), rtol=1e-5)
    gradients = jax.grad(lambda *args: jnp.sum(run(*args)[-1]), (0, 1, 2))(factor, added, carry)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    assert float(gradients[2][0, 0]) == 0.0
    np.testing.assert_allclose(gradients[1][-1], 1.0)


def test_compiling_does_not_grow_with_the_length():
    def size(steps):
        values, boundaries = problem("diagonal", "both", steps)
        run = functools.partial(scanned, "diagonal", reverse=False, every=16)
        gradient = jax.grad(lambda values: jnp.sum(run(values, boundaries=boundaries)))
        return len(jax.jit(gradient).lower(values).as_text().splitlines())

    assert size(2**6) == size(2**12)


def test_memory_is_of_one_chunk():
    """Products of dense Λ's of all steps are not kept, where Λ is the same at all of them."""
    steps, size = 2**12, 16
    factor = jnp.eye(size)[None] * 0.9

    def run(factor, added, carry):
        return jnp.sum(linear_scan("dense", factor, added, carry, every=32) ** 2)

    operands = (factor, jnp.ones((steps, size)), jnp.ones(size))
    compiled = jax.jit(jax.grad(run, (0, 1))).lower(*operands).compile()
    used = compiled.memory_analysis().temp_size_in_bytes
    assert used < 8 * steps * size * size / 2


def test_every_kind_is_tested():
    assert set(KINDS) == {kind_of(name) for name in SHAPES}
