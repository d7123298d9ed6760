"""Nothing to differentiate: carries, outputs and batches of size 0."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import rnn_jax as rj
from refusing import refuses
from training import toys

XS = jnp.ones((4, 2))
CALLS = [
    "covariant_lyapunov_vectors",
    "gradient_flow",
    "input_jacobian",
    "jacobian_log_norms",
    "jacobian_log_singular_values",
    "linearize",
    "lyapunov_exponents",
    "state_jacobian",
]
EMPTY = {
    "carry": (lambda carry, x: (carry, x), jnp.zeros(0), "float64[0]"),
    "carry without leaves": (lambda carry, x: (carry, x), (), "()"),
    "output": (lambda carry, x: (carry, x[:0]), jnp.zeros(2), "float64[0]"),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("what", EMPTY)
def test_what_has_no_numbers_is_refused(name, what):
    cell, carry, got = EMPTY[what]
    words = (f"a cell's {what.split()[0]} must have at least one number", got)
    refuses(lambda: getattr(rj, name)(cell, XS, carry), ValueError, *words)


def test_a_cell_may_go_on_by_itself():
    """Inputs without features, as for a map that is iterated."""
    spectrum = rj.lyapunov_exponents(lambda h, x: (0.5 * h, h), XS[:, :0], jnp.ones(2))
    np.testing.assert_allclose(spectrum.exponents, jnp.log(jnp.array([0.5, 0.5])), rtol=1e-12)


@pytest.mark.parametrize("features", [0, 2])
def test_a_part_of_size_0_takes_no_part(features):
    """Measures of a carry with an empty leaf are those without it, and −inf for the leaf."""

    def step(h, x):
        return jnp.tanh(0.5 * h + jnp.sum(x)), h

    def with_empty(carry, x):
        h, y = step(carry[0], x)
        return (h, carry[1]), y

    @functools.partial(jax.jit, static_argnums=0)
    def measure(cell, carry):
        xs = XS[:, :features]
        signal = rj.backprop_signal(jnp.sum, cell, xs, carry)
        blocks = rj.attribution(cell, xs, carry).block_log_norms
        return signal, blocks, rj.gradient_flow(cell, xs, carry, wrt="state", measures=())

    h = jnp.ones(2)
    signal, blocks, flow = measure(with_empty, (h, jnp.zeros(0)))
    plain, plain_blocks, plain_flow = measure(step, h)
    (block,) = plain_blocks.values()
    np.testing.assert_allclose(flow.log_norms, plain_flow.log_norms, rtol=1e-12)
    np.testing.assert_allclose(signal.total, plain.total, rtol=1e-12)
    np.testing.assert_allclose(blocks["0_0"], block, rtol=1e-12)
    assert all(np.isneginf(value).all() for name, value in blocks.items() if name != "0_0")


def test_a_batch_of_none_is_refused():
    cell = rj.GRUCell(2, 3, rngs=nnx.Rngs(0))
    words = ("xs must hold at least one sequence", "[0, 4, 2]", "Pass B")
    refuses(lambda: rj.gradient_flow(cell, jnp.ones((0, 4, 2))), ValueError, *words)


def test_states_and_batches_of_none_can_still_be_run():
    _, ys = rj.unroll(lambda carry, x: (carry, x), XS, jnp.zeros(0))
    assert ys.shape == XS.shape
    _, ys = rj.unroll(rj.GRUCell(2, 3, rngs=nnx.Rngs(0)), jnp.ones((0, 4, 2)))
    assert ys.shape == (0, 4, 3)


def test_probes_of_a_cell_without_state_get_the_rule():
    class Stateless:
        def initialize_carry(self, shape):
            return jnp.zeros(0)

        def __call__(self, carry, x):
            return carry, x

    for kind in (rj.GradientFlowProbe, rj.LyapunovProbe):
        probe = kind(1, cell=lambda model: Stateless())
        refuses(
            lambda probe=probe: rj.fit(
                toys.linear(),
                toys.Mixing(),
                optax.sgd(0.1),
                steps=1,
                batch_size=4,
                seed=0,
                probes=probe,
            ),
            ValueError,
            "a cell's carry must have at least one number",
        )
