"""A simulated Telegram Bot API: takes sendMessage at /bot<token>/<method> in all four encodings, posts updates to a webhook.

What enters: calls as the real API takes them. What leaves: its answers and descriptions; replies and reactions of people when their
knobs ask for them, one update a POST, in order, with the secret header. Guaranteed: fates as faults.py draws them; a call is in the
log before it is answered; message_id grows per chat and is unique per chat only, as at Telegram. Left out so far: media, getUpdates,
rate limits.
"""

import asyncio
import re
import time
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from aiohttp import web

from loadgen.providers.faults import Dice, Fate, Faults
from loadgen.providers.log import Log
from loadgen.providers.server import bad_gateway, hang, json_response
from loadgen.providers.webhooks import Notice, Webhooks

TEXT_LIMIT = 4096
_PATH = re.compile(r"/bot([^/]+)/(\w+)")
_CHAT = re.compile(r"-?\d{1,19}|@\w{5,32}", re.ASCII)


class Refused(Exception):
    """An error answer of Telegram: HTTP status and description."""

    def __init__(self, status: int, description: str) -> None:
        super().__init__(description)
        self.status = status
        self.description = description


class Telegram:
    """The provider: one bot."""

    name = "telegram"

    def __init__(
        self, *, token: str, webhook_secret: str, webhook_url: str, faults: Faults, seed: int, log: Log
    ) -> None:
        self.faults = faults
        self.log = log
        self.webhooks = Webhooks(url=webhook_url, pack=self._pack, log=log, batch=1, ordered=True)
        self._token = token
        self._account = token.partition(":")[0]
        self._secret = webhook_secret
        self._dice = Dice(seed)
        self._updates = 0
        self._newest: dict[int, int] = {}  # chat -> newest message_id; one small entry a chat
        self._first = log.lines  # ids of an earlier run on the same log stay below

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        method = request.path.rpartition("/")[2].lower()
        try:
            self._authorise(request.path)
            fields = await _fields(request)
            return await self._send(request, fields) if method == "sendmessage" else _ok(self._manage(method, fields))
        except Refused as refused:
            if method == "sendmessage":
                self._note(self.log.take(), "", None, fate=Fate.REJECTED, status=refused.status, text="")
            return _error(refused)

    def _authorise(self, path: str) -> None:
        match = _PATH.fullmatch(path)
        if match is None:
            raise Refused(404, "Not Found")
        if match[1] != self._token:
            raise Refused(401, "Unauthorized")

    async def _send(self, request: web.BaseRequest, fields: Mapping[str, Any]) -> web.StreamResponse:
        chat, text = _chat(fields), _text(fields)
        recipient = str(fields["chat_id"])
        fate, n = self._dice.fate(self.faults), self.log.take()
        message_id = self._next_id(chat) if fate.taken else None
        status = {Fate.HUNG: 0, Fate.THROTTLED: 429, Fate.REJECTED: 403, Fate.ACCEPTED: 200}.get(fate, 502)
        provider_id = f"{chat}:{message_id}" if message_id is not None else None
        self._note(n, recipient, provider_id, fate=fate, status=status, text=text)
        message = self._message(chat, message_id or 0, text)
        if message_id is not None:
            self._respond(message)
        if self.faults.latency_ms:
            await asyncio.sleep(self.faults.latency_ms / 1000)
        match fate:
            case Fate.ACCEPTED:
                return _ok(message)
            case Fate.HUNG:
                return await hang(request, self.faults.hang_seconds)
            case Fate.THROTTLED:
                return _too_fast(int(self.faults.retry_after_seconds))
            case Fate.REJECTED:
                return _error(Refused(403, "Forbidden: bot was blocked by the user"))
        return bad_gateway()

    def _respond(self, ours: Mapping[str, Any]) -> None:
        """What the person does about our message, when the knobs ask for it."""
        delay = self.faults.latency_ms + self.faults.receipt_delay_ms
        chat = ours["chat"]["id"]
        if self._dice.happens(self.faults.reply_rate):
            reply = self._written(chat, "OK") | {"reply_to_message": ours}
            self._update("message", reply, f"{chat}:{reply['message_id']}", delay)
        if self._dice.happens(self.faults.reaction_rate):
            self._update("message_reaction", _reaction(chat, ours["message_id"]), f"{chat}:{ours['message_id']}", delay)

    def write_to_us(self, wanted: Mapping[str, Any]) -> str:
        """`chat_id` and `text`; with `reply_to` (a message_id of ours) and `kind` message, message_reaction or callback_query."""
        chat, text, ours = wanted.get("chat_id"), wanted.get("text", ""), wanted.get("reply_to")
        kind = wanted.get("kind", "message")
        if not isinstance(chat, int) or not isinstance(text, str) or not isinstance(ours, int | None):
            raise ValueError('an inbound message needs "chat_id" (a number), "text" and perhaps "reply_to" (a number)')  # noqa: TRY004  # answered with 400, as every ValueError
        if kind == "message":
            content = self._written(chat, text)
            if ours is not None:
                content["reply_to_message"] = self._message(chat, ours, "")
        elif kind == "message_reaction" and ours is not None:
            content = _reaction(chat, ours)
        elif kind == "callback_query" and ours is not None:
            content = {
                "id": str(self._updates),
                "from": _person(chat),
                "data": text,
                "message": self._message(chat, ours, ""),
            }
        else:
            raise ValueError('kind is message, or message_reaction or callback_query with "reply_to"')
        name = f"{chat}:{content.get('message_id', ours)}"
        self._update(kind, content, name, 0.0)
        return name

    def _manage(self, method: str, fields: Mapping[str, Any]) -> object:
        """Methods that send nothing."""
        match method:
            case "getme":
                return {**self._bot(), "can_join_groups": True, "supports_inline_queries": False}
            case "setwebhook":
                self.webhooks.url = str(fields.get("url", ""))
                self._secret = str(fields.get("secret_token", ""))
                return True
            case "deletewebhook":
                self.webhooks.url = ""
                return True
            case "getwebhookinfo":
                return {"url": self.webhooks.url, "pending_update_count": self.webhooks.pending}
        raise Refused(404, "Not Found: method not found")

    def _update(self, kind: str, content: Mapping[str, Any], name: str, delay_ms: float) -> None:
        self._updates += 1
        update = {"update_id": 10_000_000 + self._first + self._updates, kind: content}
        self.webhooks.schedule(Notice(kind, name, update), delay_ms)

    def _pack(self, notices: Sequence[Notice]) -> tuple[bytes, Mapping[str, str]]:
        headers = {"Content-Type": "application/json"}
        if self._secret:
            headers["X-Telegram-Bot-Api-Secret-Token"] = self._secret
        return orjson.dumps(notices[0].payload), headers

    def _next_id(self, chat: int) -> int:
        self._newest[chat] = self._newest.get(chat, self._first) + 1
        return self._newest[chat]

    def _bot(self) -> dict[str, Any]:
        return {"id": int(self._account), "is_bot": True, "first_name": "Demo", "username": "demo_bot"}

    def _message(self, chat: int, message_id: int, text: str) -> dict[str, Any]:
        date = int(time.time())
        return {"message_id": message_id, "from": self._bot(), "chat": _chat_object(chat), "date": date, "text": text}

    def _written(self, chat: int, text: str) -> dict[str, Any]:
        return self._message(chat, self._next_id(chat), text) | {"from": _person(chat)}

    def _note(self, n: int, recipient: str, message_id: str | None, *, fate: Fate, status: int, text: str) -> None:
        self.log.call(
            n,
            account=self._account,
            recipient=recipient,
            provider_message_id=message_id,
            fate=fate,
            status=status,
            text=text,
        )


