"""The exchange log of a process: its own level, its own lines, whatever the rest of the log looks like."""

import json
import subprocess
import sys

import pytest

from tests.unit.source_tree import REPOSITORY

SCRIPT = """
import asyncio, sys
from connectors.exchange_log import EXCHANGES, Exchange
from pipelines import logs
from schemas.settings import Settings

logs.configure(Settings.model_validate({"exchange_log": sys.argv[1], "log_format": sys.argv[2], "log_level": "error"}))

async def calls():
    for status, error in ((200, None), (429, "429")):
        EXCHANGES.record(Exchange(started_at=0, duration_ms=1.5, channel="toy", delivery_id="d", attempt=1, method="POST",
                                  url="https://api.example.org/send", status=status, error=error, request_id=None))
    EXCHANGES.flush()

asyncio.run(calls())
"""


@pytest.mark.parametrize("log_format", ["console", "json"])
@pytest.mark.parametrize(("wanted", "statuses"), [("all", [200, 429]), ("failures", [429]), ("none", [])])
def test_the_exchange_log_has_a_level_of_its_own(wanted: str, statuses: list[int], log_format: str) -> None:
    command = [sys.executable, "-c", SCRIPT, wanted, log_format]
    ran = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=True)
    lines = [json.loads(line) for line in ran.stderr.splitlines()]
    assert [line["status"] for line in lines] == statuses
    assert {line["started"] for line in lines} <= {"1970-01-01T00:00:00.000Z"}
