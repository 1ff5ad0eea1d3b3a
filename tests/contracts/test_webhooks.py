"""How the connectors read webhooks: every item separately, nothing unsigned, and they raise nothing but Forbidden."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.base import Forbidden, WebhookRequest
from connectors.signatures import is_from_telegram, is_signed_by_meta
from schemas import codec
from schemas.content import Content, Location, Media
from schemas.records import Choice, Message, Preference, Receipt, ReceiptStatus
from tests.support.webhook_samples import (
    ACCOUNT,
    INSTAGRAM,
    TELEGRAM,
    WHATSAPP,
    from_meta,
    from_telegram,
    ours,
    status,
    theirs,
    value,
    whatsapp_body,
)

AT = 1_750_857_390_123
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def _whatsapp(*values: Any) -> Any:
    return WHATSAPP.parse_webhook(from_meta(whatsapp_body(*values)), AT)


def test_a_status_becomes_a_receipt() -> None:
    items = _whatsapp(value(statuses=[status(biz_opaque_callback_data="c4a1|t|d|c|3|1")]))
    assert items.receipts == (
        Receipt(
            event_id=f"whatsapp:{ACCOUNT}:wamid.A:sent",
            channel="whatsapp",
            account=ACCOUNT,
            provider_message_id="wamid.A",
            status=ReceiptStatus.SENT,
            provider_at=1_750_857_384_000,
            received_at=AT,
            callback_data="c4a1|t|d|c|3|1",
        ),
    )
    assert items.inbound == ()
    assert items.unrecognised == ()


def test_milliseconds_where_seconds_are_due_are_named_and_the_rest_stays() -> None:
    items = _whatsapp(value(statuses=[status(timestamp=str(AT)), status(id="wamid.B")]))
    assert [each.provider_message_id for each in items.receipts] == ["wamid.B"]
    assert items.unrecognised == ("statuses: timestamp is not a time",)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("sent", "SENT"), ("delivered", "DELIVERED"), ("read", "READ"), ("played", "READ"), ("failed", "FAILED")],
)
def test_each_status_has_its_meaning(name: str, expected: str) -> None:
    (receipt,) = _whatsapp(value(statuses=[status(name)])).receipts
    assert receipt.status == expected
    assert receipt.event_id.endswith(f":{name}")


def test_a_failure_has_its_first_error() -> None:
    errors = [{"code": 131047, "title": "Re-engagement message", "message": "x"}, {"code": 1}]
    (receipt,) = _whatsapp(value(statuses=[status("failed", errors=errors)])).receipts
    assert (receipt.error_code, receipt.error_title) == ("131047", "Re-engagement message")


@pytest.mark.parametrize("errors", [None, [], "x", [None], [{}], [{"code": None, "title": 3}]])
def test_a_failure_without_readable_error_is_still_a_failure(errors: object) -> None:
    (receipt,) = _whatsapp(value(statuses=[status("failed", errors=errors)])).receipts
    assert (receipt.status, receipt.error_code, receipt.error_title) == ("FAILED", None, None)


def failed(code: int, **more: Any) -> dict[str, Any]:
    return status("failed", errors=[{"code": code, "title": "no"}], **more)


@pytest.mark.parametrize(("code", "reason"), [(131050, "user_preferences"), (131026, "not_receiving")])
def test_a_failure_about_the_person_is_a_preference_too(code: int, reason: str) -> None:
    items = _whatsapp(value(statuses=[failed(code)]))
    assert [receipt.error_code for receipt in items.receipts] == [str(code)]
    assert items.preferences == (
        Preference(
            event_id=f"whatsapp:{ACCOUNT}:wamid.A:{code}",
            channel="whatsapp",
            account=ACCOUNT,
            address="15551234567",
            choice=Choice.STOP,
            reason=reason,
            occurred_at=1_750_857_384_000,
            observed_at=AT,
        ),
    )


@pytest.mark.parametrize(
    "said",
    [
        failed(131049),
        failed(131047),
        failed(424242),
        status("sent", errors=[{"code": 131026}]),
        failed(131026, recipient_id=None),
        failed(131026, recipient_type="group"),
        failed(131026, recipient_participant_id="1"),
        status("failed", errors=[{"code": True}]),
        status("failed", errors=[{"code": -1}]),
    ],
)
def test_other_statuses_say_nothing_about_the_person(said: dict[str, Any]) -> None:
    items = _whatsapp(value(statuses=[said]))
    assert (len(items.receipts), items.preferences) == (1, ())


CHOSEN = {
    "wa_id": "16505551234",
    "detail": "User requested to stop marketing messages",
    "category": "marketing_messages",
    "value": "stop",
    "timestamp": 1731705721,
}


def _preferences(*chosen: object) -> Any:
    content = value(contacts=[{"wa_id": "16505551234"}], user_preferences=list(chosen))
    body = {"entry": [{"id": "1", "changes": [{"field": "user_preferences", "value": content}]}]}
    return WHATSAPP.parse_webhook(from_meta(json.dumps(body).encode()), AT)


@pytest.mark.parametrize(("chosen", "choice"), [("stop", Choice.STOP), ("resume", Choice.RESUME)])
def test_a_person_chooses_in_whatsapps_settings(chosen: str, choice: Choice) -> None:
    """https://developers.facebook.com/documentation/business-messaging/whatsapp/webhooks/reference/user_preferences"""
    items = _preferences(CHOSEN | {"value": chosen})
    assert (items.receipts, items.inbound, items.unrecognised) == ((), (), ())
    assert items.preferences == (
        Preference(
            event_id=f"whatsapp:{ACCOUNT}:16505551234:{chosen}:1731705721000",
            channel="whatsapp",
            account=ACCOUNT,
            address="16505551234",
            choice=choice,
            reason="user_preferences",
            occurred_at=1_731_705_721_000,
            observed_at=AT,
        ),
    )


