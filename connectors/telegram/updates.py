"""Asks the Bot API for updates (getUpdates), for a bot without a webhook.

What enters: a position, which is the id of the next update and the time when it was made, "<id>@<Unix seconds>". What leaves: Polled, with
the items of each update as webhook.py reads them, or NotPolled. Guaranteed: raises nothing but cancellation; an update that cannot be
read is one unrecognised item; no sentence has the token or anything of an update.

The ids of a bot begin at random again after a week without updates, and Telegram keeps updates for 24 hours. So an id older than
FORGET_SECONDS says nothing any more, and all that Telegram has is new.
https://core.telegram.org/bots/api#getupdates
"""

from collections.abc import Callable

import orjson

from connectors.base import NotPolled, Polled
from connectors.http_calls import Answer, HttpCalls
from connectors.json_fields import Unexpected, node, optional_whole
from connectors.telegram import errors, webhook
from schemas.outcomes import RetryLater, Unknown

MOST_UPDATES = 100  # of one answer: Telegram's own limit
ANSWER_LIMIT = (
    32_000_000  # bytes of one answer: 100 of the largest messages, each a reply to another one, all of it escaped JSON
)
FORGET_SECONDS = 3 * 86_400
LONGEST_WAIT_SECONDS = 50  # Telegram's own limit
MORE_SECONDS = 15.0  # that a call may take beyond the longest wait
RETRY_SECONDS = 15.0  # after a refusal that only a person can end
_HEADERS = {"Content-Type": "application/json"}
_WEBHOOK_SET = (
    "a webhook is set for the bot, so Telegram gives no updates: delete it (call deleteWebhook of the Bot API), or unset "
    "CHAT4ALL_TELEGRAM_POLLING"
)
_OTHER_POLLER = (
    "another program asks for the updates of the bot with the same token, and what it gets is lost for us: stop it, or give it a bot of "
    "its own"
)


class UpdateCalls:
    """Calls getUpdates at `url`, which has the token, for one bot; `account` is the bot's id. Connections are of their own, because such a
    call waits for updates."""

    def __init__(self, *, url: str, token: str, account: str) -> None:
        self._url = url
        self._account = account
        self._calls = HttpCalls(
            channel=webhook.CHANNEL,
            secrets=(token,),
            error_details=errors.error_details,
            timeout_seconds=LONGEST_WAIT_SECONDS + MORE_SECONDS,
            connections=1,
            answer_limit=ANSWER_LIMIT,
        )

    async def poll(self, position: str, wait_seconds: int, now: Callable[[], int]) -> Polled | NotPolled:
        """One call; connectors/base.py (Polling) says the rest."""
        fields: dict[str, object] = {
            "limit": MOST_UPDATES,
            "timeout": min(wait_seconds, LONGEST_WAIT_SECONDS),
            "allowed_updates": webhook.KINDS,
        }
        offset = _offset(position, now())
        if offset is not None:
            fields["offset"] = offset
        answer = await self._calls.post(self._url, orjson.dumps(fields), _HEADERS, delivery_id="", attempt=0)
        if not isinstance(answer, Answer):
            return NotPolled("unavailable", f"no answer of Telegram: {answer.reason}")
        return _read(answer, self._account, position, now())

    async def close(self) -> None:
        await self._calls.close()


def _read(answer: Answer, account: str, position: str, received_at: int) -> Polled | NotPolled:
    body = answer.json()
    if answer.status != 200 or not isinstance(body, dict) or body.get("ok") is not True:
        return _refusal(answer)
    updates = body.get("result")
    if not isinstance(updates, list):
        return NotPolled("unreadable", "Telegram's answer has no list of updates: check CHAT4ALL_TELEGRAM_URL")
    ids = [found for found in map(_id, updates) if found is not None]
    if updates and not ids:
        return NotPolled("unreadable", "Telegram's updates have no ids: check CHAT4ALL_TELEGRAM_URL")
    items = tuple(webhook.read(update, account, received_at) for update in updates)
    # the last one, not the highest: the ids may have begun again
    return Polled(items, f"{ids[-1] + 1}@{received_at // 1000}" if ids else position)


def _refusal(answer: Answer) -> NotPolled:
    if answer.status == 409:
        if "webhook" in errors.description(answer).lower():
            return NotPolled("webhook_set", _WEBHOOK_SET, RETRY_SECONDS)
        return NotPolled("other_poller", _OTHER_POLLER, RETRY_SECONDS)
    if answer.status == 200:
        return NotPolled("unreadable", "the answer is not one of Telegram's: check CHAT4ALL_TELEGRAM_URL")
    found = errors.outcome(answer)
    if isinstance(found, Unknown):
        return NotPolled("unavailable", f"Telegram answered HTTP {answer.status}")
    if isinstance(found, RetryLater) and found.throttled:
        return NotPolled("throttled", found.reason, errors.retry_after(answer) or RETRY_SECONDS)
    return NotPolled("refused", found.reason, RETRY_SECONDS)


def _id(update: object) -> int | None:
    try:
        return optional_whole(node(update, "update"), "update_id")
    except Unexpected:
        return None


def _offset(position: str, now: int) -> int | None:
    """The id of the next update, None when it is not known or too old."""
    update_id, _, at = position.partition("@")
    if not (update_id.isdecimal() and at.isdecimal()):
        return None
    return int(update_id) if now // 1000 - int(at) < FORGET_SECONDS else None
