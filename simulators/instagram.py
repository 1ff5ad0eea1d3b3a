"""A simulated Instagram Messaging API of one professional account, with both variants: Instagram Login and Facebook Login (by Page).

What enters: calls as the real API accepts them, as JSON or as a form, with a bearer token or a token in the query. What leaves: its answers
and error codes, then echoes and reads, batched, escaped and signed as Meta does; never a delivery receipt. Guaranteed: misbehaviour.py
draws the outcome and the receipts of each call; a call is in the log before it is answered. docs/providers.md says what is left out.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Unpack

from aiohttp import web

from simulators import graph_api, instagram_bodies, links, request_reading
from simulators.graph_api import GraphRefused
from simulators.instagram_bodies import MEDIA, InstagramBody
from simulators.instagram_threads import Threads, packed
from simulators.meta_account import EARLY_WAIT_SECONDS, Given, MetaProvider, known_code
from simulators.misbehaviour import CallOutcome, CallRandom, Misbehaviour
from simulators.provider import ProviderRefused, ReceivedCall, Sending, json_response, keys_of
from simulators.webhook_sender import Notice

_PATH = re.compile(rf"(?:{graph_api.VERSION})?/([^/]+)(?:/(\w+))?/?")
_ATTACHMENTS_KEPT = 10_000
# Meta's message to an account whose language is Portuguese. Programs must use the code.
_LOCAL = "Esta mensagem não pôde ser enviada. Tente novamente mais tarde."


class InstagramSimulator(MetaProvider):
    """The provider: one professional account, linked to the Facebook Page `page`."""

    name = "instagram"
    retry_hours = 36.0

    def __init__(self, *, page: str = "", **given: Unpack[Given]) -> None:
        super().__init__(**given)
        self._nodes = {"me", self.account, page or f"1{self.account}"}
        self._threads = Threads(self)
        self._people: dict[str, tuple[int, int | None]] = {}
        self._reusable: dict[str, tuple[str, str]] = {}  # attachment_id -> type and link

    # --- the API -----------------------------------------------------------------------------------------------------

    def opened(self, request: web.BaseRequest) -> ReceivedCall:
        return ReceivedCall(self.account, f"{request.method} {request.path.rpartition('/')[2]}"[:60])

    async def route(self, request: web.BaseRequest, call: ReceivedCall) -> web.StreamResponse:
        given = await _parameters(request)
        self._authorise(request, given)
        path = _PATH.fullmatch(request.path)
        if path is None:
            raise graph_api.unknown_object(request.path.strip("/").partition("/")[0])
        node, edge = path[1], path[2]
        if node not in self._nodes:
            if request.method == "GET" and edge is None:
                return json_response(graph_api.chosen(given.get("fields", ""), self._threads.profile(node)))
            raise graph_api.unsupported(request.method, node)
        self._refuse_for_account()
        match request.method, edge:
            case "POST", "messages":
                return await self._message(request, call, given)
            case "POST", "message_attachments":
                return self._keep_attachment(call, given)
            case "POST", "subscribed_apps":
                return json_response({"success": True})
            case "GET", "conversations":
                call.kind = "conversations"
                return self._conversations(given)
            case "GET", None:
                return json_response(graph_api.chosen(given.get("fields", ""), self._profile()))
        raise graph_api.unsupported(request.method, f"{node}/{edge}" if edge else node)

    def _authorise(self, request: web.BaseRequest, given: Mapping[str, Any]) -> None:
        token = graph_api.token_of(request) or str(given.get("access_token", ""))
        graph_api.authorise(token, self._token)
        proof = given.get("appsecret_proof")
        if proof is not None and proof != hmac.new(self._app_secret, token.encode(), hashlib.sha256).hexdigest():
            raise GraphRefused(
                100, message="Invalid appsecret_proof provided in the API argument", kind="GraphMethodException"
            )

    async def _message(
        self, request: web.BaseRequest, call: ReceivedCall, given: Mapping[str, Any]
    ) -> web.StreamResponse:
        _peek(call, given)
        body = instagram_bodies.read(given)
        call.kind, call.recipient, call.text = body.kind, body.recipient, body.text
        self._pace(body)
        if not body.is_private_reply:
            self._reach(body)
        if body.is_action:
            done = {"recipient_id": body.recipient}
            return await self.conduct(
                request, call, Sending(lambda _: (), lambda *_: None, lambda: json_response(done))
            )
        for attachment_id in body.reusable_ids:
            if attachment_id not in self._reusable:
                raise GraphRefused(100, subcode=2018074, message="(#100) Invalid attachment id")
        for kind, link in body.attachments:
            await self._fetch(kind, link)
        return await self.conduct(request, call, self._sending(body))

    def _pace(self, body: InstagramBody) -> None:
        now, limits = self.clock.now(), self.limits
        rate = limits.media_per_second if body.kind in {"audio", "video"} else limits.calls_per_second
        if self._buckets.wait(f"send {rate}", now, burst=rate, every_ms=1000 / rate if rate else 0):
            raise GraphRefused(4, message="(#4) Application request limit reached", headers=_usage(1))

    def _reach(self, body: InstagramBody) -> None:
        """Raises the error for a person who cannot be reached: set by the control API, never wrote, or wrote too long ago."""
        code, subcode = self._people.get(body.recipient, (None, None))
        if code is not None:
            raise GraphRefused(code, subcode=subcode)
        hours = self.limits.window_hours
        if hours == 0:
            return
        if not self.windows.knows(body.recipient):
            raise GraphRefused(
                100, subcode=2534014, message="(#100) The requested user cannot be found.", kind="IGApiException"
            )
        if body.is_human_agent:
            hours = max(hours, self.limits.human_agent_hours)
        if not self.windows.is_open(body.recipient, self.clock.now(), hours):
            sentence = "(#10) This message is sent outside of allowed window. Learn more about the new policy here."
            raise GraphRefused(10, subcode=2534022, message=sentence, kind="IGApiException")

    async def _fetch(self, kind: str, link: str) -> None:
        """Meta fetches the link before it answers."""
        _, types, most = MEDIA[kind]
        linked = await links.fetched(link, most) if links.is_here(link) else links.guessed(link)
        if linked.size > most:
            if kind == "image":  # observed inside an HTTP 200
                raise GraphRefused(36000, message="(#36000) The image size is too large", status=200)
            raise GraphRefused(100, subcode=2018047, message=f"(#100) The {kind} is too large")
        if linked.failure or (linked.mime_type and linked.mime_type not in types):
            raise GraphRefused(100, subcode=2018047, message="(#100) Failed to fetch the file from the url")

    def _sending(self, body: InstagramBody) -> Sending:
        mid = ""

        def ids(n: int) -> tuple[str, ...]:
            nonlocal mid
            mid = self.mid(str(n))
            return (mid,)

        def schedule_receipts(rng: CallRandom, misbehaviour: Misbehaviour, latency: float) -> Awaitable[None] | None:
            return self._schedule_receipts(mid, body, rng, (misbehaviour, latency))

        def answer() -> web.StreamResponse:
            return json_response({"recipient_id": body.recipient, "message_id": mid}, headers=_usage(0))

        return Sending(ids, schedule_receipts, answer)

    # --- webhooks ----------------------------------------------------------------------------------------------------

    def _schedule_receipts(
        self, mid: str, body: InstagramBody, rng: CallRandom, drawn: tuple[Misbehaviour, float]
    ) -> Awaitable[None] | None:
        misbehaviour, latency = drawn
        statuses = ["echo"] if rng.happens(misbehaviour.unread_rate) else ["echo", "read"]
        plan = rng.plan(misbehaviour, statuses)
        is_bare = rng.happens(misbehaviour.bare_read_rate)
        now = self.clock.now()

        def notice(status: str, after: float) -> Notice:
            payload = (int(now + after), body.recipient, body.text, body.attachments, is_bare)
            return Notice(status, mid, payload)

        for status, delay in plan.later:
            self.webhooks.schedule(notice(status, latency + delay), latency + delay)
        for status in plan.lost:
            self.log.dropped(status, mid, "lost")
        self._threads.add(body.recipient, mid, now, body.text)
        return self.webhooks.post_now(notice(plan.early, 0.0), EARLY_WAIT_SECONDS) if plan.early else None

    def _pack(self, notices: Sequence[Notice]) -> tuple[bytes, Mapping[str, str]]:
        return graph_api.signed(packed(notices, self.account, self.clock.now()), self._app_secret)

    def mid(self, name: str) -> str:
        """An id as long as Meta's: about 170 characters."""
        inner = f"ig_{self.account}:{self._mark}:{name}".encode()
        digest = hashlib.sha512(inner).digest()
        return "aWdfZAG1faXRlbToxOklHTWVzc2FnZAUlE" + base64.urlsafe_b64encode(inner + digest).decode().rstrip("=")

    # --- the rest ----------------------------------------------------------------------------------------------------

    def refusal(self, outcome: CallOutcome, misbehaviour: Misbehaviour) -> GraphRefused:
        if outcome is CallOutcome.THROTTLED:
            headers = {"Retry-After": f"{misbehaviour.retry_after_seconds:.0f}", **_usage(1)}
            return GraphRefused(4, message="(#4) Application request limit reached", headers=headers)
        if outcome is CallOutcome.FAULT:
            return GraphRefused(2, message="(#2) Service temporarily unavailable")
        return GraphRefused(100, subcode=2534014)

    def refuse(self, refused: ProviderRefused, rng: CallRandom, misbehaviour: Misbehaviour) -> web.Response:
        if not isinstance(refused, GraphRefused):
            return refused.response()
        error = refused.error()
        if rng.happens(misbehaviour.localised_rate):
            error |= {"message": _LOCAL, "error_user_title": "Não foi possível enviar", "error_user_msg": _LOCAL}
        status = 200 if rng.happens(misbehaviour.hidden_error_rate) else refused.status
        return json_response({"error": error}, status, refused.headers)

    def controls(self) -> Mapping[str, Callable[[Mapping[str, Any]], Any]]:
        return {
            "inbound": self._threads.write,
            "people": self._set_person,
            "account": self._set_account,
            "verify": self._verify,
        }

    def _keep_attachment(self, call: ReceivedCall, given: Mapping[str, Any]) -> web.Response:
        call.kind = "upload"
        message = given.get("message")
        kind, payload = instagram_bodies.attachment(message.get("attachment") if isinstance(message, dict) else None)
        attachment_id = str(10**15 + self.log.lines)
        self._reusable[attachment_id] = (kind, str(payload.get("url", "")))
        if len(self._reusable) > _ATTACHMENTS_KEPT:
            del self._reusable[next(iter(self._reusable))]
        return json_response({"attachment_id": attachment_id})

    def _conversations(self, given: Mapping[str, Any]) -> web.Response:
        rate = self.limits.reads_per_second
        if self._buckets.wait("read", self.clock.now(), burst=rate, every_ms=1000 / rate if rate else 0):
            raise GraphRefused(4, message="(#4) Application request limit reached", headers=_usage(1))
        if given.get("platform", "instagram") != "instagram":
            raise graph_api.invalid("Param platform must be one of {INSTAGRAM, MESSENGER}")
        return json_response(self._threads.page(given.get("user_id")))

    def _profile(self) -> dict[str, Any]:
        return {
            "id": self.account,
            "user_id": self.account,
            "username": "demo",
            "name": "Demo",
            "account_type": "BUSINESS",
            "followers_count": 1,
            "media_count": 0,
        }

    def _set_person(self, wanted: Mapping[str, Any]) -> object:
        """{"address", "code", "subcode"}: every message to the person gets this error; without a code they can be reached again."""
        keys_of(("address", "code", "subcode"), wanted)
        person, code = str(wanted.get("address", "")), wanted.get("code")
        if code is None:
            self._people.pop(person, None)
        else:
            self._people[person] = (known_code(code), wanted.get("subcode"))
        return {"address": person}


async def _parameters(request: web.BaseRequest) -> dict[str, Any]:
    """Parameters of query, form and JSON: the Graph API accepts all of them everywhere."""
    given = graph_api.unfold(request.query)
    if request.method != "POST":
        return given
    if request.content_type == "application/json":
        raw = await request_reading.raw(request, graph_api.unreadable())
        return given | (graph_api.decoded(raw) if raw else {})
    form = await request_reading.form(request, graph_api.unreadable())
    return given | graph_api.unfold({name: value for name, value in form.items() if isinstance(value, str)})


def _peek(call: ReceivedCall, given: Mapping[str, Any]) -> None:
    """Fills in what the log should have of a call even when the call is refused."""
    recipient, message = given.get("recipient"), given.get("message")
    call.kind = "message"
    if isinstance(recipient, dict):
        call.recipient = str(recipient.get("id", ""))[:60]
    if isinstance(message, dict) and isinstance(message.get("text"), str):
        call.text = message["text"]


def _usage(share: float) -> dict[str, str]:
    """The header that says how much of the limits is used, in percent."""
    percent = f"{share * 100:.0f}"
    return {"X-App-Usage": f'{{"call_count":{percent},"total_time":{percent},"total_cputime":{percent}}}'}
