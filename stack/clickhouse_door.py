"""Who may speak to the ClickHouse front: a client that knows the password, on this machine, and no page of a browser.

Enters: requests. Leaves: the same, or a refusal worded as ClickHouse words it. Guaranteed: Host, Origin and credentials are looked at
before a byte of the body is read; the password is compared in constant time. A page of any site can make a browser post to
127.0.0.1, under a name of its own if it answers for its DNS: hence Host and Origin.
"""

import base64
import binascii
import hmac

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

USER = "default"
HOSTS = frozenset({"127.0.0.1", "localhost"})  # with any port: TLS before this server has one of its own
PUBLIC = "/ping"  # says only that somebody is there


def credentials(request: web.Request) -> tuple[str, str]:
    """User and password as ClickHouse's clients send them: Basic authentication, or two headers of ClickHouse's own."""
    user, key = request.headers.get("X-ClickHouse-User", USER), request.headers.get("X-ClickHouse-Key")
    if key is not None:
        return user, key
    scheme, _, encoded = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return "", ""
    try:
        user, _, key = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return user, key


def door(password: str) -> Middleware:
    """The middleware that stands before every handler."""
    expected = f"{USER}:{password}".encode()

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.headers.get("Host", "").lower().partition(":")[0] not in HOSTS:
            return refusal(403, 497, "ACCESS_DENIED", f"Host must be one of {', '.join(sorted(HOSTS))}, with any port")
        if "Origin" in request.headers:
            return refusal(403, 497, "ACCESS_DENIED", "requests of web pages (Origin) are not answered")
        given = ":".join(credentials(request)).encode(errors="surrogateescape")
        if request.path != PUBLIC and not hmac.compare_digest(given, expected):
            return refusal(
                403, 516, "AUTHENTICATION_FAILED", "Authentication failed: the user or the password is wrong"
            )
        return await handler(request)

    return guarded


def refusal(status: int, code: int, name: str, sentence: str) -> web.Response:
    """As ClickHouse refuses, with its code in a header."""
    text = f"Code: {code}. DB::Exception: {sentence}. ({name})\n"
    return web.Response(status=status, text=text, headers={"X-ClickHouse-Exception-Code": str(code)})
