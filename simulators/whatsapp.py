"""A simulated WhatsApp Cloud API of one business number: messages, media, templates, windows, limits, and signed webhooks.

What enters: calls as the real API accepts them. What leaves: its answers and error codes, then statuses that echo our tracker, batched,
escaped and signed as Meta does. Guaranteed: misbehaviour.py draws the outcome and the receipts of each call; a call is in the log before it
is answered. docs/providers.md says what is left out.
"""

import base64
import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Unpack

from aiohttp import web

from simulators import graph_api, request_reading, whatsapp_bodies, whatsapp_statuses
from simulators.graph_api import GraphRefused
from simulators.meta_account import EARLY_WAIT_SECONDS, Given, MetaProvider, known_code
from simulators.misbehaviour import CallOutcome, CallRandom, Misbehaviour
from simulators.provider import ReceivedCall, Sending, json_response, keys_of
from simulators.webhook_sender import Notice
from simulators.whatsapp_bodies import WhatsAppBody
from simulators.whatsapp_inbound import Inbox
from simulators.whatsapp_media import DOWNLOADS, MediaApi
from simulators.whatsapp_statuses import DISPLAY_NUMBER, History, ReportedStatus
from simulators.whatsapp_templates import Templates

_PATH = re.compile(graph_api.VERSION + r"/([^/]+)(?:/(\w+))?/?")
# Fields of a number that a call may ask for and that have no value here.
# https://developers.facebook.com/docs/graph-api/reference/whats-app-business-account-to-number-current-status
_NUMBER_FIELDS = (
    "conversational_automation", "quality_score", "webhook_configuration", "name_status", "new_name_status", "account_mode",
    "is_on_biz_app", "is_official_business_account", "is_pin_enabled", "is_preverified_number", "search_visibility",
    "eligibility_for_api_business_global_search", "health_status", "certificate", "new_certificate", "last_onboarded_time",
    "country_code", "country_dial_code", "whatsapp_business_manager_messaging_limit",
)  # fmt: skip  # a list of words, several on a line
_TOO_LATE = "Message failed to send because more than 24 hours have passed since the customer last replied"
# About one message each; /_control/people makes a person who cannot be reached.
_LATE_CODES = (131049, 131053, 131047)


