"""Faust's own command line with our apps: `faust -A pipelines.faust_apps:NAME ...`. No Kafka is needed."""

import os
import shutil
import subprocess
from typing import Any

import orjson
import pytest

from pipelines.stages import APPS, tables

SETTINGS = {"CHAT4ALL_KAFKA_URL": "127.0.0.1:1", "CHAT4ALL_TELEGRAM_TOKEN": "1:a"}


def faust(app: str, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    command = shutil.which("faust")
    assert command is not None
    before, after = [a for a in arguments if a.startswith("-")], [a for a in arguments if not a.startswith("-")]
    return subprocess.run(
        [command, "-A", f"pipelines.faust_apps:{app}", *before, *after],
        env=os.environ | SETTINGS | settings,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def printed(app: str, command: str) -> list[dict[str, Any]]:
    done = faust(app, "--json", command)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return list(orjson.loads(done.stdout))


@pytest.mark.parametrize("app", sorted(APPS))
def test_tables_lists_every_table_with_its_changelog(app: str) -> None:
    """All tables of an app share one."""
    expected = dict.fromkeys(tables(app), f"changelog topic chat4all-{app}-changelog")
    assert {table["name"]: table["help"] for table in printed(app, "tables")} == expected


def test_agents_and_models_are_listed_too() -> None:
    agents = {agent["name"]: agent["topic"] for agent in printed("core", "agents")}
    assert agents == {
        "@route": "conversations, conversation-inbound, messages",
        "@match": "bindings, receipts, inbound",
        "@send": "status-updates, windows, deliveries.telegram",
        "@track": "status-updates, cursor-reports",
    }
    assert faust("archive", "models").returncode == 0


def test_an_unknown_app_is_one_line() -> None:
    done = faust("pigeons", "tables")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        "no app 'pigeons': faust -A pipelines.faust_apps:NAME with one of analyse, archive, core, register"
    ]
    done = faust("core", "tables", CHAT4ALL_KAFKA_URL="")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "CHAT4ALL_KAFKA_URL" in done.stderr
