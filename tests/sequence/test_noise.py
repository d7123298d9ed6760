"""Noise in the recurrence: the very numbers, by NumPy, and what they must not depend on."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import oracles
import rnn_jax as rj
import zoo
from refusing import refuses
from rnn_jax.cells.wrappers.wrapper import CellWrapper
from sequence.running import host

IN, H, T, B = 3, 4, 6, 3
CLOSE = {"rtol": 1e-11, "atol": 1e-13}
XS = jnp.asarray(np.random.default_rng(0).normal(size=(B, T, IN)))
KEY = jax.random.key(7)
RATES = {"c": 0.5, "h": 0.25}


def cell(name, seed=1, in_features=IN):
    return zoo.CELLS[name](in_features, H, seed)


@functools.partial(jax.jit, static_argnames=("reverse", "return_carries", "checkpoint"))
def run(cell, xs, carry=None, **options):
    return rj.unroll(cell, xs, carry, **options)


def zoned_by_hand(inner, keeps, xs, carry):
    """Zoneout in NumPy: (carries with the initial one, ys); `keeps` (T, S) says what stays."""
    twin = zoo.oracle(inner)
    carries = [carry]
    for x, keep in zip(np.asarray(xs), keeps, strict=True):
        carries.append(np.where(keep, carries[-1], twin.step(carries[-1], x)[0]))
    return np.stack(carries), np.stack(carries[1:])[:, twin.output_rows]


@pytest.mark.parametrize("name", ["lstm", "gru_reset_before"])
def test_zoneout_keeps_the_units_that_were_drawn(name):
    inner = cell(name)
    zoned = rj.Zoneout(inner, RATES if name == "lstm" else 0.4)
    start = zoo.random_carry(inner, 2)
    _, keeps = host(zoned.noise(KEY, T))
    keeps = np.concatenate(keeps, axis=-1)
    assert keeps.dtype == bool
    assert 0 < keeps.mean() < 1
    carries, expected = zoned_by_hand(inner, keeps, XS[0], zoo.flat(start))
    last, ys, states = rj.unroll(zoned, XS[0], start, key=KEY, return_carries=True)
    np.testing.assert_allclose(ys, expected, **CLOSE)
    np.testing.assert_allclose(zoo.flat(states), carries[1:], **CLOSE)
    np.testing.assert_allclose(zoo.flat(last), carries[-1], **CLOSE)


def dropped_twin(inner, drop_h, drop_x, rate, input_rate):
    """The oracle's step with the rows of dropped units taken out of the weights."""
    twin = zoo.oracle(inner)
    weights = dict(twin.weights)
    weights["recurrent_kernel"] = (~drop_h / (1 - rate))[:, None] * weights["recurrent_kernel"]
    weights["kernel"] = (~drop_x / (1 - input_rate))[:, None] * weights["kernel"]
    return functools.partial(twin.step.func, weights, **twin.step.keywords)


@pytest.mark.parametrize("name", ["simple_tanh", "lstm_coupled", "gru_reset_after"])
def test_recurrent_dropout_takes_rows_out_of_the_weights_for_the_whole_sequence(name):
    inner = cell(name)
    wrapped = rj.RecurrentDropout(inner, 0.4, 0.3)
    start = zoo.random_carry(inner, 2, B)
    _, ys, carries = rj.unroll(wrapped, XS, start, key=KEY, return_carries=True)
    seen = []
    for row, key in enumerate(jax.random.split(KEY, B)):
        drop_h, drop_x = host(wrapped.noise(key, T))
        # Constant in time: one mask for the whole sequence.
        assert (drop_h == drop_h[0]).all()
        assert (drop_x == drop_x[0]).all()
        step = dropped_twin(inner, drop_h[0], drop_x[0], 0.4, 0.3)
        first = zoo.flat(jax.tree.map(lambda part, row=row: part[row], start))
        expected_carries, expected = oracles.run(step, np.asarray(XS[row]), first)
        np.testing.assert_allclose(ys[row], expected, **CLOSE)
        np.testing.assert_allclose(zoo.flat(carries)[row], expected_carries[1:], **CLOSE)
        seen.append((*drop_h[0], *drop_x[0]))
    assert len(set(seen)) > 1  # Each sequence has masks of its own.


