"""Writes the reference: a page for each group of names, and one for each name."""

import inspect
import sys
from pathlib import Path
from types import GenericAlias
from typing import Any

from public_names import GROUPS, Group, Section, grouped, resolve
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer

INTRODUCTION = """# Reference

Every public name, with shapes, units, errors, sources and an example. The search finds them too.
"""

CONVENTIONS = """## Conventions

| | |
|---|---|
| T | steps of a sequence |
| I, H, O | features of an input, of the hidden state, of an output |
| S | numbers in the whole carry: H of a GRU, 2H of an LSTM |
| B, E | sequences of a batch, members of an ensemble |
| ln, nats | logarithms are natural |

Examples start from

```{literalinclude} ../prelude.py
:language: python
:start-at: import jax
:end-before: __all__
```

"""


def comment_of(name: str) -> str:
    """The comment (`#:`) above an alias of types, in the module of the package that defines it."""
    place, _, alias = f"rnn_jax.{name}".rpartition(".")
    for module in sorted(sys.modules):
        if module.startswith(place):
            comments = ModuleAnalyzer.for_module(module).find_attr_docs()
            if ("", alias) in comments:
                return "\n".join(comments["", alias]).strip()
    raise ValueError(f"rnn_jax.{name} has no comment (#:) above it. Say there what it stands for.")


def is_class(thing: Any) -> bool:
    """Whether a name is a class; `tuple[int, ...]`, which passes for one, is an alias."""
    return inspect.isclass(thing) and not isinstance(thing, GenericAlias)


def documentation(name: str) -> str:
    """The docstring of a name."""
    thing = resolve(name)
    if is_class(thing) or inspect.isroutine(thing):
        return inspect.getdoc(thing) or ""
    return comment_of(name)


def one_line(name: str) -> str:
    """The first paragraph of a docstring, in one line for a cell of a Markdown table."""
    paragraph = documentation(name).split("\n\n")[0]
    return " ".join(paragraph.split()).replace("|", "\\|")


def page_of(name: str) -> str:
    """The file name of a name's page, without its ending.

    Names that differ by capitals only would be one file where file systems tell no capitals apart.
    """
    twins = [other for other in grouped() if other.lower() == name.lower()]
    return f"{name}-class" if len(twins) > 1 and inspect.isclass(resolve(name)) else name


def link(name: str, folder: str = "api/") -> str:
    """A name, without its module, that leads to its page."""
    return f"[`{name.rpartition('.')[2]}`]({folder}{page_of(name)}.md)"


def table(head: str, rows: list[str], look: str) -> str:
    """A table of two columns without a visible heading."""
    lines = [f"| {head} | |", "|---|---|", *rows]
    return "\n".join(["````{table}", f":class: {look}", "", *lines, "````", ""])


def module_of(group: Group) -> str:
    """Where the names of a group are, in words, if that is not `rnn_jax` itself."""
    modules = [{name.rpartition(".")[0] for name in part.names} for part in group.sections]
    if len(set.union(*modules)) == 1:
        return "".join(f" In `rj.{module}`." for module in modules[0] - {""})
    return "".join(
        f" {part.title}: in `rj.{module}`."
        for part, found in zip(group.sections, modules, strict=True)
        for module in sorted(found - {""})
    )


def section_table(part: Section) -> str:
    """A section of a group's page: its names with their first lines."""
    rows = [f"| {link(name)} | {one_line(name)} |" for name in part.names]
    return f"## {part.title}\n\n{table('Name', rows, 'names')}"


def group_page(group: Group) -> str:
    """The page of a group, which is also its part of the contents."""
    pages = [f"{name} <api/{page_of(name)}>" for part in group.sections for name in part.names]
    contents = "\n".join(["```{toctree}", ":hidden:", "", *pages, "```", ""])
    tables = "\n".join(section_table(part) for part in group.sections)
    return f"# {group.title}\n\n{group.about}{module_of(group)}\n\n{tables}\n{contents}"


def is_own(member: Any) -> bool:
    """Whether this package wrote a member of a class."""
    return getattr(member, "__module__", "rnn_jax").startswith("rnn_jax")


def class_directive(name: str, thing: type) -> str:
    """A class with the members that it defines, and what it is called or indexed for."""
    members = vars(thing)
    foreign = [key for key, value in members.items() if key[0] != "_" and not is_own(value)]
    special = [
        key
        for key in ("__call__", "__getitem__")
        if key in members and is_own(members[key]) and inspect.getdoc(members[key])
    ]
    options = [":members:"]
    options += [f":exclude-members: {', '.join(foreign)}"] if foreign else []
    options += [f":special-members: {', '.join(special)}"] if special else []
    return "\n   ".join([f".. autoclass:: rnn_jax.{name}", *options])


def inherits(thing: type) -> str:
    """A line on the public classes whose methods a class has as well."""
    public = {resolve(name): name for name in grouped() if inspect.isclass(resolve(name))}
    parents = [link(public[base], "") for base in thing.__mro__[1:] if base in public]
    return f"It also has the methods of {' and '.join(parents)}.\n\n" if parents else ""


def name_page(name: str) -> str:
    """The page of one name."""
    thing = resolve(name)
    title = name.rpartition(".")[2]
    before = ""
    if is_class(thing):
        directive = class_directive(name, thing)
        before = inherits(thing)
    elif inspect.isroutine(thing):
        directive = f".. autofunction:: rnn_jax.{name}"
    else:
        place = f"rnn_jax.{name}".rpartition(".")[0]
        head = f"```{{py:data}} {title}\n:module: {place}"
        return f"# `{title}`\n\n{head}\n\n{comment_of(name)}\n```\n"
    return f"# `{title}`\n\n{before}```{{eval-rst}}\n{directive}\n```\n"


def index_page() -> str:
    """The head of the reference: all names at a glance."""
    parts = [INTRODUCTION]
    for group in GROUPS:
        rows = [
            f"| {part.title} | {', '.join(link(name) for name in part.names)} |"
            for part in group.sections
        ]
        parts += [
            f"## [{group.title}]({group.slug}.md)",
            "",
            f"{group.about}{module_of(group)}",
            "",
        ]
        parts += [table("For", rows, "names all-names")]
    contents = "\n".join(group.slug for group in GROUPS)
    parts += [
        "## What works with what",
        "",
        "[Every cell against every mode](../features.md), as the tests hold it.",
        "",
        CONVENTIONS,
        f"```{{toctree}}\n:hidden:\n\n{contents}\n../features\n```\n",
    ]
    return "\n".join(parts)


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
