"""The page of docs/ on platforms, with what it compiles for devices that are not here."""

import re
from pathlib import Path

import jax
import platforms

platforms.require()
as_a_user = platforms.as_a_user

PAGE = Path(__file__).parents[2] / "docs" / "background" / "platforms.md"


def test_the_code_of_the_page_compiles_for_a_tpu():
    platforms.devices("tpu")  # Sets up the surroundings that the page tells to set.
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"^```(?:python|\{code-cell\})\n(.*?)^```", text, flags=re.S | re.M)
    assert len(blocks) == 2
    scope = {"__name__": PAGE.name}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for block in blocks:
            exec(compile(block, str(PAGE), "exec"), scope)
    assert ":T(" in scope["program"].as_text()
