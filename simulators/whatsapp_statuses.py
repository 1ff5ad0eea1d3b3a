"""Webhook bodies of a simulated WhatsApp: statuses of our messages, messages and preferences of people, and the history of statuses.

What enters: notices. What leaves: one body for many of them; statuses and messages are in separate changes, as in Meta's webhooks.
Guaranteed: a status has the provider's seconds and our tracker; only `sent` has the conversation's expiry, as captured from Meta.
https://developers.facebook.com/docs/whatsapp/cloud-api/webhooks/payload-examples
"""

import re
import zlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from simulators import graph_api
from simulators.webhook_sender import Notice

DISPLAY_NUMBER = "15550783881"
BUSINESS = "102290129340398"
_A_CHANGE = 25  # statuses
_AN_ENTRY = 2  # changes
_REMEMBERED = 50_000  # messages whose history can be asked for
_OF_EVENTS = re.compile(r"events\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class ReportedStatus:
    """What the statuses of one message have in common: thousands of them wait at a time, and the JSON is built when they are due.

    The payload of a notice is (Unix seconds, ReportedStatus).
    """

    wa_id: str
    tracker: str | None
    category: str
    code: int = 0
    details: str = ""


def status(notice: Notice) -> dict[str, Any]:
    """One item of `statuses`."""
    seconds, reported = notice.payload
    item = {
        "id": notice.provider_message_id,
        "status": notice.name,
        "timestamp": str(seconds),
        "recipient_id": reported.wa_id,
    }
    if reported.tracker is not None:
        item["biz_opaque_callback_data"] = reported.tracker
    if notice.name == "failed":
        error: dict[str, Any] = {
            "code": reported.code,
            "title": graph_api.title(reported.code),
            "message": graph_api.title(reported.code),
        }
        error["error_data"] = {"details": reported.details or graph_api.title(reported.code)}
        return item | {"errors": [error | {"href": graph_api.HREF}]}
    conversation: dict[str, Any] = {"id": f"{reported.wa_id}{reported.category}", "origin": {"type": reported.category}}
    if notice.name == "sent":
        conversation["expiration_timestamp"] = str(seconds + 86_400)
    is_free = reported.category == "service"
    pricing = {
        "billable": not is_free,
        "pricing_model": "PMP",
        "category": reported.category,
        "type": "free_customer_service" if is_free else "regular",
    }
    return item | {"conversation": conversation, "pricing": pricing}


def body(notices: Sequence[Notice], account: str, *, is_plain: bool) -> dict[str, Any]:
    """One webhook body. The plain form leaves out what Meta added in 2026: contacts of statuses, user ids."""
    statuses = [notice for notice in notices if notice.name not in ("inbound", "preference")]
    changes = []
    for some in (statuses[i : i + _A_CHANGE] for i in range(0, len(statuses), _A_CHANGE)):
        people = (
            {} if is_plain else {"contacts": [contact(each) for each in {each.payload[1].wa_id: 0 for each in some}]}
        )
        changes.append(_change(account, {**people, "statuses": [status(each) for each in some]}))
    changes += [_change(account, _plain(each.payload, is_plain)) for each in notices if each.name == "inbound"]
    changes += [_change(account, each.payload, "user_preferences") for each in notices if each.name == "preference"]
    entries = [{"id": BUSINESS, "changes": changes[i : i + _AN_ENTRY]} for i in range(0, len(changes), _AN_ENTRY)]
    return {"object": "whatsapp_business_account", "entry": entries}


def contact(wa_id: str, name: str = "Zoë 🌻") -> dict[str, Any]:
    return {"profile": {"name": name}, "wa_id": wa_id, "user_id": user_id(wa_id)}


def user_id(wa_id: str) -> str:
    """The business-scoped id of a person, always the same for a wa_id."""
    country = "BR" if wa_id.startswith("55") else "US"
    return f"{country}.{10**15 + zlib.crc32(wa_id.encode())}"


def _plain(content: Mapping[str, Any], is_plain: bool) -> Mapping[str, Any]:
    """What a person wrote, with or without the newer fields."""
    contacts, messages = content["contacts"], content["messages"]
    if is_plain:
        contacts = [{name: value for name, value in each.items() if name != "user_id"} for each in contacts]
    else:
        messages = [{"from_user_id": contacts[0]["user_id"], **each} for each in messages]
    return {"contacts": contacts, "messages": messages}


def _change(account: str, content: Mapping[str, Any], field: str = "messages") -> dict[str, Any]:
    metadata = {"display_phone_number": DISPLAY_NUMBER, "phone_number_id": account}
    return {"field": field, "value": {"messaging_product": "whatsapp", "metadata": metadata, **content}}


class History:
    """The statuses of the newest messages, for GET /{account}/message_history."""

    def __init__(self) -> None:
        self._events: OrderedDict[str, list[tuple[str, int]]] = OrderedDict()

    def add(self, wamid: str, events: list[tuple[str, int]]) -> None:
        """Remembers the statuses of a message, each with the Unix second from which it holds."""
        self._events[wamid] = events
        if len(self._events) > _REMEMBERED:
            self._events.popitem(last=False)

    def knows(self, wamid: str) -> bool:
        return wamid in self._events

    def page(self, wamid: str, now: int, fields: str = "") -> dict[str, Any]:
        """The reconciliation API's answer for one message; `now` is in Unix seconds. `fields` is a list, and `events{...}` one of events.
        Raises GraphRefused for a field that there is not."""
        of_events = _OF_EVENTS.search(fields)
        events = [
            graph_api.chosen(
                of_events[1] if of_events else "",
                {
                    "id": f"{wamid[-16:]}{number}",
                    "delivery_status": "READ" if name == "played" else name.upper(),
                    "timestamp": seconds,
                    "webhook_update_state": "DELIVERED",
                    "error_description": "Message undeliverable" if name == "failed" else None,
                },
            )
            for number, (name, seconds) in enumerate(self._events.get(wamid, ()))
            if seconds <= now
        ]
        whole = {"id": wamid[-16:], "message_id": wamid, "events": {"data": events}}
        found = [graph_api.chosen(_OF_EVENTS.sub("events", fields), whole)] if events else []
        return {"data": found, "paging": {"cursors": {"before": "MAZDZD", "after": "MAZDZD"}}}
