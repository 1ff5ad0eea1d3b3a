"""Who may read a worker's views, and what they see.

Enters: the settings, and requests. Leaves: a middleware that refuses (403 for a host that is not ours, 401 without a token), and a line of
the log for each answer: who read what, never what was in it. Guaranteed: views that others can reach want a token; texts and addresses are
for CHAT4ALL_WEB_FULL_TOKEN alone; comparing takes the same time for every wrong token.
"""

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

from pipelines.row_masking import masked_id
from schemas.settings import MissingSetting, Settings

ANY_ADDRESS = ("0.0.0.0", "::", "")
LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
LONGEST = 300  # characters of a path in the log
SHOWN = "/?&=:*,+@!;|"  # in it as they are; a key in it is written with them
# No more than a browser or a client sends: a name or an address, and a port.
_HOST_HEADER = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[^\s:@/?#\\\[\]]+)(:[0-9]*)?")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_AUDIT = logging.getLogger(__name__)
_AUDIT.setLevel(logging.INFO)  # whatever CHAT4ALL_LOG_LEVEL says: who read what is to be known afterwards
log = structlog.wrap_logger(_AUDIT, wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))


class Caller(StrEnum):
    """As the log names them."""

    NOBODY = "without a token"
    MASKED = "web_token"
    FULL = "web_full_token"


CALLER: "web.RequestKey[Caller]" = web.RequestKey("caller", Caller)


class Access:
    """The doors of one worker. Raises MissingSetting when others can reach the views and there is no token."""

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
        """Who asks; None for whoever may not."""
        scheme, _, presented = (authorization or "").partition(" ")
        if not authorization:
            return Caller.NOBODY if self._open else None
        found = [
            who
            for who, token in self._tokens
            if compare_digest(token, presented.strip().encode("utf-8", "surrogateescape"))
        ]
        return found[0] if found and scheme.lower() == "bearer" else None

    def is_ours(self, host: str) -> bool:
        """Whether a Host header names this worker: a page of somebody else's that led its own name here does not."""
        found = _HOST_HEADER.fullmatch(host)
        return found is not None and found["host"].strip("[]").lower() in self._hosts

    def headers(self, caller: Caller) -> dict[str, str]:
        """What another worker is asked with in the name of this caller."""
        own = Caller.FULL if caller is Caller.FULL else Caller.MASKED
        token = next((token for who, token in self._tokens if who is own), None)
        return {} if token is None else {"Authorization": f"Bearer {token.decode()}"}

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if not self.is_ours(request.headers.get("Host", "")):
            log.warning("view refused", remote=request.remote, reason="the Host header names none of ours")
            return _refusal(403, "this worker has another name: use it, or put this one into CHAT4ALL_WEB_NAMES")
        caller = self.caller(request.headers.get("Authorization"))
        if caller is None:
            log.warning("view refused", remote=request.remote, reason="no token, or a wrong one")
            return _refusal(401, "send Authorization: Bearer with CHAT4ALL_WEB_TOKEN", {"WWW-Authenticate": "Bearer"})
        request[CALLER] = caller
        status = 500
        try:
            answer = await handler(request)
            status = answer.status
        except web.HTTPException as ended:
            status = ended.status
            raise
        finally:
            path = shown_path(request.rel_url.path_qs)
            log.info("view read", by=str(caller), remote=request.remote, path=path, status=status)
        return answer

    def middleware(self) -> Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]:
        @web.middleware
        async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._answer(request, handler)

        return guarded


def shown_path(path: str) -> str:
    """A path with its query as the log may tell it: without the person in a key, however the key is quoted."""
    return quote(masked_id(unquote(path)), safe=SHOWN)[:LONGEST]


def is_local(host: str) -> bool:
    """Whether only this machine reaches it."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def sees_all(request: web.Request) -> bool:
    return request.get(CALLER) is Caller.FULL


def _listed(text: str) -> Iterable[bytes]:
    return [token.strip().encode() for token in text.split(",") if token.strip()]


def _host(url: str) -> str:
    """The host of a URL, empty without one."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _refusal(status: int, sentence: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"error": sentence}, status=status, headers=headers)
