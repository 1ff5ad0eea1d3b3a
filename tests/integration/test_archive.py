"""The archive with a real PostgreSQL: the rows are correct after any replay, reordering, interruption or hostile content."""

import asyncio
import random
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from pipelines.archive import Archive as Stage
from schemas.content import Content, Media
from schemas.content_json import as_json
from schemas.records import Cause, DeliveryState, Direction, SequencedMessage, Status
from sinks.postgres import PostgresArchive
from sinks.sink_errors import NotMigrated, SinkFenced, Unavailable
from sinks.storable_text import EARLIEST, LATEST, key, original
from tests.support import builders
from tests.support.sink_databases import T0, postgres_database, rows, sequenced, state

STATES = ("delivery-states", 0)
CURSORS = ("cursors", 0)
IMAGE = Content(media=(Media("image", url="https://shop.example/a.jpg", size=48_211),), reply_to="wamid.0")
LOG = ("conversation-log", 0)


def content(url: str) -> dict[str, set[str]]:
    """Everything in the archive except the time of writing."""
    return {
        relation: {row for (row,) in rows(url, f"select (to_jsonb(r) - 'archived_at')::text from {relation} r")}
        for relation in ("messages", "message_conflicts", "deliveries", "delivery_events")
    }


async def write(
    archive: PostgresArchive,
    *,
    messages: list[SequencedMessage] | None = None,
    states: list[DeliveryState] | None = None,
) -> None:
    """Writes one batch at the archive's present positions."""
    at = await archive.positions([STATES, LOG])
    await archive.write(
        messages=messages or [],
        states=states or [],
        offsets={
            STATES: (at[STATES], at[STATES] + len(states or [])),
            LOG: (at[LOG], at[LOG] + len(messages or [])),
        },
    )


async def test_a_new_partition_begins_at_zero_and_positions_follow_the_writes(archive: PostgresArchive) -> None:
    assert await archive.positions([STATES, LOG]) == {STATES: 0, LOG: 0}
    await archive.write(messages=[sequenced(1)], states=[], offsets={LOG: (0, 17)})
    assert await archive.positions([STATES, LOG]) == {STATES: 0, LOG: 17}


async def test_every_field_is_read_back_unchanged(archive: PostgresArchive, url: str) -> None:
    given = state(1, 4, anomaly="late", reason_code="131026", reason="undeliverable", delivered_implied=True, resends=2)
    given = replace(given, stalled_at=T0 + 9)
    message = sequenced(1, metadata={"campaign": "spring", "ü": "ß"}, text="Olá 👋\n\t\\N", kind="image", content=IMAGE)
    await write(archive, messages=[message], states=[given])
    with psycopg.connect(url, row_factory=psycopg.rows.dict_row) as connection:
        connection.execute("set timezone = 'America/Sao_Paulo'")
        kept = connection.execute("select * from deliveries").fetchone()
        kept_message = connection.execute("select * from messages").fetchone()
    assert kept is not None
    assert kept_message is not None
    for record, row in ((given, kept), (message, kept_message)):
        for column, value in row.items():
            if column == "archived_at":
                continue
            kept_value = round(value.timestamp() * 1000) if column.endswith("_at") and value is not None else value
            given_value = getattr(record, column)
            assert kept_value == (as_json(given_value) if column == "content" else given_value), column


async def test_the_view_of_stalled_deliveries_shows_what_is_stalled_now(archive: PostgresArchive, url: str) -> None:
    """The label comes with a transition and goes with a later one; each transition keeps its own."""
    stalled = [
        state(n, 3, status=Status.SENT, cause=Cause.STALLED, delivered_at=None, stalled_at=T0 + n) for n in (1, 2)
    ]
    await write(archive, states=[state(1, 2), *stalled])
    query = "select delivery_id, channel, account, provider_message_id, stalled_at from stalled_deliveries order by 1"
    assert [(row[0], row[3], round(row[4].timestamp() * 1000)) for row in rows(url, query)] == [
        ("d1", "wamid.1", T0 + 1),
        ("d2", "wamid.2", T0 + 2),
    ]
    await write(archive, states=[state(1, 4)])
    assert [row[0] for row in rows(url, query)] == ["d2"]
    labels = rows(url, "select delivery_id, version, stalled_at is not null from delivery_events order by 1, 2")
    assert labels == [("d1", 2, False), ("d1", 3, True), ("d1", 4, False), ("d2", 3, True)]


