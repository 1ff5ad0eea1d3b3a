"""Makes what a provider sent fit the limits of our records (schemas/limits.py).

What enters: the outcome of a call, or the items of a webhook. What leaves: the same within the limits. Descriptive texts are shortened and
marked. What cannot be shortened is left out: an item whose ids are over their limits is named in `unrecognised`, the others stay. Pure.
"""

import dataclasses
import math

from connectors.base import Inbound, WebhookItems
from schemas import limit_check
from schemas.content import Content, Location, Media
from schemas.limit_check import allows, trimmed
from schemas.limits import LIMITS, MOST_MEDIA, SENTENCE, WORD
from schemas.outcomes import Accepted, Outcome, RetryLater
from schemas.records import Message, Receipt


def within_limits(outcome: Outcome) -> Outcome:
    """The outcome with ids, code and reason within the limits of a status update. An id over its limit is left out."""
    if isinstance(outcome, Accepted):
        ids = tuple(each for each in outcome.provider_ids if each and allows("provider_message_id", each))
        return outcome if ids == outcome.provider_ids else Accepted(ids)
    code, reason = trimmed(outcome.code, WORD), trimmed(outcome.reason, SENTENCE)
    if isinstance(outcome, RetryLater) and outcome.after_seconds is not None and math.isnan(outcome.after_seconds):
        outcome = dataclasses.replace(outcome, after_seconds=None)
    if (code, reason) == (outcome.code, outcome.reason):
        return outcome
    return dataclasses.replace(outcome, code=code, reason=reason)


def trimmed_to_limits(items: WebhookItems) -> WebhookItems:
    """The items within our limits; those that cannot be made to fit are named in `unrecognised`. Raises nothing."""
    unrecognised = list(items.unrecognised)
    receipts, inbound = [], []
    for receipt in map(_receipt, items.receipts):
        found = limit_check.fault(receipt)
        if found is None:
            receipts.append(receipt)
        else:
            unrecognised.append(f"receipt: {found}")
    preferences = []
    for preference in items.preferences:
        found = limit_check.fault(preference)
        if found is None:
            preferences.append(preference)
        else:
            unrecognised.append(f"preference: {found}")
    for item in map(_inbound, items.inbound):
        found = _inbound_fault(item)
        if found is None:
            inbound.append(item)
        else:
            unrecognised.append(f"message: {found}")
    reports = []
    for report in items.reports:
        found = limit_check.fault(report)
        if found is None:
            reports.append(report)
        else:
            unrecognised.append(f"cursor: {found}")
    return WebhookItems(
        receipts=tuple(receipts),
        inbound=tuple(inbound),
        unrecognised=tuple(map(trimmed, unrecognised)),
        notices=tuple(map(trimmed, items.notices)),
        reports=tuple(reports),
        own_tenants=items.own_tenants,
        preferences=tuple(preferences),
    )


def _receipt(receipt: Receipt) -> Receipt:
    code, title, data = receipt.error_code, receipt.error_title, receipt.callback_data
    fitting = (
        None if code is None else trimmed(code, WORD),
        None if title is None else trimmed(title, SENTENCE),
        data if data is not None and allows("callback_data", data) else None,  # over the limit it is no tracker of ours
    )
    if fitting == (code, title, data):
        return receipt
    return dataclasses.replace(receipt, error_code=fitting[0], error_title=fitting[1], callback_data=fitting[2])


def _inbound(item: Inbound) -> Inbound:
    content = None if item.content is None else _content(item.content)
    return dataclasses.replace(
        item, kind=trimmed(item.kind, WORD), text=trimmed(item.text, LIMITS["text"]), content=content
    )


def _inbound_fault(item: Inbound) -> str | None:
    """Why a message cannot be made to fit, None when it fits. Its ids become parts of longer ids (schemas/ids.py)."""
    ids = (
        ("channel", item.channel),
        ("account", item.account),
        ("address", item.address),
        ("tenant_id", item.tenant_id),
    )
    found = next((name for name, value in ids if not value or not allows(name, value)), None)
    if found is not None:
        return f"{found} is out of its limit"
    if not item.provider_message_id or not allows("event_id", item.provider_message_id):
        return "the id is out of its limit"
    if not allows("requested_at", item.at):
        return "the time is out of its limit"
    as_record = Message(
        message_id="-", conversation_id="-", requested_at=0, kind=item.kind, text=item.text, content=item.content
    )
    return limit_check.fault(as_record)


def _content(content: Content) -> Content:
    """The content of a message within the limits. A part over its limit is shortened or left out; the message stays."""
    reply_to = content.reply_to
    return dataclasses.replace(
        content,
        media=tuple(map(_medium, content.media[:MOST_MEDIA])),
        location=None if content.location is None else _place(content.location),
        reply_to=reply_to if reply_to is not None and allows("reply_to", reply_to) else None,
        reaction=None if content.reaction is None else trimmed(content.reaction, LIMITS["reaction"]),
    )


def _medium(medium: Media) -> Media:
    url, identity = medium.url, medium.provider_media_id
    return dataclasses.replace(
        medium,
        kind=trimmed(medium.kind, WORD),
        url=url if url is not None and allows("url", url) else None,
        provider_media_id=identity if identity is not None and allows("provider_media_id", identity) else None,
        mime_type=trimmed(medium.mime_type, LIMITS["mime_type"]),
        filename=None if medium.filename is None else trimmed(medium.filename, SENTENCE),
    )


def _place(place: Location) -> Location:
    return dataclasses.replace(place, name=trimmed(place.name, SENTENCE), address=trimmed(place.address, SENTENCE))
