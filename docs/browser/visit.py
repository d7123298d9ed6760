"""Opens pages of the built guide in Chromium, and finds what a reader would stumble over."""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, Playwright

SITE = Path(__file__).parents[1] / "_build" / "html"
WIDE, NARROW = 1280, 390
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# Mathematics is typeset after a page has loaded, and changes what is how wide.
TYPESET = "async () => { if (window.MathJax?.startup) await MathJax.startup.promise; }"

# What is wider than the page, unless it scrolls in a box of its own: the theme lets the whole
# article scroll, which is no such box.
TOO_WIDE = """() => {
  const edge = document.scrollingElement.clientWidth + 1;
  const scrolls = node => {
    for (; node && !node.matches('.bd-article-container, body'); node = node.parentElement)
      if (['auto', 'scroll'].includes(getComputedStyle(node).overflowX)) return true;
    return false;
  };
  const found = [...document.querySelectorAll('.bd-article :not(svg *)')]
    .filter(node => node.getBoundingClientRect().right > edge && !scrolls(node))
    .map(node => `<${node.localName}> ${node.textContent.trim().slice(0, 60)}`);
  const width = document.scrollingElement.scrollWidth;
  if (width > innerWidth) found.push(`the page, which is ${width} pixels wide`);
  return found;
}"""

# Commands that MathJax does not know are typeset in red, errors of syntax in boxes.
UNTYPESET = """() => [...document.querySelectorAll('.math')]
  .filter(node => !node.querySelector('mjx-container svg')
    || node.querySelector('[data-mml-node="merror"], [fill="red"]'))
  .map(node => node.textContent.trim().slice(0, 60))"""

UNSEEN = """() => [...document.querySelectorAll('.bd-article img')]
  .filter(image => !image.naturalWidth || !image.alt || /\\.(png|svg)$/.test(image.alt))
  .map(image => `${image.src.split('/').pop()}, text ${JSON.stringify(image.alt)}`)"""

NAMELESS = """() => [document.title, document.querySelector('h1')?.textContent ?? '']
  .filter(title => !title.trim() || title.includes('<no title>'))"""

ARTICLE = re.compile(r'(<article class="bd-article">)(.*?)(</article>)', re.S)


@dataclass
class Seen:
    """What a page wrote to the console as errors, and asked for."""

    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def faults(self) -> list[str]:
        """All errors, and the requests that are not for files beside the page."""
        away = [url for url in self.requests if not url.startswith(("file:", "data:"))]
        return [*self.errors, *(f"asks for {url}" for url in away)]


def installed() -> str | None:
    """Where Chromium or Chrome is on this machine; no download of playwright's own is needed."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def launch(playwright: Playwright, path: str) -> Browser:
    """Starts a browser without a window, which asks nothing of a network by itself."""
    return playwright.chromium.launch(executable_path=path, args=QUIET)


def watch(page: Page) -> Seen:
    """What the page does from now on."""
    seen = Seen()
    page.on("console", lambda said: said.type == "error" and seen.errors.append(said.text))
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    page.on("request", lambda request: seen.requests.append(request.url))
    return seen


def open_page(page: Page, file: Path) -> None:
    """Opens a file, and waits for its mathematics."""
    page.goto(file.as_uri())
    page.evaluate(TYPESET)


def shown_faults(page: Page) -> dict[str, Any]:
    """What is wrong with what an open page shows at the width that it has."""
    found = {
        "wider than the page": page.evaluate(TOO_WIDE),
        "not typeset": page.evaluate(UNTYPESET),
        "pictures that do not load or have no text": page.evaluate(UNSEEN),
        "empty titles": page.evaluate(NAMELESS),
    }
    return {what: items for what, items in found.items() if items}


def visit(page: Page, seen: Seen, file: Path) -> dict[str, Any]:
    """All that is wrong with a file, opened in a wide window that then becomes narrow."""
    page.set_viewport_size({"width": WIDE, "height": 900})
    page.goto("about:blank")  # What the last file still has to say is said now.
    seen.errors.clear()
    seen.requests.clear()
    open_page(page, file)
    found = {f"{what}, {WIDE} pixels": items for what, items in shown_faults(page).items()}
    page.set_viewport_size({"width": NARROW, "height": 900})
    found |= {f"{what}, {NARROW} pixels": items for what, items in shown_faults(page).items()}
    return found | ({"errors and requests": seen.faults()} if seen.faults() else {})


def bind(files: Sequence[Path], sheet: Path) -> None:
    """Writes a page that holds the articles of files of one folder, in the frame of the first.

    Opening a page takes as long for one article as for ten.
    """
    texts = [file.read_text(encoding="utf-8") for file in files]
    articles = "".join(ARTICLE.search(text)[2] for text in texts)
    bound = ARTICLE.sub(lambda found: found[1] + articles + found[3], texts[0], count=1)
    base = f'<base href="{files[0].parent.as_uri()}/">'
    sheet.write_text(bound.replace("<head>", f"<head>{base}", 1), encoding="utf-8")
