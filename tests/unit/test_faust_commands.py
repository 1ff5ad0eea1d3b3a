"""Faust's own command line on our stages: `faust -A pipelines.apps:STAGE ...`, as an operator types it. No Kafka is needed."""

import os
import shutil
import subprocess
from typing import Any

import orjson
import pytest

from pipelines.engine.names import app_id, changelog_topic
from pipelines.stages import BUILDERS, tables

SETTINGS = {"CHAT4ALL_KAFKA_URL": "127.0.0.1:1", "CHAT4ALL_TELEGRAM_TOKEN": "1:a"}


def faust(stage: str, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    command = shutil.which("faust")
    assert command is not None
    before, after = [a for a in arguments if a.startswith("-")], [a for a in arguments if not a.startswith("-")]
    return subprocess.run(
        [command, "-A", f"pipelines.apps:{stage}", *before, *after],
        env=os.environ | SETTINGS | settings,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def told(stage: str, command: str) -> list[dict[str, Any]]:
    done = faust(stage, "--json", command)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return list(orjson.loads(done.stdout))


@pytest.mark.parametrize("stage", sorted(BUILDERS))
def test_tables_lists_every_table_with_its_changelog(stage: str) -> None:
    expected = {table: f"changelog topic {changelog_topic(app_id(stage), table)}" for table in tables(stage)}
    assert {table["name"]: table["help"] for table in told(stage, "tables")} == expected


def test_agents_and_models_are_listed_too() -> None:
    [agent] = told("send", "agents")
    assert (agent["name"], agent["topic"]) == ("@send", "status-updates, deliveries.telegram")
    assert faust("match", "models").returncode == 0


def test_who_asks_for_what_is_not_there_gets_one_line() -> None:
    done = faust("pigeons", "tables")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        "no stage 'pigeons': faust -A pipelines.apps:STAGE with one of analyse, archive, match, route, send, track"
    ]
    done = faust("route", "tables", CHAT4ALL_KAFKA_URL="")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "CHAT4ALL_KAFKA_URL" in done.stderr
