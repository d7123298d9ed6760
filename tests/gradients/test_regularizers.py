"""Penalties on gradients: their values by plain loops, their gradients by differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial
from test_reference import FEATURES, QUICK, XS, H, T, network

import oracles
import oracles_spectra
import rnn_jax as rj
import zoo
from refusing import refused

NAMES = ("simple_tanh", "lstm_peephole")  # a simple cell, and gates with two parts of a carry
WEIGHTS = np.cos(np.arange(T * H)).reshape(T, H)
ALL = np.ones(T)
EARLY = np.asarray([1.0, 1.0, 1.0, 0.0, 0.0])  # the signal of the last two steps is exactly zero


@jax.jit
def loss(ys, reads=ALL):
    ys = jnp.asarray(reads, ys.dtype)[: len(ys), None] * ys
    return jnp.sum(jnp.asarray(WEIGHTS[: len(ys)], ys.dtype) * ys + ys**3)


def loss_slopes(ys, reads):
    return reads[:, None] * WEIGHTS + 3 * reads[:, None] ** 3 * ys**2


@functools.cache
def twin_of(name):
    """(step, jacobian, output rows) of one of our cells as functions of its weights."""
    cell = network(name).cell
    kind, form = zoo._kind_and_form(cell)
    step, jacobian = (getattr(oracles, f"{kind}_{what}") for what in ("step", "jacobian"))
    return (
        lambda weights: functools.partial(step, weights, **form),
        lambda weights: functools.partial(jacobian, weights, **form),
        zoo.oracle(cell).output_rows,
    )


def trajectory(name, weights):
    """carries (T + 1, S), ys, one-step Jacobians (T, S, S) by hand-derived equations."""
    step, jacobian, _ = twin_of(name)
    carries, ys = oracles.run(step(weights), XS, network(name).state)
    return carries, ys, oracles.one_step_jacobians(jacobian(weights), carries, XS)[0]


def omega(As, deltas):
    """Σ over t = 1 … T−1 of (‖A_{t+1}ᵀ δ_{t+1}‖ / ‖δ_{t+1}‖ − 1)², As[t] is A_{t+1}."""
    total = 0.0
    for A, delta in zip(As[1:], deltas[1:], strict=True):
        if delta.any():
            total += (np.linalg.norm(A.T @ delta) / np.linalg.norm(delta) - 1) ** 2
    return total


def signals(name, ys, As, reads):
    return oracles.backprop_signal(As, loss_slopes(ys, reads), twin_of(name)[2])


def full_omega(name, weights, reads=ALL):
    _, ys, As = trajectory(name, weights)
    return omega(As, signals(name, ys, As, reads))


def frozen_omega(name, weights, at):
    """Ω with states and signals as the weights `at` make them: only the Jacobians are new."""
    carries, ys, As = trajectory(name, at)
    again = oracles.one_step_jacobians(twin_of(name)[1](weights), carries, XS)[0]
    return omega(again, signals(name, ys, As, ALL))


def flossing(name, weights, k, target, warmup, interval):
    """Mean of (λ_i − target_i)², λ by QR of the product applied to the first directions."""
    _, _, As = trajectory(name, weights)
    Q = oracles_spectra.first_directions(As.shape[1], k)
    for A in As[:warmup]:
        Q = np.linalg.qr(A @ Q)[0]
    sums = np.zeros(Q.shape[1])
    for start in range(warmup, T, interval):
        for A in As[start : start + interval]:
            Q = A @ Q
        Q, R = np.linalg.qr(Q)
        sums += np.log(np.abs(np.diag(R)))
    exponents = np.sort(sums / (T - warmup))[::-1]
    return ((exponents - np.asarray(target)) ** 2).mean()


def random_like(weights, seed):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=value.shape) for name, value in weights.items()}


def slope_along(function, weights, direction, size=2e-3):
    """Richardson on central differences of a function of weights by name."""

    def central(size):
        ends = [
            function({key: weights[key] + sign * size * direction[key] for key in weights})
            for sign in (1, -1)
        ]
        return (ends[0] - ends[1]) / (2 * size)

    return (4 * central(size / 2) - central(size)) / 3


def check_gradient(gradient, function, weights, rtol=1e-7, atol=1e-9):
    """A gradient, shaped like the cell, against the slopes of `function` along two directions."""
    gradient = zoo.weights_of(gradient)
    assert gradient.keys() == weights.keys()
    for seed in (0, 1):
        direction = random_like(weights, seed)
        got = sum(np.sum(gradient[key] * direction[key]) for key in weights)
        expected = slope_along(function, weights, direction)
        np.testing.assert_allclose(got, expected, rtol=rtol, atol=atol)


@functools.partial(jax.jit, compiler_options=QUICK)
def vanishing(cell, xs, carry, reads=ALL):
    """(value, gradient by the cell) of the full penalty and of the immediate one."""

    def value(cell, immediate):
        def of(ys):
            return loss(ys, reads)

        return rj.vanishing_penalty(of, cell, xs, carry, immediate=immediate)

    return [jax.value_and_grad(value)(cell, immediate) for immediate in (False, True)]


@functools.cache
def of_network(name):
    net = network(name)
    return vanishing(net.cell, XS, net.carry, ALL)


@pytest.mark.parametrize("reads", [ALL, EARLY], ids=["all steps", "early steps"])
@pytest.mark.parametrize("name", NAMES)
def test_vanishing_penalty_is_the_plain_loop_and_its_gradient_the_difference(name, reads):
    net, weights = network(name), zoo.weights_of(network(name).cell)
    (value, gradient), _ = vanishing(net.cell, XS, net.carry, reads)
    assert value.shape == ()
    np.testing.assert_allclose(np.asarray(value), full_omega(name, weights, reads), rtol=1e-11)
    assert jax.tree.structure(gradient) == jax.tree.structure(net.cell)
    check_gradient(gradient, functools.partial(full_omega, name, reads=reads), weights)


@pytest.mark.parametrize("name", NAMES)
def test_immediate_penalty_has_the_same_value_and_the_gradient_of_the_frozen_one(name):
    weights = zoo.weights_of(network(name).cell)
    (_, full), (value, gradient) = of_network(name)
    np.testing.assert_allclose(np.asarray(value), full_omega(name, weights), rtol=1e-11)
    check_gradient(gradient, functools.partial(frozen_omega, name, at=weights), weights)
    # And this is another gradient than that of the full penalty.
    pairs = zip(*map(jax.tree.leaves, (gradient, full)), strict=True)
    assert any(np.abs(np.asarray(one) - np.asarray(other)).max() > 1e-3 for one, other in pairs)


def test_vanishing_penalty_of_a_cell_whose_output_is_no_part_of_its_carry():
    net = network("dict_readout")
    vector, unravel = ravel_pytree(net.cell)

    def square(ys):
        return jnp.sum(ys**2)

    @jax.jit
    @jax.value_and_grad
    def value(vector):
        return rj.vanishing_penalty(square, unravel(vector), XS, net.carry)

    lin = rj.linearize(net.cell, XS, net.carry)
    C, ys, As = map(np.asarray, (lin.output_state_jacobians, lin.outputs, lin.state_jacobians))
    delta, rows = np.zeros(As.shape[1]), []
    for step in reversed(range(T)):  # δ_T = 0: no output reads the last carry
        rows.append(delta)
        delta = As[step].T @ delta + 2 * C[step].T @ ys[step]
    got, gradient = value(vector)
    np.testing.assert_allclose(np.asarray(got), omega(As, rows[::-1]), rtol=1e-11)
    direction = np.random.default_rng(1).normal(size=vector.shape)
    expected = slope_along(lambda at: value(at["w"])[0], {"w": vector}, {"w": direction})
    np.testing.assert_allclose(np.asarray(gradient) @ direction, expected, rtol=1e-7)


def test_a_linear_orthogonal_network_pays_nothing():
    cell = rj.SimpleRNNCell(FEATURES, H, activation="identity", rngs=nnx.Rngs(0))
    for value, gradient in vanishing(cell, XS, None):
        assert 0 <= value < 1e-28
        assert all(np.abs(np.asarray(leaf)).max() < 1e-13 for leaf in jax.tree.leaves(gradient))
    assert rj.orthogonality_penalty(cell) < 1e-28
    assert rj.flossing_penalty(cell, XS) < 1e-28


def test_a_silent_loss_or_a_single_step_pays_nothing_and_has_no_gradient():
    net = network("simple_tanh")
    silent, single = vanishing(net.cell, XS, net.carry, 0 * ALL), vanishing(net.cell, XS[:1], None)
    for value, gradient in (*silent, *single):
        assert value == 0
        assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradient))


def test_a_signal_that_dies_on_the_way_back_pays_one_a_step_and_has_a_finite_gradient():
    cell = rj.SimpleRNNCell(FEATURES, H, activation="relu", rngs=nnx.Rngs(0))
    cell.kernel[...] = -jnp.ones((FEATURES, H))
    for value, gradient in vanishing(cell, np.abs(XS), jnp.zeros(H), ALL):
        assert value == T - 1
        assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(gradient))


def test_three_hundred_float32_steps_pay_what_float64_says():
    steps, size = 300, 8
    cell = rj.SimpleRNNCell(
        FEATURES, size, activation="sigmoid", param_dtype=jnp.float32, rngs=nnx.Rngs(0)
    )
    xs = np.random.default_rng(1).normal(size=(steps, FEATURES)).astype(np.float32)
    value, gradient = jax.jit(
        jax.value_and_grad(lambda cell: rj.vanishing_penalty(lambda ys: jnp.sum(ys[-1]), cell, xs))
    )(cell)
    twin = zoo.oracle(cell)
    carries, _ = oracles.run(twin.step, xs.astype(np.float64), np.zeros(size))
    As, _ = oracles.one_step_jacobians(twin.jacobian, carries, xs.astype(np.float64))
    delta, rows = np.ones(size), []
    for A in As[::-1]:
        rows.append(delta)
        delta = A.T @ (delta / np.linalg.norm(delta))
    assert value.dtype == np.float32
    np.testing.assert_allclose(np.asarray(value), omega(As, rows[::-1]), rtol=1e-4)
    for leaf in jax.tree.leaves(gradient):
        assert np.isfinite(np.asarray(leaf)).all()
        assert np.asarray(leaf).any()


FLOSSING = [
    ("simple_tanh", {}),
    # The last window is shorter than the others.
    ("lstm_peephole", {"k": 2, "target": (0.1, -0.7), "warmup": 1, "interval": 3}),
]


@pytest.mark.parametrize(("name", "options"), FLOSSING)
def test_flossing_penalty_is_that_of_plain_qr_and_its_gradient_the_difference(name, options):
    net, weights = network(name), zoo.weights_of(network(name).cell)
    default = {"k": None, "target": 0.0, "warmup": 0, "interval": 1}
    options = {**default, **options}
    oracle = functools.partial(
        flossing, name, **{**options, "target": np.asarray(options["target"])}
    )

    @functools.partial(jax.jit, compiler_options=QUICK)
    @jax.value_and_grad
    def value(cell):
        return rj.flossing_penalty(cell, XS, net.carry, **options)

    got, gradient = value(net.cell)
    assert got.shape == ()
    np.testing.assert_allclose(np.asarray(got), oracle(weights), rtol=1e-10)
    check_gradient(gradient, oracle, weights, rtol=1e-6)


orthogonality = jax.jit(jax.value_and_grad(rj.orthogonality_penalty))


@pytest.mark.parametrize("name", ["simple_tanh", "lstm_coupled", "gru_reset_after"])
def test_orthogonality_penalty_sums_over_the_blocks_of_the_recurrent_kernel(name):
    cell = zoo.CELLS[name](FEATURES, H, 0)
    assert orthogonality(cell)[0] < 1e-26  # each block starts orthogonal
    kernel = np.random.default_rng(2).normal(size=cell.recurrent_kernel.shape)
    cell.recurrent_kernel[...] = jnp.asarray(kernel)
    blocks = np.split(kernel, kernel.shape[1] // H, axis=1)
    errors = [W.T @ W - np.eye(H) for W in blocks]
    value, gradient = orthogonality(cell)
    np.testing.assert_allclose(np.asarray(value), sum((E**2).sum() for E in errors), rtol=1e-12)
    gradient = zoo.weights_of(gradient)
    expected = np.hstack([4 * W @ E for W, E in zip(blocks, errors, strict=True)])
    np.testing.assert_allclose(gradient.pop("recurrent_kernel"), expected, rtol=1e-12, atol=1e-12)
    assert not any(other.any() for other in gradient.values())
    bare, by_kernel = orthogonality(jnp.asarray(kernel))
    np.testing.assert_allclose(np.asarray(bare), np.asarray(value), rtol=1e-14)
    np.testing.assert_allclose(np.asarray(by_kernel), expected, rtol=1e-12, atol=1e-12)


def test_a_stack_pays_for_each_of_its_layers():
    cells = [zoo.CELLS["lstm"](FEATURES, H, 1), zoo.CELLS["gru_reset_after"](H, 2, 2)]
    for seed, cell in enumerate(cells):
        noise = np.random.default_rng(seed).normal(size=cell.recurrent_kernel.shape)
        cell.recurrent_kernel[...] = jnp.asarray(noise)
    parts = jax.jit(lambda cells: [rj.orthogonality_penalty(cell) for cell in cells])
    whole, *each = parts([rj.StackedCell(cells), *cells])
    np.testing.assert_allclose(np.asarray(whole), sum(map(np.asarray, each)), rtol=1e-13)


PENALTIES = {
    "vanishing": functools.partial(rj.vanishing_penalty, loss),
    "immediate": functools.partial(rj.vanishing_penalty, loss, immediate=True),
    "flossing": functools.partial(rj.flossing_penalty, k=2, target=-0.5),
    "orthogonality": lambda cell, xs, carry: rj.orthogonality_penalty(cell),
}


@pytest.mark.parametrize("kind", PENALTIES)
def test_second_derivatives_are_differences_of_the_first(kind):
    net = network("simple_tanh")
    vector, unravel = ravel_pytree(net.cell)
    rng = np.random.default_rng(3)
    vector = jnp.asarray(np.asarray(vector) + 0.1 * rng.normal(size=vector.shape))
    direction = rng.normal(size=vector.shape)
    gradient = jax.grad(lambda vector: PENALTIES[kind](unravel(vector), XS, net.carry))

    @functools.partial(jax.jit, compiler_options=QUICK)
    def both(vector, direction):
        return jax.jvp(gradient, (vector,), (direction,))

    _, got = map(np.asarray, both(vector, direction))

    def first(at):
        return np.asarray(both(at["w"], direction)[0])

    if kind == "immediate":  # of the frozen penalty, whose states do not move with the weights
        base = zoo.weights_of(unravel(vector))
        along = zoo.weights_of(unravel(jnp.asarray(direction)))

        def first(at):
            moved = {key: base[key] + float(at["w"]) * along[key] for key in base}
            return slope_along(lambda w: frozen_omega("simple_tanh", w, base), moved, along)

        expected = slope_along(first, {"w": 0.0}, {"w": 1.0})
        np.testing.assert_allclose(got @ direction, expected, rtol=1e-5)
        return
    expected = slope_along(first, {"w": vector}, {"w": direction}, 5e-4)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


def test_vmap_and_jit():
    net, weights = network("simple_tanh"), zoo.weights_of(network("simple_tanh").cell)

    @functools.partial(jax.jit, compiler_options=QUICK)
    @functools.partial(jax.vmap, in_axes=(None, 0))
    def penalties(cell, xs):
        options = {"k": 2, "target": -0.5}
        return (
            rj.vanishing_penalty(loss, cell, xs, net.carry),
            rj.flossing_penalty(cell, xs, net.carry, **options),
        )

    batch = np.stack([XS, XS[::-1]])
    both, turned = penalties(net.cell, batch), penalties(net.cell, batch[::-1])
    expected = full_omega("simple_tanh", weights), flossing("simple_tanh", weights, 2, -0.5, 0, 1)
    np.testing.assert_allclose([values[0] for values in both], expected, rtol=1e-10)
    np.testing.assert_allclose([values[1] for values in turned], expected, rtol=1e-10)


def test_to_the_immediate_penalty_the_inputs_and_the_initial_carry_are_constants():
    net = network("simple_tanh")

    @functools.partial(jax.jit, compiler_options=QUICK)
    @functools.partial(jax.grad, argnums=(0, 1))
    def gradients(xs, carry):
        return rj.vanishing_penalty(loss, net.cell, xs, carry, immediate=True)

    assert not any(np.asarray(part).any() for part in gradients(jnp.asarray(XS), net.carry))


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"k": 0}, ValueError, ["k ", "0"]),
        ({"k": H + 1}, ValueError, ["k ", "4", "3"]),
        ({"k": 1.5}, TypeError, ["k ", "1.5"]),
        ({"warmup": T}, ValueError, ["warmup", "5"]),
        ({"warmup": -1}, ValueError, ["warmup", "-1"]),
        ({"interval": 0}, ValueError, ["interval", "0"]),
        ({"target": (0.0, 0.1)}, ValueError, ["target", r"\(2,\)", r"\(3,\)"]),
        ({"target": "zero"}, TypeError, ["target", "zero|str"]),
    ],
)
def test_flossing_options_that_are_refused(options, error, says):
    cell = network("simple_tanh").cell
    refused(lambda: rj.flossing_penalty(cell, XS, **options), error, *says)


def test_other_arguments_that_are_refused():
    cell, call = network("simple_tanh").cell, rj.vanishing_penalty
    refused(lambda: call(cell, loss, XS), TypeError, r"\(loss, cell, xs\)")
    refused(lambda: call(lambda ys: ys, cell, XS), ValueError, "one real number", "float64")
    for of_cell in (functools.partial(call, loss), rj.flossing_penalty):
        refused(lambda f=of_cell: f(cell, XS[None]), ValueError, r"\(T, I\)", r"\(1, 5, 2\)")
        refused(lambda f=of_cell: f(cell, XS[:0]), ValueError, "at least one", r"\(0, 2\)")
        refused(
            lambda f=of_cell: f(cell, XS.astype(complex)), TypeError, "real numbers", "complex128"
        )
        refused(lambda f=of_cell: f(cell, XS, np.zeros(4)), ValueError, r"\[4\]", "Leave carry out")
    call = rj.orthogonality_penalty
    refused(lambda: call(Partial(jnp.sin)), TypeError, "recurrent_kernel", "Partial")
    refused(lambda: call("lstm"), TypeError, "recurrent_kernel", "str")
    refused(lambda: call(np.ones((3, 4))), ValueError, r"\(H, G", r"\(3, 4\)")
    refused(lambda: call(np.ones(3)), ValueError, r"\(H, G", r"\(3,\)")
    refused(lambda: call(np.ones((3, 3), int)), TypeError, "float", "int64")
