"""Gives each picture a text, where it has none, and a link to itself in full size."""

import posixpath
from collections import Counter

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.osutil import relative_uri


def complete(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Names pictures by their sections and their numbers there, and lets them be opened alone."""
    counted: Counter[str] = Counter()
    for picture in list(doctree.findall(nodes.image)):
        # Those of notebooks have no text: the names of their files would be read out.
        if not picture.get("alt"):
            title = section_of(picture)
            counted[title] += 1
            picture["alt"] = f"{title}: figure {counted[title]}, drawn by the code above it"
        # The screen of a phone makes them small.
        if app.builder.format == "html" and not isinstance(picture.parent, nodes.reference):
            link = nodes.reference("", "", internal=True, refuri=file_of(picture, app, docname))
            picture.replace_self(link)
            link.append(picture)


def section_of(picture: nodes.image) -> str:
    """The title of the section that a picture stands in."""
    section = picture
    while section.parent is not None and not isinstance(section, nodes.section):
        section = section.parent
    return next(iter(section.findall(nodes.title)), nodes.title()).astext()


def file_of(picture: nodes.image, app: Sphinx, docname: str) -> str:
    """Where a page finds the file of its picture once all are copied."""
    folder = relative_uri(app.builder.get_target_uri(docname), app.builder.imagedir)
    _, name = app.env.images[picture["uri"]]
    return posixpath.join(folder, name)


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the extension."""
    app.connect("doctree-resolved", complete)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
