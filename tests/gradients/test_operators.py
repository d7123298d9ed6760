"""Products with a long Jacobian that is never formed, and what random products tell about it."""

import functools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from flax import nnx
from jax.tree_util import Partial
from test_reference import FEATURES, QUICK, XS, H, T, arrays_of, jacobians, network

import oracles
import rnn_jax as rj
import zoo
from refusing import refused

# Of our cells, of others with the output in the carry and without, and an object that is no pytree.
FORMS = (
    "simple_relu",
    "lstm_coupled_peephole",
    "nnx_lstm",
    "dict_readout",
    "henon",
    "plain_object",
)
START, STOP = 2, 4
KEY, KEYS = jax.random.key(0), jax.random.split(jax.random.key(1), 3)


def product(As):
    return functools.reduce(lambda whole, A: A @ whole, As, np.eye(As.shape[1]))


@functools.cache
def reference(name):
    """One-step Jacobians A, B of the carry and C, D of the output: hand-derived for our cells."""
    net = network(name)
    if name in zoo.FOREIGN:
        lin = jax.jit(rj.linearize, compiler_options=QUICK)(as_pytree(net.cell), XS, net.carry)
        return [np.asarray(part) for part in arrays_of(lin)[2:]]
    twin = zoo.oracle(net.cell)
    carries, _ = oracles.run(twin.step, XS, net.state)
    As, Bs = oracles.one_step_jacobians(twin.jacobian, carries, XS)
    return As, Bs, As[:, twin.output_rows], Bs[:, twin.output_rows]


def plain(name, wrt):
    """∂carry_4/∂carry_2 or ∂y_4/∂x_2."""
    As, Bs, Cs, _ = reference(name)
    if wrt == "state":
        return product(As[START:STOP])
    return Cs[STOP - 1] @ product(As[START : STOP - 1]) @ Bs[START - 1]


def as_pytree(cell):
    arrays = all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(cell))
    return cell if arrays else Partial(cell)


@functools.partial(jax.jit, compiler_options=QUICK, static_argnames="wrt")
def all_products(cell, carry, wrt):
    """J applied to each unit vector, and its transpose."""
    operator = rj.jacobian_operator(cell, XS, carry, start=START, stop=STOP, wrt=wrt)
    rows, columns = operator.shape
    return jax.vmap(operator.matvec)(jnp.eye(columns)), jax.vmap(operator.rmatvec)(jnp.eye(rows))


def measured(name, wrt):
    net = network(name)
    return all_products(as_pytree(net.cell), net.carry, wrt=wrt)


def in_full(result):
    directions, scales = map(np.asarray, result)
    return directions * np.exp(scales)[..., None]


def is_normal(result):
    """max|direction| in [1/2, 1), or an exact zero at −∞."""
    directions, scales = map(np.asarray, result)
    sizes = np.abs(directions).max(axis=-1)
    return np.all(np.where(np.isneginf(scales), sizes == 0, (sizes >= 0.5) & (sizes < 1)))


