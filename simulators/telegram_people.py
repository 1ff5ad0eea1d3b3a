"""People and chats of a simulated Telegram: what they write and do, and which of them cannot be reached.

What enters: POST /_control/inbound {"chat_id", "text", "kind", "reply_to", "content"} and /_control/people {"chat_id", "state"}. What
leaves: updates in the bot's outbox, one queue for each chat; refusals in the server's wording. Guaranteed: messages of people and of our
bot share the chat's counter of message ids.
https://core.telegram.org/bots/api#update
"""

from collections.abc import Mapping
from typing import Any, Protocol

from simulators.clock import Clock
from simulators.provider import keys_of
from simulators.telegram_fields import TelegramRefused
from simulators.telegram_updates import Updates

_SUPERGROUP = -1_000_000_000_000
STATES: Mapping[str, tuple[int, str]] = {
    "blocked": (403, "Forbidden: bot was blocked by the user"),
    "deactivated": (403, "Forbidden: user is deactivated"),
    "kicked": (403, "Forbidden: bot was kicked from the group chat"),
    "not_a_member": (403, "Forbidden: bot is not a member of the channel chat"),
    "never_written": (403, "Forbidden: bot can't initiate conversation with a user"),
    "is_bot": (403, "Forbidden: bot can't send messages to bots"),
    "deleted": (403, "Forbidden: the group chat was deleted"),
    "not_found": (400, "Bad Request: chat not found"),
    "no_rights": (400, "Bad Request: not enough rights to send text messages to the chat"),
    "peer_invalid": (400, "Bad Request: PEER_ID_INVALID"),
    "migrated": (400, "Bad Request: group chat was upgraded to a supergroup chat"),
}


class Bot(Protocol):
    """The parts of the bot that chats use."""

    clock: Clock
    webhooks: Updates

    def next_id(self, chat: int) -> int:
        """The next message_id of a chat."""
        ...

    def message(self, chat: int, message_id: int) -> dict[str, Any]:
        """A message of our bot, without its content."""
        ...


