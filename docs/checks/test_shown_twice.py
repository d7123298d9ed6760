"""What two pages show is the same on both."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
CLASS = re.compile(r"^class PendulumCell.*?(?=\n\n\n|\n```)", flags=re.S | re.M)


def test_the_cell_of_the_readme_is_that_of_its_page():
    readme, page = (
        CLASS.findall((ROOT / file).read_text(encoding="utf-8"))
        for file in ("README.md", "docs/learn/your_own_cell.md")
    )
    assert len(readme) == len(page) == 1
    assert readme == page
