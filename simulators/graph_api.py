"""What Meta's Graph API has in common for WhatsApp and Instagram: error answers, tokens, webhook bodies and signatures.

What enters: error codes, secrets, webhook values. What leaves: answers and signed bytes as Meta sends them: non-ASCII as \\uXXXX and `/`
as `\\/`, signed over exactly those bytes. Guaranteed: an error answer has Meta's envelope and the HTTP status documented for its code.
https://developers.facebook.com/docs/graph-api/guides/error-handling
https://developers.facebook.com/docs/whatsapp/cloud-api/support/error-codes
"""

import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from typing import Any

import orjson
from aiohttp import web

from simulators.provider import ProviderRefused, json_response
from simulators.webhook_sender import Webhooks

VERSION = r"/v\d+\.\d+"
HREF = "https://developers.facebook.com/docs/whatsapp/cloud-api/support/error-codes/"
# code -> HTTP status and title. A code that is not listed is a 400.
ERRORS: Mapping[int, tuple[int, str]] = {
    0: (401, "AuthException"),
    1: (400, "API Unknown"),
    2: (503, "Service temporarily unavailable"),
    3: (500, "Capability or permissions issue"),
    4: (429, "Application request limit reached"),
    10: (403, "Permission denied"),
    17: (400, "User request limit reached"),
    32: (400, "Page request limit reached"),
    33: (400, "Parameter value is not valid"),
    100: (400, "Invalid parameter"),
    190: (401, "Invalid OAuth access token"),
    200: (403, "Permissions error"),
    230: (403, "Permissions disallow message to user"),
    368: (403, "Temporarily blocked for policies violations"),
    551: (400, "This person isn't available right now."),
    613: (400, "Calls to this api have exceeded the rate limit."),
    803: (404, "Some of the aliases you requested do not exist"),
    1200: (500, "Temporary send message failure. Please try again later."),
    36000: (400, "The image size is too large"),
    80002: (429, "There have been too many calls to this Instagram account."),
    80006: (429, "There have been too many calls to this messenger account."),
    80007: (429, "Rate limit issues"),
    130429: (429, "Rate limit hit"),
    130472: (400, "User's number is part of an experiment"),
    130497: (403, "Business account is restricted from messaging users in this country."),
    131000: (500, "Something went wrong"),
    131005: (403, "Access denied"),
    131008: (400, "Required parameter is missing"),
    131009: (400, "Parameter value is not valid"),
    131016: (500, "Service unavailable"),
    131021: (400, "Recipient cannot be sender"),
    131026: (400, "Message undeliverable"),
    131030: (400, "Recipient phone number not in allowed list"),
    131031: (403, "Business Account locked"),
    131037: (400, "WhatsApp provided number needs display name approval before message can be sent"),
    131042: (400, "Business eligibility payment issue"),
    131045: (500, "Incorrect certificate"),
    131047: (400, "Re-engagement message"),
    131048: (429, "Spam Rate limit hit"),
    131049: (400, "This message was not delivered to maintain healthy ecosystem engagement."),
    131050: (400, "User has stopped marketing messages from your business"),
    131051: (400, "Unsupported message type"),
    131052: (400, "Media download error"),
    131053: (400, "Media upload error"),
    131056: (429, "(Business Account, Consumer Account) pair rate limit hit"),
    131057: (500, "Account in maintenance mode"),
    131062: (400, "Business-scoped User ID (BSUID) recipients are not supported for this message"),
    132000: (400, "Number of parameters does not match the expected number of params"),
    132001: (404, "Template name does not exist in the translation"),
    132005: (400, "Translated text too long"),
    132007: (400, "Template format character policy violated"),
    132012: (400, "Parameter format does not match format in the created template"),
    132015: (400, "Template is paused"),
    132016: (400, "Template is disabled"),
    132068: (400, "Flow is blocked"),
    132069: (400, "Flow is throttled"),
    133004: (503, "Server Temporarily Unavailable"),
    133010: (400, "Phone number not registered"),
    134011: (400, "WhatsApp Payments terms of service has not been accepted"),
    135000: (400, "Generic user error"),
    137000: (400, "Recipient identity key mismatch"),
}
_THROTTLES = frozenset({4, 17, 32, 613, 80002, 80006, 80007, 130429, 131048, 131056})
_TRANSIENT = frozenset({1, 2, 4, 1200, 131000, 131016, 131057, 133004})
_GRAPH_METHOD = frozenset({803})


def title(code: int) -> str:
    return ERRORS.get(code, (400, "Unknown error"))[1]


