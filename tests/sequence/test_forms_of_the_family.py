"""Fused forms of the long-memory family against plain scans of the same steps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_fused import assert_close, is_fused, random_like

import rnn_jax as rj

IN, H, T, B = 2, 4, 6, 2
FORMS = {
    "leaky": lambda **o: rj.LeakyIntegratorCell(IN, H, time_constant=3.0, **o),
    "leaky_learnt": lambda **o: rj.LeakyIntegratorCell(
        IN, H, time_constant=3.0, learn_time_constant=True, **o
    ),
    "exprnn": lambda **o: rj.ExpRNNCell(IN, H, **o),
    "scornn": lambda **o: rj.ScoRNNCell(IN, H, **o),
    "antisymmetric": lambda **o: rj.AntisymmetricRNNCell(IN, H, epsilon=0.3, **o),
    "antisymmetric_gated": lambda **o: rj.AntisymmetricRNNCell(IN, H, epsilon=0.3, gated=True, **o),
    "fast_grnn": lambda **o: rj.FastGRNNCell(IN, H, **o),
    "mgu_reset_after": lambda **o: rj.MGUCell(IN, H, reset_after=True, **o),
    "mgu": lambda **o: rj.MGUCell(IN, H, **o),
    "ugrnn": lambda **o: rj.UGRNNCell(IN, H, **o),
    "cfc": lambda **o: rj.CfCCell(IN, H, backbone_layers=0, **o),
    "slstm": lambda **o: rj.SLSTMCell(IN, H, num_heads=2, **o),
    "gru_reset_before": lambda **o: rj.GRUCell(IN, H, reset_after=False, **o),
    "cornn": lambda **o: rj.CoRNNCell(IN, H, time_step=0.3, gamma=1.7, epsilon=0.9, **o),
    "lem": lambda **o: rj.LEMCell(IN, H, time_step=0.8, **o),
    "unitary": lambda **o: rj.UnitaryRNNCell(IN, H, **o),
}
# Under what rows are run; steps of padding and starts within a row, in both directions.
OPTIONS = {
    "plain": {},
    "forwards": {"lengths": np.asarray([T, 3]), "resets": np.arange(2 * T).reshape(2, T) % 4 == 2},
    "backwards": {
        "mask": np.arange(2 * T).reshape(2, T) % 5 > 0,
        "resets": np.arange(2 * T).reshape(2, T) % 4 == 2,
        "reverse": True,
        "return_carries": True,
    },
}


def without_claims(cell):
    """The cell as a function that says nothing of itself."""
    leaves, structure = jax.tree.flatten(cell)

    def call(*leaves_carry_x):
        *leaves, carry, x = leaves_carry_x
        return jax.tree.unflatten(structure, leaves)(carry, x)

    return jax.tree_util.Partial(call, *leaves)


def point_at(name, seed=1, **types):
    """(cell, inputs, carry) of random weights."""
    cell = FORMS[name](rngs=nnx.Rngs(seed), **types)
    cell = jax.tree.map(lambda a, d: a + 0.4 * d, cell, random_like(cell, seed))
    rng = np.random.default_rng(seed)
    xs = jnp.asarray(rng.normal(size=(B, T, IN)))
    carry = jax.tree.map(
        lambda a: jnp.asarray(rng.uniform(0.1, 1, a.shape), a.dtype),
        cell.initialize_carry((B, IN)),
    )
    return cell, xs, carry


def value_of(run, cell, xs, carry):
    leaves = jax.tree.leaves(run(cell, xs, carry))
    return sum(jnp.mean(jnp.sin((k + 1.0) * leaf)) for k, leaf in enumerate(leaves))


def run_as(wrap, options, cell, xs, carry):
    initial = jax.tree.map(lambda a: 0.5 * a, carry) if "resets" in options else None
    return rj.unroll(wrap(cell), xs, carry, initial=initial, **options)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", FORMS)
def test_values_and_derivatives_are_those_of_the_steps(name, options):
    """For two sets of weights at once: value, gradient, tangent, Hessian-vector product."""
    points = [point_at(name, seed) for seed in (1, 2)]
    cells = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(point[0] for point in points))
    _, *rest = points[0]

    def everything(wrap):
        run = functools.partial(run_as, wrap, OPTIONS[options])

        def of_member(cell):
            point = (cell, *rest)
            slope = jax.value_and_grad(functools.partial(value_of, run), (0, 1, 2))
            return run(*point), jax.jvp(slope, point, random_like(point))

        return jax.jit(jax.vmap(of_member))(cells)

    assert is_fused(rj.unroll, *points[0])
    assert_close(everything(lambda cell: cell), everything(without_claims))
