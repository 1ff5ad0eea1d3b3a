"""The evidence of a run, arranged so that it can be judged: by person, by conversation, in order.

Enters: an Evidence. Leaves: a Case. Pure; nothing is concluded here.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from loadgen.evidence import Archived, Evidence, Kept, Name, ProducedMessage, ProviderCall, ReportedReceipt

_ANSWERS = {"message", "message_reaction", "callback_query"}  # Telegram's only sign that a person read


class PersonEvidence(NamedTuple):
    """One message to one person: what is delivered once, or not at all."""

    message: Name
    channel: str
    address: str

    def __str__(self) -> str:
        return f"{self.message} to {self.channel}:{self.address}"


@dataclass(frozen=True, slots=True)
class EvidenceIndex:
    """The evidence, arranged: by message, by (message, person) and by conversation."""

    firsts: Mapping[Name, ProducedMessage]  # the first record of each message, by its offset
    expected: Sequence[PersonEvidence]
    conversations: Mapping[str, Sequence[ProducedMessage]]  # first records in the order they were produced
    taken: Mapping[PersonEvidence, Sequence[ProviderCall]]  # calls that reached the person, in order
    refused: frozenset[PersonEvidence]  # the provider itself said never
    told: Mapping[tuple[str, str], frozenset[str]]  # (channel, provider id) -> names of notices
    answered: frozenset[tuple[str, str]]  # people who wrote or reacted, so that READ may be concluded
    archived: Mapping[str, Sequence[Archived]]
    kept: Mapping[PersonEvidence, Sequence[Kept]]

    def names(self, person: PersonEvidence) -> frozenset[str]:
        """What the provider told of the calls it took for this person."""
        told = (
            self.told.get((call.channel, call.provider_message_id or ""), frozenset())
            for call in self.taken.get(person, ())
        )
        return frozenset().union(*told)

    def resends(self, person: PersonEvidence) -> int:
        """Resends after an unknown outcome that PostgreSQL publishes for this person."""
        return sum(row.resends for row in self.kept.get(person, ()))


def index_evidence(evidence: Evidence) -> EvidenceIndex:
    """The case; calls that name no message of this run are left out, other runs share the simulators' logs."""
    firsts: dict[Name, ProducedMessage] = {}
    for record in sorted(evidence.produced, key=lambda r: (r.partition, r.offset)):
        firsts.setdefault(record.name, record)
    conversations: dict[str, list[ProducedMessage]] = defaultdict(list)
    for record in firsts.values():
        conversations[record.conversation_id].append(record)
    taken: dict[PersonEvidence, list[ProviderCall]] = defaultdict(list)
    refused = set()
    for call in sorted(evidence.calls, key=lambda c: (c.channel, c.n)):
        if call.name in firsts:
            person = PersonEvidence(call.name, call.channel, call.address)
            if call.provider_message_id is not None:
                taken[person].append(call)
            elif call.verdict == "rejected":
                refused.add(person)
    told: dict[tuple[str, str], set[str]] = defaultdict(set)
    for notice in evidence.told:
        told[notice.channel, notice.provider_message_id].add(notice.name)
    return EvidenceIndex(
        firsts=firsts,
        expected=[PersonEvidence(r.name, *who) for r in firsts.values() for who in dict.fromkeys(r.recipients)],
        conversations=conversations,
        taken=taken,
        refused=frozenset(refused),
        told={key: frozenset(names) for key, names in told.items()},
        answered=frozenset(_answered(evidence.told)),
        archived=_grouped(evidence.archived),
        kept=_by_person(evidence.kept),
    )


def _answered(told: Iterable[ReportedReceipt]) -> Iterable[tuple[str, str]]:
    """People who answered on a channel whose ids begin with the person, as Telegram's do."""
    return ((t.channel, t.provider_message_id.rpartition(":")[0]) for t in told if t.name in _ANSWERS)


def _grouped(archived: Iterable[Archived]) -> dict[str, list[Archived]]:
    found: dict[str, list[Archived]] = defaultdict(list)
    for row in archived:
        found[row.conversation_id].append(row)
    return found


def _by_person(kept: Iterable[Kept]) -> dict[PersonEvidence, list[Kept]]:
    found: dict[PersonEvidence, list[Kept]] = defaultdict(list)
    for row in kept:
        found[PersonEvidence(row.name, row.channel, row.address)].append(row)
    return found
