"""How much room the facts take in ClickHouse.

Enters: a client. Leaves: rows and compressed bytes of each relation, from `system.parts`. Guaranteed: only parts in use count, so a number
falls after a merge. It only reads.
"""

from typing import NamedTuple

from clickhouse_connect.driver.client import Client

# Also for the board Stores: one line for each relation of the database.
QUERY = """\
select table, sum(rows) as stored_rows, sum(data_compressed_bytes) as stored_bytes, sum(data_uncompressed_bytes) as plain_bytes,
    count() as parts
from system.parts
where active and database = currentDatabase()
group by table
order by table"""


class StoredBytes(NamedTuple):
    """One relation: its rows, their bytes on disk and before compression, and its parts."""

    rows: int
    compressed: int
    plain: int
    parts: int

    @property
    def a_row(self) -> float:
        """Compressed bytes of a row; 0 when there is none."""
        return self.compressed / self.rows if self.rows else 0.0


def stored_bytes(client: Client) -> dict[str, StoredBytes]:
    """The relations of the client's database by name; one without rows may be missing. Blocks for one query. Passes the client's errors
    on."""
    return {str(name): StoredBytes(*map(int, numbers)) for name, *numbers in client.query(QUERY).result_rows}


def event_bytes(client: Client) -> float:
    """Compressed bytes that all relations together hold for a row of `delivery_events`; 0 without events. Blocks for one query."""
    stored = stored_bytes(client)
    events = stored.get("delivery_events")
    return sum(each.compressed for each in stored.values()) / events.rows if events and events.rows else 0.0
