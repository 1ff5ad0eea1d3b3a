"""How long a delivery may stay SENT before it counts as stalled: CHAT4ALL_STALLED_SECONDS.

In: the setting's text. Out: milliseconds by channel. Guaranteed: only channels that report something after SENT are accepted. Pure.
"""

from collections.abc import Mapping

from schemas.records import CHANNELS

NOTHING_FOLLOWS = frozenset({"telegram"})  # its bots learn nothing about a message after it was sent
LONGEST_SECONDS = 30 * 86_400


def stalled_times(text: str) -> Mapping[str, int]:
    """Channel -> milliseconds. Raises ValueError, with a sentence about the first wrong entry."""
    found: dict[str, int] = {}
    for entry in filter(None, (each.strip() for each in text.split(","))):
        channel, equals, seconds = (each.strip() for each in entry.partition("="))
        if not equals or not seconds.isascii() or not seconds.isdecimal():
            raise ValueError(f"{entry[:60]!r}: write channel=seconds, several separated by commas")
        if channel not in CHANNELS:
            raise ValueError(f"{entry[:60]!r}: no channel {channel[:40]!r}, there are {', '.join(CHANNELS)}")
        if channel in NOTHING_FOLLOWS:
            raise ValueError(f"{entry[:60]!r}: {channel} reports nothing after SENT, so a delivery there cannot stall")
        if len(seconds) > 9 or not 1 <= int(seconds) <= LONGEST_SECONDS:
            raise ValueError(f"{entry[:60]!r}: 1 to {LONGEST_SECONDS} seconds")
        if channel in found:
            raise ValueError(f"{channel} is named twice")
        found[channel] = int(seconds) * 1000
    return found