def test_the_mean_over_many_keys_is_the_expectation():
    inner, keys = cell("lstm"), jax.random.split(KEY, 4000)
    carry, x = zoo.random_carry(inner, 2), XS[0, 0]
    zoned = rj.Zoneout(inner, RATES)

    def close_to(samples, expected):
        error = np.std(samples, axis=0) / np.sqrt(len(keys))
        assert np.all(np.abs(np.mean(samples, axis=0) - expected) < 5 * error + 1e-12)

    one_step = jax.jit(jax.vmap(lambda key: rj.unroll(zoned, x[None], carry, key=key)[0]))
    close_to(np.concatenate(one_step(keys), axis=-1), zoo.flat(zoned(carry, x)[0]))
    # A linear cell shows the mean of what meets the weights.
    linear = cell("simple_identity")
    wrapped = rj.RecurrentDropout(linear, 0.5, 0.25)
    h = jnp.asarray(np.random.default_rng(3).normal(size=H))
    samples = jax.jit(jax.vmap(lambda key: rj.unroll(wrapped, x[None], h, key=key)[0]))(keys)
    close_to(samples, linear(h, x)[0])
    assert np.std(samples, axis=0).min() > 0.05


NOISY = {
    "dropout": lambda: rj.RecurrentDropout(cell("gru_reset_after"), 0.4, 0.2),
    "both": lambda: rj.Zoneout(
        rj.LearnedCarry(
            rj.RecurrentDropout(cell("lstm"), 0.3), carry_init="ones", rngs=nnx.Rngs(0)
        ),
        0.3,
    ),
    "stack": lambda: rj.StackedCell(
        [
            rj.RecurrentDropout(cell("simple_tanh"), 0.4),
            cell("gru_reset_before", 2, H),
            rj.Zoneout(cell("lstm", 3, H), RATES),
        ]
    ),
}


@pytest.mark.parametrize("name", ["dropout", "stack"])
def test_a_batch_is_its_sequences_each_with_a_key_of_its_own(name):
    noisy = NOISY[name]()
    last, ys = run(noisy, XS, key=KEY)
    for row, key in enumerate(jax.random.split(KEY, B)):
        alone = run(noisy, XS[row], key=key)
        chex.assert_trees_all_close(
            jax.tree.map(lambda leaf, row=row: leaf[row], (last, ys)), alone, **CLOSE
        )
    # By the same key the same, by another not.
    np.testing.assert_array_equal(run(noisy, XS, key=KEY)[1], ys)
    assert not np.allclose(run(noisy, XS, key=jax.random.key(8))[1], ys)


def test_more_batch_axes_are_more_sequences():
    noisy = NOISY["dropout"]()
    folded = run(noisy, XS[:, None], key=KEY)[1]
    np.testing.assert_allclose(folded[:, 0], run(noisy, XS, key=KEY)[1], **CLOSE)


@pytest.mark.parametrize("name", ["both", "stack"])
def test_the_noise_of_a_step_depends_on_the_key_and_the_step_alone(name):
    noisy = NOISY[name]()
    draw = jax.jit(noisy.noise, static_argnums=1)
    long, short = draw(KEY, T), draw(KEY, 3)
    chex.assert_trees_all_equal(jax.tree.map(lambda a: a[:3], long), short)


def test_lengths_cut_and_do_not_move_the_noise():
    noisy = NOISY["dropout"]()
    lengths = jnp.asarray([T, 3, 0])
    cut = run(noisy, XS, key=KEY, lengths=lengths)[1]
    whole = run(noisy, XS, key=KEY)[1]
    for row, length in enumerate([T, 3, 0]):
        np.testing.assert_allclose(cut[row, :length], whole[row, :length], **CLOSE)
        np.testing.assert_array_equal(cut[row, length:], 0.0)