async def test_cursors_keep_the_newest_version_in_any_order(archive: PostgresArchive, url: str) -> None:
    versions = [
        builders.cursor(version=v, last_delivered_seq=v, last_read_seq=None if v < 3 else v - 1, newest_seq=9)
        for v in (1, 2, 3, 4)
    ]
    other = builders.cursor(member="bia", version=1, last_delivered_seq=None, last_read_seq=None)
    for n, batch in enumerate(([versions[2], versions[0]], [versions[3], versions[1], other], [versions[0]])):
        await archive.positions([CURSORS])
        await archive.write(messages=[], states=[], cursors=batch, offsets={CURSORS: (n, n + 1)})
    found = rows(
        url, "select member, version, last_delivered_seq, last_read_seq, newest_seq from cursors order by member"
    )
    assert found == [("ana", 4, 4, 3, 9), ("bia", 1, None, None, 3)]


@pytest.mark.parametrize(
    "changes", [{"last_read_seq": 3}, {"last_delivered_seq": 4}, {"last_delivered_seq": None, "last_read_seq": 4}]
)
async def test_postgresql_takes_no_cursor_out_of_order(archive: PostgresArchive, changes: dict[str, Any]) -> None:
    await archive.positions([CURSORS])
    with pytest.raises(psycopg.errors.CheckViolation):
        await archive.write(messages=[], states=[], cursors=[builders.cursor(**changes)], offsets={CURSORS: (0, 1)})


async def test_a_repeated_write_is_fenced_and_changes_nothing(archive: PostgresArchive, url: str) -> None:
    offsets = {STATES: (0, 2)}
    await archive.positions([STATES])
    await archive.write(messages=[], states=[state(1, 1), state(1, 2)], offsets=offsets)
    before = content(url)
    with pytest.raises(
        SinkFenced,
        match=r"^PostgreSQL has archive of delivery-states\[0\] at 2, not at 0: another worker writes this partition$",
    ):
        await archive.write(messages=[sequenced(9)], states=[state(9, 1)], offsets=offsets)
    assert content(url) == before


async def test_a_partition_without_a_position_is_fenced(archive: PostgresArchive) -> None:
    with pytest.raises(SinkFenced, match="at no position, not at 0"):
        await archive.write(messages=[], states=[state(1)], offsets={("delivery-states", 7): (0, 1)})


async def test_one_fenced_partition_rolls_back_the_whole_batch(archive: PostgresArchive, url: str) -> None:
    await archive.positions([STATES, LOG])
    with pytest.raises(SinkFenced):
        await archive.write(messages=[sequenced(1)], states=[state(1)], offsets={LOG: (0, 1), STATES: (5, 6)})
    assert await archive.positions([STATES, LOG]) == {STATES: 0, LOG: 0}
    assert not any(content(url).values())


async def test_a_position_never_goes_back(archive: PostgresArchive) -> None:
    with pytest.raises(ValueError, match="never goes back"):
        await archive.write(messages=[], states=[], offsets={STATES: (5, 4)})