async def _fields(request: web.BaseRequest) -> dict[str, Any]:
    """Arguments of a call, from the query and a JSON, form or multipart body; the body wins."""
    fields: dict[str, Any] = dict(request.query)
    if request.content_type == "application/json":
        try:
            body = orjson.loads(await request.read() or b"{}")
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise Refused(400, "Bad Request: can't parse JSON object")
        return fields | body
    return fields | dict(await request.post())


def _chat(fields: Mapping[str, Any]) -> int:
    chat = str(fields.get("chat_id", "")).strip()
    if not chat:
        raise Refused(400, "Bad Request: chat_id is empty")
    if not _CHAT.fullmatch(chat) or chat == "0":
        raise Refused(400, "Bad Request: chat not found")
    return -1_000_000_000_000 - zlib.crc32(chat.encode()) if chat.startswith("@") else int(chat)


def _text(fields: Mapping[str, Any]) -> str:
    text = fields.get("text", "")
    if not isinstance(text, str) or not text.strip():
        raise Refused(400, "Bad Request: message text is empty")
    if len(text.encode("utf-16-le", "surrogatepass")) // 2 > TEXT_LIMIT:
        raise Refused(400, "Bad Request: message is too long")
    return text


def _chat_object(chat: int) -> dict[str, Any]:
    return (
        {"id": chat, "type": "private", "first_name": "Zoë"}
        if chat > 0
        else {"id": chat, "type": "group", "title": "G"}
    )


def _person(chat: int) -> dict[str, Any]:
    return {"id": abs(chat), "is_bot": False, "first_name": "Zoë", "language_code": "pt-br"}


def _reaction(chat: int, message_id: int) -> dict[str, Any]:
    return {
        "chat": _chat_object(chat),
        "message_id": message_id,
        "user": _person(chat),
        "date": int(time.time()),
        "old_reaction": [],
        "new_reaction": [{"type": "emoji", "emoji": "👍"}],
    }


def _ok(result: object) -> web.Response:
    return json_response({"ok": True, "result": result})


def _error(refused: Refused) -> web.Response:
    return json_response(
        {"ok": False, "error_code": refused.status, "description": refused.description}, refused.status
    )


def _too_fast(seconds: int) -> web.Response:
    error = {"ok": False, "error_code": 429, "description": f"Too Many Requests: retry after {seconds}"}
    return json_response(error | {"parameters": {"retry_after": seconds}}, 429, {"Retry-After": str(seconds)})
