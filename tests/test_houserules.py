"""The house itself: where files lie, how large they are, and what imports what."""

import ast
import graphlib
import os
import re
import shutil
import subprocess
import sys
import types
from collections import Counter
from pathlib import Path

import pytest

import rnn_jax

ROOT = Path(rnn_jax.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# By room, the rooms it may import from; the files beside them are free of all rooms.
BELOW = {
    "cells": set(),
    "sequence": {"cells"},
    "convert": {"sequence", "cells"},
    "gradients": {"sequence", "cells"},
    "tasks": set(),
    "testing": {"sequence", "cells", "gradients"},
    "training": {"sequence", "cells", "gradients", "tasks"},
    "plotting": set(),
}


def module(path):
    """The dotted name of a file."""
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(name):
    """The folder that a module lies in; empty for the package itself and the files beside it."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in BELOW else ""


def at_import(body):
    """The statements of a file that run when it is imported: no functions, no TYPE_CHECKING."""
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        yield statement
        if isinstance(statement, ast.If):
            if "TYPE_CHECKING" not in ast.unparse(statement.test):
                yield from at_import(statement.body)
            yield from at_import(statement.orelse)
        else:
            for part in ("body", "orelse", "finalbody"):
                yield from at_import(getattr(statement, part, []))


def imports(path):
    """Modules of the package that a file imports when it is imported."""
    found = set()
    known = set(map(module, FILES))
    for statement in at_import(ast.parse(path.read_text(encoding="utf-8")).body):
        if isinstance(statement, ast.Import):
            found |= {alias.name for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom):
            assert not statement.level, f"{path}: imports name the package in full"
            for alias in statement.names:
                whole = f"{statement.module}.{alias.name}"
                found.add(whole if whole in known else statement.module)
    return {name for name in found if name.split(".")[0] == "rnn_jax"}


@pytest.mark.parametrize("path", FILES, ids=module)
def test_imports_point_down(path):
    own = room(module(path))
    if path == ROOT / "__init__.py":
        return
    for name in imports(path):
        assert name != "rnn_jax", "a part of the package imports the whole of it"
        there = room(name)
        assert there in ({"", own} | BELOW[own] if own else {""}), name


def test_no_file_is_imported_by_what_it_imports():
    graph = {module(path): imports(path) for path in FILES}
    # Raises CycleError, which names the circle.
    assert list(graphlib.TopologicalSorter(graph).static_order())


def test_no_file_name_stands_twice():
    names = Counter(path.name for path in FILES if path.name != "__init__.py")
    assert not [name for name, count in names.items() if count > 1]


@pytest.mark.parametrize("path", FILES, ids=module)
def test_a_file_can_be_read_in_one_sitting(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_only_plotting_imports_matplotlib():
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        names = {
            alias.name if isinstance(node, ast.Import) else node.module
            for node in at_import(ast.parse(text).body)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        drawn = any(name.split(".")[0] == "matplotlib" for name in names)
        assert not drawn or room(module(path)) == "plotting", path


def test_the_rules_see_what_they_forbid(tmp_path, monkeypatch):
    """The rules on a house that breaks them, or they would prove nothing."""
    for name, text in {
        "__init__": "",
        "cells/__init__": "",
        "cells/a": "from rnn_jax.sequence import b",
        "sequence/__init__": "",
        "sequence/b": "if True:\n    import rnn_jax.cells.a",
    }.items():
        file = tmp_path / "rnn_jax" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    files = sorted((tmp_path / "rnn_jax").rglob("*.py"))
    monkeypatch.setitem(globals(), "ROOT", tmp_path / "rnn_jax")
    monkeypatch.setitem(globals(), "FILES", files)
    with pytest.raises(AssertionError, match=r"rnn_jax\.sequence\.b"):
        test_imports_point_down(tmp_path / "rnn_jax" / "cells" / "a.py")
    with pytest.raises(graphlib.CycleError):
        test_no_file_is_imported_by_what_it_imports()


def test_no_flag_of_xla_is_set_unasked():
    """They come and go with its versions, and one that is not known ends the process.

    So the tests ask for theirs first, in one place; nothing else has any.
    """
    flag = "--" + "xla_"
    house = ROOT.parent
    texts = [house / "Makefile", house / ".ci" / "run", house / "pyproject.toml"]
    for folder in ("rnn_jax", "experiments", "benchmarks", "tests"):
        texts += (house / folder).rglob("*.py")
    assert len(texts) > 100
    found = [path for path in texts if flag in path.read_text(encoding="utf-8")]
    assert found == [house / "tests" / "compiling.py"]


@pytest.fixture
def checks(tmp_path):
    """Runs .ci/run where hardly a tool is, with scripts in the place of some: what it says."""
    (tmp_path / ".ci").mkdir()
    (tmp_path / "bin").mkdir()
    shutil.copy(ROOT.parent / ".ci" / "run", tmp_path / ".ci")
    for tool in ("bash", "cat", "cut", "dirname", "head", "mktemp", "rm", "sort", "tail"):
        path = shutil.which(tool)
        if path is None:
            pytest.skip(f"the checks are a script that needs {tool}, which is not here")
        (tmp_path / "bin" / tool).symlink_to(path)

    def run(**scripts):
        for name, script in scripts.items():
            file = tmp_path / "bin" / name.replace("_", "-")
            file.write_text(f"#!/bin/sh\n{script}\n")
            file.chmod(0o755)
        environment = {"PATH": str(tmp_path / "bin"), "PYTHON": sys.executable}
        command = [tmp_path / "bin" / "bash", tmp_path / ".ci" / "run"]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    return run


MAKE = "echo made $*"
STEPS = ("the environment", "lint, wheel", "test", "docs")


def test_the_checks_run_where_the_only_python_has_a_name_of_its_own(checks):
    """No python3.11 beside it, no pyenv: the default one is then the oldest and the newest."""
    done = checks(make=MAKE)
    assert done.returncode == 0, done.stderr
    made = [line.split(" PYTHON=")[0] for line in done.stdout.splitlines() if "made" in line]
    # The environment with the compilers is made beside the others, at a time of its own.
    made.remove("made .venv-aot/.aot")
    assert made == [
        "made .venv/.all",
        "made --jobs 2 --output-sync lint wheel",
        "made test",
        "made docs",
        "made test-aot",
    ]
    assert "the oldest python here" in done.stdout.lower()
    beside, elapsed = done.stdout.split("== Elapsed\n")
    for name in (*STEPS, "in all"):
        assert re.search(rf"^ *\d+ s  {name}$", elapsed, flags=re.M), name
    assert re.search(r"^ *\d+ s  test-aot$", beside, flags=re.M)


@pytest.mark.parametrize("broken", ["wheel", "docs", "aot"])
def test_the_checks_end_with_the_first_step_that_fails(broken, checks):
    done = checks(make=f'{MAKE}; case "$*" in *{broken}*) exit 3;; esac')
    assert done.returncode != 0
    after = {"wheel": "made test", "docs": "made test-aot", "aot": "made test-aot"}[broken]
    assert after not in done.stdout
    assert " in all" in done.stdout


def test_the_checks_fail_with_what_ran_beside_the_guide(checks):
    done = checks(make=f'{MAKE}; case "$*" in test-aot*) exit 3;; esac')
    assert done.returncode != 0
    assert "made docs" in done.stdout
    assert "made test-aot" in done.stdout


@pytest.mark.parametrize(
    ("tools", "installs", "says"),
    [
        ({}, False, True),
        ({"chromium": ""}, False, False),
        ({"google_chrome": "", "apt_get": "echo got $*"}, False, False),
        ({"apt_get": "echo got $*"}, True, False),
        ({"apt_get": "echo got $*; exit 1"}, True, True),
    ],
)
def test_the_checks_get_a_browser_where_there_is_none(tools, installs, says, checks):
    if tools and "apt_get" in tools and os.geteuid():
        installs, says = False, "google_chrome" not in tools
    done = checks(make=f'{MAKE} in "$GUIDE_BROWSER"', **tools)
    assert done.returncode == 0, done.stderr
    assert ("got install --yes --quiet --quiet chromium" in done.stdout) == installs
    assert ("the guide is opened in no browser" in done.stdout) == says
    assert ("made docs in required" in done.stdout) == (not says)


@pytest.fixture
def conftest(pytestconfig):
    """That of the whole suite: folders have some of the same name."""
    return pytestconfig.pluginmanager.get_plugin(str(Path(__file__).with_name("conftest.py")))


@pytest.mark.parametrize("every", [1, 2, 8, 1000])
def test_a_part_of_the_suite_is_its_first_test_and_every_so_many_after_it(every, conftest):
    items, left_out = list(range(40)), []
    hook = types.SimpleNamespace(pytest_deselected=lambda items: left_out.extend(items))
    config = types.SimpleNamespace(getoption=lambda name: every, hook=hook)
    conftest.pytest_collection_modifyitems(config, items)
    assert items == [number for number in range(40) if number % every == 0]
    assert sorted(items + left_out) == list(range(40))


def test_a_part_must_be_a_part(conftest):
    config = types.SimpleNamespace(getoption=lambda name: 0)
    with pytest.raises(pytest.UsageError, match="--every must be at least 1; got 0"):
        conftest.pytest_collection_modifyitems(config, [])