async def test_two_owners_of_a_partition_write_each_record_once(url: str) -> None:
    """Both read the same position; the second writer is fenced, reads again, and continues."""
    states = [state(n, version) for n in range(40) for version in (1, 2, 3)]
    fenced = 0

    async def own(archive: PostgresArchive) -> None:
        nonlocal fenced
        await archive.open()
        at = (await archive.positions([STATES]))[STATES]
        while at < len(states):
            following = min(at + 7, len(states))
            try:
                await archive.write(messages=[], states=states[at:following], offsets={STATES: (at, following)})
                at = following
            except SinkFenced:
                fenced += 1
                at = (await archive.positions([STATES]))[STATES]
        await archive.close()

    await asyncio.gather(own(PostgresArchive(url)), own(PostgresArchive(url)))
    assert fenced > 0
    assert rows(url, "select count(*), max(version), min(version) from deliveries") == [(40, 3, 3)]
    assert rows(url, "select count(*) from delivery_events") == [(120,)]
    assert rows(url, "select next_offset from sink_offsets") == [(120,)]


@pytest.mark.parametrize("seed", range(5))
async def test_any_order_and_any_repetition_end_in_the_same_rows(archive: PostgresArchive, url: str, seed: int) -> None:
    order = random.Random(seed)  # noqa: S311  # a reproducible shuffle, not a secret
    states = [state(n, version) for n in range(6) for version in (1, 2, 3, 4)]
    messages = [sequenced(n) for n in range(1, 6)]
    shuffled = states + order.sample(states, 10)
    order.shuffle(shuffled)
    while shuffled:
        size = order.randint(1, 9)
        batch, shuffled = shuffled[:size], shuffled[size:]
        await write(archive, states=batch, messages=order.sample(messages, order.randint(0, 5)))
    await write(archive, states=states, messages=messages)
    assert archive.conflicts == 0
    assert rows(url, "select event_id from deliveries order by 1") == [(f"e{n}-4",) for n in range(6)]
    assert rows(url, "select count(*), count(distinct event_id) from delivery_events") == [(24, 24)]
    assert rows(url, "select seq from messages order by 1") == [(1,), (2,), (3,), (4,), (5,)]
    assert rows(url, "select count(*) from message_conflicts") == [(0,)]


async def test_a_key_given_twice_is_set_aside_and_counted(archive: PostgresArchive, url: str) -> None:
    await write(archive, messages=[sequenced(1), sequenced(2)])
    same_number = sequenced(3, seq=2)
    same_id = sequenced(1, seq=4)
    await write(archive, messages=[same_number, same_id, sequenced(1), sequenced(5)])
    assert archive.conflicts == 2
    assert rows(url, "select message_id, seq from messages order by seq") == [("m1", 1), ("m2", 2), ("m5", 5)]
    assert rows(url, "select message_id, conversation_id, seq, text from message_conflicts order by 1, 2, 3") == [
        ("m1", "c1", 4, "text 1"),
        ("m3", "c1", 2, "text 3"),
    ]
    await write(archive, messages=[same_number])
    assert archive.conflicts == 2  # that conflict was counted before


async def test_an_id_in_another_conversation_is_another_message_and_counted(archive: PostgresArchive, url: str) -> None:
    """All uses of an id except the first are counted, in one batch or several; a repetition and another tenant's id are not."""
    await write(archive, messages=[sequenced(1), sequenced(2)])
    elsewhere = [sequenced(1, seq=1, conversation_id=f"c{n}", text=f"in c{n}") for n in (2, 3)]
    await write(archive, messages=[*elsewhere, sequenced(1), sequenced(1, tenant_id="acme")])
    assert (archive.conflicts, archive.reused) == (0, 2)
    twice = [sequenced(7, seq=2, conversation_id="c2"), sequenced(7, seq=2, conversation_id="c3"), sequenced(8)]
    await write(archive, messages=[*twice, *elsewhere])
    assert (archive.conflicts, archive.reused) == (0, 3)
    assert rows(url, "select tenant_id, conversation_id, text from messages where message_id = 'm1' order by 1, 2") == [
        ("acme", "c1", "text 1"),
        ("default", "c1", "text 1"),
        ("default", "c2", "in c2"),
        ("default", "c3", "in c3"),
    ]