class Chats:
    """All chats of one bot."""

    def __init__(self, bot: Bot) -> None:
        self._bot = bot
        self._states: dict[int, tuple[str, int | None]] = {}
        self._queries = 0

    def refuse(self, chat: int) -> None:
        """Raises Telegram's error when the chat cannot be reached."""
        state, new = self._states.get(chat, ("", None))
        if not state:
            return
        status, description = STATES[state]
        if state == "migrated":
            raise TelegramRefused(status, description, migrate_to_chat_id=new or _SUPERGROUP + chat)
        if state == "kicked" and chat <= _SUPERGROUP:
            description = description.replace("group", "supergroup")
        raise TelegramRefused(status, description)

    def set_state(self, wanted: Mapping[str, Any]) -> object:
        """{"chat_id", "state", "migrate_to"}; without a state the chat can be reached again."""
        keys_of(("chat_id", "state", "migrate_to"), wanted)
        chat, state, new = wanted.get("chat_id"), wanted.get("state"), wanted.get("migrate_to")
        if not isinstance(chat, int) or not isinstance(new, int | None) or (state is not None and state not in STATES):
            raise ValueError(f'send "chat_id" (a number) and "state", one of {", ".join(STATES)}')
        before = self._states.get(chat, ("", None))[0]
        if state is None:
            self._states.pop(chat, None)
        else:
            self._states[chat] = (state, new)
        if (state in {"blocked", None} and chat > 0) or "kicked" in (state, before):
            self._member(chat, "kicked" if state else "member")
        return {"chat_id": chat, "state": state}

    def reply(self, ours: Mapping[str, Any], delay_ms: float) -> None:
        """The person replies to our message after the delay."""
        chat = ours["chat"]["id"]
        written = self._written(chat) | {"text": "OK", "reply_to_message": ours}
        self._update("message", written, f"{chat}:{written['message_id']}", chat, delay_ms)

    def react(self, ours: Mapping[str, Any], delay_ms: float) -> None:
        chat = ours["chat"]["id"]
        self._update(
            "message_reaction",
            self._reaction(chat, ours["message_id"], {}),
            f"{chat}:{ours['message_id']}",
            chat,
            delay_ms,
        )

    def write(self, wanted: Mapping[str, Any]) -> object:
        """Schedules what a person does in a chat; returns the message's id. Raises ValueError with a sentence."""
        keys_of(("chat_id", "text", "kind", "reply_to", "content"), wanted)
        chat, text, ours = wanted.get("chat_id"), wanted.get("text", ""), wanted.get("reply_to")
        extra, kind = wanted.get("content", {}), wanted.get("kind", "message")
        if not isinstance(chat, int) or not isinstance(text, str) or not isinstance(ours, int | None):
            # ValueError, not TypeError: the control API answers every ValueError with 400.
            raise ValueError('an inbound message needs "chat_id" (a number) and "text"; "reply_to" is a number')  # noqa: TRY004  # as above
        if not isinstance(extra, dict):
            raise ValueError('"content" must be an object')  # noqa: TRY004  # as above
        content = self._content(kind, chat, text, ours, extra)
        name = f"{chat}:{content.get('message_id', ours)}"
        self._update(kind, content, name, chat, 0.0)
        return {"id": name}

    def _content(self, kind: object, chat: int, text: str, ours: int | None, extra: dict[str, Any]) -> dict[str, Any]:
        match kind:
            case "message" | "edited_message" | "channel_post":
                words = {"text": text} if text or not extra else {}
                content = self._written(chat) | words | extra
                if kind == "edited_message":
                    content["edit_date"] = self._bot.clock.seconds()
                if ours is not None:
                    content["reply_to_message"] = self._bot.message(chat, ours) | {"text": ""}
                return content
            case "my_chat_member":
                return self._membership(chat, text or "kicked")
            case "message_reaction" if ours is not None:
                return self._reaction(chat, ours, extra)
            case "callback_query" if ours is not None:
                self._queries += 1
                message = self._bot.message(chat, ours) | {"text": ""}
                query = {"id": str(4_382_000_000_000 + self._queries), "from": person(chat), "chat_instance": str(chat)}
                return query | {"data": text, "message": message}
        raise ValueError(
            'kind must be message, edited_message, channel_post or my_chat_member, or with "reply_to" message_reaction or callback_query'
        )

    def _member(self, chat: int, status: str) -> None:
        self._update("my_chat_member", self._membership(chat, status), f"{chat}:{status}", chat, 0.0)

    def _membership(self, chat: int, status: str) -> dict[str, Any]:
        bot = self._bot.message(chat, 0)["from"]
        kicked = {"until_date": 0}
        old, new = ("kicked", "member") if status == "member" else ("member", status)
        return {
            "chat": chat_object(chat),
            "from": person(chat),
            "date": self._bot.clock.seconds(),
            "old_chat_member": {"user": bot, "status": old} | (kicked if old == "kicked" else {}),
            "new_chat_member": {"user": bot, "status": new} | (kicked if new == "kicked" else {}),
        }

    def _reaction(self, chat: int, message_id: int, extra: dict[str, Any]) -> dict[str, Any]:
        return {
            "chat": chat_object(chat),
            "message_id": message_id,
            "user": person(chat),
            "date": self._bot.clock.seconds(),
            "old_reaction": [],
            "new_reaction": [{"type": "emoji", "emoji": "👍"}],
        } | extra

    def _written(self, chat: int) -> dict[str, Any]:
        return self._bot.message(chat, self._bot.next_id(chat)) | {"from": person(chat)}

    def _update(self, kind: str, content: Mapping[str, Any], name: str, chat: int, delay_ms: float) -> None:
        self._bot.webhooks.schedule(kind, content, queue=str(chat), name=name, delay_ms=delay_ms)


def chat_object(chat: int) -> dict[str, Any]:
    if chat > 0:
        return {"id": chat, "type": "private", "first_name": "Zoë"}
    return {"id": chat, "type": "supergroup" if chat <= _SUPERGROUP else "group", "title": "G"}


def person(chat: int) -> dict[str, Any]:
    return {"id": abs(chat), "is_bot": False, "first_name": "Zoë", "language_code": "pt-br"}
