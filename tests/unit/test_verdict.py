"""Every correct run is ok; any single fault in a run is found, with the right kind."""

import io
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from loadgen.evidence import (
    Archived,
    Evidence,
    Kept,
    KeptCursor,
    Name,
    ProducedMessage,
    ProviderCall,
    ReportedReceipt,
    read_produced,
    read_provider,
)
from loadgen.verdict import EXAMPLES, Kind, Percentiles, judge, percentiles
from loadgen.verdict_view import render
from tests.support.builders import OBSERVED

T0 = 1_790_000_000_000
M1 = Name("c1", "m1")


class Run:
    """A correct run: the evidence that the three sources have after it."""

    def __init__(self, seed: int, *, resent: bool = False) -> None:
        draw = random.Random(seed)  # noqa: S311  # a reproducible run, no secret
        self.produced: list[ProducedMessage] = []
        self.calls: list[ProviderCall] = []
        self.reported: list[ReportedReceipt] = []
        self.archived: list[Archived] = []
        self.kept: list[Kept] = []
        self.miscounted: dict[Name, Counter[str]] = {}  # what message_states has besides
        self._n = 0
        people = [("whatsapp", str(15550000000 + i)) for i in range(3)] + [("telegram", str(700 + i)) for i in range(3)]
        ways = {c: draw.sample(people, draw.randint(1, 6)) for c in range(draw.randint(1, 4))}
        seqs = dict.fromkeys(ways, 0)
        for n in range(draw.randint(4, 25)):
            conversation = draw.choice(list(ways))
            seqs[conversation] += 1
            people_of = tuple(ways[conversation])
            name = Name(f"c{conversation}", f"m{seqs[conversation]}")  # every conversation has an m1
            self.produced.append(
                ProducedMessage(name.message_id, name.conversation_id, conversation, n, T0 + n, people_of)
            )
            self.archived.append(Archived(name.message_id, name.conversation_id, seqs[conversation]))
            self._message(draw, n, name, people_of, resent)
        for twice in draw.sample(self.produced, len(self.produced) // 4):
            self.produced.append(replace(twice, offset=1000 + len(self.produced)))
        for source in (self.produced, self.calls, self.reported, self.archived, self.kept):
            draw.shuffle(source)

    def _message(
        self, draw: random.Random, n: int, name: Name, people: tuple[tuple[str, str], ...], resent: bool
    ) -> None:
        for channel, address in people:
            resends = draw.randint(0, 2) if resent else 0
            ids = [self._call(channel, address, name, draw) for _ in range(resends + 1)]
            status, names = draw.choice(
                [
                    ("SENT", []),
                    ("SENT", ["sent"]),
                    ("DELIVERED", ["delivered", "sent"]),
                    ("READ", ["sent", "read", "read"]),
                    ("READ", ["delivered", "read", "failed"]),
                    ("FAILED", ["sent", "failed"]),
                ]
                if channel == "whatsapp"
                else [("SENT", [])]
            )
            for receipt in names:
                self._n += 1
                self.reported.append(ReportedReceipt(channel, self._n, receipt, draw.choice(ids)))
            sent, delivered = T0 + n + 40, T0 + n + 90 if status in ("DELIVERED", "READ") else None
            self.kept.append(
                Kept(f"d-{n}-{address}", *name, channel, address, status, resends, T0 + n, sent, delivered)
            )

    def _call(self, channel: str, address: str, name: Name, draw: random.Random) -> str:
        if draw.random() < 0.2:  # an attempt that was throttled or failed: no message was delivered
            self._n += 1
            self.calls.append(
                ProviderCall(channel, self._n, T0, address, name, None, draw.choice(["throttled", "error"]))
            )
        self._n += 1
        provider_id = f"{channel}-{self._n}"
        self.calls.append(ProviderCall(channel, self._n, T0, address, name, provider_id, "accepted"))
        return provider_id

    def evidence(self) -> Evidence:
        counts: dict[Name, Counter[str]] = {}
        for row in self.kept:
            counts.setdefault(row.name, Counter())[row.status] += 1
        sources = (self.produced, self.calls, self.reported, self.archived, self.kept)
        return Evidence(*sources, counts={**counts, **self.miscounted})

    def taken(self) -> list[ProviderCall]:
        return [call for call in self.calls if call.provider_message_id]


def nobody_took_it(run: Run, draw: random.Random) -> None:
    victim = draw.choice(run.taken())
    same = {
        c.provider_message_id
        for c in run.calls
        if (c.name, c.channel, c.address) == (victim.name, victim.channel, victim.address)
    }
    run.calls = [call for call in run.calls if not call.provider_message_id or call.provider_message_id not in same]


def taken_twice(run: Run, draw: random.Random) -> None:
    victim = draw.choice(run.taken())
    run.calls.append(replace(victim, n=10_000, provider_message_id="again"))


def one_resend_less_published(run: Run, draw: random.Random) -> None:
    resent = [i for i, row in enumerate(run.kept) if row.resends]
    assume(resent)
    i = draw.choice(resent)
    run.kept[i] = replace(run.kept[i], resends=run.kept[i].resends - 1)


def sent_to_a_stranger(run: Run, draw: random.Random) -> None:
    run.calls.append(replace(draw.choice(run.taken()), n=10_000, address="19990000000", provider_message_id="stray"))


def _two_of_a_conversation(run: Run, draw: random.Random) -> tuple[ProducedMessage, ProducedMessage]:
    firsts: dict[Name, ProducedMessage] = {}
    for record in sorted(run.produced, key=lambda r: r.offset):
        firsts.setdefault(record.name, record)
    pairs = [
        (a, b)
        for a in firsts.values()
        for b in firsts.values()
        if a.conversation_id == b.conversation_id and a.offset < b.offset and a.recipients and b.recipients
    ]
    assume(pairs)
    return draw.choice(pairs)


def overtaken_in_a_lane(run: Run, draw: random.Random) -> None:
    pair = _two_of_a_conversation(run, draw)
    who = draw.choice(pair[0].recipients)

    def first(name: Name) -> ProviderCall:
        return min((c for c in run.taken() if (c.name, c.channel, c.address) == (name, *who)), key=lambda c: c.n)

    early, late = first(pair[0].name), first(pair[1].name)
    run.calls.remove(late)
    run.calls.append(replace(late, n=early.n - 0.5))  # type: ignore[arg-type]  # between two calls, without renumbering the rest


def numbered_against_the_topic(run: Run, draw: random.Random) -> None:
    pair = _two_of_a_conversation(run, draw)
    one, other = (
        next(row for row in run.archived if (row.conversation_id, row.message_id) == record.name) for record in pair
    )
    run.archived = [row for row in run.archived if row not in (one, other)]
    run.archived += [replace(one, seq=other.seq), replace(other, seq=one.seq)]


def a_number_left_out(run: Run, draw: random.Random) -> None:
    victim = draw.choice(run.archived)
    run.archived = [
        replace(row, seq=row.seq + 1)
        if row.conversation_id == victim.conversation_id and row.seq >= victim.seq
        else row
        for row in run.archived
    ]


def a_number_given_twice(run: Run, draw: random.Random) -> None:
    victim = draw.choice(run.archived)
    run.archived.append(replace(victim, message_id="other", is_conflict=True))


def another_status(run: Run, draw: random.Random) -> None:
    i = draw.randrange(len(run.kept))
    others = [s for s in ("PENDING", "SENT", "DELIVERED", "READ", "FAILED", "EXPIRED") if s != run.kept[i].status]
    run.kept[i] = replace(run.kept[i], status=draw.choice(others))


def a_read_receipt_nobody_kept(run: Run, draw: random.Random) -> None:
    unread = [row for row in run.kept if row.status != "READ"]
    assume(unread)
    row = draw.choice(unread)
    call = next(c for c in run.taken() if (c.name, c.channel, c.address) == (row.name, row.channel, row.address))
    run.reported.append(ReportedReceipt(row.channel, 10_000, "read", call.provider_message_id or ""))


def a_delivery_missing_or_double(run: Run, draw: random.Random) -> None:
    row = draw.choice([row for row in run.kept if not row.resends] or run.kept)
    if draw.random() < 0.5 and not row.resends:
        run.kept.remove(row)
    else:
        run.kept.append(replace(row, delivery_id="another", resends=0))


def a_message_counted_wrong(run: Run, draw: random.Random) -> None:
    row = draw.choice(run.kept)
    run.miscounted[row.name] = Counter({"EXPIRED": 1 + sum(each.name == row.name for each in run.kept)})


FAULTS: list[tuple[Callable[[Run, random.Random], None], Kind]] = [
    (nobody_took_it, Kind.LOST),
    (taken_twice, Kind.DOUBLED),
    (one_resend_less_published, Kind.DOUBLED),
    (sent_to_a_stranger, Kind.STRAY),
    (overtaken_in_a_lane, Kind.OUT_OF_ORDER),
    (numbered_against_the_topic, Kind.OUT_OF_ORDER),
    (a_number_left_out, Kind.GAP),
    (a_number_given_twice, Kind.GAP),
    (another_status, Kind.DISAGREEMENT),
    (a_read_receipt_nobody_kept, Kind.DISAGREEMENT),
    (a_delivery_missing_or_double, Kind.DISAGREEMENT),
    (a_message_counted_wrong, Kind.DISAGREEMENT),
]


@pytest.mark.parametrize(("first", "found"), [("READ", 0), ("SENT", 1)])
def test_a_read_on_instagram_covers_what_came_before(first: str, found: int) -> None:
    """The second of three messages was read; of the first, the read was lost; of the third, there is none yet."""
    names = [Name("c1", f"m{n}") for n in (1, 2, 3)]
    person = ("instagram", "900")
    statuses = (first, "READ", "SENT")
    verdict = judge(
        Evidence(
            [ProducedMessage(name.message_id, "c1", 0, n, T0, (person,)) for n, name in enumerate(names)],
            [ProviderCall("instagram", n, T0, "900", name, f"mid-{n}", "accepted") for n, name in enumerate(names)],
            [ReportedReceipt("instagram", 9, "read", "mid-1")],
            [Archived(name.message_id, "c1", n) for n, name in enumerate(names, 1)],
            [
                Kept(f"d-{n}", *name, *person, status, 0, T0, T0 + 9, seq=n, recipient="900")
                for n, (name, status) in enumerate(zip(names, statuses, strict=True), 1)
            ],
            [KeptCursor("c1", "900", None, 2, 3)],
        ),
        OBSERVED,
    )
    assert len(verdict.findings[Kind.DISAGREEMENT]) == found
    assert verdict.ok == (found == 0), verdict.findings


@given(seed=st.integers(0, 2**32), resent=st.booleans())
def test_a_correct_run_is_ok(seed: int, resent: bool) -> None:
    run = Run(seed, resent=resent)
    verdict = judge(run.evidence(), OBSERVED)
    assert verdict.ok, verdict.findings
    assert verdict.counts["duplicates dropped"] == len(run.produced) - len(run.archived)
    assert verdict.counts["deliveries expected"] == len(run.kept) == verdict.counts["deliveries taken by a provider"]
    assert verdict.counts["repeated after unknown, within the published bound"] == sum(row.resends for row in run.kept)
    assert sum(sum(by_status.values()) for by_status in verdict.statuses.values()) == len(run.kept)


@pytest.mark.parametrize(("fault", "kind"), FAULTS, ids=[fault.__name__ for fault, _ in FAULTS])
# Some faults are not possible in some runs, which Hypothesis then filters out.
@settings(max_examples=60, suppress_health_check=[HealthCheck.filter_too_much])
@given(seed=st.integers(0, 2**32), resent=st.booleans())
def test_a_single_fault_is_found_and_named_as_what_it_is(
    fault: Callable[[Run, random.Random], None], kind: Kind, seed: int, resent: bool
) -> None:
    run, draw = Run(seed, resent=resent), random.Random(seed)  # noqa: S311  # a reproducible fault, no secret
    before = judge(run.evidence(), OBSERVED)
    fault(run, draw)
    verdict = judge(run.evidence(), OBSERVED)
    assert before.ok
    assert not verdict.ok
    assert {found for found, total in verdict.totals.items() if total} == {kind}


def one(**changes: object) -> Run:
    """A run of one message to one person on WhatsApp, delivered."""
    run = Run(0)
    run.produced = [ProducedMessage("m1", "c1", 0, 5, T0, (("whatsapp", "1555"),))]
    run.calls = [ProviderCall("whatsapp", 1, T0, "1555", M1, "wamid.1", "accepted")]
    run.reported = [ReportedReceipt("whatsapp", 2, "delivered", "wamid.1")]
    run.archived = [Archived("m1", "c1", 1)]
    run.kept = [Kept("d1", *M1, "whatsapp", "1555", "DELIVERED", 0, T0, T0 + 30, T0 + 80)]
    for source, content in changes.items():
        setattr(run, source, content)
    return run


def sentences(run: Run) -> dict[Kind, list[str]]:
    return {kind: found for kind, found in judge(run.evidence(), OBSERVED).findings.items() if found}


def test_sentences_name_the_ids() -> None:
    assert sentences(one()) == {}
    assert sentences(one(calls=[], reported=[])) == {
        Kind.LOST: ["message m1 of conversation c1 to whatsapp:1555: no provider took it, PostgreSQL says DELIVERED"]
    }
    assert sentences(one(reported=[])) == {
        Kind.DISAGREEMENT: [
            "message m1 of conversation c1 to whatsapp:1555 (delivery d1): PostgreSQL says DELIVERED, the provider reported nothing"
        ]
    }
    assert sentences(one(archived=[Archived("m1", "c1", 3)])) == {Kind.GAP: ["conversation c1: 3 follows 0"]}


def test_an_acknowledged_message_that_postgresql_lacks_is_found_though_it_was_the_last() -> None:
    assert sentences(one(archived=[])) == {
        Kind.DISAGREEMENT: ["message m1 of conversation c1 was acknowledged and is not in PostgreSQL"]
    }


def test_a_run_of_nothing_is_not_ok() -> None:
    verdict = judge(Evidence([], [], [], [], []), OBSERVED)
    assert not verdict.ok
    assert "no message was acknowledged" in text_of(render(verdict))


def test_what_a_provider_refused_is_no_loss_as_long_as_postgresql_says_so() -> None:
    refusal = ProviderCall("whatsapp", 1, T0, "1555", M1, None, "rejected")
    failed = Kept("d1", *M1, "whatsapp", "1555", "FAILED", 0, T0, reason="undeliverable")
    verdict = judge(one(calls=[refusal], reported=[], kept=[failed]).evidence(), OBSERVED)
    assert verdict.ok
    assert verdict.counts["refused by a provider"] == 1
    pending = replace(failed, status="PENDING")
    assert sentences(one(calls=[refusal], reported=[], kept=[pending])) == {
        Kind.DISAGREEMENT: [
            "message m1 of conversation c1 to whatsapp:1555: the provider refused it, PostgreSQL says PENDING"
        ]
    }


def test_giving_up_without_the_provider_s_refusal_is_a_loss_with_its_reason() -> None:
    given_up = Kept("d1", *M1, "whatsapp", "1555", "FAILED", 0, T0, reason="8 attempts")
    throttled = ProviderCall("whatsapp", 1, T0, "1555", M1, None, "throttled")
    assert sentences(one(calls=[throttled], reported=[], kept=[given_up])) == {
        Kind.LOST: [
            "message m1 of conversation c1 to whatsapp:1555: no provider took it, PostgreSQL says FAILED (8 attempts)"
        ]
    }


def test_read_may_be_concluded_from_an_answer_on_telegram_only_with_the_answer() -> None:
    telegram = one(
        produced=[ProducedMessage("m1", "c1", 0, 5, T0, (("telegram", "-100"),))],
        calls=[ProviderCall("telegram", 1, T0, "-100", M1, "-100:1", "accepted")],
        reported=[ReportedReceipt("telegram", 2, "message", "-100:2")],
        kept=[Kept("d1", *M1, "telegram", "-100", "READ", 0, T0)],
    )
    assert judge(telegram.evidence(), OBSERVED).ok
    telegram.reported = [ReportedReceipt("telegram", 2, "message", "-101:2")]
    assert set(sentences(telegram)) == {Kind.DISAGREEMENT}


def test_other_runs_in_the_same_logs_are_no_matter_of_this_one() -> None:
    others = [ProviderCall("whatsapp", n, T0, "1999", Name("c1", f"other{n}"), f"w{n}", "accepted") for n in (7, 8)]
    nameless = ProviderCall("whatsapp", 9, T0, "", None, None, "rejected")
    run = one()
    run.calls += [*others, others[0], nameless]
    assert judge(run.evidence(), OBSERVED).ok


def test_ten_examples_of_a_kind_and_the_whole_total() -> None:
    run = one(archived=[Archived(f"m{n}", "c1", 2 * n) for n in range(1, 31)])
    verdict = judge(run.evidence(), OBSERVED)
    assert verdict.totals[Kind.GAP] == 30
    assert len(verdict.findings[Kind.GAP]) == EXAMPLES
    assert "sequence gap: and 20 more" in text_of(render(verdict))


def test_the_view_shows_what_was_counted() -> None:
    shown = text_of(render(judge(one().evidence(), OBSERVED)))
    assert "OK: nothing lost" in shown
    for word in ("acknowledged messages", "DELIVERED", "sent to delivered", "p99"):
        assert word in shown


@given(st.lists(st.integers(0, 100_000), min_size=1))
def test_percentiles_are_by_nearest_rank(values: list[int]) -> None:
    found = percentiles(values)
    for share, value in ((0.5, found.p50), (0.95, found.p95), (0.99, found.p99)):
        assert value in values
        assert sum(v <= value for v in values) >= share * len(values)
        assert sum(v < value for v in values) < share * len(values)


def test_times_that_two_clocks_make_negative_count_as_zero() -> None:
    assert percentiles([-5, -4, 10]) == Percentiles(3, 0, 10, 10)
    assert percentiles([]) == Percentiles(0, 0, 0, 0)


def test_logs_are_read_as_written_and_torn_lines_skipped(tmp_path: Path) -> None:
    loader, provider = tmp_path / "produced.jsonl", tmp_path / "whatsapp.jsonl"
    loader.write_text(
        '{"message_id":"m1","conversation_id":"c1","partition":3,"offset":9,"at":5,"duplicate":false,"recipients":[["whatsapp","+1555"]]}\n'
        '{"message_id":"m2","conv',
        encoding="utf-8",
    )
    provider.write_text(
        '{"n":1,"at":6,"account":"a","recipient":"1555","provider_message_id":"w1","verdict":"accepted","status":200,"tracker":null,"text_key":"c1/m1"}\n'
        '{"n":2,"at":6,"acc\n\n'
        '{"n":10003,"at":7,"receipt":"read","provider_message_id":"w1","tries":1}\n',
        encoding="utf-8",
    )
    assert read_produced(loader) == [ProducedMessage("m1", "c1", 3, 9, 5, (("whatsapp", "1555"),))]
    assert read_provider("whatsapp", provider) == (
        [ProviderCall("whatsapp", 1, 6, "1555", M1, "w1", "accepted")],
        [ReportedReceipt("whatsapp", 10003, "read", "w1")],
    )


def test_a_line_that_is_no_json_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('\n{"n":}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"^log\.jsonl line 2 is not JSON"):
        read_produced(tmp_path / "log.jsonl")


def text_of(renderable: RenderableType) -> str:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(renderable)
    return console.export_text()
