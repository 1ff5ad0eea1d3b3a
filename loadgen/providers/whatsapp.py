"""A simulated WhatsApp Cloud API: takes texts at /{version}/{account}/messages and tells what became of them by signed webhooks.

What enters: calls as the real API takes them. What leaves: its answers and error codes, then the statuses sent, delivered and read with
our tracker echoed, batched, JSON escaped as Meta escapes it, signed over exactly those bytes. Guaranteed: fates and receipts as
faults.py draws them; a call is in the log before it is answered. Left out so far: media, templates in detail, windows and rate limits.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from aiohttp import web

from loadgen.providers.faults import Dice, Fate, Faults
from loadgen.providers.log import Log
from loadgen.providers.server import bad_gateway, hang, json_response
from loadgen.providers.webhooks import Notice, Webhooks

TEXT_LIMIT = 4096
TRACKER_LIMIT = 512
BATCH = 100
_EARLY_PATIENCE_SECONDS = 1.0
_PATH = re.compile(r"/v\d+\.\d+/([^/]+)(/messages)?")
_ADDRESS = re.compile(r"\+?\d{5,20}|[A-Z]{2}\.(ENT\.)?\d+", re.ASCII)
_OTHER_TYPES = ("image", "document", "audio", "video", "sticker", "location", "template", "reaction", "interactive")


class Refused(Exception):
    """An error answer of Meta: HTTP status, code and message."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


class WhatsApp:
    """The provider: one business account, one app secret that signs."""

    name = "whatsapp"

    def __init__(
        self, *, account: str, token: str, app_secret: str, webhook_url: str, faults: Faults, seed: int, log: Log
    ) -> None:
        self.faults = faults
        self.log = log
        self.webhooks = Webhooks(url=webhook_url, pack=self._pack, log=log, batch=BATCH, ordered=False)
        self._account = account
        self._authorization = f"Bearer {token}"
        self._app_secret = app_secret.encode()
        self._dice = Dice(seed)
        self._mark = f"{seed:x}"
        self._inbound = 0
        self._first = log.lines  # ids of an earlier run on the same log stay below

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await self._answer(request)
        except Refused as refused:
            return _error(refused)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        path = _PATH.fullmatch(request.path)
        if request.headers.get("Authorization") != self._authorization:
            self._note_malformed(Fate.REJECTED, 401)
            raise Refused(401, 190, "Invalid OAuth access token - Cannot parse access token")
        if path is None or path[1] != self._account:
            self._note_malformed(Fate.REJECTED, 404)
            raise Refused(404, 803, f"Some of the aliases you requested do not exist: {path[1] if path else ''}")
        if request.method == "GET" and path[2] is None:
            return json_response({"id": self._account, "display_phone_number": "15550783881", "verified_name": "Demo"})
        if request.method != "POST" or path[2] is None:
            raise Refused(400, 100, "Unsupported request")
        return await self._message(request, await request.read())

    async def _message(self, request: web.BaseRequest, raw: bytes) -> web.StreamResponse:
        try:
            body = _validated(raw)
        except Refused as refused:
            self._note_malformed(Fate.REJECTED, refused.status)
            raise
        if body.get("status") == "read":
            return json_response({"success": True})
        fate, n = self._dice.fate(self.faults), self.log.take()
        wamid = self._wamid(str(n)) if fate.taken else None
        status = {Fate.HUNG: 0, Fate.THROTTLED: 429, Fate.REJECTED: 400, Fate.ACCEPTED: 200}.get(fate, 502)
        self._note(n, body, wamid, fate, status)
        if wamid is not None:
            await self._tell(wamid, body)
        if self.faults.latency_ms:
            await asyncio.sleep(self.faults.latency_ms / 1000)
        return await self._settle(request, fate, body, wamid)

    async def _settle(
        self, request: web.BaseRequest, fate: Fate, body: Mapping[str, Any], wamid: str | None
    ) -> web.StreamResponse:
        address = _address(body)
        match fate:
            case Fate.ACCEPTED:
                contact = {"input": address, "wa_id": address.removeprefix("+")}
                return json_response(
                    {"messaging_product": "whatsapp", "contacts": [contact], "messages": [{"id": wamid}]}
                )
            case Fate.HUNG:
                return await hang(request, self.faults.hang_seconds)
            case Fate.THROTTLED:
                refused = Refused(429, 130429, "(#130429) Rate limit hit")
                return _error(refused, {"Retry-After": f"{self.faults.retry_after_seconds:.0f}"})
            case Fate.REJECTED:
                raise Refused(400, 131026, "(#131026) Message undeliverable")
        return bad_gateway()

    async def _tell(self, wamid: str, body: Mapping[str, Any]) -> None:
        plan = self._dice.plan(self.faults)
        for status, delay in plan.later:
            after = self.faults.latency_ms + delay
            self.webhooks.schedule(_notice(status, wamid, body, after), after)
        if plan.early is not None:
            await self.webhooks.post_now(_notice(plan.early, wamid, body, 0.0), _EARLY_PATIENCE_SECONDS)

    def write_to_us(self, wanted: Mapping[str, Any]) -> str:
        """`from` (digits), `text`, and `reply_to` (a wamid) when the message answers one of ours."""
        author, text, reply_to = wanted.get("from"), wanted.get("text"), wanted.get("reply_to")
        if not (isinstance(author, str) and author and isinstance(text, str)):
            raise ValueError('an inbound message needs "from" and "text", both texts')
        self._inbound += 1
        wamid = self._wamid(f"in{self._first + self._inbound}")
        message: dict[str, Any] = {"from": author, "id": wamid, "timestamp": str(int(time.time()))}
        message |= {"type": "text", "text": {"body": text}}
        if reply_to is not None:
            message["context"] = {"from": "15550783881", "id": str(reply_to)}
        self.webhooks.schedule(Notice("inbound", wamid, message), 0.0)
        return wamid

    def _pack(self, notices: Sequence[Notice]) -> tuple[bytes, Mapping[str, str]]:
        """One webhook body: statuses and messages in changes of their own, as Meta keeps them apart."""
        statuses = [_status(notice) for notice in notices if notice.name != "inbound"]
        messages = [notice.payload for notice in notices if notice.name == "inbound"]
        changes = [self._change({"statuses": statuses[i : i + 25]}) for i in range(0, len(statuses), 25)]
        changes += [self._change({"contacts": [_contact(each["from"])], "messages": [each]}) for each in messages]
        entries = [{"id": "102290129340398", "changes": changes[i : i + 2]} for i in range(0, len(changes), 2)]
        # Non-ASCII as \uXXXX and `/` as `\/`: what Meta sends, and what it signs.
        text = json.dumps({"object": "whatsapp_business_account", "entry": entries}, separators=(",", ":"))
        body = text.replace("/", "\\/").encode("ascii")
        signature = hmac.new(self._app_secret, body, hashlib.sha256).hexdigest()
        return body, {"Content-Type": "application/json", "X-Hub-Signature-256": f"sha256={signature}"}

    def _change(self, content: Mapping[str, Any]) -> dict[str, Any]:
        metadata = {"display_phone_number": "15550783881", "phone_number_id": self._account}
        return {"field": "messages", "value": {"messaging_product": "whatsapp", "metadata": metadata, **content}}

    def _wamid(self, name: str) -> str:
        inner = f"{self._account}:{self._mark}:{name}".encode()
        return "wamid.HBgL" + base64.urlsafe_b64encode(hashlib.sha256(inner).digest()[:9] + inner).decode()

    def _note(self, n: int, body: Mapping[str, Any], wamid: str | None, fate: Fate, status: int) -> None:
        self.log.call(
            n,
            account=self._account,
            recipient=_address(body).removeprefix("+"),
            provider_message_id=wamid,
            fate=fate,
            status=status,
            tracker=body.get("biz_opaque_callback_data"),
            text=body["text"]["body"] if body.get("type", "text") == "text" else "",
        )

    def _note_malformed(self, fate: Fate, status: int) -> None:
        """A call so malformed that it names no message."""
        self.log.call(
            self.log.take(), account=self._account, recipient="", provider_message_id=None, fate=fate, status=status
        )