class GraphRefused(ProviderRefused):
    """An error answer of Meta. `details` goes into error_data for products that have it; `message` replaces the default message."""

    def __init__(
        self,
        code: int,
        details: str = "",
        *,
        subcode: int | None = None,
        message: str | None = None,
        status: int | None = None,
        kind: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message or title(code))
        self.code = code
        self.subcode = subcode
        self.status = status or ERRORS.get(code, (400, ""))[0]
        self.throttles = code in _THROTTLES
        self.message = message or f"(#{code}) {title(code)}"
        self.details = details
        self.kind = kind or ("GraphMethodException" if code in _GRAPH_METHOD else "OAuthException")
        self.headers = headers

    def error(self, product: str = "") -> dict[str, Any]:
        """The object `error`. With a `product` (the messaging product) it includes error_data."""
        error: dict[str, Any] = {"message": self.message, "type": self.kind, "code": self.code}
        if self.subcode is not None:
            error["error_subcode"] = self.subcode
        if self.code in _TRANSIENT:
            error["is_transient"] = True
        if product and self.details:
            error["error_data"] = {"messaging_product": product, "details": self.details}
        return error | {"fbtrace_id": "ASimulatedTraceOfMeta00"}

    def response(self) -> web.Response:
        return json_response({"error": self.error("whatsapp")}, self.status, self.headers)


def invalid(message: str) -> GraphRefused:
    """A parameter of the wrong shape, in the wording of the Graph API."""
    return GraphRefused(100, message, message=f"(#100) {message}")


def unknown_object(name: str) -> GraphRefused:
    """https://developers.facebook.com/docs/graph-api/guides/error-handling: code 803, or 100 with subcode 33."""
    return GraphRefused(803, message=f"(#803) Some of the aliases you requested do not exist: {name}")


def unsupported(method: str, name: str) -> GraphRefused:
    sentence = (
        f"Unsupported {method.lower()} request. Object with ID '{name}' does not exist, cannot be loaded due to missing "
        "permissions, or does not support this operation."
    )
    return GraphRefused(100, subcode=33, message=sentence, kind="GraphMethodException")


def authorise(given: str, token: str) -> None:
    """Raises Meta's error for a missing or unknown token."""
    if given == token:
        return
    if not given:
        raise GraphRefused(190, message="An access token is required to request this resource.")
    raise GraphRefused(190, message="Invalid OAuth access token - Cannot parse access token")


def token_of(request: web.BaseRequest) -> str:
    """The token of the bearer header, else of the query. https://developers.facebook.com/docs/graph-api/overview/access-tokens"""
    header = request.headers.get("Authorization", "")
    if header:
        kind, _, token = header.partition(" ")
        return token.strip() if kind.lower() == "bearer" else ""
    return request.query.get("access_token", "")


def signed(value: object, app_secret: bytes) -> tuple[bytes, dict[str, str]]:
    """A webhook body, escaped as Meta escapes it, and its headers."""
    body = orjson.dumps(value)
    if not body.isascii():
        body = json.dumps(value, separators=(",", ":")).encode("ascii")
    body = body.replace(b"/", b"\\/")
    return body, {
        "Content-Type": "application/json",
        "User-Agent": "facebookexternalua",
        "X-Hub-Signature": f"sha1={hmac.new(app_secret, body, hashlib.sha1).hexdigest()}",
        "X-Hub-Signature-256": f"sha256={hmac.new(app_secret, body, hashlib.sha256).hexdigest()}",
    }


def unreadable() -> GraphRefused:
    """The error for a body that is cut off, badly compressed or no form."""
    return GraphRefused(100, message="(#100) Invalid parameter: the body cannot be read")


def decoded(raw: bytes) -> dict[str, Any]:
    """The JSON object of a body; raises GraphRefused when the body is no JSON object."""
    try:
        body = orjson.loads(raw)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise GraphRefused(100, message="(#100) Invalid parameter: the body is no JSON object")
    return body


def unfold(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a form with the JSON texts of nested values decoded: the Graph API accepts both encodings everywhere."""
    unfolded: dict[str, Any] = {}
    for name, value in fields.items():
        unfolded[name] = value
        if isinstance(value, str) and value[:1] in "{[":
            try:
                unfolded[name] = orjson.loads(value)
            except ValueError:
                continue
    return unfolded


async def verify(webhooks: Webhooks, verify_token: str, challenge: str) -> dict[str, Any]:
    """Sends Meta's verification request to our webhook, as Meta does when an app subscribes.

    https://developers.facebook.com/docs/graph-api/webhooks/getting-started#verification-requests
    """
    query = {"hub.mode": "subscribe", "hub.challenge": challenge, "hub.verify_token": verify_token}
    status, text = await webhooks.poster.get(webhooks.url, query)
    return {"status": status, "verified": status == 200 and text == challenge}


_FIELDS = re.compile(r"\w+")
_NESTED = re.compile(r"\{[^{}]*\}|\.\w+\([^)]*\)")


def chosen(fields: str, known: Mapping[str, Any], always: str = "id") -> dict[str, Any]:
    """The fields of an object that ?fields= asks for, all of them when it is empty. Fields whose value is None are left out.

    Raises GraphRefused for a field that the object does not have.
    """
    names = _FIELDS.findall(_NESTED.sub("", fields))
    for name in names:
        if name not in known:
            raise GraphRefused(100, message=f"(#100) Tried accessing nonexisting field ({name})")
    wanted = {name for name in known if not names or name in names or name == always}
    return {name: known[name] for name in known if name in wanted and known[name] is not None}
