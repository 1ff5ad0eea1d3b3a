"""Decisions are pure, and so they can be repeated: the same inputs, state and views give the same decision.

The guard is around every decision of a Desk, so around those of all tests of the stages; these tests show that it finds what it looks for.
"""

import asyncio
import contextlib
import copy
import datetime as dt
import hashlib
import io
import os
import random
import re
import secrets
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic as a_clock_by_another_name
from typing import Any, ClassVar, NamedTuple

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.analyse import Analyse
from pipelines.archive import Archive
from pipelines.engine.stage import Decision, Inputs, Record, Result, Source, Stage, Tables
from pipelines.match import Match
from pipelines.match_threads import ThreadLimits
from pipelines.recipients import Reachable
from pipelines.register import Register
from pipelines.route import Route
from pipelines.send import Send
from pipelines.send_state import SendLimits
from pipelines.stages import BUILDERS
from pipelines.track import Track
from schemas import codec
from schemas.content import Content
from schemas.outcomes import Accepted, Rejected, RetryLater, Unknown
from schemas.records import Address, Binding, Contact, Direction, ReceiptStatus, Status
from sinks.clickhouse import ClickHouseFacts
from sinks.postgres import PostgresArchive as ArchiveSink
from sinks.register_sink import PostgresRegister
from tables.layout import Layout
from tables.sequences import SEQUENCES
from tests.support.builders import (
    HERE,
    NOW,
    OBSERVED,
    Desk,
    binding,
    conversation,
    conversation_at_home,
    cursor,
    cursor_report,
    delivery,
    delivery_state,
    examples,
    inbound_message,
    message,
    passed,
    preference,
    raw,
    receipt,
    record,
    ref,
    sequenced,
    to_address,
    to_user,
    update,
    window,
)
from tests.support.counting_provider import Provider
from tests.support.purity import Impure, purely
from tests.support.register_records import contact_record, suppression_record
from tests.support.sink_databases import dead_letter

# --- the guard ----------------------------------------------------------------------------------------------------------


def _connect() -> None:
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", 1), timeout=0.01)


def _in_spite_of_a_catch() -> None:
    with contextlib.suppress(BaseException):
        time.sleep(0)


def _thread() -> None:
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()


async def _nothing() -> None:
    await asyncio.sleep(0)


IMPURE: dict[str, Callable[[], object]] = {
    "a clock": time.time,
    "a clock in nanoseconds": time.monotonic_ns,
    "a clock by another name": a_clock_by_another_name,
    "the time of day": lambda: dt.datetime.now(dt.UTC),
    "the date": dt.date.today,
    "local time": time.localtime,
    "sleep": lambda: time.sleep(0),
    "sleep in a catch of everything": _in_spite_of_a_catch,
    "an event loop": lambda: asyncio.run(_nothing()),
    "a socket": lambda: socket.socket().close(),
    "a connection": _connect,
    "a name looked up": lambda: socket.gethostbyname("127.0.0.1"),
    "a file": lambda: open(os.devnull).close(),  # noqa: PTH123  # the function itself
    "a file by its path": lambda: Path(__file__).read_text(encoding="utf-8"),
    "a file by its number": lambda: os.close(os.open(os.devnull, os.O_RDONLY)),
    "whether a file is there": lambda: Path(__file__).exists(),
    "what is printed": lambda: print("said"),
    "what is written": lambda: sys.stdout.write("written"),
    "a process": lambda: subprocess.run(["true"], check=True),  # noqa: S607  # any will do
    "a thread": _thread,
    "chance": random.random,
    "a choice": lambda: random.choice("ab"),  # noqa: S311  # no secret
    "a random generator of its own": lambda: random.Random(1).random(),  # noqa: S311  # the same
    "the system's randomness": lambda: os.urandom(1),
    "a token": lambda: secrets.token_bytes(1),
    "a random id": uuid.uuid4,
    "an id by the clock": uuid.uuid1,
}


@pytest.mark.parametrize("act", IMPURE.values(), ids=IMPURE)
def test_the_guard_reports(act: Callable[[], object]) -> None:
    with pytest.raises(Impure, match=r"called in .+:\d+"), purely():
        act()


def test_the_guard_lets_everything_else_pass() -> None:
    with purely():
        orjson.loads(orjson.dumps({"a": [1, 2]}))
        hashlib.blake2b(b"x").hexdigest()
        io.BytesIO(b"abc").read()
        re.sub("a", "b", "abc")
        dt.datetime.fromtimestamp(0, dt.UTC).isoformat()
        uuid.uuid5(uuid.NAMESPACE_URL, "x")
        codec.decode_any(codec.encode(message()))
        os.fspath(Path("a") / "b")
        with pytest.raises(ValueError, match="invalid literal"):
            int("x")
    assert sys.getprofile() is None


