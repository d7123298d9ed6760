"""The state of the source: a commit and a patch give back the files that a run was made with."""

import json
import subprocess

import pytest

from rnn_jax.training.disk import source
from training import runs

COMMITTED = b"rate = 0.1\n"
CHANGED = b"rate = 0.2\n"
# No UTF-8, as in sources that are older than it.
OLD = b"name = 'caf\xe9'\n"


def git(folder, *words):
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    asked = ["git", "-C", str(folder), *identity, *words]
    return subprocess.run(asked, capture_output=True, check=True).stdout


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A working folder that is a repository with one commit."""
    folder = tmp_path / "study"
    folder.mkdir()
    git(folder, "init")
    (folder / "train.py").write_bytes(COMMITTED)
    (folder / ".gitignore").write_text("ignored.py\n")
    git(folder, "add", ".")
    git(folder, "commit", "-m", "first")
    (folder / "below").mkdir()
    monkeypatch.chdir(folder / "below")
    return folder


def test_commit_and_patch_give_the_files_back(repository, tmp_path):
    (repository / "train.py").write_bytes(CHANGED)
    (repository / "below" / "über model.py").write_bytes(OLD)
    git(repository, "add", "below")
    (repository / "secret.py").write_text("KEY = 'of nobody else'")
    (repository / "ignored.py").write_text("1")
    (repository / "data.bin").write_bytes(bytes(100))
    clone = tmp_path / "clone"
    git(tmp_path, "clone", str(repository), str(clone))
    commit = git(repository, "rev-parse", "HEAD").decode().strip()
    assert {"folder": str(repository), "commit": commit, "clean": False} in source.state()
    git(clone, "checkout", commit)
    (tmp_path / "patch").write_bytes(source.uncommitted()["study"])
    git(clone, "apply", str(tmp_path / "patch"))
    assert (clone / "train.py").read_bytes() == CHANGED
    assert (clone / "below" / "über model.py").read_bytes() == OLD
    assert b"KEY" not in source.uncommitted()["study"]
    assert not (clone / "secret.py").exists()
    assert not (clone / "ignored.py").exists()
    assert not (clone / "data.bin").exists()


def test_what_is_committed_needs_no_patch(repository):
    assert "study" not in source.uncommitted()
    assert [own["clean"] for own in source.state() if own["folder"] == str(repository)] == [True]


def test_a_run_keeps_the_patch_of_the_folder_that_it_was_started_in(repository, tmp_path):
    (repository / "train.py").write_bytes(CHANGED)
    runs.toy(tmp_path / "run", steps=2)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    own = [found for found in config["surroundings"]["git"] if found["folder"] == str(repository)]
    assert [found["clean"] for found in own] == [False]
    assert CHANGED.strip() in (tmp_path / "run" / "uncommitted-study.diff").read_bytes()


def test_without_a_repository_or_without_git_there_is_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(tmp_path) not in [own["folder"] for own in source.state()]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert source.state() == []
    assert source.uncommitted() == {}


def test_a_repository_without_a_commit_is_none(tmp_path, monkeypatch):
    git(tmp_path, "init")
    monkeypatch.chdir(tmp_path)
    assert str(tmp_path) not in [own["folder"] for own in source.state()]
