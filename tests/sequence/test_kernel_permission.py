"""On what card kernels may count, and which of them; with devices and self-tests that stand in."""

import functools
import re
import threading
import time
import types
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import Primitive
from jax.interpreters import mlir
from jax.sharding import AbstractDevice, AbstractMesh

from refusing import refuses
from rnn_jax.sequence.kernels import card, permission, selftest
from rnn_jax.sequence.kernels.card import H100, Card, card_of_lowering, card_or_reason
from rnn_jax.sequence.kernels.permission import Permission, permission_of_lowering
from rnn_jax.sequence.kernels.selftest import exchange_works, try_exchange


def device(kind="NVIDIA H100 80GB HBM3", cores=132, capability="9.0", **more):
    """What JAX tells of a CUDA device."""
    attributes = {"core_count": cores, "compute_capability": capability, **more}
    return types.SimpleNamespace(device_kind=kind, platform="gpu", **attributes)


@pytest.fixture(autouse=True)
def _no_overrides(monkeypatch):
    """What the machine of the test says of itself is left out."""
    monkeypatch.delenv(permission.VARIABLE, raising=False)
    monkeypatch.setattr(permission, "is_shared", lambda: False)


@pytest.fixture
def here(monkeypatch):
    """Sets the local CUDA devices."""

    def set_devices(*devices):
        for module in (card, permission):
            monkeypatch.setattr(module, "local_devices", lambda: devices)

    return set_devices


def compiled_for(kind, cores, platform="gpu"):
    mesh = AbstractMesh((1,), ("x",), abstract_device=AbstractDevice(kind, cores, platform))
    return jax.sharding.use_abstract_mesh(mesh)


# ---- The card.


def test_without_a_device_there_is_no_card():
    assert card_of_lowering() is None
    assert "no CUDA device" in card_or_reason()


def test_the_sizes_are_what_the_device_says(here):
    here(device(shared_memory_per_block_optin=232448))
    assert card_or_reason() == H100
    here(device("NVIDIA H100 80GB HBM3 MIG 1g.10gb", 16, shared_memory_per_block_optin=232448))
    assert card_or_reason() == H100._replace(multiprocessors=16)


@pytest.mark.parametrize(
    ("capability", "kib"),
    {"8.0": 163, "8.6": 99, "8.9": 99, "9.0": 227, "10.0": 227, "10.3": 227, "12.0": 99}.items(),
)
def test_shared_memory_that_a_device_does_not_tell_is_as_documented(here, capability, kib):
    here(device(capability=capability))
    major, minor = capability.split(".")
    assert card_or_reason() == Card(132, kib * 1024, (int(major), int(minor)))


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (device("Tesla T4", 40, "7.5"), "'Tesla T4' has compute capability 7.5.*need 8.0"),
        (device(capability="gfx90a"), "compute capability .* is not known"),
        (device(cores=None), "number of multiprocessors .* is not known"),
        (device(capability="99.0"), "shared memory .* 99.0, is not known"),
    ],
)
def test_why_a_device_has_no_card(here, found, says):
    here(device(), found)
    assert card_of_lowering() is None
    assert re.search(says, card_or_reason())


def test_of_several_devices_the_smallest_of_everything_counts(here):
    here(device(cores=132), device("NVIDIA A100-SXM4-80GB", 108, "8.0"))
    assert card_or_reason() == Card(108, 163 * 1024, (8, 0))


@pytest.mark.parametrize(
    ("kind", "capability"),
    {
        "NVIDIA H100 80GB HBM3": (9, 0),
        "NVIDIA H200": (9, 0),
        "NVIDIA GH200 480GB": (9, 0),
        "NVIDIA A100-SXM4-80GB": (8, 0),
        "NVIDIA A10G": (8, 6),
        "NVIDIA GeForce RTX 3090": (8, 6),
        "NVIDIA RTX A6000": (8, 6),
        "NVIDIA L4": (8, 9),
        "NVIDIA L40S": (8, 9),
        "NVIDIA GeForce RTX 4090": (8, 9),
        "NVIDIA RTX 6000 Ada Generation": (8, 9),
        "NVIDIA B200": (10, 0),
        "NVIDIA GB300": (10, 3),
        "NVIDIA GeForce RTX 5090": (12, 0),
    }.items(),
)
def test_an_abstract_device_is_known_by_its_name(here, kind, capability):
    here(device("NVIDIA RTX PRO 6000", 188, "12.0"))  # Of another kind: not what is compiled for.
    with compiled_for(kind, 100):
        found = card_of_lowering()
    assert (found.multiprocessors, found.compute_capability) == (100, capability)