def _validated(raw: bytes) -> dict[str, Any]:
    """The body of a call to /messages; raises the refusal Meta would answer."""
    try:
        body = orjson.loads(raw)
    except ValueError:
        body = None
    if not isinstance(body, dict) or body.get("messaging_product") != "whatsapp":
        raise Refused(400, 100, "(#100) Invalid parameter: messaging_product must be one of WHATSAPP")
    if body.get("status") == "read" and isinstance(body.get("message_id"), str):
        return body
    if not _address(body):
        raise Refused(400, 131008, "(#131008) Required parameter is missing: to")
    if not _ADDRESS.fullmatch(_address(body)):
        raise Refused(400, 131009, "(#131009) Parameter value is not valid: to")
    if len(str(body.get("biz_opaque_callback_data", ""))) > TRACKER_LIMIT:
        raise Refused(400, 100, "(#100) Param biz_opaque_callback_data must be at most 512 characters long.")
    kind = body.get("type", "text")
    if kind != "text" and kind not in _OTHER_TYPES:
        raise Refused(400, 131051, "(#131051) Message type unknown")
    if not isinstance(body.get(kind), dict):
        raise Refused(400, 131008, f"(#131008) Required parameter is missing: {kind}")
    if kind == "text":
        _validate_text(body["text"].get("body"))
    return body


def _validate_text(text: object) -> None:
    if not isinstance(text, str) or not text:
        raise Refused(400, 131008, "(#131008) Required parameter is missing: text.body")
    if len(text) > TEXT_LIMIT:
        raise Refused(400, 100, "(#100) Param text['body'] must be at most 4096 characters long.")


def _address(body: Mapping[str, Any]) -> str:
    address = body.get("to") or body.get("recipient")
    return address if isinstance(address, str) else ""


def _error(refused: Refused, headers: Mapping[str, str] | None = None) -> web.Response:
    error = {
        "message": refused.message,
        "type": "OAuthException",
        "code": refused.code,
        "fbtrace_id": "ASimulatedTrace",
    }
    return json_response({"error": error}, refused.status, headers)


def _notice(status: str, wamid: str, body: Mapping[str, Any], delay_ms: float) -> Notice:
    """Only what differs between receipts: thousands of them wait at a time, and `_status` builds the JSON when they are due."""
    seconds = int(time.time() + delay_ms / 1000)
    return Notice(status, wamid, (seconds, _address(body).removeprefix("+"), body.get("biz_opaque_callback_data")))


def _status(notice: Notice) -> dict[str, Any]:
    seconds, recipient, tracker = notice.payload
    status = {
        "id": notice.provider_message_id,
        "status": notice.name,
        "timestamp": str(seconds),
        "recipient_id": recipient,
    }
    if tracker is not None:
        status["biz_opaque_callback_data"] = tracker
    if notice.name == "failed":
        title = "Message undeliverable"
        href = "https://developers.facebook.com/docs/whatsapp/cloud-api/support/error-codes/"
        return status | {"errors": [{"code": 131026, "title": title, "message": title, "href": href}]}
    return status | {"pricing": {"billable": False, "pricing_model": "PMP", "type": "free_customer_service"}}


def _contact(wa_id: str) -> dict[str, Any]:
    return {"profile": {"name": "Zoë 🌻"}, "wa_id": wa_id}
