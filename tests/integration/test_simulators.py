"""The simulators with our own connectors over real sockets: what they answer, post to our webhook and log."""

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from schemas import tracker
from schemas.outcomes import Accepted, Rejected, RetryLater, Unknown
from schemas.records import ReceiptStatus
from simulators.misbehaviour import CallOutcome, Misbehaviour, RandomSource
from simulators.provider_log import Log
from tests.support.builders import TRACKER_KEYS
from tests.support.running_simulators import ACCOUNT, BOT_TOKEN, TOKEN, ConnectedRig, connected_rig, delivery

ORDER = [ReceiptStatus.SENT, ReceiptStatus.DELIVERED, ReceiptStatus.READ]


async def _send(at: ConnectedRig, count: int) -> list[str]:
    ids = []
    for number in range(count):
        outcome = await at.connector.send(delivery(at.provider.name, number), 1)
        assert isinstance(outcome, Accepted)
        ids.append(outcome.provider_ids[0])
    return ids


def _statuses(at: ConnectedRig, wamid: str) -> list[ReceiptStatus]:
    return [each.status for each in at.receiver.receipts if each.provider_message_id == wamid]


async def test_a_message_is_accepted_and_its_receipts_come_back_with_our_tracker() -> None:
    async with connected_rig("whatsapp") as at:
        (wamid,) = await _send(at, 1)
        await at.receiver.until(lambda: len(at.receiver.receipts) == 3)
        log = await at.log()
    assert _statuses(at, wamid) == ORDER
    assert {each.account for each in at.receiver.receipts} == {ACCOUNT}
    tracked = tracker.decode(at.receiver.receipts[0].callback_data, TRACKER_KEYS, "whatsapp", ACCOUNT)
    assert tracked is not None
    assert (tracked.delivery_id, tracked.attempt) == ("dlv-0", 1)
    call, *receipts = log
    assert call | {"at": 0} == {
        "n": 1,
        "at": 0,
        "account": ACCOUNT,
        "recipient": "15551234567",
        "provider_message_id": wamid,
        "verdict": "accepted",
        "status": 200,
        "tracker": tracker.encode(replace(delivery("whatsapp", 0), account=ACCOUNT), 1, TRACKER_KEYS),
        "text_key": "msg-0",
        "kind": "text",
    }
    assert [(each["receipt"], each["provider_message_id"], each["tries"]) for each in receipts] == [
        ("sent", wamid, 1),
        ("delivered", wamid, 1),
        ("read", wamid, 1),
    ]


async def test_bodies_are_escaped_as_meta_escapes_them() -> None:
    async with connected_rig("whatsapp") as at:
        status, answer = await at.control("/_control/inbound", **{"from": "15550001111", "text": "olá / 🌻"})
        await at.receiver.until(lambda: bool(at.receiver.inbound))
    assert status == 202
    assert at.receiver.inbound[0].text == "olá / 🌻"
    assert at.receiver.inbound[0].provider_message_id == answer["id"]
    assert b"ol\\u00e1 \\/ \\ud83c" in at.receiver.bodies[0]


async def test_receipts_are_doubled_early_out_of_order_and_read_without_delivered() -> None:
    async with connected_rig("whatsapp", seed=7, double=0.3, early=0.3, shuffle=0.3, read_without_delivered=0.3) as at:
        wamids = await _send(at, 40)
        last_call = max(each["n"] for each in await at.log() if "verdict" in each)
        await at.receiver.until(lambda: all(ReceiptStatus.READ in _statuses(at, wamid) for wamid in wamids))
        log = await at.log()
    seen = {wamid: _statuses(at, wamid) for wamid in wamids}
    assert any(max(Counter(each).values()) > 1 for each in seen.values()), "doubled"
    assert any([s for s in ORDER if s in each] != list(dict.fromkeys(each)) for each in seen.values()), "out of order"
    assert any(ReceiptStatus.DELIVERED not in each for each in seen.values()), "read without delivered"
    assert last_call > 40, "receipts arrived between the calls"
    assert {each["provider_message_id"] for each in log if "receipt" in each} == set(wamids)


async def test_an_early_receipt_is_here_before_the_answer() -> None:
    async with connected_rig("whatsapp", early=1.0, receipt_delay_ms=10_000.0) as at:
        (wamid,) = await _send(at, 1)
        assert _statuses(at, wamid) == [ReceiptStatus.SENT]


async def test_a_webhook_that_refuses_gets_the_receipts_again() -> None:
    async with connected_rig("whatsapp", refusals=2) as at:
        await _send(at, 1)
        await at.receiver.until(lambda: len(at.receiver.receipts) == 3)
        log = await at.log()
    assert max(each["tries"] for each in log if "receipt" in each) > 1


