"""The history of a WhatsApp message gives the same receipts as its webhooks; odd answers give none and raise nothing but Unexpected."""

from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.json_fields import Unexpected
from connectors.whatsapp import message_history, webhook
from schemas.codec import check
from schemas.records import ReceiptStatus

ACCOUNT, WAMID, NOW = "106540352242922", "wamid.HBgL", 1_760_000_000_000
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.sampled_from(["data", "events", "message_id"]), each),
    max_leaves=8,
)


def answer(*events: Any, wamid: str = WAMID) -> dict[str, Any]:
    return {"data": [{"id": "1", "message_id": wamid, "events": {"data": list(events)}}], "paging": {}}


def event(name: str, at: Any = 1_750_857_384, **more: Any) -> dict[str, Any]:
    return {"id": "e", "delivery_status": name, "timestamp": at, "webhook_update_state": "FAILED", **more}


def of_webhook(name: str) -> Any:
    status = {"id": WAMID, "status": name, "timestamp": "1750857384", "recipient_id": "1555"}
    value = {"metadata": {"phone_number_id": ACCOUNT}, "statuses": [status]}
    body = {"entry": [{"changes": [{"field": "messages", "value": value}]}]}
    return webhook.read(orjson.dumps(body), NOW).receipts[0]


@pytest.mark.parametrize("name", ["delivered", "read", "failed"])
def test_a_receipt_is_the_one_that_the_webhook_gives(name: str) -> None:
    assert message_history.receipts(answer(event(name.upper())), ACCOUNT, WAMID, NOW) == (of_webhook(name),)


def test_what_says_nothing_new_is_left_out_and_a_failure_keeps_its_sentence() -> None:
    body = answer(
        event("SENT"), event("DELETED"), event("READ", "soon"), 7, event("FAILED", error_description="x" * 5000)
    )
    with pytest.raises(Unexpected, match="event is not an object"):
        message_history.receipts(body, ACCOUNT, WAMID, NOW)
    body["data"][0]["events"]["data"].remove(7)
    [failed] = message_history.receipts(body, ACCOUNT, WAMID, NOW)
    assert failed.status is ReceiptStatus.FAILED
    check(failed)
    assert (failed.error_title or "").startswith("xxx")


def test_a_status_counts_once_at_its_first_time_and_other_messages_not_at_all() -> None:
    twice = answer(event("READ", 1000), event("READ", 2000))
    assert [each.provider_at for each in message_history.receipts(twice, ACCOUNT, WAMID, NOW)] == [1_000_000]
    assert message_history.receipts(answer(event("READ"), wamid="wamid.other"), ACCOUNT, WAMID, NOW) == ()
    assert message_history.receipts({"data": []}, ACCOUNT, WAMID, NOW) == ()
    assert message_history.receipts({"data": [{"message_id": WAMID}]}, ACCOUNT, WAMID, NOW) == ()


@given(body=JSON)
def test_an_answer_of_any_form_gives_receipts_or_says_what_is_unexpected(body: Any) -> None:
    with suppress(Unexpected):
        assert message_history.receipts(body, ACCOUNT, WAMID, NOW) == ()


def test_the_query_is_one_url_part() -> None:
    query = message_history.query("wamid.a/b=?&c")
    assert "message_id=wamid.a%2Fb%3D%3F%26c&" in query
    assert not set('{}" ') & set(query)
