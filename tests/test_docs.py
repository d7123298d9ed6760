"""The pages of docs/ are run as they stand."""

import contextlib
import importlib
import re
import unittest.mock
from pathlib import Path

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

import rnn_jax as rj

README = Path(__file__).parents[1] / "README.md"
DOCS = README.parent / "docs"
PAGES = ["howto/bring.md", "background/gpu.md", "background/platforms.md"]
STEPS = 4


def briefly(model, task, optimizer, *, steps, **options):
    """`rj.fit`, over before it has learnt anything."""
    options = {**options, "evaluate_every": STEPS}
    return rj_fit(model, task, optimizer, steps=min(steps, STEPS), **options)


rj_fit = rj.fit


@contextlib.contextmanager
def as_users_set_jax():
    """In the types and with the promotion that JAX has by default."""
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        yield


def blocks_of(text):
    """The Python of a page."""
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.S | re.M)


@pytest.fixture
def compiled_anew():
    """Programs are not taken from the disk.

    With jaxlib 0.10.2 the page on what one brings then waits for ever, in most runs, for what a
    program of covariant Lyapunov vectors is to give: all of XLA's threads are idle.
    """
    before = jax.config.values["jax_enable_compilation_cache"]
    keep_programs(False)
    yield
    keep_programs(before)


def keep_programs(enabled):
    jax.config.update("jax_enable_compilation_cache", enabled)
    compilation_cache.reset_cache()  # Whether there is a cache is otherwise asked only once.


@pytest.mark.usefixtures("compiled_anew")
@pytest.mark.parametrize("page", PAGES)
@pytest.mark.filterwarnings("default")
def test_the_code_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    if "import torch" in (text := (DOCS / page).read_text(encoding="utf-8")):
        pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rj, "fit", briefly)
    blocks = blocks_of(text)
    assert blocks
    scope = {"__name__": page}
    with as_users_set_jax(), unittest.mock.patch("builtins.print"):
        for block in blocks:
            line = text[: text.index(block)].count("\n")
            exec(compile("\n" * line + block, str(DOCS / page), "exec"), scope)


@pytest.mark.filterwarnings("default")
def test_a_cell_of_your_own_has_everything(tmp_path, monkeypatch, capsys):
    """The README's, as a module, since pickle looks a class up by it."""
    (block,) = (b for b in blocks_of(README.read_text(encoding="utf-8")) if "PendulumCell" in b)
    (tmp_path / "pendulum_of_readme.py").write_text(block, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(rj, "fit", briefly)
    with as_users_set_jax():
        module = importlib.import_module("pendulum_of_readme")
    assert "laws hold" in capsys.readouterr().out
    assert module.ys.shape == (100, 4)
    assert module.result.history.loss.size
