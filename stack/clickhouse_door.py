"""Access to the ClickHouse front: only for a client on this machine that knows the password, and not for web pages.

Enters: requests. Leaves: the same, or a refusal in ClickHouse's form. Guaranteed: Host, Origin and credentials are checked before a byte
of the body is read; the password is compared in constant time. Any web page can make a browser post to 127.0.0.1, also under a host name
of its own (DNS rebinding); therefore Host and Origin are checked.
"""

import base64
import binascii
import hmac

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

USER = "default"
HOSTS = frozenset({"127.0.0.1", "localhost"})  # with any port: the TLS proxy in front has another one
PUBLIC = "/ping"  # says only that the server runs


def credentials(request: web.Request) -> tuple[str, str]:
    """User and password as ClickHouse's clients send them: Basic authentication, or two headers of ClickHouse. Empty if there are none."""
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


def access_check(password: str) -> Middleware:
    """The middleware that checks every request before its handler runs."""
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
    """A refusal in ClickHouse's form, with its code in a header."""
    text = f"Code: {code}. DB::Exception: {sentence}. ({name})\n"
    return web.Response(status=status, text=text, headers={"X-ClickHouse-Exception-Code": str(code)})
