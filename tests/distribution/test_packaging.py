"""What the files beside the package say, held against the package."""

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import rnn_jax as rj
from rnn_jax.__main__ import OPTIONAL, main

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]


def test_the_version_is_written_in_one_place_and_copied_right():
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert "version" not in PROJECT["project"]
    assert f"\nversion: {rj.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\n## {rj.__version__}, " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_what_main_calls_optional_is_in_the_extra_that_it_names():
    for one in OPTIONAL:
        assert one.package in EXTRAS[one.extra], one


def test_the_page_on_installation_has_each_extra_with_what_it_brings():
    page = (ROOT / "docs" / "howto" / "install.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", page, flags=re.M)
    written = {name: set(re.findall(r"`([^`]+)`", packages)) for name, packages in rows}
    assert written == {name: set(packages) for name, packages in EXTRAS.items()}


def test_main_prints_versions_devices_and_what_is_optional(capsys):
    main([])
    said = capsys.readouterr().out
    assert f"rnn_jax {rj.__version__}" in said
    assert "backend cpu, devices: " in said
    for name in ("jax", "jaxlib", "flax", "optax", "matplotlib"):
        assert importlib.metadata.version(name) in said
    for one in OPTIONAL:
        assert one.package in said


def test_main_says_how_to_install_what_is_missing(capsys, monkeypatch):
    monkeypatch.setattr("rnn_jax.__main__._is_installed", lambda one: one.extra != "experiments")
    main([])
    line = "matplotlib, tyro, scikit-learn: pip install 'rnn_jax[experiments]'"
    assert line in capsys.readouterr().out.splitlines()


def test_main_refuses_other_arguments_in_one_line(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--devices", "all"])
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "unrecognized arguments: --devices all" in line
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert not caught.value.code
    assert capsys.readouterr().out == f"rnn_jax {rj.__version__}\n"


def test_main_works_where_no_device_can_be_initialised():
    environment = {**os.environ, "JAX_PLATFORMS": "no_such_platform"}
    command = [sys.executable, "-m", "rnn_jax"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0
    assert "no device could be initialised for JAX_PLATFORMS=no_such_platform: " in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "call",
    [
        "import rnn_jax.plotting",
        "rj.plotting",
        "rj.gradient_flow(cell, xs, measures=[]).plot()",
        "rj.local_lyapunov_exponents(cell, xs, window=2).plot()",
    ],
)
def test_without_matplotlib_a_picture_says_what_it_needs(call):
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "import jax.numpy as jnp, rnn_jax as rj; from flax import nnx\n"
        "cell, xs = rj.SimpleRNNCell(2, 2, rngs=nnx.Rngs(0)), jnp.ones((4, 2))\n" + call
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stderr.strip().endswith("Run pip install 'rnn_jax[experiments]'."), done.stderr
