"""Derivatives of steps that can be differentiated in one direction only, against analytic ones."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from refusing import refuses
from rnn_jax.gradients.differentiation import pullback, pushforward, step_jacobians

S, IN = 3, 2
RNG = np.random.default_rng(0)
W, V, U = (RNG.normal(size=shape) for shape in ((S, S), (IN, S), (S, 2)))
STATE, X = jnp.asarray(RNG.normal(size=S)), jnp.asarray(RNG.normal(size=IN))
CLOSE = {"rtol": 1e-12, "atol": 1e-14}


@jax.custom_vjp
def spike(u):
    """A threshold with the derivative of a fast sigmoid (a surrogate)."""
    return (u > 0).astype(u.dtype)


def surrogate(u):
    return 1 / (1 + abs(u)) ** 2


spike.defvjp(lambda u: (spike(u), u), lambda u, cotangent: (cotangent * surrogate(u),))


def repeated(u, times):
    """tanh applied so many times, a number that is known at run time only."""

    def again(state):
        k, u = state
        return k + 1, jnp.tanh(u)

    return lax.while_loop(lambda state: state[0] < times, again, (0, u))[1]


def repeated_slope(u, times):
    slope = np.ones_like(u)
    for _ in range(times):
        u = np.tanh(u)
        slope = slope * (1 - u * u)
    return slope


def with_activation(activation):
    def step(state, x):
        after = activation(state @ W + x @ V)
        return after, after @ U + jnp.sum(x)

    return step


# name: (a step, φ' at the pre-activations)
STEPS = {
    "both": (with_activation(jnp.tanh), lambda u: 1 - np.tanh(u) ** 2),
    "reverse_only": (with_activation(spike), surrogate),
    "forward_only": (
        with_activation(lambda u: repeated(u, jnp.asarray(2))),
        lambda u: repeated_slope(u, 2),
    ),
}
each_step = pytest.mark.parametrize("name", STEPS)


def analytic(name, state=STATE, x=X):
    slope = STEPS[name][1](np.asarray(state) @ W + np.asarray(x) @ V)
    a, b = slope[:, None] * W.T, slope[:, None] * V.T
    return a, b, U.T @ a, U.T @ b + 1.0


def test_each_has_the_directions_that_its_name_says():
    tangents = (STATE, X)
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(STEPS["reverse_only"][0], (STATE, X), tangents)
    with pytest.raises(ValueError, match="Reverse-mode"):
        jax.grad(lambda state: STEPS["forward_only"][0](state, X)[1][0])(STATE)


# Outside of `jit`, where the natural direction is missing: there JAX says so at another place.
@pytest.mark.parametrize(
    ("name", "transform"),
    [
        *((name, jax.jit) for name in STEPS),
        *((name, lambda f: f) for name in ("reverse_only", "forward_only")),
    ],
)
def test_jacobians_of_a_step(name, transform):
    step = STEPS[name][0]
    found = transform(lambda state, x: step_jacobians(step, state, x))(STATE, X)
    chex.assert_trees_all_close(tuple(found), analytic(name), **CLOSE)


@each_step
def test_jacobians_of_many_steps_at_once(name):
    states, xs = jnp.stack([STATE, -STATE]), jnp.stack([X, 2 * X])
    found = jax.jit(jax.vmap(lambda state, x: step_jacobians(STEPS[name][0], state, x)))(states, xs)
    for k in range(2):
        expected = analytic(name, states[k], xs[k])
        chex.assert_trees_all_close(tuple(part[k] for part in found), expected, **CLOSE)


@each_step
def test_pushing_forward(name):
    step, (a, b, c, d) = STEPS[name][0], analytic(name)
    tangents = (STATE + 1, X - 1)

    @jax.jit
    def push(state, x, tangents):
        return pushforward(step, (state, x), tangents)

    for out, along in (pushforward(step, (STATE, X), tangents), push(STATE, X, tangents)):
        chex.assert_trees_all_close(out, step(STATE, X), **CLOSE)
        expected = (a @ tangents[0] + b @ tangents[1], c @ tangents[0] + d @ tangents[1])
        chex.assert_trees_all_close(along, expected, **CLOSE)


@each_step
def test_pulling_back(name):
    step, (a, b, c, d) = STEPS[name][0], analytic(name)
    cotangent = (STATE - 1, jnp.asarray([0.5, -2.0]))

    @jax.jit
    def pulled(state, x, cotangent):
        out, pull = pullback(step, state, x)
        return out, pull(cotangent)

    out, found = pulled(STATE, X, cotangent)
    chex.assert_trees_all_close(out, step(STATE, X), **CLOSE)
    expected = (cotangent[0] @ a + cotangent[1] @ c, cotangent[0] @ b + cotangent[1] @ d)
    chex.assert_trees_all_close(found, expected, **CLOSE)
    chex.assert_trees_all_close(pullback(step, STATE, X)[1](cotangent), expected, **CLOSE)


@each_step
def test_pytrees_with_leaves_that_are_no_floats(name):
    step = STEPS[name][0]

    def by_weights(weights, state):
        after, y = step(state * weights["scale"], X)
        return {"after": after, "count": weights["count"] + 1, "y": y}

    weights = {"scale": jnp.asarray(0.5), "count": jnp.asarray(3)}
    none = np.zeros((), jax.dtypes.float0)
    a, _, c, _ = analytic(name, 0.5 * STATE)
    out, along = pushforward(
        by_weights, (weights, STATE), ({"scale": jnp.asarray(2.0), "count": none}, 0 * STATE)
    )
    assert out["count"] == 4
    assert along["count"].dtype == jax.dtypes.float0
    np.testing.assert_allclose(along["after"], a @ (2.0 * STATE), **CLOSE)
    _, pull = pullback(by_weights, weights, STATE)
    found, by_state = pull({"after": 0 * STATE, "count": none, "y": jnp.ones(2)})
    assert found["count"].dtype == jax.dtypes.float0
    np.testing.assert_allclose(found["scale"], jnp.ones(2) @ c @ STATE, **CLOSE)
    np.testing.assert_allclose(by_state, 0.5 * jnp.ones(2) @ c, **CLOSE)


CALLS = {
    "jacobians": lambda step: step_jacobians(step, STATE, X),
    "pushforward": lambda step: pushforward(step, (STATE, X), (STATE, X)),
    "pullback": lambda step: pullback(step, STATE, X)[1]((STATE, jnp.ones(2))),
}
each_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@each_call
def test_the_natural_direction_traces_a_step_once(call):
    calls = []

    def step(state, x):
        calls.append(1)
        return STEPS["both"][0](state, x)

    jax.jit(lambda: call(step))()
    assert len(calls) == 1


@each_call
def test_a_step_without_derivatives_is_refused(call):
    step = with_activation(lambda u: spike(repeated(u, jnp.asarray(2))))
    refuses(
        lambda: call(step),
        TypeError,
        "a step must be differentiable",
        "got one that is neither",
        "lax.scan",
    )
    with pytest.raises(TypeError) as caught:
        call(step)
    assert caught.value.__cause__ is not None


@each_call
@pytest.mark.parametrize("error", [TypeError("mine"), ValueError("mine"), KeyError("mine")])
def test_what_a_step_raises_by_itself_is_what_is_raised(call, error):
    def step(state, x):
        raise error

    with pytest.raises(type(error), match="mine"):
        call(step)
