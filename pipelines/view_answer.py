"""The answer of a worker's view, and the question to another worker's view.

Enters: what a view found, or the URL of another worker. Leaves: status and body; the body is plain data, shown as JSON or as a page
(html_pages.py). Guaranteed: when another worker cannot be asked, the answer is 503 with a sentence, never a false "nothing".
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import aiohttp
import faust
import orjson
from yarl import URL

ASK_SECONDS = 8.0  # time-out of a request to another worker, which may have to search a changelog
RETRY_AFTER = {"Retry-After": "2"}  # seconds


class ViewAnswer(NamedTuple):
    status: int
    body: Any


def refused(status: int, sentence: str) -> ViewAnswer:
    return ViewAnswer(status, {"error": sentence})


def why_absent(app: faust.App) -> str:
    """Why a partition is neither here nor known to be elsewhere."""
    progress = app.engine.restoring
    if progress is not None:
        shown = progress.shown()
        return f"this worker is restoring, {shown['rows']} rows so far, {shown['seconds_left']} s left: ask again after that"
    return "the group's partitions are being assigned: ask again in a moment"


async def ask(
    app: faust.App, owner: URL, url: URL, partitions: Iterable[int], headers: Mapping[str, str]
) -> ViewAnswer:
    """What another worker answers, as JSON. Takes up to ASK_SECONDS. 503 when it does not answer, or refuses this worker."""
    named = sorted(partitions)
    timeout = aiohttp.ClientTimeout(total=ASK_SECONDS)
    try:
        async with app.http_client.get(url, headers=headers, timeout=timeout, allow_redirects=False) as response:
            answer = ViewAnswer(response.status, orjson.loads(await response.read()))
    except (aiohttp.ClientError, TimeoutError, orjson.JSONDecodeError) as error:
        return refused(
            503,
            f"{owner} owns partitions {named} and does not answer ({type(error).__name__}): if it has crashed, others take them over "
            f"after the session time-out of {app.conf.broker_session_timeout:.0f} s",
        )
    if answer.status in (401, 403):
        return refused(503, f"{owner} owns partitions {named} and refuses this worker: {answer.body.get('error', '')}")
    return answer