async def test_no_content_fails_a_batch(archive: PostgresArchive, url: str) -> None:
    long_id, nul = "k" * 100_000, "a\x00b\u2400c"
    hostile = [
        sequenced(1, message_id=nul, text=nul * 3, metadata={nul: nul}, sender="\x00", content=Content(reply_to=nul)),
        # the stored form of the first id, so this one must be stored differently
        sequenced(2, message_id="a\u24000b\u2400\u2400c"),
        sequenced(3, message_id=long_id, conversation_id=long_id, tenant_id=long_id, seq=2**63 - 1),
        sequenced(4, requested_at=2**63 - 1, accepted_at=-(2**63)),
        sequenced(5, text="\U0010ffff\u202e'\";--\\." * 10_000, kind=""),
    ]
    worst = state(
        1, 2, delivery_id=nul, event_id=long_id, reason=nul, occurred_at=2**62, address=nul, provider_message_id=long_id
    )
    await write(archive, messages=hostile, states=[worst])
    assert archive.conflicts == 0
    with psycopg.connect(url) as connection:
        texts: dict[str, str] = dict(connection.execute("select message_id, text from messages").fetchall())
        assert {original(i) for i in texts} >= {nul, "a\u24000b\u2400\u2400c", "m4", "m5"}
        assert original(texts[key(nul)]) == nul * 3
        assert key(long_id) in texts
        metadata = connection.execute(
            "select metadata, content ->> 'reply_to' from messages where message_id = %s", (key(nul),)
        ).fetchone()
        assert metadata is not None
        assert original(metadata[1]) == nul
        assert {original(k): original(v) for k, v in metadata[0].items()} == {nul: nul}
        limits = connection.execute("select requested_at, accepted_at from messages where message_id = 'm4'").fetchone()
        assert limits is not None
        assert [round(at.timestamp() * 1000) for at in limits] == [LATEST, EARLIEST]
        kept = connection.execute("select delivery_id, reason, address from deliveries").fetchone()
        assert kept is not None
        assert [original(text) for text in kept] == [nul, nul, nul]


async def test_a_connection_that_breaks_between_writes_is_replaced(archive: PostgresArchive, url: str) -> None:
    await write(archive, states=[state(1)])
    end_other_sessions(url)
    await archive.write(messages=[], states=[state(2)], offsets={STATES: (1, 2)})
    assert rows(url, "select delivery_id from deliveries order by 1") == [("d1",), ("d2",)]


