"""The log of a process whose code raises: the exception's type and place, and no data, in each process and in both formats."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from stack.ports import free_port
from tests.support.raising_process import BOT_TOKEN, DATABASE, HOOK_SECRET, SECRETS
from tests.support.source_tree import REPOSITORY

LONGEST = 30_000  # bytes of log for all exceptions
UPDATE = b'{"update_id": 1}'


@contextlib.contextmanager
def process(part: str, log_format: str, port: int) -> Iterator["subprocess.Popen[str]"]:
    settings = {
        "kafka_url": "127.0.0.1:1",
        "postgres_url": DATABASE,
        "clickhouse_url": "http://chat4all:database-password-of-nobody@127.0.0.1:1/chat4all",
        "telegram_token": BOT_TOKEN,
        "telegram_webhook_secret": HOOK_SECRET,
        "tracker_keys": "k" * 32,
        "log_format": log_format,
        "web_port": "0",
        "probe_port": "0",
        "gateway_port": str(port),
    }
    environment = os.environ | {f"CHAT4ALL_{name.upper()}": value for name, value in settings.items()}
    command = [sys.executable, "-m", "tests.support.raising_process", part, str(port)]
    with subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as started:
        try:
            yield started
        finally:
            started.kill()


def post(port: int, path: str) -> int:
    """The status of the answer, as soon as the server listens."""
    headers = {"Content-Type": "application/json", "X-Telegram-Bot-Api-Secret-Token": HOOK_SECRET}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", UPDATE, headers)
    deadline = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def judged(out: str, err: str) -> None:
    discreet(out, err)
    assert "ValueError" in err, "the cause of the exception"
    assert "in raises" in err, "where it was raised"


def discreet(out: str, err: str) -> None:
    assert [secret for secret in SECRETS if secret in out + err] == []
    assert "LookupError" in err
    assert "raises" in err, "where it was raised"
    assert len(err) < LONGEST


@pytest.mark.parametrize("log_format", ["console", "json"])
@pytest.mark.parametrize("part", ["core", "sinks", "prepare"])
def test_a_worker_that_ends_logs_the_place_and_no_data(part: str, log_format: str) -> None:
    with process(part, log_format, 0) as ended:
        out, err = ended.communicate(timeout=60)
    assert ended.returncode != 0
    judged(out, err)
    if log_format == "json":
        lines = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
        assert all(isinstance(line.get("exception", ""), str) for line in lines)
        assert any("in raises" in line.get("exception", "") for line in lines)


@pytest.mark.parametrize("log_format", ["console", "json"])
@pytest.mark.parametrize(
    ("part", "path", "status"),
    [("gateway", "/webhooks/telegram", 503), ("simulators", f"/bot{BOT_TOKEN}/getMe", 500)],
    ids=["gateway", "simulators"],
)
def test_a_server_that_fails_at_a_request_logs_the_place_and_no_data(
    part: str, path: str, status: int, log_format: str
) -> None:
    port = free_port()
    with process(part, log_format, port) as serving:
        assert post(port, path) == status
        serving.send_signal(signal.SIGTERM)
        out, err = serving.communicate(timeout=30)
    # any sender can cause the gateway's errors: type and place are enough
    judge = discreet if part == "gateway" else judged
    judge(out, err)


BROKEN = """
import asyncio, resource, sys, time
from connectors.telegram.connector import TelegramConnector
from pipelines import logs
from pipelines.gateway import Gateway
from pipelines.serving import listener
from schemas.settings import Settings
from tests.support.raising_process import BOT_TOKEN, HOOK_SECRET, TEXT

TIMES = 50
HEAD = b"POST /webhooks/telegram?token=hook-secret-of-nobody HTTP/1.1\\r\\nHost: localhost\\r\\n"
HEAD += b"Connection: close\\r\\nContent-Encoding: gzip\\r\\n"

class Nothing:
    async def close(self): ...

async def post(port, body):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(HEAD + b"Content-Length: %d\\r\\n\\r\\n" % len(body))
    await writer.drain()
    writer.write(body)
    status = (await reader.readline()).split()[1]
    await reader.read()
    writer.close()
    return status

async def main():
    logs.configure(Settings())
    telegram = TelegramConnector(url="http://127.0.0.1:1", token=BOT_TOKEN, webhook_secret=HOOK_SECRET)
    gateway = Gateway(connectors={"telegram": telegram}, producer=Nothing(), partitions=1)
    async with listener.bounded(gateway.app, gateway.limits, "127.0.0.1", 0) as port:
        await post(port, TEXT.encode())
        began = time.process_time()
        statuses = {await post(port, TEXT.encode()) for _ in range(TIMES)}
        print(*(status.decode() for status in statuses), (time.process_time() - began) / TIMES)

asyncio.run(main())
"""


def test_a_body_that_cannot_be_read_costs_a_line_and_about_a_millisecond() -> None:
    """One unsigned post with a broken gzip header cost 0.9 s and 48 KB of log, with the text and every secret in it."""
    ran = subprocess.run(
        [sys.executable, "-c", BROKEN], cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=True
    )
    status, seconds = ran.stdout.split()
    assert status.startswith("4")
    assert len(ran.stderr.splitlines()) <= 51
    assert [secret for secret in SECRETS if secret in ran.stderr] == []
    assert float(seconds) < 0.005, "CPU of client and server together"
