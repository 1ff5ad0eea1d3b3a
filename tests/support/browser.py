"""A real browser for the pages of the views: Chromium of the system, without a window, through Playwright.

Enters: a page's URL. Leaves: the page, and everything that would not be clean: lines of the browser's console, requests to other hosts, a
page wider than its window. Playwright's own browsers are not used: nothing is downloaded.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, sync_playwright

DESKTOP, PHONE = (1180, 900), (390, 844)
WIDER = "document.documentElement.scrollWidth > document.documentElement.clientWidth"


def chromium() -> str | None:
    """The path of Chromium, None without one (Debian: apt-get install chromium)."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@dataclass
class Watched:
    """A window of the browser. `worker` is the URL of the worker whose pages it opens."""

    page: Page
    worker: str
    console: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    def open(self, path: str) -> int:
        """Opens a path of the worker; returns the status. Asserts that the page is clean, and fits into the window."""
        answer = self.page.goto(self.worker + path)
        assert answer is not None
        if answer.status < 400:
            assert self.console == [], "the browser's console"
        assert self.foreign == [], "requests to other hosts"
        assert self.page.evaluate(WIDER) is False, f"{path} is wider than {self.page.viewport_size}"
        return answer.status

    def text(self) -> str:
        return self.page.inner_text("body")

    def source(self) -> str:
        """The page's HTML with everything in attributes, and its title."""
        return self.page.content() + self.page.title()

    def background(self) -> str:
        return str(self.page.evaluate("getComputedStyle(document.body).backgroundColor"))


@contextmanager
def started() -> Iterator[Browser]:
    """The browser. Raises AssertionError without Chromium."""
    path = chromium()
    assert path is not None
    sandbox = [] if os.geteuid() else ["--no-sandbox"]  # root has no sandbox
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=sandbox)
        yield browser
        browser.close()


@contextmanager
def window(
    browser: Browser, worker: str, *, token: str = "", size: tuple[int, int] = DESKTOP, dark: bool = False
) -> Iterator[Watched]:
    """A new window without cookies or passwords of another one. With a token the person signs in, as a password of HTTP Basic."""
    credentials: Any = {"username": "", "password": token} if token else None
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme="dark" if dark else "light",
        is_mobile=size == PHONE,
        http_credentials=credentials,
    )
    watched = Watched(context.new_page(), worker)
    host = urlsplit(worker).netloc
    watched.page.on("console", lambda line: watched.console.append(line.text))
    watched.page.on("pageerror", lambda error: watched.console.append(str(error)))
    watched.page.on("request", lambda request: _note(request.url, host, watched.foreign))
    if token:
        assert watched.open("/login") == 200
    yield watched
    context.close()


def _note(url: str, host: str, foreign: list[str]) -> None:
    if not url.startswith("data:") and urlsplit(url).netloc != host:
        foreign.append(url)
