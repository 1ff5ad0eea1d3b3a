"""Bodies of requests, or the refusal of one that cannot be read.

What enters: a request, and what to raise when its body is compressed with rubbish, cut off, or a form whose boundary, charset or transfer
encoding is none. What leaves: bytes, or the fields of a form. Guaranteed: nothing else is raised, but for a body that is too large.
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
    except (
        web.RequestPayloadError,
        ValueError,
        LookupError,
        RuntimeError,
    ):  # aiohttp has no error of its own for a form
        raise refusal from None
