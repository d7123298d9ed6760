"""What may go wrong where blocks wait for one another, on a card.

Nothing of this can be run without one. Not run yet: written against the kernels' model in
`tests/sequence/test_exchange_protocol.py`.
"""

import functools
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import on_card
import pytest

import rnn_jax as rj
from rnn_jax.sequence.kernels import exchange, permission, selftest

RUN = functools.partial(
    rj.unroll, implementation=on_card.implementation_here(__name__, interpretable=False)
)
SCAN = functools.partial(rj.unroll, implementation="scan")
AUTO = functools.partial(rj.unroll, implementation="auto")
BOUND = 2e-5

# Units split over many blocks, which fill most of a card.
STEPS, ROWS, UNITS = 200, 64, 256


@pytest.fixture
def compiled_anew():
    """What was compiled under other circumstances is forgotten, before and after."""
    jax.clear_caches()
    yield
    jax.clear_caches()


def point32(name="lstm", *, units=UNITS, rows=ROWS, seed=1):
    point = on_card.point_at(name, steps=STEPS, batch=(rows,), units=units, seed=seed)
    return on_card.in_type(point, jnp.float32)


def outputs(*point):
    return RUN(*point)[1]


def gradient(*point):
    return jax.grad(lambda point: jnp.mean(jnp.sin(RUN(*point)[1])))(point)


def expected_gradient(*point):
    in_float64 = on_card.in_type(point, jnp.float64)
    loss = lambda point: jnp.mean(jnp.sin(SCAN(*point)[1]))  # noqa: E731
    return on_card.on_cpu(lambda *point: jax.grad(loss)(point), *in_float64)


# ---- The self-test, and who may use the exchange.


def test_the_exchange_works_on_every_device_here():
    for device in on_card.cuda_devices():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert selftest.exchange_works(device)


@pytest.mark.usefixtures("compiled_anew")
def test_a_device_that_fails_is_scanned_with_one_warning(monkeypatch):
    monkeypatch.setattr(selftest, "_works", {})
    monkeypatch.setattr(selftest, "try_exchange", lambda device: "it was told to fail")
    point = point32()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", RuntimeWarning)
        with jax.default_matmul_precision("highest"):
            ys = jax.jit(lambda *p: AUTO(*p)[1])(*point)
            jax.jit(lambda *p: 2 * AUTO(*p)[1])(*point)
        with pytest.raises(ValueError, match="self-test"):
            jax.jit(lambda *p: 3 * RUN(*p)[1])(*point)
    assert ["told to fail" in str(warning.message) for warning in warned] == [True]
    expected = on_card.on_cpu(lambda *p: SCAN(*p)[1], *on_card.in_type(point, jnp.float64))
    on_card.assert_close(jax.device_get(ys), expected, BOUND)


@pytest.mark.usefixtures("compiled_anew")
@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "50", "MPS"),
        (permission.VARIABLE, "one-block", "one-block"),
        (permission.VARIABLE, "off", "off"),
    ],
)
def test_where_the_exchange_is_not_permitted(monkeypatch, name, value, says):
    """What needs it is refused if it was asked for, and scanned if not."""
    monkeypatch.setenv(name, value)
    point = point32()
    with pytest.raises(ValueError, match=says):
        jax.jit(lambda *p: 3 * RUN(*p)[1])(*point)
    with jax.default_matmul_precision("highest"):
        ys = jax.jit(lambda *p: AUTO(*p)[1])(*point)
    expected = on_card.on_cpu(lambda *p: SCAN(*p)[1], *on_card.in_type(point, jnp.float64))
    on_card.assert_close(jax.device_get(ys), expected, BOUND)
    if value != "off":
        # What fits one block runs all the same.
        jax.jit(lambda *p: 5 * RUN(*p)[1])(*point32(units=16))


# ---- Several programs at once.


def test_the_same_program_gives_the_same_bits_every_time():
    point = point32()
    run = jax.jit(outputs)
    first = np.asarray(run(*point))
    for _ in range(20):
        np.testing.assert_array_equal(np.asarray(run(*point)), first)


def test_two_programs_in_two_threads():
    points = [point32("lstm"), point32("gru", seed=2)]
    with jax.default_matmul_precision("highest"):
        programs = [jax.jit(gradient).lower(*point).compile() for point in points]
    found = [[], []]

    def work(k):
        for _ in range(20):
            found[k].append(jax.device_get(programs[k](*points[k])))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for point, results in zip(points, found, strict=True):
        expected = expected_gradient(*point)
        assert len(results) == 20
        for result in results:
            on_card.assert_close(result, expected, BOUND)


