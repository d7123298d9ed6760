"""What the products of the kernels cost in accuracy, emulated in NumPy.

They run on tensor cores, which take numbers with 10 (tf32) or 7 (bf16) bits behind the leading one
and add up in float32. "tf32x3" and "bf16x3" split each factor in two such numbers, high and low,
and leave out low times low. Blocks that share the units of a tile exchange float32 numbers whose
lowest bit is a tag; in the adjoint a sum of as many of them as there are blocks.

Here each of these roundings is made by itself, over T steps forward and back, and what comes out is
compared with float64.
"""

import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax.sequence.kernels import exchange

# ---- Roundings.


def rounded(x, bits):
    """float32 numbers rounded to so many bits behind the leading one, ties to even."""
    drop = 23 - bits
    word = np.asarray(x, np.float32).view(np.uint32)
    half = (1 << (drop - 1)) - 1 + (word >> drop & 1)
    return (word + half >> drop << drop).astype(np.uint32).view(np.float32)


def tagged(x, phase):
    """float32 numbers with their lowest bit replaced."""
    word = np.asarray(x, np.float32).view(np.uint32)
    return (word & np.uint32(0xFFFFFFFE) | np.uint32(phase)).view(np.float32)


def phase_of(step):
    return 1 - (step >> 1 & 1)


# Finite, of all magnitudes, both signs; halfway between neighbours among them.
NUMBERS = np.concatenate(
    [
        np.random.default_rng(0).normal(size=1000) * 10.0 ** np.arange(-30, 30).repeat(17)[:1000],
        [0.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-11, 1 + 3 * 2**-11, 2 - 2**-12],
    ]
).astype(np.float32)


def test_rounding_to_seven_bits_is_that_of_bfloat16():
    np.testing.assert_array_equal(
        rounded(NUMBERS, 7), NUMBERS.astype(jnp.bfloat16).astype(np.float32)
    )


def test_rounding_to_ten_bits_is_to_the_nearest_and_ties_are_to_even():
    mantissa, exponent = np.frexp(NUMBERS.astype(np.float64))
    nearest = np.ldexp(np.rint(mantissa * 2**11), exponent - 11)
    np.testing.assert_array_equal(rounded(NUMBERS, 10), nearest)


@pytest.mark.parametrize("phase", [0, 1])
def test_a_tag_costs_one_unit_in_the_last_place_and_leaves_nan(phase):
    np.testing.assert_array_max_ulp(tagged(NUMBERS, phase), NUMBERS, maxulp=1)
    # It is what the kernels do.
    np.testing.assert_array_equal(tagged(NUMBERS, phase), exchange.tagged(NUMBERS, np.int32(phase)))
    assert set(tagged(NUMBERS, phase).view(np.uint32) & 1) == {phase}
    # NaN as arithmetic makes it, on a processor and on a card.
    words = np.asarray([0x7FC00000, 0xFFC00000, 0x7FFFFFFF], np.uint32)
    assert np.isnan(tagged(words.view(np.float32), phase)).all()
    # What is infinite is still not finite.
    assert not np.isfinite(tagged([np.inf, -np.inf], phase)).any()


# ---- Products.


def in_one(bits):
    return lambda a, b: rounded(a, bits) @ rounded(b, bits)


def in_three(bits):
    def product(a, b):
        a_high, b_high = rounded(a, bits), rounded(b, bits)
        a_low, b_low = rounded(a - a_high, bits), rounded(b - b_high, bits)
        return a_high @ b_low + a_low @ b_high + a_high @ b_high

    return product


class Precision(NamedTuple):
    """The product inside the recurrence, that of all steps at once outside, and what is allowed.

    Attributes:
      bound: the largest relative deviation of outputs and of the weights' gradient, each measured
        by its Frobenius norm.
    """

    inside: object
    outside: object
    bound: float


