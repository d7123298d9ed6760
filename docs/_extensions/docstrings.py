"""Docstrings of this package, as Sphinx reads them.

They are plain text with `code` in backticks, equations that stand in paragraphs of their own, and
Google's sections. To reStructuredText a single backtick, |λ| and a word that ends in an underscore
mean something else, and lines of equations would flow into one another. Names of this package
become links.
"""

import functools
import inspect
import re
from collections.abc import Collection
from typing import Any

import public_names
from sphinx.application import Sphinx
from sphinx.util.inspect import signature, stringify_signature

SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|References|Example|Examples|Yields):$")
# Something short, without words, before a sign of relation.
EQUATION = re.compile(
    r"^\s*(?P<left>[^=≤≥~⊇∝≈←→]{1,40}?)\s*(?<![=!<>:])(=|≤|≥|~|⊇|∝|≈|←|→)(?!=)\s*\S"
)
WORD = re.compile(r"(?<![\\`\w])[A-Za-z]{5,}\b")
SYMBOL = re.compile(r"[=≤≥~⊇∝≈←→ΣΠ∏√·½‖²ᵀ∂]")
CODE = re.compile(r"`+[^`]+`+")
# Where one source ends and the next begins: not after an initial, "J. L. Ba".
NEXT_SOURCE = re.compile(r"(?<=[^A-Z.][.;]) +(?=[A-Z]\.)")


def convert(lines: list[str], own: Collection[str] = ()) -> list[str]:
    """The lines of one docstring in reStructuredText.

    Args:
      lines: the docstring, dedented.
      own: names that mean something nearer here than what the package calls so: parameters, and
        members of the class. They are not linked.
    """
    section = ""
    converted: list[str] = []
    for number, paragraph in enumerate(paragraphs(lines)):
        heading = SECTION.match(paragraph[0])
        if heading:
            section = heading[1]
        elif not paragraph[0].startswith(" "):
            section = ""
        if section == "References":
            converted += sources(paragraph)
        elif section.startswith("Example"):
            converted += paragraph
        elif not section and paragraph[0].startswith(" "):
            converted += ["::", "", *paragraph]
        elif not section and number and is_equations(paragraph):
            converted += [".. code-block:: none", "   :class: equation", ""]
            converted += ["   " + part for line in paragraph for part in one_by_one(line)]
        else:
            converted += [escape(line, own) for line in paragraph]
        converted.append("")
    return converted


def paragraphs(lines: list[str]) -> list[list[str]]:
    """Stretches of lines that are not blank."""
    found: list[list[str]] = [[]]
    for line in lines:
        if line.strip():
            found[-1].append(line)
        elif found[-1]:
            found.append([])
    return [paragraph for paragraph in found if paragraph]


def is_equations(paragraph: list[str]) -> bool:
    """Whether the lines are to stay apart.

    Either no sentence ends here, and there are symbols, or the first line is an equation, which
    the others go on with.
    """
    if not paragraph[-1].endswith((".", ".)", ":", ",", "?")) and SYMBOL.search(paragraph[0]):
        return True
    match = EQUATION.match(paragraph[0])
    return bool(match) and not WORD.search(match["left"]) and not paragraph[0].endswith(".")


def one_by_one(line: str) -> list[str]:
    """Equations that share a line, wide gaps between them; together where that is short."""
    return [line] if len(line) <= 64 else re.split(r"(?<=\S) {3,}(?=\S)", line)


def sources(paragraph: list[str]) -> list[str]:
    """The section of references, or a paragraph of it, as a list."""
    heading, rest = [], paragraph
    if SECTION.match(paragraph[0]):
        heading, rest = [paragraph[0]], paragraph[1:]
    text = " ".join(line.strip() for line in rest)
    # "I. Sutskever" is not the first item of a list inside of the item.
    items = [one.removesuffix(";") for one in NEXT_SOURCE.split(text) if one]
    return heading + [f"  * \\{escape(one)}" for one in items]


def escape(line: str, own: Collection[str] = ()) -> str:
    """A line of prose: code is code or a link to its page, and nothing else is markup."""
    parts = []
    end = 0
    for code in CODE.finditer(line):
        parts += [plain(line[end : code.start()]), as_code(code[0].strip("`"), own)]
        if line[code.end() : code.end() + 1].isalnum():
            parts.append("\\ ")
        end = code.end()
    return "".join([*parts, plain(line[end:])])


def as_code(code: str, own: Collection[str]) -> str:
    """Code in a line, linked where it is a public name alone."""
    name = code.removeprefix("rnn_jax.").removeprefix("rj.")
    if name in linked() and code not in own:
        return f":py:obj:`{code} <rnn_jax.{name}>`"
    return f"``{code}``"


@functools.cache
def linked() -> frozenset[str]:
    """The names that have a page."""
    return frozenset(public_names.grouped())


def plain(text: str) -> str:
    """Text without code, its signs standing for themselves."""
    text = re.sub(r"([*|])", r"\\\1", text)
    return re.sub(r"(\w)_(?!\w)", r"\1\\_", text)


def _on_docstring(
    app: Sphinx, what: str, name: str, obj: Any, options: object, lines: list[str]
) -> None:
    lines[:] = convert(lines, own_names(what, name, obj))
    if what in ("attribute", "property"):
        # In the first line napoleon would take what stands before a colon for a type.
        lines[:0] = ["..", ""]


def own_names(what: str, name: str, obj: Any) -> set[str]:
    """Names that mean something of its own in a docstring; see `convert`."""
    page = name.removeprefix("rnn_jax.")
    own = {page, page.rpartition(".")[2], name}
    if what in ("method", "property", "attribute"):
        page = page.rpartition(".")[0]
        own |= {page, f"rnn_jax.{page}"}
    thing = public_names.resolve(page) if page in linked() else obj
    if inspect.isclass(thing):
        own |= {*dir(thing), *getattr(thing, "__annotations__", ())}
    for function in (thing, obj):
        if inspect.isroutine(function):
            own |= {*inspect.signature(function).parameters}
    return own


def _on_signature(
    app: Sphinx, what: str, name: str, obj: Any, options: object, arguments: str, returns: str
) -> tuple[str, str] | None:
    """The signature of a class is that of its constructor, whatever its metaclass calls first."""
    if what != "class" or not arguments.startswith("(*args"):
        return None
    if getattr(obj, "_is_protocol", False):
        return "", ""
    own = signature(obj.__init__, bound_method=True)
    return stringify_signature(own, show_annotation=False), ""


def setup(app: Sphinx) -> dict[str, bool]:
    # Before napoleon, which rewrites the sections.
    app.connect("autodoc-process-docstring", _on_docstring, priority=100)
    app.connect("autodoc-process-signature", _on_signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
