"""How the Instagram connector reads webhooks: every item separately, whomever it names, and it raises nothing but Forbidden."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.base import Forbidden, WebhookItems
from schemas import codec
from schemas.content import Content, Media
from schemas.records import Message, Receipt, ReceiptStatus
from tests.support.webhook_samples import (
    INSTAGRAM,
    PERSON,
    PROFESSIONAL,
    echo,
    from_meta,
    from_person,
    instagram_body,
)

AT = 1_773_347_860_500
SENT_AT = 1_773_347_859_458
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def read(*items: object, **entry: Any) -> WebhookItems:
    return INSTAGRAM.parse_webhook(from_meta(instagram_body(*items, **entry)), AT)


def receipt(name: str, status: ReceiptStatus, mid: str = "aWdf1", **changes: Any) -> Receipt:
    fields: dict[str, Any] = {
        "event_id": f"instagram:{PROFESSIONAL}:{mid}:{name}",
        "channel": "instagram",
        "account": PROFESSIONAL,
        "provider_message_id": mid,
        "status": status,
        "provider_at": SENT_AT,
        "received_at": AT,
    }
    return Receipt(**(fields | changes))


def test_an_echo_shows_that_the_message_was_sent_and_is_no_message_of_a_person() -> None:
    assert read(echo()) == WebhookItems((receipt("sent", ReceiptStatus.SENT),))
    unmarked = echo()
    del unmarked["message"]["is_echo"]
    assert read(unmarked) == WebhookItems((receipt("sent", ReceiptStatus.SENT),)), "our own account wrote it"


@pytest.mark.parametrize("frame", [from_person(), {"timestamp": SENT_AT}], ids=["with names", "without"])
def test_a_read_is_found_by_the_message_alone(frame: dict[str, Any]) -> None:
    assert read(frame | {"read": {"mid": "aWdf1"}}) == WebhookItems((receipt("read", ReceiptStatus.READ),))


def test_a_reaction_shows_that_it_was_read_and_is_a_message_too() -> None:
    loved = {"mid": "aWdf1", "action": "react", "reaction": "love", "emoji": "❤️"}
    items = read(from_person(reaction=loved), from_person(reaction={"mid": "aWdf1", "action": "unreact"}))
    assert items.receipts == (receipt("seen", ReceiptStatus.READ, inferred=True),) * 2, (
        "once for track: the id is the same"
    )
    assert [(each.kind, each.text, each.content) for each in items.inbound] == [
        ("reaction", "❤️", Content(reply_to="aWdf1", reaction="❤️")),
        ("reaction", "", Content(reply_to="aWdf1", reaction="")),
    ]
    assert len({each.provider_message_id for each in items.inbound}) == 2


def test_a_reaction_of_our_own_account_is_no_receipt() -> None:
    ours = from_person(reaction={"mid": "aWdf1", "action": "react"}) | {"sender": {"id": PROFESSIONAL}}
    assert read(ours) == WebhookItems(notices=("our account reacted",))


def test_a_reply_shows_that_the_person_read_the_message() -> None:
    items = read(from_person(message={"mid": "aWdf9", "text": "thanks", "reply_to": {"mid": "aWdf1"}}))
    assert items.receipts == (receipt("seen", ReceiptStatus.READ, inferred=True),)
    assert [(each.provider_message_id, each.content) for each in items.inbound] == [
        ("aWdf9", Content(reply_to="aWdf1"))
    ]


@pytest.mark.parametrize(
    "about",
    [{"mid": "aWdf1", "is_self_reply": True}, {"story": {"id": "1", "url": "https://x"}}, {"mid": 7}, "x", None],
)
def test_a_reply_to_something_else_is_no_receipt(about: object) -> None:
    items = read(from_person(message={"mid": "aWdf9", "text": "thanks", "reply_to": about}))
    assert items.receipts == ()
    assert [each.text for each in items.inbound] == ["thanks"]


def attached(*kinds: str) -> list[dict[str, Any]]:
    return [{"type": kind, "payload": {"url": f"https://cdn.example/{kind}"}} for kind in kinds]


def media(*kinds: str) -> Content:
    names = {"file": "document"}
    return Content(media=tuple(Media(names.get(kind, kind), url=f"https://cdn.example/{kind}") for kind in kinds))


WRITTEN: dict[str, tuple[dict[str, Any], str, str, Content | None]] = {
    "a text": ({"text": "olá / 🌻"}, "text", "olá / 🌻", None),
    "an image": ({"attachments": attached("image")}, "image", "", media("image")),
    "a file": ({"attachments": attached("file")}, "document", "", media("file")),
    "several": ({"attachments": attached("image", "video")}, "album", "", media("image", "video")),
    "a share": ({"attachments": attached("share")}, "share", "", None),
    "a mention in a story": ({"attachments": attached("story_mention")}, "story_mention", "", None),
    "a reel with a word": ({"text": "look", "attachments": attached("ig_reel")}, "ig_reel", "look", None),
    "a quick reply": ({"text": "Yes", "quick_reply": {"payload": "y"}}, "text", "Yes", None),
    "a message that the API cannot show": ({"is_unsupported": True}, "unsupported", "", None),
    "malformed attachments": ({"text": "x", "attachments": [None, 3]}, "text", "x", None),
    "media without a payload": ({"attachments": [{"type": "image"}]}, "image", "", Content(media=(Media("image"),))),
    "a kind that is no word": ({"attachments": [{"type": "a b"}]}, "?", "", None),
}


@pytest.mark.parametrize(("message", "kind", "words", "content"), WRITTEN.values(), ids=WRITTEN)
def test_messages_of_people(message: dict[str, Any], kind: str, words: str, content: Content | None) -> None:
    (inbound,) = read(from_person(message={"mid": "aWdf9", **message})).inbound
    assert (inbound.kind, inbound.text, inbound.content) == (kind, words, content)
    assert (inbound.account, inbound.address, inbound.provider_message_id) == (PROFESSIONAL, PERSON, "aWdf9")
    assert inbound.at == SENT_AT
    codec.encode(Message(message_id="m", conversation_id="c", requested_at=AT, content=inbound.content))


def test_a_pressed_button_is_a_message() -> None:
    items = read(from_person(postback={"mid": "aWdf9", "title": "Prices", "payload": "p"}))
    assert [(each.kind, each.text) for each in items.inbound] == [("postback", "Prices")]


def test_a_changed_or_deleted_message_is_a_notice() -> None:
    items = read(
        from_person(message={"mid": "aWdf9", "is_deleted": True}),
        from_person(message_edit={"mid": "aWdf9", "text": "x", "num_edit": 1}),
    )
    assert items == WebhookItems(notices=("a person took a message back", "a person changed a message"))


def test_a_thread_that_another_app_controls_gives_the_same_items() -> None:
    items = read(standby=[echo(), from_person(message={"mid": "aWdf9", "text": "x"})], messaging=None)
    assert (len(items.receipts), len(items.inbound)) == (1, 1)


def test_items_may_come_as_changes_and_in_seconds() -> None:
    late = from_person(message={"mid": "aWdf9", "text": "x"}) | {"timestamp": "1527459824"}
    changes = [
        {"field": "messages", "value": late},
        {"field": "messaging_seen", "value": {"timestamp": SENT_AT, "read": {"mid": "aWdf1"}}},
        {"field": "comments", "value": {"id": "1", "text": "nice"}},
    ]
    items = read(changes=changes)
    assert [each.at for each in items.inbound] == [1_527_459_824_000]
    assert items.receipts == (receipt("read", ReceiptStatus.READ),)
    assert items.unrecognised == ("field comments",)


def test_unknown_kinds_are_named_and_the_other_items_stay() -> None:
    items = read(
        from_person(referral={"ref": "x"}),
        "not an object",
        from_person(),
        from_person(message="x"),
        from_person(message={"text": "no mid"}),
        from_person(read={"watermark": 1}),
        from_person(message={"mid": "a"}) | {"timestamp": -5},
        from_person(message={"mid": "a"}) | {"sender": None},
        from_person(hand_over_2027={}),
        echo(),
        changes=[None, {"field": ["x"]}],
    )
    assert items.receipts == (receipt("sent", ReceiptStatus.SENT),)
    assert items.unrecognised == (
        "item of kind referral",
        "item: item is not an object",
        "item of kind ?",
        "item: message is not an object",
        "item: mid is not a text",
        "item: mid is not a text",
        "item: timestamp is not a time",
        "item: sender is not an object",
        "item of kind hand_over_2027",
        "field ?",
        "field ?",
    )


def test_malformed_entries_are_named_and_the_others_stay() -> None:
    good = json.loads(instagram_body(echo()))["entry"][0]
    bad: list[Any] = [None, {"messaging": [echo()]}, good | {"messaging": {}}, {"id": PROFESSIONAL}]
    items = INSTAGRAM.parse_webhook(from_meta(json.dumps({"entry": [*bad, good]}).encode()), AT)
    assert len(items.receipts) == 1
    assert items.unrecognised == (
        "entry: entry is not an object",
        "entry: id is not a text",
        "entry: messaging is not a list",
    )


@given(bad=st.lists(ANYTHING, max_size=5), place=st.integers(0, 2))
def test_one_bad_item_never_loses_the_rest(bad: list[Any], place: int) -> None:
    good = [echo("a"), from_person(read={"mid": "b"})]
    items = read(*good[:place], *bad, *good[place:])
    assert [each.provider_message_id for each in items.receipts] == ["a", "b"]
    assert len(items.unrecognised) == len(bad)


FIELDS = ("message", "read", "reaction", "postback", "message_edit", "sender", "timestamp", "referral")


@given(bad=st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, ANYTHING)), inner=ANYTHING)
def test_any_field_may_be_anything(bad: dict[str, Any], inner: object) -> None:
    deep = from_person(message={"mid": "m", "attachments": inner, "reply_to": inner, "text": inner})
    items = read(from_person() | bad, deep, echo("last"))
    assert items.receipts[-1].provider_message_id == "last"


@given(anything=ANYTHING)
def test_any_json_is_read_without_an_exception(anything: object) -> None:
    INSTAGRAM.parse_webhook(from_meta(json.dumps(anything).encode()), AT)
    INSTAGRAM.parse_webhook(from_meta(json.dumps({"entry": anything}).encode()), AT)
    INSTAGRAM.parse_webhook(from_meta(instagram_body(changes=anything, messaging=anything)), AT)


def test_only_a_signed_body_is_read() -> None:
    body = instagram_body(echo())
    with pytest.raises(Forbidden):
        INSTAGRAM.parse_webhook(from_meta(body, "another"), AT)
