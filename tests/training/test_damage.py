"""Directories whose files were damaged, and disks that are full."""

import json
import re
import shutil
import warnings

import pytest

import rnn_jax as rj
from rnn_jax.training.disk.checkpoints import read_checkpoint
from rnn_jax.training.disk.configuration import FORMAT, read_config
from training import runs, small_disks, toys


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


def emptied(file):
    file.unlink()
    file.mkdir()


DAMAGES = {
    "cut": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "without_its_end": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "longer": lambda file: file.write_bytes(file.read_bytes() + b"\n"),
    "zeros": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "nothing": lambda file: file.write_bytes(b""),
    "a_folder": emptied,
    "another_step": lambda file: shutil.copy(file.with_name("4.ckpt"), file),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(damage, half, whole):
    DAMAGES[damage](half / "checkpoints" / "6.ckpt")
    with pytest.warns(UserWarning, match=r"checkpoint of step 6 cannot be used.* now lies in"):
        assert assert_ends_as(whole, half) == 4
    assert [path.name for path in (half / "damaged").iterdir()] == ["6.ckpt"]


def test_any_byte_of_a_checkpoint_that_is_another_one_is_noticed(half, tmp_path):
    content = (half / "checkpoints" / "6.ckpt").read_bytes()
    damaged = tmp_path / "6.ckpt"
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        damaged.write_bytes(changed)
        with pytest.raises(ValueError, match=r"bytes are not those|does not begin as"):
            read_checkpoint(damaged)
    for length in range(len(content)):
        damaged.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"bytes are not those|does not begin as"):
            read_checkpoint(damaged)


def test_a_checkpoint_that_is_gone_is_no_worse_than_one_that_never_was(half, whole):
    (half / "checkpoints" / "6.ckpt").unlink()
    assert assert_ends_as(whole, half) == 4


def test_a_link_that_leads_nowhere_is_a_checkpoint_that_is_gone(half, whole):
    (half / "checkpoints" / "7.ckpt").symlink_to(half / "nowhere")
    toys.identical(rj.restore(half, toys.linear()), runs.toy(half, steps=6).model)
    assert assert_ends_as(whole, half) == 6


def test_a_folder_that_is_named_as_what_was_begun_is_left_alone(half, whole):
    (half / "checkpoints" / "mine.part").mkdir()
    assert_ends_as(whole, half)
    assert (half / "checkpoints" / "mine.part").is_dir()


def test_where_no_checkpoint_can_be_used_it_is_said_and_nothing_trained(half, whole):
    before = runs.records(half)
    for name in ("4.ckpt", "6.ckpt"):
        DAMAGES["zeros"](half / "checkpoints" / name)
    words = r"no checkpoint in .*/run can be used \(step 6: .*; step 4: .*\).* damaged/"
    with pytest.warns(UserWarning, match="cannot be used"), pytest.raises(ValueError, match=words):
        runs.toy(half)
    assert runs.records(half / "damaged") == before
    # As the message says.
    assert assert_ends_as(whole, half) == 0
    assert {path.name for path in (half / "damaged").iterdir()} == {
        *("4.ckpt", "6.ckpt"),
        *("metrics.jsonl", "probes.jsonl"),
    }


def test_a_checkpoint_of_another_model_in_its_place_is_not_taken_for_its_own(half, whole, tmp_path):
    runs.toy(tmp_path / "other", model=toys.linears(0, 1), members=2, steps=6)
    shutil.copy(tmp_path / "other" / "checkpoints" / "6.ckpt", half / "checkpoints")
    words = r"step 6 cannot be used: its arrays are not those of.* is float64\[2, 2\] there, float"
    with pytest.warns(UserWarning, match=words):
        assert assert_ends_as(whole, half) == 4


def test_damage_is_said_when_a_model_is_restored_and_left_as_it_is(half):
    DAMAGES["zeros"](half / "checkpoints" / "6.ckpt")
    before = runs.tree_of(half)
    with pytest.raises(ValueError, match=r"checkpoint of step 6 in .* cannot be restored"):
        rj.restore(half, toys.linear())
    assert runs.tree_of(half) == before


