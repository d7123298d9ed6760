import os

import pytest
from playwright.sync_api import sync_playwright
from visit import NAMES, SITE, installed, launch, open_page, watch

MISSING = (
    f"the guide is opened in one of {', '.join(NAMES)}, and none of them is on the PATH. "
    "Install one, for instance by apt-get install chromium."
)


def pytest_configure():
    if os.environ.get("GUIDE_BROWSER") == "required" and not installed():
        raise pytest.UsageError(f"GUIDE_BROWSER=required: {MISSING}")


@pytest.fixture(scope="session")
def browser():
    path = installed()
    if path is None:
        pytest.skip(f"Opened in no browser: {MISSING}")
    with sync_playwright() as playwright:
        browser = launch(playwright, path)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def reader(browser):
    """One window for all pages, because a new one takes as long as a page; and what it says."""
    page = browser.new_page()
    yield page, watch(page)
    page.close()


@pytest.fixture
def open_at(browser):
    """Opens a page of the guide in a window of a width, and gives it with what it says and asks."""
    opened = []

    def open_at(width, name):
        page = browser.new_page(viewport={"width": width, "height": 900})
        opened.append(page)
        seen = watch(page)
        open_page(page, SITE / name)
        return page, seen

    yield open_at
    for page in opened:
        page.close()