def test_abstract_devices_that_say_too_little_or_nothing(here):
    with compiled_for("NVIDIA Something", 100):
        assert "compute capability of 'NVIDIA Something' is not known" in card_or_reason()
    with compiled_for("NVIDIA H100", None):
        assert "multiprocessors" in card_or_reason()
    with compiled_for("Tesla V100-SXM2-16GB", 80):
        assert "compute capability 7.0" in card_or_reason()
    # One of another platform says nothing of the card; one that is here is better known here.
    here(device(cores=16))
    with compiled_for("cpu", None, platform="cpu"):
        assert card_of_lowering().multiprocessors == 16
    with compiled_for(device().device_kind, 132):
        assert card_of_lowering().multiprocessors == 16


def test_what_is_set_inside_jit_is_seen_while_tracing():
    seen = []

    @jax.jit
    def program(x):
        seen.append(card_of_lowering())
        return x

    with compiled_for("NVIDIA H100 80GB HBM3", 132):
        program.trace(jax.ShapeDtypeStruct((), jnp.float32))
    assert seen == [Card(132, 227 * 1024, (9, 0))]


# ---- What may be used.


def never(device):
    raise AssertionError("a self-test was not to run")


def asked():
    return permission_of_lowering(never)


def test_all_is_permitted_on_a_card_that_passes(here):
    here(device())
    assert permission_of_lowering(lambda device: True) == Permission(card_or_reason(), "")


def test_no_card_no_kernels():
    assert asked() == Permission(None, card_or_reason())


def test_blocks_must_not_wait_for_one_another_on_a_card_that_fails(here):
    here(device())
    found = permission_of_lowering(lambda device: False)
    assert found.card == card_of_lowering()._replace(multiprocessors=1)
    assert "self-test" in found.reason


def test_a_card_that_processes_share_is_not_counted_on(here, monkeypatch):
    here(device())
    monkeypatch.setattr(permission, "is_shared", lambda: True)
    found = asked()
    assert found.card.multiprocessors == 1
    assert "MPS" in found.reason


@pytest.mark.parametrize("name", ["CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"])
def test_mps_is_known_by_its_environment_or_its_pipe(monkeypatch, tmp_path, name):
    monkeypatch.undo()  # The fixture's.
    monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(permission, "_MPS_PIPE", tmp_path / "control")
    assert not permission.is_shared()
    (tmp_path / "control").touch()
    assert permission.is_shared()
    (tmp_path / "control").unlink()
    monkeypatch.setenv(name, "50")
    assert permission.is_shared()


def test_the_environment_overrides(here, monkeypatch):
    here(device())
    monkeypatch.setattr(permission, "is_shared", lambda: True)
    monkeypatch.setenv(permission.VARIABLE, "on")
    assert asked() == Permission(card_of_lowering(), "")
    monkeypatch.setenv(permission.VARIABLE, "one-block")
    assert asked().card.multiprocessors == 1
    assert "one-block" in asked().reason
    monkeypatch.setenv(permission.VARIABLE, "off")
    assert asked() == Permission(None, "RNN_JAX_KERNELS=off is set")
    monkeypatch.setenv(permission.VARIABLE, "fast")
    refuses(asked, ValueError, "RNN_JAX_KERNELS must be", "'fast'", "Unset it")


def test_one_device_of_each_kind_and_size_is_tested(here):
    tested = []

    def works(device):
        tested.append((device.device_kind, device.core_count))
        return True

    slice_of_one = device("NVIDIA H100 80GB HBM3 MIG 1g.10gb", 16)
    here(device(), device(), slice_of_one)
    permission_of_lowering(works)
    assert sorted(tested) == [("NVIDIA H100 80GB HBM3", 132), (slice_of_one.device_kind, 16)]
    # What is compiled for a device that is not here cannot be tried.
    with compiled_for("NVIDIA H200", 132):
        assert asked() == Permission(Card(132, 227 * 1024, (9, 0)), "")


# ---- The self-test.


@pytest.fixture
def fresh(monkeypatch):
    """Nothing is remembered of other tests."""
    monkeypatch.setattr(selftest, "_works", {})


@pytest.mark.usefixtures("fresh")
def test_a_trial_that_passes_is_made_once_for_each_device():
    tried = []

    def trial(device):
        tried.append(device)
        return ""

    assert exchange_works("one", trial)
    assert exchange_works("one", never)
    assert exchange_works("other", trial)
    assert tried == ["one", "other"]


def fails(device):
    return "it was off by 3"


def raises(device):
    raise RuntimeError("out of memory\nand more")