async def test_a_commit_whose_answer_is_lost_is_recognised(
    archive: PostgresArchive, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transaction commits, but the session breaks before the answer arrives: the retry must neither duplicate rows nor be fenced."""
    offsets = {STATES: (0, 1)}
    await archive.positions([STATES])
    whole_write = archive._write

    async def write_and_lose_the_answer(*batch: Any) -> Any:
        await whole_write(*batch)
        end_other_sessions(url)
        monkeypatch.undo()
        return await whole_write(*batch)  # fails on the closed session, like a lost answer

    monkeypatch.setattr(archive, "_write", write_and_lose_the_answer)
    await archive.write(messages=[], states=[state(1)], offsets=offsets)
    assert rows(url, "select count(*) from delivery_events") == [(1,)]
    with pytest.raises(SinkFenced):
        await archive.write(messages=[], states=[state(1)], offsets=offsets)


async def test_a_group_whose_answer_is_lost_is_recognised_in_its_parts(
    archive: PostgresArchive, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transaction of two partitions commits, but its answer is lost; each partition may then retry alone."""
    await archive.positions([STATES, LOG])
    whole_write = archive._write

    async def write_and_lose_the_answer(*batch: Any) -> Any:
        await whole_write(*batch)
        raise Unavailable("the answer was lost")

    monkeypatch.setattr(archive, "_write", write_and_lose_the_answer)
    with pytest.raises(Unavailable):
        await archive.write(messages=[sequenced(1)], states=[state(1)], offsets={STATES: (0, 1), LOG: (0, 1)})
    monkeypatch.undo()
    await archive.write(messages=[], states=[state(1)], offsets={STATES: (0, 1)})
    await archive.write(messages=[sequenced(1)], states=[], offsets={LOG: (0, 1)})
    assert rows(url, "select count(*) from delivery_events") == rows(url, "select count(*) from messages") == [(1,)]
    for source in (STATES, LOG):  # but only once
        with pytest.raises(SinkFenced):
            await archive.write(messages=[], states=[], offsets={source: (0, 1)})


async def test_a_fenced_partition_of_a_group_fails_alone(archive: PostgresArchive, url: str) -> None:
    """The stage with a real database: three partitions in one transaction, one of which belongs to another worker by now."""
    sources = [("delivery-states", number) for number in range(3)]
    stage = Stage(sink=archive, linger_ms=0)
    await stage.positions(sources)
    await archive.write(messages=[], states=[state(9)], offsets={sources[1]: (0, 4)})  # the next owner
    turns = [
        builders.Desk(stage, number).turn(
            [builders.record("delivery-states", state(number), offset=0, partition=number)]
        )
        for number in range(3)
    ]
    outcomes = await asyncio.gather(*map(stage.write, turns), return_exceptions=True)
    assert [type(each) for each in outcomes] == [type(None), SinkFenced, type(None)]
    assert rows(url, "select partition, next_offset from sink_offsets order by 1") == [(0, 1), (1, 4), (2, 1)]
    assert rows(url, "select delivery_id from deliveries order by 1") == [("d0",), ("d2",), ("d9",)]


@pytest.mark.parametrize("seed", range(3))
async def test_any_groups_and_any_crashes_leave_each_record_once(archive: PostgresArchive, url: str, seed: int) -> None:
    """Partitions write in any groups; sometimes the worker crashes after a write, and the next one reads the positions again."""
    order = random.Random(seed)  # noqa: S311  # a reproducible shuffle, not a secret
    logs = {("delivery-states", p): [state(100 * p + n, v) for n in range(10) for v in (1, 2, 3, 4)] for p in range(4)}
    at = await archive.positions(logs)
    while any(at[source] < len(log) for source, log in logs.items()):
        company = order.sample(sorted(logs), order.randint(1, 4))
        spans = {source: (at[source], min(len(logs[source]), at[source] + order.randint(0, 9))) for source in company}
        states = [each for source, (first, end) in spans.items() for each in logs[source][first:end]]
        await archive.write(messages=[], states=states, offsets=spans)
        if order.random() < 0.3:
            at = await archive.positions(logs)
        else:
            at |= {source: end for source, (_, end) in spans.items()}
    assert rows(url, "select count(*), count(distinct event_id) from delivery_events") == [(160, 160)]
    assert rows(url, "select count(*), min(version) from deliveries") == [(40, 4)]
    assert await archive.positions(logs) == {source: len(log) for source, log in logs.items()}


async def test_a_write_waits_for_a_commit_in_progress(archive: PostgresArchive, url: str) -> None:
    """`positions` of a new owner must not report a position that a former owner is just replacing."""
    await archive.positions([STATES])
    with psycopg.connect(url) as former:
        former.execute("update sink_offsets set next_offset = 50")
        reading = asyncio.create_task(archive.positions([STATES]))
        await asyncio.to_thread(wait_for_a_waiting_session, url)
        assert not reading.done()
        former.commit()
    assert await reading == {STATES: 50}


async def test_the_caller_hears_when_the_server_has_everything_and_works_alone(
    archive: PostgresArchive, url: str
) -> None:
    """At that moment nothing of the batch can be seen, and the caller's loop is free while the server merges."""
    await archive.positions([STATES, LOG])
    heard: list[list[Any]] = []
    at_server, merged = asyncio.Event(), asyncio.Event()

    def sent() -> None:
        heard.append(rows(url, "select 1 from messages union all select 1 from deliveries"))
        at_server.set()

    async def meanwhile() -> None:
        await at_server.wait()
        heard.append([merged.is_set()])

    other = asyncio.create_task(meanwhile())
    with psycopg.connect(url, autocommit=True) as connection:  # makes the merge of the transitions last
        connection.execute(
            "create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(0.2); return new; end $$"
        )
        connection.execute("create trigger slow before insert on deliveries for each statement execute function slow()")
    await archive.write(messages=[sequenced(1)], states=[state(1, 2)], offsets={LOG: (0, 1), STATES: (0, 1)}, sent=sent)
    merged.set()
    await other
    assert heard == [[], [False]]
    assert len(rows(url, "select 1 from messages union all select 1 from deliveries")) == 2


async def test_an_unreachable_server_is_unavailable_in_one_line() -> None:
    with pytest.raises(Unavailable, match=r"CHAT4ALL_POSTGRES_URL") as caught:
        await PostgresArchive("postgresql://nobody@127.0.0.1:1/none").open()
    assert "\n" not in str(caught.value)


async def test_a_database_without_our_relations_says_what_to_run(postgres_url: str) -> None:
    with (
        postgres_database(postgres_url, migrated=False) as url,
        pytest.raises(NotMigrated, match=r"python -m sinks\.migrate"),
    ):
        await PostgresArchive(url).open()


async def test_a_full_disk_is_not_fenced_but_unavailable(archive: PostgresArchive, url: str) -> None:
    """PostgreSQL refuses for a temporary reason: nothing is written, and the same call succeeds later."""
    await archive.positions([STATES])
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "create function refuse() returns trigger language plpgsql as"
            " $$ begin raise exception 'no space left on device' using errcode = 'disk_full'; end $$"
        )
        connection.execute("create trigger refuse before insert on delivery_events execute function refuse()")
        with pytest.raises(Unavailable, match="no space left"):
            await archive.write(messages=[], states=[state(1)], offsets={STATES: (0, 1)})
        connection.execute("drop trigger refuse on delivery_events")
    await archive.write(messages=[], states=[state(1)], offsets={STATES: (0, 1)})
    assert rows(url, "select count(*) from deliveries") == [(1,)]


