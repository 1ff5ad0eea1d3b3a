"""What the Telegram Bot API means by an answer that is not a success.

What enters: an Answer. What leaves: RetryLater, Rejected or Unknown. Telegram has no error codes beyond the HTTP status, so the
description decides among the refusals; its wording is the server's (https://github.com/tdlib/telegram-bot-api). Sentences are ours:
a description may quote the text.
"""

from connectors.exchange import Answer, Told
from connectors.shape import Node, Unexpected, child, node, whole
from schemas import metrics
from schemas.outcomes import Rejected, RetryLater, Scope, Unknown

CONFIGURATION_WAIT_SECONDS = 60.0

# Fragment of the lower-cased description -> our code and sentence. The first that fits decides.
_REFUSALS: tuple[tuple[str, str, str], ...] = (
    ("chat not found", "chat_not_found", "Telegram knows no such chat, or the person never wrote to the bot"),
    ("message text is empty", "text_empty", "the text is empty for Telegram (white space alone counts as empty)"),
    ("message is too long", "text_too_long", "the text is over Telegram's 4096 UTF-16 code units"),
    ("can't parse entities", "entities_malformed", "Telegram could not parse the formatting of the text"),
    ("peer_id_invalid", "chat_not_found", "Telegram knows no such chat, or the person never wrote to the bot"),
    ("message to be replied not found", "reply_not_found", "the message to reply to no longer exists"),
    ("message to reply not found", "reply_not_found", "the message to reply to no longer exists"),
    ("wrong file identifier", "file_unknown", "Telegram knows no such file"),
    ("bot was blocked by the user", "blocked", "the person blocked the bot"),
    ("user is deactivated", "deactivated", "the person's Telegram account no longer exists"),
    ("bot was kicked", "kicked", "the bot was removed from the group or channel"),
    ("bot is not a member", "not_a_member", "the bot is no member of the group or channel"),
    ("bot can't initiate conversation", "never_written", "the person must write to the bot first"),
    ("bot can't send messages to bots", "recipient_is_bot", "the recipient is a bot itself"),
    ("group chat was deleted", "chat_deleted", "the group no longer exists"),
    ("not enough rights", "no_rights", "the bot may not write in this chat"),
    ("have no rights to send", "no_rights", "the bot may not write in this chat"),
    ("chat_write_forbidden", "no_rights", "the bot may not write in this chat"),
)
_CONFIGURATION = {
    401: "Telegram does not know the bot's token: set a valid CHAT4ALL_TELEGRAM_TOKEN",
    404: "Telegram knows no such bot or method: check CHAT4ALL_TELEGRAM_TOKEN and CHAT4ALL_TELEGRAM_URL",
    409: "another program uses the bot's token in a conflicting way",
    421: "this Bot API server does not serve our bot: check CHAT4ALL_TELEGRAM_URL",
}


def parameters(answer: Answer) -> Node:
    """The object `parameters` of an error, empty when there is none."""
    try:
        return child(node(answer.json(), "answer"), "parameters")
    except Unexpected:
        return {}


def told(answer: Answer) -> Told:
    """For the exchange log. Telegram gives calls no ids."""
    code, description = _told(answer)
    return Told() if answer.status == 200 and description is None else Told(str(code))


def outcome(answer: Answer) -> RetryLater | Rejected | Unknown:
    """What an answer without success means."""
    code, description = _told(answer)
    if code == 429:
        return RetryLater(
            "Telegram limits the bot's speed", "429", _retry_after(answer), throttled=True, scope=Scope.ACCOUNT
        )
    if code in _CONFIGURATION:
        return RetryLater(
            _CONFIGURATION[code], str(code), CONFIGURATION_WAIT_SECONDS, throttled=False, scope=Scope.ACCOUNT
        )
    if code == 413:
        return Rejected("413", "the request is too large for Telegram")
    if code in (400, 403) and description is not None:
        return _refusal(code, description)
    if 300 <= code < 500:
        # Something before the Bot API answered; the bot's message was not taken.
        sentence = f"HTTP {code} without Telegram's own error: check CHAT4ALL_TELEGRAM_URL"
        return RetryLater(sentence, f"http_{code}", CONFIGURATION_WAIT_SECONDS, scope=Scope.ACCOUNT)
    return Unknown(f"Telegram answered HTTP {answer.status}: it may have taken the message")


def _told(answer: Answer) -> tuple[int, str | None]:
    """Error code and lower-cased description; the HTTP status and None when the answer is not Telegram's own."""
    try:
        body = node(answer.json(), "answer")
        if body.get("ok") is not False:
            return answer.status, None
        description = body.get("description")
        return whole(body, "error_code"), description.lower() if isinstance(description, str) else ""
    except Unexpected:
        return answer.status, None


def _refusal(code: int, description: str) -> RetryLater | Rejected:
    if "failed to get http url content" in description:
        return RetryLater("Telegram could not fetch the media of the message", "url_not_fetched", 10.0)
    for fragment, name, sentence in _REFUSALS:
        if fragment in description:
            return Rejected(name, sentence)
    metrics.UNKNOWN_ERRORS.labels("telegram").inc()
    who = "this recipient" if code == 403 else "the request"
    return Rejected(str(code), f"Telegram refuses {who} with HTTP {code}, in words we do not know")


def _retry_after(answer: Answer) -> float | None:
    """parameters.retry_after, else the header; https://core.telegram.org/bots/api#responseparameters."""
    try:
        return float(max(0, min(whole(parameters(answer), "retry_after"), 86_400)))
    except Unexpected:
        return answer.retry_after()
