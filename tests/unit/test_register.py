"""Stage register: what one turn writes, and what it refuses."""

import pytest

from pipelines.engine.dead_letters import dead_letters
from pipelines.engine.stage import Record, Refusal
from pipelines.postgres_stage import State
from pipelines.register import Register, Registered
from schemas import codec
from schemas.records import Header, Receipt
from sinks.clickhouse import ClickHouseFacts
from sinks.erased_people import Erased, erased_name, person_digest
from sinks.register_rows import inside, letter_row, orphan_row
from sinks.register_sink import PostgresRegister
from tests.support.builders import Desk, message, raw, receipt, record, refused, suppression
from tests.support.register_records import contact, contact_record, deleted_contact, suppression_record
from tests.support.sink_databases import dead_letter


@pytest.fixture
def desk() -> Desk[State]:
    sink = PostgresRegister("postgresql://127.0.0.1:1/none")
    return Desk(Register(sink=sink, facts=ClickHouseFacts("http://127.0.0.1:1"), interval_ms=0))


def test_a_turn_keeps_the_last_of_each_and_every_dead_letter(desk: Desk[State]) -> None:
    decision = desk.turn(
        [
            contact_record("ana", "1", offset=0),
            contact_record("ana", "2", offset=1, updated_at=1_700_000_000_001),
            contact_record("bia", "3", offset=2),
            deleted_contact("bia", offset=3),
            suppression_record(offset=0),
            suppression_record(offset=1, suppressed=False, changed_at=1_700_000_000_001),
            *(record("dead-letters", dead_letter(n), offset=n) for n in (1, 2)),
        ]
    )
    writes: Registered = decision.writes
    assert {name: found and found.addresses[0].address for name, found in writes.contacts.items()} == {
        ("default", "ana"): "2",
        ("default", "bia"): None,
    }
    assert [each.suppressed for each in writes.suppressions.values()] == [False]
    assert [each.dead_letter_id for each in writes.letters] == ["x1", "x2"]
    assert writes.ends == {("contacts", 0): 4, ("suppressions", 0): 2, ("dead-letters", 0): 3}
    assert decision.refusals == []


@pytest.mark.parametrize(
    ("bad", "cause"),
    [
        (raw("contacts", b"junk"), "not_avro"),
        (contact_record()._replace(key=b"bia"), "wrong_key"),
        (suppression_record()._replace(key=b"another"), "wrong_key"),
        (record("suppressions", contact()), "unexpected_record"),
    ],
)
def test_what_belongs_to_nobody_is_refused_and_passed(desk: Desk[State], bad: Record, cause: str) -> None:
    decision = desk.turn([bad])
    assert refused(decision) == [cause]
    assert decision.writes.ends == {(bad.topic, 0): 1}


@pytest.mark.parametrize("value", [b"junk", None, b"\x00\x00\x00\x04\x30\xff", codec.encode(suppression())])
def test_a_dead_letter_that_cannot_be_read_is_counted_and_passed(desk: Desk[State], value: bytes | None) -> None:
    """As a dead letter of its own it would come back for ever."""
    decision = desk.turn([raw("dead-letters", value)])
    assert (decision.refusals, decision.writes.letters) == ([], [])
    assert decision.counts == {"unreadable_dead_letter": 1}
    assert decision.writes.ends == {("dead-letters", 0): 1}


def test_the_engine_makes_no_dead_letter_of_a_dead_letter() -> None:
    """Not even when the stage's code fails on one."""
    failed = Refusal(record("dead-letters", dead_letter(1)), "decision_failed", "a bug")
    other = Refusal(raw("contacts", b"junk"), "not_avro", "junk")
    lost = Refusal(raw("dead-letters", None), "deleted_before_read", "offsets 1 to 9")
    made = [
        inside(codec.decode(each.value, type(dead_letter(1))))
        for each in dead_letters("register", [failed, other, lost], 5)
    ]
    assert len(made) == 2


def test_a_receipt_without_a_delivery_is_taken_out_of_its_dead_letter() -> None:
    given = receipt()
    letter = dead_letter(1, source_topic="receipts", cause="orphan_receipt", value=codec.encode(given))
    row = orphan_row(letter)
    assert row is not None
    assert (row.event_id, row.provider_message_id, row.status) == (
        given.event_id,
        given.provider_message_id,
        given.status,
    )
    assert isinstance(inside(letter), Receipt)
    of_receipt = {"source_topic": "receipts", "cause": "orphan_receipt", "value": codec.encode(given)}
    for changes in ({"cause": "not_avro"}, {"source_topic": "messages"}, {"value": b"junk"}, {"value": None}):
        assert orphan_row(dead_letter(1, **(of_receipt | changes))) is None


def test_a_dead_letter_of_an_erased_person_has_no_bytes() -> None:
    letter = dead_letter(1, value=codec.encode(message()), headers=(Header(key="h", value=b"\xff"),))
    digest = person_digest("default", "whatsapp", "15550001")
    assert letter_row(letter, Erased({})).value == letter.value
    erased = letter_row(letter, Erased({("default", digest): letter.refused_at}))
    assert (erased.key, erased.value, erased.headers, erased.detail) == (None, None, None, "")
    assert (erased.erased_at, erased.conversation_id) == (letter.refused_at, message().conversation_id)
    later = letter_row(letter, Erased({("default", digest): letter.refused_at - 1}))
    assert later.value == letter.value, "refused after the erasure"
    assert erased_name(digest) == f"erased:{digest[:16]}"


@pytest.mark.parametrize(("one", "other"), [("5511987654321", "551187654321"), ("+55 11 98765-4321", "551187654321")])
def test_every_form_of_a_number_is_one_person(one: str, other: str) -> None:
    assert person_digest("t", "whatsapp", one) == person_digest("t", "whatsapp", other)
    assert person_digest("t", "telegram", one) != person_digest("t", "telegram", other)
    assert person_digest("t", "whatsapp", one) != person_digest("u", "whatsapp", one)
