"""Eight devices give what one gives, and so do two processes."""

import functools
import json
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
    "some of the devices, looked at": ("looking", ((4,), ("batch",)), 4),
    "until solved, another name, automatic axes": ("solved", ((8,), ("data",), "Auto"), 8),
    "states on both": ("states", ((2, 4), ("ensemble", "batch")), 8),
    "random keys on both, the other way round": ("noisy", ((4, 2), ("batch", "ensemble")), 8),
    "own arrays, members that share a batch": ("arrays", ((8,), ("batch",)), 8),
    "own arrays on both, explicit": ("arrays", ((2, 4), ("ensemble", "batch"), "Explicit"), 8),
    "batches of a loader": ("loader", ((8,), ("batch",)), 8),
    "one that breaks, members apart": ("breaking", ((8,), ("ensemble",)), 8),
}
# The one that is cut, as its state is spread, and goes on on another number of devices.
CUT = "random keys on both, the other way round"
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
    case, mesh, _ = EIGHT[CUT]
    spread.train(case, directory=str(folder / "to"), **SHORT)
    works["to"] = {"case": case, "mesh": mesh, "directory": str(folder / "to")}
    works["from"] = {"case": case, "mesh": mesh, "directory": str(folder / "from"), **SHORT}
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
    seen = eight[1]["some of the devices, looked at"]["seen"]
    assert seen == {(spread.PACE["batch_size"] // 4, 2, 2)}


def test_a_run_begun_on_one_device_goes_on_on_eight(eight):
    agrees(eight[1]["to"], one_device(EIGHT[CUT][0]))


def test_a_run_begun_on_eight_devices_goes_on_on_one(eight):
    folder, found = eight
    assert "error" not in found["from"], found["from"]["trace"]
    case = EIGHT[CUT][0]
    agrees(spread.train(case, directory=str(folder / "from")), one_device(case))


def test_digests_are_those_of_another_process_with_more_devices(eight):
    here, there = (
        json.loads((eight[0] / way / "config.json").read_text())["run"]["programs"]
        for way in ("to", "from")
    )
    assert here == there


def test_a_member_that_breaks_on_one_device_leaves_the_others_alone(eight):
    failed = eight[1]["one that breaks, members apart"]["failed_at"]
    np.testing.assert_array_equal(np.isnan(failed), [index != 1 for index in range(8)])
    assert failed[1] == 4


# What two processes train together, each on a device of its own: (what, mesh).
TWO = {
    "a batch": ("jittery", ((2,), ("batch",))),
    "random keys": ("noisy", ((2,), ("ensemble",), "Explicit")),
    "nothing shared": ("jittery", None),
}


# Runs without an end: one process is asked to leave, then the other, then the disk is full.
ENDLESS = ("first asked", "second asked", "full")


def endless_works(folder):
    """What is begun first, since it is waited for; who has left a run goes on to the next."""
    mesh = TWO["random keys"][1]
    common = {"case": "endless", "mesh": mesh, "checkpoint_seconds": 0}
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
    # Those that are cut, and go on in the same two processes, in one, or in two after one.
    common = works["random keys"]
    here, there, over = (str(folder / way) for way in ("here", "there", "over"))
    works["cut"] = {**common, "directory": here, **SHORT}
    works["resume"] = {**common, "directory": here}
    works["from"] = {**common, "directory": there, **SHORT}
    works["to"] = {**common, "directory": over}
    spread.train(common["case"], directory=over, **SHORT)
    works["refused"] = {**works["to"], "seed": 6}
    works["after"] = works["a batch"]
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


@pytest.mark.parametrize("way", ["resume", "to"])
def test_a_run_goes_on_in_two_processes(way, two):
    for found in two[1][way]:
        agrees(found, one_device("noisy"))


def test_a_run_of_two_processes_goes_on_in_one(two):
    folder, found = two
    for own in found["from"]:
        assert "error" not in own, own["trace"]
    agrees(spread.train("noisy", directory=str(folder / "there")), one_device("noisy"))


def test_what_the_first_process_refuses_the_other_hears_of(two):
    first, second = two[1]["refused"]
    assert "ValueError" in first["error"], first
    assert "seed" in first["error"]
    # In the words of the first one.
    assert first["error"].partition(": ")[2] in second["error"]
    # And they can go on with something else.
    for found in two[1]["after"]:
        agrees(found, one_device("jittery"))


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
