"""The views of a worker as pages for a person: HTML made on the worker, without scripts and without anything from another host.

Enters: a request and the plain data of an answer. Leaves: HTML for a client that prefers it (a browser), else JSON; `?format=html` or
`?format=json` decides. Guaranteed: every text is escaped (jinja2's autoescape); the policy of the page forbids scripts, frames and other
hosts; no page is cached, and no address of a page, which may hold a key, is sent to another host.
"""

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from typing import Any

from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined

from pipelines.row_masking import MASK
from pipelines.view_text import duration, grouped, quoted, size, utc

FORMATS = ("html", "json")


def wants_html(request: web.BaseRequest) -> bool:
    """Whether the client prefers HTML to JSON. Equal wishes mean JSON, so `*/*` (curl) gets JSON."""
    asked = request.query.get("format")
    if asked in FORMATS:
        return asked == "html"
    accepted = request.headers.get("Accept", "")
    return _wish(accepted, "text/html") > _wish(accepted, "application/json")


def _wish(accepted: str, wanted: str) -> float:
    """The q value that an Accept header gives to a type; the most exact entry counts."""
    found: dict[int, float] = {}
    for entry in accepted.lower().split(","):
        kind, *parameters = [part.strip() for part in entry.split(";")]
        exact = {wanted: 2, f"{wanted.partition('/')[0]}/*": 1, "*/*": 0}.get(kind)
        if exact is None:
            continue
        weight = next((part[2:] for part in parameters if part.startswith("q=")), "1")
        try:
            found[exact] = max(found.get(exact, 0.0), float(weight))
        except ValueError:
            continue
    return found[max(found)] if found else 0.0


def page(template: str, *, status: int = 200, headers: Mapping[str, str] | None = None, **context: Any) -> web.Response:
    """A page from a template of pipelines/templates/. Does no I/O after the first page."""
    text = _environment().get_template(template).render(**context)
    return web.Response(
        text=text,
        status=status,
        content_type="text/html",
        charset="utf-8",
        headers=dict(_headers()) | dict(headers or {}),
    )


def error_page(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """A page that says what went wrong and what to do. It shows nothing of the worker, since the caller may be anybody."""
    return page(
        "error.html", status=status, headers=headers, sentence=sentence, number=status, to_do=_TO_DO.get(status, "")
    )


_TO_DO = {
    400: "Correct the address, or begin again at the tables.",
    401: "Your browser asks for a name and a password: leave the name empty, and give a token as the password.",
    403: "Open this page under a name that the worker knows.",
    404: "Look at the spelling. Begin again at the tables, or search for a prefix of the key.",
    503: "Nothing is lost. Reload this page in a few seconds.",
}


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("pipelines"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"utc": utc, "url": quoted, "number": grouped, "size": size, "ms": duration}
    made.tests |= {"masked": lambda value: isinstance(value, str) and MASK in value}
    return made


@cache
def _headers() -> Mapping[str, str]:
    digest = base64.b64encode(
        hashlib.sha256(_environment().get_template("style.css").render().encode()).digest()
    ).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    return {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
        "Vary": "Accept",
    }
