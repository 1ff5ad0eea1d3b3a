"""Reads the records of topic suppressions, for stage send: which person gets nothing from which of our accounts.

In: key and value of a record, and outstanding deliveries. Out: why and since when; None for a suppression that was lifted, so that the
mirror forgets the key, and for a delivery that may be sent. Guaranteed: a suppression is accepted only under its own key. No I/O.
"""

import sys
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from pipelines.engine.stage import Mirrored, View
from schemas import codec
from schemas.accounts import Accounts
from schemas.keys import shown, suppression_key
from schemas.opt_out_policies import BLOCKED, NOT_RECEIVING, STOP_WORD, USER_PREFERENCES
from schemas.records import Delivery, Suppression
from tables.outstanding import Outstanding

_WHY = {
    STOP_WORD: "the person wrote a word that stops messages",
    USER_PREFERENCES: "the person stopped our messages in the settings of the channel",
    BLOCKED: "the person blocked the account, or removed it from the chat",
    NOT_RECEIVING: "the provider said that no message reaches the person",
}


class Suppressed(NamedTuple):
    """Why messages to a person are suppressed. Small: every worker keeps one for each person."""

    reason: str
    since: int  # Unix milliseconds
    confirmation_id: str | None = None  # the one message that is sent all the same

    def holds(self, message_id: str, now: int, not_receiving_ms: int) -> bool:
        """Whether the message is suppressed at the time `now`. That nothing reaches a person is believed for `not_receiving_ms` only."""
        if message_id == self.confirmation_id:
            return False
        return self.reason != NOT_RECEIVING or now < self.since + not_receiving_ms

    @property
    def sentence(self) -> str:
        """For the status of a delivery."""
        since = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=self.since)
        return f"{_WHY.get(self.reason, self.reason)}, at {since:%Y-%m-%d %H:%M:%S} UTC"


def suppression_in(key: bytes, value: bytes) -> Suppressed | None:
    """What a record says; None if nothing is suppressed. Raises ValueError, with a sentence, for a value that is no suppression or a key
    that is not the suppression's."""
    found = codec.decode(value, Suppression)
    wanted = suppression_key(found.tenant_id, found.channel, found.account, found.address).encode()
    if key != wanted:
        raise ValueError(f"the record is of suppression {shown(wanted)}, not of {shown(key)}")
    return Suppressed(sys.intern(found.reason), found.changed_at, found.confirmation_id) if found.suppressed else None


class SuppressionRules:
    """Which delivery a suppression forbids. `accounts` maps accounts to tenants; `own_tenants` are channels whose messages name their
    tenant. Holds settings only."""

    def __init__(self, accounts: Accounts, own_tenants: AbstractSet[str], not_receiving_ms: int) -> None:
        self._accounts = accounts
        self._own_tenants = frozenset(own_tenants)
        self._not_receiving_ms = not_receiving_ms

    def forbid(self, row: Outstanding, suppressions: View[Suppressed], now: int) -> Suppressed | None:
        """The suppression that forbids the delivery's next call; None if it may start. Further parts follow the first one: half a text
        helps nobody. One look-up at most."""
        if not len(suppressions) or row.part:
            return None
        delivery = row.delivery
        key = suppression_key(self.owner(delivery), delivery.channel, delivery.account, delivery.address)
        found = suppressions.get(key.encode())
        is_in_force = found is not None and found.holds(delivery.message_id, now, self._not_receiving_ms)
        return found if is_in_force else None

    def owner(self, delivery: Delivery) -> str:
        """The tenant of what people write to the delivery's account: suppressions have it, because an account may serve several tenants."""
        if delivery.channel in self._own_tenants:
            return delivery.tenant_id
        return self._accounts.tenant_of(delivery.channel, delivery.account)


SUPPRESSIONS = Mirrored("suppressions", suppression_in)
