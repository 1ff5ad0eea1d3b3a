"""The good sender: posts signed webhooks of WhatsApp on a few open connections, each again as soon as it is answered.

In: a port and the app secret. Out: how many were accepted, refused and not answered. Each webhook is new: a receipt and a message.
"""

import asyncio
import itertools
import json
import time

from tests.attack.attacked_gateway import ACCOUNT
from tests.attack.sources import HUNG_UP, Line, request, signature

CONNECTIONS = 4
PATIENCE_SECONDS = 15.0
PATH = "/webhooks/whatsapp"


def webhook(name: str) -> bytes:
    """The bytes as Meta writes them, with escaped slashes: other bytes of the same JSON have another signature."""
    metadata = {"display_phone_number": "15550783881", "phone_number_id": ACCOUNT}
    items = {
        "statuses": [
            {"id": f"wamid.r{name}", "status": "read", "timestamp": "1750857384", "recipient_id": "15551234567"}
        ],
        "messages": [
            {
                "from": "15557654321",
                "id": f"wamid.{name}",
                "timestamp": "1749416383",
                "type": "text",
                "text": {"body": f"secret-words / {name}"},
            }
        ],
    }
    value = {"messaging_product": "whatsapp", "metadata": metadata, **items}
    entry = {"id": "1", "changes": [{"field": "messages", "value": value}]}
    return json.dumps({"object": "whatsapp_business_account", "entry": [entry]}).replace("/", "\\/").encode()


class Good:
    """`taken` counts webhooks answered 200. After a refusal it posts a new webhook."""

    def __init__(self, port: int, secret: str) -> None:
        self._port = port
        self._secret = secret
        self._names = itertools.count()
        self._tasks: list[asyncio.Task[None]] = []
        self.taken = 0
        self.refused = 0
        self.slowest = 0.0

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._post()) for _ in range(CONNECTIONS)]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def rate(self, seconds: float) -> float:
        """Accepted webhooks a second, measured from now."""
        before, began = self.taken, time.monotonic()
        await asyncio.sleep(seconds)
        return (self.taken - before) / (time.monotonic() - began)

    async def _post(self) -> None:
        while True:
            its = Line(*await asyncio.open_connection("127.0.0.1", self._port))
            try:
                await self._post_on(its)
            finally:
                await its.close()

    async def _post_on(self, its: Line) -> None:
        """Posts until the server closes the connection."""
        status = 200
        while status != HUNG_UP:
            body = webhook(str(next(self._names)))
            began = time.monotonic()
            sent = await its.send(request(PATH, signature(body, self._secret), body))
            status = await its.status(PATIENCE_SECONDS) if sent else HUNG_UP
            self.slowest = max(self.slowest, time.monotonic() - began)
            if status == 200:
                self.taken += 1
                continue
            self.refused += 1
            await asyncio.sleep(0.1)
