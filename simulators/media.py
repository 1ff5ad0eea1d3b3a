"""Files that people and we send, on disk for as long as the provider keeps them.

What enters: bytes with a name and a type. What leaves: a StoredMedia that describes a file, and its bytes. Guaranteed: at most KEPT files
and KEPT_BYTES on disk, the oldest are deleted first; a file that expired by the provider's clock is gone; `close` deletes the folder.
"""

import hashlib
import tempfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from simulators.clock import Clock

KEPT = 10_000
KEPT_BYTES = 1_000_000_000


@dataclass(frozen=True, slots=True)
class StoredMedia:
    """One file. `expires_at` is Unix milliseconds by the provider's clock."""

    media_id: str
    mime_type: str
    size: int
    sha256: str
    filename: str
    expires_at: int
    kind: str = ""


class Store:
    """The files of one simulator. Creates its folder with the first file. Methods block on the disk."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._files: OrderedDict[str, StoredMedia] = OrderedDict()
        self._bytes = 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def put(
        self, media_id: str, content: bytes, *, mime_type: str, filename: str, days: float, kind: str = ""
    ) -> StoredMedia:
        expires_at = self._clock.now() + int(days * 86_400_000)
        digest = hashlib.sha256(content).hexdigest()
        media = StoredMedia(media_id, mime_type, len(content), digest, filename, expires_at, kind)
        self._path(media_id).write_bytes(content)
        self._files[media_id] = media
        self._bytes += media.size
        while len(self._files) > KEPT or self._bytes > KEPT_BYTES:
            self.delete(next(iter(self._files)))
        return media

    def get(self, media_id: str) -> StoredMedia | None:
        """The description of a file, None when it never existed, was deleted or expired."""
        media = self._files.get(media_id)
        if media is not None and media.expires_at <= self._clock.now():
            self.delete(media_id)
            return None
        return media

    def read(self, media: StoredMedia) -> bytes:
        return self._path(media.media_id).read_bytes()

    def delete(self, media_id: str) -> bool:
        """Deletes a file; returns whether it existed."""
        media = self._files.pop(media_id, None)
        if media is None:
            return False
        self._bytes -= media.size
        self._path(media_id).unlink(missing_ok=True)
        return True

    def close(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _path(self, media_id: str) -> Path:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="chat4all-media-")
        return Path(self._folder.name) / hashlib.sha256(media_id.encode()).hexdigest()


def sniffed(content: bytes) -> str:
    """The type that a file's first bytes show; empty when they show none that we know."""
    for start, mime_type in _STARTS:
        if content.startswith(start):
            return mime_type
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    return "video/mp4" if content[4:8] == b"ftyp" else ""


_STARTS = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n", "image/png"),
    (b"GIF8", "image/gif"),
    (b"%PDF", "application/pdf"),
    (b"OggS", "audio/ogg"),
    (b"ID3", "audio/mpeg"),
    (b"#!AMR", "audio/amr"),
)
