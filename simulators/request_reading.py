"""Reads the bodies of requests.

What enters: a request, and the exception to raise when its body cannot be read: badly compressed, cut off, or a form with a wrong boundary,
charset or transfer encoding. What leaves: bytes, or the fields of a form. Guaranteed: nothing else is raised, except for a body that is too
large.
"""

from collections.abc import Mapping

from aiohttp import web


async def raw(request: web.BaseRequest, refusal: Exception) -> bytes:
    try:
        return await request.read()
    except web.RequestPayloadError:
        raise refusal from None


async def form(request: web.BaseRequest, refusal: Exception) -> Mapping[str, str | bytes | bytearray | web.FileField]:
    try:
        return await request.post()
    # aiohttp has no error of its own for a malformed form.
    except (web.RequestPayloadError, ValueError, LookupError, RuntimeError):
        raise refusal from None
