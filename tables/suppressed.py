"""Table `suppressed` of stage match: whether messages of one of our accounts to a person are suppressed, and why. Key: suppression_key.

Two things are kept apart, each as the newest report by its time: the person's wish (a word, the channel's settings), and whether messages
can reach them (blocked or not, the provider's refusals). Messages are suppressed while either of them stops them, so a person who unblocks
our bot has not taken back a STOP.

Guaranteed: any order and repetition of the same reports ends in the same wish and the same reach, and an older report changes nothing. Of
two reports with one time, the one that stops counts. All functions are pure.
"""

import dataclasses
from dataclasses import dataclass

from schemas.opt_out_policies import WISHES
from tables.layout import JsonLayout


@dataclass(frozen=True, slots=True)
class SuppressedAddress:
    """One person, as one of our accounts knows them. An empty reason means that there was no report yet."""

    tenant_id: str  # of what people write to the account
    channel: str
    account: str
    address: str  # in its one form (schemas/person_addresses.py)
    wish: str = ""  # reason of the newest wish
    wish_stops: bool = False
    wish_at: int = 0  # Unix milliseconds
    reach: str = ""  # reason of the newest report on whether messages reach the person
    reach_stops: bool = False
    reach_at: int = 0  # Unix milliseconds
    confirmation_id: str | None = None  # the message that confirms the wish to stop
    lifted_at: int | None = (
        None  # by our clock, since when nothing is suppressed; None while messages are. The row expires from here
    )

    @property
    def is_suppressed(self) -> bool:
        return self.wish_stops or self.reach_stops

    @property
    def reason(self) -> str:
        """The reason that counts: of the wish if that stops messages, else of the reach, else of whatever is newer."""
        return self._newest[1]

    @property
    def changed_at(self) -> int:
        """The time of that report, Unix milliseconds."""
        return self._newest[0]

    @property
    def _newest(self) -> tuple[int, str]:
        wish, reach = (self.wish_at, self.wish), (self.reach_at, self.reach)
        if self.wish_stops or self.reach_stops:
            return wish if self.wish_stops else reach
        return max(wish, reach)


def reported(row: SuppressedAddress, reason: str, at: int, now: int, *, stops: bool) -> SuppressedAddress:
    """The row after a report of the time `at`; the same row if the report is not newer. Times are Unix milliseconds."""
    if reason in WISHES:
        if (at, stops, reason) <= (row.wish_at, row.wish_stops, row.wish):
            return row
        kept = row.confirmation_id if stops and row.wish_stops else None
        row = dataclasses.replace(row, wish=reason, wish_stops=stops, wish_at=at, confirmation_id=kept)
    else:
        if (at, stops, reason) <= (row.reach_at, row.reach_stops, row.reach):
            return row
        row = dataclasses.replace(row, reach=reason, reach_stops=stops, reach_at=at)
    return dataclasses.replace(row, lifted_at=None if row.is_suppressed else now)


SUPPRESSED = JsonLayout("suppressed", SuppressedAddress, time="lifted_at")
