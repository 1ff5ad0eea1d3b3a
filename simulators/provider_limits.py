"""What a provider allows: speed counted per account, pair, chat or group, and windows that a person's own message opens.

What enters: a key and the provider's now. What leaves: how long to wait, or how long ago the person wrote. Guaranteed: memory is
bounded; a bucket that is full again is forgotten, which changes nothing.
"""

from collections import OrderedDict
from dataclasses import dataclass

from simulators.knobs import Knobs, amount

_KEPT = 200_000  # buckets and windows kept at most


@dataclass(frozen=True, slots=True)
class ProviderLimits(Knobs):
    """What the real providers enforce; 0 switches one off. Names are those of the flags and of POST /_control/limits."""

    account_per_second: float = amount("messages a second of a business number (WhatsApp)", 80.0)
    pair_burst: float = amount("messages to one person at once (WhatsApp)", 45.0)
    pair_seconds: float = amount("seconds after which one more may go to that person (WhatsApp)", 6.0)
    window_hours: float = amount("hours after a person wrote in which anything may be sent (WhatsApp, Instagram)", 24.0)
    human_agent_hours: float = amount("hours for messages tagged HUMAN_AGENT (Instagram)", 168.0)
    bot_per_second: float = amount("messages a second of a bot (Telegram)", 30.0)
    chat_burst: float = amount("messages to one chat at once (Telegram)", 5.0)
    chat_per_second: float = amount("messages a second to one chat after the burst (Telegram)", 1.0)
    group_per_minute: float = amount("messages a minute to one group (Telegram)", 20.0)
    calls_per_second: float = amount("messages a second of an account (Instagram)", 300.0)
    media_per_second: float = amount("audio and video a second of an account (Instagram)", 10.0)
    reads_per_second: float = amount("calls a second that read conversations (Instagram)", 2.0)


NONE = ProviderLimits().changed(dict.fromkeys(ProviderLimits.__slots__, 0.0))


class TokenBuckets:
    """Token buckets by key (GCRA: one number a key says when the bucket will be full again)."""

    def __init__(self) -> None:
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def wait(self, key: str, now: int, *, burst: float, every_ms: float) -> float:
        """Takes one of `burst`, one more coming every `every_ms`; 0.0 when there was one, else milliseconds until there is."""
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
        """Whether the person wrote within the last `hours`; always, when `hours` is 0."""
        return hours == 0 or now - self._wrote_at.get(person, -(10**15)) < hours * 3_600_000
