"""Decides who may read a worker's views, and what they see.

In: settings and requests. Out: a middleware that refuses requests (403 for a foreign host name, 401 without a valid token), and one log
line for each answer: who read which path, never the content. A token comes as `Bearer`, or from a browser as the password of `Basic`, with
any name; /login makes a browser ask for it. Guaranteed: views that are reachable from other machines need a token; only
CHAT4ALL_WEB_FULL_TOKEN shows texts and addresses; comparing a token takes the same time for every wrong token.
"""

import base64
import binascii
import ipaddress
import logging
import re
import socket
from collections.abc import Awaitable, Callable, Iterable
from enum import StrEnum
from hmac import compare_digest
from urllib.parse import quote, unquote, urlsplit

import structlog
from aiohttp import web

from pipelines.html_pages import error_page, wants_html
from pipelines.row_masking import masked_id, masked_key
from schemas.settings import MissingSetting, Settings

LOGIN = "/login"  # answers 401 until the caller gives a token, also where the views are open
ANY_ADDRESS = ("0.0.0.0", "::", "")
LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
LONGEST = 300  # characters of a path in the log
SHOWN = "/?&=:*,+@!;|"  # characters that stay unquoted in it; keys contain them
# What a browser or a client sends: a name or an address, and a port.
_HOST_HEADER = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[^\s:@/?#\\\[\]]+)(:[0-9]*)?")
_ROW_PATH = re.compile(r"/tables/(?P<table>[^/]+)/(?P<key>.+)", re.DOTALL)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_AUDIT = logging.getLogger(__name__)
_AUDIT.setLevel(logging.INFO)  # at any CHAT4ALL_LOG_LEVEL: it must be known later who read what
log = structlog.wrap_logger(_AUDIT, wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))


class Caller(StrEnum):
    """The caller of a view, as the log names it."""

    ANONYMOUS = "without a token"
    MASKED = "web_token"
    FULL = "web_full_token"


CALLER: "web.RequestKey[Caller]" = web.RequestKey("caller", Caller)


class Access:
    """The access rules of one worker's views. Raises MissingSetting if other machines can reach the views and no token is set.

    No method blocks or does I/O, except for log lines."""

    def __init__(self, settings: Settings) -> None:
        self._tokens = [(Caller.FULL, token) for token in _listed(settings.web_full_token.get_secret_value())]
        self._tokens += [(Caller.MASKED, token) for token in _listed(settings.web_token.get_secret_value())]
        reached = [settings.web_host, *([_host(settings.web_url)] if settings.web_url else [])]
        exposed = [host or "any address" for host in reached if not is_local(host)]
        if exposed and not self._tokens:
            raise MissingSetting(
                f"the web views of this worker can be reached from outside, at {exposed[0]}: set CHAT4ALL_WEB_TOKEN, or "
                "CHAT4ALL_WEB_HOST=127.0.0.1"
            )
        self._open = not exposed and not settings.web_token.get_secret_value()
        own = {socket.gethostname()} if settings.web_host in ANY_ADDRESS else {settings.web_host}
        named = {name.strip() for name in settings.web_names.split(",") if name.strip()}
        self._hosts = {host.lower() for host in LOCAL | own | named | {_host(settings.web_url)} if host}

    def caller(self, authorization: str | None) -> Caller | None:
        """The caller by its Authorization header; None if it may not read the views."""
        if not authorization:
            return Caller.ANONYMOUS if self._open else None
        presented = _presented(authorization)
        found = [who for who, token in self._tokens if compare_digest(token, presented)]
        return found[0] if found else None

    def is_ours(self, host: str) -> bool:
        """Whether a Host header names this worker. This refuses DNS rebinding: a foreign page whose own name resolves to this worker."""
        found = _HOST_HEADER.fullmatch(host)
        return found is not None and found["host"].strip("[]").lower() in self._hosts

    def headers(self, caller: Caller) -> dict[str, str]:
        """Headers for a request to another worker, with the rights of this caller."""
        own = Caller.FULL if caller is Caller.FULL else Caller.MASKED
        token = next((token for who, token in self._tokens if who is own), None)
        return {} if token is None else {"Authorization": f"Bearer {token.decode()}"}

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if not self.is_ours(request.headers.get("Host", "")):
            log.warning("view refused", remote=request.remote, reason="the Host header does not name this worker")
            return _refusal(
                request, 403, "this worker has another host name: use that one, or add this one to CHAT4ALL_WEB_NAMES"
            )
        caller = self.caller(request.headers.get("Authorization"))
        signs_in = request.path == LOGIN
        if caller is None or (signs_in and caller is Caller.ANONYMOUS):
            log.warning("view refused", remote=request.remote, reason="no valid token")
            return _refusal(request, 401, "send Authorization: Bearer with CHAT4ALL_WEB_TOKEN")
        request[CALLER] = caller
        status = 500
        try:
            answer = web.Response(status=303, headers={"Location": "/"}) if signs_in else await handler(request)
            status = answer.status
        except web.HTTPException as ended:
            status = ended.status
            if status == 404 and wants_html(request):
                return error_page(404, "This worker has no such page.")
            raise
        finally:
            path = shown_path(request.rel_url.path_qs)
            log.info("view read", by=str(caller), remote=request.remote, path=path, status=status)
        return answer

    def middleware(self) -> Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]:
        """The aiohttp middleware that applies these rules and logs each answer."""

        @web.middleware
        async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._answer(request, handler)

        return guarded


def shown_path(path: str) -> str:
    """A path with its query for the log: personal parts of a key are masked, however the key is quoted."""
    text = unquote(path)
    row = _ROW_PATH.match(text)
    if row is not None:
        text = f"/tables/{row['table']}/{masked_key(row['table'], row['key'])}"
    return quote(masked_id(text), safe=SHOWN)[:LONGEST]


def is_local(host: str) -> bool:
    """Whether only this machine can reach this host."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def sees_all(request: web.Request) -> bool:
    return request.get(CALLER) is Caller.FULL


def _listed(text: str) -> Iterable[bytes]:
    return [token.strip().encode() for token in text.split(",") if token.strip()]


def _host(url: str) -> str:
    """The host of a URL; empty if it has none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _presented(authorization: str) -> bytes:
    """The token of an Authorization header: of Bearer, or the password of Basic; empty if there is none, which no token is."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip().encode("utf-8", "surrogateescape")
    if scheme.lower() != "basic":
        return b""
    try:
        return base64.b64decode(value.strip().encode("utf-8", "surrogateescape"), validate=True).partition(b":")[2]
    except binascii.Error:
        return b""


def _refusal(request: web.Request, status: int, sentence: str) -> web.Response:
    """In the form that the caller reads. Only a browser is asked for Basic: it shows a window for name and password."""
    if wants_html(request):
        ask = {"WWW-Authenticate": 'Basic realm="Chat4All views", charset="UTF-8"'} if status == 401 else None
        return error_page(status, _SENTENCES[status], ask)
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return web.json_response({"error": sentence}, status=status, headers=headers)


_SENTENCES = {
    401: "These pages need a token: one of CHAT4ALL_WEB_TOKEN, or one of CHAT4ALL_WEB_FULL_TOKEN to see texts and addresses.",
    403: "This worker has another host name: use that one, or add this one to CHAT4ALL_WEB_NAMES.",
}
