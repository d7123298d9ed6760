"""Every whole number in [0, 2^63) is a seed of its own, with and without 64-bit types."""

import jax
import numpy as np
import optax
import pytest
from flax import nnx

import rnn_jax as rj
from refusing import refuses
from training import toys

PACE = {"steps": 1, "batch_size": 4, "evaluate_every": 1, "evaluation_size": 6}
# Equal pairwise in their lower 32 bits, or in what is above them.
SEEDS = [0, 1, 2**31, 2**31 + 1, 2**32 - 1, 2**32, 2**32 + 1, 2**33 + 1, 2**62 + 1, 2**63 - 1]


def bits(key):
    return tuple(np.asarray(jax.random.key_data(key)).tolist())


@pytest.mark.parametrize(
    ("wide", "implementation"), [(False, "threefry2x32"), (True, "threefry2x32"), (True, "rbg")]
)
def test_members_of_an_ensemble_start_from_different_keys(wide, implementation):
    found = {}
    with jax.enable_x64(wide), jax.default_prng_impl(implementation):
        keys = rj.ensemble(lambda key: {"key": key}, SEEDS)["key"]
        rngs = rj.ensemble(lambda rngs: {"key": rngs.params()}, SEEDS)["key"]
        for index, seed in enumerate(SEEDS):
            found[seed] = (bits(keys[index]), bits(rngs[index]))
            if seed < 2**32:  # As JAX and Flax themselves make them.
                assert found[seed][0] == bits(jax.random.key(seed))
                assert found[seed][1] == bits(nnx.Rngs(seed).params())
    assert len({key for key, _ in found.values()}) == len(SEEDS)
    assert len({key for _, key in found.values()}) == len(SEEDS)


def test_with_64_bits_the_key_is_the_one_that_jax_makes():
    with jax.enable_x64(True):
        key = rj.ensemble(lambda key: {"key": key}, [2**40 + 3])["key"]
        assert bits(key[0]) == bits(jax.random.key(2**40 + 3))


@pytest.mark.parametrize("wide", [False, True])
def test_runs_of_different_seeds_see_different_data(wide):
    with jax.enable_x64(wide):
        model = toys.linear(dtype=np.float32)
        losses = [
            float(rj.fit(model, TASK, optax.sgd(0.1), seed=seed, **PACE).history.loss[0])
            for seed in SEEDS
        ]
    assert len(set(losses)) == len(SEEDS)


class InFloat32(toys.Mixing):
    """The task in one precision, whatever JAX's default is."""

    def sample(self, key, batch_size):
        return jax.tree.map(lambda a: a.astype(np.float32), super().sample(key, batch_size))


TASK = InFloat32()


def test_what_is_no_seed_is_refused():
    def fit(seed):
        return rj.fit(toys.linear(), toys.Mixing(), optax.sgd(0.1), seed=seed, **PACE)

    for seed in (-1, 2**63, 2**64 + 1):
        rule = "seed must be at least 0" if seed < 0 else "seed must be at most"
        refuses(lambda s=seed: fit(s), ValueError, rule, str(seed), "Pass")
        rule = rule.replace("seed", "each of seeds")
        refuses(lambda s=seed: rj.ensemble(toys.linear, [s]), ValueError, rule, str(seed), "Pass")
    for seed in (True, 1.0, "1", None):
        refuses(lambda s=seed: fit(s), TypeError, "seed must be a whole number", "Pass")
        words = ("each of seeds must be a whole number", "Pass")
        refuses(lambda s=seed: rj.ensemble(toys.linear, [s]), TypeError, *words)


def test_more_steps_than_32_bits_can_count_are_refused():
    def call():
        return rj.fit(
            toys.linear(), toys.Mixing(), optax.sgd(0.1), seed=0, **{**PACE, "steps": 2**31}
        )

    refuses(call, ValueError, "steps must be at most", str(2**31), "Pass")


def test_a_probe_may_wait_longer_than_32_bits_can_count():
    result = rj.fit(
        toys.linear(), toys.Mixing(), optax.sgd(0.1), seed=0, probes=toys.Seen(2**40), **PACE
    )
    np.testing.assert_array_equal(result.history.probes["seen"].step, [0, 1])