PROCESS = """
import jax, numpy as np, jax.numpy as jnp
import test_hazards as t
jax.config.update("jax_default_matmul_precision", "highest")
point = t.point32()
run = jax.jit(t.outputs)
first = np.asarray(run(*point))
assert np.isfinite(first).all()
for _ in range(50):
    np.testing.assert_array_equal(np.asarray(run(*point)), first)
expected = t.on_card.on_cpu(
    lambda *p: t.SCAN(*p)[1], *t.on_card.in_type(point, jnp.float64)
)
t.on_card.assert_close(first, expected, t.BOUND)
"""


def test_two_processes_take_turns():
    """Without MPS the driver gives each the whole card for a while."""
    here = Path(__file__).parent
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(here), str(here.parent), str(here.parents[1])]),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "JAX_ENABLE_X64": "true",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS], env=environment, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-3000:]


def test_a_large_product_on_the_card_at_the_same_time():
    """It holds multiprocessors when the kernel is launched."""
    point = point32()
    with jax.default_matmul_precision("highest"):
        run = jax.jit(outputs).lower(*point).compile()
    alone = np.asarray(run(*point))
    a = jnp.ones((8192, 8192), jnp.float32)
    stop = threading.Event()

    def multiply():
        while not stop.is_set():
            jax.block_until_ready(a @ a)

    thread = threading.Thread(target=multiply)
    thread.start()
    try:
        for _ in range(20):
            np.testing.assert_array_equal(np.asarray(run(*point)), alone)
    finally:
        stop.set()
        thread.join()


# ---- Values that are not finite.


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["lstm", "gru", "tanh"])
def test_what_is_not_finite_stays_in_its_row(name, value):
    cell, xs, carry = point32(name)
    run = jax.jit(outputs)
    clean = np.asarray(run(cell, xs, carry))
    carry = jax.tree.map(lambda a: a.at[3].set(value), carry)
    spoiled = np.asarray(run(cell, xs, carry))
    others = np.arange(ROWS) != 3
    np.testing.assert_array_equal(spoiled[others], clean[others])
    if np.isnan(value):
        assert np.isnan(spoiled[3, -1]).all()


def test_nan_in_one_input_stays_in_its_row_and_after_its_step():
    cell, xs, carry = point32()
    run = jax.jit(outputs)
    clean = np.asarray(run(cell, xs, carry))
    spoiled = np.asarray(run(cell, xs.at[5, 100].set(jnp.nan), carry))
    others = np.arange(ROWS) != 5
    np.testing.assert_array_equal(spoiled[others], clean[others])
    np.testing.assert_array_equal(spoiled[5, :100], clean[5, :100])
    assert np.isnan(spoiled[5, 101:]).all()


# ---- The spin limit.


@pytest.mark.usefixtures("compiled_anew")
@pytest.mark.parametrize("reverse", [False, True])
def test_at_the_spin_limit_values_are_right_or_nan_and_the_call_returns(monkeypatch, reverse):
    """With no second try, some block gives up soon. Sequences that start later do not hide it."""
    point = point32()
    resets = np.random.default_rng(0).random((ROWS, STEPS)) < 0.1
    run = functools.partial(RUN, resets=resets, reverse=reverse, initial=point[2])
    right = np.asarray(jax.jit(lambda *p: run(*p)[1])(*point))
    assert np.isfinite(right).all()
    monkeypatch.setattr(exchange, "LIMIT", 0)
    jax.clear_caches()
    found = np.asarray(jax.jit(lambda *p: run(*p)[1])(*point))
    assert np.isnan(found).any()
    np.testing.assert_array_equal(found[~np.isnan(found)], right[~np.isnan(found)])
    gradients = jax.jit(jax.grad(lambda cell: jnp.sum(run(cell, *point[1:])[1])))(point[0])
    assert all(np.isnan(leaf).any() for leaf in jax.tree.leaves(jax.device_get(gradients)))
    # And the card is as it was.
    monkeypatch.undo()
    jax.clear_caches()
    np.testing.assert_array_equal(np.asarray(jax.jit(lambda *p: run(*p)[1])(*point)), right)