@jax.jit
def noisy_step(noisy, carry, x, noise):
    z = noisy.noisy_project(x, noise) if isinstance(noisy, CellWrapper) else x
    return noisy.noisy_step(carry, z, noise)


def by_hand(noisy, noise, xs, carry, order, restart):
    """`noisy_step` in a Python loop over the steps in `order`: (last carry, ys, carries)."""
    first, ys, carries = carry, {}, {}
    for t in order:
        at_t = jax.tree.map(lambda leaf, t=t: leaf[t], noise)
        carry, ys[t] = noisy_step(noisy, first if t in restart else carry, xs[t], at_t)
        carries[t] = carry
    steps = sorted(order)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[carries[t] for t in steps])
    return carry, jnp.stack([ys[t] for t in steps]), stacked


@pytest.mark.parametrize(("name", "reverse"), [("both", True), ("stack", False)])
def test_reverse_resets_and_checkpoints_meet_the_noise_of_their_steps(name, reverse):
    noisy, xs = NOISY[name](), XS[0]
    order = range(T)[::-1] if reverse else range(T)
    # A sequence starts at step 2; backwards, the one before it starts at step 1.
    resets = np.arange(T) == 2
    noise = jax.jit(noisy.noise, static_argnums=1)(KEY, T)
    start = noisy.initialize_carry((IN,))
    expected = by_hand(noisy, noise, xs, start, order, {1} if reverse else {2})
    for checkpoint in (None, 4) if name == "both" else (4,):
        found = run(
            noisy,
            xs,
            key=KEY,
            resets=resets,
            reverse=reverse,
            return_carries=True,
            checkpoint=checkpoint,
        )
        chex.assert_trees_all_close(found, expected, **CLOSE)


def test_gradients_are_finite_differences_and_padding_stays_out():
    noisy = rj.Zoneout(rj.RecurrentDropout(cell("gru_reset_after"), 0.4, 0.2), 0.3)
    lengths = jnp.asarray([T, 4, 0])
    dirty = np.array(XS)
    for row, length in enumerate([T, 4, 0]):
        dirty[row, length:] = np.nan

    def loss(noisy, xs):
        _, ys = rj.unroll(noisy, xs, key=KEY, lengths=lengths, checkpoint=4)
        return jnp.sum(jnp.sin(ys))

    value_and_grad = jax.jit(jax.value_and_grad(loss, (0, 1)))
    _, found = value_and_grad(noisy, dirty)
    chex.assert_tree_all_finite(found)
    for row, length in enumerate([T, 4, 0]):
        np.testing.assert_array_equal(found[1][row, length:], 0.0)
    rng, step = np.random.default_rng(3), 1e-5
    direction = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), (noisy, XS))

    def moved(by):
        at = jax.tree.map(lambda leaf, d: leaf + by * d, (noisy, XS), direction)
        return value_and_grad(*at)[0]

    slope = (moved(step) - moved(-step)) / (2 * step)
    along = sum(
        np.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (found, direction)), strict=True)
    )
    np.testing.assert_allclose(along, slope, rtol=1e-7)


class Jittered:
    """A cell of someone else's, with noise of its own, by the same three methods less one."""

    def __call__(self, carry, x):
        carry = jnp.tanh(carry + x)
        return carry, carry

    def noise(self, key, steps):
        return {"shift": jax.random.normal(key, (steps, IN))}

    def noisy_step(self, carry, x, noise):
        return self(carry + noise["shift"], x)