async def test_many_receipts_share_a_post() -> None:
    async with connected_rig("whatsapp", receipt_delay_ms=300.0) as at:
        await asyncio.gather(*(at.connector.send(delivery("whatsapp", number), 1) for number in range(60)))
        await at.receiver.until(lambda: len(at.receiver.receipts) == 180)
    assert len(at.receiver.bodies) < 150


OUTCOMES: list[tuple[str, str, Any, bool]] = [
    ("throttle_rate", "throttled", RetryLater, False),
    ("reject_rate", "rejected", Rejected, False),
    ("error_rate", "error", Unknown, False),
    ("lost_answer_rate", "error", Unknown, True),
    ("hang_rate", "hung", Unknown, True),
]


@pytest.mark.parametrize(("knob", "verdict", "outcome", "taken"), OUTCOMES)
@pytest.mark.parametrize("channel", ["whatsapp", "telegram"])
async def test_each_fault(channel: str, knob: str, verdict: str, outcome: type, taken: bool) -> None:
    async with connected_rig(channel) as at:
        at.connector._calls._timeout = aiohttp.ClientTimeout(total=0.3, connect=0.15)  # type: ignore[attr-defined]  # hangs end soon
        assert (await at.control("/_control/faults", **{knob: 1.0}))[0] == 200
        got = await at.connector.send(delivery(channel, 1), 1)
        (call,) = [each for each in await at.log() if "verdict" in each]
    assert isinstance(got, outcome)
    assert call["verdict"] == verdict
    assert (call["provider_message_id"] is not None) == taken
    assert call["text_key"] == "msg-1"
    if isinstance(got, RetryLater):
        assert (got.after_seconds, got.throttled, got.scope) == (1.0, True, "account")


async def test_a_call_whose_client_disconnects_is_logged(tmp_path: Path) -> None:
    async with connected_rig("telegram", latency_ms=60_000.0, log=tmp_path / "calls.log") as at:
        sending = asyncio.create_task(at.connector.send(delivery("telegram", 1, "5005"), 1))
        async with asyncio.timeout(5):
            while not await at.log():  # noqa: ASYNC110  # in production the log belongs to another process
                await asyncio.sleep(0.01)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    (line,) = (tmp_path / "calls.log").read_text().splitlines()
    assert json.loads(line)["provider_message_id"] == "5005:1"


async def test_a_late_failure_comes_by_receipt() -> None:
    async with connected_rig("whatsapp", fail_rate=1.0) as at:
        await _send(at, 1)
        await at.receiver.until(lambda: len(at.receiver.receipts) == 2)
    assert [each.status for each in at.receiver.receipts] == ["SENT", "FAILED"]
    assert at.receiver.receipts[1].error_code == "131049"


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"messaging_product": "sms"}, 400, 100),
        ({"to": None}, 400, 131008),
        ({"to": "Ana"}, 400, 131009),
        ({"text": None}, 400, 131008),
        ({"text": {"body": ""}}, 400, 131008),
        ({"text": {"body": "x" * 4097}}, 400, 100),
        ({"biz_opaque_callback_data": "x" * 513}, 400, 100),
        ({"type": "hologram"}, 400, 131051),
        ({}, 200, None),
        ({"to": "+15551234567"}, 200, None),
    ],
)
async def test_whatsapp_validates_bodies(change: dict[str, Any], status: int, code: int | None) -> None:
    body = {"messaging_product": "whatsapp", "to": "15551234567", "type": "text", "text": {"body": "x"}} | change
    async with connected_rig("whatsapp") as at, aiohttp.ClientSession(at.url) as session:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with session.post(f"/v21.0/{ACCOUNT}/messages", json=body, headers=headers) as response:
            answer = await response.json()
    assert response.status == status
    assert answer.get("error", {}).get("code") == code


@pytest.mark.parametrize(
    ("path", "token", "status", "code"),
    [
        (f"/v21.0/{ACCOUNT}/messages", "wrong", 401, 190),
        ("/v21.0/1/messages", TOKEN, 404, 803),
        (f"/{ACCOUNT}/messages", TOKEN, 404, 803),
    ],
)
async def test_whatsapp_knows_its_token_and_account(path: str, token: str, status: int, code: int) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        connected_rig("whatsapp") as at,
        aiohttp.ClientSession(at.url) as session,
        session.post(path, data=b"{", headers=headers) as response,
    ):
        answer = await response.json()
    assert (response.status, answer["error"]["code"]) == (status, code)


