"""What people say about our messages: words that stop and start them, and reports that no message reaches a person. For stage match.

In: inbound messages, each once and in their order, and preferences; both keyed by person_key, so that one partition has all of a person.
Out: a suppression whenever one begins, changes or is lifted, and the message that confirms a word, if the tenant has a text for it.
Guaranteed: an older report never overrides a newer one, and any order and repetition ends in the same suppression. A word that stops
messages is only lifted by the person. A message with a word is an inbound message like any other: it is not changed here. No I/O.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

from pipelines.engine.stage import Decision, Output
from pipelines.receipts import PROVIDER_RESOLUTION_MS
from schemas import codec, ids
from schemas.keys import key_of, suppression_key
from schemas.message_times import happened_at
from schemas.opt_out_policies import START_WORD, STOP_WORD, WROTE, OptOutPolicies
from schemas.person_addresses import one_form
from schemas.records import Choice, InboundMessage, Message, Preference, Recipient, Suppression
from tables.suppressed import SuppressedAddress, reported
from tables.table import Table
from tables.threads import KnownConversation

# Kinds of inbound messages that may be a word: a text, or the title of a button that the person chose.
WORD_KINDS = frozenset({"text", "button", "interactive", "postback"})
LIFTED_MS = 30 * 86_400_000  # how long a lifted row is kept: longer than providers repeat webhooks (7 days)
EXPIRED_PER_TURN = 1000
# A message that confirms START may reach `send` before the lifted suppression does; so it waits a moment.
CONFIRMED_AFTER_MS = 2000
CONFIRMATION_MS = 3_600_000  # a later confirmation would confuse


class OptOutTurn(NamedTuple):
    """One decision of match while it is made. `now` is Unix milliseconds."""

    rows: Table[SuppressedAddress]
    decision: Decision
    now: int


class OptOut:
    """Decides on what people say. `is_group` tells groups from people by their address, for channels that have groups. Holds settings
    only; nothing blocks."""

    def __init__(self, policies: OptOutPolicies, is_group: Mapping[str, Callable[[str], bool]] | None = None) -> None:
        self._policies = policies
        self._is_group = is_group or {}

    def take_message(self, message: InboundMessage, conversation: KnownConversation, turn: OptOutTurn) -> None:
        """Notes what a message says: its word, and that its author can be reached. A confirmation goes to its conversation."""
        key, before = _row(message, turn.rows)
        row, at = before, _reported_at(message.provider_at, message.received_at)
        if row.reach_stops:
            row = reported(row, WROTE, at, turn.now, stops=False)
        if self._may_be_word(message):
            row = self._worded(message, row, at, turn, conversation)
        _put(key, before, row, turn)

    def take_preference(self, preference: Preference, turn: OptOutTurn) -> None:
        """Notes a report. One that stops messages for a reason which the tenant does not use is counted and left out."""
        stops = preference.choice is Choice.STOP
        if stops and preference.reason not in self._policies.of(preference.tenant_id).reasons:
            turn.decision.count("preference_not_used")
            return
        key, before = _row(preference, turn.rows)
        at = _reported_at(preference.occurred_at, preference.observed_at)
        _put(key, before, reported(before, preference.reason, at, turn.now, stops=stops), turn)

    def next_due(self, rows: Table[SuppressedAddress]) -> int | None:
        oldest = rows.oldest()
        return None if oldest is None else oldest + LIFTED_MS

    def expire(self, turn: OptOutTurn) -> None:
        """Forgets rows that were lifted long ago, also on the topic."""
        for key in turn.rows.expired(turn.now - LIFTED_MS, EXPIRED_PER_TURN):
            turn.rows.delete(key)
            turn.decision.outputs.append(Output("suppressions", key, None, None))

    def _may_be_word(self, message: InboundMessage) -> bool:
        """In a group, a member's word is not the choice of the others."""
        is_group = self._is_group.get(message.channel)
        return message.kind in WORD_KINDS and not (is_group is not None and is_group(message.address))

    def _worded(
        self,
        message: InboundMessage,
        row: SuppressedAddress,
        at: int,
        turn: OptOutTurn,
        conversation: KnownConversation,
    ) -> SuppressedAddress:
        """The row after a text that may be a word. A word is confirmed only if it changes the person's wish, so that two machines never
        answer each other."""
        policy = self._policies.of(message.tenant_id)
        word = policy.word_in(message.text)
        if word is None:
            return row
        choice, language = word
        stops = choice is Choice.STOP
        after = reported(row, STOP_WORD if stops else START_WORD, at, turn.now, stops=stops)
        turn.decision.count("stop_word" if stops else "start_word")
        text = policy.confirmation(choice, language)
        if text is None or after is row or after.wish_stops is row.wish_stops:
            return after
        after_ms = 0 if stops else CONFIRMED_AFTER_MS
        message_id = _confirm(message, text, conversation, turn, after_ms=after_ms)
        return dataclasses.replace(after, confirmation_id=message_id) if stops else after


def _confirm(
    message: InboundMessage, text: str, conversation: KnownConversation, turn: OptOutTurn, *, after_ms: int
) -> str:
    """Produces the message that confirms a word; returns its id, which is the same for the same word's message."""
    cause = (message.tenant_id, message.channel, message.account, message.provider_message_id)
    confirmation = Message(
        tenant_id=conversation.tenant_id,
        message_id=f"opt-out-{ids.digest(cause, 16).hex()}",
        conversation_id=conversation.conversation_id,
        recipients=(Recipient(channel=message.channel, address=message.address, account=message.account),),
        text=text,
        not_before=turn.now + after_ms if after_ms else None,
        expires_at=turn.now + CONFIRMATION_MS,
        requested_at=message.received_at,
    )
    key, home = key_of(confirmation), conversation.home_partition
    turn.decision.outputs.append(Output("messages", key, codec.encode(confirmation), home))
    turn.decision.count("confirmed")
    return confirmation.message_id


def _row(about: InboundMessage | Preference, rows: Table[SuppressedAddress]) -> tuple[bytes, SuppressedAddress]:
    """The key of the person, and their row, an empty one if there is none."""
    key = suppression_key(about.tenant_id, about.channel, about.account, about.address).encode()
    address = one_form(about.channel, about.address)
    return key, rows.get(key) or SuppressedAddress(about.tenant_id, about.channel, about.account, address)


def _put(key: bytes, before: SuppressedAddress, row: SuppressedAddress, turn: OptOutTurn) -> None:
    """Stores a changed row, and publishes what changes for `send`."""
    if row is before:
        return
    turn.rows.put(key, row)
    suppression = _published(row)
    if suppression == _published(before) or not (row.is_suppressed or before.is_suppressed):
        return
    if row.is_suppressed is not before.is_suppressed:
        turn.decision.count("suppressed" if row.is_suppressed else "lifted")
    turn.decision.outputs.append(Output("suppressions", key, codec.encode(suppression), None))


def _reported_at(provider_at: int, learned_at: int) -> int:
    """When something happened, for comparison with other reports: a provider's whole second counts as its end, and nothing happened after
    we learned of it. Unix milliseconds."""
    happened = happened_at(provider_at, learned_at)
    return min(learned_at, happened + (0 if happened % 1000 else PROVIDER_RESOLUTION_MS))


def _published(row: SuppressedAddress) -> Suppression:
    return Suppression(
        tenant_id=row.tenant_id,
        channel=row.channel,
        account=row.account,
        address=row.address,
        suppressed=row.is_suppressed,
        reason=row.reason,
        confirmation_id=row.confirmation_id,
        changed_at=row.changed_at,
    )
