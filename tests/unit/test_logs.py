"""The logs of a process: the call log has its own level and JSON lines, and unreadable requests and libraries write few lines."""

import json
import logging
import subprocess
import sys
import time

import pytest

from pipelines import logs
from tests.support.source_tree import REPOSITORY

BAD_REQUEST = """
import asyncio
from aiohttp import web
from pipelines import logs
from schemas.settings import Settings

logs.configure(Settings())

async def raising(_):
    raise ValueError("our fault with " + _.path_qs)

async def ask(port, target):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET " + target + b" HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
    print((await reader.readline()).split()[1].decode())
    writer.close()

async def main():
    runner = web.ServerRunner(web.Server(raising))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    for target in (b"/?token=hidden&odd=\\xff", b"/"):
        await ask(runner.addresses[0][1], target)
    await runner.cleanup()

asyncio.run(main())
"""


def test_a_request_that_is_no_http_leaves_no_url_in_the_log_and_our_own_faults_stay_there() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", BAD_REQUEST], cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=True
    )
    assert ran.stdout.split() == ["400", "500"]
    assert "hidden" not in ran.stderr
    assert "in raising" in ran.stderr
    assert "our fault" not in ran.stderr, "it may quote the request"


SCRIPT = """
import asyncio, sys
from connectors.call_log import CALL_LOG, LoggedCall
from pipelines import logs
from schemas.settings import Settings

logs.configure(Settings.model_validate({"exchange_log": sys.argv[1], "log_format": sys.argv[2], "log_level": "error"}))

async def calls():
    for status, error in ((200, None), (429, "429")):
        CALL_LOG.record(LoggedCall(started_at=0, duration_ms=1.5, channel="toy", delivery_id="d", attempt=1, method="POST",
                                  url="https://api.example.org/send", status=status, error=error, request_id=None))
    CALL_LOG.flush()

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


def test_what_a_library_says_ten_times_a_second_is_written_once_in_a_while_and_what_we_say_always() -> None:
    limited = logs.RateLimit(("aiokafka",), seconds=0.2)

    def passed(name: str, number: int) -> bool:
        return limited.filter(
            logging.LogRecord(name, logging.ERROR, "", 1, "Unable connect to node with id %s", (number,), None)
        )

    assert [passed("aiokafka.conn", number) for number in range(3)] == [True, False, False]
    assert [passed("pipelines.engine.fetch", number) for number in range(2)] == [True, True]
    time.sleep(0.25)
    assert passed("aiokafka.conn", 3)
