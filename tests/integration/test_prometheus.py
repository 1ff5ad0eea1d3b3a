"""dashboards/prometheus with a real Prometheus: rules and their unit tests; a stack that it finds, reads and misses.

Prometheus and promtool come from the Debian package `prometheus`, which .ci/run installs where it can; without it, these tests are skipped.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cli.dev_stack import compose
from stack import control
from stack.ports import free_port
from stack.state import DEAD, StackState, read_state
from stack.targets import targets_path
from tests.support.engine_harness import await_true
from tests.support.own_kafka import own_kafka
from tests.support.promql import plain
from tools.boards import BOARDS, DASHBOARDS

PROMETHEUS = DASHBOARDS / "prometheus"
RULES = sorted((PROMETHEUS / "rules").glob("*.yml"))
# Short intervals for a test. The rules keep their expressions.
FASTER = {
    r"(scrape|evaluation)_interval: 15s": r"\1_interval: 500ms",
    r"refresh_interval: 30s": "refresh_interval: 500ms",
    r"(alert: WorkerDown\n(?:.*\n){1}? +for:) 1m": r"\1 1s",
}

SERVER, PROMTOOL = (shutil.which(name) or "" for name in ("prometheus", "promtool"))

pytestmark = pytest.mark.skipif(
    not (SERVER and PROMTOOL),
    reason="needs prometheus and promtool: apt-get install prometheus",
)


class Scraped(NamedTuple):
    """A running stack, and the Prometheus that reads it."""

    folder: Path
    url: str

    def asked(self, path: str, **parameters: str) -> Any:
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=10) as answer:
            return json.load(answer)["data"]

    def value(self, expr: str) -> dict[str, float]:
        """Service -> the latest value."""
        found = self.asked("query", query=expr)["result"]
        return {each["metric"].get("service", ""): float(each["value"][1]) for each in found}

    def firing(self) -> dict[str, Any]:
        """Name and service of each alert that fires -> the alert."""
        alerts = self.asked("alerts")["alerts"]
        return {f"{a['labels']['alertname']} {a['labels'].get('service')}": a for a in alerts if a["state"] == "firing"}

    def stack(self) -> StackState:
        state = read_state(self.folder)
        assert state is not None
        return state


def promtool(*arguments: object) -> str:
    done = subprocess.run([PROMTOOL, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_configuration_and_the_rules_are_valid() -> None:
    promtool("check", "config", PROMETHEUS / "prometheus.yml")
    assert promtool("check", "rules", *RULES).count("SUCCESS") == len(RULES)


def test_every_alert_fires_when_it_should_and_only_then() -> None:
    """The unit tests of the rules; tests/unit/test_boards.py checks that each alert has both."""
    files = sorted((PROMETHEUS / "tests").glob("*.yml"))
    assert promtool("test", "rules", *files).count("SUCCESS") == len(files)


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scraped]:
    """`worker core` and the gateway under a supervisor, and Prometheus with the files of the repository and shorter intervals."""
    root = tmp_path_factory.mktemp("scraped")
    folder = root / ".chat4all" / "dev"
    config = root / "dashboards" / "prometheus"
    shutil.copytree(PROMETHEUS, config)
    for path in config.rglob("*.yml"):
        text = path.read_text(encoding="utf-8")
        for pattern, short in FASTER.items():
            text = re.sub(pattern, short, text)
        path.write_text(text, encoding="utf-8")
    with own_kafka(root) as kafka:
        url = kafka.service.settings["kafka_url"]
        plan = compose(folder)
        processes = [replace(each, restarts=False) for each in plan.processes if each.name in {"core", "gateway"}]
        settings = {**plan.settings, **kafka.service.settings, "partitions": 2}
        plan = replace(plan, servers=[], replaced={"kafka": url}, settings=settings, prepare=[], processes=processes)
        control.start(folder, plan)
        port = free_port()
        argv = ["--config.file", config / "prometheus.yml", "--storage.tsdb.path", root / "data"]
        with (root / "prometheus.log").open("wb") as log:
            server = subprocess.Popen(
                [SERVER, *map(str, argv), f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log
            )
        try:
            yield Scraped(folder, f"http://127.0.0.1:{port}")
        finally:
            server.send_signal(signal.SIGKILL)
            server.wait()
            control.stop(folder)


def answers(scraped: Scraped) -> bool:
    try:
        return scraped.value("up") == {"core": 1, "gateway": 1}
    except OSError:
        return False


def test_prometheus_finds_the_stack_reads_it_and_misses_what_stops(scraped: Scraped) -> None:
    await_true(lambda: answers(scraped), "two answers", 60)
    assert scraped.firing() == {}
    await_true(
        lambda: scraped.value('sum by (service) (chat4all_partitions{stage="core"})') == {"core": 2},
        "the partitions",
        60,
    )
    free = scraped.value("chat4all_data_free_bytes")
    assert set(free) == {"core"}  # a gateway has no data folder, and shows no 0 that would be an alert
    assert free["core"] > 2**20
    await_true(lambda: scraped.value('sum(chat4all:lag:records{stage="core"})') == {"": 0}, "the lag", 30)
    for name in BOARDS:
        for panel in json.loads((DASHBOARDS / f"grafana/{name}.json").read_text(encoding="utf-8"))["panels"]:
            for target in panel.get("targets", ()):
                if "expr" in target:
                    scraped.asked("query", query=plain(target["expr"]))  # an error of any kind is an HTTP error

    core = next(service for service in scraped.stack().services if service.name == "core")
    os.kill(core.pid, signal.SIGTERM)
    await_true(lambda: "WorkerDown core" in scraped.firing(), "the alert", 60)
    firing = scraped.firing()
    assert set(firing) == {"WorkerDown core"}
    assert firing["WorkerDown core"]["annotations"]["summary"] == "core does not answer"
    assert firing["WorkerDown core"]["annotations"]["runbook_url"] == "docs/operations.md#workerdown"
    assert next(service for service in scraped.stack().services if service.name == "core").status == DEAD

    control.stop(scraped.folder)
    assert not targets_path(scraped.folder).exists()
    await_true(lambda: scraped.asked("targets", state="active")["activeTargets"] == [], "no target", 30)