@pytest.mark.parametrize(
    "change",
    [
        {"wa_id": None},
        {"wa_id": "1" * 257},
        {"category": "service_messages"},
        {"category": None},
        {"value": "pause"},
        {"timestamp": "soon"},
        {"timestamp": -1},
    ],
)
def test_a_preference_that_cannot_be_read_is_named_and_the_others_stay(change: dict[str, Any]) -> None:
    items = _preferences(CHOSEN | change, None, CHOSEN)
    assert (len(items.preferences), len(items.unrecognised)) == (1, 2)


def test_who_hides_their_number_has_a_preference_too() -> None:
    scoped = {name: each for name, each in CHOSEN.items() if name != "wa_id"} | {"user_id": "US.13491208655302741918"}
    assert [each.address for each in _preferences(scoped).preferences] == ["US.13491208655302741918"]


def test_members_of_a_group_have_receipts_of_their_own() -> None:
    both = [
        status("read", recipient_type="group", recipient_participant_id="1"),
        status("read", recipient_participant_id="2"),
    ]
    first, second = _whatsapp(value(statuses=both)).receipts
    assert first.event_id != second.event_id
    assert first.provider_message_id == second.provider_message_id


def test_several_entries_changes_and_statuses() -> None:
    items = _whatsapp(
        value(statuses=[status("sent"), status("delivered")]), value(statuses=[status("read", "wamid.B")])
    )
    assert [receipt.status for receipt in items.receipts] == ["SENT", "DELIVERED", "READ"]


def test_unknown_kinds_are_named_and_the_other_items_stay() -> None:
    body = {
        "entry": [
            {"changes": [{"field": "account_update", "value": {"event": "x"}}]},
            {"changes": "not a list"},
            "not an object",
            {"changes": [{"field": "messages", "value": {"metadata": {}}}, {"field": "messages"}]},
            {"changes": [{"field": "messages", "value": value(statuses=[status("warning"), None, status("read")])}]},
            {"changes": [{"field": "messages", "value": value(errors=[{"code": 130429}, "x"])}]},
            {"changes": [{"field": "messages", "value": value(statuses={}, messages=[{"type": "system"}])}]},
        ]
    }
    items = WHATSAPP.parse_webhook(from_meta(json.dumps(body).encode()), AT)
    assert [receipt.status for receipt in items.receipts] == ["READ"]
    assert items.unrecognised == (
        "field account_update",
        "entry: changes is not a list",
        "entry: entry is not an object",
        "change: phone_number_id is not a text",
        "change: value is not an object",
        "statuses: status warning is unknown",
        "statuses: status is not an object",
        "statuses is not a list",
    )
    assert items.notices == ("account error 130429", "account error ?", "system message")


