"""The kernels of recurrences, in interpret mode, against plain loops in float64.

Interpret mode runs one block after another. So blocks that exchange are tested by the last of them,
which finds what all others have written, over as many steps as those need not wait for.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kernel_rules import GRU, LSTM, STEPS, case_of, close, in_float64, plain_forward, simple

from refusing import refuses
from rnn_jax.sequence.kernels import adjoint as adjoint_kernel
from rnn_jax.sequence.kernels import exchange, launching
from rnn_jax.sequence.kernels import forward as forward_kernel
from rnn_jax.sequence.kernels.rules import Keep
from rnn_jax.sequence.kernels.tiles import Tiles

# One program each, instead of one for every operation around the kernel.
STATIC = ("rule", "keep", "precision", "tiles", "interpret")
run_forward = jax.jit(forward_kernel.run_forward, static_argnames=STATIC)
run_adjoint = jax.jit(adjoint_kernel.run_adjoint, static_argnames=STATIC)
ONE_BLOCK = Tiles(rows=16, split=1, warps=4, parts=1, chunks=1, at_once=132)
EVERYTHING = Keep(ys=True, carries=True, starts=True, emitted=True, lambdas=True)
# name: (members, steps, rows, units), whether sequences start and steps are skipped.
SIZES = {
    "whole tiles": ((1, 3, 16, 16), False),
    "padded": ((1, 4, 3, 20), False),
    "padded, marked": ((2, 4, 5, 9), True),
    "several tiles, marked": ((2, 4, 33, 16), True),
}


@functools.cache
def forward_run(step, sizes, marked, tiles=ONE_BLOCK):
    """(the arrays, what the kernel makes of them, everything kept)."""
    case = case_of(step, *sizes, marked=marked)
    marks = {"marks": case.marks, "initial": case.initial, "spare": case.spare} if marked else {}
    out = run_forward(
        step.forward,
        case.weights,
        case.drives,
        case.carry,
        **marks,
        keep=EVERYTHING,
        precision="tf32",
        tiles=tiles,
        interpret=True,
    )
    return case, out


def streams_of(step, out):
    """What the linear kernels are given of a forward run."""
    used = zip(out.starts, step.starts, strict=True)
    return (*(start for start, is_used in used if is_used), *out.emitted)


# Every size for the LSTM, those that are odd in all ways for the others.
SWEPT = [("lstm", size) for size in SIZES]
SWEPT += [(name, "padded, marked") for name in STEPS if name != "lstm"]


@pytest.mark.parametrize(("name", "size"), SWEPT)
def test_the_recurrence_is_the_loop(name, size):
    step, (sizes, marked) = STEPS[name], SIZES[size]
    case, out = forward_run(step, sizes, marked)
    ys, carries, starts, emitted = plain_forward(step.forward, *in_float64(case))
    close(
        (out.ys, out.carries, out.starts, out.emitted, out.last),
        (ys, carries, starts, emitted, tuple(np.asarray(carry)[:, -1] for carry in carries)),
    )


@pytest.mark.parametrize(("name", "size"), SWEPT[2:])
def test_the_tangent_is_that_of_the_loop(name, size):
    step, (sizes, marked) = STEPS[name], SIZES[size]
    case, out = forward_run(step, sizes, marked)
    moved = case_of(step, *sizes, marked=marked, seed=1)
    weights = in_float64(case.weights)

    def carries(drives, carry, initial):
        spare, marks = in_float64(case.spare), case.marks
        return plain_forward(step.forward, weights, drives, carry, initial, spare, marks)[1]

    at = in_float64((case.drives, case.carry, case.initial))
    along = in_float64((moved.drives, moved.carry, moved.initial))
    expected = jax.jit(lambda at, along: jax.jvp(carries, at, along)[1])(at, along)
    marks = {"marks": case.marks, "initial": moved.initial, "spare": case.spare} if marked else {}
    found = run_forward(
        step.tangent,
        case.weights,
        moved.drives,
        moved.carry,
        **marks,
        streams=streams_of(step, out),
        keep=Keep(carries=True),
        precision="tf32",
        tiles=ONE_BLOCK,
        interpret=True,
    )
    close(found.carries, expected, 1e-5)


@pytest.mark.parametrize(("name", "size"), SWEPT[2:])
def test_the_adjoint_is_that_of_the_loop(name, size):
    step, (sizes, marked) = STEPS[name], SIZES[size]
    case, out = forward_run(step, sizes, marked)
    y, last = cotangents(step, out)

    def carries(drives, carry, initial):
        spare, weights = in_float64((case.spare, case.weights))
        series = plain_forward(step.forward, weights, drives, carry, initial, spare, case.marks)[1]
        return series, tuple(part[:, -1] for part in series)

    drives = tuple(repeated(drive, sizes[1], sizes[2]) for drive in case.drives)
    point = in_float64((drives, case.carry, case.initial))
    pull = jax.jit(lambda point, cotangents: jax.vjp(carries, *point)[1](cotangents))
    d_drives, d_carry, d_initial = pull(point, in_float64((y, last)))
    found = adjoint_run(step, case, out, y, last, marked)
    close(found.d_drives, d_drives, 1e-5)
    close(found.d_carry, d_carry, 1e-5)
    close(found.d_initial, d_initial if marked else (), 1e-5)


def cotangents(step, out):
    """Of all carries and of the last."""
    random = np.random.default_rng(3)

    def like(x):
        return random.normal(size=x.shape).astype(np.float32)

    return jax.tree.map(like, (out.carries, out.last))


def repeated(drive, steps, rows):
    """A drive that is the same in every step and row, as one array that is not."""
    if drive.ndim == 4:
        return drive
    return np.broadcast_to(drive[:, None, None], (len(drive), steps, rows, drive.shape[-1]))


def adjoint_run(step, case, out, y, last, marked, **options):
    defaults = {"keep": EVERYTHING, "precision": "tf32", "tiles": ONE_BLOCK, "interpret": True}
    marks = case.marks if marked else None
    streams = streams_of(step, out)
    return run_adjoint(
        step.adjoint, case.weights, y, last, marks=marks, streams=streams, **defaults | options
    )


def test_the_adjoint_hands_out_what_it_carries():
    """λ_t is what the adjoint of the steps after t alone returns, with y_t added."""
    step = LSTM
    sizes, marked = SIZES["padded, marked"]
    case, out = forward_run(step, sizes, marked)
    y, last = cotangents(step, out)
    whole = adjoint_run(step, case, out, y, last, marked)
    cut = 2
    rest = adjoint_run(
        step,
        case._replace(marks=case.marks[:, cut:]),
        jax.tree.map(lambda x: np.asarray(x)[:, cut:] if x.ndim == 4 else x, out),
        jax.tree.map(lambda x: x[:, cut:], y),
        last,
        marked,
    )
    expected = jax.tree.map(lambda d, part: np.asarray(d) + part[:, cut - 1], rest.d_carry, y)
    close(tuple(np.asarray(part)[:, cut - 1] for part in whole.lambdas), expected, 1e-6)


def test_what_is_not_asked_for_is_not_there():
    (sizes, marked), step = SIZES["padded"], LSTM
    case, out = forward_run(step, sizes, marked)
    y, last = cotangents(step, out)
    without = adjoint_run(step, case, out, (None, y[1]), last, marked, keep=Keep())
    zero = adjoint_run(step, case, out, (np.zeros_like(y[0]), y[1]), last, marked)
    assert without.lambdas == (None, None)
    assert without.d_initial == ()
    close(without.d_drives, zero.d_drives, 0)
    found = run_forward(
        step.forward,
        case.weights,
        case.drives,
        case.carry,
        keep=Keep(carries=(True, False)),
        precision="tf32",
        tiles=ONE_BLOCK,
        interpret=True,
    )
    close(found.carries[0], out.carries[0], 0)
    assert (found.ys, found.carries[1], found.starts, found.emitted) == (
        None,
        None,
        (None, None),
        (),
    )


def test_the_parts_of_a_slice_change_nothing():
    (sizes, _), step = SIZES["padded"], LSTM
    case, out = forward_run(step, sizes, False)
    y, last = cotangents(step, out)
    tiles = ONE_BLOCK._replace(parts=2)
    found = adjoint_run(step, case, out, y, last, False, tiles=tiles)
    expected = adjoint_run(step, case, out, y, last, False, tiles=ONE_BLOCK._replace(rows=32))
    close(found, expected, 1e-6)


def test_nan_stays_in_its_row_and_behind_a_start():
    step, sizes = LSTM, SIZES["padded, marked"][0]
    _, steps, rows, _ = sizes
    case = case_of(step, *sizes, marked=False)
    # Row 0 has NaN throughout, row 1 before a start, row 2 in a skipped step.
    drive, marks = case.drives[0].copy(), case.marks.copy()
    drive[0, 1:, 0] = drive[0, 1, 1:3] = np.nan
    marks[0, 3, 1], marks[0, 1, 2] = 1, 2
    case = case._replace(drives=(drive,), marks=marks)
    out = run_forward(
        step.forward,
        case.weights,
        case.drives,
        case.carry,
        initial=case.initial,
        spare=case.spare,
        marks=marks,
        keep=EVERYTHING,
        precision="tf32",
        tiles=ONE_BLOCK,
        interpret=True,
    )
    ys = np.asarray(out.ys)
    is_nan = np.isnan(ys).all(axis=-1)[0]
    assert not np.isnan(ys[0][~is_nan]).any()
    expected = np.zeros((steps, rows), bool)
    expected[1:, 0] = expected[1:3, 1] = True
    np.testing.assert_array_equal(is_nan, expected)
    # Cotangents are NaN where the same sequence is; row 3 has none, and row 2 none that counts.
    y = tuple(np.zeros(carry.shape, np.float32) for carry in out.carries)
    for part in y:
        part[0, 3] = 1
    last = tuple(np.zeros_like(part) for part in case.carry)
    found = adjoint_run(step, case, out, y, last, True)
    is_nan = np.isnan(np.asarray(found.d_drives[0])).any(axis=-1)[0]
    assert is_nan[:, 0].all()
    assert not is_nan[3:, 1].any()
    assert not is_nan[:, 2:].any()


# Those that need operations written out, and one whose slope is no array of the step. That each is
# written out as what it is, test_kernel_operations.py tests.
@pytest.mark.parametrize("activation", ["relu", "gelu", "hard_tanh", "identity"])
def test_activations(activation):
    step, sizes = simple(activation), (1, 3, 2, 16)
    case, out = forward_run(step, sizes, False)
    ys, _, _, slopes = plain_forward(step.forward, *in_float64(case))
    close((out.ys, out.emitted), (ys, slopes))


def test_bfloat16_weights_with_a_float32_carry():
    """The product of h rounded to bfloat16; nothing else is rounded."""
    step, sizes = GRU, (1, 4, 3, 16)
    case = case_of(step, *sizes, marked=False)
    weights = tuple(w.astype(jnp.bfloat16) for w in case.weights)
    out = run_forward(
        step.forward,
        weights,
        case.drives,
        case.carry,
        keep=EVERYTHING,
        precision="bf16",
        tiles=ONE_BLOCK,
        interpret=True,
    )
    h, advance = case.carry[0], jax.jit(step.forward.function)
    for t in range(sizes[1]):
        products = [
            np.einsum("mbh,mhk->mbk", h.astype(jnp.bfloat16).astype(float), w.astype(float))
            for w in weights
        ]
        drives = in_float64((case.drives[0][:, t], case.drives[1][:, t], case.drives[2][:, None]))
        pre = [*np.split(drives[0] + products[0], 2, axis=-1), drives[1], drives[2] + products[1]]
        (expected,), _ = advance(in_float64((h,)), pre, ())
        h = np.asarray(out.ys[:, t])
        close(h, expected, 1e-6)


class TestExchange:
    """Blocks that share a tile, of which interpret mode runs the last one last."""

    @pytest.fixture(autouse=True)
    def _without_waiting(self, monkeypatch):
        monkeypatch.setattr(exchange, "LIMIT", 1)
        monkeypatch.setattr(launching, "check_interpretable", lambda tiles: None)

    @pytest.mark.parametrize(("chunks", "marked"), [(1, False), (2, True)])
    def test_the_last_block_sees_what_the_others_sent(self, chunks, marked):
        """The others wait in vain after step 0: what they sent is right, what follows is NaN."""
        step, sizes = GRU, (2, 2, 20, 30)
        tiles = ONE_BLOCK._replace(split=2, chunks=chunks)
        case, expected = forward_run(step, sizes, marked)
        _, found = forward_run(step, sizes, marked, tiles)
        computed = (case.marks & 2) == 0 if marked else np.ones_like(case.marks, bool)
        first, last = np.split(np.asarray(found.ys), [16], axis=-1)
        known = np.asarray(expected.ys)
        close(last, known[..., 16:], 1e-6)
        close(first[:, 0], known[:, 0, :, :16], 1e-6)
        assert np.isnan(first[:, 1:][computed[:, 1:]]).all()

    def test_waves_are_one_launch_after_another(self):
        step, sizes = simple(), (3, 1, 40, 32)
        tiles = ONE_BLOCK._replace(split=2, at_once=4)  # Two tiles at a time, of 9.
        _, expected = forward_run(step, sizes, False)
        _, found = forward_run(step, sizes, False, tiles)
        close(found, expected, 1e-6)

    def test_the_last_block_of_the_adjoint_sums_up_what_the_others_sent(self):
        step, sizes = LSTM, (1, 2, 16, 32)
        case, out = forward_run(step, sizes, False)
        y, last = cotangents(step, out)
        expected = adjoint_run(step, case, out, y, last, False)
        tiles = ONE_BLOCK._replace(split=2)
        found = adjoint_run(step, case, out, y, last, False, tiles=tiles)
        blocks, all_blocks = (
            np.asarray(x.d_drives[0]).reshape(1, 2, 16, 4, 2, 16) for x in (found, expected)
        )
        close(blocks[:, 1], all_blocks[:, 1], 1e-6)
        close(blocks[:, 0, :, :, 1], all_blocks[:, 0, :, :, 1], 1e-6)
        assert np.isnan(blocks[:, 0, :, :, 0]).all()

    def test_a_step_has_a_tag_that_its_buffer_had_not(self):
        tags = np.asarray(exchange.tag_of(jnp.arange(8, dtype=jnp.int32)))
        np.testing.assert_array_equal(tags, [1, 1, 0, 0, 1, 1, 0, 0])
        x = jnp.asarray([1.0, -2.5, 0.0], jnp.float32)
        for tag in (0, 1):
            bits = exchange.tagged(x, jnp.int32(tag)).view(jnp.int32)
            assert ((bits & 1) == tag).all()
            np.testing.assert_allclose(bits.view(jnp.float32), x, rtol=2e-7, atol=1e-44)


def forward_with(**changed):
    case, _ = forward_run(LSTM, SIZES["padded"][0], False)
    arguments = {
        "rule": LSTM.forward,
        "weights": case.weights,
        "drives": case.drives,
        "carry": case.carry,
        "keep": Keep(),
        "precision": "tf32",
        "tiles": ONE_BLOCK,
        "interpret": True,
    }
    return lambda: forward_kernel.run_forward(**arguments | changed)


def adjoint_with(**changed):
    case, out = forward_run(LSTM, SIZES["padded"][0], False)
    arguments = {
        "rule": LSTM.adjoint,
        "weights": case.weights,
        "y": (None, None),
        "last": case.carry,
        "streams": streams_of(LSTM, out),
        "keep": Keep(),
        "precision": "tf32",
        "tiles": ONE_BLOCK,
        "interpret": True,
    }
    return lambda: adjoint_kernel.run_adjoint(**arguments | changed)


def test_what_does_not_fit_is_refused():
    zeros = functools.partial(np.zeros, dtype=np.float32)
    whole = zeros((1, 3, 20))
    refuses(forward_with(precision="highest"), ValueError, "tf32", "'highest'")
    refuses(forward_with(weights=()), ValueError, "1 groups", "got 0")
    refuses(forward_with(weights=(zeros((1, 20, 60)),)), ValueError, "(1, 20, 80)", "(1, 20, 60)")
    refuses(forward_with(weights=(np.zeros((1, 20, 80)),)), TypeError, "float32", "float64")
    refuses(forward_with(precision="bf16"), TypeError, "bfloat16", "float32", "Cast")
    refuses(forward_with(drives=(None,)), ValueError, "axis of time", "got none")
    refuses(forward_with(carry=(whole,)), ValueError, "2 parts", "got 1")
    refuses(forward_with(marks=np.zeros((1, 4, 3), np.int32)), ValueError, "come together")
    refuses(forward_with(drives=(zeros((1, 0, 3, 80)),)), ValueError, "at least one", "T=0")
    refuses(
        forward_with(tiles=ONE_BLOCK._replace(split=2)), ValueError, "interpret", "split=2", "Pass"
    )
    refuses(adjoint_with(y=(None,)), ValueError, "2 parts", "got 1")
    refuses(adjoint_with(streams=()), ValueError, "axis of time", "got none")
    refuses(adjoint_with(last=(whole, zeros((1, 3, 9)))), ValueError, "(1, 3, 20)", "(1, 3, 9)")
