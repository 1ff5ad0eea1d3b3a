"""Whatever is in the topics of the sinks: each record is stored or becomes a dead letter with a cause, and the sink goes on."""

from collections.abc import Iterator

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.archive import Archive
from pipelines.engine.dead_letters import dead_letter
from pipelines.engine.stage import Record
from pipelines.postgres_stage import State
from pipelines.register import Register
from schemas import codec
from schemas.causes import DESCRIPTIONS
from schemas.content import Content
from schemas.keys import key_of
from schemas.records import DeadLetter
from sinks.clickhouse import ClickHouseFacts
from sinks.postgres import PostgresArchive
from sinks.register_sink import PostgresRegister
from tables.cursors import cursor_key
from tests.support import builders
from tests.support.builders import CHECKS, Desk, examples, raw, record, refused
from tests.support.long_runs import LONG
from tests.support.register_records import contact_record, suppression_record
from tests.support.sink_databases import clickhouse_database, rows, sequenced, state

SHARED = [*CHECKS, HealthCheck.function_scoped_fixture]  # the examples share a database, on purpose
TIMES = st.sampled_from([0, 1, 253_402_300_799_999, builders.NOW])
TEXTS = st.sampled_from(
    ["a\x00b", "👋" * 4096, "\u2400", "'; drop table messages; --", "\u202e\u0000\U0010ffff", "", "\\N\t\n"]
)
TENANTS = st.sampled_from(["default", "it's", "a/b", "", "t" * 65, 'say "hi"', "acme"])
IDS = st.sampled_from(["m1", "m2", "it's", "x" * 128, "x" * 129, "é\x00", "", "👋"])


@st.composite
def log_records(draw: st.DrawFn) -> Record:
    at = draw(TIMES)
    message = sequenced(
        draw(st.integers(0, 5)),
        tenant_id=draw(TENANTS),
        message_id=draw(IDS),
        text=draw(TEXTS),
        metadata={draw(IDS): draw(TEXTS)},
        content=draw(st.sampled_from([None, Content(reply_to="a\x00b"), Content(reaction="👋")])),
        accepted_at=at,
        requested_at=draw(TIMES),  # after accepted_at too: a negative latency
    )
    return record("conversation-log", message)


@st.composite
def state_records(draw: st.DrawFn) -> Record:
    n, version = draw(st.integers(0, 3)), draw(st.integers(1, 4))
    given_state = state(
        n,
        version,
        tenant_id=draw(TENANTS),
        event_id=draw(IDS),
        accepted_at=draw(TIMES),
        sent_at=draw(st.none() | TIMES),  # before accepted_at too
        read_at=draw(st.none() | TIMES),
        reason=draw(st.none() | TEXTS),
        address=draw(TEXTS),
        attempts=draw(st.sampled_from([0, -1, 2**31 - 1])),
    )
    return record("delivery-states", given_state)


@st.composite
def other_records(draw: st.DrawFn) -> Record:
    made = builders.cursor(tenant_id=draw(TENANTS), member=draw(IDS), changed_at=draw(TIMES))
    cursors = record("cursors", made)._replace(
        key=cursor_key(made.tenant_id, made.conversation_id, made.member).encode()
    )
    members = builders.conversation(draw(IDS), draw(TEXTS), tenant_id=draw(TENANTS), updated_at=draw(TIMES))
    tombstone = raw(
        "conversations", None, key=draw(st.sampled_from([b"", b"\xff", b"a/b/c", b"a\x00", key_of(members)]))
    )
    return draw(st.sampled_from([cursors, record("conversations", members), tombstone]))


@st.composite
def broken(draw: st.DrawFn) -> Record:
    """Bytes as other producers would make them: an unknown enum value or schema, a field more, a lone surrogate, any byte changed."""
    whole = draw(st.one_of(log_records(), state_records(), other_records()))
    value = whole.value or b""
    at = draw(st.integers(0, max(0, len(value) - 1)))
    changed = draw(
        st.sampled_from(
            [
                value + b"\x00",  # a field more than the schema has
                value[:at],
                value[:at] + bytes([draw(st.integers(0, 255))]) + value[at + 1 :],
                b"\x00\x00\x00\x27\x0f" + value[5:],  # a schema of a newer release
                value.replace(b"text", b"\xed\xa0\x80x"),  # a lone surrogate, as three bytes
                b"",
            ]
        )
    )
    return whole._replace(value=changed)