@pytest.mark.parametrize("encoding", ["json", "data", "params", "multipart"])
async def test_telegram_takes_four_encodings_and_any_case(encoding: str) -> None:
    fields = {"chat_id": "5005", "text": "[m-1] olá"}
    async with connected_rig("telegram") as at, aiohttp.ClientSession(at.url) as session:
        arguments: dict[str, Any] = {encoding: fields}
        if encoding == "multipart":
            writer = aiohttp.MultipartWriter("form-data")
            for name, content in fields.items():
                writer.append(content).set_content_disposition("form-data", name=name)
            arguments = {"data": writer}
        async with session.post(f"/bot{BOT_TOKEN}/SENDmessage", **arguments) as response:
            answer = await response.json()
        log = await at.log()
    assert answer["result"]["text"] == "[m-1] olá"
    assert answer["result"]["chat"]["id"] == 5005
    assert log[0]["text_key"] == "m-1"


@pytest.mark.parametrize(
    ("method", "fields", "status", "description"),
    [
        ("sendMessage", {"text": "x"}, 400, "Bad Request: chat_id is empty"),
        ("sendMessage", {"chat_id": "0", "text": "x"}, 400, "Bad Request: chat not found"),
        ("sendMessage", {"chat_id": "ana", "text": "x"}, 400, "Bad Request: chat not found"),
        ("sendMessage", {"chat_id": 5, "text": " "}, 400, "Bad Request: message text is empty"),
        ("sendMessage", {"chat_id": 5, "text": "🌻" * 2049}, 400, "Bad Request: message is too long"),
        ("sendNothing", {}, 404, "Not Found: method not found"),
        ("getMe", {}, 200, None),
        ("setWebhook", {"url": "https://example.org/x", "secret_token": "s"}, 200, None),
        (
            "setWebhook",
            {"url": "http://example.org/x"},
            400,
            "Bad Request: bad webhook: An HTTPS URL must be provided for webhook",
        ),
    ],
)
async def test_telegram_validates_calls(
    method: str, fields: dict[str, Any], status: int, description: str | None
) -> None:
    async with connected_rig("telegram") as at, aiohttp.ClientSession(at.url) as session:
        async with session.post(f"/bot{BOT_TOKEN}/{method}", json=fields) as response:
            answer = await response.json()
        async with session.post(f"/bot4242:wrong/{method}", json=fields) as other:
            assert other.status == 401
    assert (response.status, answer.get("description")) == (status, description)


async def test_telegram_counts_message_ids_per_chat() -> None:
    async with connected_rig("telegram") as at:
        outcomes = [await at.connector.send(delivery("telegram", n, chat), 1) for n, chat in enumerate(["5", "6", "5"])]
    assert outcomes == [Accepted(("5:1",)), Accepted(("6:1",)), Accepted(("5:2",))]


async def test_people_on_telegram_reply_and_react_when_the_knobs_say_so() -> None:
    async with connected_rig("telegram", reply_rate=1.0, reaction_rate=1.0, refusals=1) as at:
        outcome = await at.connector.send(delivery("telegram", 1, "5005"), 1)
        await at.receiver.until(lambda: len(at.receiver.receipts) == 2 and len(at.receiver.inbound) == 1)
        status, answer = await at.control("/_control/inbound", chat_id=5005, kind="callback_query", reply_to=1)
        await at.receiver.until(lambda: len(at.receiver.receipts) == 3)
    assert outcome == Accepted(("5005:1",))
    assert {each.provider_message_id for each in at.receiver.receipts} == {"5005:1"}
    assert at.receiver.inbound[0].address == "5005"
    assert (status, answer) == (202, {"id": "5005:1"})


async def test_the_control_api_refuses_what_it_does_not_know() -> None:
    async with connected_rig("whatsapp") as at:
        assert (await at.control("/_control/faults", nonsense=1))[0] == 400
        assert (await at.control("/_control/faults", double=1.5))[0] == 400
        assert (await at.control("/_control/inbound", text="x"))[0] == 400
        assert (await at.control("/_control/nothing"))[0] == 404


def test_the_same_seed_draws_the_same_outcomes() -> None:
    misbehaviour = Misbehaviour(double=0.5, shuffle=0.5, early=0.5, throttle_rate=0.2, hang_rate=0.2)

    def draws(seed: int) -> list[Any]:
        source = RandomSource(seed)
        drawn = []
        for number in range(200):
            rng = source.for_call(f"5555{number % 50}")
            drawn.append((rng.outcome(misbehaviour), rng.plan(misbehaviour, rng.statuses(misbehaviour))))
        return drawn

    assert draws(3) == draws(3) != draws(4)
    assert {outcome for outcome, _ in draws(3)} == {CallOutcome.ACCEPTED, CallOutcome.THROTTLED, CallOutcome.HUNG}


