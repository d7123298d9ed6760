"""Directories whose files were damaged, and disks that are full."""

import json
import shutil
import warnings

import pytest

import rnn_jax as rj
from training import runs, small_disks, toys

# Orbax leaves what reads of a damaged checkpoint are still under way to themselves.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(directory, result) of a run of 8 steps."""
    directory = tmp_path_factory.mktemp("whole")
    return directory, runs.toy(directory)


@pytest.fixture(scope="module")
def _half(tmp_path_factory):
    directory = tmp_path_factory.mktemp("half")
    runs.toy(directory, steps=6)
    return directory


@pytest.fixture
def half(_half, tmp_path):
    """A directory of the same run after 6 steps, with checkpoints of steps 4 and 6."""
    return shutil.copytree(_half, tmp_path / "run")


def assert_ends_as(whole, directory):
    """The same call ends as the undisturbed run; says from which step it went on."""
    assert runs.result_bits(runs.toy(directory)) == runs.result_bits(whole[1])
    assert runs.records(directory) == runs.records(whole[0])
    begun_at = [row["from_step"] for row in runs.sessions(directory, "start")]
    return begun_at[-1]


# Checkpoints.


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


FILE_DAMAGES = {
    "flipped": flip,
    "cut": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "zeros": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "deleted": lambda file: file.unlink(),
}


def all_files(checkpoint):
    return [path for path in sorted(checkpoint.rglob("*")) if path.is_file()]


def all_but_one(checkpoint, damage):
    for file in all_files(checkpoint)[1:]:
        damage(file)


def without(name):
    return lambda checkpoint: shutil.rmtree(checkpoint / name)


def emptied(checkpoint):
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()


CHECKPOINT_DAMAGES = {
    **{
        f"all_{name}": lambda checkpoint, damage=damage: [
            damage(file) for file in all_files(checkpoint)
        ]
        for name, damage in FILE_DAMAGES.items()
    },
    "emptied": emptied,
    "without_state": without("state"),
    "without_notes": without("notes"),
    "without_numbers": without("state/d"),
}


@pytest.mark.parametrize("damage", CHECKPOINT_DAMAGES)
def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(damage, half, whole):
    CHECKPOINT_DAMAGES[damage](half / "checkpoints" / "6")
    with pytest.warns(UserWarning, match="checkpoint of step 6 cannot be used.* now lies in"):
        assert assert_ends_as(whole, half) == 4
    assert [path.name for path in (half / "damaged").iterdir()] == ["6"]


