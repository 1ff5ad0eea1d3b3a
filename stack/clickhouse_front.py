"""The ClickHouse engine (chdb) behind the part of ClickHouse's HTTP interface that the usual clickhouse-connect client needs.

Enters: HTTP requests in the form of ClickHouse: the query in the body, in `query=` or in a form; settings and `param_*` as
query parameters; data after `INSERT ... FORMAT x`, compressed or not. Leaves: the result, or ClickHouse's own error text with its
code. Guaranteed: data survive a restart; only a client with the password gets an answer (stack/clickhouse_door.py); SQL reaches no file, no
program and no other server (stack/clickhouse_rights.py). Not supported: sessions (SET and temporary tables end with their request), other
users, external data. It is a process of its own, because a process can hold only one engine:
`CLICKHOUSE_PASSWORD=W python -m stack.clickhouse_front --port P --folder F [--user U]`. As root it becomes user U before it opens any data.
"""

import argparse
import asyncio
import json
import os
import re
import signal
import sys
import tempfile
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aiohttp import web

from schemas.tracebacks import log_plainly
from stack import unprivileged
from stack.clickhouse_door import access_check
from stack.clickhouse_engine import Query, QueryRefused, discard_unfinished, execute, keep_default, opened
from stack.compressed_bodies import compressed, decompressed
from stack.confinement import confine

# Query parameters about the request itself; every other parameter is a setting of the engine.
TRANSPORT = {"query", "database", "user", "password", "default_format", "query_id", "quota_key", "role", "stacktrace"}
TRANSPORT |= {"session_id", "session_timeout", "session_check", "client_protocol_version"}
TRANSPORT |= {"compress", "decompress", "buffer_size", "wait_end_of_query"}
# What the engine and Python read of the system. With Landlock, this process can open only these, its code and its data.
READ = (
    "/usr",
    "/lib",
    "/lib64",
    "/sys",
    "/etc/localtime",
    "/etc/mime.types",
    "/dev/urandom",
    "/proc/self",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/loadavg",
    "/proc/uptime",
    "/proc/sys",
)
ERROR_CODE = re.compile(r"Code: (\d+)\.")
# ClickHouse's HTTP status for an error code: the query is wrong (400), or names something that does not exist (404); else 500. Unlike
# ClickHouse, this front answers 400 to a query that is nested too deeply (306).
STATUS = dict.fromkeys([6, 26, 27, 36, 38, 41, 42, 43, 44, 53, 62, 115, 117, 306, 452, 456], 400) | {497: 403}
STATUS |= dict.fromkeys([46, 47, 50, 60, 81], 404)


async def read_query(request: web.Request) -> Query:
    """The statement and its settings, from all the places where a request may have them. Raises QueryRefused for what is not supported."""
    given = dict(request.query)
    if request.content_type == "multipart/form-data":
        form = await request.post()
        texts = {name: value for name, value in form.items() if isinstance(value, str)}
        if len(texts) < len(form):
            raise QueryRefused(48, "NOT_IMPLEMENTED", "external data are not supported by this front")
        given, body = given | texts, b""
    else:
        body = decompressed(await request.read(), request.headers.get("Content-Encoding", ""))
    if "1" in (given.get("compress"), given.get("decompress")):
        raise QueryRefused(48, "NOT_IMPLEMENTED", "native compression is not supported by this front")
    head = given.get("query", "").encode()
    settings = {name: value for name, value in given.items() if name not in TRANSPORT and not name.startswith("param_")}
    if request.method == "GET":
        settings.setdefault("readonly", "2")  # as in ClickHouse: a GET changes nothing
    return Query(
        sql=head + b"\n" + body if head and body else head or body,
        database=given.get("database", ""),
        settings=settings,
        params={name.removeprefix("param_"): value for name, value in given.items() if name.startswith("param_")},
        default_format=given.get("default_format", "TabSeparated"),
    )