def test_any_cell_may_bring_noise():
    noisy, carry = Jittered(), jnp.zeros(IN)
    shift = np.asarray(noisy.noise(KEY, T)["shift"])
    expected, h = [], np.zeros(IN)
    for x, more in zip(np.asarray(XS[0]), shift, strict=True):
        h = np.tanh(h + more + x)
        expected.append(h)
    np.testing.assert_allclose(rj.unroll(noisy, XS[0], carry, key=KEY)[1], expected, **CLOSE)


def plain(carry, x):
    carry = jnp.tanh(carry + x)
    return carry, carry


def test_a_cell_without_noise_ignores_the_key():
    silent = [
        cell("simple_tanh"),
        rj.Zoneout(cell("simple_tanh"), 0.0),
        rj.StackedCell([cell("simple_tanh")]),
    ]
    _, expected = rj.unroll(silent[0], XS)
    for quiet in silent:
        np.testing.assert_allclose(rj.unroll(quiet, XS, key=KEY)[1], expected, **CLOSE)
    carry = jnp.zeros((B, IN))
    chex.assert_trees_all_close(
        rj.unroll(plain, XS, carry, key=KEY), rj.unroll(plain, XS, carry), **CLOSE
    )


def test_one_part_alone_may_be_noisy_and_types_are_kept():
    inner = rj.LSTMCell(IN, H, param_dtype=jnp.float32, rngs=nnx.Rngs(0))
    xs = XS.astype(jnp.float32)
    noisy = rj.Zoneout(rj.RecurrentDropout(inner, 0.0, 0.5), {"c": 0.5})
    drop, (keep_c, keep_h) = noisy.noise(KEY, T)
    assert drop[0] is None
    assert keep_h is None
    assert drop[1].shape == (T, IN)
    assert keep_c.shape == (T, H)
    last, ys = rj.unroll(noisy, xs, key=KEY)
    assert {leaf.dtype.name for leaf in jax.tree.leaves((last, ys))} == {"float32"}


def test_products_in_half_precision_leave_the_carry_as_it_is_kept():
    def build(**types):
        inner = rj.LSTMCell(IN, H, param_dtype=jnp.float32, rngs=nnx.Rngs(0), **types)
        dropped = rj.RecurrentDropout(inner, 0.4, 0.3)
        return rj.Zoneout(rj.LearnedCarry(dropped, rngs=nnx.Rngs(0)), 0.2)

    xs = XS.astype(jnp.float32)
    last, ys = run(build(dtype=jnp.bfloat16, carry_dtype=jnp.float32), xs, key=KEY)
    assert {leaf.dtype.name for leaf in jax.tree.leaves((last, ys))} == {"float32"}
    np.testing.assert_allclose(ys, run(build(), xs, key=KEY)[1], atol=0.02)


@pytest.mark.parametrize(
    # A source of keys has an attribute of every name, `dtype` too.
    "wrong",
    [0, None, "key", XS, nnx.Rngs(0), nnx.Rngs(0).params, jax.Array],
    ids=lambda wrong: type(wrong).__name__,
)
def test_what_is_no_key(wrong):
    noisy = rj.Zoneout(cell("lstm"), 0.1)
    if wrong is None:
        assert np.isfinite(rj.unroll(noisy, XS, key=None)[1]).all()
        return
    for taken in (noisy, noisy.cell):
        refuses(
            lambda taken=taken: rj.unroll(taken, XS, key=wrong),
            TypeError,
            "key must be a JAX random key",
            "got",
            "jax.random.key(0)",
        )


def test_several_keys():
    refuses(
        lambda: rj.unroll(rj.Zoneout(cell("lstm"), 0.1), XS, key=jax.random.split(KEY, B)),
        ValueError,
        "key must be a single random key",
        "(3,)",
        "jax.vmap",
    )


def test_a_raw_key_of_another_length_is_refused():
    with pytest.raises(
        TypeError, match=r"key must be a JAX random key; got ndarray of shape \(3,\)"
    ):
        rj.unroll(cell("lstm"), np.zeros((4, IN)), key=np.zeros(3, np.uint32))
