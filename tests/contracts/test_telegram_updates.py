"""Updates of Telegram beyond plain texts: what a person sends, edits and presses, and our bot's membership in a chat."""

from typing import Any

import pytest

from connectors.base import WebhookItems
from schemas.content import Content, Location, Media
from schemas.records import Choice, Preference
from tests.support.webhook_samples import TELEGRAM, from_telegram, ours, theirs

AT = 1_750_857_390_123


def _read(**update: Any) -> WebhookItems:
    return TELEGRAM.parse_webhook(from_telegram({"update_id": 1, **update}), AT)


def _written(**message: Any) -> Any:
    sent = {name: value for name, value in theirs().items() if name != "text"} | message
    (inbound,) = _read(message=sent).inbound
    return inbound


@pytest.mark.parametrize(
    ("message", "kind", "media"),
    [
        (
            {"photo": [{"file_id": "small", "file_size": 9}, {"file_id": "large", "file_size": 900}]},
            "image",
            Media("image", provider_media_id="large", size=900),
        ),
        (
            {"document": {"file_id": "F", "file_name": "a.pdf", "mime_type": "application/pdf", "file_size": 5}},
            "document",
            Media("document", provider_media_id="F", mime_type="application/pdf", filename="a.pdf", size=5),
        ),
        (
            {"animation": {"file_id": "F", "mime_type": "video/mp4"}, "document": {"file_id": "F"}},
            "video",
            Media("video", provider_media_id="F", mime_type="video/mp4"),
        ),
        (
            {"voice": {"file_id": "F", "mime_type": "audio/ogg"}},
            "audio",
            Media("audio", provider_media_id="F", mime_type="audio/ogg"),
        ),
        ({"audio": {"file_id": "F", "file_size": "x"}}, "audio", Media("audio", provider_media_id="F")),
        ({"video_note": {"file_id": "F"}}, "video", Media("video", provider_media_id="F")),
        ({"sticker": {"file_id": "F"}}, "sticker", Media("sticker", provider_media_id="F")),
    ],
)
def test_media_come_by_their_id(message: dict[str, Any], kind: str, media: Media) -> None:
    inbound = _written(caption="see", **message)
    assert (inbound.kind, inbound.text) == (kind, "see")
    assert inbound.content == Content(media=(media,))


@pytest.mark.parametrize("odd", [{"photo": []}, {"photo": {}}, {"photo": 3}, {"photo": [{"file_id": 3}]}])
def test_a_malformed_file_is_left_out_and_the_message_stays(odd: dict[str, Any]) -> None:
    inbound = _written(caption="see", **odd)
    assert (inbound.kind, inbound.text, inbound.content) == ("image", "see", Content())


def test_a_place_may_have_a_name() -> None:
    place = {"latitude": -23.5505, "longitude": -46.6333}
    assert _written(location=place).content == Content(location=Location(-23.5505, -46.6333))
    venue = {"location": place, "title": "Sé", "address": "Praça da Sé"}
    inbound = _written(location=place, venue=venue)
    assert inbound.kind == "location"
    assert inbound.content == Content(location=Location(-23.5505, -46.6333, "Sé", "Praça da Sé"))
    assert _written(location={"latitude": "north"}).content == Content()


@pytest.mark.parametrize("kind", ["contact", "poll", "dice"])
def test_other_kinds_keep_their_name(kind: str) -> None:
    assert (_written(**{kind: {}}).kind, _written(**{kind: {}}).content) == (kind, None)


def test_a_reply_names_the_message_it_answers() -> None:
    items = _read(message=theirs(reply_to_message=theirs()))
    assert items.inbound[0].content == Content(reply_to="5005:43")
    assert items.receipts == ()


def test_an_edit_is_no_second_message_but_an_inferred_read() -> None:
    items = _read(edited_message=theirs(edit_date=1773347999, reply_to_message=ours()))
    assert items.inbound == ()
    assert items.notices == ("a person edited a message",)
    assert [(each.provider_message_id, each.inferred) for each in items.receipts] == [("5005:42", True)]
    assert _read(edited_message=theirs()).receipts == ()


def test_a_button_of_a_message_that_is_too_old_is_ours() -> None:
    old = {"chat": {"id": 5005, "type": "private"}, "message_id": 7, "date": 0}
    items = _read(callback_query={"id": "9", "from": {"id": 5005}, "message": old, "data": "x"})
    assert [each.provider_message_id for each in items.receipts] == ["5005:7"]


@pytest.mark.parametrize(
    ("chat", "status", "notice"),
    [
        ("private", "kicked", "a person: our bot: shut out"),
        ("private", "member", "a person: our bot: let in"),
        ("supergroup", "kicked", "a chat: our bot: shut out"),
        ("group", "left", "a chat: our bot: left"),
        ("group", "something new", "a chat: our bot: ?"),
        ("group", 3, "a chat: our bot: ?"),
    ],
)
def test_a_change_of_our_membership_is_a_notice(chat: str, status: object, notice: str) -> None:
    change = {
        "chat": {"id": 5005, "type": chat, "first_name": "Ana"},
        "from": {"id": 5005},
        "date": 1773347800,
        "old_chat_member": {"user": {"id": 4242}, "status": "member"},
        "new_chat_member": {"user": {"id": 4242}, "status": status},
    }
    found = _read(my_chat_member=change)
    assert (found.notices, found.receipts, found.inbound, found.unrecognised) == ((notice,), (), (), ())


@pytest.mark.parametrize(
    ("status", "choice", "reason"),
    [
        ("kicked", Choice.STOP, "blocked"),
        ("left", Choice.STOP, "blocked"),
        ("member", Choice.RESUME, "unblocked"),
        ("administrator", Choice.RESUME, "unblocked"),
        ("restricted", Choice.RESUME, "unblocked"),
    ],
)
def test_who_blocks_the_bot_wants_no_messages(status: str, choice: Choice, reason: str) -> None:
    chat, member = {"id": -1005, "type": "group"}, {"user": {"id": 4242}, "status": status}
    (found,) = _read(my_chat_member={"chat": chat, "date": 1773347800, "new_chat_member": member}).preferences
    assert found == Preference(
        event_id=f"telegram:4242:-1005:{status}:1773347800000",
        channel="telegram",
        account="4242",
        address="-1005",
        choice=choice,
        reason=reason,
        occurred_at=1_773_347_800_000,
        observed_at=AT,
    )


@pytest.mark.parametrize("change", [{"chat": {"id": "x"}}, {"date": None}, {"date": -1}, {"date": 10**15}])
def test_a_change_of_membership_without_chat_or_date_is_named(change: dict[str, Any]) -> None:
    whole = {"chat": {"id": 5, "type": "private"}, "date": 1773347800, "new_chat_member": {"status": "kicked"}}
    found = _read(my_chat_member=whole | change)
    assert (found.preferences, len(found.unrecognised)) == ((), 1)


@pytest.mark.parametrize(
    "kind",
    [
        "channel_post", "edited_channel_post", "message_reaction_count", "inline_query", "chosen_inline_result", "shipping_query",
        "pre_checkout_query", "poll", "poll_answer", "chat_member", "chat_join_request", "chat_boost", "business_message", "a_newer_kind",
    ],
)  # fmt: skip  # a list of words, several on a line
def test_kinds_that_we_do_not_use_are_named(kind: str) -> None:
    assert _read(**{kind: {"text": "words"}}) == WebhookItems(unrecognised=(f"update of kind {kind}",))
