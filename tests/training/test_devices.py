"""Eight devices give what one gives, and so do two processes."""

import functools
import os
import signal
import time

import numpy as np
import pytest

import rnn_jax as rj
from training import spread

# How the runs are spread: (what is trained, mesh, devices that the model lies on). Each name, kind
# of axes and shape of a mesh is there at least once, and so is each thing that is trained.
EIGHT = {
    "a batch of a network": ("network", ((8,), ("batch",)), 8),
    "a batch that is looked at": ("looking", ((4,), ("batch",)), 4),
    "another name, automatic axes": ("linear", ((8,), ("data",), "Auto"), 8),
    "some of the devices, explicit axes": ("linear", ((2,), ("batch",), "Explicit"), 2),
    "until solved": ("solved", ((8,), ("batch",)), 8),
    "networks on both": ("networks", ((2, 4), ("ensemble", "batch")), 8),
    "members that share a batch": ("members", ((8,), ("batch",)), 8),
    "state": ("state", ((8,), ("batch",)), 8),
    "states on both": ("states", ((2, 4), ("ensemble", "batch")), 8),
    "members with rates": ("rates", ((8,), ("ensemble",)), 8),
    "random keys on both": ("noisy", ((2, 4), ("ensemble", "batch")), 8),
    "own arrays, members apart": ("arrays", ((4,), ("ensemble",)), 4),
    "own arrays on both, explicit": ("arrays", ((2, 4), ("ensemble", "batch"), "Explicit"), 8),
    "batches of a loader": ("loader", ((8,), ("batch",)), 8),
    "one that breaks, both the other way round": ("breaking", ((4, 2), ("batch", "ensemble")), 8),
}
TO_EIGHT = {name: EIGHT[name] for name in ("a batch of a network", "random keys on both")}
# A moment at which all is evaluated and measured in any case.
SHORT = {"steps": 6}


@functools.cache
def one_device(case):
    """The same run on one device."""
    return spread.train(case)


