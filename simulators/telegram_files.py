"""Files of a simulated bot: uploads, files named by file_id or fetched by link, and their download.

What enters: an argument that names a file in one of the three ways, "attach://name" included. What leaves: the object that describes it in
a Message, or TelegramRefused. Guaranteed: a file_id works only for the bot that made it and for the kind it was made for; the API's size
limits hold.
https://core.telegram.org/bots/api#sending-files
"""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from simulators import links
from simulators.clock import Clock
from simulators.media import Store, sniffed
from simulators.telegram_fields import Fields, TelegramRefused, Upload, bad

UPLOAD_LIMIT = 50_000_000
PHOTO_LIMIT = 10_000_000
LINK_LIMIT = {"photo": 5_000_000}  # 20 MB for the other kinds
DOWNLOAD_LIMIT = 20_000_000
_KEPT = 20_000
_DAYS = 365.0
_FOLDERS = {
    "photo": "photos",
    "document": "documents",
    "video": "videos",
    "audio": "music",
    "voice": "voice",
    "animation": "animations",
    "sticker": "stickers",
}
# Types of file that a link may have, by kind. A document by link must have one of three formats.
_BY_LINK: dict[str, tuple[str, ...]] = {
    "photo": ("image/",),
    "video": ("video/mp4",),
    "audio": ("audio/",),
    "voice": ("audio/ogg", "audio/mpeg", "audio/mp4"),
    "animation": ("image/gif", "video/mp4"),
    "sticker": ("image/webp",),
    "document": ("application/pdf", "application/zip", "image/gif"),
}
_MARKS = {
    "photo": "AgAC",
    "document": "BQAC",
    "video": "BAAC",
    "audio": "CQAC",
    "voice": "AwAC",
    "animation": "CgAC",
    "sticker": "CAAC",
}


@dataclass(frozen=True, slots=True)
class File:
    """One file that the bot knows. Only uploaded files have bytes to download."""

    kind: str
    file_id: str
    unique_id: str
    size: int
    filename: str
    mime_type: str

    @property
    def path(self) -> str:
        return f"{_FOLDERS[self.kind]}/file_{self.unique_id}"


class Files:
    """The newest files of one bot."""

    def __init__(self, clock: Clock, bot: str) -> None:
        self.store = Store(clock)
        self._bot = bot
        self._known: OrderedDict[str, File] = OrderedDict()
        self._paths: dict[str, str] = {}

    async def take(self, kind: str, fields: Fields, given: str, name: str) -> File:
        """The file that an argument names: an upload under `name`, an attachment, a link or a file_id. Raises TelegramRefused."""
        upload = fields.files.get(given.removeprefix("attach://") if given.startswith("attach://") else name)
        if upload is not None:
            return self._uploaded(kind, upload)
        if not given:
            raise bad(f"there is no {kind} in the request")
        if given.startswith(("http://", "https://")):
            return await self._linked(kind, given)
        file = self._known.get(given)
        if file is None:
            raise bad(
                "wrong remote file identifier specified: Wrong string length"
                if len(given) < 20
                else "wrong file identifier/HTTP URL specified"
            )
        if file.kind != kind and not (file.kind == "document" and kind != "photo"):
            raise bad(f"can't use file of type {file.kind.capitalize()} as {kind.capitalize()}")
        return file

    def get(self, file_id: str) -> File:
        """The file of an id, for getFile; raises TelegramRefused."""
        file = self._known.get(file_id)
        if file is None:
            raise bad("invalid file_id" if file_id else "file_id not specified")
        if file.size > DOWNLOAD_LIMIT:
            raise bad("file is too big")
        if self.store.get(file.unique_id) is None:
            raise bad("wrong file_id or the file is temporarily unavailable")
        return file

    def content(self, path: str) -> bytes | None:
        """The bytes of a file_path, None when there are none."""
        media = self.store.get(self._paths.get(path, ""))
        return None if media is None else self.store.read(media)

    def _uploaded(self, kind: str, upload: Upload) -> File:
        size = len(upload.content)
        if size > UPLOAD_LIMIT:
            raise TelegramRefused(413, "Request Entity Too Large")
        if not size:
            raise bad("file must be non-empty")
        if kind == "photo":
            if size > PHOTO_LIMIT:
                raise bad("file is too big")
            if not sniffed(upload.content).startswith("image/"):
                raise bad("IMAGE_PROCESS_FAILED")
        digest = hashlib.sha256(upload.content).hexdigest()
        mime_type = sniffed(upload.content) or upload.mime_type
        file = self._known_as(kind, digest, size, upload.filename, mime_type)
        if self.store.get(file.unique_id) is None:
            self.store.put(file.unique_id, upload.content, mime_type=mime_type, filename=file.filename, days=_DAYS)
        return file

    async def _linked(self, kind: str, url: str) -> File:
        if not links.is_url(url):
            raise bad("wrong file identifier/HTTP URL specified")
        limit = LINK_LIMIT.get(kind, 20_000_000)
        linked = await links.fetched(url, limit) if links.is_here(url) else links.guessed(url)
        if linked.failure or linked.size > limit:
            raise bad("failed to get HTTP URL content")
        if linked.mime_type and not linked.mime_type.startswith(_BY_LINK[kind]):
            raise bad("wrong type of the web page content")
        digest = hashlib.sha256(url.encode()).hexdigest()
        return self._known_as(kind, digest, linked.size or 1000, url.rpartition("/")[2][:60], linked.mime_type)

    def _known_as(self, kind: str, digest: str, size: int, filename: str, mime_type: str) -> File:
        file_id = f"{_MARKS[kind]}AgADGQEAA{self._bot}{digest[:40]}"
        file = self._known.get(file_id)
        if file is None:
            file = File(kind, file_id, f"AQAD{digest[:12]}", size, filename, mime_type)
            self._known[file_id] = file
            self._paths[file.path] = file.unique_id
            if len(self._known) > _KEPT:
                _, oldest = self._known.popitem(last=False)
                self._paths.pop(oldest.path, None)
        return file


def described(file: File) -> Any:
    """The part of a Message that describes the file: an array of sizes for a photo."""
    base: dict[str, Any] = {"file_id": file.file_id, "file_unique_id": file.unique_id, "file_size": file.size}
    match file.kind:
        case "photo":
            return [base | {"width": 90, "height": 90}, base | {"width": 800, "height": 600}]
        case "document":
            return base | {"file_name": file.filename, "mime_type": file.mime_type or "application/octet-stream"}
        case "audio" | "voice":
            return base | {"duration": 1, "mime_type": file.mime_type or "audio/mpeg"}
        case "sticker":
            return base | {"width": 512, "height": 512, "type": "regular", "is_animated": False, "is_video": False}
    return base | {"width": 640, "height": 360, "duration": 1, "mime_type": file.mime_type or "video/mp4"}