def test_inbound_messages() -> None:
    basis = {"from": "16505551234", "id": "wamid.IN", "timestamp": "1749416383"}
    messages = [
        {**basis, "type": "text", "text": {"body": "olá / 🌻"}, "context": {"id": "wamid.A"}},
        {**basis, "type": "image", "image": {"id": "1", "caption": "look"}},
        {
            **basis,
            "type": "interactive",
            "interactive": {"type": "button_reply", "button_reply": {"id": "1", "title": "Yes"}},
        },
        {**basis, "type": "reaction", "reaction": {"message_id": "wamid.A", "emoji": "👍"}},
        {**basis, "type": "unsupported", "errors": [{"code": 131051}]},
    ]
    items = _whatsapp(value(contacts=[{"wa_id": "16505551234"}], messages=messages))
    assert [(each.kind, each.text) for each in items.inbound] == [
        ("text", "olá / 🌻"),
        ("image", "look"),
        ("interactive", "Yes"),
        ("reaction", "👍"),
        ("unsupported", ""),
    ]
    assert {(each.account, each.address, each.at) for each in items.inbound} == {
        (ACCOUNT, "16505551234", 1_749_416_383_000)
    }


BEYOND_TEXT: dict[str, tuple[dict[str, Any], Content]] = {
    "a document": (
        {"type": "document", "document": {"id": "7", "url": "https://x", "mime_type": "a/b", "filename": "c.pdf"}},
        Content(media=(Media("document", provider_media_id="7", mime_type="a/b", filename="c.pdf"),)),
    ),
    "a voice message whose id is missing": (
        {"type": "audio", "audio": {"url": "https://x", "voice": True}},
        Content(media=(Media("audio", url="https://x"),)),
    ),
    "a place": (
        {"type": "location", "location": {"latitude": -23.5, "longitude": 46, "name": "Loja"}},
        Content(location=Location(-23.5, 46.0, "Loja")),
    ),
    "a reaction": (
        {"type": "reaction", "reaction": {"message_id": "wamid.A", "emoji": "👍"}},
        Content(reply_to="wamid.A", reaction="👍"),
    ),
    "a reaction taken back": (
        {"type": "reaction", "reaction": {"message_id": "wamid.A"}},
        Content(reply_to="wamid.A", reaction=""),
    ),
    "a button of a template": (
        {"type": "button", "button": {"text": "Yes", "payload": "y"}, "context": {"from": "1", "id": "wamid.A"}},
        Content(reply_to="wamid.A"),
    ),
}


@pytest.mark.parametrize(("message", "content"), BEYOND_TEXT.values(), ids=BEYOND_TEXT)
def test_an_inbound_message_has_more_than_its_text(message: dict[str, Any], content: Content) -> None:
    basis = {"from": "16505551234", "id": "wamid.IN", "timestamp": "1749416383"}
    (inbound,) = _whatsapp(value(messages=[basis | message])).inbound
    assert inbound.content == content
    codec.encode(Message(message_id="m", conversation_id="c", requested_at=AT, content=inbound.content))


@pytest.mark.parametrize(
    "place",
    [{}, {"latitude": "x", "longitude": 0}, {"latitude": 91, "longitude": 0}, {"latitude": 10**400, "longitude": 0}],
)
def test_a_malformed_place_is_left_out_and_the_message_stays(place: dict[str, Any]) -> None:
    broken = {"from": "1", "id": "w", "timestamp": "1", "type": "location", "location": place | {"name": "\ud83c"}}
    (inbound,) = _whatsapp(value(messages=[broken])).inbound
    assert (inbound.kind, inbound.content) == ("location", None)


