"""Gives a text to each picture that has none: those of notebooks would be read as file names."""

from collections import Counter

from docutils import nodes
from sphinx.application import Sphinx


def describe(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Names a picture by its section, and by its number there."""
    counted: Counter[str] = Counter()
    for picture in doctree.findall(nodes.image):
        if picture.get("alt"):
            continue
        section = picture
        while section.parent is not None and not isinstance(section, nodes.section):
            section = section.parent
        title = next(iter(section.findall(nodes.title)), nodes.title()).astext()
        counted[title] += 1
        picture["alt"] = f"{title}: figure {counted[title]}, drawn by the code above it"


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the extension."""
    app.connect("doctree-resolved", describe)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
