"""A call is split, and noise is drawn, only for what the cell itself runs.

What the package computes is held against the plain call of the cell, step by step
(`jax.disable_jit`), where each class would be compiled.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from claiming import (
    CLOSE,
    IN,
    WRAPPERS,
    XS,
    H,
    T,
    assert_runs_its_own_call,
    built,
    claims_of,
    random_carry,
)
from flax import nnx

import rnn_jax as rj
from refusing import refuses
from rnn_jax.cells.claims import splits_call
from rnn_jax.cells.wrappers.noise import draw_noise
from rnn_jax.cells.wrappers.wrapper import CellWrapper

# What is hoisted out of the loop


class Normalised(rj.SimpleRNNCell):
    """A projection that takes all of its argument for one input."""

    def project(self, x):
        return super().project(x / jnp.linalg.norm(x))


class Embedded(rj.SimpleRNNCell):
    """Takes one feature more than its weights do."""

    def project(self, x):
        return super().project(x[..., 1:] * x[..., :1])


class Checked(rj.SimpleRNNCell):
    """Another rule for its carry."""

    def _check_carry(self, carry, x):
        super()._check_carry(carry, x)


class Doubled(rj.SimpleRNNCell):
    """More than its two halves."""

    def __call__(self, carry, x):
        h, _ = super().__call__(carry, x)
        return 2.0 * h, h


# Bare, and in two of the three wrappers, in turn.
@pytest.mark.parametrize(
    ("cls", "split", "wrap"),
    [
        (cls, split, wrap)
        for i, (cls, split) in enumerate(
            [(Normalised, True), (Doubled, False), (Embedded, True), (Checked, False)]
        )
        for j, wrap in enumerate(["wrapper", "learned_carry", "stack", "plain"])
        if wrap == "plain" or i % 3 != j
    ],
)
def test_a_call_is_split_only_into_what_it_consists_of(cls, split, wrap):
    features = IN - 1 if cls is Embedded else IN
    cell = cls(features, H, rngs=nnx.Rngs(0))
    assert splits_call(cell) == split
    wrapped = WRAPPERS[wrap](cell)
    assert_runs_its_own_call(wrapped)
    if wrap in ("wrapper", "learned_carry"):
        carry = random_carry(cell)
        chex.assert_trees_all_close(wrapped(carry, XS[0]), cell(carry, XS[0]), **CLOSE)


def test_features_that_do_not_fit_are_still_named():
    refuses(
        lambda: rj.unroll(built("lstm"), jnp.ones((T, IN + 1))),
        ValueError,
        "the cell's in_features=2",
        "got 3 features",
    )


# Noise, which is a step of its own


class HalvedZoneout(rj.Zoneout):
    """Another step, without a word on what it is with noise."""

    def step(self, carry, z):
        return jax.tree.map(lambda part: 0.5 * part, super().step(carry, z))


class HalvedWrapper(CellWrapper):
    """A wrapper with another step around noise that it does not know of."""

    def step(self, carry, z):
        return jax.tree.map(lambda part: 0.5 * part, super().step(carry, z))


class OtherProjection(rj.RecurrentDropout):
    """Another projection than that with noise."""

    def project(self, x):
        return 2.0 * super().project(x)


@pytest.mark.parametrize(
    ("cls", "make", "missing"),
    [
        (HalvedZoneout, lambda: HalvedZoneout(built("lstm"), 0.5), "noisy_step"),
        (HalvedWrapper, lambda: HalvedWrapper(built("lstm", "zoneout")), "noisy_step"),
        (OtherProjection, lambda: OtherProjection(built("lstm"), 0.5), "noisy_project"),
    ],
)
def test_a_cell_does_not_draw_noise_for_a_step_that_it_does_not_run(cls, make, missing):
    refuses(
        lambda: rj.unroll(make(), XS, key=jax.random.key(0)),
        TypeError,
        "must say what its own step is with noise",
        cls.__name__,
        f"Override {missing}",
    )
    assert_runs_its_own_call(make())


class OtherMix(rj.Zoneout):
    """Another version of what both of its steps use."""

    def _mix(self, before, after, keeps):
        return jax.tree.map(lambda part: 0.5 * part, super()._mix(before, after, keeps))


def test_what_both_steps_use_changes_both():
    cell, key = OtherMix(built("lstm"), 0.5), jax.random.key(0)
    assert not claims_of(cell)
    noise = cell.noise(key, T)
    carry, ys = random_carry(cell), []
    with jax.disable_jit():
        _, found = rj.unroll(cell, XS, carry, key=key)
        for t, x in enumerate(XS):
            at_t = jax.tree.map(lambda leaf: leaf[t], noise)  # noqa: B023
            carry, y = cell.noisy_step(carry, cell.noisy_project(x, at_t), at_t)
            ys.append(y)
    np.testing.assert_allclose(found, jnp.stack(ys), **CLOSE)


def test_a_cell_that_draws_nothing_takes_any_step():
    assert not jax.tree.leaves(draw_noise(HalvedWrapper(built("lstm")), jax.random.key(0), T))
