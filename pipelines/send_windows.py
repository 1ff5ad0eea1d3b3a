"""The service windows that stage send knows: until when an account may write freely to a person (table `windows`).

In: records of topic `windows`, and the time. Out: whether a window is open. Guaranteed: of the records about a person the newest counts, in
whatever order they come; a closed window is forgotten. No I/O.
"""

from schemas.keys import person_key
from schemas.records import Window
from tables.table import Table
from tables.windows import ServiceWindow

EXPIRED_PER_TURN = 2000


class KnownWindows:
    """The windows of the people in one partition's conversations. Methods run within `decide`; times are Unix milliseconds."""

    def __init__(self, rows: Table[ServiceWindow]) -> None:
        self._rows = rows

    def learn(self, window: Window, now: int) -> bool:
        """Takes a record; returns whether it says something new."""
        key = person_key(window.channel, window.account, window.address).encode()
        known = self._rows.get(key)
        if window.closes_at <= now or (known is not None and known.closes_at >= window.closes_at):
            return False
        self._rows.put(key, ServiceWindow(window.tenant_id, window.opened_at, window.closes_at))
        return True

    def open_until(self, channel: str, account: str, address: str, now: int) -> int | None:
        """When the open window closes. None if it is closed or this partition knows of none: on a channel that has windows, the account may
        then send templates only."""
        row = self._rows.get(person_key(channel, account, address).encode())
        return row.closes_at if row is not None and row.closes_at > now else None

    def forget(self, tenant_id: str, channel: str, account: str, address: str) -> bool:
        """Deletes the tenant's row of a person who is erased; returns whether there was one."""
        key = person_key(channel, account, address).encode()
        row = self._rows.get(key)
        if row is None or row.tenant_id != tenant_id:
            return False
        self._rows.delete(key)
        return True

    def next_due(self) -> int | None:
        return self._rows.oldest()

    def expire(self, now: int) -> None:
        for key in self._rows.expired(now, EXPIRED_PER_TURN):
            self._rows.delete(key)
