"""What `chat4all check` asks of PostgreSQL alone: versions, sequences, ids, counts of messages, cursors, rows without counterpart.

Enters: a CheckedRange and what each channel reports. Leaves: checks of one SQL statement each. Each row of a statement is a difference:
its ids, then `seen` and `reached` (a sequence that one side has and how far the other is; 1 and 0 where that has no meaning), then a
sentence.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sinks.check_look import IN_POSTGRES, KEPT_SINCE, CheckedRange, Look
from sinks.check_result import Difference, Found

_OF_TENANT = "(%(tenant)s::text is null or tenant_id = %(tenant)s)"


@dataclass(frozen=True, slots=True)
class NoRows:
    """A check: the statement `sql` finds nothing. `counts` gives how many rows it looked at. `is_exact`: everything it reads is written
    in one transaction of stage archive."""

    name: str
    compared: str
    sql: str
    counts: str
    scope: CheckedRange
    is_exact: bool = True
    looks: int = 1
    more: Mapping[str, Any] = field(default_factory=dict)

    def first(self, look: Look) -> Found:
        """Runs the statement."""
        [(number,)] = look.postgres(self.counts, self._values())
        found = Found(compared=f"{number:,} {self.compared}")
        for difference, _ in self._rows(look):
            found.add(difference)
        return found

    def again(self, look: Look, before: Sequence[Difference]) -> list[Difference]:
        """Those that the statement still finds, unless the other side has reached by now what was seen then."""
        seen = {each.key: each.seen for each in before}
        return [
            Difference(each.key, each.said, seen[each.key])
            for each, reached in self._rows(look)
            if each.key in seen and reached < seen[each.key]
        ]

    def _rows(self, look: Look) -> Iterator[tuple[Difference, int]]:
        for *key, seen, reached, said in look.postgres(self.sql, self._values()):
            yield Difference(tuple(map(str, key)), said, int(seen)), int(reached)

    def _values(self) -> dict[str, Any]:
        return self.scope.values() | dict(self.more)


def history_checks(scope: CheckedRange, kept: CheckedRange, reporting: Sequence[str]) -> list[NoRows]:
    """The checks, in the order in which they are shown. `kept` is all that PostgreSQL keeps of the scope's tenants; `reporting` are the
    channels that report arrivals."""
    return [
        NoRows(
            "versions", "transitions of PostgreSQL against its deliveries", _VERSIONS, _count("delivery_events"), scope
        ),
        NoRows(
            "sequences",
            "messages: numbers of each conversation without a gap",
            _SEQUENCES,
            _all("messages"),
            kept,
        ),
        NoRows("ids", "messages and deliveries: each id once in all months", _IDS, _all("messages"), scope),
        NoRows(
            "message counts",
            "messages: counts by status against their deliveries",
            _STATES,
            _count("message_states"),
            scope,
        ),
        NoRows("conflicts", "messages set aside in message_conflicts", _CONFLICTS, _all("message_conflicts"), scope),
        NoRows("orphans", "deliveries: each has its message", _ORPHANS, _count("deliveries"), scope, is_exact=False),
        NoRows(
            "cursors",
            "cursors: 0 <= read <= delivered <= newest <= the conversation's last",
            _CURSORS,
            _all("cursors"),
            scope,
            is_exact=False,
        ),
        NoRows(
            "open before cursor",
            "cursors: no delivery up to a cursor is still open",
            _OPEN,
            _all("cursors"),
            scope,
            is_exact=False,
            more={"reporting": list(reporting)},
        ),
    ]


def _count(relation: str) -> str:
    return f"select count(*) from {relation} where {IN_POSTGRES}"  # noqa: S608  # our own names


def _all(relation: str) -> str:
    return f"select count(*) from {relation} where {_OF_TENANT}"  # noqa: S608  # the same


_VERSIONS = f"""
    select tenant_id, delivery_id, 1, 0,
           case when d.version is null then e.n || ' transitions without a delivery'
                when e.n is null then 'a delivery without transitions'
                when e.n <> e.different then e.n || ' transitions for ' || e.different || ' versions'
                when e.lowest <> 1 or e.highest <> e.different
                    then 'versions ' || e.lowest || ' to ' || e.highest || ', but only ' || e.different || ' of them'
                when e.highest <> d.version then 'version ' || d.version || ', its newest transition has ' || e.highest
                else 'status ' || d.status || ', its newest transition says ' || e.status end
      from (
            select tenant_id, delivery_id, accepted_at, count(*) as n, count(distinct version) as different, min(version) as lowest,
                   max(version) as highest, substr(max(lpad(version::text, 10, '0') || status), 11) as status
              from delivery_events where {IN_POSTGRES} group by tenant_id, delivery_id, accepted_at
           ) as e
      full join (select tenant_id, delivery_id, accepted_at, version, status from deliveries where {IN_POSTGRES}) as d
           using (tenant_id, delivery_id, accepted_at)
     where d.version is null or e.n is null or e.n <> e.different or e.lowest <> 1 or e.highest <> e.different
        or e.highest <> d.version or e.status <> d.status
