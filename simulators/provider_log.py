"""The witness: every call a simulated provider received and every receipt it sent, in the order they happened.

What enters: calls and receipts. What leaves: JSON lines in a file (all of them) and pages of the newest ones (a ring). Guaranteed: a
call is noted when it arrives, before it is answered; lines reach the file within FLUSH_SECONDS and at the end; `n` grows by one a line
and leaps forward when a simulator starts again on the same file, so ids made from it never repeat.

A person got the message of a call exactly when its line has a provider_message_id (an album has one line, its further ids in
`more_ids`). `text_key` is the id in brackets a text or caption starts with: it says which message a call was without asking the
pipeline's own tracker. `kind` is what was sent, or the method of a call that sends nothing.
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
from simulators.misbehaviour import Fate

FLUSH_SECONDS = 0.05
RING = 100_000
_KEY = re.compile(r"\[([^\]\s]{1,128})\]")
_LEAP = 10_000  # more lines than a killed simulator can have held unwritten
_N = re.compile(rb'^\{"n":(\d+),', re.MULTILINE)
_VERDICTS = {Fate.LOST: "error", Fate.FAULT: "error"}


def text_key(text: str) -> str | None:
    """The id in brackets at the start of a text, None when it starts with none."""
    match = _KEY.match(text)
    return match[1] if match else None


class Log:
    """`path` None keeps the ring only."""

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
                self._unwritten.append(
                    b"\n"
                )  # a killed simulator left its last line half written: readers skip that one

    @property
    def lines(self) -> int:
        """The number of the newest line."""
        return self._n

    def take(self) -> int:
        """The number of the next line; the caller writes that line before it takes another."""
        self._n += 1
        return self._n

    def call(
        self,
        n: int,
        *,
        account: str,
        recipient: str,
        provider_message_id: str | None,
        fate: Fate,
        status: int,
        tracker: str | None = None,
        text: str = "",
        kind: str = "text",
        more_ids: Sequence[str] = (),
    ) -> None:
        """One call; `status` is the HTTP status of its answer, 0 for none."""
        line = {
            "n": n,
            "at": _now(),
            "account": account,
            "recipient": recipient,
            "provider_message_id": provider_message_id,
            "verdict": _VERDICTS.get(fate, str(fate)),
            "status": status,
            "tracker": tracker,
            "text_key": text_key(text),
            "kind": kind,
        }
        if more_ids:
            line["more_ids"] = more_ids
        self._write(line)

    def receipt(self, name: str, provider_message_id: str, tries: int) -> None:
        """One receipt that our webhook took, at the `tries`-th try."""
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
        """One receipt that will never be taken: lost on purpose, or expired."""
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
        """Lines with n > after, oldest first, as JSON {"lines": [...], "next": n}; `next` is the `after` of the following page.

        `first` is the oldest n still in the ring: greater than `after` + 1, lines were missed and only the file has them.
        """
        first = self._n - len(self._lines) + 1
        start = max(after - first + 1, 0)
        lines = list(islice(self._lines, start, start + limit))
        following = max(after, first + start + len(lines) - 1) if lines else max(after, 0)
        return b'{"lines":[%b],"first":%d,"next":%d}' % (b",".join(lines), first, following)

    def flush(self) -> None:
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
        # A copy of its own size: what orjson returns keeps its roomy buffer, ten times a line, as long as it lives.
        encoded = b"%b\n" % orjson.dumps(line)
        self._lines.append(encoded)
        if self._file is not None:
            self._unwritten.append(encoded)


def _now() -> int:
    return time.time_ns() // 1_000_000


def _end_of(path: Path) -> tuple[int, bool]:
    """The n to go on from (0 for a new file), and whether the last line was cut off."""
    if not path.exists():
        return 0, False
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - 65_536, 0))
        end = file.read()
    highest = max((int(n) for n in _N.findall(end)), default=0)
    return (highest + _LEAP if highest else 0), bool(end) and not end.endswith(b"\n")
