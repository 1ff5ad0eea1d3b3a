"""Reads a webhook of the WhatsApp Cloud API: receipts of our messages, messages of people, and what they chose in WhatsApp's settings.

What enters: the raw body of a request whose signature was checked. What leaves: WebhookItems. Guaranteed: pure; raises nothing; every
status and every message is read separately: one that cannot be read, or that we do not use, is named in `unrecognised`, the others stay.
https://developers.facebook.com/docs/whatsapp/cloud-api/webhooks/components
"""

from connectors.base import Inbound, WebhookItems
from connectors.json_fields import (
    Node,
    Unexpected,
    child,
    decode,
    items,
    node,
    optional_text,
    seconds_as_ms,
    text,
    word,
)
from connectors.webhook_limits import trimmed_to_limits
from connectors.whatsapp.errors import WHATSAPP
from schemas.content import Content, Location, Media
from schemas.opt_out_policies import USER_PREFERENCES
from schemas.records import MEDIA_KINDS, Choice, Preference, Receipt, ReceiptStatus

CHANNEL = "whatsapp"
_STATUSES = {
    "sent": ReceiptStatus.SENT,
    "delivered": ReceiptStatus.DELIVERED,
    "read": ReceiptStatus.READ,  # often alone: there is no `delivered` when the person has the chat open
    "played": ReceiptStatus.READ,  # a voice message that the person played
    "failed": ReceiptStatus.FAILED,
}
# Notices about a person (a new number, a new device), which the person did not write.
_NOTICES = ("system", "request_welcome")
_CHOICES = {"stop": Choice.STOP, "resume": Choice.RESUME}
_WORDS = ("body", "caption", "text", "emoji")  # fields with what was written or chosen, depending on the kind


class _Reading:
    """One request being read."""

    def __init__(self, received_at: int) -> None:
        self.received_at = received_at
        self.receipts: list[Receipt] = []
        self.inbound: list[Inbound] = []
        self.unrecognised: list[str] = []
        self.notices: list[str] = []
        self.preferences: list[Preference] = []

    def body(self, body: object) -> None:
        try:
            entries = items(node(body, "body"), "entry")
        except Unexpected as why:
            self.unrecognised.append(str(why))
            return
        for entry in entries:
            try:
                changes = items(node(entry, "entry"), "changes")
            except Unexpected as why:
                self.unrecognised.append(f"entry: {why}")
                continue
            for change in changes:
                self.change(change)

    def change(self, change: object) -> None:
        try:
            found = node(change, "change")
            # Other fields: account_update, smb_message_echoes, message_template_status_update ...
            field = found.get("field")
            if field not in ("messages", "user_preferences"):
                self.unrecognised.append(f"field {word(field)}")
                return
            value = child(found, "value")
            account = text(child(value, "metadata"), "phone_number_id")
        except Unexpected as why:
            self.unrecognised.append(f"change: {why}")
            return
        if field == "user_preferences":
            self.choices(value, account)
            return
        self.statuses(value, account)
        self.messages(value, account)
        self.errors(value)

    def statuses(self, value: Node, account: str) -> None:
        for status in self.each(value, "statuses"):
            try:
                receipt = _receipt(node(status, "status"), account, self.received_at)
            except Unexpected as why:
                self.unrecognised.append(f"statuses: {why}")
                continue
            self.receipts.append(receipt)
            preference = _not_wanted(node(status, "status"), receipt)
            if preference is not None:
                self.preferences.append(preference)

    def choices(self, value: Node, account: str) -> None:
        for choice in self.each(value, "user_preferences"):
            try:
                self.preferences.append(_chosen(node(choice, "preference"), account, self.received_at))
            except Unexpected as why:
                self.unrecognised.append(f"user_preferences: {why}")

    def messages(self, value: Node, account: str) -> None:
        for message in self.each(value, "messages"):
            try:
                written = node(message, "message")
                if written.get("type") in _NOTICES:
                    self.notices.append(f"{written['type']} message")
                else:
                    self.inbound.append(_inbound(written, account))
            except Unexpected as why:
                self.unrecognised.append(f"messages: {why}")

    def each(self, value: Node, name: str) -> list[object]:
        """The items of a list field, none when the field is missing or no list."""
        try:
            return items(value, name)
        except Unexpected as why:
            self.unrecognised.append(str(why))
            return []

    def errors(self, value: Node) -> None:
        """Errors of the account: they name no message, but say something about the health of the channel."""
        errors = value.get("errors")
        for error in errors if isinstance(errors, list) else []:
            code = error.get("code") if isinstance(error, dict) else None
            self.notices.append(f"account error {code if isinstance(code, int) else '?'}")


def read(body: bytes, received_at: int) -> WebhookItems:
    """The items of a request, in its order; `received_at` is Unix milliseconds. Raises nothing."""
    reading = _Reading(received_at)
    reading.body(decode(body))
    return trimmed_to_limits(
        WebhookItems(
            tuple(reading.receipts),
            tuple(reading.inbound),
            tuple(reading.unrecognised),
            tuple(reading.notices),
            preferences=tuple(reading.preferences),
        )
    )


