"""The built guide, opened from the file system in Chromium as a reader opens it."""

import functools
import html
import os
import re
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest
from visit import NARROW, SITE, WIDE, bind, shown_faults, visit

PAGES = sorted(page for page in SITE.rglob("*.html") if "_static" not in page.parts)
# One page for each public name, all in one frame and from one template, so they are opened bound.
NAMES = sorted((SITE / "reference" / "api").glob("*.html"))
SHEETS = [NAMES[first : first + 10] for first in range(0, len(NAMES), 10)]
DOORS = {
    "I am learning why RNNs forget": "learn/why_rnns_forget.html",
    "I have a new cell": "learn/your_own_cell.html",
    "My RNN does not learn": "learn/when_a_network_does_not_learn.html",
}
# Notebooks, and how many pictures each shows at least.
NOTEBOOKS = {"learn/why_rnns_forget.html": 6, "learn/when_a_network_does_not_learn.html": 2}
BROKEN = """<!doctype html><head><title></title></head><h1>Title</h1>
<div class="bd-article-container" style="overflow-x: auto"><article class="bd-article">
<p style="width: 2000px">wide</p> <span class="math">\\alpha</span>
<img src="none.png" alt="none.png">
</article></div>
<script src="https://example.invalid/script.js"></script><script>missing()</script>"""


def name(page):
    return str(page.relative_to(SITE))


def test_there_are_pages():
    assert len(PAGES) > 200, f"make docs builds the guide in {SITE}; {len(PAGES)} pages are there."


@pytest.mark.parametrize("page", sorted({*PAGES} - {*NAMES[1:]}), ids=name)
def test_a_page_can_be_read(reader, page):
    assert not visit(*reader, page)


def titles(page):
    """What a page calls itself, in the window's title and in its own."""
    text = page.read_text(encoding="utf-8")
    found = (re.search(rf"<{tag}>.*?</{tag}>", text, re.S)[0] for tag in ("title", "h1"))
    return [re.sub("<[^>]*>", "", title) for title in found]


@pytest.mark.parametrize("pages", SHEETS, ids=lambda pages: pages[0].stem)
def test_pages_of_names_can_be_read(reader, pages, tmp_path):
    sheet = tmp_path / "sheet.html"
    bind(pages, sheet)
    assert not visit(*reader, sheet)
    for page in pages:
        own = page.stem.rpartition(".")[-1].removesuffix("-class")  # Beside a function so called.
        assert all(title.startswith(own) for title in titles(page))


def assert_shows_faults(found):
    for width in (WIDE, NARROW):
        assert found[f"wider than the page, {width} pixels"][0] == "<p> wide"
        assert found[f"not typeset, {width} pixels"] == [r"\alpha"]
        assert len(found[f"pictures that do not load or have no text, {width} pixels"]) == 1


def test_faults_are_seen(reader, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(BROKEN, encoding="utf-8")
    found = visit(*reader, page)
    assert_shows_faults(found)
    assert found[f"empty titles, {WIDE} pixels"] == found[f"empty titles, {NARROW} pixels"] == [""]
    said = "\n".join(found["errors and requests"])
    assert "asks for https://example.invalid" in said
    assert "missing is not defined" in said


def test_faults_of_a_bound_page_are_seen(reader, tmp_path):
    page, sheet = tmp_path / "page.html", tmp_path / "sheet.html"
    page.write_text(BROKEN, encoding="utf-8")
    bind([NAMES[0], page, NAMES[1]], sheet)
    assert_shows_faults(visit(*reader, sheet))


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_the_landing_page_has_a_figure_and_how_to_install(open_at, width):
    page, seen = open_at(width, "index.html")
    assert page.locator(".bd-article figure img").count() == 1
    assert page.locator(".bd-article pre").get_by_text("pip install").is_visible()
    assert not seen.faults()


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("door", DOORS)
def test_each_door_of_the_landing_page_opens(open_at, width, door):
    page, seen = open_at(width, "index.html")
    assert page.locator(".bd-article .sd-card").count() == len(DOORS)
    page.locator(".bd-article .sd-card", has_text=door).click()
    page.wait_for_url(f"**/{DOORS[door]}")
    assert page.locator("h1").is_visible()
    assert not seen.faults()


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("LSTMCell", {"cells/LSTMCell.html", "reference/api/LSTMCell.html"}),
        ("gradient_flow", {"reference/api/gradient_flow.html"}),
        ("horizon", {"learn/gradient_flow.html"}),
    ],
)
def test_the_search_finds(open_at, width, words, wanted):
    page, seen = open_at(width, "index.html")
    page.locator(".search-button__button:visible").first.click()
    page.locator("dialog input[type=search]").fill(words)
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html?*")
    page.get_by_text("Search finished").wait_for()
    links = page.locator("#search-results li a").evaluate_all("all => all.map(a => a.href)")
    found = {name(Path(unquote(urldefrag(link)[0]).removeprefix("file://"))) for link in links}
    assert wanted <= found
    assert not shown_faults(page)
    page.locator(f"#search-results li a[href*='{sorted(wanted)[0]}']").first.click()
    page.wait_for_url(f"**/{sorted(wanted)[0]}*")
    assert not seen.faults()


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_a_notebook_shows_outputs_pictures_and_mathematics(open_at, width, notebook):
    page, seen = open_at(width, notebook)
    assert page.locator(".cell_output .output pre:visible").count() > 5
    assert page.locator("span.math mjx-container svg:visible").count() > 5
    pictures = page.locator(".cell_output img:visible").all()
    assert len(pictures) >= NOTEBOOKS[notebook]
    for picture in pictures:
        picture.scroll_into_view_if_needed()
        assert min(width, 640) * 0.8 < picture.bounding_box()["width"] < width
        alone = picture.locator("xpath=parent::a").get_attribute("href")
        assert Path(alone).name == Path(picture.get_attribute("src")).name
    assert not shown_faults(page)
    assert not seen.faults()


exists = functools.cache(Path.is_file)


@functools.cache
def anchors(page):
    """The targets and the links of a page."""
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r'\bid="([^"]*)"', text)
    links = re.findall(r'<a\b[^>]*\bhref="([^"]*)"', text)
    return set(map(html.unescape, targets)), set(map(html.unescape, links))


def broken_links(page):
    for link in sorted(anchors(page)[1]):
        if re.match(r"(https?|mailto):", link):
            continue
        path, fragment = map(unquote, urldefrag(link))
        target = Path(os.path.normpath(page.parent / path)) if path else page
        if not exists(target) or (fragment and fragment not in anchors(target)[0]):
            yield link


def test_links_lead_to_what_is_there():
    broken = {name(page): found for page in PAGES if (found := list(broken_links(page)))}
    assert not broken


def test_a_broken_link_is_found(tmp_path):
    page = tmp_path / "page.html"
    page.write_text('<a href="#here" id="here"></a><a href="#there"></a><a href="no.html"></a>')
    assert list(broken_links(page)) == ["#there", "no.html"]
