"""What a delivery that has not ended waits for, and until when.

In: its row in `outstanding`, and whether it is at the head of its lane. Out: a code, a sentence without anything personal, a time. Pure.
"""

from typing import NamedTuple

from tables.outstanding import Outstanding, Phase


class Wait(NamedTuple):
    """`until` in Unix milliseconds; None: nobody knows. `waits_for` is a code: answer, evidence, time, lane, retry, account or call."""

    waits_for: str
    why: str
    until: int | None


def wait_of(row: Outstanding, *, head: str | None, blocked_until: int | None, now: int) -> Wait:
    """`head` is the delivery id of its lane's head, None outside of a lane; `blocked_until` is when its account takes calls again."""
    if row.phase is Phase.CALLING:
        return Wait("answer", f"the provider's answer to attempt {row.attempt}", None)
    if row.phase is Phase.HELD:
        why = f"a receipt that shows what came of attempt {row.attempt}; without one it is sent again"
        return Wait("evidence", why, row.not_before)
    if row.is_scheduled:
        return Wait("time", "its time to be sent", row.not_before)
    if head is not None and head != row.delivery.delivery_id:
        return Wait("lane", f"the end of delivery {head}, the head of its lane", None)
    return _wait_of_head(row, blocked_until, now)


def _wait_of_head(row: Outstanding, blocked_until: int | None, now: int) -> Wait:
    if row.not_before > now:
        after = f", after {row.failures} that failed" if row.failures else ""
        return Wait("retry", f"the time of attempt {row.attempt + 1}{after}", row.not_before)
    if blocked_until is not None and blocked_until > now:
        return Wait("account", "its account, which takes no calls now", blocked_until)
    return Wait("call", "a free call", None)
