"""Pages of the views: who gets HTML, and that nothing in a page can run, load, frame or leak."""

import base64
import hashlib
import html
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request

from pipelines.html_pages import error_page, page, wants_html
from pipelines.view_text import duration, fields, grouped, size, steps, utc

CHROMIUM = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
HERE = {
    "worker": "http://127.0.0.1:1",
    "kind": "core",
    "section": "/",
    "path": "",
    "json": "?format=json",
    "whole": False,
    "of_core": True,
    "now": 0,
}
NASTY = """</style><script>alert(1)</script>"'><img src=x onerror=alert(1)>{{ 7*7 }}{% raw %}&amp;"""


class Parsed(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.said = ""
        self.feed(text)

    def _started(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def _text(self, data: str) -> None:
        self.said += data

    handle_starttag, handle_data = _started, _text


@pytest.mark.parametrize(
    ("accept", "query", "html_is_wanted"),
    [
        (CHROMIUM, "", True),
        ("text/html", "", True),
        ("text/*;q=0.9, application/json;q=0.1", "", True),
        ("*/*", "", False),
        ("application/json", "", False),
        ("application/json, text/html", "", False),
        ("text/html;q=0.4, application/json;q=0.5", "", False),
        ("text/html;q=0", "", False),
        ("text/html;q=bad", "", False),
        ("", "", False),
        (";;,,;q=", "", False),
        (CHROMIUM, "format=json", False),
        ("*/*", "format=html", True),
        (CHROMIUM, "format=xml", True),
    ],
)
def test_a_browser_gets_a_page_and_a_program_json(accept: str, query: str, html_is_wanted: bool) -> None:
    request = make_mocked_request("GET", f"/tables/?{query}", headers={"Accept": accept})
    assert wants_html(request) is html_is_wanted


def test_a_page_forbids_scripts_frames_and_other_hosts_and_is_not_kept() -> None:
    found = error_page(503, "wait", {"Retry-After": "2"})
    (style,) = re.findall(r"<style>(.*?)</style>", found.text or "", re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = found.headers["Content-Security-Policy"]
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    assert found.headers["Cache-Control"] == "no-store"
    assert found.headers["Referrer-Policy"] == "no-referrer"
    assert found.headers["X-Content-Type-Options"] == "nosniff"
    assert (found.status, found.headers["Retry-After"], found.content_type) == (503, "2", "text/html")


def test_what_people_write_stays_text() -> None:
    body = {"table": NASTY, "key": NASTY, "partition": 1, "worker": NASTY, "changed": None, "changed_unknown": NASTY}
    pages = [
        error_page(404, NASTY).text,
        page("row.html", here=HERE, body=body, lines=fields({NASTY: NASTY, "list": [NASTY, {"x": NASTY}]})).text,
    ]
    for text in pages:
        parsed = Parsed(text or "")
        assert {"script", "img"} & {tag for tag, _ in parsed.tags} == set()
        assert [
            name for _, attributes in parsed.tags for name in attributes if name.startswith("on") or name == "style"
        ] == []
        assert NASTY in html.unescape(text or "")
        assert parsed.said.count(NASTY) >= 1
        assert "49" not in parsed.said


def test_a_page_is_whole_by_itself() -> None:
    parsed = Parsed(page("conversations.html", here=HERE).text or "")
    linked = [
        value
        for tag, attributes in parsed.tags
        for name, value in attributes.items()
        if name in {"href", "src", "action"}
    ]
    assert all(str(each).startswith(("/", "?", "data:,")) for each in linked), linked


def test_a_masked_key_has_no_link() -> None:
    entry: dict[str, Any] = {"partition": 0, "summary": "{}"}
    shown = [entry | {"key": "whatsapp:1:***"}, entry | {"key": "c/1?&#"}]
    body = {"table": "bindings", "changelog": "c", "rows": {"0": 2}, "elsewhere": {}, "shown": shown, "next": None}
    text = page(
        "rows.html", here=HERE | {"path": "/tables/bindings/"}, body=body, others={}, prefix="", partition=""
    ).text
    parsed = Parsed(text or "")
    links = [attributes.get("href") for tag, attributes in parsed.tags if tag == "a"]
    assert "/tables/bindings/c%2F1%3F%26%23" in links
    assert not any("***" in str(link) or "%2A" in str(link) for link in links)


def test_a_row_is_decoded_field_by_field_with_its_times() -> None:
    row = {
        "seq": 3,
        "sent_at": 1_795_986_709_653,
        "not_before": 0,
        "delivery": {"kind": None, "media": [{"kind": "image"}]},
        "ok": True,
        "names": ["a", "b"],
        "none": {},
    }
    assert fields(row) == [
        ("seq", "3", ""),
        ("sent_at", "1795986709653", "2026-11-29 21:11:49.653 UTC"),
        ("not_before", "0", ""),
        ("delivery.kind", "null", ""),
        ("delivery.media[0].kind", "image", ""),
        ("ok", "true", ""),
        ("names", "a, b", ""),
        ("none", "{}", ""),
    ]


def test_steps_are_in_the_order_of_their_times() -> None:
    found = {"accepted_at": 10, "sent_at": 40, "read_at": 90, "delivered_at": 95, "failed_at": None}
    assert steps(found) == [("accepted", 10, None), ("sent", 40, 30), ("read", 90, 50), ("delivered", 95, 5)]


@pytest.mark.parametrize("value", [None, True, "1795986709653", 0, -1, 10**11 - 1, 10**14, 1e12])
def test_what_is_no_time_is_not_shown_as_one(value: Any) -> None:
    assert utc(value) == ""


def test_numbers_have_units() -> None:
    assert [size(n) for n in (0, 999, 1000, 1_234_567, 5 * 10**12)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "1.2 MB",
        "5,000.0 GB",
    ]
    spans = [0, 999, 1500, 90_000, 7_200_000, 2 * 86_400_000]
    assert [duration(n) for n in spans] == ["0 ms", "999 ms", "1.5 s", "1.5 min", "2.0 h", "2.0 d"]
    assert [grouped(n) for n in (1234, None, "x")] == ["1,234", "unknown", "x"]