def test_an_error_of_the_decision_is_not_hidden() -> None:
    with pytest.raises(KeyError), purely():
        raise KeyError("boom")


class Impatient(Stage[None]):
    """Waits inside its decision, as route did once."""

    name = "impatient"
    sources = (Source("a"),)
    tables: ClassVar[tuple[Layout[Any], ...]] = (SEQUENCES,)

    def open(self, partition: int, tables: Tables) -> None:
        """It has no state."""

    def decide(self, inputs: Inputs, state: None, now: int) -> Decision:  # noqa: ARG002  # it only waits
        time.sleep(0.001)
        return Decision()


def test_a_stage_that_waits_in_its_decision_fails_its_tests() -> None:
    with pytest.raises(Impure, match=r"time\.sleep called in .*test_purity\.py:\d+, decide"):
        Desk(Impatient()).turn()


# --- the same again -----------------------------------------------------------------------------------------------------

THERE = conversation_at_home(0, number=1)
ELSEWHERE = conversation_at_home(2)
CONTACTS = {
    b"ana": Contact(user_id="ana", addresses=(Address(channel="whatsapp", address="1"),), updated_at=NOW),
    b"bob": Contact(user_id="bob", addresses=(), updated_at=NOW),
}
CHECKED = {name: Reachable(f"acc-{name}", lambda _: None) for name in ("whatsapp", "telegram")}
LIMITS = SendLimits(concurrency=3, outstanding=50, attempts=2, hold_ms=1000)
OUTCOMES = (Accepted(("p1",)), RetryLater("slow", "429", after_seconds=1.0), Rejected("no", "131"), Unknown("?"))


class Case(NamedTuple):
    """A stage and records that it may get."""

    stage: Callable[[], Stage[Any]]
    records: Sequence[Record]


def _messages() -> list[Record]:
    recipients = ((to_user("ana"),), (to_user("bob"),), (to_user("eva"), to_address("2")), (to_address("3"),), ())
    return [
        record("messages", message(f"m{number}", conversation_id=name, recipients=to))
        for name in (HERE, THERE, ELSEWHERE)
        for number, to in enumerate(recipients)
    ]


def _to_person(bound: Binding) -> Record:
    return record("bindings", bound, key=f"{bound.channel}:{bound.account}:{bound.address}".encode())


