"""Rows over HTTP: any worker answers with the row of its owner, or with a sentence that says why it cannot yet."""

import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import orjson
import pytest

from schemas.partitions import home_partition
from stack.ports import free_port
from tests.support.engine_harness import PARTITIONS, Toy, await_true, count, whole

KEYS = [f"k{number}" for number in range(40)] + ["a/b c", "50%41?x=1&y#z", "Grüße/日本"]


class Worker(NamedTuple):
    process: Any
    url: str
    probes: str

    def get(self, path: str) -> tuple[int, Any]:
        """Status and JSON of a view, or of a probe."""
        url = self.probes if path.startswith("/health") else self.url
        try:
            with urllib.request.urlopen(whole(url + path), timeout=30) as answer:
                return answer.status, orjson.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, orjson.loads(error.read())

    def status(self) -> str:
        try:
            return str(self.get("/health")[1]["status"])
        except OSError:
            return "no answer"

    def health(self) -> Any:
        return self.get("/health")[1]

    def partitions(self) -> list[int]:
        return list(self.get("/health")[1]["partitions"])


def start(toy: Toy, *options: str, **settings: str) -> Worker:
    ports = {"web_port": str(free_port()), "probe_port": str(free_port())}
    environment = {f"CHAT4ALL_{name.upper()}": value for name, value in (ports | settings).items()}
    process = toy.start_worker(*options, environment=environment)
    return Worker(process, *(f"http://127.0.0.1:{port}" for port in ports.values()))


@pytest.fixture
def toy(kafka_url: str, unique: str, tmp_path: Path) -> Iterator[Toy]:
    made = Toy(kafka_url, unique, tmp_path)
    made.command = [sys.executable, "-m", "tests.support.hampered_worker", unique]
    yield made
    made.stop()


def two_workers(toy: Toy) -> tuple[Worker, Worker]:
    """Two workers with two partitions each, and a value for every key."""
    first, second = start(toy), start(toy)
    await_true(
        lambda: all(w.status() == "ready" and len(w.partitions()) == 2 for w in (first, second)), "two workers", 60
    )
    toy.produce([(key, f"v-{key}".encode()) for key in KEYS])
    await_true(lambda: len(toy.outputs()) == len(KEYS), "every key", 30)
    return first, second


def test_any_worker_answers_with_the_row_of_its_owner(toy: Toy) -> None:
    workers = two_workers(toy)
    owner = {number: worker.url for worker in workers for number in worker.partitions()}
    assert len(set(owner.values())) == 2
    for asked in workers:
        for key in KEYS:
            home = home_partition(key, PARTITIONS)
            row = {"table": "counts", "key": key, "partition": home, "row": {"n": 1}, "worker": owner[home]}
            assert asked.get(f"/tables/counts/{quote(key)}") == (200, row)
            # The key of this table is not the record's key: its owner is found nevertheless.
            status, found = asked.get(f"/tables/values/{quote(f'v-{key}')}")
            assert (status, found["partition"], found["worker"]) == (200, home, owner[home])
        # Faust's own routing: its decorator, its router's view.
        assert asked.get("/routed/k1") == (200, {"n": 1, "worker": owner[home_partition("k1", PARTITIONS)]})
        assert asked.get("/router/counts/k1/") == (200, owner[home_partition("k1", PARTITIONS)])
        assert asked.get("/tables/counts/nobody") == (404, {"error": "no row 'nobody' in table counts"})
        assert asked.get("/tables/values/nobody") == (404, {"error": "no row 'nobody' in table values"})
        status, answer = asked.get("/tables/pigeons/k1")
        assert (status, "no table 'pigeons' here" in answer["error"]) == (404, True)


def test_a_listing_pages_through_the_rows_of_a_worker(toy: Toy) -> None:
    first, second = two_workers(toy)
    found: dict[str, int] = {}
    for worker, other in ((first, second), (second, first)):
        path, sizes = "/tables/counts/?limit=7", []
        while path:
            status, page = worker.get(path)
            assert status == 200
            assert page["elsewhere"] == {str(number): other.url for number in other.partitions()}
            sizes.append(len(page["shown"]))
            found |= {entry["key"]: entry["partition"] for entry in page["shown"]}
            path = page["next"]
        assert sum(sizes) == sum(page["rows"].values())
        assert sizes[:-1] == [7] * (len(sizes) - 1)
        number = worker.partitions()[0]
        shown = worker.get(f"/tables/counts/?partition={number}&limit=1000")[1]["shown"]
        assert {entry["key"] for entry in shown} == {key for key in KEYS if home_partition(key, PARTITIONS) == number}
        status, answer = worker.get(f"/tables/counts/?partition={other.partitions()[0]}")
        assert (status, other.url in answer["error"]) == (404, True)
        assert {table["table"] for table in worker.get("/tables/")[1]} == {"counts", "values", "open"}
    assert found == {key: home_partition(key, PARTITIONS) for key in KEYS}
    for wrong in ("limit=0", "limit=1001", "skip=-1", "skip=100001", "limit=many"):
        status, answer = first.get(f"/tables/counts/?{wrong}")
        assert (status, "limit" in answer["error"]) == (400, True)


def test_faust_reads_the_rows_as_a_mapping_and_may_not_write(toy: Toy) -> None:
    worker = start(toy)
    await_true(lambda: worker.status() == "ready", "the worker", 60)
    toy.produce([("k0", b"a"), ("k0", b"b"), ("k1", b"c")])
    await_true(lambda: len(toy.outputs().get(b"k0", [])) == 2 and len(toy.outputs()) == 2, "every key", 30)
    status, seen = worker.get("/mapping/k0")
    refusal = "table counts is written only by its stage's turns, inside their transactions"
    assert (status, seen) == (
        200,
        {"len": 2, "items": {"k0": 2, "k1": 1}, "has": True, "keys": sorted(seen["keys"]), "refusal": refusal},
    )
    assert worker.get("/mapping/k9")[1]["has"] is False
    assert toy.table("counts") == {b"k0": b'{"n":2}', b"k1": b'{"n":1}'}