PRECISIONS = {
    "bf16": Precision(in_one(7), in_one(7), 1e-2),
    "tf32": Precision(in_one(10), in_one(10), 2e-3),
    "bf16x3": Precision(in_three(7), np.matmul, 1e-5),
    "tf32x3": Precision(in_three(10), np.matmul, 1e-6),
}
EXACT = Precision(np.matmul, np.matmul, 0.0)


# ---- Recurrences: step(carry, z, u) -> (carry, slopes), h last in the carry; and its transpose,
# back(slopes, λ) -> (λ before by the direct path, cotangents of u).


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


class LSTM:
    blocks, parts = 4, 2

    @staticmethod
    def step(carry, z, u):
        i, f, o = (sigmoid(z[k] + u[k]) for k in (0, 1, 3))
        g = np.tanh(z[2] + u[2])
        c = f * carry[0] + i * g
        t = np.tanh(c)
        slopes = g * i * (1 - i), carry[0] * f * (1 - f), i * (1 - g * g), t * o * (1 - o)
        return (c, o * t), (f, o * (1 - t * t), *slopes)

    @staticmethod
    def back(slopes, cotangents):
        f, through, i, forget, g, o = slopes
        c = cotangents[0] + through * cotangents[1]
        return (f * c, np.zeros_like(c)), (i * c, forget * c, g * c, o * cotangents[1])


class GRU:
    blocks, parts = 3, 1

    @staticmethod
    def step(carry, z, u):
        r, k = sigmoid(z[0] + u[0]), sigmoid(z[1] + u[1])
        n = np.tanh(z[2] + r * u[2])
        to_n = (1 - k) * (1 - n * n)
        slopes = to_n * u[2] * r * (1 - r), (carry[0] - n) * k * (1 - k), to_n * r
        return ((1 - k) * n + k * carry[0],), (k, *slopes)

    @staticmethod
    def back(slopes, cotangents):
        k, *through = slopes
        return (k * cotangents[0],), tuple(slope * cotangents[0] for slope in through)


class SimpleRNN:
    blocks, parts = 1, 1

    @staticmethod
    def step(carry, z, u):
        h = np.tanh(z[0] + u[0])
        return (h,), (1 - h * h,)

    @staticmethod
    def back(slopes, cotangents):
        return (np.zeros_like(cotangents[0]),), (slopes[0] * cotangents[0],)


RECURRENCES = [LSTM, GRU, SimpleRNN]


@functools.cache
def problem(recurrence, steps, rows, units, features=2):
    """(weights of the state, weights of the input, inputs), float32; orthogonal as they start."""
    rng = np.random.default_rng(0)
    squares = rng.normal(size=(recurrence.blocks, units, units))
    w = np.concatenate([np.linalg.qr(square)[0] for square in squares], axis=1)
    w_x = rng.normal(size=(features, recurrence.blocks * units)) / np.sqrt(features)
    xs = rng.normal(size=(steps, rows, features))
    return tuple(array.astype(np.float32) for array in (w, w_x, xs))


def run(recurrence, w, w_x, xs, precision, blocks=1):
    """(outputs (T, B, H), dW (H, ·)) of the sum of outputs, the units split over so many blocks."""
    steps, rows, features = xs.shape
    units, columns = w.shape
    split = functools.partial(np.split, indices_or_sections=recurrence.blocks, axis=-1)
    zs = precision.outside(xs.reshape(-1, features), w_x).reshape(steps, rows, columns)
    zero = (np.zeros((rows, units), w.dtype),) * recurrence.parts

    carry, hs, slopes = zero, [], []
    for step in range(steps):
        h = carry[-1]
        hs.append(h)
        if blocks > 1:
            h = tagged(h, phase_of(step))
        carry, at = recurrence.step(carry, split(zs[step]), split(precision.inside(h, w)))
        slopes.append(at)
    hs.append(carry[-1])

    # The columns of W that belong to the units of each block.
    of_block = np.arange(columns).reshape(recurrence.blocks, blocks, -1).swapaxes(0, 1)
    cotangents, pre_cotangents = zero, []
    for step in reversed(range(steps)):
        cotangents = (*cotangents[:-1], cotangents[-1] + 1)
        cotangents, pre = recurrence.back(slopes[step], cotangents)
        pre = np.concatenate(pre, axis=-1)
        pre_cotangents.insert(0, pre)
        shares = [
            precision.inside(pre[:, own], w[:, own].T) for own in of_block.reshape(blocks, -1)
        ]
        if blocks > 1:
            shares = [tagged(share, phase_of(steps - 1 - step)) for share in shares]
        cotangents = (*cotangents[:-1], cotangents[-1] + sum(shares))

    h_before = np.concatenate(hs[:-1])
    return np.stack(hs[1:]), precision.outside(h_before.T, np.concatenate(pre_cotangents))


