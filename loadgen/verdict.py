"""The verdict on a run, computed only from three independent sources of evidence.

Enters: an Evidence. Leaves: a Verdict: findings by kind, with ids; counts; latencies. Pure. Guaranteed: the verdict is ok only if at least
one message was acknowledged and there is no finding. Missing evidence is a finding.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import ceil

from loadgen.cursor_check import Reports, violations
from loadgen.evidence import Evidence, Kept, Name
from loadgen.evidence_index import EvidenceIndex, PersonEvidence, index_evidence

EXAMPLES = 10
_GIVEN_UP = {"FAILED", "EXPIRED", "CANCELLED", "SUPPRESSED"}
Lane = tuple[str, str, str]  # conversation, channel, address


class Kind(StrEnum):
    """Kinds of findings."""

    LOST = "lost"  # Kafka acknowledged it, but no provider accepted it for that recipient
    DOUBLED = "doubled"  # a person got it more often than PostgreSQL's number of resends allows
    STRAY = "stray"  # a person got it who was not a recipient
    OUT_OF_ORDER = "out of order"  # sent or numbered in another order than produced
    GAP = "sequence gap"  # the sequence numbers of a conversation are not 1, 2, 3, ...
    DISAGREEMENT = "disagreement"  # PostgreSQL contradicts what the providers reported and we acknowledged
    CURSOR = "cursor violation"  # a member's cursor is out of order, or not what its deliveries say


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Milliseconds, by nearest rank."""

    count: int
    p50: int
    p95: int
    p99: int


@dataclass(slots=True)
class Verdict:
    """The result. `totals` counts all findings; `findings` has the first 10 sentences of each kind; times are in milliseconds."""

    totals: dict[Kind, int] = field(default_factory=lambda: dict.fromkeys(Kind, 0))
    findings: dict[Kind, list[str]] = field(default_factory=lambda: {kind: [] for kind in Kind})
    counts: dict[str, int] = field(default_factory=dict)
    statuses: dict[str, dict[str, int]] = field(default_factory=dict)  # channel -> status -> deliveries
    latencies: dict[str, Percentiles] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return self.counts["acknowledged messages"] > 0 and not any(self.totals.values())

    def add(self, kind: Kind, sentence: str) -> None:
        self.totals[kind] += 1
        if len(self.findings[kind]) < EXAMPLES:
            self.findings[kind].append(sentence)


def judge(evidence: Evidence, reports: Reports) -> Verdict:
    """Computes the verdict. `reports` has for each channel whether it reports arrivals, and reads. The caller must wait until the run has
    ended: a delivery that is still open counts as a finding."""
    index, verdict = index_evidence(evidence), Verdict()
    newest_read = _newest_read(index, reports)
    for person in index.expected:
        _judge_person(person, index, newest_read, verdict)
    _judge_strays(index, verdict)
    for conversation in index.conversations:
        _judge_numbers(conversation, index, verdict)
        _judge_lanes(conversation, index, verdict)
    for sentence in violations(evidence.kept, evidence.cursors, reports):
        verdict.add(Kind.CURSOR, sentence)
    _judge_counts(evidence, verdict)
    _count(evidence, index, verdict)
    return verdict


def _newest_read(index: EvidenceIndex, reports: Reports) -> Mapping[Lane, int]:
    """Lane -> the newest sequence whose read the provider reported, on channels where that covers everything before it."""
    newest: dict[Lane, int] = {}
    for person, kept in index.kept.items():
        *_, covers = reports[person.channel]
        if covers and "read" in index.names(person):
            lane = _lane(kept[0])
            newest[lane] = max(newest.get(lane, 0), *(each.seq for each in kept))
    return newest


def _lane(kept: Kept) -> Lane:
    return kept.conversation_id, kept.channel, kept.address


def _judge_person(
    person: PersonEvidence, index: EvidenceIndex, newest_read: Mapping[Lane, int], verdict: Verdict
) -> None:
    taken, kept = index.taken.get(person, ()), index.kept.get(person, ())
    if len(kept) != 1:
        verdict.add(Kind.DISAGREEMENT, f"{person}: PostgreSQL has {len(kept)} deliveries")
    status = kept[0].status if kept else "nothing"
    if not taken:
        if person not in index.refused:
            reason = kept[0].reason if kept else None
            why = f" ({reason})" if reason else ""
            verdict.add(Kind.LOST, f"{person}: no provider took it, PostgreSQL says {status}{why}")
        elif kept and status not in _GIVEN_UP:
            verdict.add(Kind.DISAGREEMENT, f"{person}: the provider refused it, PostgreSQL says {status}")
        return
    published = index.resends(person)
    if len(taken) - 1 > published:
        calls = ", ".join(str(call.n) for call in taken)
        verdict.add(
            Kind.DOUBLED, f"{person}: taken {len(taken)} times (calls {calls}), {published} published as resent"
        )
    if len(kept) == 1 and kept[0].seq < newest_read.get(_lane(kept[0]), 0):
        if status != "READ":
            verdict.add(Kind.DISAGREEMENT, f"{person}: a later message was read, PostgreSQL says {status}")
    elif len(kept) == 1 and not _agrees(status, person, index):
        reported = ", ".join(sorted(index.names(person))) or "nothing"
        verdict.add(
            Kind.DISAGREEMENT,
            f"{person} (delivery {kept[0].delivery_id}): PostgreSQL says {status}, the provider reported {reported}",
        )