@pytest.mark.parametrize("damage", FILE_DAMAGES)
def test_whichever_file_of_the_last_checkpoint_is_damaged_the_run_ends_as_it_would_have(
    damage, half, whole, tmp_path
):
    paths = [file.relative_to(half) for file in all_files(half / "checkpoints" / "6")]
    begun_at = []
    for number, path in enumerate(paths):
        directory = shutil.copytree(half, tmp_path / f"run-{number}")
        FILE_DAMAGES[damage](directory / path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            begun_at.append(assert_ends_as(whole, directory))
    assert 4 in begun_at
    assert set(begun_at) <= {4, 6}


def test_a_checkpoint_that_is_gone_is_no_worse_than_one_that_never_was(half, whole):
    shutil.rmtree(half / "checkpoints" / "6")
    assert assert_ends_as(whole, half) == 4
    shutil.rmtree(half / "checkpoints")
    assert assert_ends_as(whole, half) == 0


def test_where_no_checkpoint_can_be_used_it_is_said_and_nothing_trained(half, whole):
    before = runs.records(half)
    for name in ("4", "6"):
        emptied(half / "checkpoints" / name)
    words = r"no checkpoint in .*/run can be used \(step 6: .*; step 4: .*\).* damaged/"
    with pytest.warns(UserWarning, match="cannot be used"), pytest.raises(ValueError, match=words):
        runs.toy(half)
    assert runs.records(half) == before
    # As the message says.
    assert assert_ends_as(whole, half) == 0
    assert {path.name for path in (half / "damaged").iterdir()} == {
        *("4", "6"),
        *("metrics.jsonl", "probes.jsonl"),
    }


def test_a_checkpoint_of_another_model_in_its_place_is_not_taken_for_its_own(half, whole, tmp_path):
    runs.toy(tmp_path / "other", model=toys.linears(0, 1), members=2, steps=6)
    last = half / "checkpoints" / "6"
    shutil.rmtree(last)
    shutil.copytree(tmp_path / "other" / "checkpoints" / "6", last)
    with pytest.warns(UserWarning, match="step 6 cannot be used: its arrays are not those of"):
        assert assert_ends_as(whole, half) == 4


def test_damage_is_said_when_a_model_is_restored_and_left_as_it_is(half):
    emptied(half / "checkpoints" / "6")
    before = runs.tree_of(half)
    with pytest.raises(ValueError, match=r"checkpoint of step 6 in .* cannot be restored"):
        rj.restore(half, toys.linear())
    assert runs.tree_of(half) == before


# Records.


RECORDS = pytest.mark.parametrize("name", ["metrics.jsonl", "probes.jsonl"])


@RECORDS
@pytest.mark.parametrize("tail", [b'{"step": 8, "loss": 0.', b"\0" * 4096, b"\xff\n\n{}\n"])
def test_what_came_after_the_checkpoint_may_be_anything(tail, name, half, whole):
    with (half / name).open("ab") as file:
        file.write(tail)
    assert assert_ends_as(whole, half) == 6


@RECORDS
@pytest.mark.parametrize("ending", [b"", b"\0" * 10, b"}" * 9 + b"\n", b"1}}" + b" " * 6 + b"\n"])
def test_records_damaged_at_their_end_fall_back_to_the_checkpoint_before(ending, name, half, whole):
    file = half / name
    file.write_bytes(file.read_bytes()[:-10] + ending)
    with pytest.warns(UserWarning, match=f"step 6 cannot be used: .*{name}"):
        assert assert_ends_as(whole, half) == 4


LOST = {
    "deleted": lambda file: file.unlink(),
    "empty": lambda file: file.write_bytes(b""),
    "zeros": lambda file: file.write_bytes(bytes(10000)),
    "noise": lambda file: file.write_bytes(b"\xff" * 10000),
    "other_rows": lambda file: file.write_bytes(b"{}\n" * 10000),
    "a_digit": lambda file: file.write_bytes(file.read_bytes().replace(b'"step": 2', b'"step": 3')),
}


@RECORDS
@pytest.mark.parametrize("damage", LOST)
def test_records_that_are_not_those_that_were_written_are_said_and_nothing_trained(
    damage, name, half
):
    LOST[damage](half / name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        with pytest.raises(ValueError, match=f"no checkpoint in .* can be used .*{name}"):
            runs.toy(half)
    # The checkpoints are good, so they stay where they are.
    assert len(list((half / "checkpoints").iterdir())) == 2
    assert not (half / "damaged").exists()


# The description.


GARBLED = [b"", b"\xff\xfe", b"{}", b"[]", b"null", b'{"run": null}', b'{"run": {"model": {}}}']


@pytest.mark.parametrize("content", GARBLED)
def test_a_damaged_description_is_named_and_nothing_touched(content, half):
    (half / "config.json").write_bytes(content)
    before = runs.tree_of(half)
    with pytest.raises(ValueError, match=r"config\.json is damaged|holds another run"):
        runs.toy(half)
    assert runs.tree_of(half) == before


def test_a_description_that_was_cut_anywhere_is_named(half):
    content = (half / "config.json").read_bytes()
    for length in range(1, len(content) - 2, 97):
        (half / "config.json").write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"config\.json is damaged: .* Bring it back"):
            runs.toy(half)


def test_records_without_a_description_are_not_written_over(half):
    (half / "config.json").unlink()
    before = runs.tree_of(half)
    with pytest.raises(ValueError, match=r"holds metrics\.jsonl and .* but no config\.json"):
        runs.toy(half)
    assert runs.tree_of(half) == before


# Full disks.


@pytest.mark.parametrize("disk", small_disks.KINDS)
def test_a_full_disk_leaves_the_last_checkpoint_and_a_run_with_room_ends_bit_for_bit(
    disk, tmp_path
):
    report = tmp_path / "report.json"
    process = runs.start(small_disks.KINDS[disk], tmp_path, report)
    status = runs.exit_status(process)
    if status == small_disks.NOT_PERMITTED:
        pytest.skip("no file system may be mounted here")
    assert status == 0
    found = json.loads(report.read_text())
    for case in found:
        assert case["intact"], case
        assert case["alike"], case
        assert case["error"] is None or case["error"].startswith("OSError"), case
    failed = [case["error"] for case in found if case["error"] is not None]
    assert any("checkpoint could not be written" in error for error in failed)
    assert found[-1]["error"] is None
