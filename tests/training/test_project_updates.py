"""`project_updates`: parameters stay in their set, in `fit` too."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import rnn_jax as rj

CAP = 2 ** (1 / 8)
PARAMS = {"u": jnp.asarray([0.9, -1.0, 0.2]), "w": jnp.asarray([5.0])}


def capped(u):
    return jnp.clip(u, -CAP, CAP)


def is_u(path):
    return path.endswith(("u", "recurrent_weights"))


def test_what_is_picked_ends_in_the_set_and_the_rest_is_moved_as_it_was():
    keep = rj.project_updates(capped, is_u)
    updates = {"u": jnp.asarray([0.5, -0.5, 0.1]), "w": jnp.asarray([1.0])}
    found, _ = keep.update(updates, keep.init(PARAMS), PARAMS)
    moved = optax.apply_updates(PARAMS, found)
    np.testing.assert_allclose(moved["u"], [CAP, -CAP, 0.3], rtol=1e-15)
    np.testing.assert_array_equal(moved["w"], [6.0])


@pytest.mark.filterwarnings("default")
def test_weights_stay_capped_while_a_network_learns():
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        cell = rj.IndRNNCell(2, 4, length=8, rngs=nnx.Rngs(0))
        model = rj.SequenceModel(cell, 1, rngs=nnx.Rngs(1))

        def trained(*projected):
            # The noise of such steps takes some weights beyond the cap.
            optimizer = optax.chain(optax.noisy_sgd(1.0, key=0), *projected)
            result = rj.fit(model, rj.tasks.Adding(8), optimizer, steps=4, batch_size=2, seed=0)
            return np.abs(np.asarray(result.model.cells[0].recurrent_weights[...]))

        assert trained().max() > CAP + 0.1
        kept = trained(rj.project_updates(capped, is_u))
        assert kept.max() <= CAP + 1e-6


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: rj.project_updates(1.0, is_u), TypeError, "^projection must be a function; got"),
        (lambda: rj.project_updates(capped, "u"), TypeError, "^where must be a function; got"),
        (
            lambda: rj.project_updates(capped, is_u).update(PARAMS, optax.EmptyState()),
            ValueError,
            "needs the parameters; got none",
        ),
        (
            lambda: rj.project_updates(capped, lambda path: False).update(
                PARAMS, optax.EmptyState(), PARAMS
            ),
            ValueError,
            "^where must pick a parameter; got none of u, w",
        ),
        (
            lambda: rj.project_updates(capped, lambda path: path).update(
                PARAMS, optax.EmptyState(), PARAMS
            ),
            TypeError,
            "^where must return whether .*; got .*'u'",
        ),
        (
            lambda: rj.project_updates(lambda u: u[:1], is_u).update(
                PARAMS, optax.EmptyState(), PARAMS
            ),
            ValueError,
            r"^projection must keep shape and type, \(3,\)",
        ),
    ],
)
def test_what_cannot_be_is_refused(call, error, said):
    with pytest.raises(error, match=said):
        call()
