"""The outcomes of answers of the Telegram Bot API that are not a success.

What enters: an Answer. What leaves: RetryLater, Rejected or Unknown. Telegram has no error codes besides the HTTP status, so the
description decides among the refusals; its wording is the server's (https://github.com/tdlib/telegram-bot-api, Client.cpp). An error that
matches no entry is decided by the status and counted as unknown. Guaranteed: pure except for that counter; sentences are ours, because a
description may quote the text.
"""

import re

from connectors.error_classes import ErrorRule, configuration, permanent, throttle, to_outcome, transient
from connectors.http_calls import Answer, ErrorDetails
from connectors.json_fields import Node, Unexpected, child, node, whole
from schemas import metrics
from schemas.opt_out_policies import BLOCKED, NOT_RECEIVING
from schemas.outcomes import Rejected, RetryLater, Scope, Unknown

FETCH_WAIT_SECONDS = 10.0  # for a link that Telegram could not fetch
_NO_CHAT = permanent("Telegram knows no such chat, or the person never wrote to the bot")
_NO_RIGHTS = permanent("the bot may not write this in the chat: an administrator of the chat must allow it")
_NO_REPLY = permanent("the message to reply or react to does not exist")
_NO_FILE = permanent("Telegram knows no such file: send its link, or a file id that this bot received")
_NOT_FETCHED = transient("Telegram could not fetch the link of the media: check that it opens without a login")
_NO_MEDIA = permanent("the file behind the link is not media of this kind")
_PICTURE = permanent(
    "Telegram cannot use the image: width and height together at most 10,000, one at most 20 times the other"
)
_TOO_BIG = permanent("the file is too big for Telegram: by link at most 5 MB for a photo and 20 MB for other files")

# Fragment of the description, in lower case -> our code and its rule. The first fragment that matches decides.
_REFUSALS: tuple[tuple[str, str, ErrorRule], ...] = (
    ("chat not found", "chat_not_found", _NO_CHAT),
    ("user not found", "chat_not_found", _NO_CHAT),
    ("peer_id_invalid", "chat_not_found", _NO_CHAT),
    ("chat_id is empty", "chat_not_found", _NO_CHAT),
    (
        "message text is empty",
        "text_empty",
        permanent("the text is empty for Telegram (a text of only white space counts as empty)"),
    ),
    ("message is too long", "text_too_long", permanent("the text is over Telegram's 4096 UTF-16 code units")),
    ("caption is too long", "caption_too_long", permanent("the caption is over Telegram's 1024 UTF-16 code units")),
    ("can't parse entities", "entities_malformed", permanent("Telegram could not parse the formatting of the text")),
    ("to be replied not found", "reply_not_found", _NO_REPLY),
    ("message to reply not found", "reply_not_found", _NO_REPLY),
    ("message to react not found", "reply_not_found", _NO_REPLY),
    ("message_id_invalid", "reply_not_found", _NO_REPLY),
    (
        "reaction_invalid",
        "reaction_invalid",
        permanent("Telegram does not accept this emoji as a reaction in this chat"),
    ),
    ("reactions_too_many", "reaction_invalid", permanent("a bot may set only one reaction on a message")),
    ("file identifier", "file_unknown", _NO_FILE),
    ("file_reference", "file_unknown", _NO_FILE),
    (
        "temporarily unavailable",
        "file_unavailable",
        transient("Telegram says that the file is temporarily unavailable"),
    ),
    ("failed to get http url content", "url_not_fetched", _NOT_FETCHED),
    ("webpage_curl_failed", "url_not_fetched", _NOT_FETCHED),
    ("wrong type of the web page content", "media_wrong_type", _NO_MEDIA),
    ("webpage_media_empty", "media_wrong_type", _NO_MEDIA),
    ("wrong http url", "url_malformed", permanent("Telegram finds the link of the media malformed")),
    ("can't use file of type", "media_wrong_type", permanent("the file with this id is media of another kind")),
    ("type of file mismatch", "media_wrong_type", permanent("the file with this id is media of another kind")),
    ("photo_invalid_dimensions", "picture_unusable", _PICTURE),
    ("image_process_failed", "picture_unusable", _PICTURE),
    ("file is too big", "media_too_large", _TOO_BIG),
    ("file must be non-empty", "media_empty", permanent("the file is empty")),
    ("voice_messages_forbidden", "no_voice", permanent("the person accepts no voice messages")),
    ("location_invalid", "location_invalid", permanent("Telegram finds the location invalid")),
    ("wrong latitude", "location_invalid", permanent("Telegram finds the location invalid")),
    ("message thread not found", "topic_closed", permanent("the topic of the group no longer exists")),
    ("topic_closed", "topic_closed", permanent("the topic of the group is closed")),
    ("bot was blocked by the user", "blocked", permanent("the person blocked the bot", suppresses=BLOCKED)),
    (
        "user is deactivated",
        "deactivated",
        permanent("the person's Telegram account no longer exists", suppresses=NOT_RECEIVING),
    ),
    ("bot was kicked", "kicked", permanent("the bot was removed from the group or channel", suppresses=BLOCKED)),
    (
        "bot is not a member",
        "not_a_member",
        permanent("the bot is not a member of the group or channel", suppresses=BLOCKED),
    ),
    ("bot can't initiate conversation", "never_written", permanent("the person must write to the bot first")),
    ("bot can't send messages to the user", "never_written", permanent("the person must write to the bot first")),
    ("bot can't send messages to bots", "recipient_is_bot", permanent("the recipient is a bot")),
    ("group chat was deleted", "chat_deleted", permanent("the group no longer exists")),
    ("group chat was deactivated", "chat_deleted", permanent("the group no longer exists")),
    ("not enough rights", "no_rights", _NO_RIGHTS),
    ("no rights to send", "no_rights", _NO_RIGHTS),
    ("need administrator rights", "no_rights", _NO_RIGHTS),
    ("chat_write_forbidden", "no_rights", _NO_RIGHTS),
    ("chat_admin_required", "no_rights", _NO_RIGHTS),
    ("chat_restricted", "no_rights", _NO_RIGHTS),
    ("_forbidden", "no_rights", _NO_RIGHTS),  # CHAT_SEND_PHOTOS_FORBIDDEN and the like
    ("payment_required", "payment_required", permanent("the recipient accepts messages only for Telegram Stars")),
)
_STATUSES = {
    401: configuration("Telegram does not know the bot's token: set a valid CHAT4ALL_TELEGRAM_TOKEN"),
    404: configuration("Telegram knows no such bot or method: check CHAT4ALL_TELEGRAM_TOKEN and CHAT4ALL_TELEGRAM_URL"),
    409: configuration("another program uses the bot's token at the same time"),
    413: permanent("the request is too large for Telegram"),
    421: configuration("this Bot API server does not serve our bot: check CHAT4ALL_TELEGRAM_URL"),
    # The bot as a whole is limited: https://core.telegram.org/bots/faq#my-bot-is-hitting-limits-how-do-i-avoid-this
    429: throttle(Scope.ACCOUNT, "Telegram limits the bot's speed"),
}
_CODE = re.compile(r"[A-Z][A-Z0-9]*_[A-Z0-9_]{2,40}", re.ASCII)


