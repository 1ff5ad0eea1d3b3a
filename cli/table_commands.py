"""`chat4all tables`: the tables of the workers, one row, and one conversation's whole state, from the web views of any worker.

Enters: options, and the URL of a worker's views: of --url, else of a worker of the running stack. Leaves: text for a person, or with --json
what the view answered. Exit code 1 when there is no such row or conversation; 2 when it is not known, or no worker answers. The token is
CHAT4ALL_WEB_FULL_TOKEN, else CHAT4ALL_WEB_TOKEN, of the environment or of the running stack.
"""

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Annotated, Any, NoReturn
from urllib.parse import quote, urlencode, urlsplit

import typer
from rich.table import Table

from cli.command_errors import NO, fail
from cli.conversation_view import draw_conversation
from cli.dev_stack import kind_of
from cli.message import shown
from cli.stack import folder_of
from cli.terminal import console
from pipelines.stages import WORKERS
from pipelines.view_text import fields, utc
from schemas.settings import Settings
from stack.state import is_running, read_state

app = typer.Typer(help="Look into the tables of the running workers.", no_args_is_help=True)
TIMEOUT_SECONDS = 20.0
NEEDED = frozenset({"conversation_id", "lanes", "messages", "cursors"})
Url = Annotated[
    str,
    typer.Option(
        "--url", help="URL of any worker's views, for example http://127.0.0.1:6066. Default: of the running stack."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print what the view answers, as JSON.")]
Kind = Annotated[str, typer.Option(help=f"Kind of worker to ask in the running stack: {' or '.join(WORKERS)}.")]


@app.command("list")
def list_tables(url: Url = "", as_json: AsJson = False, worker: Kind = "core") -> None:
    """Show every table: rows, size, changelog, and the state of each partition on all workers.

    Example: `chat4all tables list`.
    """
    found = _asked(url, worker, "/tables/", {"state": "all"}, {"table", "partitions"})
    if as_json:
        _print(found)
        return
    tables = Table(box=None, pad_edge=False)
    for column in ("table", "rows", "bytes", "changelog"):
        tables.add_column(column, justify="right" if column in {"rows", "bytes"} else "left", overflow="fold")
    for each in found:
        partitions = each["partitions"]
        unknown = "" if all("rows" in one for one in partitions) else "+"
        rows, size = (sum(one.get(name, 0) for one in partitions) for name in ("rows", "bytes"))
        tables.add_row(each["table"], f"{rows:,}{unknown}", f"~{size:,}{unknown}", each["changelog"])
    console.print(tables)
    console.print(_partitions(found))


def _partitions(tables: list[Any]) -> Table:
    """Each partition, over all tables."""
    drawn = Table(box=None, pad_edge=False)
    for column in ("partition", "state", "worker", "rows", "changelog offset"):
        numbers = column in {"partition", "rows", "changelog offset"}
        drawn.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for places in zip(*(each["partitions"] for each in tables), strict=True):
        first = places[0]
        rows = f"{sum(each['rows'] for each in places):,}" if all("rows" in each for each in places) else "not known"
        offset = first.get("changelog_offset")
        state = f"{first['state']}: {first['why']}" if "why" in first else first["state"]
        drawn.add_row(
            str(first["partition"]),
            shown(state),
            first["worker"],
            rows,
            "not known" if offset is None else f"{offset:,}",
        )
    return drawn


@app.command()
def get(
    table: Annotated[str, typer.Argument(help="A table that `chat4all tables list` shows.")],
    key: Annotated[str, typer.Argument(help="The row's key.")],
    url: Url = "",
    as_json: AsJson = False,
    worker: Kind = "core",
) -> None:
    """Show one row, whichever worker has it, and the place that last changed it.

    Example: `chat4all tables get sequences c-1`.
    """
    found = _asked(
        url,
        worker,
        f"/tables/{quote(table, safe='')}/{quote(key, safe='')}",
        {"changed": "1"},
        {"row", "partition", "worker"},
    )
    if as_json:
        _print(found)
        return
    place = found.get("changed")
    console.print(shown(f"{found['table']} {found['key']}", style="bold"))
    drawn = Table(show_header=False)
    drawn.add_row("partition", f"{found['partition']}, held by {found['worker']}")
    if place is None:
        drawn.add_row("last changed", shown(f"not found: {found.get('changed_unknown', 'the worker does not say')}"))
    else:
        drawn.add_row("last changed", f"{place['topic']}[{place['partition']}]@{place['offset']}, {utc(place['at'])}")
        for each in place["turn"] or ():
            drawn.add_row("by the turn of", f"{each['topic']}[{each['partition']}]@{each['first']} to {each['last']}")
    for path, value, time in fields(found["row"]):
        drawn.add_row(shown(path), shown(f"{value}  {time}" if time else value))
    console.print(drawn)


@app.command()
def conversation(  # noqa: PLR0917  # typer makes an option of each
    conversation_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the conversation.")],
    tenant: Annotated[str, typer.Option(help="Tenant of the conversation.")] = "default",
    before: Annotated[int, typer.Option(min=0, help="Show messages below this sequence. Default: the newest.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=50, help="How many messages.")] = 10,
    url: Url = "",
    as_json: AsJson = False,
) -> None:
    """Show one conversation's whole state: sequence, lanes with what waits for what, cursors, and deliveries with their timelines.

    Example: `chat4all tables conversation c-1 --tenant shop`.
    """
    query = {"tenant": tenant, "limit": str(limit)} | ({"before": str(before)} if before else {})
    if conversation_id in {".", ".."}:  # a point in a path means a folder
        found = _asked(url, "core", "/conversations/", query | {"id": conversation_id}, NEEDED)
    else:
        found = _asked(url, "core", f"/conversations/{quote(conversation_id, safe='')}", query, NEEDED)
    if as_json:
        _print(found)
    else:
        draw_conversation(found)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A worker's views redirect nothing that is asked here. Somebody else's answer must not get the token sent to a third host."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """Makes a redirect the error that it is."""


_OPENER = urllib.request.build_opener(_NoRedirect)


# --- asking ---------------------------------------------------------------------------------------------------------------


def _asked(url: str, kind: str, path: str, query: Mapping[str, str], needed: AbstractSet[str]) -> Any:
    """What a worker's view answers, with the fields that are needed. Ends the command when it answers with an error, or not at all."""
    base = (url or _of_stack(kind)).rstrip("/")
    if urlsplit(base).scheme not in {"http", "https"}:
        fail(f"--url {base[:80]}: write the URL of a worker's views, for example http://127.0.0.1:6066")
    request = urllib.request.Request(f"{base}{path}?{urlencode(query)}", headers=_headers())  # noqa: S310  # http or https, see above
    try:
        with _OPENER.open(request, timeout=TIMEOUT_SECONDS) as answer:
            found = json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            fail(_sentence(error), NO if error.code == 404 else 2)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        fail(f"no views of a worker at {base}: {reason}. `chat4all status` shows the views of the running stack")
    first = found[0] if isinstance(found, list) and found else found
    if not isinstance(first, dict) or not needed <= first.keys():
        _refuse_others(base)
    return found


def _refuse_others(base: str) -> NoReturn:
    fail(
        f"{base} answers, but not as the views of a worker of this release: `chat4all status` shows the views of the running stack"
    )


def _headers() -> dict[str, str]:
    settings = Settings()
    tokens = f"{settings.web_full_token.get_secret_value()},{settings.web_token.get_secret_value()}".split(",")
    token = next((each.strip() for each in tokens if each.strip()), "")
    return {"Accept": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})


def _sentence(error: urllib.error.HTTPError) -> str:
    if error.code == 401:
        return "the worker asks for a token: set CHAT4ALL_WEB_FULL_TOKEN or CHAT4ALL_WEB_TOKEN to one of its tokens"
    try:
        return str(json.load(error)["error"])
    except (ValueError, KeyError, TypeError):
        return f"the worker answers with status {error.code}"


def _of_stack(kind: str) -> str:
    """The views of a worker of the running stack."""
    if kind not in WORKERS:
        fail(f"--worker {kind[:40]}: choose {' or '.join(WORKERS)}")
    folder = folder_of(None)
    state = read_state(folder)
    if state is None or not is_running(folder):
        fail(f"no stack runs in {folder}: start it with `chat4all up`, or give the views of a worker with --url")
    found = [each.parts["views"] for each in state.services if kind_of(each.name) == kind and each.status == "ready"]
    if not found:
        fail(f"no {kind} worker of the stack is ready: see `chat4all status`")
    return found[0]


def _print(found: Any) -> None:
    console.out(json.dumps(found, indent=2, ensure_ascii=False), highlight=False)
