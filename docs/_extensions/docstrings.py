"""Docstrings of this package, as Sphinx reads them.

They are plain text with `code` in backticks, equations that stand on lines of their own, and
Google's sections. To reStructuredText a single backtick, |λ| and a word that ends in an underscore
mean something else, and lines of equations would flow into one another.
"""

import re

from sphinx.application import Sphinx

SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|References|Example|Examples|Yields):$")
# Something short, without words, before a sign of relation.
EQUATION = re.compile(
    r"^\s*(?P<left>[^=≤≥~⊇∝≈←→]{1,40}?)\s*(?<![=!<>:])(=|≤|≥|~|⊇|∝|≈|←|→)(?!=)\s*\S"
)
WORD = re.compile(r"(?<![\\`\w])[A-Za-z]{5,}\b")
CODE = re.compile(r"`+[^`]+`+")
CITATION = re.compile(r"^ +([A-Z])\.")


def convert(lines: list[str]) -> list[str]:
    """The lines of one docstring in reStructuredText."""
    section = ""
    converted: list[str] = []
    for paragraph in paragraphs(lines):
        if heading := SECTION.match(paragraph[0].strip()):
            section = heading[1]
        if paragraph[0].lstrip().startswith(">>>") or section.startswith("Example"):
            converted += paragraph
        elif not section and is_equations(paragraph):
            converted += ["::", "", *("  " + line for line in paragraph)]
        else:
            converted += [escape(line) for line in paragraph]
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
    """Whether the lines are to stay apart: the first is an equation, the others are or go on."""
    match = EQUATION.match(paragraph[0])
    return bool(match) and not WORD.search(match["left"]) and not paragraph[0].endswith(".")


def escape(line: str) -> str:
    """A line of prose: code is code, and nothing else is markup."""
    parts = []
    end = 0
    for code in CODE.finditer(line):
        parts += [plain(line[end : code.start()]), f"``{code[0].strip('`')}``"]
        if line[code.end() : code.end() + 1].isalnum():
            parts.append("\\ ")
        end = code.end()
    escaped = "".join([*parts, plain(line[end:])])
    # "I. Sutskever" at the start of a line is not the first item of a list.
    return CITATION.sub(lambda match: match[0].replace(match[1], "\\" + match[1]), escaped)


def plain(text: str) -> str:
    """Text without code, its signs standing for themselves."""
    text = re.sub(r"([*|])", r"\\\1", text)
    return re.sub(r"(\w)_(?!\w)", r"\1\\_", text)


def _on_docstring(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    lines[:] = convert(lines)
    if what in ("attribute", "property"):
        # In the first line napoleon would take what stands before a colon for a type.
        lines.insert(0, "")


def setup(app: Sphinx) -> dict[str, bool]:
    # Before napoleon, which rewrites the sections.
    app.connect("autodoc-process-docstring", _on_docstring, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