def parameters(answer: Answer) -> Node:
    """The object `parameters` of an error, empty when it is missing."""
    try:
        return child(node(answer.json(), "answer"), "parameters")
    except Unexpected:
        return {}


def error_details(answer: Answer) -> ErrorDetails:
    """For the call log: the status and our code of the refusal, for an unknown one Telegram's own code if any. Calls have no ids."""
    status, description = _code_and_description(answer)
    if answer.status == 200 and description is None:
        return ErrorDetails()
    known = _known(description or "")
    code = _CODE.search(description or "")
    return ErrorDetails(f"{status}/{known[0]}" if known else f"{status}/{code[0]}" if code else str(status))


def outcome(answer: Answer) -> RetryLater | Rejected | Unknown:
    """The outcome of an answer that is not a success. Raises nothing."""
    status, description = _code_and_description(answer)
    if status in _STATUSES:
        return to_outcome(_STATUSES[status], str(status), retry_after(answer))
    if status in (400, 403) and description is not None:
        return _refusal(status, description)
    if 300 <= status < 500:  # a proxy before the Bot API answered, or an unknown error: the message was not accepted
        if description is not None:
            metrics.UNKNOWN_ERRORS.labels("telegram").inc()
        sentence = f"HTTP {status} without a known error of Telegram: check CHAT4ALL_TELEGRAM_URL"
        return to_outcome(configuration(sentence), f"http_{status}", None)
    return Unknown(f"Telegram answered HTTP {answer.status}: it may have accepted the message")


def description(answer: Answer) -> str:
    """Telegram's own sentence about an error, empty when the answer is not Telegram's. It is for decisions; it may quote the request."""
    return _code_and_description(answer)[1] or ""


def retry_after(answer: Answer) -> float | None:
    """Seconds of parameters.retry_after, else of the header; https://core.telegram.org/bots/api#responseparameters."""
    try:
        return float(max(0, min(whole(parameters(answer), "retry_after"), 86_400)))
    except Unexpected:
        return answer.retry_after()


def _code_and_description(answer: Answer) -> tuple[int, str | None]:
    """Error code and description; the HTTP status and None when the answer is not Telegram's own."""
    try:
        body = node(answer.json(), "answer")
        if body.get("ok") is not False:
            return answer.status, None
        description = body.get("description")
        return whole(body, "error_code"), description if isinstance(description, str) else ""
    except Unexpected:
        return answer.status, None


def _known(description: str) -> tuple[str, ErrorRule] | None:
    lower = description.lower()
    return next(((name, rule) for fragment, name, rule in _REFUSALS if fragment in lower), None)


def _refusal(status: int, description: str) -> RetryLater | Rejected:
    known = _known(description)
    if known is not None:
        return to_outcome(known[1], known[0], FETCH_WAIT_SECONDS)
    metrics.UNKNOWN_ERRORS.labels("telegram").inc()
    what = "this recipient" if status == 403 else "the request"
    return Rejected(str(status), f"Telegram refuses {what} with HTTP {status} and a description that we do not know")
