"""Threads of a simulated Instagram account: what people write and do, webhook items about our own messages, the newest of each thread.

What enters: notices, POST /_control/inbound {"from", "text", "kind", "content", "reply_to"}. What leaves: webhook bodies, pages of the
Conversations API. Guaranteed: times are milliseconds; an echo has our account as sender; a person's window opens when they write.
https://developers.facebook.com/docs/instagram-platform/webhooks/examples
"""

from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from simulators import graph_api
from simulators.clock import Clock
from simulators.provider import keys_of
from simulators.provider_limits import Windows
from simulators.webhook_sender import Notice, Webhooks

_AN_ENTRY = 10  # items
_THREADS = 2_000
_MESSAGES = 20  # of a thread, as many as the API returns
_OPENS = frozenset({"message", "attachment", "postback", "reaction"})


class Account(Protocol):
    """What threads need of their account."""

    account: str
    clock: Clock
    windows: Windows
    webhooks: Webhooks
    first: int

    def mid(self, name: str) -> str:
        """An id that no other message has."""
        ...


class Threads:
    """All threads of one account."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._written = 0
        self._threads: OrderedDict[str, deque[tuple[str, int, str, bool]]] = OrderedDict()

    def add(self, person: str, mid: str, at: int, text: str, *, is_ours: bool = True) -> None:
        """Remembers one message of a thread."""
        thread = self._threads.get(person)
        if thread is None:
            thread = self._threads[person] = deque(maxlen=_MESSAGES)
            if len(self._threads) > _THREADS:
                self._threads.popitem(last=False)
        thread.append((mid, at, text, is_ours))

    def page(self, person: object) -> dict[str, Any]:
        """The Conversations API's answer: the thread of one person, or the newest 25 threads."""
        people = [str(person)] if person is not None else list(self._threads)[-25:]
        data = [
            {"id": f"aWdfZAG06{each}", "messages": {"data": self._messages(each)}}
            for each in people
            if each in self._threads
        ]
        return {"data": data, "paging": {"cursors": {"before": "MAZDZD", "after": "MAZDZD"}}}

    def profile(self, person: str) -> dict[str, Any]:
        """The profile of a person who wrote to us; raises GraphRefused for others."""
        if not self._account.windows.knows(person):
            raise graph_api.unsupported("GET", person)
        return {
            "id": person,
            "name": "Zoë",
            "username": f"zoe{person[-6:]}",
            "follower_count": 1,
            "is_user_follow_business": True,
        }

    def write(self, wanted: Mapping[str, Any]) -> object:
        """Schedules what a person does; returns the mid it is about. Raises ValueError with a sentence."""
        keys_of(("from", "text", "kind", "content", "reply_to"), wanted)
        person, kind, content = wanted.get("from"), wanted.get("kind", "message"), wanted.get("content", {})
        if not isinstance(person, str) or not person.isdecimal() or not isinstance(content, dict):
            raise ValueError('an inbound message needs "from" (an id of digits) and "text", or "kind" and "content"')
        self._written += 1
        mid, now = self._account.mid(f"in{self._account.first + self._written}"), self._account.clock.now()
        ours = wanted.get("reply_to")
        item = _item(kind, mid, str(wanted.get("text", "")), ours if isinstance(ours, str) else None, content)
        if kind in _OPENS:
            self._account.windows.open(person, now)
        if kind == "message":
            self.add(person, mid, now, str(wanted.get("text", "")), is_ours=False)
        name = ours if isinstance(ours, str) and kind in {"reaction", "read"} else mid
        log_name = {"message": "inbound", "attachment": "inbound"}.get(str(kind), str(kind))
        self._account.webhooks.schedule(Notice(log_name, name, (now, person, item)), 0.0)
        return {"id": name}

    def _messages(self, person: str) -> list[dict[str, Any]]:
        us, them = {"id": self._account.account, "username": "demo"}, {"id": person, "username": f"zoe{person[-6:]}"}
        return [
            {
                "id": mid,
                "created_time": datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S+0000"),
                "from": us if is_ours else them,
                "to": {"data": [them if is_ours else us]},
                "message": text,
            }
            for mid, at, text, is_ours in reversed(self._threads[person])
        ]


def _item(kind: object, mid: str, text: str, ours: str | None, content: dict[str, Any]) -> dict[str, Any]:
    """A messaging item without sender, recipient and time."""
    file = {"type": "image", "payload": {"url": "https://lookaside.fbsbx.com/ig_messaging_cdn/?asset_id=1"}}
    reply = {"reply_to": {"mid": ours}} if ours else {}
    of_theirs: dict[object, dict[str, Any]] = {
        "message": {"message": {"mid": mid, "text": text, **reply, **content}},
        "attachment": {"message": {"mid": mid, "attachments": [file | content]}},
        "unsupported": {"message": {"mid": mid, "is_unsupported": True}},
        "postback": {"postback": {"mid": mid, "title": text, "payload": "PAYLOAD"} | content},
        "referral": {"referral": {"ref": text, "source": "IGME-SOURCE-LINK", "type": "OPEN_THREAD"} | content},
    }
    about_ours: dict[object, dict[str, Any]] = {
        "reaction": {"reaction": {"mid": ours, "action": "react", "reaction": "love", "emoji": "❤"} | content},
        "read": {"read": {"mid": ours}},
        "deleted": {"message": {"mid": ours, "is_deleted": True}},
        "edit": {"message_edit": {"mid": ours, "text": text, "num_edit": 1}},
    }
    found = of_theirs.get(kind) or (about_ours.get(kind) if ours else None)
    if found is None:
        raise ValueError(
            f"kind must be one of {', '.join(map(str, of_theirs))}, or with reply_to one of {', '.join(map(str, about_ours))}"
        )
    return found


def packed(notices: Sequence[Notice], account: str, now: int) -> dict[str, Any]:
    """One webhook body."""
    items = [_messaging_item(notice, account) for notice in notices]
    entries = [
        {"id": account, "time": now, "messaging": items[i : i + _AN_ENTRY]} for i in range(0, len(items), _AN_ENTRY)
    ]
    return {"object": "instagram", "entry": entries}


def _messaging_item(notice: Notice, account: str) -> dict[str, Any]:
    if len(notice.payload) == 3:
        at, person, item = notice.payload
        return {"sender": {"id": person}, "recipient": {"id": account}, "timestamp": at, **item}
    at, person, text, attachments, is_bare = notice.payload
    if notice.name == "read":
        who = {} if is_bare else {"sender": {"id": person}, "recipient": {"id": account}}
        return {**who, "timestamp": at, "read": {"mid": notice.provider_message_id}}
    message: dict[str, Any] = {"mid": notice.provider_message_id, "is_echo": True}
    if text:
        message["text"] = text
    if attachments:
        message["attachments"] = [{"type": kind, "payload": {"url": link}} for kind, link in attachments]
    return {"sender": {"id": account}, "recipient": {"id": person}, "timestamp": at, "message": message}
