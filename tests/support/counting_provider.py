"""A provider that answers when a test decides: the connector of a channel that exists in tests only."""

from collections.abc import Coroutine, Generator
from typing import Any

from connectors.base import Capabilities, WebhookItems, WebhookRequest
from pipelines.engine.stage import Call, Result
from pipelines.send import Send
from schemas.outcomes import Outcome, Rejected
from schemas.records import Delivery


class Answer:
    """The answer that a call waits for."""

    def __init__(self) -> None:
        self.outcome: Outcome | None = None

    def __await__(self) -> Generator[None, None, Outcome]:
        while self.outcome is None:
            yield
        return self.outcome


class Provider:
    """A connector. Every call stays open until its Answer has an outcome."""

    def __init__(self, channel: str, unknown_policy: str) -> None:
        self.channel = channel
        self.capabilities = Capabilities(
            delivered=True, read=True, text_limit=4096, text_unit="characters", unknown_policy=unknown_policy
        )
        self.answers: dict[tuple[str, int], Answer] = {}
        self.closed = False

    def check(self, delivery: Delivery) -> Rejected | None:  # noqa: ARG002  # accepts everything
        return None

    def parts(self, delivery: Delivery) -> int:
        return len(delivery.text.split("|"))  # so a test chooses how many calls a delivery needs

    async def send(self, delivery: Delivery, attempt: int, part: int = 0) -> Outcome:  # noqa: ARG002  # the same answer for every part
        answer = self.answers[delivery.delivery_id, attempt] = Answer()
        return await answer

    def parse_webhook(self, request: WebhookRequest, received_at: int) -> WebhookItems:  # noqa: ARG002  # returns no items
        return WebhookItems()

    async def close(self) -> None:
        self.closed = True


class Performed:
    """A call in flight, advanced by hand: without an event loop, so a model decides the order of all events."""

    def __init__(self, stage: Send, provider: Provider, call: Call) -> None:
        self.call = call
        self._provider = provider
        self._coroutine: Coroutine[Any, Any, Outcome] = stage.perform(call)
        self._coroutine.send(None)

    def finish(self, outcome: Outcome) -> Result:
        """The provider answers; returns the outcome that the stage makes of it."""
        self._provider.answers[self.call.key, self.call.request.number].outcome = outcome
        try:
            self._coroutine.send(None)
        except StopIteration as end:
            return Result(self.call, end.value)
        raise AssertionError("an answered call must end")

    def lose(self) -> None:
        """The worker crashes; the answer is lost."""
        self._coroutine.close()
