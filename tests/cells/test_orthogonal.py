"""Cells with an orthogonal matrix: their equations, initial weights, and singular values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from flax import nnx
from transcribed import (
    CLOSE,
    IN,
    T,
    assert_follows,
    called,
    example,
    jacobians_by_calls,
    noisy,
)

import rnn_jax as rj
from refusing import refuses, table
from rnn_jax.cells import ExpRNNCell, ScoRNNCell, UnitaryRNNCell
from rnn_jax.cells.orthogonal import modrelu
from rnn_jax.cells.unitary import permutation

# Even, for a matrix of 2 × 2 blocks.
H = 4
BOTH = pytest.mark.parametrize("make", [ExpRNNCell, ScoRNNCell])


def orthogonal(make, seed=0, **options):
    return noisy(make(IN, H, rngs=nnx.Rngs(seed), **options), seed)


def skew_of(xp, w):
    upper = xp.triu(w["recurrent_kernel"], 1)
    return upper - upper.T


def modrelu_step(w, h, x, xp, matrix):
    z = x @ w["kernel"] + matrix @ h
    h = xp.sign(z) * xp.maximum(xp.abs(z) + w["bias"], 0.0)
    return h, h


def exprnn_equations(w, carry, x, xp):
    # iA is Hermitian, so exp(A) is known from its eigenvalues, which are real.
    values, vectors = xp.linalg.eigh(1j * skew_of(xp, w).astype(complex))
    matrix = xp.real((vectors * xp.exp(-1j * values.astype(complex))[None]) @ xp.conj(vectors).T)
    return modrelu_step(w, carry, x, xp, matrix)


def scornn_equations(w, carry, x, xp, negatives=1):
    a, eye = skew_of(xp, w), xp.eye(H)
    d = xp.diag(xp.asarray([-1.0] * negatives + [1.0] * (H - negatives)))
    return modrelu_step(w, carry, x, xp, xp.linalg.inv(eye + a) @ (eye - a) @ d)


def test_exprnn_follows_its_equations():
    cell = orthogonal(ExpRNNCell)
    assert_follows(cell, exprnn_equations)
    a = skew_of(np, {"recurrent_kernel": np.asarray(cell.recurrent_kernel[...])})
    np.testing.assert_allclose(cell.transition_kernel().T, scipy.linalg.expm(a), **CLOSE)


def test_scornn_follows_its_equations():
    cell = orthogonal(ScoRNNCell, negatives=1)
    assert_follows(cell, scornn_equations)


@BOTH
def test_singular_values_of_any_stretch_are_one_for_the_linear_cell(make):
    cell = orthogonal(make, 3)
    cell.bias[...] = 0 * cell.bias[...]
    carry, xs = example(cell)
    found = rj.linearize(cell, xs, carry)
    np.testing.assert_allclose(
        found.state_jacobians, jacobians_by_calls(cell, xs, carry), rtol=1e-11, atol=1e-12
    )
    logs = rj.jacobian_log_singular_values(found)
    np.testing.assert_allclose(logs, 0.0, atol=1e-13 * T)


@BOTH
def test_singular_values_of_a_step_are_at_most_one(make):
    cell = orthogonal(make, 1)
    carry, xs = example(cell)
    found = np.asarray(rj.linearize(cell, xs, carry).state_jacobians)
    np.testing.assert_allclose(found, jacobians_by_calls(cell, xs, carry), rtol=1e-11, atol=1e-12)
    singular = np.linalg.svd(found, compute_uv=False)
    near = np.minimum(np.abs(singular), np.abs(singular - 1))
    assert near.max() < 1e-13
    assert singular.min() < 0.5 < singular.max()
    slope, kernel = cell.jacobian_bound()
    np.testing.assert_allclose(slope * np.linalg.norm(kernel, 2), 1.0, rtol=1e-13)
    w = cell.transition_kernel()
    np.testing.assert_allclose(w @ w.T, np.eye(H), atol=1e-14)


def test_initial_weights_are_those_of_the_papers():
    inputs, size = 40, 301
    henaff = ExpRNNCell(inputs, size, rngs=nnx.Rngs(0))
    cayley = ScoRNNCell(inputs, size, rngs=nnx.Rngs(0))
    assert cayley.negatives == size // 2
    at = np.arange(0, size - 1, 2)
    for cell in (henaff, cayley):
        a = np.array(cell.recurrent_kernel[...])
        np.testing.assert_array_equal(a, -a.T)
        angles = a[at, at + 1].copy()
        a[at, at + 1] = a[at + 1, at] = 0
        assert not np.any(a)
        uniform = angles / np.pi if cell is henaff else 8 / np.pi * np.arctan(-angles) - 1
        assert np.abs(uniform).max() <= 1
        assert abs(uniform.mean()) < 4 / np.sqrt(3 * at.size)
        assert abs(uniform.std() * np.sqrt(3) - 1) < 4 / np.sqrt(2 * at.size)
        b = np.asarray(cell.bias[...])
        assert 0.009 < np.abs(b).max() <= 0.01
        assert b.min() < -0.009
    # Of a truncated normal, as everywhere here.
    np.testing.assert_allclose(np.var(henaff.kernel[...]), 2 / inputs, rtol=0.05)
    bound = np.sqrt(6 / (inputs + size))
    assert 0.99 * bound < np.abs(cayley.kernel[...]).max() <= bound


def solves(jaxpr, *, looped=False):
    """How many linear systems a program factorises within its loops, and how many elsewhere."""
    counts = np.zeros(2, int)
    for equation in jaxpr.eqns:
        if equation.primitive.name == "lu":
            counts[0 if looped else 1] += 1
        within = looped or equation.primitive.name in ("scan", "while")
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=is_program):
            if is_program(inner):
                counts += solves(getattr(inner, "jaxpr", inner), looped=within)
    return counts


def is_program(value):
    return hasattr(value, "eqns") or hasattr(getattr(value, "jaxpr", None), "eqns")


@BOTH
def test_the_matrix_is_made_outside_the_loop(make):
    cell = orthogonal(make)
    carry, xs = example(cell)
    ours, plain = (
        solves(jax.make_jaxpr(lambda cell, way=way: way(cell, xs, carry))(cell).jaxpr)
        for way in (rj.unroll, called)
    )
    assert ours[0] == 0 < ours[1]
    assert plain[0] > 0


def test_modrelu_without_a_bias_is_the_identity_with_slope_one_at_zero():
    z = jnp.asarray([-2.0, 0.0, 0.5])
    slopes = jax.vmap(jax.grad(modrelu))(z, jnp.zeros(3))
    np.testing.assert_array_equal(modrelu(z, jnp.zeros(3)), z)
    np.testing.assert_array_equal(slopes, 1.0)


@pytest.mark.parametrize("make", [ExpRNNCell, ScoRNNCell, UnitaryRNNCell])
def test_products_of_bfloat16_are_kept_in_the_type_of_the_carry(make):
    types = {"dtype": jnp.bfloat16, "carry_dtype": jnp.float32, "param_dtype": jnp.bfloat16}
    cell = make(IN, H, rngs=nnx.Rngs(0), **types)
    carry, out = cell(cell.initialize_carry((IN,)), jnp.ones(IN, jnp.bfloat16))
    assert {leaf.dtype for leaf in (*jax.tree.leaves(carry), out)} == {jnp.dtype(jnp.float32)}


def unitary_equations(w, carry, x, xp):
    k, eye = np.arange(H), np.eye(H, dtype=complex)
    fourier = xp.asarray(np.exp(-2j * np.pi * np.outer(k, k) / H) / np.sqrt(H))

    def joined(re, im):
        return re.astype(complex) + 1j * im.astype(complex)

    def reflection(re, im):
        v = joined(re, im) / xp.sqrt(re @ re + im @ im).astype(complex)
        return xp.asarray(eye) - 2 * xp.outer(v, xp.conj(v))

    rows = w["recurrent_kernel"]
    d_1, d_2, d_3 = (xp.diag(xp.exp(1j * angles.astype(complex))) for angles in rows[:3])
    first = reflection(rows[3], rows[4]) @ fourier @ d_1
    second = reflection(rows[5], rows[6]) @ xp.conj(fourier).T @ d_2
    matrix = d_3 @ second @ xp.asarray(eye[list(permutation(H))]) @ first
    z = joined(x @ w["kernel"][:, :H], x @ w["kernel"][:, H:]) + matrix @ joined(*carry)
    size = xp.abs(z)
    h = z * (xp.maximum(size + w["bias"], 0.0) / size).astype(complex)
    return (xp.real(h), xp.imag(h)), xp.concatenate([xp.real(h), xp.imag(h)])


def test_unitary_follows_its_equations():
    cell = orthogonal(UnitaryRNNCell)
    assert cell.output_features == 2 * H
    assert sorted(permutation(H)) == list(range(H))
    assert_follows(cell, unitary_equations)


def test_singular_values_of_the_unitary_cell_are_one_if_linear_and_less_with_units_held_back():
    cell = orthogonal(UnitaryRNNCell, 2)
    for bias in (0.0, -0.3):
        cell.bias[...] = bias * jnp.ones(H)
        carry, xs = example(cell)
        found = np.asarray(rj.linearize(cell, xs, carry).state_jacobians)
        known = jacobians_by_calls(cell, xs, carry)
        np.testing.assert_allclose(found, known, rtol=1e-11, atol=1e-12)
        singular = np.linalg.svd(found, compute_uv=False)
        np.testing.assert_allclose(singular.max(), 1.0, rtol=1e-12)
        if bias:
            assert singular.min() < 0.9
        else:
            np.testing.assert_allclose(singular, 1.0, rtol=1e-12)
    # From nothing the linear cell is still differentiable, with the same singular values.
    cell.bias[...] = jnp.zeros(H)
    at_rest = rj.linearize(cell, 0 * xs[:1]).state_jacobians
    np.testing.assert_allclose(np.linalg.svd(at_rest, compute_uv=False), 1.0, rtol=1e-12)


def test_initial_weights_of_the_unitary_cell_are_those_of_the_paper():
    inputs, size = 30, 400
    cell = UnitaryRNNCell(inputs, size, rngs=nnx.Rngs(0))
    rows = np.asarray(cell.recurrent_kernel[...])
    assert rows.shape == (7, size)
    for row, bound in zip(rows, [np.pi] * 3 + [1.0] * 4, strict=True):
        assert 0.98 * bound < np.abs(row).max() <= bound
        assert abs(row.mean()) < 4 * bound / np.sqrt(3 * size)
        assert abs(row.std() * np.sqrt(3) / bound - 1) < 4 / np.sqrt(2 * size)
    bound = np.sqrt(6 / (inputs + size))
    assert 0.99 * bound < np.abs(cell.kernel[...]).max() <= bound
    assert cell.bias.shape == (size,)
    assert not np.any(cell.bias[...])


@table(
    name=(
        lambda: ExpRNNCell(IN, H, recurrent_kernel_init="orthogonal", rngs=nnx.Rngs(0)),
        ValueError,
        "recurrent_kernel_init must be an initialiser of a skew-symmetric matrix",
        "got 'orthogonal'",
    ),
    negatives=(
        lambda: ScoRNNCell(IN, H, negatives=H + 1, rngs=nnx.Rngs(0)),
        ValueError,
        "negatives must be at most 4",
        "got 5",
        "Pass a smaller int",
    ),
    unitary_input=(
        lambda: orthogonal(UnitaryRNNCell).project(jnp.ones(IN + 1)),
        ValueError,
        "the last axis of x must hold the cell's in_features=2",
        "got shape (3,)",
        "in_features=3",
    ),
    input=(
        lambda: orthogonal(ExpRNNCell)(jnp.zeros(H), jnp.ones(IN + 1)),
        ValueError,
        "the last axis of x must hold the cell's in_features=2",
        "got shape (3,)",
        "in_features=3",
    ),
)
def test_what_they_refuse(call, error, words):
    refuses(call, error, *words)
