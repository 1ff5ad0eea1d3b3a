"""The history of two years in a real PostgreSQL: pages of conversations, persons and failures against what was put in, and their plans."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any, ClassVar

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from sinks import history, history_failures
from sinks.history_pages import Page, TooSlow, WrongQuestion, bounded
from sinks.history_search import search
from tests.support.history_rows import LONG, MONTHS, OTHERS, PER_MONTH, add_messages, status_of, two_years
from tests.support.sink_databases import postgres_database

Connection = psycopg.Connection[Any]
SEQUENCES = list(range(1, len(MONTHS) * PER_MONTH + 1))
LAST_MONTH = (int(MONTHS[-1].timestamp() * 1000), int((MONTHS[-1] + timedelta(days=30)).timestamp() * 1000))


@pytest.fixture(scope="module")
def two_year_url(postgres_url: str) -> Iterator[str]:
    with postgres_database(postgres_url) as url:
        with psycopg.connect(url, autocommit=True) as connection:
            two_years(connection)
        yield url


@pytest.fixture(scope="module")
def two_year_connection(two_year_url: str) -> Iterator[Connection]:
    with psycopg.connect(two_year_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def connection(two_year_connection: Connection) -> Iterator[Connection]:
    """Whatever a test adds is taken back."""
    with two_year_connection.transaction(force_rollback=True):
        yield two_year_connection


def walked(ask: Callable[..., Page[Any]]) -> list[Any]:
    """All items from the first page to the last; on the way back the pages hold the same items."""
    pages = [ask(cursor=None)]
    assert pages[0].before is None
    while (after := pages[-1].after) is not None:
        pages.append(ask(cursor=after))
    for earlier, later in itertools.pairwise(pages):
        assert later.before is not None
        assert ask(cursor=later.before).items == earlier.items
    assert all(page.items for page in pages[1:])
    return [item for page in pages for item in page.items]


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(limit=st.integers(30, 500), newest_first=st.booleans())
def test_the_pages_of_a_conversation_are_the_conversation(
    connection: Connection, limit: int, newest_first: bool
) -> None:
    found = walked(
        partial(history.conversation_messages, connection, "acme", LONG, limit=limit, newest_first=newest_first)
    )
    assert [message.seq for message in found] == sorted(SEQUENCES, reverse=newest_first)


def test_rows_that_arrive_while_somebody_pages_hide_and_repeat_nothing(connection: Connection) -> None:
    def ask(newest_first: bool, cursor: str | None = None) -> Page[history.ArchivedMessage]:
        return history.conversation_messages(
            connection, "acme", "growing", limit=10, cursor=cursor, newest_first=newest_first
        )

    add_messages(connection, "acme", "growing", [(n, MONTHS[-2]) for n in range(1, 16)])
    upward, downward = ask(False), ask(True)
    connection.execute("update messages set conversation_id = 'growing' where conversation_id = 'c0' and seq > 15")
    assert [m.seq for m in ask(False, upward.after).items] == list(range(11, 21))
    assert [m.seq for m in ask(True, downward.after).items] == list(range(5, 0, -1))


def test_a_message_has_its_deliveries_and_those_of_no_other_tenant(connection: Connection) -> None:
    found = history.conversation_messages(connection, "acme", LONG, limit=500, with_deliveries=True)
    for message in found.items:
        inbound = message.seq % 4 == 0
        assert message.direction == ("INBOUND" if inbound else "OUTBOUND")
        assert message.statuses == ({} if inbound else {status_of(message.seq): 1})
        assert [d.status for d in message.deliveries] == ([] if inbound else [status_of(message.seq)])
        assert [d.delivery_id for d in message.deliveries] == ([] if inbound else [f"d-{message.message_id}"])
    assert history.conversation_messages(connection, "acme", LONG).items[0].deliveries == ()
    assert history.conversation_messages(connection, "nobody", LONG) == Page((), None, None)


def test_a_conversation_has_its_members_its_ends_and_counts(connection: Connection) -> None:
    connection.execute(
        "insert into cursors (tenant_id, conversation_id, home_partition, member, version, last_delivered_seq, last_read_seq, newest_seq,"
        " changed_at) values ('acme', %s, 0, 'u1', 1, 9, 7, 20, now()), ('other', %s, 0, 'u9', 1, 9, 7, 20, now())",
        (LONG, LONG),
    )
    connection.execute(
        "update conversations set members = '{u1,u2}' where tenant_id = 'acme' and conversation_id = %s", (LONG,)
    )
    found = history.conversation(connection, "acme", LONG)
    assert found is not None
    assert [(m.member, m.last_delivered_seq, m.last_read_seq) for m in found.members] == [
        ("u1", 9, 7),
        ("u2", None, None),
    ]
    assert (found.messages, found.inbound, found.first.seq, found.last.seq) == (480, 120, 1, 480)
    assert found.statuses == Counter(status_of(seq) for seq in SEQUENCES if seq % 4)
    assert history.conversation(connection, "acme", "none") is None


def test_a_person_s_conversations_are_those_of_the_user_id_and_of_every_address(connection: Connection) -> None:
    connection.execute(
        "insert into contacts (tenant_id, user_id, addresses, updated_at) values ('acme', 'ana', %s, now()), ('other', 'ana', %s, now())",
        (
            Jsonb([{"channel": "whatsapp", "address": "1555"}, {"channel": "telegram", "address": "77"}]),
            Jsonb([{"channel": "whatsapp", "address": "999"}]),
        ),
    )
    for conversation, member in (("c1", "ana"), ("c2", "1555"), ("c3", "77"), ("c3", "ana"), ("c4", "999")):
        connection.execute("insert into participants values ('acme', %s, %s)", (member, conversation))
    connection.execute("update conversations set members = '{77}' where conversation_id = 'c5' and tenant_id = 'acme'")
    for person in ("ana", "1555", "77"):
        found = walked(partial(history.person_conversations, connection, "acme", person, limit=2))
        assert [(each.conversation_id, each.names, each.channels) for each in found] == [
            ("c5", ("77",), ("telegram",)),
            ("c3", ("77", "ana"), ("telegram",)),
            ("c2", ("1555",), ("whatsapp",)),
            ("c1", ("ana",), ()),
        ]
    assert [each.conversation_id for each in history.person_conversations(connection, "acme", "999").items] == ["c4"]


def test_failures_are_counted_and_listed_by_cause(connection: Connection) -> None:
    of_month = [(f"c{c}", (len(MONTHS) - 1) * (OTHERS // 10) + m + 1) for c in range(10) for m in range(OTHERS // 10)]
    of_month += [(LONG, seq) for seq in SEQUENCES[-PER_MONTH:]]
    failed = [
        (c, seq, status_of(seq), f"code-{seq % 3}" if status_of(seq) == "FAILED" else "")
        for c, seq in of_month
        if seq % 4 and status_of(seq) in history_failures.FAILED
    ]
    causes = history_failures.failed_causes(connection, "acme", *LAST_MONTH)
    expected = Counter((status, code) for _, _, status, code in failed)
    assert {(each.status, each.reason_code): each.deliveries for each in causes} == expected
    for status, code in expected:
        found = walked(
            partial(
                history_failures.failed_deliveries,
                connection,
                "acme",
                *LAST_MONTH,
                status=status,
                reason_code=code,
                channel="whatsapp",
                limit=7,
            )
        )
        assert sorted(each.message_id for each in found) == sorted(
            f"{c}-m{seq}" for c, seq, *cause in failed if cause == [status, code]
        )
        assert [each.accepted_at for each in found] == sorted((each.accepted_at for each in found), reverse=True)


def test_attempts_and_ignored_receipts_of_a_delivery_are_in_order(connection: Connection) -> None:
    for version, cause, attempt, reported, status in (
        (1, "CREATED", 0, "", "PENDING"),
        (2, "RETRY_LATER", 1, "", "PENDING"),
        (3, "ACCEPTED", 2, "", "SENT"),
        (4, "RECEIPT", 0, "SENT", "SENT"),
        (5, "RECEIPT", 0, "DELIVERED", "DELIVERED"),
        (6, "RECEIPT", 0, "SENT", "DELIVERED"),
    ):
        connection.execute(
            "insert into delivery_events (tenant_id, delivery_id, event_id, version, previous_status, status, cause, occurred_at,"
            " observed_at, attempts, resends, accepted_at, attempt, reported)"
            " values ('acme', 'd1', %s, %s, %s, %s, %s, now(), now(), 0, 0, '2026-11-01', %s, %s)",
            (f"e{version}", version, "SENT" if version == 5 else status, status, cause, attempt, reported),
        )
    found = walked(partial(history_failures.attempts, connection, "acme", "d1", limit=1))
    assert [(each.attempt, each.outcome) for each in found] == [(1, "retry_later"), (2, "accepted")]
    for of in ("d1", None):
        receipts = walked(partial(history_failures.ignored_receipts, connection, "acme", delivery_id=of, limit=1))
        reasons = [(each.version, each.reason) for each in receipts]
        assert sorted(reasons) == [(4, "already SENT"), (6, "SENT after DELIVERED")]
        assert reasons == sorted(reasons, reverse=of is None)


def test_what_was_refused_suppressed_and_done_is_listed_newest_first(connection: Connection) -> None:
    for n in range(5):
        at = MONTHS[0] + timedelta(seconds=n // 2, microseconds=n // 2)  # ties, and times finer than a millisecond
        connection.execute(
            "insert into dead_letters values ('acme', %s, 'route', 'too_long', 'a detail', 'messages', 0, 1, now(), %s, %s, null, %s)",
            (f"dl{n}", b"\x00k", b"\xff", at),
        )
        connection.execute(
            "insert into orphan_receipts"
            " values ('acme', %s, 'whatsapp', 'a', 'wamid', 'READ', 'orphan_receipt', now(), now(), %s, null, 'dl')",
            (f"e{n}", at),
        )
        connection.execute(
            "insert into operator_actions values (%s, 'erase', 'acme', 'root', %s, %s)", (f"a{n}", Jsonb({"n": n}), at)
        )
        connection.execute(
            "insert into suppressions values ('acme', 'whatsapp', 'a', %s, %s, 'opt-out', now())", (str(n), n != 2)
        )
    letters = walked(partial(history_failures.dead_letters, connection, "acme", limit=2))
    assert [(each.dead_letter_id, each.value) for each in letters] == [(f"dl{n}", None) for n in (4, 3, 2, 1, 0)]
    whole = history_failures.dead_letter(connection, "acme", "dl3", with_bytes=True)
    assert whole is not None
    assert (whole.key, whole.value, whole.detail) == (b"\x00k", b"\xff", "a detail")
    assert history_failures.dead_letter(connection, "other", "dl3") is None
    orphans = walked(partial(history_failures.orphan_receipts, connection, "acme", limit=2))
    assert [each.event_id for each in orphans] == [f"e{n}" for n in (4, 3, 2, 1, 0)]
    actions = walked(partial(history_failures.operator_actions, connection, "acme", limit=2))
    assert [(each.action_id, each.detail) for each in actions] == [(f"a{n}", {"n": n}) for n in (4, 3, 2, 1, 0)]
    for every, expected in ((False, "0134"), (True, "01234")):
        people = walked(partial(history_failures.suppressions, connection, "acme", every=every, limit=2))
        assert [each.address for each in people] == list(expected)


@pytest.fixture(scope="module")
def cursor_text(two_year_connection: Connection) -> str:
    return history.conversation_messages(two_year_connection, "acme", LONG, limit=3).after or ""


@given(data=st.data())
def test_a_cursor_that_was_changed_is_refused_in_one_sentence(
    two_year_connection: Connection, cursor_text: str, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(cursor_text) - 1))
    changed = data.draw(
        st.one_of(
            st.text(max_size=60),
            st.characters(codec="utf-8").map(lambda c: cursor_text[:place] + c + cursor_text[place + 1 :]),
            st.just(cursor_text[:place]),
        )
    )
    if changed.rstrip("=") == cursor_text:
        return
    with pytest.raises(WrongQuestion, match=r"^this cursor is not of this list: [^.]+$"):
        history.conversation_messages(two_year_connection, "acme", LONG, limit=3, cursor=changed)


def test_a_cursor_of_another_list_and_a_limit_out_of_range_are_refused(connection: Connection) -> None:
    cursor = history.conversation_messages(connection, "acme", LONG, limit=3).after
    for ask in (
        lambda: history.conversation_messages(connection, "other", LONG, cursor=cursor),
        lambda: history.conversation_messages(connection, "acme", "c1", cursor=cursor),
        lambda: history.conversation_messages(connection, "acme", LONG, cursor=cursor, newest_first=True),
        lambda: history_failures.dead_letters(connection, "acme", cursor=cursor),
    ):
        with pytest.raises(WrongQuestion, match="not of this list"):
            ask()
    for limit in (0, 501, -1):
        with pytest.raises(WrongQuestion, match=f"a page has 1 to 500 rows, not {limit}"):
            history.conversation_messages(connection, "acme", LONG, limit=limit)


def test_an_answer_that_takes_too_long_is_ended_and_the_connection_goes_on(connection: Connection) -> None:
    before = connection.execute("show statement_timeout").fetchone()
    with pytest.raises(TooSlow, match=r"^the answer takes longer than 0\.05 s: ask for less$"):
        bounded(connection, 0.05, lambda: connection.execute("select pg_sleep(20)"), "ask for less")
    assert bounded(connection, 5, lambda: 7, "") == 7
    history.conversation_messages(connection, "acme", LONG)
    assert connection.execute("show enable_sort").fetchone() == ("on",)
    assert connection.execute("show statement_timeout").fetchone() == before


class Recorded(psycopg.Cursor[Any]):
    """A cursor that keeps what it ran."""

    ran: ClassVar[list[tuple[Any, Any]]] = []

    def execute(self, query: Any, params: Any = None, **options: Any) -> "Recorded":
        self.ran.append((query, params))
        super().execute(query, params, **options)
        return self


ASKED: dict[str, Callable[[Connection], Any]] = {
    "messages": lambda c: history.conversation_messages(c, "acme", LONG, newest_first=True, with_deliveries=True),
    "next messages": lambda c: history.conversation_messages(
        c, "acme", LONG, cursor=history.conversation_messages(c, "acme", LONG).after
    ),
    "one cause": lambda c: history_failures.failed_deliveries(
        c, "acme", *LAST_MONTH, status="FAILED", reason_code="code-0"
    ),
    "ignored receipts": lambda c: history_failures.ignored_receipts(c, "acme"),
    "dead letters": lambda c: history_failures.dead_letters(c, "acme"),
    "orphan receipts": lambda c: history_failures.orphan_receipts(c, "acme"),
    "operator actions": lambda c: history_failures.operator_actions(c, "acme"),
    "suppressions": lambda c: history_failures.suppressions(c, "acme"),
}
BY_INDEX_ONLY: dict[str, Callable[[Connection], Any]] = {
    "attempts": lambda c: history_failures.attempts(c, "acme", f"d-{LONG}-m1"),
    "causes": lambda c: history_failures.failed_causes(c, "acme", *LAST_MONTH),
    "conversation": lambda c: history.conversation(c, "acme", LONG),
    "person": lambda c: history.person_conversations(c, "acme", "u1"),
    "search": lambda c: search(c, "acme", "words", since=0, until=LAST_MONTH[1]),
}


@pytest.mark.parametrize("name", [*ASKED, *BY_INDEX_ONLY])
def test_no_question_reads_a_month_from_end_to_end(two_year_url: str, name: str) -> None:
    """Each relation has an index for each question. A page reads as many rows as it has, one for each month, and nothing is sorted but what
    belongs to a page already found."""
    with psycopg.connect(two_year_url, autocommit=True) as connection:
        # The months of a test are so small that the planner would read them whole.
        connection.execute("set enable_seqscan = off")
        connection.cursor_factory = Recorded
        Recorded.ran.clear()
        (ASKED | BY_INDEX_ONLY)[name](connection)
        ran = list(Recorded.ran)
        connection.cursor_factory = psycopg.Cursor
        plans = [
            connection.execute(b"explain (analyze, format json) " + query, parameters).fetchone()
            for query, parameters in ran
            if isinstance(query, bytes)
        ]
    assert plans
    nodes = [list(nodes_of(plan[0][0]["Plan"])) for plan in plans if plan]
    scans = [node for of_one in nodes for node in of_one if "Relation Name" in node]
    assert scans
    assert [node["Relation Name"] for node in scans if node["Node Type"] == "Seq Scan"] == []
    pages = [of_one for of_one in nodes if of_one[0]["Node Type"] == "Limit"]
    for of_one in pages if name in ASKED else ():
        assert "Sort" not in [node["Node Type"] for node in of_one]
        read = sum(node["Actual Rows"] * node["Actual Loops"] for node in of_one if "Relation Name" in node)
        assert read <= 51 + len(MONTHS) + 3
    assert pages or name == "conversation"


def test_a_long_conversation_without_statistics_is_read_page_by_page(connection: Connection) -> None:
    rows = [(n, MONTHS[n // 200].replace(day=1 + n % 20)) for n in range(1, 1000)]
    add_messages(connection, "acme", "unknown", rows)
    connection.cursor_factory = Recorded
    Recorded.ran.clear()
    history.conversation_messages(connection, "acme", "unknown", newest_first=True)
    connection.cursor_factory = psycopg.Cursor
    before, (query, parameters) = Recorded.ran[0], Recorded.ran[1]
    connection.execute(*before)
    plan = connection.execute(b"explain (analyze, format json) " + query, parameters).fetchone()
    assert plan is not None
    nodes = list(nodes_of(plan[0][0]["Plan"]))
    assert (
        sum(node["Actual Rows"] * node["Actual Loops"] for node in nodes if "Relation Name" in node)
        <= 51 + len(MONTHS) + 3
    )


def nodes_of(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for each in plan.get("Plans", ()):
        yield from nodes_of(each)
