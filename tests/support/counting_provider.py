"""A provider that answers when a test says so: the connector of a channel that exists in tests only."""

from collections.abc import Coroutine, Generator
from typing import Any

from connectors.base import Capabilities, WebhookItems, WebhookRequest
from pipelines.engine.stage import Call, Result
from pipelines.send import Send
from schemas.outcomes import Outcome, Rejected
from schemas.records import Delivery


class Answer:
    """What a call waits for."""

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

    def check(self, delivery: Delivery) -> Rejected | None:  # noqa: ARG002  # takes everything
        return None

    def parts(self, delivery: Delivery) -> int:
        return len(delivery.text.split("|"))  # so that a test says how many calls a delivery takes

    async def send(self, delivery: Delivery, attempt: int, part: int = 0) -> Outcome:  # noqa: ARG002  # answers alike for every part
        answer = self.answers[delivery.delivery_id, attempt] = Answer()
        return await answer

    def parse_webhook(self, request: WebhookRequest, received_at: int) -> WebhookItems:  # noqa: ARG002  # tells nothing
        return WebhookItems()

    async def close(self) -> None:
        self.closed = True


class Performed:
    """A call under way, stepped by hand: no event loop, so a model decides the order of everything."""

    def __init__(self, stage: Send, provider: Provider, call: Call) -> None:
        self.call = call
        self._provider = provider
        self._coroutine: Coroutine[Any, Any, Outcome] = stage.perform(call)
        self._coroutine.send(None)

    def finish(self, outcome: Outcome) -> Result:
        """The provider answers; what the stage makes of it."""
        self._provider.answers[self.call.key, self.call.request.number].outcome = outcome
        try:
            self._coroutine.send(None)
        except StopIteration as end:
            return Result(self.call, end.value)
        raise AssertionError("an answered call must end")

    def lose(self) -> None:
        """The worker ends; nobody hears the answer."""
        self._coroutine.close()