# More on the disk than can be gone on from.


def without(*names):
    def remove(directory):
        for name in names:
            path = directory / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return remove


def without_all_checkpoints(directory):
    for path in (directory / "checkpoints").iterdir():
        path.unlink()


FILES = ("config.json", "metrics.jsonl", "probes.jsonl", "sessions.jsonl", "checkpoints")
# What is removed, and what is said of it.
REMOVED = {
    "checkpoints": (without("checkpoints"), "no checkpoint to go on from.* Nothing was changed"),
    "all in checkpoints": (without_all_checkpoints, "no checkpoint to go on from.* Nothing was"),
    "checkpoints, metrics": (without("checkpoints", "metrics.jsonl"), "rows in probes.jsonl but"),
    "checkpoints, probes": (without("checkpoints", "probes.jsonl"), "rows in metrics.jsonl but"),
    "metrics": (without("metrics.jsonl"), "metrics.jsonl has 0 bytes .* Nothing was changed"),
    "probes": (without("probes.jsonl"), "probes.jsonl has 0 bytes .* Nothing was changed"),
    "config": (without("config.json"), "but no config.json.* Bring it back"),
    **{
        f"all but {kept}": (without(*(set(FILES) - {kept})), f"holds {kept} but no config.json")
        for kept in FILES[1:]
    },
}


@pytest.mark.parametrize("name", REMOVED)
def test_what_cannot_be_gone_on_from_is_neither_cut_nor_written_over(name, half):
    remove, words = REMOVED[name]
    remove(half)
    before = runs.tree_of(half)
    for _ in range(2):
        with pytest.raises(ValueError, match=words):
            runs.toy(half)
        assert runs.tree_of(half) == before


@pytest.mark.parametrize("seconds", [0, 1000])
def test_rows_before_the_second_checkpoint_are_made_again(seconds, whole, tmp_path):
    with pytest.raises(runs.Enough):
        runs.toy(tmp_path, on_evaluation=runs.leave_after(2), checkpoint_seconds=seconds)
    assert assert_ends_as(whole, tmp_path) == (0 if seconds else 2)


def test_rows_whose_file_is_taken_away_in_the_middle_are_not_lost_without_a_word(tmp_path):
    def take(row):
        (tmp_path / "metrics.jsonl").rename(tmp_path / "elsewhere")

    with pytest.raises(OSError, match=r"metrics\.jsonl cannot be written"):
        runs.toy(tmp_path, on_evaluation=take)


# Formats.


@pytest.mark.parametrize(
    ("found", "words"), [(FORMAT - 1, "an older .* Go on with"), (FORMAT + 1, "a newer .* Upd")]
)
def test_a_run_of_another_format_is_refused_by_name(found, words, half):
    config = json.loads((half / "config.json").read_text())
    config["run"]["format"] = found
    (half / "config.json").write_text(json.dumps(config))
    before = runs.tree_of(half)
    for call in (lambda: runs.toy(half), lambda: rj.restore(half, toys.linear())):
        with pytest.raises(ValueError, match=f"format {found}, .*{words}"):
            call()
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
            read_config(half)


def test_a_description_of_which_any_byte_is_another_one_is_named(half):
    file = half / "config.json"
    content = file.read_bytes()
    end, description = content.index(b'"surroundings"'), read_config(half)
    for place in range(0, end, 3):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 7
        file.write_bytes(changed)
        try:
            outcome = read_config(half)  # The same, such as by another kind of space.
        except ValueError as error:
            outcome = str(error)
        words = r"config\.json is damaged|holds a run of format"
        assert outcome == description or re.search(words, str(outcome))


def test_a_damaged_run_that_is_called_as_one_of_its_folders_stays_in_its_folder(tmp_path):
    run = tmp_path / "checkpoints"
    runs.toy(run, steps=2)
    for file in (run / "checkpoints").iterdir():
        DAMAGES["zeros"](file)
    with pytest.warns(UserWarning, match="cannot be used"), pytest.raises(ValueError, match="dam"):
        runs.toy(run)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]
    assert len(list((run / "damaged").iterdir())) == 4


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