def _receipt(status: Node, account: str, received_at: int) -> Receipt:
    name, wamid = text(status, "status"), text(status, "id")
    known = _STATUSES.get(name)
    if known is None:
        raise Unexpected(f"status {word(name)} is unknown")
    participant = optional_text(status, "recipient_participant_id")  # in groups there is one status for each member
    identity = event_id(account, wamid, name)
    code, title = _failure(status)
    return Receipt(
        event_id=f"{identity}:{participant}" if participant else identity,
        channel=CHANNEL,
        account=account,
        provider_message_id=wamid,
        status=known,
        provider_at=seconds_as_ms(status, "timestamp"),
        received_at=received_at,
        callback_data=optional_text(status, "biz_opaque_callback_data"),
        error_code=code,
        error_title=title,
    )


def event_id(account: str, wamid: str, name: str) -> str:
    """The id of the receipt of one status of a message, by whichever way we learn of it."""
    return f"{CHANNEL}:{account}:{wamid}:{name}"


def _not_wanted(status: Node, receipt: Receipt) -> Preference | None:
    """What a failure says about the person: that they opted out, or that nothing reaches them. None for other statuses, and in groups,
    where the failure is about one member. `recipient_id` is the person's wa_id, as in what they write."""
    code = receipt.error_code or ""
    rule = WHATSAPP.get(int(code)) if code.isdecimal() else None
    address = optional_text(status, "recipient_id")
    is_of_a_group = status.get("recipient_type") == "group" or "recipient_participant_id" in status
    if rule is None or rule.suppresses is None or address is None or is_of_a_group:
        return None
    if receipt.status is not ReceiptStatus.FAILED:
        return None
    return Preference(
        event_id=f"whatsapp:{receipt.account}:{receipt.provider_message_id}:{receipt.error_code}",
        channel=CHANNEL,
        account=receipt.account,
        address=address,
        choice=Choice.STOP,
        reason=rule.suppresses,
        occurred_at=receipt.provider_at,
        observed_at=receipt.received_at,
    )


def _chosen(found: Node, account: str, received_at: int) -> Preference:
    """A person stopped or resumed marketing messages in WhatsApp's settings; `timestamp` is when the webhook was made.

    https://developers.facebook.com/documentation/business-messaging/whatsapp/webhooks/reference/user_preferences
    """
    category, value = text(found, "category"), text(found, "value")
    if category != "marketing_messages":
        raise Unexpected(f"category {word(category)} is unknown")
    if value not in _CHOICES:
        raise Unexpected(f"value {word(value)} is unknown")
    address = optional_text(found, "wa_id") or text(found, "user_id")
    at = seconds_as_ms(found, "timestamp")
    return Preference(
        event_id=f"whatsapp:{account}:{address}:{value}:{at}",
        channel=CHANNEL,
        account=account,
        address=address,
        choice=_CHOICES[value],
        reason=USER_PREFERENCES,
        occurred_at=at,
        observed_at=received_at,
    )


def _failure(status: Node) -> tuple[str | None, str | None]:
    """Code and title of the first error of a status, None when it has none."""
    errors = status.get("errors")
    error = errors[0] if isinstance(errors, list) and errors else None
    if not isinstance(error, dict):
        return None, None
    code = error.get("code")
    return str(code) if isinstance(code, int) else None, optional_text(error, "title")


def _inbound(message: Node, account: str) -> Inbound:
    kind = text(message, "type")
    found = message.get(kind)
    said: Node = found if isinstance(found, dict) else {}
    return Inbound(
        channel=CHANNEL,
        account=account,
        address=optional_text(message, "from") or text(message, "from_user_id"),
        provider_message_id=text(message, "id"),
        kind=word(kind),
        text=_words(said),
        at=seconds_as_ms(message, "timestamp"),
        content=_content(message, kind, said),
    )


def _words(said: Node) -> str:
    """What the person wrote or chose: text, caption, button, emoji; empty when the kind has none."""
    replies = [said[reply] for reply in ("button_reply", "list_reply") if isinstance(said.get(reply), dict)]
    found = [said.get(name) for name in _WORDS] + [each.get("title") for each in replies]
    return next((each for each in found if isinstance(each, str)), "")


def _content(message: Node, kind: str, said: Node) -> Content | None:
    """What a message has beyond its text. A part that cannot be read is left out, the message stays."""
    about = said.get("message_id") if kind == "reaction" else _context(message).get("id")
    content = Content(
        media=(_media(kind, said),) if kind in MEDIA_KINDS else (),
        location=_location(said) if kind == "location" else None,
        reply_to=about if isinstance(about, str) and about else None,
        reaction=_words(said) if kind == "reaction" else None,
    )
    return None if content == Content() else content


def _context(message: Node) -> Node:
    context = message.get("context")
    return context if isinstance(context, dict) else {}


def _media(kind: str, said: Node) -> Media:
    """The id is valid for 7 days: https://developers.facebook.com/docs/whatsapp/cloud-api/reference/media."""
    identity = optional_text(said, "id")
    return Media(
        kind,
        url=None if identity else optional_text(said, "url"),
        provider_media_id=identity,
        mime_type=optional_text(said, "mime_type") or "",
        filename=optional_text(said, "filename"),
    )


def _location(said: Node) -> Location | None:
    latitude, longitude = said.get("latitude"), said.get("longitude")
    if not isinstance(latitude, int | float) or not isinstance(longitude, int | float):
        return None
    if not (-90 <= latitude <= 90 and -180 <= longitude <= 180):
        return None
    name, address = (optional_text(said, field) or "" for field in ("name", "address"))
    return Location(float(latitude), float(longitude), name, address)
