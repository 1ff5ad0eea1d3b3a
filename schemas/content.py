"""The content of a message, as frozen dataclasses: parts of the records in schemas/records.py, with the same rules.

In: fields of records. Out: classes. Pure data; the `doc` of each field is in the schema of the record.
"""

from dataclasses import dataclass
from enum import StrEnum


class LongText(StrEnum):
    REFUSE = "REFUSE"
    SPLIT = "SPLIT"


@dataclass(frozen=True, slots=True)
class Media:
    kind: str
    url: str | None = None
    provider_media_id: str | None = None
    mime_type: str = ""
    filename: str | None = None
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Template:
    name: str
    language: str
    header: tuple[str, ...] = ()
    body: tuple[str, ...] = ()
    buttons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Location:
    latitude: float
    longitude: float
    name: str = ""
    address: str = ""


@dataclass(frozen=True, slots=True)
class Content:
    media: tuple[Media, ...] = ()
    template: Template | None = None
    location: Location | None = None
    reply_to: str | None = None
    reaction: str | None = None
    long_text: LongText = LongText.REFUSE