TURNS = st.lists(
    st.lists(st.one_of(log_records(), state_records(), other_records(), broken()), min_size=1, max_size=8),
    min_size=1,
    max_size=3,
)


@settings(examples(200 if LONG else 25), suppress_health_check=SHARED)
@given(turns=TURNS)
async def test_archive_stores_or_refuses_every_record(url: str, turns: list[list[Record]]) -> None:
    sink = PostgresArchive(url)
    stage = Archive(sink=sink, linger_ms=0)
    topics = [source.topic for source in stage.sources]
    found = await stage.positions([(topic, 0) for topic in topics])
    desk: Desk[State] = Desk(stage)
    ends = {topic: found[topic, 0] for topic in topics}
    before = written(url)
    for turn in turns:
        placed = []
        for each in turn:
            placed.append(each._replace(offset=ends[each.topic]))
            ends[each.topic] += 1
        decision = desk.turn(placed)
        assert set(refused(decision)) <= set(DESCRIPTIONS)
        for refusal in decision.refusals:
            assert len(dead_letter("archive", refusal, builders.NOW).value or b"") < 4 << 20
        taken = len(decision.writes.messages) + len(decision.writes.states) + len(decision.writes.cursors)
        of_conversations = sum(each.topic == "conversations" for each in turn)
        tombstones = sum(each.topic == "cursors" and each.value is None and bool(each.key) for each in turn)
        assert taken + len(decision.refusals) + of_conversations + tombstones == len(turn)
        await stage.write(decision)
    assert await stage.positions([(topic, 0) for topic in topics]) == {(topic, 0): end for topic, end in ends.items()}
    await stage.stop()
    assert written(url) >= before
    assert rows(url, "select * from message_states except select * from counted_message_states") == []


def written(url: str) -> int:
    """Rows that each message and each transition adds to."""
    relations = ("messages", "message_conflicts", "delivery_events")
    return sum(int(rows(url, f"select count(*) from {relation}")[0][0]) for relation in relations)


@pytest.fixture
def facts_url(clickhouse_url: str) -> Iterator[str]:
    with clickhouse_database(clickhouse_url) as url:
        yield url


LETTERS = st.builds(
    lambda n, tenant, text, at, value, topic: DeadLetter(
        tenant_id=tenant,
        dead_letter_id=f"x{n}",
        stage="route",
        cause="orphan_receipt",
        detail=text,
        source_topic=topic,
        source_partition=-(2**31),
        source_offset=2**63 - 1,
        source_timestamp=at,
        key=value,
        value=value,
        refused_at=at,
    ),
    st.integers(0, 9),
    TENANTS,
    TEXTS,
    st.sampled_from([0, -(2**63), 2**63 - 1, builders.NOW]),
    st.sampled_from(
        [
            None,
            b"",
            b"\x00" * 100,
            b"\xff" * (2 << 20),
            codec.encode(builders.receipt()),
            codec.encode(builders.message()),
        ]
    ),
    st.sampled_from(["receipts", "messages", "a\x00'"]),
)


@settings(examples(100 if LONG else 12), suppress_health_check=SHARED)
@given(
    letters=st.lists(st.tuples(LETTERS, st.sampled_from(["whole", "cut", "none"])), min_size=1, max_size=4),
    address=TEXTS,
)
async def test_register_stores_or_passes_every_dead_letter(
    url: str, facts_url: str, letters: list[tuple[DeadLetter, str]], address: str
) -> None:
    stage = Register(sink=PostgresRegister(url), facts=ClickHouseFacts(facts_url), interval_ms=0)
    found = await stage.positions([(source.topic, 0) for source in stage.sources])
    first = found["dead-letters", 0]
    records = []
    for n, (letter, how) in enumerate(letters):
        value = codec.encode(letter)
        records.append(raw("dead-letters", {"whole": value, "cut": value[:-1], "none": None}[how], offset=first + n))
    people = [
        contact_record("ana", address, offset=found["contacts", 0]),
        suppression_record(address=address, offset=found["suppressions", 0]),
    ]
    decision = Desk(stage).turn([*records, *people])
    assert {each.record.topic for each in decision.refusals} <= {"contacts", "suppressions"}
    await stage.write(decision)
    await stage.stop()
    with psycopg.connect(url) as connection:
        kept = {each for (each,) in connection.execute("select dead_letter_id from dead_letters")}
    assert {letter.dead_letter_id for letter, how in letters if how == "whole"} <= kept