THREADS = ThreadLimits(window_ms=4000, wait_ms=500, dedupe_ms=5000, service_windows={"whatsapp": 3000})
CASES = {
    "route": Case(
        lambda: Route(partitions=4, dedupe_ms=5000, channels=CHECKED),
        (
            *_messages(),
            record("messages", message("m0", text="another")),
            record("conversation-inbound", message("in", direction=Direction.INBOUND, recipients=())),
            *(record("conversations", conversation(*members)) for members in (("ana", "eva"), ("ana",), ())),
            raw("conversations", None, key=HERE.encode()),
            raw("messages", b"junk"),
        ),
    ),
    "send": Case(
        lambda: Send(connectors={name: Provider(name, "resend") for name in CHECKED}, limits=LIMITS),
        (
            *(
                record(f"deliveries.{channel}", delivery(f"{channel}-{n}", channel=channel, address=f"{n % 2}", seq=n))
                for channel in CHECKED
                for n in range(4)
            ),
            record("deliveries.whatsapp", delivery("later", not_before=NOW + 500)),
            record("deliveries.whatsapp", delivery("soon over", expires_at=NOW + 500)),
            *(record("status-updates", update(f"e{n}", delivery_id=f"whatsapp-{n}", attempt=1)) for n in range(4)),
            raw("deliveries.telegram", b"junk"),
            *(record("windows", window(opened_at=NOW + n, closes_at=NOW + n + 1000)) for n in range(3)),
        ),
    ),
    "match": Case(
        lambda: Match(partitions=4, binding_ms=5000, orphan_ms=1000, threads=THREADS),
        (
            *(record("bindings", binding(f"p{n}", f"dlv-{n}")) for n in range(4)),
            *(
                record("receipts", receipt(f"p{n}", status=status))
                for n in range(5)
                for status in (ReceiptStatus.DELIVERED, ReceiptStatus.READ)
            ),
            *(
                record("inbound", inbound_message(f"in-{n}", text=text))
                for n, text in enumerate(("oi", "STOP", "start"))
            ),
            record("inbound", preference()),
            raw("receipts", b"junk"),
            *(_to_person(binding(f"p{n}", address="15550001", message_id=f"m{n}")) for n in range(2)),
            record("inbound", inbound_message("in-1")),
            *(record("inbound", inbound_message(f"in-{n}", content=Content(reply_to=f"p{n}"))) for n in range(3)),
            record("inbound", preference()),
            raw("inbound", b"junk"),
        ),
    ),
    "track": Case(
        lambda: Track(state_ms=5000, observed=OBSERVED, stalled_ms={"instagram": 400}),
        (
            *(
                record(
                    "conversation-log",
                    sequenced(*(ref(f"dlv-{n}", channel="instagram") for n in to), seq=seq, message_id=f"m{seq}"),
                )
                for seq, to in enumerate(((0,), (1,), (2, 4)), 1)
            ),
            *(
                record(
                    "cursor-reports",
                    cursor_report(channel="instagram", account="acc-1", address="15550001", read_up_to=n),
                )
                for n in (1, 9)
            ),
            record("cursor-reports", cursor_report(home_partition=3)),
            *(
                record("status-updates", update(f"e{n}{status}", delivery_id=f"dlv-{n}", status=status))
                for n in range(4)
                for status in (Status.SENT, Status.READ, Status.FAILED)
            ),
            *(raw(topic, b"junk") for topic in ("status-updates", "cursor-reports")),
        ),
    ),
    "archive": Case(
        lambda: Archive(sink=ArchiveSink("postgresql://127.0.0.1:1/none"), linger_ms=0),
        (
            record("conversation-log", sequenced(ref())),
            *(record("delivery-states", delivery_state(f"e{n}")) for n in range(3)),
            record("cursors", cursor()),
            *(record("conversations", conversation(*names)) for names in (("ana",), ("ana", "bia"))),
            raw("delivery-states", b"junk"),
        ),
    ),
    "register": Case(
        lambda: Register(
            sink=PostgresRegister("postgresql://127.0.0.1:1/none"),
            facts=ClickHouseFacts("http://127.0.0.1:1"),
            interval_ms=0,
        ),
        (
            *(contact_record(f"u{n}") for n in range(2)),
            raw("contacts", None, key=b"u1"),
            *(suppression_record(suppressed=each) for each in (True, False)),
            *(record("dead-letters", dead_letter(n)) for n in range(3)),
            *(raw(topic, b"junk") for topic in ("contacts", "suppressions", "dead-letters")),
        ),
    ),
    "analyse": Case(
        lambda: Analyse(sink=ClickHouseFacts("http://127.0.0.1:1"), linger_ms=0),
        (
            *(record("delivery-states", delivery_state(f"e{n}")) for n in range(3)),
            raw("delivery-states", b"junk"),
            record("conversation-log", sequenced()),
        ),
    ),
}


def test_every_stage_is_tested() -> None:
    assert set(CASES) == set(BUILDERS)
    for name, case in CASES.items():
        assert {source.topic for source in case.stage().sources} <= {each.topic for each in case.records}, name


def _effects(desk: Desk[Any], decision: Decision) -> tuple[Any, ...]:
    """All effects of a decision, for the outside and for the next decision."""
    changes = {name: table.changes() for name, table in desk.tables.items()}
    said = [getattr(decision, name) for name in Decision.__slots__]
    return (*said, changes, desk.due(), [desk.stage.takes(source.topic, desk.state) for source in desk.stage.sources])


_TURNS = st.lists(
    st.tuples(
        st.lists(st.integers(0, 99), max_size=6),  # records
        st.lists(st.integers(0, 9), max_size=6),  # outcomes of calls, if there are any
        st.sampled_from([0, 1, 300, 1500, 6000]),  # milliseconds that pass
        st.booleans(),  # whether the partition is given up
    ),
    min_size=1,
    max_size=12,
)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@examples(60)
@given(turns=_TURNS)
def test_the_same_inputs_state_and_views_decide_the_same(
    case: Case, turns: list[tuple[list[int], list[int], int, bool]]
) -> None:
    desk = Desk(case.stage(), mirrored={"contacts": CONTACTS})
    calls: list[Any] = []
    ends: dict[str, int] = {}
    now = NOW
    for picked, answers, milliseconds, closing in turns:
        now += milliseconds
        batch = []
        for number in picked:
            each = case.records[number % len(case.records)]
            batch.append(each._replace(offset=ends.get(each.topic, 0)))
            ends[each.topic] = batch[-1].offset + 1
        results = [
            passed(call) if call.end_of else Result(call, OUTCOMES[number % len(OUTCOMES)])
            for call, number in zip(calls, answers, strict=False)
        ]
        calls = calls[len(results) :]
        before = copy.deepcopy(desk, {id(desk.stage): desk.stage})
        first, again = (each.decide(batch, results, now, closing=closing) for each in (desk, before))
        assert _effects(desk, first) == _effects(before, again)
        desk.commit()
        calls += first.calls