class WhatsAppSimulator(MetaProvider):
    """The provider: one business number, and one app secret that signs webhooks."""

    name = "whatsapp"
    retry_hours = 7 * 24.0

    def __init__(self, **given: Unpack[Given]) -> None:
        super().__init__(**given)
        self.media = MediaApi(self.clock)
        self.templates = Templates()
        self.history = History()
        # wa_id -> error code of every message to the person, and whether it is reported later, by a receipt
        self._people: dict[str, tuple[int, bool]] = {}
        self._inbox = Inbox(self)

    # --- the API -----------------------------------------------------------------------------------------------------

    def opened(self, request: web.BaseRequest) -> ReceivedCall:
        return ReceivedCall(self.account, f"{request.method} {request.path.rpartition('/')[2]}"[:60])

    async def route(self, request: web.BaseRequest, call: ReceivedCall) -> web.StreamResponse:
        graph_api.authorise(graph_api.token_of(request), self._token)
        if request.path == DOWNLOADS:
            call.kind = "download"
            return self.media.download(request)
        path = _PATH.fullmatch(request.path)
        if path is None:
            raise graph_api.unknown_object(request.path.strip("/").partition("/")[0])
        node, edge = path[1], path[2]
        if node != self.account:
            return self._medium(request, call, node) if edge is None and node.isdecimal() else _nowhere(node)
        self._refuse_for_account()
        match request.method, edge:
            case "POST", "messages":
                return await self._message(
                    request, call, graph_api.decoded(await request_reading.raw(request, graph_api.unreadable()))
                )
            case "POST", "media":
                call.kind = "upload"
                return await self.media.upload(request)
            case "GET", "message_history":
                call.kind = "message_history"
                return self._history(request)
            case "GET", None:
                call.kind = "number"
                return json_response(graph_api.chosen(request.query.get("fields", ""), self._number()))
        raise graph_api.unsupported(request.method, f"{node}/{edge}" if edge else node)

    async def _message(
        self, request: web.BaseRequest, call: ReceivedCall, body: Mapping[str, Any]
    ) -> web.StreamResponse:
        _peek(call, body)
        if "status" in body:
            return await self.conduct(request, call, self._seen(call, body))
        message = whatsapp_bodies.read(body, DISPLAY_NUMBER)
        call.recipient = message.address.removeprefix("+")
        self._pace(message)
        late = await self._rules(message)
        return await self.conduct(request, call, self._sending(message, late))

    def _seen(self, call: ReceivedCall, body: Mapping[str, Any]) -> Sending:
        """Marks a person's message as read, with or without a typing indicator."""
        whatsapp_bodies.product(body)
        if body["status"] != "read":
            raise graph_api.invalid("Param status must be one of {READ}.")
        typing = body.get("typing_indicator")
        call.kind = "mark_read" if typing is None else "typing"
        if typing is not None and typing != {"type": "text"}:
            raise graph_api.invalid("Param typing_indicator['type'] must be one of {TEXT}.")
        wamid = whatsapp_bodies.wamid_of(body.get("message_id"), "message_id")
        call.recipient = self._inbox.author(wamid, is_strict=self.limits.window_hours > 0)
        return Sending(lambda _: (), lambda *_: None, lambda: json_response({"success": True}))

    def _pace(self, message: WhatsAppBody) -> None:
        now, limits = self.clock.now(), self.limits
        if self._buckets.wait("", now, burst=limits.account_per_second, every_ms=_every(limits.account_per_second)):
            raise GraphRefused(130429, "Cloud API message throughput has been reached.")
        if self._buckets.wait(message.wa_id, now, burst=limits.pair_burst, every_ms=limits.pair_seconds * 1000):
            raise GraphRefused(
                131056, "Message failed to send because there were too many messages sent to this phone number"
            )

    async def _rules(self, message: WhatsAppBody) -> tuple[int, str] | None:
        """Raises the errors that Meta reports at once; returns code and details of an error that only a receipt will report."""
        code, comes_late = self._people.get(message.wa_id, (None, False))
        if code is not None and not comes_late:
            raise GraphRefused(code)
        if message.template is not None:
            self.templates.check(message.template)
        if message.media_id is not None and (why := self.media.mismatch(message.kind, message.media_id)):
            raise GraphRefused(131009, why)
        if code is not None:
            return code, graph_api.title(code)
        is_marketing = message.template is not None and self.templates.category(message.template) == "marketing"
        if is_marketing and self._inbox.has_stopped(message.wa_id):
            return 131050, graph_api.title(131050)
        is_outside = not self.windows.is_open(message.wa_id, self.clock.now(), self.limits.window_hours)
        if is_outside and message.template is None:
            rate = self.schedule.misbehaviour.sync_window_rate
            if rate and self.random_source.for_call(f"window {message.wa_id}").happens(rate):
                raise GraphRefused(131047, _TOO_LATE)
            return 131047, _TOO_LATE
        if message.link is not None and (why := await self.media.link_failure(message.kind, message.link)):
            return 131053, why
        return None

    def _sending(self, message: WhatsAppBody, late: tuple[int, str] | None) -> Sending:
        wamid = ""

        def ids(n: int) -> tuple[str, ...]:
            nonlocal wamid
            wamid = self.wamid(str(n))
            return (wamid,)

        def schedule_receipts(rng: CallRandom, misbehaviour: Misbehaviour, latency: float) -> Awaitable[None] | None:
            return self._schedule_receipts(wamid, message, late, (rng, misbehaviour, latency))

        def answer() -> web.StreamResponse:
            sent = {"id": wamid}
            if message.template is not None:
                sent["message_status"] = "accepted"
            contact = {"input": message.address, "wa_id": message.wa_id}
            return json_response({"messaging_product": "whatsapp", "contacts": [contact], "messages": [sent]})

        return Sending(ids, schedule_receipts, answer)

    # --- webhooks ----------------------------------------------------------------------------------------------------

    def _schedule_receipts(
        self,
        wamid: str,
        message: WhatsAppBody,
        late: tuple[int, str] | None,
        drawn: tuple[CallRandom, Misbehaviour, float],
    ) -> Awaitable[None] | None:
        rng, misbehaviour, latency = drawn
        statuses = rng.statuses(misbehaviour) if late is None else ["failed"]
        if message.kind == "audio" and statuses[-1] == "read":
            statuses.append("played")
        code, details = late or (int(misbehaviour.fail_code) or rng.one_of(_LATE_CODES), "")
        plan = rng.plan(misbehaviour, statuses)
        category = "service" if message.template is None else self.templates.category(message.template)
        reported = ReportedStatus(message.wa_id, message.tracker, category, code, details)
        now = self.clock.now()
        events = [(status, now // 1000) for status in (*plan.lost, *([plan.early] if plan.early else []))]
        for status, delay in plan.later:
            seconds = int(now + latency + delay) // 1000
            self.webhooks.schedule(Notice(status, wamid, (seconds, reported)), latency + delay)
            events.append((status, seconds))
        for status in plan.lost:  # only the webhook is lost: the history has the status
            self.log.dropped(status, wamid, "lost")
        self.history.add(wamid, events)
        if plan.early is None:
            return None
        return self.webhooks.post_now(Notice(plan.early, wamid, (now // 1000, reported)), EARLY_WAIT_SECONDS)

    def _pack(self, notices: Sequence[Notice]) -> tuple[bytes, Mapping[str, str]]:
        is_plain = self.random_source.for_call("webhooks").happens(self.schedule.misbehaviour.plain_rate)
        return graph_api.signed(whatsapp_statuses.body(notices, self.account, is_plain=is_plain), self._app_secret)

    def wamid(self, name: str) -> str:
        inner = f"{self.account}:{self._mark}:{name}".encode()
        return "wamid.HBgL" + base64.urlsafe_b64encode(hashlib.sha256(inner).digest()[:9] + inner).decode()

    def _history(self, request: web.BaseRequest) -> web.Response:
        wamid = whatsapp_bodies.wamid_of(request.query.get("message_id"), "message_id")
        limit = request.query.get("limit", "25")
        if not (limit.isascii() and limit.isdecimal() and 1 <= int(limit) <= 100):
            raise graph_api.invalid("Param limit must be a number between 1 and 100.")
        return json_response(self.history.page(wamid, self.clock.seconds(), request.query.get("fields", "")))

    # --- the rest ----------------------------------------------------------------------------------------------------

    def refusal(self, outcome: CallOutcome, misbehaviour: Misbehaviour) -> GraphRefused:
        if outcome is CallOutcome.THROTTLED:
            headers = {"Retry-After": f"{misbehaviour.retry_after_seconds:.0f}"}
            return GraphRefused(130429, "Cloud API message throughput has been reached.", headers=headers)
        if outcome is CallOutcome.FAULT:
            return GraphRefused(131000, "Message failed to send due to an unknown error.")
        return GraphRefused(130472)

    def controls(self) -> Mapping[str, Callable[[Mapping[str, Any]], Any]]:
        return {
            "inbound": self._inbox.write,
            "preferences": self._inbox.prefer,
            "people": self._set_person,
            "templates": self.templates.add,
            "account": self._set_account,
            "verify": self._verify,
        }

    def close(self) -> None:
        super().close()
        self.media.store.close()

    def _medium(self, request: web.BaseRequest, call: ReceivedCall, media_id: str) -> web.Response:
        asked = request.query.get("phone_number_id", self.account)
        if asked != self.account:
            raise graph_api.unsupported(request.method, media_id)
        call.kind = "media"
        if request.method == "GET":
            return self.media.describe(media_id, f"http://{request.host}")
        if request.method == "DELETE":
            return self.media.delete(media_id)
        raise graph_api.unsupported(request.method, media_id)

    def _number(self) -> dict[str, Any]:
        return dict.fromkeys(_NUMBER_FIELDS) | {
            "id": self.account,
            "display_phone_number": DISPLAY_NUMBER,
            "verified_name": "Demo",
            "code_verification_status": "VERIFIED",
            "quality_rating": "GREEN",
            "platform_type": "CLOUD_API",
            "throughput": {"level": "STANDARD"},
            "status": "CONNECTED",
        }

    def _set_person(self, wanted: Mapping[str, Any]) -> object:
        """{"address", "code", "later"}: every message to the person fails with this code, at once or by a receipt.

        Without a code the person can be reached again.
        """
        keys_of(("address", "code", "later"), wanted)
        wa_id, code = whatsapp_bodies.canonical(str(wanted.get("address", ""))), wanted.get("code")
        if code is None:
            self._people.pop(wa_id, None)
        else:
            self._people[wa_id] = (known_code(code), bool(wanted.get("later")))
        return {"wa_id": wa_id}


def _peek(call: ReceivedCall, body: Mapping[str, Any]) -> None:
    """Fills in what the log should have of a call even when its body is refused."""
    kind = body.get("type", "text")
    call.kind = kind if isinstance(kind, str) and len(kind) < 40 else "?"
    address = body.get("to") or body.get("recipient")
    call.recipient = address.removeprefix("+") if isinstance(address, str) else ""
    tracker = body.get("biz_opaque_callback_data")
    call.tracker = tracker if isinstance(tracker, str) else None
    content = body.get(call.kind)
    if isinstance(content, dict):
        text = content.get("body") or content.get("caption") or content.get("name")
        call.text = text if isinstance(text, str) else ""


def _every(per_second: float) -> float:
    return 1000.0 / per_second if per_second else 0.0


def _nowhere(node: str) -> web.StreamResponse:
    raise graph_api.unknown_object(node)
