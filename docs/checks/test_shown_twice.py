"""What two pages show is the same on both."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_ten_lines_of_the_readme_are_those_of_the_landing_page():
    readme, landing = (
        re.findall(r"^```python\n(.*?)^```", text, flags=re.S | re.M)
        for text in (
            (ROOT / file).read_text(encoding="utf-8") for file in ("README.md", "docs/index.md")
        )
    )
    assert readme[0] == landing[0]
