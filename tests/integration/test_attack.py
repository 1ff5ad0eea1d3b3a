"""The short form of the attack on a gateway and on a worker's views: see tests/attack. The long form measures the good sender's rate."""

import asyncio
import sys
import urllib.request

import pytest

from stack.ports import free_port
from tests.attack.attack_run import SHORT, Views, attack_views, odd_answers, run
from tests.support.engine_harness import Toy, await_true


@pytest.mark.parametrize(
    ("way", "statuses", "findings"),
    [
        ("posts", {"401": 5, "429": 3, "0": 1}, []),
        ("posts", {"401": 5, "200": 1}, ["posts: answered [200]"]),
        ("posts", {"500": 1}, ["posts: answered [500]"]),
        ("posts", {"0": 5}, ["posts: never answered"]),
        ("posts", {}, ["posts: never answered"]),
        ("silent connections", {"0": 5}, []),
        ("gzip bombs", {"401": 1}, ["gzip bombs: answered [401]"]),
        ("replayed", {"200": 1}, []),
    ],
)
def test_an_attack_with_a_wrong_answer_or_none_is_a_finding(
    way: str, statuses: dict[str, int], findings: list[str]
) -> None:
    assert odd_answers({"way": way, "statuses": statuses}) == findings


@pytest.mark.timeout(180)
def test_the_gateway_bears_every_attack() -> None:
    report = run(seed=1, size=SHORT)
    print("\n".join(report.lines()))  # pytest shows it when the test fails
    assert report.findings == []
    assert len(report.ways) == 14
    assert report.attempts > 2_000
    assert report.attacked > 0


@pytest.mark.timeout(180)
def test_the_views_of_a_worker_answer_afterwards_as_before(toy: Toy) -> None:
    port, probe_port = free_port(), free_port()
    toy.command = [sys.executable, "-m", "tests.support.hampered_worker", toy.name]
    toy.start_worker(environment={"CHAT4ALL_WEB_PORT": str(port), "CHAT4ALL_PROBE_PORT": str(probe_port)})

    def is_ready() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{probe_port}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    await_true(is_ready, "the worker to be ready", 60)
    views = Views(f"http://127.0.0.1:{port}/partitions/")
    assert asyncio.run(attack_views(views, 1, SHORT, print)) == []
