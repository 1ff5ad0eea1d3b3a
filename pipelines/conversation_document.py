"""One conversation's whole state, joined from the tables of core in its home partition.

Enters: a partition of this worker and the conversation. Leaves: plain data: sequence, members, lanes with what waits for what, cursors,
held messages, and a page of messages with the timelines of their deliveries. Guaranteed: bounded by the constants below, with the number of
everything that is left out; the worker's other work gets its turn after each LOOKUPS rows; texts and addresses are masked unless the caller
may see them.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipelines.lane_waits import wait_of
from pipelines.row_masking import masked, masked_id
from pipelines.send_state import State as SendState
from schemas.keys import conversation_key
from schemas.records import Status
from tables.cursors import cursor_key
from tables.fair_queue import Lane, place_of
from tables.lanes import lane_of
from tables.messages import ORDER, LoggedMessage, sequence_key, summary
from tables.outstanding import Outstanding
from tables.table import Table
from tables.timelines import Timeline, arrived, ready_at, status

MESSAGES = 50  # of a page
DELIVERIES = 100  # shown of one message
DELIVERIES_OF_A_PAGE = 1000
MEMBERS = 200
LANES = 100
BEHIND = 20  # deliveries shown behind the head of a lane
HELD = 100
GAPS = 2000  # sequences without a row that are passed over for one page
LOOKUPS = 200
Rows = Mapping[str, Table[Any]]
# What a page shows of a delivery's row; the rest is in /tables/timelines/<delivery id>.
_OF_TIMELINE = (
    *(
        "channel",
        "account",
        "recipient",
        "address",
        "requested_at",
        "accepted_at",
        "not_before",
        "first_dispatched_at",
        "dispatched_at",
        "sent_at",
        "failed_at",
    ),
    *("stalled_at", "attempts", "throttles", "resends", "fallback_of", "provider_message_id", "reason_code", "reason"),
    *("version", "updated_at"),
)


class PartitionGone(Exception):
    """The partition was given up while the document was made."""


@dataclass(slots=True)
class Document:
    """One document while it is made. `tables` and `send` belong to the partition, as long as `is_held()`."""

    tenant_id: str
    conversation_id: str
    tables: Rows
    send: SendState
    is_held: Callable[[], bool]
    now: int
    whole: bool
    members: dict[str, None] = field(default_factory=dict)
    looked: int = 0

    async def made(self, before: int | None, limit: int) -> dict[str, Any] | None:
        """The document; None for a conversation that this partition knows nothing of. `before` is the sequence above the page of messages.
        Raises PartitionGone and StoreFailed."""
        key = conversation_key(self.tenant_id, self.conversation_id).encode()
        sequence = self.tables["sequences"].get(key)
        members = self.tables["conversations"].get(key)
        held = self._held(key.decode())
        lanes = self.send.lanes.of_conversation(self.tenant_id, self.conversation_id)
        if sequence is None and members is None and not held and not lanes:
            return None
        newest = 0 if sequence is None else sequence.seq
        self._meet(() if members is None else members.user_ids)
        found = {
            "conversation_id": self._id(self.conversation_id),
            "tenant_id": self.tenant_id,
            "key": self._id(key.decode()),
            "seq": newest,
            "members": None if members is None else self._row(self.tables["conversations"], members),
            "lanes": [self._lane(lane, ids) for lane, ids in lanes[:LANES]],
            "lanes_number": len(lanes),
            "held": held[:HELD],
            "held_number": len(held),
        }
        first = newest if before is None else min(newest, before - 1)
        messages = [message async for message in self._messages(first, limit)]
        last = messages[-1]["seq"] if messages else None
        return found | {
            "messages": messages,
            "before": last if last is not None and last > 1 else None,
            "cursors": await self._cursors(),
            "members_number": len(self.members),
        }

    # --- parts ----------------------------------------------------------------------------------------------------------

    async def _messages(self, seq: int, limit: int) -> AsyncIterator[dict[str, Any]]:
        rows, number, deliveries, gaps = self.tables["messages"], 0, 0, 0
        while seq > 0 and number < limit and deliveries < DELIVERIES_OF_A_PAGE and gaps < GAPS:
            await self._pause()
            row = rows.get(sequence_key(self.tenant_id, self.conversation_id, seq))
            seq -= 1
            if row is None:
                gaps += 1  # expired, or a message from before there was this table
                continue
            shown = [each async for each in self._deliveries(row)]
            number, deliveries = number + 1, deliveries + len(shown)
            yield self._message(row, shown)

    def _message(self, row: LoggedMessage, shown: list[dict[str, Any]]) -> dict[str, Any]:
        state = self.tables["message_states"].get(sequence_key(row.tenant_id, row.conversation_id, row.seq))
        if state is not None:
            counts = dict(zip(ORDER, state.counts, strict=True))
        else:  # a message with one delivery
            counts = {Status(each["status"]): 1 for each in shown if each["status"] is not None}
        return {
            "seq": row.seq,
            "message_id": self._id(row.message_id),
            "direction": row.direction,
            "kind": row.kind,
            "accepted_at": row.accepted_at,
            "state": summary(counts) if row.delivery_ids else None,
            "deliveries": shown,
            "deliveries_number": len(row.delivery_ids),
        }

    async def _deliveries(self, message: LoggedMessage) -> AsyncIterator[dict[str, Any]]:
        for delivery_id in message.delivery_ids[:DELIVERIES]:
            await self._pause()
            row = self.tables["timelines"].get(delivery_id.encode())
            outstanding = self.tables["outstanding"].get(delivery_id.encode())
            yield {"delivery_id": delivery_id} | self._timeline(row) | self._open(outstanding)

    def _timeline(self, row: Timeline | None) -> dict[str, Any]:
        if row is None or not row.known:
            return {"status": None}
        self._meet((row.recipient,))
        delivered_at, read_at = arrived(row)
        fields = {name: getattr(row, name) for name in _OF_TIMELINE}
        shown = fields if self.whole else masked(fields)
        times = {"ready_at": ready_at(row), "delivered_at": delivered_at, "read_at": read_at}
        return {"status": str(status(row))} | times | shown

    def _open(self, row: Outstanding | None) -> dict[str, Any]:
        """What a delivery that has not ended waits for; nothing for one that has."""
        if row is None:
            return {"outstanding": None}
        head = None if row.is_scheduled else self._head(row)
        blocked = self.send.blocked.at(place_of(row.delivery))
        wait = wait_of(row, head=head, blocked_until=blocked, now=self.now)
        phase = {"phase": str(row.phase), "attempt": row.attempt, "expires_at": row.delivery.expires_at}
        return {"outstanding": phase | wait._asdict()}

    def _head(self, row: Outstanding) -> str | None:
        return self.send.lanes.head(lane_of(row.delivery))

    def _lane(self, lane: Lane, ids: list[str]) -> dict[str, Any]:
        head = self.tables["outstanding"].get(ids[0].encode())
        about = {"channel": lane.channel, "address": lane.address}
        behind = [self._behind(delivery_id) for delivery_id in ids[1 : BEHIND + 1]]
        named: dict[str, Any] = {"delivery_id": ids[0]}
        if head is not None:
            delivery = head.delivery
            about |= {"account": delivery.account, "recipient": delivery.recipient}
            named |= {
                "message_id": self._id(delivery.message_id),
                "seq": delivery.seq,
                "dispatched_at": head.dispatched_at,
            }
            named |= {"failures": head.failures, "not_before": head.not_before or None} | self._open(head)
        shown = about if self.whole else masked(about)
        return shown | {"head": named, "behind": behind, "behind_number": len(ids) - 1}

    def _behind(self, delivery_id: str) -> dict[str, Any]:
        row = self.tables["outstanding"].get(delivery_id.encode())
        return {"delivery_id": delivery_id, "seq": None if row is None else row.delivery.seq}

    def _held(self, key: str) -> list[dict[str, Any]]:
        rows = [(place, row) for place, row in self.tables["held"].items() if row.conversation == key]
        rows.sort(key=lambda each: each[1].number)
        return [{"place": place.decode(), "number": row.number, "at": row.source[2]} for place, row in rows]

    async def _cursors(self) -> list[dict[str, Any]]:
        """Cursors of the members, and of the recipients of the deliveries shown."""
        found = []
        for member in list(self.members)[:MEMBERS]:
            await self._pause()
            row = self.tables["cursors"].get(cursor_key(self.tenant_id, self.conversation_id, member).encode())
            if row is not None:
                found.append(self._row(self.tables["cursors"], row))
        return found

    # --- values ---------------------------------------------------------------------------------------------------------

    def _meet(self, members: tuple[str, ...]) -> None:
        self.members.update(dict.fromkeys(members))

    def _row(self, table: Table[Any], row: Any) -> Any:
        shown = table.layout.as_json(row)
        return shown if self.whole else masked(shown)

    def _id(self, text: str) -> str:
        return text if self.whole else masked_id(text)

    async def _pause(self) -> None:
        self.looked += 1
        if self.looked % LOOKUPS == 0:
            await asyncio.sleep(0)
            if not self.is_held():
                raise PartitionGone
