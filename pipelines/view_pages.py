"""Shows the answer of a view: as JSON, or as a page if the client prefers HTML.

Enters: a request and a ViewAnswer. Leaves: the response. The page is made from the same masked data as the JSON, so it can show no more.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

import faust
from aiohttp import web

from pipelines.html_pages import FORMATS, error_page, page, wants_html
from pipelines.view_access import sees_all
from pipelines.view_answer import RETRY_AFTER, ViewAnswer, refused

Context = Mapping[str, Any]


def shown(
    app: faust.App,
    view: Any,
    request: web.Request,
    answer: ViewAnswer,
    template: str,
    *,
    context: Callable[[Any], Context] = lambda _: {},
) -> Any:
    """The response. `template` is a page of pipelines/templates/, `context` makes what it shows beside the answer's `body`; both are used
    for status 200 only. Runs on the event loop; a page of a thousand rows takes some ten milliseconds."""
    if request.query.get("format", "html") not in FORMATS:
        answer = refused(400, "format is html or json")
    headers = RETRY_AFTER if answer.status == 503 else None
    if not wants_html(request):
        return view.json(answer.body, status=answer.status, headers=headers)
    if answer.status != 200:
        return error_page(answer.status, str(answer.body["error"]), headers)
    return page(template, body=answer.body, here=context_of(app, request), **context(answer.body))


def context_of(app: faust.App, request: web.Request) -> Context:
    """What every page says about its worker. It has no key: the path of a row is in no link."""
    section = "/" + request.path.split("/")[1]
    return {
        "worker": str(app.conf.canonical_url),
        "kind": app.engine.stage.name,
        "section": section if section == "/" else f"{section}/",
        "path": request.path if request.path.endswith("/") else "",
        "json": "?" + urlencode([*((n, v) for n, v in request.query.items() if n != "format"), ("format", "json")]),
        "of_core": "sequences" in app.tables,
        "whole": sees_all(request),
        "now": int(time.time() * 1000),
    }
