"""Media of a simulated WhatsApp: upload, description, download by a short-lived link, deletion; allowed types and sizes of each kind.

What enters: multipart uploads, media ids, links. What leaves: answers of the media API, or why a message with such media fails.
Guaranteed: an uploaded id is valid for 30 days, one from a webhook for 7, a download link for 5 minutes, all by the provider's clock.
https://developers.facebook.com/docs/whatsapp/cloud-api/reference/media
"""

import secrets
from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from simulators import graph_api, links, request_reading
from simulators.clock import Clock
from simulators.media import Store, StoredMedia, sniffed
from simulators.provider import json_response

UPLOAD_DAYS = 30
INBOUND_DAYS = 7
LINK_SECONDS = 300
DOWNLOADS = "/whatsapp_business/attachments/"
_MB = 1_000_000
_OFFICE = "application/vnd.openxmlformats-officedocument."
# kind -> types and most bytes; a document may have any type.
KINDS: dict[str, tuple[frozenset[str], int]] = {
    "image": (frozenset({"image/jpeg", "image/png"}), 5 * _MB),
    "audio": (frozenset({"audio/aac", "audio/amr", "audio/mpeg", "audio/mp4", "audio/ogg"}), 16 * _MB),
    "video": (frozenset({"video/mp4", "video/3gpp", "video/3gp"}), 16 * _MB),
    "sticker": (frozenset({"image/webp"}), 500_000),
    "document": (frozenset(), 100 * _MB),
}
_UPLOADS = frozenset().union(*(types for types, _ in KINDS.values())) | {
    "text/plain", "application/pdf", "application/msword", "application/vnd.ms-excel", "application/vnd.ms-powerpoint",
    *(_OFFICE + each for each in ("wordprocessingml.document", "spreadsheetml.sheet", "presentationml.presentation")),
}  # fmt: skip  # a list of words, several on a line


class MediaApi:
    """The media API of one account. Handlers raise GraphRefused; they block on the disk for the length of one file."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.store = Store(clock)
        self._links: dict[str, tuple[str, int]] = {}  # hash -> media id and when the link expires, Unix seconds

    async def upload(self, request: web.BaseRequest) -> web.Response:
        is_form = request.content_type == "multipart/form-data"
        fields = await request_reading.form(request, graph_api.unreadable()) if is_form else {}
        file = fields.get("file")
        if fields.get("messaging_product") != "whatsapp":
            raise graph_api.GraphRefused(100, message="(#100) The parameter messaging_product is required.")
        if not isinstance(file, web.FileField):
            raise graph_api.GraphRefused(100, message="(#100) The parameter file is required.")
        mime_type = file.content_type.partition(";")[0].strip().lower()
        if mime_type not in _UPLOADS:
            raise graph_api.invalid(
                f"Param file must be a file with one of the following types: {', '.join(sorted(_UPLOADS))}. "
                f"Received file of type '{mime_type}'."
            )
        content = file.file.read()
        kind = next((kind for kind, (types, _) in KINDS.items() if mime_type in types), "document")
        if not content or len(content) > KINDS[kind][1]:
            raise graph_api.GraphRefused(
                131053, f"the file has {len(content)} bytes; {kind} files have 1 to {KINDS[kind][1]}", status=400
            )
        seen = sniffed(content)
        if kind in {"image", "sticker"} and seen != mime_type:
            raise graph_api.GraphRefused(131053, f"the file is no {mime_type}", status=400)
        media = self.keep(content, mime_type, file.filename, UPLOAD_DAYS)
        return json_response({"id": media.media_id})

    def keep(self, content: bytes, mime_type: str, filename: str, days: float) -> StoredMedia:
        media_id = str(10**15 + secrets.randbelow(9 * 10**15))
        return self.store.put(media_id, content, mime_type=mime_type, filename=filename, days=days)

    def describe(self, media_id: str, base: str) -> web.Response:
        media = self._found(media_id, "GET")
        expires = self._clock.seconds() + LINK_SECONDS
        name = secrets.token_urlsafe(24)
        self._links[name] = (media_id, expires)
        while len(self._links) > 10_000:
            del self._links[next(iter(self._links))]
        url = f"{base}{DOWNLOADS}?{urlencode({'mid': media_id, 'ext': expires, 'hash': name})}"
        return json_response({"messaging_product": "whatsapp", "url": url, **described(media), "id": media_id})

    def delete(self, media_id: str) -> web.Response:
        self._found(media_id, "DELETE")
        self.store.delete(media_id)
        return json_response({"success": True})

    def download(self, request: web.BaseRequest) -> web.Response:
        media_id, expires = self._links.get(request.query.get("hash", ""), ("", 0))
        media = self.store.get(media_id)
        if media is None or expires < self._clock.seconds():
            return web.Response(status=404, text="URL signature expired")
        return web.Response(body=self.store.read(media), content_type=media.mime_type)

    def mismatch(self, kind: str, media_id: str) -> str:
        """Why the media cannot be sent as this kind, empty when it can."""
        media = self.store.get(media_id)
        if media is None:
            return f"Media with id {media_id} does not exist or has expired"
        types, _ = KINDS[kind]
        return f"{media.mime_type} is no {kind}" if types and media.mime_type not in types else ""

    async def link_failure(self, kind: str, link: str) -> str:
        """Why Meta cannot accept the file behind a link, empty when it can."""
        types, most = KINDS[kind]
        linked = await links.fetched(link, most)
        if linked.failure:
            return f"Request for url failed with error: {linked.failure}"
        if linked.size > most:
            return f"Media file size too big. Max file size: {most} bytes"
        if types and linked.mime_type and linked.mime_type not in types:
            return f"Unsupported {kind} mime type {linked.mime_type}"
        return ""

    def _found(self, media_id: str, method: str) -> StoredMedia:
        media = self.store.get(media_id)
        if media is None:
            raise graph_api.unsupported(method, media_id)
        return media


def described(media: StoredMedia) -> dict[str, Any]:
    return {"mime_type": media.mime_type, "sha256": media.sha256, "file_size": str(media.size)}
