"""What deliveries and cursors are at the end, from a look at everything that became known of each delivery. It shares no code with the
product: no rows, no runs, no walk, and nothing is carried from one receipt to the next.

In: the facts of one conversation in the order in which stage track learned them. The order decides only which deliveries a reply or a
report could mean: those that existed then. Out: the status and the times of a delivery, and the cursors of a member.
"""

from collections import defaultdict
from collections.abc import Sequence

from tests.support.receipt_facts import CHANNELS, ENDED, FAILURES, Fact, Made, Place, Replied, Reported, Said


class Reference:
    def __init__(self, facts: Sequence[Fact]) -> None:
        self.facts = facts
        self.made = {n: fact for n, fact in enumerate(facts) if isinstance(fact, Made)}
        events = {(fact.delivery_id, fact.event_id): fact for fact in reversed(facts) if isinstance(fact, Said)}
        self.said = defaultdict[str, list[Said]](list)
        for said in events.values():
            self.said[said.delivery_id].append(said)
        # of a member's lane: what a receipt says of its deliveries, up to which sequence, when, and of those that existed by then
        self.covers = defaultdict[tuple[str, Place], list[tuple[str, int, int, int]]](list)
        for made in self.made.values():
            for said in self.said[made.delivery_id] if CHANNELS[made.place[0]][2] else ():
                if said.status == "READ" and not said.inferred:
                    self.covers[made.member, made.place].append(("READ", made.seq - 1, said.at, len(facts)))
        for n, fact in enumerate(facts):
            if isinstance(fact, Reported):
                of = (self.member(fact.place[0], fact.place[2], n), fact.place)
                self.covers[of].append((fact.status, fact.up_to, fact.at, n))

    def member(self, channel: str, address: str, until: int) -> str:
        """Who has an address: whom a user id named there last, else the address itself."""
        there = [made for n, made in self.made.items() if n < until and made.place[::2] == (channel, address)]
        return next((made.member for made in reversed(there) if made.named), address)

    def at(self, n: int, status: str) -> int | None:
        """When a delivery reached the status, by a receipt of its own, or by one that covers it once it was sent and after its time."""
        made, said = self.made[n], self.said[self.made[n].delivery_id]
        is_covered = not made.is_signal and any(each.status in ("SENT", "DELIVERED", "READ") for each in said)
        covers = self.covers[made.member, made.place] if is_covered else []
        covered = [
            at for what, to, at, end in covers if what == status and made.seq <= to and n < end and made.due <= at
        ]
        times = [*covered, *(each.at for each in said if each.status == status)]
        return max(made.accepted, min(times)) if times else None

    def times(self, n: int) -> tuple[int | None, int | None, int | None]:
        """When it was sent, was delivered and was read: what was read has arrived, and what has arrived was sent."""
        read = self.at(n, "READ")
        delivered = min((at for at in (self.at(n, "DELIVERED"), read) if at is not None), default=None)
        return min((at for at in (self.at(n, "SENT"), delivered) if at is not None), default=None), delivered, read

    def attempts(self, n: int) -> tuple[int | None, int | None, int]:
        """When it was the first of its lane, when its first call started, and how many of its calls were throttled."""
        said, accepted = self.said[self.made[n].delivery_id], self.made[n].accepted
        called = min((max(accepted, each.called) for each in said if each.called is not None), default=None)
        ready = min((max(accepted, each.ready) for each in said if each.ready is not None), default=None)
        if ready is not None and called is not None:
            ready = min(ready, called)
        return ready, called, sum(each.throttled for each in said)

    def status(self, n: int) -> str:
        sent, delivered, read = self.times(n)
        if delivered is not None:
            return "DELIVERED" if read is None else "READ"
        known = {said.status for said in self.said[self.made[n].delivery_id]}
        return next((each for each in FAILURES if each in known), "PENDING" if sent is None else "SENT")

    def deliveries(self, member: str) -> list[tuple[int, str, str]]:
        """Sequence, status and channel of all deliveries to the member that can be read, in their order."""
        found = [(n, made) for n, made in self.made.items() if made.member == member and not made.is_signal]
        return [(made.seq, self.status(n), made.place[0]) for n, made in found]

    def before_open(self, member: str) -> list[tuple[int, str, str]]:
        """Those before the first for which something is still awaited."""
        every = self.deliveries(member)
        is_open = [not (status in ENDED or (status == "SENT" and not CHANNELS[on][0])) for _, status, on in every]
        return every[: [*is_open, True].index(True)]

    def cursor(self, member: str) -> tuple[int | None, int | None, int | None]:
        """Delivered, read and unread, each None where nobody can know. Who replies has read what was before the first open one then."""
        every, before = self.deliveries(member), self.before_open(member)
        replies = [n for n, f in enumerate(self.facts) if isinstance(f, Replied) and self.member(*f, n) == member]
        thens = [then for then in (Reference(self.facts[:n]) for n in replies) if then.deliveries(member)]
        reads = [n for n, (_, status, _) in enumerate(every, 1) if status == "READ"]
        newest = max([*reads, *(len(then.before_open(member)) for then in thens)], default=0)
        read = max((seq for seq, _, _ in before[:newest]), default=0)
        seen = max((seq for seq, status, _ in before if status in ENDED), default=0)
        unread = sum(status not in FAILURES for _, status, _ in every[newest:])
        delivered = max(seen, read) if any(CHANNELS[on][0] for _, _, on in every) else None
        sees_read = thens or any(CHANNELS[on][1] for _, _, on in every)
        return (delivered, read, unread) if sees_read else (delivered, None, None)
