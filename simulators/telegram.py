"""A simulated Telegram Bot API of one bot: every kind of message, files, limits, updates by webhook or getUpdates.

What enters: calls as the real API accepts them, in all four encodings. What leaves: its answers and descriptions, and updates: what people
write and do when the control API or the knobs ask for it. Guaranteed: misbehaviour.py draws the outcome of each call; a call is in the log
before it is answered; message_id grows per chat and is unique per chat only. docs/providers.md says what is left out.
"""

import math
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from simulators import telegram_fields
from simulators.misbehaviour import CallOutcome, CallRandom, Misbehaviour
from simulators.provider import Provider, ReceivedCall, Sending, keys_of
from simulators.provider_limits import NONE, ProviderLimits, TokenBuckets
from simulators.provider_log import Log
from simulators.telegram_content import ACTIONS, METHODS, REACTIONS, TelegramContent
from simulators.telegram_fields import Fields, TelegramRefused, bad, ok, too_fast
from simulators.telegram_files import Files
from simulators.telegram_people import STATES, Chats, chat_object
from simulators.telegram_updates import Updates
from simulators.telegram_webhook import WebhookMethods

_PATH = re.compile(r"/bot([^/]+)(?:/test)?/(\w+)")
_FILE_PATH = re.compile(r"/file/bot([^/]+)/(.+)")
_TOKEN = re.compile(r"\d+:[\w-]+", re.ASCII)
_REMEMBERED = 5_000  # whole messages, of all chats; the newest message_id is kept for every chat


