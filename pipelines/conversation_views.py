"""The view /conversations/<id>?tenant=&before=&limit=: one conversation's whole state, on every worker of core.

In: HTTP requests. Out: JSON, or a page. Any worker answers: it asks the owner of the conversation's home partition for the whole document,
in one request. Guaranteed: 404 only from a worker that holds the partition; 503 with a sentence while that is not certain. Access and masks
are those of the tables (view_access.py).
"""

import time
from typing import Any
from urllib.parse import quote, urlencode

import faust
from aiohttp import web

from pipelines.conversation_document import MESSAGES, Document, PartitionGone
from pipelines.html_pages import page, wants_html
from pipelines.view_access import CALLER, Access, sees_all
from pipelines.view_answer import ViewAnswer, ask, refused, why_absent
from pipelines.view_pages import Context, context_of, shown
from pipelines.view_text import steps
from schemas.keys import DEFAULT_TENANT, conversation_key, is_tenant
from schemas.partitions import home_partition

STAGE = "send"  # holds the lanes
PATH = "/conversations/"


def add_conversation_views(app: faust.App, access: Access) -> None:
    """Adds the views to the app of core. Handlers run on the worker's event loop."""

    @app.page(PATH)
    async def asked_for(view: Any, request: Any) -> Any:
        """A conversation by `?id=`, as the form on the pages asks for it; without an id, the form."""
        conversation_id = request.query.get("id", "")
        if conversation_id not in {"", ".", ".."}:  # a browser takes a point in a path for a folder
            query = {name: text for name, text in request.query.items() if name != "id" and text}
            address = f"{PATH}{quote(conversation_id, safe='')}" + (f"?{urlencode(query)}" if query else "")
            return web.Response(status=303, headers={"Location": address})
        if conversation_id:
            return await _answered(app, access, view, request, conversation_id)
        if wants_html(request):
            return page("conversations.html", here=context_of(app, request))
        return shown(app, view, request, refused(400, f"write {PATH}<id>?tenant=<tenant>"), "")

    @app.page(PATH + "{conversation_id:.+}")
    async def conversation(view: Any, request: Any, conversation_id: str) -> Any:
        return await _answered(app, access, view, request, conversation_id)


async def _answered(app: faust.App, access: Access, view: Any, request: Any, conversation_id: str) -> Any:
    answer = await _found(app, access, request, conversation_id)
    return shown(app, view, request, answer, "conversation.html", context=lambda body: _of_page(body, request))


async def _found(app: faust.App, access: Access, request: Any, conversation_id: str) -> ViewAnswer:
    query = request.query
    tenant = query.get("tenant") or DEFAULT_TENANT
    if not is_tenant(tenant):
        return refused(400, "a tenant has 1 to 64 letters, digits, points, dashes or underscores")
    try:
        before = int(query["before"]) if "before" in query else None
        limit = int(query.get("limit", MESSAGES))
    except ValueError:
        return refused(400, "before and limit are whole numbers")
    if not 1 <= limit <= MESSAGES or (before is not None and before < 1):
        return refused(400, f"limit is 1 to {MESSAGES}, before 1 or more")
    number = home_partition(conversation_key(tenant, conversation_id), app.conf.topic_partitions)
    if number in app.engine.partitions:
        return await _here(app, number, (tenant, conversation_id), (before, limit), whole=sees_all(request))
    owner = app.router.owners("sequences").get(number)
    if query.get("here") == "1" or owner is None or owner == app.conf.canonical_url:
        return refused(503, f"partition {number} is not here: {why_absent(app)}")
    further = {"tenant": tenant, "limit": limit, "here": "1"} | ({} if before is None else {"before": before})
    url = owner.with_path(PATH).with_query({"id": conversation_id} | further)
    if conversation_id not in {".", ".."}:
        url = owner.with_path(PATH + quote(conversation_id, safe=""), encoded=True).with_query(further)
    return await ask(app, owner, url, [number], access.headers(request[CALLER]))


async def _here(
    app: faust.App, number: int, conversation: tuple[str, str], part: tuple[int | None, int], *, whole: bool
) -> ViewAnswer:
    partition = app.engine.running().get(number)
    if partition is None:
        return refused(503, f"partition {number} is here and has not started yet: ask again in a moment")
    send = next(each.state for each in partition.state.chained if each.stage.name == STAGE)
    now = int(time.time() * 1000)

    def is_held() -> bool:
        return app.engine.partitions.get(number) is partition

    document = Document(*conversation, partition.tables, send, is_held, now, whole)
    try:
        body = await document.made(*part)
    except PartitionGone:
        return refused(503, f"partition {number} has just been given up: ask again in a moment")
    if body is None:
        tenant, conversation_id = conversation
        return refused(404, f"no conversation {conversation_id!r} of tenant {tenant}: no message of it was accepted")
    where = {"partition": number, "worker": str(app.conf.canonical_url), "now": now}
    return ViewAnswer(200, where | body)


def _of_page(body: Any, request: Any) -> Context:
    """What the page shows beside the document."""
    kept = {name: text for name, text in request.query.items() if name in {"tenant", "limit", "id", "format"}}
    newest = "?" + urlencode(kept) if "before" in request.query else ""
    older = "?" + urlencode(kept | {"before": body["before"]}) if body["before"] else ""
    for message in body["messages"]:
        for each in message["deliveries"]:
            each["steps"] = steps(each)
    return {"newest": newest, "older": older, "is_part": "before" in request.query}
