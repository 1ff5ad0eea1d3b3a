"""The contract of every connector, by one case file for each channel (cases/<channel>.json): exact requests, outcomes, no secret shown.

A file has the settings of the connector (its URL is the script's), the secrets among them, our account, a person's address, and cases. A
case has label, delivery (changes to the sample), attempt, part, answers (see tests/support/scripted.py), requests (as they must arrive) and
outcome, and optionally parts (how many calls the delivery needs) and says (words of the sentence). The first case is an ordinary text that
is accepted.
"""

import asyncio
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from connectors.base import Connector
from connectors.registry import CHANNELS
from schemas import content_json
from schemas.outcomes import Accepted, Outcome, Rejected, RetryLater, Unknown
from schemas.records import Delivery
from schemas.settings import Settings
from tests.support.scripted import Script, scripted

FILES: Mapping[str, Any] = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((Path(__file__).parent / "cases").glob("*.json"))
}
OVER_HTTP = sorted(channel for channel, file in FILES.items() if file["cases"][0]["answers"])
TEXT = "secret-words"  # in every text of the cases; no sentence and no log line may have it
SAMPLE = Delivery(
    delivery_id="dlv-1",
    message_id="msg-1",
    conversation_id="conv-1",
    home_partition=3,
    seq=7,
    channel="",
    account="",
    recipient="ana",
    address="",
    kind="text",
    text=f"{TEXT} olá 🌻",
    requested_at=1_700_000_000_000,
    accepted_at=1_700_000_000_100,
)


def _load() -> list[Any]:
    return [
        pytest.param(channel, case, id=f"{channel}-{case['label'].replace(' ', '_')}")
        for channel, file in FILES.items()
        for case in file["cases"]
    ]


def _connector(channel: str, url: str, timeout_seconds: float = 20.0) -> Connector:
    given = {f"{channel}_url": url, "send_timeout_seconds": timeout_seconds, **FILES[channel]["settings"]}
    return CHANNELS[channel].build(Settings.model_validate(given))


def _delivery(channel: str, changes: Mapping[str, Any]) -> Delivery:
    fields = {name: getattr(SAMPLE, name) for name in Delivery.__slots__}
    fields |= {"channel": channel, "account": FILES[channel]["account"], "address": FILES[channel]["address"]}
    repeat = changes.get("text_repeat")  # [text, times], so that long texts stay out of the case files
    more: dict[str, Any] = {"text": repeat[0] * repeat[1]} if repeat else {}
    if "content" in changes:
        more["content"] = content_json.from_json(changes["content"])
    return Delivery(**(fields | {k: v for k, v in changes.items() if k != "text_repeat"} | more))


def _as_case(outcome: Outcome) -> dict[str, Any]:
    match outcome:
        case Accepted(provider_ids):
            return {"accepted": list(provider_ids)}
        case RetryLater():
            fields = {"code": outcome.code, "after": outcome.after_seconds, "throttled": outcome.throttled}
            return {"retry_later": {**fields, "scope": outcome.scope.value}}
        case Rejected():
            return {"rejected": outcome.code} | ({"suppresses": outcome.suppresses} if outcome.suppresses else {})
        case Unknown():
            return {"unknown": outcome.code}


def _assert_requests(script: Script, expected: list[dict[str, Any]]) -> None:
    assert len(script.requests) == len(expected), "the number of requests that the case expects"
    for request, wanted in zip(script.requests, expected, strict=True):
        for part in ("method", "path", "json"):
            if part in wanted:
                assert request[part] == wanted[part]
        for name, value in wanted.get("headers", {}).items():
            assert request["headers"].get(name) == value