class TelegramSimulator(Provider):
    """The provider: one bot. `is_local` means a self-hosted Bot API server, whose webhooks may be plain HTTP on any port."""

    name = "telegram"

    def __init__(
        self,
        *,
        token: str,
        webhook_secret: str,
        webhook_url: str,
        misbehaviour: Misbehaviour,
        seed: int,
        log: Log,
        limits: ProviderLimits = NONE,
        is_local: bool = False,
    ) -> None:
        super().__init__(misbehaviour=misbehaviour, limits=limits, seed=seed, log=log)
        self.webhooks: Updates = Updates(
            url=webhook_url, secret=webhook_secret, first=self.first, log=log, clock=self.clock
        )
        self._token = token
        self._account = token.partition(":")[0]
        self._webhook_methods = WebhookMethods(self.webhooks, self.clock, is_local=is_local)
        self._files = Files(self.clock, self._account)
        self._chats = Chats(self)
        self._buckets = TokenBuckets()
        self._newest: dict[int, int] = {}  # chat -> newest message_id; one small entry a chat
        self._messages: OrderedDict[tuple[int, int], Mapping[str, Any]] = OrderedDict()
        self._albums = self.first
        self._refusal: TelegramRefused | None = None

    # --- the API -----------------------------------------------------------------------------------------------------

    def opened(self, request: web.BaseRequest) -> ReceivedCall:
        return ReceivedCall(self._account, request.path.rpartition("/")[2][:60])

    async def route(self, request: web.BaseRequest, call: ReceivedCall) -> web.StreamResponse:
        file = _FILE_PATH.fullmatch(request.path)
        if file is not None:
            return self._download(file[1], file[2])
        path = _PATH.fullmatch(request.path)
        if path is None:
            raise TelegramRefused(404, "Not Found")
        self._authorise(path[1])
        method = path[2].lower()
        if self._refusal is not None:
            raise self._refusal
        fields = await telegram_fields.read(request)
        reader = METHODS.get(method)
        if reader is not None:
            call.recipient = fields.text("chat_id")
            call.text = fields.text("text") or fields.text("caption")
            chat = self._chat(fields)
            return await self._send(request, call, chat, fields, await reader(fields, self._files))
        if method in {"sendchataction", "setmessagereaction"}:
            call.recipient = fields.text("chat_id")
            self._act(method, call, fields)
            return await self.conduct(request, call, Sending(lambda _: (), lambda *_: None, lambda: ok(True)))
        return ok(await self._manage(method, fields))

    def _authorise(self, token: str) -> None:
        if token == self._token:
            return
        raise TelegramRefused(401, "Unauthorized") if _TOKEN.fullmatch(token) else TelegramRefused(404, "Not Found")

    def _chat(self, fields: Fields) -> int:
        chat = fields.chat()
        self._chats.refuse(chat)
        return chat

    async def _send(
        self, request: web.BaseRequest, call: ReceivedCall, chat: int, fields: Fields, content: TelegramContent
    ) -> web.StreamResponse:
        call.kind, call.text = content.kind, content.text
        extra = self._reply(chat, fields)
        self._pace(chat, len(content.parts))
        messages: list[dict[str, Any]] = []

        def ids(_: int) -> tuple[str, ...]:
            shared: dict[str, Any] = dict(extra)
            if content.kind == "album":
                self._albums += 1
                shared["media_group_id"] = str(13_000_000_000_000_000 + self._albums)
            messages.extend({**self.message(chat, self.next_id(chat)), **shared, **part} for part in content.parts)
            for message in messages:
                self._remember(chat, message)
            return tuple(f"{chat}:{message['message_id']}" for message in messages)

        def schedule_receipts(rng: CallRandom, misbehaviour: Misbehaviour, latency: float) -> None:
            self._respond(messages[0], rng, misbehaviour, latency)

        def answer() -> web.StreamResponse:
            return ok(messages if content.kind == "album" else messages[0])

        return await self.conduct(request, call, Sending(ids, schedule_receipts, answer))

    def _reply(self, chat: int, fields: Fields) -> dict[str, Any]:
        """The part of a message that shows the message it replies to."""
        asked = fields.nested("reply_parameters")
        if asked is None and not fields.has("reply_to_message_id"):
            return {}
        if asked is not None and not isinstance(asked, dict):
            raise bad("can't parse reply parameters JSON object")
        given = Fields(asked or {"message_id": fields.text("reply_to_message_id")}, {})
        message_id = given.whole("message_id")
        if not 0 < message_id <= self._newest.get(chat, self.first):
            if given.flag("allow_sending_without_reply") or fields.flag("allow_sending_without_reply"):
                return {}
            raise bad("message to be replied not found")
        known = self._messages.get((chat, message_id)) or self.message(chat, message_id) | {"text": ""}
        return {"reply_to_message": {name: value for name, value in known.items() if name != "reply_to_message"}}

    def _pace(self, chat: int, items: int) -> None:
        """Raises 429 when one of Telegram's flood limits is reached. Each item of an album counts."""
        now, limits = self.clock.now(), self.limits
        for _ in range(items):
            waits = [self._buckets.wait("", now, burst=limits.bot_per_second, every_ms=_every(limits.bot_per_second))]
            if chat < 0:
                every = _every(limits.group_per_minute / 60)
                waits.append(self._buckets.wait(str(chat), now, burst=limits.group_per_minute, every_ms=every))
            else:
                every = _every(limits.chat_per_second)
                waits.append(self._buckets.wait(str(chat), now, burst=limits.chat_burst, every_ms=every))
            if max(waits) > 0:
                raise too_fast(math.ceil(max(waits) / 1000))

    def _act(self, method: str, call: ReceivedCall, fields: Fields) -> None:
        """Validates sendChatAction and setMessageReaction. Only their log line is kept."""
        chat = self._chat(fields)
        if method == "sendchataction":
            call.kind = "typing"
            if fields.text("action") not in ACTIONS:
                raise bad("wrong parameter action in request")
            return
        call.kind = "reaction"
        if not 0 < fields.whole("message_id") <= self._newest.get(chat, self.first):
            raise bad("message to react not found")
        reactions = fields.nested("reaction") or []
        if not isinstance(reactions, list) or len(reactions) > 1:
            raise bad("REACTIONS_TOO_MANY" if isinstance(reactions, list) else "expected an Array of ReactionType")
        for reaction in reactions:
            emoji = reaction.get("emoji") if isinstance(reaction, dict) else None
            if not isinstance(emoji, str) or emoji.replace("\ufe0f", "") not in REACTIONS:
                raise bad("REACTION_INVALID")

    async def _manage(self, method: str, fields: Fields) -> object:
        """The methods that send nothing."""
        match method:
            case "getme":
                return self._bot() | {
                    "can_join_groups": True,
                    "can_read_all_group_messages": False,
                    "supports_inline_queries": False,
                }
            case "getfile":
                file = self._files.get(fields.text("file_id"))
                size = {"file_size": file.size, "file_path": file.path}
                return {"file_id": file.file_id, "file_unique_id": file.unique_id} | size
            case "getchat":
                return chat_object(self._chat(fields)) | {
                    "accent_color_id": 0,
                    "max_reaction_count": 11,
                    "accepted_gift_types": _GIFTS,
                }
            case "answercallbackquery":
                return True
        return await self._webhook_methods.manage(method, fields)

    def _download(self, token: str, path: str) -> web.Response:
        self._authorise(token)
        content = self._files.content(path)
        if content is None:
            raise TelegramRefused(404, "Not Found")
        return web.Response(body=content, content_type="application/octet-stream")

    # --- messages ----------------------------------------------------------------------------------------------------

    def next_id(self, chat: int) -> int:
        self._newest[chat] = self._newest.get(chat, self.first) + 1
        return self._newest[chat]

    def message(self, chat: int, message_id: int) -> dict[str, Any]:
        """A message of our bot, without its content."""
        return {
            "message_id": message_id,
            "from": self._bot(),
            "chat": chat_object(chat),
            "date": self.clock.seconds(),
        }

    def _remember(self, chat: int, message: Mapping[str, Any]) -> None:
        self._messages[chat, message["message_id"]] = message
        if len(self._messages) > _REMEMBERED:
            self._messages.popitem(last=False)

    def _respond(self, ours: Mapping[str, Any], rng: CallRandom, misbehaviour: Misbehaviour, latency: float) -> None:
        """Makes the person reply or react to our message, when the knobs ask for it."""
        delay = latency + misbehaviour.receipt_delay_ms
        if rng.happens(misbehaviour.reply_rate):
            self._chats.reply(ours, delay)
        if rng.happens(misbehaviour.reaction_rate):
            self._chats.react(ours, delay)

    def _bot(self) -> dict[str, Any]:
        return {"id": int(self._account), "is_bot": True, "first_name": "Demo", "username": "demo_bot"}

    # --- the rest ----------------------------------------------------------------------------------------------------

    def refusal(self, outcome: CallOutcome, misbehaviour: Misbehaviour) -> TelegramRefused:
        if outcome is CallOutcome.THROTTLED:
            return too_fast(int(misbehaviour.retry_after_seconds))
        if outcome is CallOutcome.FAULT:
            return TelegramRefused(500, "Internal Server Error: restart")
        return TelegramRefused(*STATES["no_rights"])

    def controls(self) -> Mapping[str, Callable[[Mapping[str, Any]], Any]]:
        return {"inbound": self._chats.write, "people": self._chats.set_state, "account": self._set_account}

    def close(self) -> None:
        super().close()
        self._files.store.close()

    def _set_account(self, wanted: Mapping[str, Any]) -> object:
        """{"status", "description"}: every call of the bot gets this error; {} ends it."""
        keys_of(("status", "description"), wanted)
        status = wanted.get("status")
        if status is not None and status not in {400, 401, 403, 404, 409, 421, 500}:
            raise ValueError("status is one of 400, 401, 403, 404, 409, 421, 500")
        self._refusal = (
            None if status is None else TelegramRefused(status, str(wanted.get("description", "Unauthorized")))
        )
        return {"refuses": status}


_GIFTS = dict.fromkeys(
    ("unlimited_gifts", "limited_gifts", "unique_gifts", "premium_subscription", "gifts_from_channels"), False
)


def _every(per_second: float) -> float:
    return 1000.0 / per_second if per_second else 0.0