def _agrees(status: str, person: PersonEvidence, index: EvidenceIndex) -> bool:
    """Whether the status is exactly the one that follows from the provider's receipts."""
    names = index.names(person)
    if status == "READ" and "read" not in names:
        return (person.channel, person.address) in index.answered
    for name in ("read", "delivered", "failed"):
        if name in names:
            return status == name.upper()
    return status == "SENT"


def _judge_strays(index: EvidenceIndex, verdict: Verdict) -> None:
    for person, calls in index.taken.items():
        if (person.channel, person.address) not in index.firsts[person.message].recipients:
            verdict.add(Kind.STRAY, f"{person}: call {calls[0].n}, to a person who was not a recipient")


def _judge_numbers(conversation: str, index: EvidenceIndex, verdict: Verdict) -> None:
    rows = sorted(index.archived.get(conversation, ()), key=lambda row: row.seq)
    before = 0
    for row in rows:
        if row.is_conflict:
            verdict.add(
                Kind.GAP, f"conversation {conversation}: number {row.seq} of message {row.message_id} was set aside"
            )
            continue
        if row.seq != before + 1:
            verdict.add(Kind.GAP, f"conversation {conversation}: {row.seq} follows {before}")
        before = row.seq
    number_of = {row.message_id: row.seq for row in rows if not row.is_conflict}
    highest, earlier = 0, ""
    for record in index.conversations[conversation]:
        message_id = record.message_id
        number = number_of.get(message_id)
        if number is None:
            verdict.add(Kind.DISAGREEMENT, f"{record.name} was acknowledged and is not in PostgreSQL")
        elif number < highest:
            verdict.add(
                Kind.OUT_OF_ORDER,
                f"conversation {conversation}: message {message_id} has number {number}, and {earlier}, produced before it, has {highest}",
            )
        else:
            highest, earlier = number, message_id


def _judge_counts(evidence: Evidence, verdict: Verdict) -> None:
    """PostgreSQL's counts of each message must be those of its deliveries."""
    if evidence.counts is None:
        return
    wanted: dict[Name, Counter[str]] = {}
    for row in evidence.kept:
        wanted.setdefault(row.name, Counter())[row.status] += 1
    for name in sorted({*wanted, *evidence.counts}):
        counted, has = evidence.counts.get(name, {}), wanted.get(name, Counter[str]())
        if dict(counted) != dict(has):
            said = f"message_states has {_listed(counted)}, its deliveries are {_listed(has)}"
            verdict.add(Kind.DISAGREEMENT, f"{name}: {said}")


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {status}" for status, number in sorted(counts.items())) or "nothing"


def _judge_lanes(conversation: str, index: EvidenceIndex, verdict: Verdict) -> None:
    """Within a lane, the first calls must be in the order in which the messages were produced."""
    newest: dict[tuple[str, str], tuple[int, str]] = {}
    for record in index.conversations[conversation]:
        for person in dict.fromkeys(record.recipients):
            calls = index.taken.get(PersonEvidence(record.name, *person))
            if not calls:
                continue
            last, earlier = newest.get(person, (0, ""))
            if calls[0].n < last:
                verdict.add(
                    Kind.OUT_OF_ORDER,
                    f"{PersonEvidence(record.name, *person)}: call {calls[0].n}, and {earlier}, produced before it, was call {last}",
                )
            else:
                newest[person] = (calls[0].n, record.message_id)


def _count(evidence: Evidence, index: EvidenceIndex, verdict: Verdict) -> None:
    expected = set(index.expected)
    repeated = sum(
        min(len(index.taken[p]) - 1, sum(k.resends for k in index.kept.get(p, ())))
        for p in expected
        if p in index.taken
    )
    verdict.counts = {
        "acknowledged records": len(evidence.produced),
        "acknowledged messages": len(index.firsts),
        "duplicates dropped": len(evidence.produced) - len(index.firsts),
        "conversations": len(index.conversations),
        "deliveries expected": len(index.expected),
        "deliveries taken by a provider": sum(p in index.taken for p in expected),
        "refused by a provider": sum(p in index.refused and p not in index.taken for p in expected),
        "repeated after unknown, within the published bound": repeated,
    }
    for row in evidence.kept:
        verdict.statuses.setdefault(row.channel, Counter())[row.status] += 1
    verdict.latencies = {
        "accept to sent": percentiles([k.sent_at - k.accepted_at for k in evidence.kept if k.sent_at is not None]),
        "sent to delivered": percentiles(
            [
                k.delivered_at - k.sent_at
                for k in evidence.kept
                if k.sent_at is not None and k.delivered_at is not None and not k.delivered_implied
            ]
        ),
    }


def percentiles(values: Iterable[int]) -> Percentiles:
    """p50, p95 and p99. A negative time, from the difference of two clocks, counts as 0."""
    ordered = sorted(max(0, value) for value in values)

    def at(share: float) -> int:
        return ordered[max(0, ceil(share * len(ordered)) - 1)] if ordered else 0

    return Percentiles(len(ordered), at(0.5), at(0.95), at(0.99))