def agrees(found, expected):
    """Two outcomes are equal, but for rounding."""
    assert "error" not in found, found["trace"]
    assert found["steps"] == expected["steps"]
    assert set(found["numbers"]) == set(expected["numbers"])
    for name, numbers in expected["numbers"].items():
        own = found["numbers"][name]
        assert (own.dtype, own.shape) == (numbers.dtype, numbers.shape)
        # Sums over a batch are taken in another order.
        np.testing.assert_allclose(own, numbers, rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    """By name, what the runs give on eight devices, and those that begin or end there."""
    folder = tmp_path_factory.mktemp("eight")
    works = {name: {"case": case, "mesh": mesh} for name, (case, mesh, _) in EIGHT.items()}
    for name, (case, mesh, _) in TO_EIGHT.items():
        here, there = (str(folder / f"{name}-{way}") for way in ("from", "to"))
        spread.train(case, directory=there, **SHORT)
        works[f"to {name}"] = {"case": case, "mesh": mesh, "directory": there}
        works[f"from {name}"] = {"case": case, "mesh": mesh, "directory": here, **SHORT}
    process = spread.start(folder / "job", list(works.values()), devices=8)
    found = spread.outcomes(folder / "job", process)
    return folder, dict(zip(works, found, strict=True))


@pytest.mark.parametrize("name", EIGHT)
def test_eight_devices_train_as_one(name, eight):
    case, (shape, names, *_), devices = EIGHT[name]
    found = eight[1][name]
    agrees(found, one_device(case))
    assert found["devices"] == {devices}
    if "ensemble" in names:
        # Each device holds its share of the members and no more.
        share = 8 // shape[names.index("ensemble")]
        assert {own[0] for own in found["shares"]} == {share}


def test_each_device_is_given_its_share_of_a_batch(eight):
    seen = eight[1]["a batch that is looked at"]["seen"]
    assert seen == {(spread.PACE["batch_size"] // 4, 2, 2)}


@pytest.mark.parametrize("name", TO_EIGHT)
def test_a_run_begun_on_one_device_goes_on_on_eight(name, eight):
    agrees(eight[1][f"to {name}"], one_device(EIGHT[name][0]))


@pytest.mark.parametrize("name", TO_EIGHT)
def test_a_run_begun_on_eight_devices_goes_on_on_one(name, eight):
    folder, found = eight
    assert "error" not in found[f"from {name}"], found[f"from {name}"]["trace"]
    case = EIGHT[name][0]
    resumed = spread.train(case, directory=str(folder / f"{name}-from"))
    agrees(resumed, one_device(case))


def test_a_member_that_breaks_on_one_device_leaves_the_others_alone(eight):
    failed = eight[1]["one that breaks, both the other way round"]["failed_at"]
    np.testing.assert_array_equal(np.isnan(failed), [index != 1 for index in range(8)])
    assert failed[1] == 4


# What two processes train together, each on a device of its own: (what, mesh).
TWO = {
    "a batch of a network": ("network", ((2,), ("batch",))),
    "members": ("members", ((2,), ("ensemble",), "Explicit")),
    "random keys": ("noisy", ((2,), ("ensemble",))),
    "nothing shared": ("linear", None),
}
# Those that are cut, and go on in the same two processes, in one, or in two after one.
CUT = ("a batch of a network", "random keys")


# Runs without an end: one process is asked to leave, then the other, then the disk is full.
ENDLESS = ("first asked", "second asked", "full")


def endless_works(folder):
    """What is begun first, since it is waited for; who has left a run goes on to the next."""
    common = {"case": "endless", "mesh": ((2,), ("ensemble",)), "checkpoint_seconds": 0}
    works = {name: {**common, "directory": str(folder / name)} for name in ENDLESS}
    works["full"]["full_at"] = 30_000
    return works


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """By name, what the runs give in each of two processes."""
    folder = tmp_path_factory.mktemp("two")
    works = endless_works(folder)
    for name, (case, mesh) in TWO.items():
        works[name] = {"case": case, "mesh": mesh}
    for name in CUT:
        case, mesh = TWO[name]
        here, there, over = (str(folder / f"{name}-{way}") for way in ("here", "there", "over"))
        common = {"case": case, "mesh": mesh}
        works[f"cut {name}"] = {**common, "directory": here, **SHORT}
        works[f"resume {name}"] = {**common, "directory": here}
        works[f"from {name}"] = {**common, "directory": there, **SHORT}
        works[f"to {name}"] = {**common, "directory": over}
        spread.train(case, directory=over, **SHORT)
    works["refused"] = {**works["to a batch of a network"], "seed": 6}
    works["after"] = works["members"]
    breaking = {"case": "breaking", "mesh": ((2,), ("ensemble",))}
    works["raises"] = {**breaking, "on_nonfinite": "raise"}
    works["breaks"] = {**breaking, "directory": str(folder / "breaks")}
    processes = spread.start_two(folder / "job", list(works.values()))
    for rank in range(2):
        metrics, begun = folder / ENDLESS[rank] / "metrics.jsonl", time.monotonic()
        while not (metrics.exists() and metrics.stat().st_size):
            assert time.monotonic() - begun < spread.PATIENCE
            assert processes[rank].poll() is None
            time.sleep(0.1)
        os.kill(processes[rank].pid, signal.SIGTERM)
    found = spread.outcomes_of_two(folder / "job", processes)
    return folder, dict(zip(works, found, strict=True))


@pytest.mark.parametrize("name", TWO)
def test_two_processes_train_as_one(name, two):
    for found in two[1][name]:
        agrees(found, one_device(TWO[name][0]))


@pytest.mark.parametrize("name", CUT)
@pytest.mark.parametrize("way", ["resume", "to"])
def test_a_run_goes_on_in_two_processes(name, way, two):
    for found in two[1][f"{way} {name}"]:
        agrees(found, one_device(TWO[name][0]))


@pytest.mark.parametrize("name", CUT)
def test_a_run_of_two_processes_goes_on_in_one(name, two):
    folder, found = two
    for own in found[f"from {name}"]:
        assert "error" not in own, own["trace"]
    case = TWO[name][0]
    agrees(spread.train(case, directory=str(folder / f"{name}-there")), one_device(case))


def test_what_the_first_process_refuses_the_other_hears_of(two):
    first, second = two[1]["refused"]
    assert "ValueError" in first["error"], first
    assert "seed" in first["error"]
    # In the words of the first one.
    assert first["error"].partition(": ")[2] in second["error"]
    # And they can go on with something else.
    for found in two[1]["after"]:
        agrees(found, one_device("members"))


def test_a_member_that_breaks_ends_both_processes_if_so_asked(two):
    for found in two[1]["raises"]:
        assert "FloatingPointError: member 1" in found["error"], found


def test_the_state_of_a_member_that_breaks_is_kept_by_the_first_process(two):
    folder, found = two
    for own in found["breaks"]:
        agrees(own, one_device("breaking"))
    assert len(list((folder / "breaks" / "nonfinite").iterdir())) == 1


@pytest.mark.parametrize("rank", [0, 1])
def test_both_leave_when_one_is_asked_to(rank, two):
    folder, found = two
    for own in found[ENDLESS[rank]]:
        assert own["error"].startswith("Terminated"), own
        assert own["code"] == 128 + signal.SIGTERM
    assert spread.toys.all_finite(rj.restore(folder / ENDLESS[rank], spread.eight()))


def test_a_full_disk_of_the_first_process_ends_both(two):
    first, second = two[1]["full"]
    assert "OSError" in first["error"], first
    assert "the first process stopped" in second["error"], second
