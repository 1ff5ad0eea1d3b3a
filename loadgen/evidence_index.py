"""The evidence of a run, arranged for the verdict: by person, by conversation, in order.

Enters: an Evidence. Leaves: an EvidenceIndex. Pure; nothing is concluded here.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from loadgen.evidence import Archived, Evidence, Kept, Name, ProducedMessage, ProviderCall, ReportedReceipt

_ANSWERS = {"message", "message_reaction", "callback_query"}  # on Telegram, only these show that a person has read


class PersonEvidence(NamedTuple):
    """One message to one person, which must be delivered once or not at all."""

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
    refused: frozenset[PersonEvidence]  # the provider rejected it for good
    reported: Mapping[tuple[str, str], frozenset[str]]  # (channel, provider id) -> names of notices
    answered: frozenset[tuple[str, str]]  # people who wrote or reacted, which proves READ
    archived: Mapping[str, Sequence[Archived]]
    kept: Mapping[PersonEvidence, Sequence[Kept]]

    def names(self, person: PersonEvidence) -> frozenset[str]:
        """The receipts that the provider reported for the calls it accepted for this person."""
        reported = (
            self.reported.get((call.channel, call.provider_message_id or ""), frozenset())
            for call in self.taken.get(person, ())
        )
        return frozenset().union(*reported)

    def resends(self, person: PersonEvidence) -> int:
        """Resends after an unknown outcome, as PostgreSQL has them for this person."""
        return sum(row.resends for row in self.kept.get(person, ()))


def index_evidence(evidence: Evidence) -> EvidenceIndex:
    """The index. It ignores calls without a message of this run, because other runs share the simulators' logs."""
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
    reported: dict[tuple[str, str], set[str]] = defaultdict(set)
    for notice in evidence.reported:
        reported[notice.channel, notice.provider_message_id].add(notice.name)
    return EvidenceIndex(
        firsts=firsts,
        expected=[PersonEvidence(r.name, *person) for r in firsts.values() for person in dict.fromkeys(r.recipients)],
        conversations=conversations,
        taken=taken,
        refused=frozenset(refused),
        reported={key: frozenset(names) for key, names in reported.items()},
        answered=frozenset(_answered(evidence.reported)),
        archived=_grouped(evidence.archived),
        kept=_by_person(evidence.kept),
    )


def _answered(reported: Iterable[ReportedReceipt]) -> Iterable[tuple[str, str]]:
    """People who answered, on a channel whose message ids begin with the person's id, as on Telegram."""
    return ((t.channel, t.provider_message_id.rpartition(":")[0]) for t in reported if t.name in _ANSWERS)


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
