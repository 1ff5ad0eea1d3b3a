"""The verdict's queries on a real PostgreSQL that the real archive has filled."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from loadgen.evidence import gather
from loadgen.verdict import Kind, judge
from schemas.records import DeliveryRef
from sinks.postgres import PostgresArchive
from tests.support.builders import OBSERVED, cursor
from tests.support.sink_databases import T0, postgres_database, sequenced, state

PEOPLE = (("whatsapp", "15551234567"), ("telegram", "700"))


@pytest.fixture
def url(postgres_url: str) -> Iterator[str]:
    with postgres_database(postgres_url) as url:
        yield url


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """The logs of the loader and both simulators for three messages to two people each; the first was produced twice."""
    produced, calls = [], {"whatsapp": [], "telegram": []}  # type: ignore[var-annotated]  # lists of JSON objects
    for offset, n in enumerate((1, 2, 1, 3)):
        produced.append(
            {
                "message_id": f"m{n}",
                "conversation_id": "c1",
                "partition": 2,
                "offset": offset,
                "at": T0,
                "recipients": [["whatsapp", "+15551234567"], ["telegram", "700"]],
            }
        )
    for n in (1, 2, 3):
        for channel, address in PEOPLE:
            calls[channel].append(
                {
                    "n": 2 * n,
                    "at": T0,
                    "account": "a",
                    "recipient": address,
                    "verdict": "accepted",
                    "status": 200,
                    "provider_message_id": f"{channel}.{n}",
                    "tracker": None,
                    "text_key": f"c1/m{n}",
                }
            )
        calls["whatsapp"].append(
            {"n": 2 * n + 1, "at": T0, "receipt": "delivered", "provider_message_id": f"whatsapp.{n}", "tries": 1}
        )
    for name, found in (("produced", produced), *calls.items()):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in found), encoding="utf-8")
    return tmp_path


def fill(url: str, numbers: tuple[int, ...], *, delivered: int = 3) -> None:
    refs = tuple(DeliveryRef(delivery_id=c, channel=c, account="a", recipient=a, address=a) for c, a in PEOPLE)
    messages = [sequenced(n, seq=seq, deliveries=refs) for seq, n in enumerate(numbers, 1)]
    elsewhere = sequenced(99, conversation_id="c2", seq=77)
    states = [state(n, v) for n in numbers for v in (1, 2, 3)]
    states += [
        state(n, v, channel="telegram", recipient="700", address="700", delivery_id=f"t{n}")
        for n in numbers
        for v in (1, 2)
    ]

    cursors = [cursor(conversation_id="c1", member="15551234567", last_delivered_seq=delivered, last_read_seq=0)]

    async def write() -> None:
        archive = PostgresArchive(url)
        await archive.open()
        await archive.positions([("t", 0)])
        await archive.write(messages=[*messages, elsewhere], states=states, cursors=cursors, offsets={("t", 0): (0, 1)})
        await archive.close()

    asyncio.run(write())


def providers(logs: Path) -> dict[str, Path]:
    return {channel: logs / f"{channel}.jsonl" for channel, _ in PEOPLE}


def test_the_three_sources_of_a_correct_run_agree(url: str, logs: Path) -> None:
    fill(url, (1, 2, 3))
    with psycopg.connect(url) as connection:
        verdict = judge(gather(logs / "produced.jsonl", providers(logs), connection), OBSERVED)
    assert verdict.ok, verdict.findings
    assert verdict.counts["duplicates dropped"] == 1
    assert verdict.counts["deliveries taken by a provider"] == 6
    assert verdict.statuses == {"whatsapp": {"DELIVERED": 3}, "telegram": {"SENT": 3}}
    assert (verdict.latencies["accept to sent"].p99, verdict.latencies["sent to delivered"].p50) == (100, 400)


def test_what_postgresql_lacks_is_found(url: str, logs: Path) -> None:
    fill(url, (1, 3))
    with psycopg.connect(url) as connection:
        verdict = judge(gather(logs / "produced.jsonl", providers(logs), connection), OBSERVED)
    assert verdict.findings[Kind.DISAGREEMENT] == [
        "message m2 of conversation c1 to whatsapp:15551234567: PostgreSQL has 0 deliveries",
        "message m2 of conversation c1 to telegram:700: PostgreSQL has 0 deliveries",
        "message m2 of conversation c1 was acknowledged and is not in PostgreSQL",
    ]


def test_a_cursor_that_is_not_what_the_deliveries_say_is_found(url: str, logs: Path) -> None:
    fill(url, (1, 2, 3), delivered=2)
    with psycopg.connect(url) as connection:
        verdict = judge(gather(logs / "produced.jsonl", providers(logs), connection), OBSERVED)
    assert verdict.findings[Kind.CURSOR] == [
        "member 15551234567 of conversation c1: PostgreSQL has delivered 2, read 0, the deliveries say delivered 3, read 0"
    ]
    assert not verdict.ok


def test_what_the_archive_set_aside_is_found(url: str, logs: Path) -> None:
    fill(url, (1, 2, 3))

    async def write() -> None:
        archive = PostgresArchive(url)
        await archive.open()
        await archive.write(messages=[sequenced(4, seq=2)], states=[], offsets={("t", 0): (1, 2)})
        await archive.close()

    asyncio.run(write())
    with psycopg.connect(url) as connection:
        verdict = judge(gather(logs / "produced.jsonl", providers(logs), connection), OBSERVED)
    assert verdict.findings[Kind.GAP] == ["conversation c1: number 2 of message m4 was set aside"]
