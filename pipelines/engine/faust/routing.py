"""Which worker holds a row: Faust's router, with the partitioner of Chat4All's producers.

Enters: the assignment as Faust's assignor sent it to all members, each worker with the URL of its web views. Leaves: the URL of a
partition's owner. A table whose keys are not those of the stage's records has no home partition for a key: any partition may hold its row.
"""

from collections.abc import Mapping
from typing import Any

from faust.app.router import Router
from faust.exceptions import SameNode
from yarl import URL

from schemas.partitions import home_partition


class TableRouter(Router):
    """`app.router`: `key_store` is what Faust's own `table_route` and its view /router/<table>/<key>/ ask."""

    def home(self, table: str, key: str) -> int | None:
        """The home partition of a row; None when the key does not determine it."""
        has_home = self.app.tables[table].layout.keyed_by_record
        return home_partition(key, self.app.conf.topic_partitions) if has_home else None

    def owners(self, table: str) -> Mapping[int, URL]:
        """Partition number -> URL of the worker that owns it, as of the last assignment that this worker got."""
        return {
            number: URL(url)
            for url, topics in self.table_metadata(table).items()
            for numbers in topics.values()
            for number in numbers
        }

    async def _route_req(self, dest_url: URL, web: Any, request: Any) -> Any:
        """As Faust does, but with the owner's own host name, which the owner checks (view_access.py), and with the caller's token."""
        if self._urlident(dest_url) == self._urlident(self.app.conf.canonical_url):
            raise SameNode
        headers = [(name, value) for name, value in request.headers.items() if name.lower() != "host"]
        url = request.url.with_scheme(dest_url.scheme).with_host(dest_url.host).with_port(dest_url.port)
        async with self.app.http_client.request(method=request.method, headers=headers, url=url) as response:
            return web.text(await response.text(), content_type=response.content_type, status=response.status)

    def key_store(self, table_name: str, key: Any) -> URL:
        """The owner's URL. Raises KeyError, which Faust answers with 503, when no owner is known or the key has no home partition."""
        home = self.home(table_name, key.decode() if isinstance(key, bytes) else str(key))
        if home is None:
            raise KeyError(f"a row of {table_name} can be in any partition, whatever its key")
        return self.owners(table_name)[home]
