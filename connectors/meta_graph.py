"""What the connectors of WhatsApp and Instagram share of Meta's Graph API: calls, the probe, and the proof that a webhook is Meta's.

What enters: a delivery and its body, or a webhook request. What leaves: the answer of POST /<version>/<account>/messages, or Forbidden.
Guaranteed: the token is in a header and in no URL; all calls share one connection pool.
https://developers.facebook.com/docs/graph-api/overview
"""

from collections.abc import Mapping, Sequence
from urllib.parse import quote

from connectors import meta_errors
from connectors.base import Forbidden, Probed, WebhookRequest
from connectors.http_calls import Answer, HttpCalls
from connectors.meta_errors import Table
from connectors.signatures import is_same, is_signed_by_meta, may_be_of_meta
from schemas.outcomes import Outcome, Rejected, RetryLater, Unknown
from schemas.records import Delivery

# Kinds that can be sent twice without a visible effect: a second read mark or reaction replaces the first.
_REPEATABLE = ("typing", "mark_read", "reaction")
_UNSIGNED = "X-Hub-Signature-256 does not match the body under any of our app secrets"


class MetaConnector:
    """Base of the connectors of Meta's channels; connectors/base.py has the contract of their methods.

    Sending needs `token`, webhooks need `app_secrets` and `verify_token`; the others may be empty. `app_secrets` are the valid secrets (two
    while one is being replaced), as a list or as a text separated by commas. `connections` is the most calls in flight.
    """

    channel: str
    signs_bodies = True

    def __init__(
        self,
        *,
        url: str,
        version: str,
        account: str,
        token: str = "",
        app_secrets: str | Sequence[str] = (),
        verify_token: str = "",
        timeout_seconds: float = 10.0,
        connections: int = 256,
    ) -> None:
        self._base = f"{url.rstrip('/')}/{version}"
        self._account = account
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        listed = app_secrets.split(",") if isinstance(app_secrets, str) else app_secrets
        self._app_secrets = tuple(secret.strip() for secret in listed if secret.strip())
        self._verify_token = verify_token
        self._calls = HttpCalls(
            channel=self.channel,
            secrets=(token,),
            error_details=meta_errors.error_details,
            timeout_seconds=timeout_seconds,
            connections=connections,
        )

    def challenge(self, request: WebhookRequest) -> str:
        """The answer (200, plain text) to Meta's verification request. Raises Forbidden for a wrong or empty verify token. Pure.

        https://developers.facebook.com/docs/graph-api/webhooks/getting-started#verification-requests
        """
        query = request.query
        known = is_same(query.get("hub.verify_token", ""), self._verify_token) and bool(self._verify_token)
        if query.get("hub.mode") != "subscribe" or not known:
            raise Forbidden("the verification request does not carry our verify token")
        return query.get("hub.challenge", "")

    async def close(self) -> None:
        await self._calls.close()

    async def _post(self, account: str, delivery: Delivery, body: bytes, attempt: int) -> Answer | RetryLater | Unknown:
        """One call for the account in the path; returns and raises as HttpCalls.post."""
        url = f"{self._base}/{quote(account, safe='')}/messages"
        return await self._calls.post(url, body, self._headers, delivery_id=delivery.delivery_id, attempt=attempt)

    async def _probe(self, asked: str, table: Table, name: str, *fields: str) -> Probed:
        """Reads `fields` of the object `asked`, which only our token may read; `name` is the channel's name for the sentence.

        https://developers.facebook.com/docs/graph-api/results#fields
        """
        url = f"{self._base}/{quote(asked, safe='')}?fields={','.join(fields)}"
        answer = await self._calls.get(url, self._headers)
        if not isinstance(answer, Answer):
            return Probed(False, answer.reason)
        check = f"check CHAT4ALL_{self.channel.upper()}_ACCOUNT, _URL and _VERSION"
        if answer.status != 200 or meta_errors.envelope(answer) is not None:
            outcome = meta_errors.outcome(answer, table, self.channel, 1)
            return Probed(False, f"{outcome.reason}; {check}" if isinstance(outcome, Rejected) else outcome.reason)
        found = answer.json()
        if not isinstance(found, dict) or "id" not in found:
            return Probed(False, f"{name} answered HTTP 200, but without an account: {check}")
        return Probed(
            True, f"{name} knows the account: " + ", ".join(str(found[each]) for each in fields if each in found)
        )

    def screen(self, headers: Mapping[str, str]) -> None:
        """Raises Forbidden for a header that is not in the form of a signature: no body can match it."""
        if not may_be_of_meta(headers.get("x-hub-signature-256")):
            raise Forbidden(_UNSIGNED)

    def _prove(self, request: WebhookRequest) -> None:
        """Raises Forbidden unless Meta signed the body with one of our app secrets."""
        if not is_signed_by_meta(request.body, request.headers.get("x-hub-signature-256"), self._app_secrets):
            raise Forbidden(_UNSIGNED)


def retry_if_harmless(outcome: Outcome, delivery: Delivery) -> Outcome:
    """The outcome; but RetryLater for an unknown one of a kind that can be sent twice without a visible effect."""
    if isinstance(outcome, Unknown) and delivery.kind in _REPEATABLE:
        return RetryLater(f"{outcome.reason}; a repetition does no harm", outcome.code)
    return outcome
