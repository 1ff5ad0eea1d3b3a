"""What a provider allows: rates per account, pair, chat or group, and windows that a person's own message opens.

What enters: a key and the provider's current time. What leaves: how long to wait, or whether the person's window is open. Guaranteed:
memory is bounded: at most _KEPT buckets and _KEPT windows, the ones unused for longest are forgotten first.
"""

from collections import OrderedDict
from dataclasses import dataclass

from simulators.knobs import Knobs, amount

_KEPT = 200_000  # buckets and windows kept at most


@dataclass(frozen=True, slots=True)
class ProviderLimits(Knobs):
    """The limits of the real providers; 0 switches one off. The flags and POST /_control/limits use the same names."""

    account_per_second: float = amount("messages a second of a business number (WhatsApp)", 80.0)
    pair_burst: float = amount("messages to one person in a burst (WhatsApp)", 45.0)
    pair_seconds: float = amount("seconds until one more message to that person is allowed (WhatsApp)", 6.0)
    window_hours: float = amount("hours after a person wrote in which anything may be sent (WhatsApp, Instagram)", 24.0)
    human_agent_hours: float = amount("hours for messages tagged HUMAN_AGENT (Instagram)", 168.0)
    bot_per_second: float = amount("messages a second of a bot (Telegram)", 30.0)
    chat_burst: float = amount("messages to one chat in a burst (Telegram)", 5.0)
    chat_per_second: float = amount("messages a second to one chat after the burst (Telegram)", 1.0)
    group_per_minute: float = amount("messages a minute to one group (Telegram)", 20.0)
    calls_per_second: float = amount("messages a second of an account (Instagram)", 300.0)
    media_per_second: float = amount("audio and video a second of an account (Instagram)", 10.0)
    reads_per_second: float = amount("calls a second that read conversations (Instagram)", 2.0)


NONE = ProviderLimits().changed(dict.fromkeys(ProviderLimits.__slots__, 0.0))


class TokenBuckets:
    """Token buckets by key (GCRA: one number for each key, the time when its bucket is full again)."""

    def __init__(self) -> None:
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def wait(self, key: str, now: int, *, burst: float, every_ms: float) -> float:
        """Takes one token from a bucket of `burst` that gets a new one every `every_ms`.

        Returns 0.0 when there was a token, else the milliseconds until there is one. A limit of 0 never waits.
        """
        if burst < 1 or every_ms <= 0:
            return 0.0
        full_at = max(self._full_at.get(key, 0.0), float(now))
        over = full_at + every_ms - burst * every_ms - now
        if over > 0:
            return over
        self._full_at[key] = full_at + every_ms
        self._full_at.move_to_end(key)
        if len(self._full_at) > _KEPT:
            self._full_at.popitem(last=False)
        return 0.0


class Windows:
    """When each person last wrote to us."""

    def __init__(self) -> None:
        self._wrote_at: OrderedDict[str, int] = OrderedDict()

    def open(self, person: str, now: int) -> None:
        self._wrote_at[person] = now
        self._wrote_at.move_to_end(person)
        if len(self._wrote_at) > _KEPT:
            self._wrote_at.popitem(last=False)

    def knows(self, person: str) -> bool:
        return person in self._wrote_at

    def is_open(self, person: str, now: int, hours: float) -> bool:
        """Whether the person wrote within the last `hours`; always true when `hours` is 0."""
        return hours == 0 or now - self._wrote_at.get(person, -(10**15)) < hours * 3_600_000