@pytest.mark.parametrize(
    ("name", "wrt"),
    [*((name, "input") for name in FORMS), *((name, "state") for name in ("nnx_lstm", "henon"))],
)
def test_products_with_unit_vectors_are_the_columns_and_rows(name, wrt):
    J, (forward, backward) = plain(name, wrt), measured(name, wrt)
    np.testing.assert_allclose(in_full(forward), J.T, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(in_full(backward), J, rtol=1e-11, atol=1e-13)
    assert is_normal(forward)
    assert is_normal(backward)


def test_defaults_run_from_the_initial_carry_or_the_first_input_to_the_end():
    net, (As, Bs, Cs, _) = network("lstm_peephole"), reference("lstm_peephole")
    rng = np.random.default_rng(1)
    by_state = rj.jacobian_operator(net.cell, XS, net.carry)
    assert by_state.shape == (2 * H, 2 * H)
    v = rng.normal(size=2 * H)
    expected = product(As) @ v
    np.testing.assert_allclose(in_full(by_state.matvec(v)), expected, rtol=1e-11, atol=1e-13)
    by_input = rj.jacobian_operator(net.cell, XS, net.carry, wrt="input")
    assert by_input.shape == (H, FEATURES)
    u = rng.normal(size=H)
    expected = u @ Cs[-1] @ product(As[1:-1]) @ Bs[0]
    np.testing.assert_allclose(in_full(by_input.rmatvec(u)), expected, rtol=1e-11, atol=1e-13)


def test_between_equal_steps_the_state_is_passed_on_as_it_is():
    net = network("lstm_peephole")
    v = np.random.default_rng(2).normal(size=2 * H)
    for step in (0, 3, T):
        operator = rj.jacobian_operator(net.cell, XS, net.carry, start=step, stop=step)
        for result in (operator.matvec(v), operator.rmatvec(v)):
            np.testing.assert_allclose(in_full(result), v, rtol=1e-14)
            assert is_normal(result)
    expected = reference("lstm_peephole")[3][2] @ v[:FEATURES]
    operator = rj.jacobian_operator(net.cell, XS, net.carry, start=3, stop=3, wrt="input")
    np.testing.assert_allclose(in_full(operator.matvec(v[:FEATURES])), expected, rtol=1e-12)


def test_a_vector_of_any_size_keeps_its_scale():
    net = network("lstm_peephole")
    operator = rj.jacobian_operator(net.cell, XS, net.carry)
    v = np.random.default_rng(3).normal(size=2 * H)
    direction, scale = operator.matvec(v)
    for factor in (1e-300, 1e300):
        got, log = operator.matvec(factor * v)
        shift = np.asarray(log - scale) - np.log(factor)
        np.testing.assert_allclose(np.asarray(got) * np.exp(shift), np.asarray(direction), 1e-9)
    direction, scale = operator.rmatvec(0 * v)
    assert np.isneginf(np.asarray(scale))
    assert not np.asarray(direction).any()


LONG, WIDE = 500, 6


@functools.cache
def long_case(dtype):
    """500 steps of a sigmoid cell from zero, and its one-step Jacobians in float64."""
    cell = rj.SimpleRNNCell(
        FEATURES, WIDE, activation="sigmoid", param_dtype=np.float32, rngs=nnx.Rngs(3)
    )
    cell = jax.tree.map(lambda leaf: leaf.astype(dtype), cell)
    xs = np.random.default_rng(2).normal(size=(LONG, FEATURES)).astype(np.float32)
    twin = zoo.oracle(cell)
    carries, _ = oracles.run(twin.step, xs.astype(np.float64), np.zeros(WIDE))
    As, Bs = oracles.one_step_jacobians(twin.jacobian, carries, xs.astype(np.float64))
    return (cell, xs.astype(dtype), np.zeros(WIDE, dtype)), As, Bs


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_products_far_below_the_smallest_float_against_arbitrary_precision(dtype):
    case, As, Bs = long_case(dtype)
    v, u = (np.random.default_rng(4).normal(size=n).astype(dtype) for n in (FEATURES, WIDE))
    operator = rj.jacobian_operator(*case, wrt="input")
    forward, backward = operator.matvec(v), operator.rmatvec(u)
    with mpmath.workdps(40):
        column = mpmath.matrix((Bs[0] @ v.astype(np.float64)).tolist())
        for A in As[1:]:
            column = mpmath.matrix(A.tolist()) * column
        row = mpmath.matrix([u.tolist()])
        for A in As[:0:-1]:
            row = row * mpmath.matrix(A.tolist())
        row = (row * mpmath.matrix(Bs[0].tolist())).T
        for result, exact in ((forward, column), (backward, row)):
            size = mpmath.norm(exact)
            log = float(mpmath.log(size))
            assert log < 5 * np.log(np.finfo(np.float32).tiny)
            unit = np.asarray([float(entry / size) for entry in exact])
            direction, scale = (np.asarray(part, np.float64) for part in result)
            length = np.linalg.norm(direction)
            single = dtype == np.float32
            np.testing.assert_allclose(
                np.log(length) + scale, log, rtol=2e-4 if single else 1e-11, atol=0.05 * single
            )
            np.testing.assert_allclose(direction / length, unit, atol=1e-2 if single else 1e-10)
    assert np.asarray(forward[1]).dtype == np.asarray(forward[0]).dtype == dtype


@pytest.mark.parametrize("wrt", ["state", "input"])
def test_both_products_agree_in_the_inner_product_they_share(wrt):
    # u · (J v) = (Jᵀ u) · v, in logs, far out of the range of numbers.
    case, *_ = long_case(np.float64)
    operator = rj.jacobian_operator(*case, start=20, stop=LONG - 30, wrt=wrt)
    rng = np.random.default_rng(5)
    rows, columns = operator.shape
    for _ in range(3):
        u, v = rng.normal(size=rows), rng.normal(size=columns)
        (forward, one), (backward, other) = operator.matvec(v), operator.rmatvec(u)
        left, right = u @ np.asarray(forward), np.asarray(backward) @ v
        assert left * right > 0
        np.testing.assert_allclose(
            np.log(abs(left)) + one, np.log(abs(right)) + other, rtol=1e-11, atol=1e-9
        )


@functools.partial(jax.jit, compiler_options=QUICK)
@functools.partial(jax.vmap, in_axes=(None, 0, 0))
def every(cell, xs, key):
    operator = rj.jacobian_operator(cell, xs)
    return (
        operator.matvec(jnp.ones(H)),
        operator.rmatvec(jnp.ones(H)),
        rj.estimate_jacobian_log_norms(cell, xs, key=key),
        rj.estimate_jacobian_log_singular_values(cell, xs, k=2, key=key),
    )


def test_vmap_and_jit_are_each_sequence_with_its_key():
    cell, twin = network("simple_relu").cell, zoo.oracle(network("simple_relu").cell)
    batch = np.abs(np.random.default_rng(5).normal(size=(3, T, FEATURES))) * [-1.0, 1.0]  # alive
    batch[2] = batch[1]
    forward, backward, norms, singular = every(cell, batch, KEYS)
    for b, xs in enumerate(batch):
        carries, _ = oracles.run(twin.step, xs, np.zeros(H))
        As, Bs = oracles.one_step_jacobians(twin.jacobian, carries, xs)
        J = product(As)
        np.testing.assert_allclose(in_full(forward)[b], J.sum(axis=1), rtol=1e-11, atol=1e-14)
        np.testing.assert_allclose(in_full(backward)[b], J.sum(axis=0), rtol=1e-11, atol=1e-14)
        exact = np.linalg.svd(J, compute_uv=False)[:2]
        np.testing.assert_allclose(np.exp(singular[b]), exact, rtol=1e-6, atol=1e-14)
        exact = oracles.log_norms(As, Bs, slice(0, H), targets=[T - 1])
        assert np.isfinite(exact).all()
        assert (np.abs(norms.values[b] - exact) <= 4 * norms.standard_errors[b]).all()
    # Another key, other probes.
    assert (np.asarray(norms.values[1]) != np.asarray(norms.values[2])).any()


def test_nothing_passes_dead_units():
    cell = rj.SimpleRNNCell(FEATURES, H, activation="relu", rngs=nnx.Rngs(0))
    cell.kernel[...] = -jnp.ones((FEATURES, H))
    batch = np.stack([np.abs(XS)] * 3)
    forward, backward, norms, singular = every(cell, batch, KEYS)
    for logs in (forward[1], backward[1], norms.values, singular):
        assert np.isneginf(np.asarray(logs)).all()
    assert not np.concatenate([forward[0], backward[0]]).any()


CASES = [("lstm_peephole", "state", [1, -1]), ("dict_readout", "input", None)]


def exact_and_estimates(name, wrt, targets):
    """(exact table, estimates by 200 keys, their standard errors), with 8 probes for each."""
    net = network(name)
    keys = jax.random.split(jax.random.key(7), 200)

    @functools.partial(jax.jit, compiler_options=QUICK)
    @jax.vmap
    def estimate(key):
        return rj.estimate_jacobian_log_norms(
            net.cell, XS, net.carry, key=key, probes=8, wrt=wrt, targets=targets
        )

    got = estimate(keys)
    blocks = jacobians(name)[wrt].transpose(0, 2, 1, 3)[[-1] if targets is None else targets]
    with np.errstate(divide="ignore"):
        exact = np.log(np.linalg.norm(blocks, axis=(2, 3)))
    return exact, np.asarray(got.values), np.asarray(got.standard_errors)


@pytest.mark.parametrize(("name", "wrt", "targets"), CASES)
def test_estimates_scatter_about_the_exact_norm_as_they_say(name, wrt, targets):
    exact, values, errors = exact_and_estimates(name, wrt, targets)
    assert values.shape == errors.shape == (200, *exact.shape)
    later = np.isneginf(exact)
    assert np.isneginf(values[:, later]).all()
    assert not errors[:, later].any()
    values, errors, exact = values[:, ~later], errors[:, ~later], exact[~later]
    assert np.isfinite(values).all()
    # The square of the norm is what Gaussian probes estimate without bias.
    squares = np.exp(2 * (values - exact))
    mean_error = squares.std(axis=0) / np.sqrt(len(squares))
    assert (np.abs(squares.mean(axis=0) - 1) <= 4 * mean_error + 1e-9).all()
    # The error they state is, on average, the scatter that they have.
    scatter = values.std(axis=0)
    stated = np.sqrt((errors**2).mean(axis=0))
    assert (stated <= 1.6 * scatter + 1e-9).all()
    assert (stated >= 0.6 * scatter).all()


def test_many_probes_come_close():
    net, (As, Bs, *_) = network("lstm_peephole"), reference("lstm_peephole")
    exact = oracles.log_norms(As, Bs, slice(H, 2 * H), targets=[T - 1])
    got = rj.estimate_jacobian_log_norms(net.cell, XS, net.carry, key=KEY, probes=1600)
    errors = np.asarray(got.standard_errors)
    assert (errors < 0.03).all()
    assert (np.abs(np.asarray(got.values) - exact) <= 4 * errors).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_estimates_far_below_the_smallest_float(dtype):
    case, As, Bs = long_case(dtype)
    targets = [LONG - 1, LONG // 2]
    got = rj.estimate_jacobian_log_norms(*case, key=KEY, probes=32, targets=targets)
    values, errors = np.asarray(got.values), np.asarray(got.standard_errors)
    assert (values.dtype, values.shape) == (dtype, (2, LONG))
    exact = oracles.log_norms(As, Bs, slice(0, WIDE), targets=targets)
    past = np.isfinite(exact)
    assert np.isneginf(values[~past]).all()
    assert exact[0, 0] < 5 * np.log(np.finfo(np.float32).tiny)
    slack = 4 * errors + (0.05 + 2e-4 * np.abs(exact) if dtype == np.float32 else 1e-9)
    assert (np.abs(values[past] - exact[past]) <= slack[past]).all()


def test_leading_singular_values_are_exact_where_the_probes_span_everything():
    net = network("lstm_peephole")
    J = plain("lstm_peephole", "state")
    exact = np.log(np.linalg.svd(J, compute_uv=False))
    got = rj.estimate_jacobian_log_singular_values(
        net.cell, XS, net.carry, k=2 * H, key=KEY, start=START, stop=STOP, iterations=0
    )
    assert got.shape == (2 * H,)
    np.testing.assert_allclose(np.asarray(got)[:4], exact[:4], rtol=1e-6, atol=1e-8)
    assert (np.asarray(got) <= exact + 1e-6).all()


def test_leading_singular_values_never_exceed_the_true_ones_and_iterations_close_in():
    cell = rj.SimpleRNNCell(FEATURES, 30, rngs=nnx.Rngs(1))
    xs = np.random.default_rng(6).normal(size=(6, FEATURES))
    As = np.asarray(rj.linearize(cell, xs).state_jacobians)
    exact = np.log(np.linalg.svd(product(As), compute_uv=False))[:3]
    gaps = []
    for iterations in (0, 6):
        got = rj.estimate_jacobian_log_singular_values(
            cell, xs, k=3, key=KEY, oversample=2, iterations=iterations
        )
        assert (np.diff(got) <= 0).all()
        assert (np.asarray(got) <= exact + 1e-9).all()
        gaps.append((exact - np.asarray(got)).max())
    assert gaps[1] < 0.02 < gaps[0]


def linear_step(matrix, carry, x):
    h = matrix @ carry + x
    return h, h


def test_singular_values_of_two_thousand_float32_steps_of_one_symmetric_matrix():
    # A = V diag(a) Vᵀ, so ln σ_i of the product is T ln a_i: one of them explodes.
    factors, steps = np.asarray([1.1, 0.9, 0.5, 0.3, 0.1, 0.01]), 2000
    V = np.linalg.qr(np.random.default_rng(8).normal(size=(6, 6)))[0]
    cell = Partial(linear_step, jnp.asarray((V * factors) @ V.T, np.float32))
    xs, carry = np.zeros((steps, 6), np.float32), np.zeros(6, np.float32)
    got = rj.estimate_jacobian_log_singular_values(cell, xs, carry, k=3, key=KEY, oversample=1)
    assert got.dtype == np.float32
    np.testing.assert_allclose(np.asarray(got), steps * np.log(factors[:3]), rtol=1e-3, atol=1e-3)


NORMS, VALUES = ("estimate_jacobian_log_norms", "estimate_jacobian_log_singular_values")


@pytest.mark.parametrize(
    ("name", "options", "error", "says"),
    [
        ("jacobian_operator", {"wrt": "carry"}, ValueError, ["'input', 'state'", "'carry'"]),
        ("jacobian_operator", {"start": -1}, ValueError, ["start", "-1"]),
        ("jacobian_operator", {"stop": 6}, ValueError, ["stop", "6", "5"]),
        ("jacobian_operator", {"start": 3, "stop": 2}, ValueError, ["start", "3", "2"]),
        ("jacobian_operator", {"start": 0, "wrt": "input"}, ValueError, ["start", "1", "0"]),
        ("jacobian_operator", {"start": 1.5}, TypeError, ["start", "whole|int", "1.5"]),
        ("jacobian_operator", {"stop": "end"}, TypeError, ["stop", "whole|int", "'end'"]),
        (NORMS, {"key": 0}, TypeError, ["key", "int", r"jax\.random\.key"]),
        (NORMS, {"key": KEY, "probes": 0}, ValueError, ["probes", "0"]),
        (NORMS, {"key": KEY, "wrt": "y"}, ValueError, ["'input', 'state'", "'y'"]),
        (NORMS, {"key": KEY, "targets": [T]}, ValueError, [r"\[-5, 5\)", "got 5"]),
        (VALUES, {"k": 1, "key": "seed"}, TypeError, ["key", "str", r"jax\.random\.key"]),
        (VALUES, {"k": 0, "key": KEY}, ValueError, ["k ", "0"]),
        (VALUES, {"k": H + 1, "key": KEY}, ValueError, ["k ", "4", "3"]),
        (VALUES, {"k": 1, "key": KEY, "stop": 9}, ValueError, ["stop", "9", "5"]),
        (VALUES, {"k": 1, "key": KEY, "oversample": -1}, ValueError, ["oversample", "-1"]),
        (VALUES, {"k": 1, "key": KEY, "iterations": -1}, ValueError, ["iterations", "-1"]),
        (VALUES, {"k": 1, "key": KEY, "iterations": 1.5}, TypeError, ["iterations", "1.5"]),
    ],
)  # fmt: skip
def test_options_that_are_refused(name, options, error, says):
    cell = network("gru_reset_before").cell
    refused(lambda: getattr(rj, name)(cell, XS, **options), error, *says)


@pytest.mark.parametrize("name", ["jacobian_operator", NORMS, VALUES])
def test_sequences_and_carries_that_are_refused(name):
    options = {"jacobian_operator": {}, NORMS: {"key": KEY}, VALUES: {"k": 1, "key": KEY}}[name]
    cell, call = network("gru_reset_before").cell, functools.partial(getattr(rj, name), **options)
    refused(lambda: call(cell, XS[None]), ValueError, r"\(T, I\)", r"\(1, 5, 2\)", "vmap")
    refused(lambda: call(cell, XS[:0]), ValueError, "at least one", r"\(0, 2\)")
    refused(lambda: call(cell, XS.astype(complex)), TypeError, "real numbers", "complex128")
    refused(lambda: call(cell, XS, np.zeros(H + 1)), ValueError, r"\[4\]", "Leave carry out")


def test_vectors_that_are_refused():
    operator = rj.jacobian_operator(network("gru_reset_before").cell, XS, wrt="input")
    refused(lambda: operator.matvec(np.ones(H)), ValueError, r"\(2,\)", r"\(3,\)")
    refused(lambda: operator.rmatvec(np.ones(FEATURES)), ValueError, r"\(3,\)", r"\(2,\)")
    refused(lambda: operator.matvec(np.ones((1, FEATURES))), ValueError, r"\(2,\)", r"\(1, 2\)")
    refused(lambda: operator.matvec(np.ones(FEATURES, int)), TypeError, "float", "int")
    refused(lambda: operator.matvec("v"), TypeError, "str")
