"""`chat4all history` against a real PostgreSQL, as a person uses it."""

import json
import re
import shlex
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb
from rich.console import Console
from typer.testing import CliRunner, Result

from cli import history_commands, history_tables
from cli.history_commands import app
from tests.support.history_rows import MONTHS, add_messages
from tests.support.sink_databases import postgres_database

EVIL = "\x1b]0;title\x07\x9b31m \u202e consulta amanhã"


@pytest.fixture(scope="module")
def postgres(postgres_url: str) -> Iterator[str]:
    with postgres_database(postgres_url) as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("select create_month(%s::date)", (MONTHS[-1],))
            add_messages(connection, "acme", "-c 1", [(n, MONTHS[-1].replace(day=n)) for n in range(1, 28)])
            add_messages(connection, "acme", "evil", [(1, MONTHS[-1])])
            connection.execute(
                "update messages set text = %s, sender = %s where conversation_id = 'evil'", (EVIL, "\x1b[2Japp")
            )
            connection.execute(
                "insert into cursors (tenant_id, conversation_id, home_partition, member, version, last_read_seq, newest_seq, changed_at)"
                " values ('acme', '-c 1', 0, 'u1', 1, 7, 20, now())"
            )
            connection.execute("insert into participants values ('acme', 'u1', '-c 1')")
            connection.execute(
                "insert into dead_letters values ('acme', 'dl1', 'route', 'too_long', %s, 'messages', 0, 1, now(), %s, null, null, now())",
                (EVIL, b"\xff\x1b[31m"),
            )
            connection.execute(
                "insert into operator_actions values ('a1', 'erase', 'acme', 'root', %s, now())", (Jsonb({"n": 1}),)
            )
            connection.execute(
                "insert into suppressions values ('acme', 'telegram', 'bot', '77', true, 'opt-out', now())"
            )
        yield url


@pytest.fixture(autouse=True)
def _at_100_columns(postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAT4ALL_POSTGRES_URL", postgres)
    for module in (history_commands, history_tables):
        monkeypatch.setattr(module, "console", Console(width=100))


def chat4all_history(*arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments])


def printed(*arguments: str) -> str:
    """What the command prints, and nothing of it is wider than a terminal or controls one."""
    done = chat4all_history(*arguments, "--tenant", "acme")
    assert done.exit_code == 0, done.output
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", done.output)
    assert all(len(line) <= 100 for line in done.output.splitlines() if ": chat4all history " not in line)
    return done.output


def test_a_conversation_is_shown_page_by_page_with_the_command_of_the_next() -> None:
    arguments = ["conversation", "--newest-first", "--deliveries", "--limit", "10", "--tenant", "acme", "--", "-c 1"]
    sequences: list[int] = []
    for number in range(3):
        done = chat4all_history(*arguments)
        assert done.exit_code == 0, done.output
        assert ("27 messages, 6 of them inbound" in done.output) == (number == 0)
        assert bool(re.search(r"^u1\s+7\s+20", done.output, re.MULTILINE)) == (number == 0)
        sequences += map(int, re.findall(r"^(\d+)\s+2026-11-", done.output, re.MULTILINE))
        found = re.search(r"^next page: chat4all history (.*)$", done.output, re.MULTILINE)
        arguments = shlex.split(found[1]) if found else []
    assert sequences == list(range(27, 0, -1))
    assert arguments == []


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["conversation", "evil"], r"\ufffd.*consulta amanhã"),
        (["conversation", "evil", "--deliveries"], r"whatsapp:u1 DELIVERED"),
        (["person", "u1"], r"-c 1\s+u1\s+7"),
        (["search", "AMANHA", "--from", "2026-01-01", "--to", "2027-01-01"], r"evil.*consulta amanhã"),
        (["failed", "--from", "2026-11-01", "--to", "2027-01-01"], r"^5\s+FAILED\s+code-0\s+whatsapp"),
        (
            ["failed", "--from", "2026-11-01", "--to", "2027-01-01", "--status", "FAILED", "--code", "code-0"],
            r"-c 1-m3\s+whatsapp:u1\s+1\s+reason 0",
        ),
        (["dead-letters"], r"route\s+too_long\s+dl1\s+messages\[0\]@1"),
        (["dead-letter", "dl1", "--content"], r"\\xff\ufffd\[31m"),
        (["actions"], r'erase\s+root\s+\{"n": 1\}'),
        (["suppressions"], r"telegram:bot\s+77\s+no"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_page_is_readable_in_100_columns_and_controls_no_terminal(arguments: list[str], shown: str) -> None:
    assert re.search(shown, printed(*arguments), re.MULTILINE)


def test_json_holds_the_original_texts_in_ascii() -> None:
    found: Any = json.loads(printed("conversation", "evil", "--json"))
    assert [item["text"] for item in found["items"]] == [EVIL]
    assert (found["after"], found["conversation"]["messages"]) == (None, 1)
    letter = json.loads(printed("dead-letter", "dl1", "--content", "--json"))
    assert (letter["key"], letter["value"], letter["detail"]) == ("/xtbMzFt", None, EVIL)


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["conversation", "none"], 1, "no message of conversation none of tenant default in PostgreSQL"),
        (["person", "none"], 1, "no conversation of none, tenant default, in PostgreSQL"),
        (["search", "none"], 1, "no message of tenant default in PostgreSQL has these words"),
        (["failed"], 1, "no delivery of tenant default, accepted in this time, failed with this cause"),
        (["attempts", "none"], 1, "no attempt of delivery none of tenant default"),
        (["ignored"], 1, "no receipt of tenant default was ignored"),
        (["orphans"], 1, "no orphan receipt of tenant default"),
        (["dead-letter", "none"], 1, "no dead letter none of tenant default"),
        (["dead-letters", "--after", "x"], 2, "this cursor is not of this list: "),
        (["actions", "--limit", "0"], 2, "a page has 1 to 500 rows, not 0"),
        (["search", "--", "-word"], 2, "write at least one word that the messages must have"),
        (["search", "word", "--from", "soon"], 2, "'soon' is no time: write "),
        (["failed", "--from", "now", "--to", "-1h"], 2, "--from now is not before --to -1h"),
        (["failed", "--status", "LATE"], 2, "--status LATE: write FAILED, EXPIRED, CANCELLED, SUPPRESSED"),
        (["failed", "--code", "1"], 2, "--code, --channel and --after belong to a list: name its --status, too"),
        (["suppressions", "--tenant", "no tenant"], 2, "--tenant 'no tenant': write 1 to 64 letters"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_nothing_found_is_exit_code_1_and_a_wrong_question_2(arguments: list[str], code: int, sentence: str) -> None:
    done = chat4all_history(*arguments)
    assert (done.exit_code, done.stdout) == (code, "")
    [line] = done.stderr.splitlines()
    assert line.startswith(sentence)


def test_a_database_that_is_not_migrated_is_named(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with postgres_database(postgres_url, migrated=False) as url:
        monkeypatch.setenv("CHAT4ALL_POSTGRES_URL", url)
        done = chat4all_history("orphans")
    assert (done.exit_code, done.stderr) == (2, "PostgreSQL lacks our relations: run `python -m sinks.migrate`\n")