def test_a_person_without_number_has_a_scoped_id() -> None:
    message = {
        "from_user_id": "US.123",
        "id": "wamid.IN",
        "timestamp": "1749416383",
        "type": "text",
        "text": {"body": "x"},
    }
    (inbound,) = _whatsapp(value(messages=[message])).inbound
    assert inbound.address == "US.123"


def test_a_lone_surrogate_loses_one_character() -> None:
    broken = {"from": "1", "id": "w", "timestamp": "1", "type": "text", "text": {"body": "cut \ud83c"}}
    items = _whatsapp(value(messages=[broken]), value(statuses=[status()]))
    assert items.inbound[0].text == "cut \ufffd"
    assert len(items.receipts) == 1


@pytest.mark.parametrize("body", [b"", b"\xff", b"[]", b"null", b"[" * 100_000, b'{"entry": 3}', b"{}"])
def test_a_signed_body_without_items_raises_nothing(body: bytes) -> None:
    items = WHATSAPP.parse_webhook(from_meta(body), AT)
    assert items.receipts == ()
    assert items.inbound == ()


@given(bad=st.lists(ANYTHING, max_size=5), place=st.integers(0, 5))
def test_one_bad_status_never_loses_the_rest(bad: list[Any], place: int) -> None:
    good = [status("sent"), status("delivered"), status("read", "wamid.B")]
    mixed = [*good[: place % 4], *bad, *good[place % 4 :]]
    items = _whatsapp(value(statuses=mixed))
    assert [each.provider_message_id for each in items.receipts] == ["wamid.A", "wamid.A", "wamid.B"]
    assert len(items.unrecognised) == len(bad)


@given(
    bad=st.fixed_dictionaries(
        {}, optional=dict.fromkeys((*status(), "biz_opaque_callback_data", "errors", "pricing"), ANYTHING)
    )
)
def test_any_field_may_be_anything(bad: dict[str, Any]) -> None:
    items = _whatsapp(
        value(statuses=[status() | bad, status("read", "wamid.B")], messages=[bad, {"type": "text"} | bad])
    )
    assert items.receipts[-1].provider_message_id == "wamid.B"
    assert len(items.receipts) + len(items.inbound) + len(items.unrecognised) == 4


@given(anything=ANYTHING)
def test_any_json_is_read_without_an_exception(anything: object) -> None:
    body = json.dumps(anything).encode()
    WHATSAPP.parse_webhook(from_meta(body), AT)
    TELEGRAM.parse_webhook(from_telegram(body), AT)
    for kind in ("message", "callback_query", "message_reaction"):
        TELEGRAM.parse_webhook(from_telegram({"update_id": 1, kind: anything}), AT)


@given(
    body=st.binary(max_size=60),
    headers=st.dictionaries(st.just("x-hub-signature-256"), st.text()),
    query=st.dictionaries(st.sampled_from(["hub.mode", "hub.verify_token"]), st.text() | st.just("subscribe")),
)
def test_no_request_whatever_raises_anything_but_forbidden(
    body: bytes, headers: dict[str, str], query: dict[str, str]
) -> None:
    for connector in (WHATSAPP, INSTAGRAM):
        connector.parse_webhook(from_meta(body), AT)
        with pytest.raises(Forbidden):
            connector.parse_webhook(WebhookRequest("POST", query, headers, body), AT)
        with pytest.raises(Forbidden):
            connector.challenge(WebhookRequest("GET", query, headers, body))


def test_only_a_signed_body_is_read() -> None:
    body = whatsapp_body(value(statuses=[status()]))
    assert WHATSAPP.parse_webhook(from_meta(body, "app-secret-old"), AT).receipts
    unsigned = WebhookRequest("POST", {}, {}, body)
    changed = WebhookRequest("POST", {}, from_meta(body).headers, body + b" ")
    for request in (from_meta(body, "another"), from_meta(body, ""), unsigned, changed):
        with pytest.raises(Forbidden):
            WHATSAPP.parse_webhook(request, AT)


