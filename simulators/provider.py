"""One call at any simulated provider: validated, delayed or failed at random, logged, answered.

What enters: a request, and the provider's own module that reads it. What leaves: the provider's answer. Guaranteed: every call is in the
log before it is answered, refused ones too, with as much of it as could be read; an error answer has the provider's own form.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import orjson
from aiohttp import web

from simulators.clock import Clock
from simulators.misbehaviour import CallOutcome, CallRandom, Misbehaviour, RandomSource
from simulators.misbehaviour_schedule import Schedule
from simulators.provider_limits import NONE, ProviderLimits
from simulators.provider_log import Log

UPLOAD_LIMIT = 110_000_000  # bytes of a request body that are read at most; each provider's own limits are lower


def json_response(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(body=orjson.dumps(value), status=status, headers=headers, content_type="application/json")


def bad_gateway() -> web.Response:
    """A front end's answer when the API behind it broke: HTML, which does not say whether the call was accepted."""
    return web.Response(
        status=502, content_type="text/html", text="<html><head><title>502 Bad Gateway</title></head></html>"
    )


async def hang(request: web.BaseRequest, seconds: float) -> web.Response:
    """Holds a call until the client disconnects or `seconds` are over, then cuts the connection."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while loop.time() < end and request.transport is not None and not request.transport.is_closing():  # noqa: ASYNC110  # aiohttp has no event for a disconnect
        await asyncio.sleep(0.1)
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)


class ProviderRefused(Exception, ABC):
    """The provider's own error answer. Each provider has a subclass."""

    status: int = 400
    throttles: bool = False

    @abstractmethod
    def response(self) -> web.Response:
        """The answer, in the provider's own form."""


@dataclass(slots=True)
class ReceivedCall:
    """What is known of a call so far. A refused call is logged with as much as was read before the refusal."""

    account: str
    kind: str
    recipient: str = ""
    text: str = ""
    tracker: str | None = None
    is_noted: bool = False
    ids: tuple[str, ...] = ()  # the provider's ids of the messages that the call made


@dataclass(frozen=True, slots=True)
class Sending:
    """A valid call: how to make its ids, to schedule its receipts and to answer it."""

    ids: Callable[[int], tuple[str, ...]]  # from the number of the log's line; empty when the call makes no message
    # Draws and schedules receipts. The float is the call's latency in milliseconds. `conduct` waits for the result before it answers.
    schedule_receipts: Callable[[CallRandom, Misbehaviour, float], Awaitable[None] | None]
    answer: Callable[[], web.StreamResponse]


class Outbox(Protocol):
    """The part of a provider that posts to our webhook."""

    url: str

    @property
    def pending(self) -> int:
        """Notices that our webhook has not accepted yet."""
        ...

    async def run(self) -> None:
        """Posts until cancelled."""
        ...


class Provider(ABC):
    """One simulated provider, for one event loop. Subclasses route and validate requests; this class draws outcomes and logs calls."""

    name: ClassVar[str]
    webhooks: Outbox

    def __init__(self, *, misbehaviour: Misbehaviour, limits: ProviderLimits = NONE, seed: int, log: Log) -> None:
        self.clock = Clock()
        self.schedule = Schedule(misbehaviour, self.clock)
        self.limits = limits
        self.log = log
        self.random_source = RandomSource(seed)
        self.shows_log = True  # at /_log, without a password
        self.first = log.lines  # ids of an earlier run on the same log are lower

    @abstractmethod
    async def route(self, request: web.BaseRequest, call: ReceivedCall) -> web.StreamResponse:
        """Answers one call of the provider's API; raises ProviderRefused for an error answer."""

    @abstractmethod
    def opened(self, request: web.BaseRequest) -> ReceivedCall:
        """The call as far as its path describes it."""

    @abstractmethod
    def refusal(self, outcome: CallOutcome, misbehaviour: Misbehaviour) -> ProviderRefused:
        """The provider's error answer to a call whose drawn outcome is THROTTLED, REJECTED or FAULT."""

    def refuse(self, refused: ProviderRefused, rng: CallRandom, misbehaviour: Misbehaviour) -> web.Response:  # noqa: ARG002  # one provider varies its refusals
        return refused.response()

    @abstractmethod
    def controls(self) -> Mapping[str, "Callable[[Mapping[str, Any]], Any]"]:
        """The handlers of POST /_control/<name> that only this provider has; each raises ValueError with a sentence."""

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answers and logs one request to the provider's API."""
        call = self.opened(request)
        try:
            response = await self.route(request, call)
        except ProviderRefused as refused:
            self.note(call, CallOutcome.THROTTLED if refused.throttles else CallOutcome.REJECTED, refused.status)
            return self.refuse(refused, self.random_source.for_call("refusals"), self.schedule.misbehaviour)
        self.note(call, CallOutcome.ACCEPTED, response.status)
        return response

    def close(self) -> None:
        """Writes the rest of the log."""
        self.log.close()

    def note(self, call: ReceivedCall, outcome: CallOutcome, status: int, n: int | None = None) -> None:
        """Logs a call, once. `n` is the number of its log line, the next free one by default."""
        if call.is_noted:
            return
        call.is_noted = True
        ids = call.ids
        self.log.call(
            self.log.take() if n is None else n,
            account=call.account,
            recipient=call.recipient,
            provider_message_id=ids[0] if ids else None,
            outcome=outcome,
            status=status,
            tracker=call.tracker,
            text=call.text,
            kind=call.kind,
            more_ids=ids[1:],
        )

    async def conduct(self, request: web.BaseRequest, call: ReceivedCall, sending: Sending) -> web.StreamResponse:
        """Carries out a valid call: draws its outcome, logs it, schedules its receipts and answers it."""
        misbehaviour, rng = self.schedule.now(), self.random_source.for_call(call.recipient)
        outcome, latency = rng.outcome(misbehaviour), rng.latency(misbehaviour)
        n = self.log.take()
        if outcome.taken:
            call.ids = sending.ids(n)
        refused = None if outcome.taken or outcome is CallOutcome.ERROR else self.refusal(outcome, misbehaviour)
        status = (
            {CallOutcome.ACCEPTED: 200, CallOutcome.HUNG: 0}.get(outcome, 502) if refused is None else refused.status
        )
        self.note(call, outcome, status, n)
        if outcome.taken:
            early = sending.schedule_receipts(rng, misbehaviour, latency)
            if early is not None:
                await early
        if latency:
            await asyncio.sleep(latency / 1000)
        if refused is not None:
            return self.refuse(refused, rng, misbehaviour)
        if outcome is CallOutcome.ACCEPTED:
            return sending.answer()
        return await hang(request, misbehaviour.hang_seconds) if outcome is CallOutcome.HUNG else bad_gateway()


def keys_of(names: Sequence[str], wanted: Mapping[str, Any]) -> None:
    """Raises ValueError when a control call has keys outside `names`."""
    unknown = sorted(set(wanted) - set(names))
    if unknown:
        raise ValueError(f"unknown: {', '.join(unknown)}; there are: {', '.join(names)}")