@functools.cache
def exact_run(recurrence, steps, rows, units):
    """In float64, whatever it is that deviates."""
    arrays = problem(recurrence, steps, rows, units)
    return run(recurrence, *(array.astype(np.float64) for array in arrays), EXACT)


@functools.cache
def deviations(recurrence, precision, *, blocks=1, steps=200, rows=16, units=64):
    """Relative deviations from float64 of (outputs, dW)."""
    arrays = problem(recurrence, steps, rows, units)
    actual = run(recurrence, *arrays, precision, blocks)
    assert all(array.dtype == np.float32 for array in actual)
    exact = exact_run(recurrence, steps, rows, units)
    return [np.linalg.norm(a - e) / np.linalg.norm(e) for a, e in zip(actual, exact, strict=True)]


@pytest.mark.parametrize("recurrence", RECURRENCES)
def test_the_gradient_is_that_of_the_outputs(recurrence):
    w, w_x, xs = (a.astype(np.float64) for a in problem(recurrence, 5, 3, 8))
    direction = np.random.default_rng(1).normal(size=w.shape)

    def total(size):
        return run(recurrence, w + size * direction, w_x, xs, EXACT)[0].sum()

    slope = (total(1e-6) - total(-1e-6)) / 2e-6
    gradient = run(recurrence, w, w_x, xs, EXACT)[1]
    assert np.vdot(gradient, direction) == pytest.approx(slope, rel=1e-7)


# Outputs and dW of the LSTM with 128 units, as a prototype of these kernels had on an NVIDIA H100.
MEASURED = {"tf32": (3.5e-4, 5.3e-4), "bf16x3": (1.2e-6, 2.0e-6), "tf32x3": (1.5e-7, 5.4e-7)}


@pytest.mark.parametrize("name", MEASURED)
def test_the_emulation_deviates_as_the_prototype_did(name):
    emulated = deviations(LSTM, PRECISIONS[name], blocks=8, units=128)
    ratios = np.asarray(emulated) / MEASURED[name]
    # Fewer rows are summed here, and the processor's sums are more accurate than the card's.
    assert ((ratios > 1 / 6) & (ratios < 2)).all(), emulated


@pytest.mark.parametrize("name", PRECISIONS)
@pytest.mark.parametrize("recurrence", RECURRENCES)
def test_deviations_stay_within_their_bounds_however_units_are_split(recurrence, name):
    precision = PRECISIONS[name]
    alone = deviations(recurrence, precision)
    for blocks in (2, 4):
        shared = deviations(recurrence, precision, blocks=blocks)
        assert max(alone + shared) < precision.bound
        # Tags and sums over blocks are lost in the roundings of the products.
        np.testing.assert_array_less(shared, 1.5 * np.asarray(alone))


@pytest.mark.parametrize("recurrence", RECURRENCES)
def test_each_precision_is_better_than_the_one_before(recurrence):
    by_precision = [deviations(recurrence, precision) for precision in PRECISIONS.values()]
    assert (np.diff(by_precision, axis=0) < 0).all()
    # Three products of tf32 are as good as float32.
    full = deviations(recurrence, EXACT)
    np.testing.assert_array_less(by_precision[-1], 1.5 * np.asarray(full))
