"""One-step Jacobians against hand-derived ones, automatic differentiation and differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_reference import FAMILIES, FEATURES, QUICK, XS, H, T, arrays_of, network, unrolled

import oracles
import rnn_jax as rj
import zoo
from rnn_jax.gradients import one_step
from rnn_jax.gradients.trajectory import flatten_cell, run, run_fused


@functools.cache
def linearized(name):
    net = network(name)
    return rj.linearize(net.cell, jnp.asarray(XS), net.carry)


@pytest.mark.parametrize("name", sorted(zoo.CELLS))
def test_ours_equal_the_hand_derived_jacobians(name):
    net, lin = network(name), linearized(name)
    twin = zoo.oracle(net.cell)
    carries, ys = oracles.run(twin.step, XS, net.state)
    As, Bs = oracles.one_step_jacobians(twin.jacobian, carries, XS)
    expected = (carries, ys, As, Bs, As[:, twin.output_rows], Bs[:, twin.output_rows])
    for got, value in zip(arrays_of(lin), expected, strict=True):
        np.testing.assert_allclose(np.asarray(got), value, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", sorted(zoo.FOREIGN))
def test_foreign_equal_reverse_mode_of_each_step(name):
    net, lin = network(name), linearized(name)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def reference(xs, state):
        states, ys = unrolled(net, xs, state)
        states = jnp.concatenate([state[None], states])
        (A, B), (C, D) = jax.vmap(jax.jacrev(net.step, (0, 1)))(states[:-1], xs)
        return states, ys, A, B, C, D

    expected = reference(XS, net.state)
    for got, value in zip(arrays_of(lin), expected, strict=True):
        np.testing.assert_allclose(np.asarray(got), np.asarray(value), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", FAMILIES)
def test_finite_differences_agree(name):
    net, lin = network(name), linearized(name)
    jitted = jax.jit(net.step)

    def step(state, x):
        after, y = jitted(state, x)
        return np.concatenate([after, y]), None

    joint = oracles.finite_difference_jacobians(step, np.asarray(lin.carries), XS)
    stacked = [
        np.concatenate(pair, axis=1)
        for pair in (
            (lin.state_jacobians, lin.output_state_jacobians),
            (lin.input_jacobians, lin.output_input_jacobians),
        )
    ]
    for got, value in zip(stacked, joint, strict=True):
        np.testing.assert_allclose(got, value, atol=1e-9)


@pytest.mark.parametrize("name", zoo.EVERY)
def test_output_rows_say_where_the_output_stands(name):
    lin, expected = linearized(name), network(name).rows
    assert lin.output_rows == expected
    if expected:
        rows = slice(*expected)
        carries, outputs = np.asarray(lin.carries[1:, rows]), np.asarray(lin.outputs)
        np.testing.assert_allclose(carries, outputs, rtol=1e-12)


def _both(carry, x):
    h = jnp.tanh(carry + x)
    return h, h


def _equal_but_computed_twice(carry, x):
    return jnp.tanh(carry + x), jnp.tanh(x + carry)


def _delayed(carry, x):
    newest, before = carry
    del before
    return (jnp.tanh(newest + x), newest), newest


def _first_of_two_equal(carry, x):
    h = jnp.tanh(carry[1] + x)
    return (h, h), h


def _nested(carry, x):
    def inner(carry, x):
        (slow, fast), h = jax.jit(_delayed)(carry, x)
        return {"slow": slow, "fast": fast}, h

    after, h = jax.jit(inner)(carry, x)
    return (after["slow"], after["fast"]), h


def _swapped_by_jit(carry, x):
    one, other = jax.jit(lambda c, x: (jnp.tanh(c + x), jnp.sin(c + x)))(carry, x)
    return one, other


def _zeros(size, parts=1):
    return jnp.zeros(size) if parts == 1 else tuple(jnp.zeros(size) for _ in range(parts))


@pytest.mark.parametrize(
    ("cell", "parts", "rows"),
    [
        (_both, 1, (0, FEATURES)),
        (jax.jit(_both), 1, (0, FEATURES)),
        (jax.jit(jax.jit(_both)), 1, (0, FEATURES)),
        (_equal_but_computed_twice, 1, None),
        (_delayed, 2, (FEATURES, 2 * FEATURES)),
        (_nested, 2, (FEATURES, 2 * FEATURES)),
        (_first_of_two_equal, 2, (0, FEATURES)),
        (_swapped_by_jit, 1, None),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_output_rows_are_read_off_the_program_not_the_numbers(cell, parts, rows):
    carry = _zeros(FEATURES, parts)
    lin = rj.linearize(cell, jnp.asarray(XS), carry)
    assert lin.output_rows == rows

    def output(state, x):
        return cell(state if parts == 1 else tuple(jnp.split(state, parts)), x)[1]

    C, D = jax.jit(jax.vmap(jax.jacrev(output, (0, 1))))(lin.carries[:-1], XS)
    np.testing.assert_allclose(np.asarray(lin.output_state_jacobians), np.asarray(C), rtol=1e-14)
    np.testing.assert_allclose(np.asarray(lin.output_input_jacobians), np.asarray(D), rtol=1e-14)


def test_tree_outputs_are_flattened_in_the_order_of_their_leaves():
    def cell(carry, x):
        h = jnp.tanh(carry + x)
        return h, {"b": h[:1] * x, "a": jnp.sum(h) ** 2}

    lin = rj.linearize(cell, jnp.asarray(XS), _zeros(FEATURES))
    h = np.asarray(lin.carries[1:])
    expected = np.stack([h.sum(1) ** 2, *(h[:, :1] * XS).T], axis=1)
    np.testing.assert_allclose(np.asarray(lin.outputs), expected, rtol=1e-14)
    slope = 1 - h**2
    by_state = 2 * h.sum(1)[:, None] * slope
    np.testing.assert_allclose(np.asarray(lin.output_state_jacobians[:, 0]), by_state, rtol=1e-12)


def test_linear_response_predicts_the_perturbed_trajectory():
    # carry_t(ε) = carry_t + ε δ_t + O(ε²) with δ_t = A_t δ_{t−1} + B_t v_t: second order in ε.
    net, lin = network("lstm_coupled_peephole"), linearized("lstm_coupled_peephole")
    rng = np.random.default_rng(3)
    delta, v = rng.normal(size=len(net.state)), rng.normal(size=(T, FEATURES))
    response = [delta]
    for A, B, v_t in zip(lin.state_jacobians, lin.input_jacobians, v, strict=True):
        response.append(np.asarray(A) @ response[-1] + np.asarray(B) @ v_t)
    errors = []
    for size in (1e-2, 1e-3):
        states, _ = unrolled(net, jnp.asarray(XS + size * v), jnp.asarray(net.state + size * delta))
        moved = (np.asarray(states) - np.asarray(lin.carries[1:])) / size
        errors.append(np.abs(moved - np.stack(response[1:])).max())
    assert errors[0] < 0.1
    np.testing.assert_allclose(errors[0] / errors[1], 10, rtol=0.2)


def test_chunks_of_time_change_nothing(monkeypatch):
    net, xs = (
        network("lstm"),
        np.random.default_rng(2).normal(size=(7, FEATURES)),
    )  # a length of its own
    monkeypatch.setattr(one_step, "_CHUNK_ELEMENTS", 3 * 6 * 8)
    lin = rj.linearize(net.cell, jnp.asarray(xs), net.carry)
    twin = zoo.oracle(net.cell)
    carries, _ = oracles.run(twin.step, xs, net.state)
    As, Bs = oracles.one_step_jacobians(twin.jacobian, carries, xs)
    np.testing.assert_allclose(np.asarray(lin.state_jacobians), As, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(np.asarray(lin.input_jacobians), Bs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["simple_sigmoid", "lstm", "gru_reset_before"])
def test_float32_is_float64_to_its_rounding(name):
    net, lin = network(name), linearized(name)
    single = jax.tree.map(lambda a: a.astype(jnp.float32), (net.cell, net.carry))
    got = rj.linearize(single[0], jnp.asarray(XS, jnp.float32), single[1])
    for low, high in zip(arrays_of(got), arrays_of(lin), strict=True):
        assert low.dtype == jnp.float32
        np.testing.assert_allclose(np.asarray(low), np.asarray(high), atol=2e-6)


def test_the_cell_makes_the_carry_that_is_left_out():
    cell = network("lstm").cell
    lin = rj.linearize(cell, jnp.asarray(XS))
    np.testing.assert_array_equal(np.asarray(lin.carries[0]), np.zeros(2 * H))
    assert lin.steps == T


def test_vmap_and_jit():
    net = network("gru_reset_before")
    batch = jnp.asarray(np.random.default_rng(4).normal(size=(3, T, FEATURES)))
    mapped = jax.jit(jax.vmap(rj.linearize, (None, 0, None)))(net.cell, batch, net.carry)
    assert mapped.output_rows == (0, H)
    for index, xs in enumerate(batch):
        one = rj.linearize(net.cell, xs, net.carry)
        for got, value in zip(jax.tree.leaves(mapped), jax.tree.leaves(one), strict=True):
            np.testing.assert_allclose(np.asarray(got[index]), np.asarray(value), rtol=1e-12)


@pytest.mark.parametrize("name", ["simple_relu", "lstm", "gru_reset_after"])
def test_trajectory_in_fused_form_is_that_of_the_steps(name):
    # What a GPU runs, here by the scan that stands in for its kernel.
    net = network(name)
    flat = flatten_cell(net.cell, XS, net.carry)
    fused = functools.partial(run_fused, flat.form.mathematics, flat.unravel)
    states, ys = jax.jit(fused)(flat.cell, flat.form.kernels, flat.initial, XS)
    expected_states, expected_ys = jax.jit(functools.partial(run, flat))(XS)
    np.testing.assert_allclose(states, expected_states[1:], rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(ys, expected_ys, rtol=1e-13, atol=1e-15)