@pytest.mark.parametrize(("channel", "case"), _load())
async def test_case(channel: str, case: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with scripted(case["answers"]) as script:
        unanswered = [answer for answer in case["answers"] if answer.get("fault") in ("hang", "drip")]
        connector = _connector(channel, script.url, 0.4 if unanswered else 20.0)
        delivery = _delivery(channel, case.get("delivery", {}))
        parts = connector.parts(delivery)
        outcome = await connector.send(delivery, case.get("attempt", 1), case.get("part", 0))
        await connector.close()
    assert parts == case.get("parts", 1)
    if case["outcome"] == {"unknown": True}:  # any code
        assert isinstance(outcome, Unknown)
    else:
        assert _as_case(outcome) == case["outcome"]
    assert not script.answers, "every scripted answer is used"
    _assert_requests(script, case.get("requests", [{}] * len(case["answers"])))
    shown = repr(outcome) + caplog.text
    # A short address could be part of another number.
    person = [FILES[channel]["address"]] if len(FILES[channel]["address"]) > 8 else []
    assert [secret for secret in (*FILES[channel]["secrets"], TEXT, *person) if secret in shown] == []
    if "says" in case:
        assert case["says"] in shown


@pytest.mark.parametrize("channel", OVER_HTTP)
async def test_a_refused_connection_is_surely_not_sent(channel: str) -> None:
    async with scripted([]) as script:
        url = script.url
    connector = _connector(channel, url)
    outcome = await connector.send(_delivery(channel, {}), 1)
    await connector.close()
    assert isinstance(outcome, RetryLater)
    assert outcome.code == "connect"
    assert not outcome.throttled
    assert [secret for secret in FILES[channel]["secrets"] if secret in outcome.reason] == []


@pytest.mark.parametrize("channel", OVER_HTTP)
async def test_a_host_without_name_is_surely_not_sent(channel: str) -> None:
    connector = _connector(channel, "http://no-such-host.invalid")
    outcome = await connector.send(_delivery(channel, {}), 1)
    await connector.close()
    assert isinstance(outcome, RetryLater)
    assert outcome.code in {"dns", "connect_timeout"}  # the second when the resolver is slow


@pytest.mark.parametrize("channel", OVER_HTTP)
async def test_a_broken_tls_handshake_is_surely_not_sent(channel: str) -> None:
    async with scripted([]) as script:  # it speaks plain HTTP only
        connector = _connector(channel, script.url.replace("http:", "https:"))
        outcome = await connector.send(_delivery(channel, {}), 1)
        await connector.close()
    assert isinstance(outcome, RetryLater)
    assert not script.requests


@pytest.mark.parametrize("channel", OVER_HTTP)
async def test_a_full_pool_is_surely_not_sent(channel: str) -> None:
    async with scripted([{"fault": "hang"}]) as script:
        connector = _connector(channel, script.url, 0.4)
        connector._calls._connections = 1  # type: ignore[attr-defined]  # the smallest pool there is
        first, second = await asyncio.gather(*(connector.send(_delivery(channel, {}), 1) for _ in range(2)))
        await connector.close()
    assert isinstance(first, Unknown)
    assert isinstance(second, RetryLater)
    assert second.code == "connect_timeout"
    assert len(script.requests) == 1


@pytest.mark.parametrize("channel", sorted(FILES))
def test_check_needs_no_connector(channel: str) -> None:
    check = CHANNELS[channel].check
    assert check(_delivery(channel, {})) is None
    limit = CHANNELS[channel].capabilities.text_limit
    assert check(_delivery(channel, {"text_repeat": ["x", limit]})) is None
    refused = check(_delivery(channel, {"text_repeat": ["x", limit + 1]}))
    assert refused is not None
    assert str(limit) in refused.reason
    assert str(limit + 1) in refused.reason


def test_every_channel_has_a_case_file() -> None:
    assert set(FILES) == set(CHANNELS)


def test_each_channel_counts_in_its_own_unit() -> None:
    flowers = {"text_repeat": ["🌻", 2049]}  # 2049 characters, 4098 UTF-16 code units
    assert CHANNELS["whatsapp"].check(_delivery("whatsapp", flowers)) is None
    refused = CHANNELS["telegram"].check(_delivery("telegram", flowers))
    assert refused is not None
    assert "4098 UTF-16 code units" in refused.reason


async def test_the_next_attempt_uses_the_new_id_of_a_migrated_group() -> None:
    moved = {"ok": False, "error_code": 400, "description": "x", "parameters": {"migrate_to_chat_id": -100999}}
    taken = {"ok": True, "result": {"message_id": 1, "chat": {"id": -100999}}}
    async with scripted([{"status": 400, "json": moved}, {"status": 200, "json": taken}]) as script:
        connector = _connector("telegram", script.url)
        delivery = _delivery("telegram", {"address": "-55"})
        outcomes = [await connector.send(delivery, attempt) for attempt in (1, 2)]
        await connector.close()
    assert isinstance(outcomes[0], RetryLater)
    assert outcomes[1] == Accepted(("-100999:1",))
    assert [request["json"]["chat_id"] for request in script.requests] == [-55, -100999]


@pytest.mark.parametrize("channel", OVER_HTTP)
async def test_a_kept_connection_that_the_provider_closed_is_replaced(channel: str) -> None:
    async with scripted(FILES[channel]["cases"][0]["answers"] * 2, keep_seconds=0.05) as script:
        connector = _connector(channel, script.url)
        first = await connector.send(_delivery(channel, {}), 1)
        await asyncio.sleep(0.2)  # longer than the provider keeps an idle connection
        second = await connector.send(_delivery(channel, {}), 1)
        await connector.close()
    assert isinstance(first, Accepted)
    assert isinstance(second, Accepted)
