"""Eight devices give what one gives; so do two processes (see `test_processes`)."""

import numpy as np
import pytest

from training import spread

# How the runs are spread: (what is trained, mesh, devices that the model lies on).
EIGHT = {
    "a batch": ("linear", ((8,), ("batch",)), 8),
    "a batch of a network": ("network", ((8,), ("batch",)), 8),
    "another name": ("linear", ((8,), ("data",)), 8),
    "explicit axes": ("linear", ((8,), ("batch",), "Explicit"), 8),
    "automatic axes": ("linear", ((8,), ("batch",), "Auto"), 8),
    "some of the devices": ("linear", ((2,), ("batch",)), 2),
    "one device": ("linear", ((1,), ("batch",)), 1),
    "until solved": ("solved", ((8,), ("batch",)), 8),
    "members": ("members", ((8,), ("ensemble",)), 8),
    "several members each": ("members", ((4,), ("ensemble",)), 4),
    "networks": ("networks", ((8,), ("ensemble",)), 8),
    "networks on both": ("networks", ((2, 4), ("ensemble", "batch")), 8),
    "explicit members": ("members", ((8,), ("ensemble",), "Explicit"), 8),
    "both": ("members", ((2, 4), ("ensemble", "batch")), 8),
    "both the other way round": ("members", ((4, 2), ("batch", "ensemble")), 8),
    "both, explicit": ("members", ((2, 4), ("ensemble", "batch"), "Explicit"), 8),
    "members that share a batch": ("members", ((8,), ("batch",)), 8),
    "rates": ("rates", ((8,), ("ensemble",)), 8),
    "random keys": ("noisy", ((8,), ("ensemble",)), 8),
    "random keys on both": ("noisy", ((2, 4), ("ensemble", "batch")), 8),
    "one that breaks": ("breaking", ((4, 2), ("ensemble", "batch")), 8),
}
TO_EIGHT = {
    name: EIGHT[name] for name in ("a batch of a network", "members", "both", "random keys")
}
SHORT = {"steps": 3}


def one_device(case, cache={}):
    """The same run on one device."""
    if case not in cache:
        cache[case] = spread.train(case)
    return cache[case]


def agrees(found, expected):
    """Two outcomes are equal, but for rounding."""
    assert "error" not in found, found["trace"]
    assert found["steps"] == expected["steps"]
    for name in ("history", "trees"):
        close(found[name], expected[name])


def close(found, expected):
    if isinstance(expected, dict):
        assert set(found) == set(expected)
        for name, value in expected.items():
            close(found[name], value)
    elif isinstance(expected, np.ndarray):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        # Sums over a batch are taken in another order.
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    else:
        close(dict(enumerate(leaves(found))), dict(enumerate(leaves(expected))))


def leaves(tree):
    return spread.jax.tree.leaves(tree)


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


@pytest.mark.parametrize("name", TO_EIGHT)
def test_a_run_begun_on_one_device_goes_on_on_eight(name, eight):
    agrees(eight[1][f"to {name}"], one_device(EIGHT[name][0]))


@pytest.mark.parametrize("name", TO_EIGHT)
def test_a_run_begun_on_eight_devices_goes_on_on_one(name, eight):
    folder, found = eight
    assert found[f"from {name}"].get("steps") == SHORT["steps"], found[f"from {name}"]["trace"]
    case = EIGHT[name][0]
    resumed = spread.train(case, directory=str(folder / f"{name}-from"))
    agrees(resumed, one_device(case))


def test_a_member_that_breaks_on_one_device_leaves_the_others_alone(eight):
    failed = eight[1]["one that breaks"]["history"]["failed_at"]
    np.testing.assert_array_equal(np.isnan(failed), [index != 1 for index in range(8)])
    assert failed[1] == 4
