"""Writes the reference: a page for each group of names, and one for each name."""

import inspect
from pathlib import Path
from typing import Any

from public_names import GROUPS, Group, Section, grouped, resolve
from sphinx.application import Sphinx

INTRODUCTION = """# Reference

Every public name, with shapes, units, errors, sources and an example. Logarithms are natural. T is
the number of steps, I of input features, H of hidden features, S of numbers in the whole carry, B
stands for a batch, E for an ensemble. Examples start from

```{literalinclude} ../prelude.py
:language: python
:start-at: import jax
:end-before: __all__
```

"""


def one_line(thing: Any) -> str:
    """The first paragraph of a docstring, in one line for a cell of a Markdown table."""
    paragraph = (inspect.getdoc(thing) or "").split("\n\n")[0]
    return " ".join(paragraph.split()).replace("|", "\\|")


def page_of(name: str) -> str:
    """The file name of a name's page, without its ending.

    Names that differ by capitals only would be one file where file systems tell no capitals apart.
    """
    twins = [other for other in grouped() if other.lower() == name.lower()]
    return f"{name}-class" if len(twins) > 1 and inspect.isclass(resolve(name)) else name


def table(part: Section) -> str:
    """A section of a group's page: its names with their first lines."""
    rows = [
        f"| [`{name}`](api/{page_of(name)}.md) | {one_line(resolve(name))} |" for name in part.names
    ]
    return "\n".join([f"## {part.title}", "", "| | |", "|---|---|", *rows, ""])


def group_page(group: Group) -> str:
    """The page of a group, which is also its part of the contents."""
    pages = [f"{name} <api/{page_of(name)}>" for part in group.sections for name in part.names]
    contents = "\n".join(["```{toctree}", ":hidden:", "", *pages, "```", ""])
    tables = "\n".join(table(part) for part in group.sections)
    return f"# {group.title}\n\n{group.about}\n\n{tables}\n{contents}"


def name_page(name: str) -> str:
    """The page of one name."""
    thing = resolve(name)
    path = f"rnn_jax.{name}"
    short = name.rpartition(".")[2]
    if inspect.isclass(thing):
        directive = f".. autoclass:: {path}\n   :members:"
    elif inspect.isroutine(thing):
        directive = f".. autofunction:: {path}"
    else:
        directive = f".. autodata:: {path}\n   :no-value:"
    return f"# `{short}`\n\n```{{eval-rst}}\n{directive}\n```\n"


def index_page() -> str:
    """The head of the reference."""
    links = "\n".join(f"- [{group.title}]({group.slug}.md): {group.about}" for group in GROUPS)
    contents = "\n".join(group.slug for group in GROUPS)
    hidden = f"```{{toctree}}\n:hidden:\n\n{contents}\n../features\n```\n"
    features = "- [What works with what](../features.md): cells against modes."
    return f"{INTRODUCTION}{links}\n{features}\n\n{hidden}"


def pages() -> dict[str, str]:
    """Every generated file, by its path below `reference/`."""
    return {
        "index.md": index_page(),
        **{f"{group.slug}.md": group_page(group) for group in GROUPS},
        **{f"api/{page_of(name)}.md": name_page(name) for name in grouped()},
    }


def _write(app: Sphinx) -> None:
    folder = Path(app.srcdir) / "reference"
    (folder / "api").mkdir(parents=True, exist_ok=True)
    wanted = pages()
    for stale in folder.rglob("*.md"):
        if str(stale.relative_to(folder)) not in wanted:
            stale.unlink()
    for path, text in wanted.items():
        file = folder / path
        # What has not changed is not written, so that it is not read again.
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", _write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