def hangs(device):
    time.sleep(1.0)
    return ""


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(
    ("trial", "says"),
    [(fails, "off by 3"), (raises, "RuntimeError: out of memory"), (hangs, "did not return")],
)
def test_a_trial_that_fails_warns_once(trial, says, monkeypatch):
    monkeypatch.setattr(selftest, "PATIENCE_S", 0.05 if trial is hangs else 60.0)
    with pytest.warns(RuntimeWarning, match="scanned instead") as warned:
        assert not exchange_works("card 7", trial)
    (warning,) = warned
    message = str(warning.message)
    assert says in message
    assert "card 7" in message
    assert "and more" not in message
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not exchange_works("card 7", never)


@pytest.mark.usefixtures("fresh")
def test_what_pallas_says_of_its_future_is_no_failure():
    def trial(device):
        warnings.warn("The Pallas Triton backend is deprecated", DeprecationWarning, stacklevel=1)
        return ""

    assert exchange_works("card", trial)


@pytest.mark.usefixtures("fresh")
def test_threads_that_ask_at_once_share_one_trial():
    tried, answers = [], []

    def trial(device):
        time.sleep(0.05)
        tried.append(device)
        return ""

    threads = [
        threading.Thread(target=lambda: answers.append(exchange_works("card", trial)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tried == ["card"]
    assert answers == [True] * 4


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("stage", ["traced", "lowered"])
def test_a_trial_runs_on_arrays_while_another_program_is(stage):
    """Whatever mesh, precision or other context the other program has."""
    results = []

    def trial(device):
        assert jax.sharding.get_abstract_mesh().empty
        assert jax.config.jax_default_matmul_precision is None
        results.append(float(jax.jit(jnp.sum)(np.arange(4.0))))
        return ""

    def ask():
        assert exchange_works("card", trial)

    def lowering(context, x):
        ask()
        return [x]

    asks = Primitive("asks")
    asks.def_abstract_eval(lambda x: x)
    mlir.register_lowering(asks, lowering)

    @jax.jit
    def program(x):
        return ask() or x if stage == "traced" else asks.bind(x)

    with compiled_for("NVIDIA H100", 132), jax.default_matmul_precision("highest"):
        traced = program.trace(jax.ShapeDtypeStruct((), jnp.float32))
    if stage == "lowered":
        assert not results
        with jax.default_matmul_precision("highest"):
            traced.lower(lowering_platforms=("cpu",))
    assert results == [6.0]


def interpreted(device, drives, w, tiles):
    """One block for each tile, in place of those that exchange."""
    return selftest._run(drives, w, tiles._replace(split=1), interpret=True)


def in_numpy(device, drives, w, tiles):
    (xs, ys), h, passed = drives, 0.0, 0.0
    hs, cotangents = np.empty_like(xs), np.empty_like(xs)
    for t in range(len(xs)):
        h = hs[t] = xs[t] + h @ w if t else xs[t]
    for t in reversed(range(len(ys))):
        passed = cotangents[t] = ys[t] + (passed @ w.T if t < len(ys) - 1 else 0)
    return hs, cotangents


@pytest.mark.parametrize("run", [interpreted, in_numpy])
def test_the_kernels_pass_the_trial(run, monkeypatch):
    monkeypatch.setattr(selftest, "STEPS", 7)
    assert try_exchange(device(cores=6), run) == ""


def spoiled(device, drives, w, tiles, *, direction, value):
    outputs = in_numpy(device, drives, w, tiles)
    outputs[direction][-1, 3, 4] = outputs[direction][-2, 3, 4] if value is None else value
    return outputs


@pytest.mark.parametrize("direction", [0, 1])
@pytest.mark.parametrize("value", [None, np.nan, np.inf])
def test_one_value_of_another_step_fails_the_trial(direction, value, monkeypatch):
    monkeypatch.setattr(selftest, "STEPS", 7)
    run = functools.partial(spoiled, direction=direction, value=value)
    assert "33 x 2 blocks" in try_exchange(device(cores=66), run)


def test_what_is_exchanged_in_the_trial_is_as_exact_as_tf32():
    """Tags and tf32 take nothing away from its numbers."""
    for numbers in selftest._problem(32, 32)[2]:
        assert numbers.max() == selftest.LARGEST < 2**10
        for tag in (0, 1):
            word = numbers.view(np.uint32) & np.uint32(0xFFFFFFFE) | np.uint32(tag)
            # Rounded or cut off: there is nothing but the tag below the ten bits.
            np.testing.assert_array_equal((word >> 13 << 13).view(np.float32), numbers)