def test_rows_of_a_crashed_owner_are_unknown_until_they_are_taken_over(toy: Toy) -> None:
    first, second = two_workers(toy)
    lost = {key for key in KEYS if home_partition(key, PARTITIONS) in second.partitions()}
    second.process.send_signal(signal.SIGKILL)
    second.process.wait()
    for key in sorted(lost)[:3]:
        status, answer = first.get(f"/tables/counts/{quote(key)}")
        assert (status, second.url in answer["error"]) == (503, True), answer
        assert first.get(f"/tables/values/{quote(f'v-{key}')}")[0] == 503
    await_true(lambda: len(first.partitions()) == PARTITIONS, "the take-over", 60)
    for key in sorted(lost):
        assert first.get(f"/tables/counts/{quote(key)}")[0] == 200


def test_restoring_is_reported_with_its_progress_and_no_row_is_missing(toy: Toy) -> None:
    first = start(toy)
    await_true(lambda: first.status() == "ready", "the worker", 60)
    many = [f"r{number}" for number in range(600)]
    toy.produce([(key, b"v-%s" % key.encode()) for key in many])
    await_true(lambda: len(toy.outputs()) == len(many), "every key", 30)
    first.process.send_signal(signal.SIGTERM)
    first.process.wait()
    slow = start(toy, "--row-seconds", "0.005")
    shown: list[dict[str, Any]] = []
    states: set[str] = set()

    def restored() -> bool:
        try:
            status, health = slow.get("/health")
        except OSError:
            return False
        if health["status"] == "restoring":
            assert status == 503
            assert slow.get("/health/live")[0] == 200
            if health.get("restoring", {}).get("rows"):
                shown.append(health["restoring"])
                (counts, *_) = slow.get("/tables/?state=all")[1]
                states.update(each["state"] for each in counts["partitions"])
                answer = slow.get("/tables/counts/r1")
                assert answer[0] == 200 or "restoring" in answer[1]["error"], answer
        return bool(health["status"] == "ready")

    await_true(restored, "the restore", 60)
    assert slow.get("/health/ready")[0] == 200
    rows = [progress["rows"] for progress in shown]
    assert rows == sorted(rows)
    assert len(set(rows)) > 1
    assert all(progress["rows_per_second"] > 0 for progress in shown)
    assert shown[-1]["seconds_left"] < 60
    assert "restoring" in states <= {"restoring", "held"}
    (counts, *_) = slow.get("/tables/?state=here")[1]
    assert {each["state"] for each in counts["partitions"]} == {"held"}
    assert sum(each["rows"] for each in counts["partitions"]) == len(many)
    assert all(each["bytes"] > 0 and each["changelog_offset"] > 0 for each in counts["partitions"])
    assert slow.get("/tables/counts/r1")[1]["row"] == {"n": 1}


def test_a_worker_that_waits_for_a_database_is_stuck_but_live(toy: Toy, tmp_path: Path) -> None:
    waits = tmp_path / "database-is-unavailable"
    worker = start(toy, "--wait-for", str(waits), stuck_seconds="10")
    await_true(lambda: worker.status() == "ready", "the worker", 60)
    waits.touch()
    toy.produce([(f"k{number}", b"v%d" % number) for number in range(40)])
    await_true(lambda: all(each["turns"] for each in worker.get("/partitions/")[1]), "first turns", 30)
    toy.produce([(f"k{number}", b"w%d" % number) for number in range(40)])  # these wait behind the first ones
    await_true(
        lambda: worker.get("/health")[1].get("stuck") == worker.partitions(),
        "/health to report the stuck partitions",
        60,
    )
    assert worker.status() == "stuck"
    assert worker.get("/health")[0] == 503
    assert worker.get("/health/ready")[0] == 503
    assert worker.get("/health/live")[0] == 200
    waits.unlink()
    await_true(lambda: count(toy) == 80, "the worker to go on", 30)
    await_true(lambda: worker.status() == "ready", "the worker to say so", 30)
    assert worker.process.poll() is None


def test_who_holds_records_back_on_purpose_is_not_stuck(toy: Toy, tmp_path: Path) -> None:
    """As in send while an account is throttled: nothing is committed, and a restart would not help."""
    holds = tmp_path / "hold"
    holds.touch()
    worker = start(toy, "--hold", str(holds), stuck_seconds="10")
    await_true(lambda: worker.status() == "ready", "the worker", 60)
    toy.produce([(f"k{number}", b"v%d" % number) for number in range(40)])
    await_true(lambda: worker.health()["lag"] == 40, "the lag to be seen", 20)
    end = time.monotonic() + 20
    while time.monotonic() < end:
        assert (worker.process.poll(), worker.status()) == (None, "ready")
        time.sleep(0.5)
    holds.unlink()
    toy.produce([("k0", b"more")])
    await_true(lambda: worker.health()["lag"] == 0, "the rest to be done", 30)


def test_a_worker_that_is_stuck_without_a_reason_ends_and_logs_it(toy: Toy) -> None:
    worker = start(toy, "--deaf", stuck_seconds="10")
    await_true(lambda: worker.status() == "ready", "the worker", 60)
    toy.produce([(f"k{number}", b"v%d" % number) for number in range(40)])
    assert worker.process.wait(60) == 3
    assert "has lag and committed nothing for 10 s" in toy.log(worker.process)