"""  # noqa: S608  # our own text

# The first months of a conversation may have been dropped: then its numbers start later. Without a row in `conversations`, nobody knows.
_SEQUENCES = f"""
    select tenant_id, conversation_id, coalesce(seq, 0), 1, 0,
           case when seq is null then 'the conversation has ' || last_seq || ', and no message has that number'
                when seq = before then seq || ' is given twice, also to message ' || message_id
                when seq > before + 2 then (before + 1) || ' to ' || (seq - 1) || ' are missing'
                else (before + 1) || ' is missing' end
      from (
            select m.tenant_id, m.conversation_id, m.message_id, m.seq, null::bigint as last_seq,
                   coalesce(
                       lag(m.seq) over (partition by m.tenant_id, m.conversation_id order by m.seq),
                       case when c.first_message_at >= {KEPT_SINCE} then 0 else m.seq - 1 end
                   ) as before
              from messages m left join conversations c using (tenant_id, conversation_id)
            union all
            select c.tenant_id, c.conversation_id, null, null, c.last_seq, null
              from conversations c
             where c.last_message_at >= {KEPT_SINCE} and not exists (
                   select from messages m
                    where m.tenant_id = c.tenant_id and m.conversation_id = c.conversation_id and m.seq = c.last_seq
               ) and c.last_seq > 0
           ) as numbers
     where {_OF_TENANT} and (seq is null or seq <> before + 1)
"""  # noqa: S608  # the same

_IDS = f"""
    select tenant_id, conversation_id, message_id, 1, 0, 'this message is there ' || count(*) || ' times'
      from messages where {_OF_TENANT} group by tenant_id, conversation_id, message_id having count(*) > 1
    union all
    select tenant_id, '', delivery_id, 1, 0, 'this delivery is there ' || count(*) || ' times'
      from deliveries where {_OF_TENANT} group by tenant_id, delivery_id having count(*) > 1
"""  # noqa: S608  # the same

_COUNTS = (
    "deliveries",
    "pending",
    "sent",
    "delivered",
    "read",
    "failed",
    "expired",
    "cancelled",
    "suppressed",
    "changed_at",
)
_STATES = f"""
    select tenant_id, conversation_id, message_id, 1, 0,
           case when m.deliveries is null then 'no row in message_states'
                when c.deliveries is null then 'a row in message_states, and no delivery'
                else 'message_states has ' || {" || ' ' || ".join(f"m.{name}" for name in _COUNTS[:-1])} || ', the deliveries say '
                     || {" || ' ' || ".join(f"c.{name}" for name in _COUNTS[:-1])} end
      from (select * from message_states where {IN_POSTGRES}) as m
      full join (select * from counted_message_states where {IN_POSTGRES}) as c
           using (tenant_id, conversation_id, message_id, accepted_at)
     where ({", ".join(f"m.{name}" for name in _COUNTS[:-1])}) is distinct from ({", ".join(f"c.{name}" for name in _COUNTS[:-1])})
"""  # noqa: S608  # the same

_CONFLICTS = f"""
    select tenant_id, conversation_id, message_id, 1, 0, 'number ' || seq || ' was set aside: another message has it, or its id'
      from message_conflicts where {_OF_TENANT}
"""  # noqa: S608  # the same

# The message of a delivery that was made in place of another one may be of an earlier month.
_ORPHANS = f"""
    select tenant_id, delivery_id, 1, 0, 'its message ' || message_id || ' of conversation ' || conversation_id || ' is missing'
      from deliveries d
     where {IN_POSTGRES} and fallback_of is null and not exists (
               select from messages m
                where m.tenant_id = d.tenant_id and m.conversation_id = d.conversation_id and m.message_id = d.message_id
           )
"""  # noqa: S608  # the same

_CURSORS = f"""
    select c.tenant_id, c.conversation_id, c.member,
           case when c.newest_seq > v.last_seq then c.newest_seq else 1 end,
           case when c.newest_seq > v.last_seq then v.last_seq else 0 end,
           'read ' || coalesce(c.last_read_seq::text, '-') || ', delivered ' || coalesce(c.last_delivered_seq::text, '-')
           || ', newest ' || c.newest_seq || ', last of the conversation ' || coalesce(v.last_seq::text, '-')
      from (select * from cursors where {_OF_TENANT}) as c
      left join conversations v using (tenant_id, conversation_id)
     where coalesce(c.last_read_seq, 0) < 0 or c.last_read_seq > coalesce(c.last_delivered_seq, c.newest_seq)
        or coalesce(c.last_delivered_seq, 0) not between 0 and c.newest_seq or c.newest_seq > v.last_seq
"""  # noqa: S608  # the same

_OPEN = f"""
    select d.tenant_id, d.conversation_id, c.member, d.delivery_id, 1, 0,
           'delivered up to ' || c.last_delivered_seq || ', but the one with number ' || d.seq || ' is ' || d.status
      from (
            select * from deliveries
             where {IN_POSTGRES} and status in ('PENDING', 'SENT') and kind <> all(%(signals)s)
               and (status = 'PENDING' or channel = any(%(reporting)s))
           ) as d
      join cursors c on c.tenant_id = d.tenant_id and c.conversation_id = d.conversation_id and c.member = d.recipient
     where d.seq <= c.last_delivered_seq
"""  # noqa: S608  # the same
