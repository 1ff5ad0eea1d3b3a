"""Arguments of a Bot API call in all four encodings, and Telegram's answers.

What enters: a request: query, urlencoded, JSON or multipart. What leaves: fields as texts, nested values as JSON, files by name; or
TelegramRefused in the server's wording. Guaranteed: the body overrides the query; numbers and booleans of JSON are read as their texts, as
in the server.
https://core.telegram.org/bots/api#making-requests · wording: https://github.com/tdlib/telegram-bot-api
"""

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web

from simulators import request_reading
from simulators.provider import UPLOAD_LIMIT, ProviderRefused, json_response

_CHAT = re.compile(r"-?\d{1,19}|@\w{5,32}", re.ASCII)
_WHOLE = re.compile(r"-?\d{1,19}", re.ASCII)


class TelegramRefused(ProviderRefused):
    """An error answer of Telegram: HTTP status, description, parameters."""

    def __init__(self, status: int, description: str, **parameters: int) -> None:
        super().__init__(description)
        self.status = status
        self.description = description
        self.parameters = parameters
        self.throttles = status == 429

    def response(self) -> web.Response:
        error = {"ok": False, "error_code": self.status, "description": self.description}
        headers = None
        if self.parameters:
            error["parameters"] = self.parameters
        if "retry_after" in self.parameters:
            headers = {"Retry-After": str(self.parameters["retry_after"])}
        return json_response(error, self.status, headers)


def bad(description: str, **parameters: int) -> TelegramRefused:
    return TelegramRefused(400, f"Bad Request: {description}", **parameters)


def too_fast(seconds: int) -> TelegramRefused:
    return TelegramRefused(429, f"Too Many Requests: retry after {seconds}", retry_after=seconds)


@dataclass(frozen=True, slots=True)
class Upload:
    """A file of a multipart body."""

    filename: str
    mime_type: str
    content: bytes


class Fields:
    """The arguments of one call. Accessors raise TelegramRefused for a value of the wrong form."""

    def __init__(self, values: Mapping[str, Any], files: Mapping[str, Upload]) -> None:
        self._values = values
        self.files = files

    def text(self, name: str, default: str = "") -> str:
        value = self._values.get(name)
        if value is None:
            return default
        if isinstance(value, bool):
            return "true" if value else "false"
        return value if isinstance(value, str) else orjson.dumps(value).decode()

    def has(self, name: str) -> bool:
        return self._values.get(name) not in (None, "") or name in self.files

    def whole(self, name: str, default: int = 0) -> int:
        text = self.text(name).strip()
        if not text:
            return default
        if not _WHOLE.fullmatch(text):
            raise bad(f"wrong parameter {name} in request" if name != "message_id" else "message_id must be an integer")
        return int(text)

    def number(self, name: str) -> float | None:
        try:
            return float(self.text(name))
        except ValueError:
            return None

    def flag(self, name: str) -> bool:
        return self.text(name).lower() in {"true", "yes", "1"}

    def nested(self, name: str) -> Any:
        """An object or array, given directly or as JSON text; None when it is missing."""
        value = self._values.get(name)
        if value is None or value == "":
            return None
        if not isinstance(value, str):
            return value
        try:
            return orjson.loads(value)
        except ValueError:
            raise bad(f"can't parse {name.replace('_', ' ')} JSON object") from None

    def chat(self) -> int:
        """chat_id as a number. The @name of a public channel becomes a made-up number, always the same."""
        chat = self.text("chat_id").strip()
        if not chat:
            raise bad("chat_id is empty")
        if not _CHAT.fullmatch(chat) or chat == "0":
            raise bad("chat not found")
        return -1_000_000_000_000 - zlib.crc32(chat.encode()) if chat.startswith("@") else int(chat)


async def read(request: web.BaseRequest) -> Fields:
    """Reads the arguments of a request; raises TelegramRefused."""
    values: dict[str, Any] = dict(request.query)
    if request.content_type == "application/json":
        try:
            body = orjson.loads(await request_reading.raw(request, bad("can't parse JSON object")) or b"{}")
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise bad("can't parse JSON object")
        return Fields(values | body, {})
    files: dict[str, Upload] = {}
    # pyTelegramBotAPI sends a form with GET. The real server reads it like a POST; aiohttp alone would not.
    form = request if request.method == "POST" else request.clone(method="POST", client_max_size=UPLOAD_LIMIT)
    for name, value in (await request_reading.form(form, bad("can't parse the form"))).items():
        if isinstance(value, web.FileField):
            files[name] = Upload(value.filename, value.content_type, value.file.read())
        else:
            values[name] = value if isinstance(value, str) else bytes(value).decode(errors="replace")
    return Fields(values, files)


def units(text: str) -> int:
    """Length as Telegram counts: UTF-16 code units."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def ok(result: object) -> web.Response:
    return json_response({"ok": True, "result": result})