def test_empty_secrets_prove_nothing() -> None:
    assert not is_signed_by_meta(b"x", from_meta(b"x", "").headers["x-hub-signature-256"], ("",))
    assert not is_signed_by_meta(b"x", None, ("s",))
    assert not is_signed_by_meta(b"x", "sha256=ü", ("s",))
    assert not is_from_telegram("", "")
    assert not is_from_telegram(None, "s")
    assert is_from_telegram("s", "s")


def test_the_challenge_needs_our_token() -> None:
    query = {"hub.mode": "subscribe", "hub.challenge": "1158201444", "hub.verify_token": "verify-me"}
    assert WHATSAPP.challenge(WebhookRequest("GET", query, {}, b"")) == "1158201444"
    for wrong in ({"hub.verify_token": "x"}, {"hub.mode": "unsubscribe"}, {"hub.verify_token": ""}):
        with pytest.raises(Forbidden):
            WHATSAPP.challenge(WebhookRequest("GET", query | wrong, {}, b""))


def test_a_telegram_message_is_inbound() -> None:
    items = TELEGRAM.parse_webhook(from_telegram({"update_id": 1, "message": theirs(text="olá")}), AT)
    (inbound,) = items.inbound
    assert (inbound.account, inbound.address, inbound.provider_message_id) == ("4242", "5005", "5005:43")
    assert (inbound.kind, inbound.text, inbound.at) == ("text", "olá", 1_773_347_900_000)
    assert items.receipts == ()


def test_a_reply_to_us_is_an_inferred_read() -> None:
    update = {"update_id": 1, "message": theirs(reply_to_message=ours())}
    items = TELEGRAM.parse_webhook(from_telegram(update), AT)
    assert len(items.inbound) == 1
    assert items.receipts == (
        Receipt(
            event_id="telegram:4242:5005:42:read",
            channel="telegram",
            account="4242",
            provider_message_id="5005:42",
            status=ReceiptStatus.READ,
            provider_at=1_773_347_900_000,
            received_at=AT,
            inferred=True,
        ),
    )


def test_a_reply_to_another_person_is_no_receipt() -> None:
    update = {"update_id": 1, "message": theirs(reply_to_message=theirs())}
    assert TELEGRAM.parse_webhook(from_telegram(update), AT).receipts == ()


def test_a_button_and_a_reaction_are_inferred_reads() -> None:
    button = {"update_id": 1, "callback_query": {"id": "9", "from": {"id": 5005}, "message": ours(), "data": "x"}}
    reaction = {"chat": {"id": 5005}, "message_id": 42, "date": 1773347901, "old_reaction": [], "new_reaction": []}
    first = TELEGRAM.parse_webhook(from_telegram(button), AT).receipts
    second = TELEGRAM.parse_webhook(from_telegram({"update_id": 2, "message_reaction": reaction}), AT).receipts
    assert [each.provider_message_id for each in first + second] == ["5005:42", "5005:42"]
    assert [each.provider_at for each in first + second] == [AT, 1_773_347_901_000]
    assert all(each.inferred for each in first + second)


@pytest.mark.parametrize(
    ("update", "named"),
    [
        ({"update_id": 1, "chat_join_request": {}}, "update of kind chat_join_request"),
        ({"update_id": 1}, "update of kind ?"),
        ({"update_id": 1, "message": {"left_chat_member": {}}}, "message: no content a person writes"),
        ({"update_id": 1, "message": []}, "update: message is not an object"),
        ({"update_id": 1, "callback_query": {"message": theirs()}}, "callback_query: not on a message of ours"),
        (b"not json", "update: update is not an object"),
    ],
)
def test_other_updates_are_named(update: object, named: str) -> None:
    assert TELEGRAM.parse_webhook(from_telegram(update), AT).unrecognised == (named,)


def test_telegram_needs_our_secret() -> None:
    for secret in ("", "x", "hook-secret "):
        with pytest.raises(Forbidden):
            TELEGRAM.parse_webhook(from_telegram({"update_id": 1}, secret), AT)
