"""The life of one call at any simulated provider: understood or refused, slowed or failed by the dice, written down, answered.

What enters: a request and what the provider's own file makes of it. What leaves: the provider's answer. Guaranteed: every call is in the
log before it is answered, refused ones too, with as much of it as could be read; a refusal is the provider's own, never a traceback.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import orjson
from aiohttp import web

from simulators.clock import Clock
from simulators.misbehaviour import Dice, Draw, Fate, Misbehaviour
from simulators.misbehaviour_schedule import Schedule
from simulators.provider_limits import NONE, ProviderLimits
from simulators.provider_log import Log

UPLOAD_LIMIT = 110_000_000  # bytes of a request body read at all; each provider's own limits are below


def json_response(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(body=orjson.dumps(value), status=status, headers=headers, content_type="application/json")


def bad_gateway() -> web.Response:
    """What a front end answers when the API behind it broke: HTML, and no word whether the call was taken."""
    return web.Response(
        status=502, content_type="text/html", text="<html><head><title>502 Bad Gateway</title></head></html>"
    )


async def hang(request: web.BaseRequest, seconds: float) -> web.Response:
    """Holds a call until the client hangs up or `seconds` are over, then cuts the connection."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while loop.time() < end and request.transport is not None and not request.transport.is_closing():  # noqa: ASYNC110  # aiohttp tells of no disconnect
        await asyncio.sleep(0.1)
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)


class ProviderRefused(Exception, ABC):
    """The provider's own error answer; each provider has its subclass."""

    status: int = 400
    throttles: bool = False

    @abstractmethod
    def response(self) -> web.Response:
        """The answer, in the provider's own form."""


@dataclass(slots=True)
class ReceivedCall:
    """What is known of a call so far; a refusal is noted with as much as was read before it."""

    account: str
    kind: str
    recipient: str = ""
    text: str = ""
    tracker: str | None = None
    is_noted: bool = False
    ids: tuple[str, ...] = ()  # what the provider calls the messages it made of this call


@dataclass(frozen=True, slots=True)
class Sending:
    """A call that passed every rule: how its ids are made, what is told about it and how it is answered."""

    ids: Callable[[int], tuple[str, ...]]  # from the number of the log's line; empty when nothing is kept of the call
    tell: Callable[
        [Draw, Misbehaviour, float], Awaitable[None] | None
    ]  # draws and schedules receipts; the float is the call's latency
    answer: Callable[[], web.StreamResponse]


class Outbox(Protocol):
    """What posts to our webhook."""

    url: str

    @property
    def pending(self) -> int:
        """Notices not taken yet."""
        ...

    async def run(self) -> None:
        """Posts until cancelled."""
        ...


class Provider(ABC):
    """One simulated provider. Subclasses route requests and know the rules; this class knows what becomes of a call."""

    name: ClassVar[str]
    webhooks: Outbox

    def __init__(self, *, misbehaviour: Misbehaviour, limits: ProviderLimits = NONE, seed: int, log: Log) -> None:
        self.clock = Clock()
        self.schedule = Schedule(misbehaviour, self.clock)
        self.limits = limits
        self.log = log
        self.dice = Dice(seed)
        self.shows_log = True  # at /_log, to whoever reaches the port
        self.first = log.lines  # ids of an earlier run on the same log stay below

    @abstractmethod
    async def route(self, request: web.BaseRequest, call: ReceivedCall) -> web.StreamResponse:
        """Answers one call of the provider's API; raises Refused."""

    @abstractmethod
    def opened(self, request: web.BaseRequest) -> ReceivedCall:
        """The call as far as its path tells it."""

    @abstractmethod
    def refusal(self, fate: Fate, misbehaviour: Misbehaviour) -> ProviderRefused:
        """The provider's words for a call the dice throttled, rejected or broke."""

    def refuse(self, refused: ProviderRefused, draw: Draw, misbehaviour: Misbehaviour) -> web.Response:  # noqa: ARG002  # one provider varies its refusals
        return refused.response()

    @abstractmethod
    def controls(self) -> Mapping[str, "Callable[[Mapping[str, Any]], Any]"]:
        """What POST /_control/<name> can do beyond what all simulators do; each raises ValueError with a sentence."""

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        call = self.opened(request)
        try:
            response = await self.route(request, call)
        except ProviderRefused as refused:
            self.note(call, Fate.THROTTLED if refused.throttles else Fate.REJECTED, refused.status)
            return self.refuse(refused, self.dice.draw("refusals"), self.schedule.misbehaviour)
        self.note(call, Fate.ACCEPTED, response.status)
        return response

    def close(self) -> None:
        """The log to its end."""
        self.log.close()

    def note(self, call: ReceivedCall, fate: Fate, status: int, n: int | None = None) -> None:
        """Writes a call down, once."""
        if call.is_noted:
            return
        call.is_noted = True
        ids = call.ids
        self.log.call(
            self.log.take() if n is None else n,
            account=call.account,
            recipient=call.recipient,
            provider_message_id=ids[0] if ids else None,
            fate=fate,
            status=status,
            tracker=call.tracker,
            text=call.text,
            kind=call.kind,
            more_ids=ids[1:],
        )

    async def conduct(self, request: web.BaseRequest, call: ReceivedCall, sending: Sending) -> web.StreamResponse:
        """A call that broke no rule: its fate, its receipts, its answer."""
        misbehaviour, draw = self.schedule.now(), self.dice.draw(call.recipient)
        fate, latency = draw.fate(misbehaviour), draw.latency(misbehaviour)
        n = self.log.take()
        if fate.taken:
            call.ids = sending.ids(n)
        refused = None if fate.taken or fate is Fate.ERROR else self.refusal(fate, misbehaviour)
        status = {Fate.ACCEPTED: 200, Fate.HUNG: 0}.get(fate, 502) if refused is None else refused.status
        self.note(call, fate, status, n)
        if fate.taken:
            early = sending.tell(draw, misbehaviour, latency)
            if early is not None:
                await early
        if latency:
            await asyncio.sleep(latency / 1000)
        if refused is not None:
            return self.refuse(refused, draw, misbehaviour)
        if fate is Fate.ACCEPTED:
            return sending.answer()
        return await hang(request, misbehaviour.hang_seconds) if fate is Fate.HUNG else bad_gateway()


def keys_of(names: Sequence[str], wanted: Mapping[str, Any]) -> None:
    """Raises ValueError when a control call has keys nobody reads."""
    unknown = sorted(set(wanted) - set(names))
    if unknown:
        raise ValueError(f"unknown: {', '.join(unknown)}; there are: {', '.join(names)}")
