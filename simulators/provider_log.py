"""The simulator's log: every call a simulated provider received and every receipt it sent, in the order they happened.

What enters: calls and receipts. What leaves: JSON lines in a file (all of them) and pages of the newest ones (a ring buffer). Guaranteed: a
call is logged before it is answered; lines reach the file within FLUSH_SECONDS and at the end; `n` grows by one with each line and jumps
forward when a simulator starts again on the same file, so ids made from it never repeat.

A person got the message of a call exactly when its line has a provider_message_id (an album has one line, with its other ids in
`more_ids`). `text_key` is the id in brackets at the start of a text or caption: it identifies the message of a call independently of the
pipeline's own tracker. `kind` is the kind of message, or the method of a call that sends none.
"""

import asyncio
import re
import time
from collections import deque
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from schemas import private_files
from simulators.misbehaviour import CallOutcome

FLUSH_SECONDS = 0.05
RING = 100_000
_KEY = re.compile(r"\[([^\]\s]{1,128})\]")
_LEAP = 10_000  # more than the unwritten lines of a killed simulator
_N = re.compile(rb'^\{"n":(\d+),', re.MULTILINE)
_VERDICTS = {CallOutcome.LOST: "error", CallOutcome.FAULT: "error"}


def text_key(text: str) -> str | None:
    """The id in brackets at the start of a text, None when it starts with none."""
    match = _KEY.match(text)
    return match[1] if match else None


class Log:
    """The log of one simulator, for one event loop. Without a `path` only the ring buffer is kept."""

    def __init__(self, path: Path | None, *, ring: int = RING) -> None:
        self._lines: deque[bytes] = deque(maxlen=ring)
        self._unwritten: list[bytes] = []
        self._file = None
        self._n = 0
        if path is not None:
            private_files.make_folder(path.parent)  # it holds texts and addresses
            self._n, is_torn = _end_of(path)
            self._file = private_files.append_to(path)
            if is_torn:
                # A killed simulator left its last line half written. Readers skip that line.
                self._unwritten.append(b"\n")

    @property
    def lines(self) -> int:
        """The number of the newest line."""
        return self._n

    def take(self) -> int:
        """The number of the next line. The caller must write that line before it takes another number."""
        self._n += 1
        return self._n

    def call(
        self,
        n: int,
        *,
        account: str,
        recipient: str,
        provider_message_id: str | None,
        outcome: CallOutcome,
        status: int,
        tracker: str | None = None,
        text: str = "",
        kind: str = "text",
        more_ids: Sequence[str] = (),
    ) -> None:
        """Logs one call as line `n`. `status` is the HTTP status of its answer, 0 for none."""
        line = {
            "n": n,
            "at": _now(),
            "account": account,
            "recipient": recipient,
            "provider_message_id": provider_message_id,
            "verdict": _VERDICTS.get(outcome, str(outcome)),
            "status": status,
            "tracker": tracker,
            "text_key": text_key(text),
            "kind": kind,
        }
        if more_ids:
            line["more_ids"] = more_ids
        self._write(line)

    def receipt(self, name: str, provider_message_id: str, tries: int) -> None:
        """Logs one receipt that our webhook accepted at the `tries`-th try."""
        self._write(
            {
                "n": self.take(),
                "at": _now(),
                "receipt": name,
                "provider_message_id": provider_message_id,
                "tries": tries,
            }
        )

    def dropped(self, name: str, provider_message_id: str, why: str) -> None:
        """Logs one receipt that is not sent, or no longer: lost on purpose, expired, not subscribed."""
        self._write(
            {
                "n": self.take(),
                "at": _now(),
                "dropped": name,
                "provider_message_id": provider_message_id,
                "why": why,
            }
        )

    def page(self, after: int, limit: int) -> bytes:
        """Lines with n > after, oldest first, as JSON {"lines": [...], "first": n, "next": n}.

        `next` is the `after` of the following page. `first` is the oldest n in the ring: when it is greater than `after` + 1, only the
        file has the lines between.
        """
        first = self._n - len(self._lines) + 1
        start = max(after - first + 1, 0)
        lines = list(islice(self._lines, start, start + limit))
        following = max(after, first + start + len(lines) - 1) if lines else max(after, 0)
        return b'{"lines":[%b],"first":%d,"next":%d}' % (b",".join(lines), first, following)

    def flush(self) -> None:
        """Writes all lines that wait. Blocks on the disk."""
        if self._file is not None and self._unwritten:
            unwritten, self._unwritten = self._unwritten, []
            self._file.write(b"".join(unwritten))

    async def keep_flushing(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            self.flush()

    def close(self) -> None:
        self.flush()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, line: dict[str, Any]) -> None:
        # A copy of the exact size: the bytes that orjson returns keep a buffer of ten times a line.
        encoded = b"%b\n" % orjson.dumps(line)
        self._lines.append(encoded)
        if self._file is not None:
            self._unwritten.append(encoded)


def _now() -> int:
    return time.time_ns() // 1_000_000


def _end_of(path: Path) -> tuple[int, bool]:
    """The n to continue from (0 for a new file), and whether the last line is incomplete."""
    if not path.exists():
        return 0, False
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - 65_536, 0))
        end = file.read()
    highest = max((int(n) for n in _N.findall(end)), default=0)
    return (highest + _LEAP if highest else 0), bool(end) and not end.endswith(b"\n")