async def readable(request: web.Request) -> Query:
    """The query of a request. Raises QueryRefused when the request cannot be read: its compression, form or text is invalid."""
    try:
        return await read_query(request)
    except (web.RequestPayloadError, ValueError, LookupError, RuntimeError) as error:  # aiohttp raises these
        raise QueryRefused(
            27, "CANNOT_PARSE_INPUT_ASSERTION_FAILED", f"the request cannot be read: {error}"[:200]
        ) from None


class ClickHouseFront:
    """The request handlers of one engine. They run on the event loop; the statements run in 16 threads."""

    def __init__(self, path: str) -> None:
        self._path = path
        discard_unfinished(path)
        keep_default(path)
        # Keeps the engine open between requests. While it is, a handle for a request takes a millisecond.
        self._engine = opened(path)
        self._threads = ThreadPoolExecutor(16, thread_name_prefix="query")
        text = self._engine.query("SELECT version(), timezone()", "TabSeparated").bytes().decode()
        self.version, self.timezone = text.rstrip("\n").split("\t")

    async def query(self, request: web.Request) -> web.Response:
        headers = {"X-ClickHouse-Query-Id": request.query.get("query_id") or str(uuid.uuid4())}
        headers |= {"X-ClickHouse-Timezone": self.timezone, "X-ClickHouse-Server-Display-Name": "chdb"}
        if request.method == "GET" and "query" not in request.query:
            return web.Response(text="Ok.\n")
        try:
            query = await readable(request)
            answer = await asyncio.get_running_loop().run_in_executor(self._threads, execute, self._path, query)
        except Exception as error:  # noqa: BLE001  # any error of the engine is the answer, as in ClickHouse
            return self._refusal(str(error), headers)
        headers["X-ClickHouse-Summary"] = json.dumps({name: str(number) for name, number in answer.summary.items()})
        if answer.format:
            headers["X-ClickHouse-Format"] = answer.format
        body = answer.body
        if request.query.get("enable_http_compression") == "1" and body:
            body, encoding = compressed(body, request.headers.get("Accept-Encoding", ""))
            headers |= {"Content-Encoding": encoding} if encoding else {}
        return web.Response(body=body, headers=headers, content_type="text/plain", charset="utf-8")

    def _refusal(self, text: str, headers: dict[str, str]) -> web.Response:
        found = ERROR_CODE.search(text)
        code = int(found[1]) if found else 1002
        message = text[found.start() :] if found else f"Code: 1002. DB::Exception: {text}. (UNKNOWN_EXCEPTION)"
        headers["X-ClickHouse-Exception-Code"] = str(code)
        return web.Response(status=STATUS.get(code, 500), text=f"{message} (version {self.version})\n", headers=headers)

    async def ping(self, _request: web.Request) -> web.Response:
        return web.Response(text="Ok.\n")

    async def close(self, _app: web.Application) -> None:
        self._threads.shutdown()
        self._engine.close()


def application(path: str, password: str) -> web.Application:
    front = ClickHouseFront(path)
    app = web.Application(client_max_size=2**31, middlewares=[access_check(password)])
    app.router.add_get("/ping", front.ping)
    app.router.add_route("*", "/", front.query)
    app.on_cleanup.append(front.close)
    return app


def confined(folder: str) -> bool:
    """A second line of defence behind stack/clickhouse_rights.py: the engine's threads, which start later, can open no other file."""
    unprivileged.gain_nothing()
    # Without the project: it is read already, and its folder contains the stacks.
    own = (sys.prefix, sys.base_prefix, sys.base_exec_prefix)
    return confine(map(Path, (*READ, *own)), map(Path, (folder, tempfile.gettempdir(), "/dev/null")))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--user", type=int, help="user id to become; this process is root")
    arguments = parser.parse_args()
    log_plainly()
    password = os.environ.pop("CLICKHOUSE_PASSWORD")
    if arguments.user is not None:
        parent = os.getppid()
        unprivileged.drop(arguments.user)
        unprivileged.die_with_parent(parent, signal.SIGKILL)
    confined(arguments.folder)
    app = application(arguments.folder, password)
    # aiohttp's own decoding takes a body that is cut off for a whole one.
    web.run_app(app, host="127.0.0.1", port=arguments.port, access_log=None, print=None, auto_decompress=False)


if __name__ == "__main__":
    main()