def test_a_page_of_the_ring_says_which_lines_are_gone() -> None:
    log = Log(None, ring=3)
    for _ in range(5):
        log.receipt("sent", "wamid.A", 1)
    page = json.loads(log.page(0, 2))
    assert ([each["n"] for each in page["lines"]], page["first"], page["next"]) == ([3, 4], 3, 4)
    assert [each["n"] for each in json.loads(log.page(4, 2))["lines"]] == [5]
    assert json.loads(log.page(5, 2)) == {"lines": [], "first": 3, "next": 5}


async def test_web_pages_reach_neither_controls_nor_log_and_a_closed_log_is_not_served() -> None:
    async with connected_rig("whatsapp") as at, aiohttp.ClientSession(at.url) as session:

        async def status(path: str, **headers: str) -> int:
            async with session.get(path, headers=headers) as answer:
                return answer.status

        for path in ("/_log", "/_control/faults"):
            assert await status(path) == 200
            assert await status(path, Host="localhost:1") == await status(path, Host="[::1]:1") == 200
            assert await status(path, Host="simulators:8080") == 200
            for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.", ""):
                assert await status(path, Host=host) in (400, 403)
            assert await status(path, Origin="http://127.0.0.1") == 403
        at.provider.shows_log = False
        assert await status("/_log") == 404
        assert await status("/_control/faults") == 200


def test_ids_continue_after_a_restart_on_the_same_log(tmp_path: Path) -> None:
    path = tmp_path / "calls.log"
    first = Log(path)
    first.receipt("sent", "wamid.A", 1)
    first.close()
    with path.open("ab") as file:
        file.write(b'{"n":2,"at":17')  # killed in the middle of a line
    second = Log(path)
    assert second.take() > 2
    second.close()
    assert path.read_bytes().endswith(b'{"n":2,"at":17\n')


def _environment(tmp_path: Path) -> dict[str, str]:
    return os.environ | {
        "CHAT4ALL_TELEGRAM_TOKEN": BOT_TOKEN,
        "CHAT4ALL_TELEGRAM_WEBHOOK_SECRET": "s",
        "CHAT4ALL_STATE": str(tmp_path / "none.json"),
    }


async def test_the_process_writes_the_rest_of_its_log_when_it_is_stopped(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "cli.main",
        "simulate",
        "telegram",
        "--log",
        str(tmp_path / "calls.log"),
        "--latency-ms",
        "0",
        "--no-limits",
    ]
    process = await asyncio.create_subprocess_exec(*command, env=_environment(tmp_path), stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    url = (await process.stdout.readline()).decode().split()[-1]
    async with aiohttp.ClientSession(url) as session:
        for number in range(20):
            fields = {"chat_id": 5, "text": f"[m-{number}] x"}
            async with session.post(f"/bot{BOT_TOKEN}/sendMessage", json=fields) as response:
                assert response.status == 200
    process.send_signal(signal.SIGTERM)
    rest = await process.communicate()
    assert process.returncode == 0
    lines = [json.loads(line) for line in (tmp_path / "calls.log").read_text().splitlines()]
    assert [line["text_key"] for line in lines] == [f"m-{number}" for number in range(20)]
    assert rest[0] == b""


async def test_several_simulators_share_a_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "simulators", "telegram", "--log", str(tmp_path / "one.log"), "--no-limits"]
    command += ["+", "telegram", "--log", str(tmp_path / "two.log")]
    process = await asyncio.create_subprocess_exec(*command, env=_environment(tmp_path), stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    urls = [(await process.stdout.readline()).decode().split()[-1] for _ in range(2)]
    for number, url in enumerate(urls):
        async with aiohttp.ClientSession(url) as session:
            fields = {"chat_id": 5, "text": f"[m-{number}] x"}
            answers = []
            for _ in range(6):  # one more than a chat may get at once
                async with session.post(f"/bot{BOT_TOKEN}/sendMessage", json=fields) as response:
                    answers.append(response.status)
            assert answers == [200] * 5 + [200 if number == 0 else 429]  # only the second has limits
    process.send_signal(signal.SIGTERM)
    await process.communicate()
    assert process.returncode == 0
    logs = [(tmp_path / name).read_text(encoding="utf-8") for name in ("one.log", "two.log")]
    assert ["m-0" in logs[0], "m-1" in logs[0], "m-0" in logs[1], "m-1" in logs[1]] == [True, False, False, True]


async def test_a_missing_setting_is_one_line(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "cli.main", "simulate", "whatsapp"],
        env=_environment(tmp_path),
        stderr=asyncio.subprocess.PIPE,
    )
    _, printed = await process.communicate()
    assert process.returncode == 2
    (line,) = printed.decode().splitlines()
    assert "CHAT4ALL_WHATSAPP_ACCOUNT, CHAT4ALL_WHATSAPP_TOKEN, CHAT4ALL_WHATSAPP_APP_SECRETS" in line