async def test_a_terminal_status_with_later_evidence_follows_the_version(archive: PostgresArchive, url: str) -> None:
    failed = state(1, 2, status=Status.FAILED, cause=Cause.REJECTED, failed_at=T0 + 50, sent_at=None)
    recovered = state(1, 3, previous_status=Status.FAILED)
    await write(archive, states=[recovered, failed])
    assert rows(url, "select status, failed_at from deliveries") == [("DELIVERED", None)]


async def test_who_gets_a_delivery_or_writes_takes_part_in_the_conversation(archive: PostgresArchive, url: str) -> None:
    """Also where nothing is reported, as on Telegram: such a member has no cursor."""
    await archive.positions([("t", 0)])
    written = sequenced(2, direction=Direction.INBOUND, sender="77", deliveries=())
    states = [state(1, 1, channel="telegram"), state(1, 2, channel="telegram")]
    for at in (0, 1):
        await archive.write(messages=[sequenced(1), written], states=states, offsets={("t", 0): (at, at + 1)})
    assert rows(url, "select tenant_id, person, conversation_id from participants order by 2") == [
        ("default", "15551234567", "c1"),
        ("default", "77", "c1"),
    ]


def end_other_sessions(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        )


def wait_for_a_waiting_session(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for _ in range(1000):
            waiting = connection.execute(
                "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
            ).fetchone()
            if waiting and waiting[0]:
                return
            connection.execute("select pg_sleep(0.01)")
    raise AssertionError("no session ever waited for the former owner's commit")
