"""Gives each picture a text, where it has none, and a link to itself in full size."""

from collections import Counter

from docutils import nodes
from sphinx.application import Sphinx


def complete(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Names a picture by its section and its number there, and lets it be opened alone."""
    counted: Counter[str] = Counter()
    for picture in doctree.findall(nodes.image):
        # A screen of a phone makes it smaller. Sphinx links those that have a scale.
        picture.setdefault("scale", 100)
        if picture.get("alt"):
            continue
        section = picture
        while section.parent is not None and not isinstance(section, nodes.section):
            section = section.parent
        # Those of notebooks have none: the names of their files would be read out.
        title = next(iter(section.findall(nodes.title)), nodes.title()).astext()
        counted[title] += 1
        picture["alt"] = f"{title}: figure {counted[title]}, drawn by the code above it"


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the extension."""
    app.connect("doctree-resolved", complete)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
