"""Access to the views of real workers: tokens, host names, masking, the log of who read what, and the separate port of probes."""

import base64
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest

from schemas.partitions import home_partition
from stack.ports import free_port
from tests.support.engine_harness import FULL_TOKEN, PARTITIONS, Toy, ask, await_true

WEB_TOKEN = "sees-masked-rows-of-tests"
KEYS = [f"k{number}" for number in range(12)]
PERSON = "internal:app:+5511955501234"


class Worker(NamedTuple):
    process: Any
    views: str
    probes: str

    def get(self, path: str, token: str | None = None, host: str | None = None) -> tuple[int, Any]:
        headers = {"Host": host} if host else {}
        request = urllib.request.Request(
            self.views + path, headers=headers | ({"Authorization": f"Bearer {token}"} if token else {})
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, orjson.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()


@pytest.fixture
def toy(kafka_url: str, unique: str, tmp_path: Path) -> Iterator[Toy]:
    made = Toy(kafka_url, unique, tmp_path)
    made.command = [sys.executable, "-m", "tests.support.hampered_worker", unique]
    made.extra = {"CHAT4ALL_LOG_LEVEL": "error", "CHAT4ALL_WEB_TOKEN": WEB_TOKEN}
    yield made
    made.stop()


def start(toy: Toy) -> Worker:
    port, probe_port = free_port(), free_port()
    process = toy.start_worker(environment={"CHAT4ALL_WEB_PORT": str(port), "CHAT4ALL_PROBE_PORT": str(probe_port)})
    return Worker(process, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{probe_port}")


def is_ready(worker: Worker) -> bool:
    try:
        return bool(ask(worker.probes, "/health")["ready"] and ask(worker.probes, "/health")["partitions"])
    except OSError:
        return False


def test_two_workers_with_tokens(toy: Toy) -> None:
    workers = [start(toy), start(toy)]
    await_true(lambda: all(map(is_ready, workers)), "both workers", 90)
    toy.produce([(key, b"secret-words of %s" % key.encode()) for key in (*KEYS, PERSON)])
    await_true(lambda: len(toy.outputs()) == len(KEYS) + 1, "every key", 30)
    owned = {number: each.views for each in workers for number in ask(each.probes, "/health")["partitions"]}
    for worker in workers:
        _says_nothing_without_a_token(worker)
        _asks_a_browser_for_a_password(worker)
        for key in KEYS:  # keys of both workers: the owner is asked with the caller's token
            owner = owned[home_partition(key, PARTITIONS)]
            assert worker.get(f"/tables/counts/{key}", FULL_TOKEN)[1]["row"] == {"n": 1}
            status, found = worker.get(f"/tables/counts/{key}", WEB_TOKEN)
            assert (status, found["row"], found["worker"]) == (200, {"n": "***"}, owner)
            assert worker.get(f"/routed/{key}", WEB_TOKEN) == (200, {"n": 1, "worker": owner})
        shown = worker.get("/tables/counts/?limit=1000", WEB_TOKEN)[1]["shown"]
        assert {each["key"] for each in shown} <= {*KEYS, "internal:app:***"}
        assert ask(worker.probes, "/health/live")["live"] is True
    assert workers[0].get(f"/tables/counts/{PERSON.replace('+', '%2B')}", WEB_TOKEN)[0] == 200
    for worker in workers:
        _is_told_who_read_what(toy.log(worker.process))


def _says_nothing_without_a_token(worker: Worker) -> None:
    for path in ("/tables/", "/tables/counts/k1", "/partitions/", "/exchanges/", "/router/counts/k1/", "/nothing"):
        for token in (None, "wrong", FULL_TOKEN[:-1]):
            status, answer = worker.get(path, token)
            assert (status, "CHAT4ALL_WEB_TOKEN" in answer) == (401, True), path
        status, answer = worker.get(path, FULL_TOKEN, host="evil.example:6066")
        assert (status, "CHAT4ALL_WEB_NAMES" in answer) == (403, True), path
    assert worker.get("/metrics", FULL_TOKEN)[0] == 404
    assert worker.get("/health", FULL_TOKEN)[0] == 404
    for path in ("/tables/", "/partitions/", "/exchanges/"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(worker.probes + path, timeout=10)


def _asks_a_browser_for_a_password(worker: Worker) -> None:
    """A browser gets pages, also for refusals, and may give the token as the password of HTTP Basic."""
    for headers, status, sentence in (
        ({}, 401, "CHAT4ALL_WEB_TOKEN"),
        ({"Authorization": basic(":wrong-token-of-tests")}, 401, "CHAT4ALL_WEB_TOKEN"),
        ({"Host": "evil.example"}, 403, "CHAT4ALL_WEB_NAMES"),
        ({"Authorization": basic(f"ana:{WEB_TOKEN}")}, 200, "are masked"),
        ({"Authorization": basic(f":{FULL_TOKEN}")}, 200, "You see texts and addresses"),
    ):
        request = urllib.request.Request(f"{worker.views}/tables/", headers={"Accept": "text/html", **headers})
        try:
            answer = urllib.request.urlopen(request, timeout=30)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            assert (answer.status, sentence in answer.read().decode()) == (status, True)
            assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
            assert (answer.headers.get("WWW-Authenticate") or "").startswith("Basic") is (status == 401)


def basic(text: str) -> str:
    return f"Basic {base64.b64encode(text.encode()).decode()}"


def _is_told_who_read_what(log: str) -> None:
    read = [line for line in log.splitlines() if "view read" in line]
    assert any("by=web_token" in line and "path=/tables/counts/k1 " in line and "status=200" in line for line in read)
    assert any("by=web_full_token" in line for line in read)
    assert any("no valid token" in line for line in log.splitlines())
    assert any("does not name this worker" in line for line in log.splitlines())
    assert [each for each in ("secret-words", "5511955501234", WEB_TOKEN, FULL_TOKEN) if each in log] == []


def test_on_this_machine_no_token_is_needed_and_everything_is_masked(toy: Toy) -> None:
    toy.extra = {}
    worker = start(toy)
    await_true(lambda: is_ready(worker), "the worker", 90)
    toy.produce([("k1", b"v")])
    await_true(lambda: len(toy.outputs()) == 1, "the record", 30)
    assert worker.get("/tables/counts/k1")[1]["row"] == {"n": "***"}
    assert worker.get("/tables/counts/k1", FULL_TOKEN)[1]["row"] == {"n": 1}
    assert worker.get("/tables/counts/k1", "wrong-token")[0] == 401
    assert worker.get("/exchanges/")[1] == []
    assert worker.get("/tables/", host="evil.example")[0] == 403
