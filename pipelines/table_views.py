"""Views of the tables, on every worker: /tables/?state=, /tables/<table>/?partition=&prefix=&limit=, /tables/<table>/<key>?changed=1.

In: HTTP requests. Out: rows as JSON, or as pages. Any worker answers for any row (row_lookup.py). A listing shows the rows of this worker
only (row_listing.py), and names the owners of the other partitions. Guaranteed: while an answer is not certain (a restore, a rebalance, a
crashed worker), the status is 503 with a sentence, never a false "no row". Texts and addresses are masked unless the caller may see them
(view_access.py); another worker is asked with a token of the same rights.
"""

from collections import Counter
from typing import Any
from urllib.parse import quote

import faust
import orjson
from aiohttp import web

from pipelines.html_pages import wants_html
from pipelines.row_listing import NextPages, listed
from pipelines.row_lookup import RowRequest, found_row
from pipelines.table_state import described, with_state
from pipelines.view_access import CALLER, Access, sees_all
from pipelines.view_answer import ViewAnswer, refused
from pipelines.view_pages import Context, shown
from pipelines.view_text import fields

SUMMARY = 400  # characters of a row in a listing's page


def add_table_views(app: faust.App, access: Access) -> None:
    """Adds the views to a worker's app. Handlers run on the worker's event loop; a large page occupies it for some ten milliseconds."""
    pages = NextPages()

    @app.page("/tables/")
    async def tables(view: Any, request: Any) -> Any:
        return shown(app, view, request, await _tables(app, access, request), "tables.html", context=_of_tables)

    @app.page("/tables/{table}/")
    async def rows(view: Any, request: Any, table: str) -> Any:
        answer = _unknown(app, table)
        if answer is None and request.query.get("key"):  # the form on the page
            kept = "?format=json" if request.query.get("format") == "json" else ""
            where = f"/tables/{table}/{quote(request.query['key'], safe='')}{kept}"
            return web.Response(status=303, headers={"Location": where})
        if answer is None:
            about = described(app, app.tables[table])
            answer = await listed(app, pages, about, request.query, whole=sees_all(request))
        return shown(app, view, request, answer, "rows.html", context=lambda body: _of_rows(body, request))

    @app.page("/tables/{table}/{key:.+}")
    async def row(view: Any, request: Any, table: str, key: str) -> Any:
        answer = _unknown(app, table)
        if answer is None:
            with_place = wants_html(request) or request.query.get("changed") == "1"
            headers = access.headers(request[CALLER])
            wanted = RowRequest(app, app.tables[table], key, sees_all(request), headers, with_place)
            answer = await found_row(wanted, request.query.get("partitions"))
        return shown(app, view, request, answer, "row.html", context=lambda body: {"lines": fields(body["row"])})


async def _tables(app: faust.App, access: Access, request: Any) -> ViewAnswer:
    """Every table. With `state`, also each of its partitions: `here` on this worker, `all` on every worker. Pages show all."""
    state = request.query.get("state") or ("all" if wants_html(request) else "")
    if state not in ("", "here", "all"):
        return refused(400, "state is here or all")
    if not state:
        return ViewAnswer(200, [described(app, table) for table in app.tables.values()])
    headers = access.headers(request[CALLER])
    return ViewAnswer(200, await with_state(app, list(app.tables), headers, everywhere=state == "all"))


def _unknown(app: faust.App, table: str) -> ViewAnswer | None:
    if table in app.tables:
        return None
    return refused(404, f"no table {table!r} here: this worker has {sorted(app.tables)}")


# --- what pages show beside the answer ------------------------------------------------------------------------------------


def _of_tables(body: Any) -> Context:
    """Sums of each table, and the partitions over all tables."""
    partitions: dict[int, dict[str, Any]] = {}
    for table in body:
        table["complete"] = all("rows" in each for each in table["partitions"])
        table["states"] = Counter(each["state"] for each in table["partitions"])
        for each in table["partitions"]:
            each["rows_known"], each["bytes_known"] = each.get("rows", 0), each.get("bytes", 0)
            known = {"rows": 0, "bytes": 0} if "rows" in each else {"rows": None, "bytes": None}
            new = each | known | {"why": each.get("why", ""), "changelog_offset": each.get("changelog_offset")}
            whole = partitions.setdefault(each["partition"], new)
            if whole["rows"] is not None:
                whole["rows"] += each["rows_known"]
                whole["bytes"] += each["bytes_known"]
    return {"partitions": list(partitions.values())}


def _of_rows(body: Any, request: Any) -> Context:
    others: dict[str, list[str]] = {}
    for number, url in body["elsewhere"].items():
        others.setdefault(url, []).append(number)
    for entry in body["shown"]:
        text = orjson.dumps(entry["row"]).decode()
        entry["summary"] = text if len(text) <= SUMMARY else f"{text[:SUMMARY]}…"
    return {
        "others": others,
        "prefix": request.query.get("prefix", ""),
        "partition": request.query.get("partition", ""),
    }
