"""`chat4all receipts sweep`: against a simulated provider and a real PostgreSQL, and once through the whole stack."""

import asyncio
import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from confluent_kafka import Producer
from typer.testing import CliRunner, Result

from cli import sweep as sweep_command
from cli.dev_stack import compose
from schemas import codec
from schemas.records import Cause, DeliveryState, Message, Recipient, Status
from schemas.settings import Settings
from sinks.postgres import PostgresArchive
from stack import control
from stack.state import state_path
from tests.support.engine_harness import await_true
from tests.support.running_simulators import ACCOUNT, BOT_TOKEN, TOKEN, ConnectedRig, connected_rig, delivery
from tests.support.sink_databases import T0, postgres_database, state

run = CliRunner()


@pytest.fixture
def postgres(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with postgres_database(postgres_url) as url:
        monkeypatch.setenv("CHAT4ALL_POSTGRES_URL", url)
        monkeypatch.setenv("CHAT4ALL_WHATSAPP_ACCOUNT", ACCOUNT)
        monkeypatch.setenv("CHAT4ALL_WHATSAPP_TOKEN", TOKEN)
        monkeypatch.setenv("CHAT4ALL_TELEGRAM_TOKEN", BOT_TOKEN)
        for channel in ("WHATSAPP", "TELEGRAM"):
            monkeypatch.setenv(f"CHAT4ALL_{channel}_URL", "http://127.0.0.1:1")
        yield url


def waiting(n: int, **changes: Any) -> DeliveryState:
    """A delivery that counts as stalled."""
    values: dict[str, Any] = {"status": Status.SENT, "previous_status": Status.SENT, "cause": Cause.STALLED}
    values |= {"delivered_at": None, "stalled_at": T0 + n, "account": ACCOUNT}
    return state(n, 3, **(values | changes))


async def stored(url: str, *states: DeliveryState) -> None:
    archive = PostgresArchive(url)
    at = (await archive.positions([("delivery-states", 0)]))["delivery-states", 0]
    await archive.write(messages=[], states=states, offsets={("delivery-states", 0): (at, at + len(states))})
    await archive.close()


async def sweep(*arguments: str) -> Result:
    """The command runs an event loop of its own, beside the simulator's."""
    return await asyncio.to_thread(run.invoke, sweep_command.app, ["sweep", *arguments])


async def sent(at: ConnectedRig, n: int) -> str:
    """The wamid of a message that the simulator accepted."""
    outcome: Any = await at.connector.send(delivery("whatsapp", n), 1)
    return str(outcome.provider_ids[0])


def plain(result: Result) -> dict[str, dict[str, Any]]:
    return {each["channel"]: each for each in json.loads(result.stdout)["channels"]}


async def test_lost_receipts_are_found_and_what_cannot_be_asked_is_listed(
    postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected_rig("whatsapp", receipt_loss=1.0) as at, connected_rig("telegram") as bot:
        monkeypatch.setenv("CHAT4ALL_WHATSAPP_URL", at.url)
        monkeypatch.setenv("CHAT4ALL_TELEGRAM_URL", bot.url)
        wamid = await sent(at, 1)
        await stored(
            postgres,
            waiting(1, provider_message_id=wamid),
            waiting(2, provider_message_id="wamid.HBgLdW5rbm93bg=="),
            waiting(3, provider_message_id=None),
            waiting(4, channel="telegram", account="4242"),
            waiting(5, channel="instagram"),
        )
        result = await sweep("--dry-run", "--json", "--per-second", "20")
        drawn = await sweep("--dry-run", "--per-second", "20")
    assert result.exit_code == 0, result.output
    found = plain(result)
    whatsapp = found["whatsapp"]
    assert [whatsapp[name] for name in ("asked", "found", "missing", "refused", "not_asked")] == [2, 1, 1, 0, 1]
    assert {(each["event_id"], each["status"]) for each in whatsapp["receipts"]} >= {
        (f"whatsapp:{ACCOUNT}:{wamid}:read", "READ")
    }
    assert whatsapp["reasons"] == ["no id of the provider is known"]
    assert (found["telegram"]["asked"], found["telegram"]["not_asked"]) == (0, 1)
    assert found["telegram"]["webhook_state"].startswith("Telegram keeps 0 updates for us")
    assert "not whether it was read" in found["instagram"]["reasons"][0]
    assert found["internal"]["asked"] == found["internal"]["not_asked"] == 0
    assert [each["delivery_id"] for each in found["telegram"]["deliveries"]] == ["d4"]
    lines = re.sub(r"[ \u2500-\u257f]+", " ", drawn.output)
    assert " whatsapp 3 2 1 1 0 1 no id of the provider is known " in lines
    assert "not produced (--dry-run)" in lines
    assert " d2 " in lines
    assert " d4 " in lines
    assert " d1 " not in lines


async def test_a_provider_that_refuses_is_one_line_and_exit_code_1(
    postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Meta may not have granted the history to the app: one question, and the others are not asked."""
    await stored(postgres, *(waiting(n, provider_message_id="wamid.HBgLdW5rbm93bg==") for n in range(3)))
    async with connected_rig("whatsapp") as at:
        monkeypatch.setenv("CHAT4ALL_WHATSAPP_URL", at.url)
        assert (await at.control("/_control/account", code=10))[0] == 200
        result = await sweep("--dry-run", "--json")
    assert result.exit_code == 1
    whatsapp = plain(result)["whatsapp"]
    assert [whatsapp[name] for name in ("asked", "refused", "not_asked")] == [1, 1, 2]
    assert whatsapp["reasons"] == ["permission for this call is missing or was removed: grant it to the app at Meta"]
    unreachable = (await asyncio.gather(sweep("--dry-run", "--json", "--channel", "telegram")))[0]
    assert plain(unreachable)["telegram"]["asked"] == 0


async def test_the_age_takes_what_is_sent_only_where_more_can_come(postgres: str) -> None:
    """Telegram reports nothing after SENT, so its deliveries wait for nothing, however old they are."""
    young = state(3, 2, sent_at=4_000_000_000_000)
    await stored(postgres, state(1, 2), young, state(2, 2, channel="telegram"), state(4, 3))
    nothing = plain(await sweep("--dry-run", "--json"))
    assert all(not each["deliveries"] for each in nothing.values())
    old = plain(await sweep("--dry-run", "--json", "--older-than", "30m", "--per-second", "20"))
    assert [each["delivery_id"] for each in old["whatsapp"]["deliveries"]] == ["d1"]
    assert old["telegram"]["deliveries"] == []


async def test_the_limit_bounds_the_questions_and_says_so(postgres: str) -> None:
    await stored(postgres, *(waiting(n, channel="telegram", sent_at=T0 - n) for n in range(5)))
    result = await sweep("--dry-run", "--limit", "3", "--json")
    telegram = plain(result)["telegram"]
    assert [each["delivery_id"] for each in telegram["deliveries"]] == ["d4", "d3", "d2"]  # sent first in front
    assert telegram["more_than_the_limit"] is True
    assert " 3+ " in re.sub(r"[ \u2500-\u257f]+", " ", (await sweep("--dry-run", "--limit", "3")).output)


@pytest.mark.usefixtures("postgres")
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--older-than", "2 weeks"], "write a number and s, m, h or d"),
        (["--channel", "fax"], "there is no channel 'fax'"),
        (["--limit", "0"], "--limit"),
    ],
)
async def test_a_wrong_command_line_is_refused(arguments: list[str], sentence: str) -> None:
    result = await sweep("--dry-run", *arguments)
    assert result.exit_code == 2
    assert sentence in re.sub(r"[ \n\u2500-\u257f]+", " ", result.output)


async def test_a_database_without_our_relations_says_what_to_run(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with postgres_database(postgres_url, migrated=False) as url:
        monkeypatch.setenv("CHAT4ALL_POSTGRES_URL", url)
        result = await sweep("--dry-run")
    assert (result.exit_code, result.stderr) == (2, "PostgreSQL lacks our relations: run `python -m sinks.migrate`\n")


async def test_a_kafka_that_does_not_answer_is_no_success(postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAT4ALL_KAFKA_URL", "127.0.0.1:1")
    async with connected_rig("whatsapp", receipt_loss=1.0) as at:
        monkeypatch.setenv("CHAT4ALL_WHATSAPP_URL", at.url)
        await stored(postgres, waiting(1, provider_message_id=await sent(at, 1)))
        result = await sweep()
    assert result.exit_code == 2
    assert "did not store the receipts, run the command again" in result.stderr
    assert "are in Kafka" not in result.stdout


def test_a_lost_webhook_is_found_by_a_sweep_of_the_whole_stack(
    tmp_path: Path, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All webhooks of a message are lost, it stalls, and a sweep finds the receipts; the status moves, and a second sweep asks nothing."""
    monkeypatch.setenv("CHAT4ALL_STALLED_SECONDS", "whatsapp=1")
    folder = tmp_path / "stack"
    running = control.start(folder, compose(folder), lambda _: None)
    try:
        settings = Settings.model_validate(running.settings)
        simulated = next(s.parts for s in running.services if s.name == "simulators")["whatsapp"]
        faults = urllib.request.Request(f"{simulated}/_control/faults", b'{"receipt_loss": 1.0}', method="POST")
        assert urllib.request.urlopen(faults, timeout=10).status == 200
        message = Message(
            message_id=unique,
            conversation_id=unique,
            recipients=(Recipient(channel="whatsapp", address="15550001234"),),
            text="olá",
            requested_at=1_700_000_000_000,
        )
        producer = Producer({**settings.kafka.settings("tests"), "partitioner": "murmur2_random"})
        producer.produce("messages", codec.encode(message), unique)
        assert producer.flush(30) == 0
        await_true(lambda: status_of(settings, unique) == [("SENT", True)], "the message to stall", 40)
        swept = swept_stack(folder)
        assert (swept["asked"], swept["found"]) == (1, 1)
        await_true(lambda: status_of(settings, unique) == [("READ", False)], "the receipts to arrive", 30)
        with psycopg.connect(settings.postgres_url) as connection:
            events = connection.execute(
                "select event_id from delivery_events where cause = 'RECEIPT' order by version"
            ).fetchall()
            stands = connection.execute("select deliveries, read, sent from message_states").fetchall()
        assert {event for (event,) in events} == {each["event_id"] for each in swept["receipts"]}
        assert stands == [(1, 1, 0)]
        assert swept_stack(folder)["asked"] == 0
    finally:
        control.stop(folder)


def status_of(settings: Settings, message_id: str) -> list[tuple[str, bool]]:
    """The status of each delivery of a message, and whether it counts as stalled."""
    with psycopg.connect(settings.postgres_url) as connection:
        return connection.execute(
            "select status, stalled_at is not null from deliveries where message_id = %s", (message_id,)
        ).fetchall()


def swept_stack(folder: Path) -> dict[str, Any]:
    """What `chat4all receipts sweep` says about WhatsApp, run as a person runs it."""
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", "receipts", "sweep", "--json"],
        env={**os.environ, "CHAT4ALL_STATE": str(state_path(folder))},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return next(each for each in json.loads(done.stdout)["channels"] if each["channel"] == "whatsapp")
