"""What a log says of an exception, and that a configured secret is masked everywhere."""

import asyncio
import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
import structlog

from pipelines.engine.stage import Decision, Record, Refusal
from pipelines.engine.turn_metrics import count_turn
from schemas.redaction import redactor
from schemas.settings import MissingSetting, Settings
from schemas.tracebacks import (
    LONGEST,
    Discreet,
    LogOutput,
    Plain,
    described_error,
    formatted,
    unquoted,
    where_all_stand,
)
from sinks.sink_errors import sentence
from stack.plan import StackPlan
from stack.supervisor import Supervisor
from tests.support.source_tree import REPOSITORY, ROOMS, modules

VALUE = "Grüße an +55 11 95550 1234"
TOKEN = "7310256241:AAF-redacted-everywhere"
PASSWORD = "database-pass/word"
SETTINGS = Settings.model_validate(
    {
        "telegram_token": TOKEN,
        "whatsapp_app_secrets": 'first-"app"-secret, second-app-secret',
        "postgres_url": f"postgresql://chat4all:{quote(PASSWORD, safe='')}@127.0.0.1:5432/chat4all",
        "pigeon_token": "not of a channel",
    }
)


def raised(error: Exception) -> Exception:
    value = VALUE
    with pytest.raises(type(error)) as caught:
        raise error
    assert value
    return caught.value


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError(VALUE), "ValueError"),
        (KeyError(VALUE), "KeyError"),
        (json.JSONDecodeError(VALUE, VALUE, 0), "json.decoder.JSONDecodeError"),
        (MissingSetting("not configured: set X"), "schemas.settings.MissingSetting: not configured: set X"),
        (ConnectionRefusedError(111, VALUE), "ConnectionRefusedError: [Errno 111] Connection refused"),
        (OSError(VALUE), "OSError"),
        (OSError(VALUE, VALUE), "OSError"),  # OSError accepts any object as its errno
        (psycopg.errors.UniqueViolation(VALUE), "psycopg.errors.UniqueViolation: SQLSTATE 23505"),
        (IndexError("list index out of range"), "IndexError: list index out of range"),
    ],
)
def test_an_exception_has_its_type_and_a_message_only_if_it_is_safe(error: Exception, line: str) -> None:
    assert described_error(error) == line
    assert formatted(raised(error)).splitlines()[-1] == line


def test_an_exception_has_its_causes_and_frames_and_no_values() -> None:
    def inner() -> None:
        text = VALUE
        try:
            found: dict[str, int] = {}
            assert found[text]
        except KeyError as error:
            error.add_note(VALUE)
            raise ExceptionGroup(VALUE, [ValueError(VALUE), raised(TypeError(VALUE))]) from error

    with pytest.raises(ExceptionGroup) as found:
        inner()
    text = formatted(found.value)
    kinds = [line for line in text.splitlines() if not line.startswith((" ", "Traceback"))]
    assert kinds == ["ValueError", "KeyError", "TypeError", "ExceptionGroup"]  # each once, the group last
    assert text.count("in inner") == 2
    assert VALUE not in text


def test_a_deep_exception_and_a_cycle_of_causes_are_bounded() -> None:
    def deep(number: int) -> None:
        deep(number + 1)

    with pytest.raises(RecursionError) as found:
        deep(0)
    found.value.__cause__ = found.value
    began = time.perf_counter()
    text = formatted(found.value)
    assert len(text) < LONGEST + 100
    assert "in deep" in text
    assert time.perf_counter() - began < 0.5


def line_of(name: str, text: object, *arguments: object) -> str:
    record = logging.LogRecord(name, logging.ERROR, "x.py", 1, text, arguments, None)
    Discreet().filter(record)
    return Plain(redactor(SETTINGS)).format(record)


def test_an_exception_as_an_argument_is_logged_by_its_type() -> None:
    assert line_of("mode", "Crashed reason=%r", ValueError(VALUE)).endswith("mode: Crashed reason=ValueError")
    assert line_of("mode", ValueError(VALUE)).endswith("mode: ValueError")
    assert line_of("mode", "%s of %d", "one", 2).endswith("mode: one of 2")


def test_an_exception_among_named_arguments_is_logged_by_its_type() -> None:
    assert line_of("lib", "it failed: %(why)s", {"why": ValueError(VALUE)}).endswith("lib: it failed: ValueError")


def test_a_line_that_cannot_be_written_is_reported_by_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    """Python's own handler would print the line's text, its arguments and where it was called."""
    output = LogOutput()
    output.setFormatter(Plain(str))
    for text, arguments in (("%d of them", (VALUE,)), (VALUE + "%s %s", ("one",)), (Unprintable(), ())):
        output.handle(logging.LogRecord("lib", logging.ERROR, "where.py", 7, text, arguments, None))
    said = capsys.readouterr().err
    assert "Grüße" not in said
    assert said.splitlines() == [
        "a line of lib could not be written: where.py:7 (TypeError)",
        "a line of lib could not be written: where.py:7 (TypeError)",
        "a line of lib could not be written: where.py:7 (ValueError)",
    ]


class Unprintable:
    def __str__(self) -> str:
        raise ValueError(VALUE)


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("conversation 'whatsapp:1:5511955501234' has no members", "conversation *** has no members"),
        (f"user id {VALUE!r} is in no contact", "user id *** is in no contact"),
        (f"""user id {"it's " + VALUE!r} is in no contact""", "user id *** is in no contact"),
        (r"the sender's name 'a\'b c' is none", "the sender's name *** is none"),
        ("2 MB: a Message has at most 1", "2 MB: a Message has at most 1"),
    ],
)  # fmt: skip  # one case a line
def test_quoted_parts_of_a_sentence_are_masked(said: str, kept: str) -> None:
    assert unquoted(said) == kept


def test_the_log_of_a_refused_record_names_its_place_and_not_its_people(caplog: pytest.LogCaptureFixture) -> None:
    structlog.configure(logger_factory=structlog.stdlib.LoggerFactory(), cache_logger_on_first_use=False)
    record = Record("messages", 3, 17, 0, b"key", b"value", ())
    detail = "no recipient given and conversation 'whatsapp:1:5511955501234' has no members: name recipients"
    count_turn("route", 1, Decision(refusals=[Refusal(record, "no_recipient", detail)]), 0.1)
    structlog.reset_defaults()
    assert "5511955501234" not in caplog.text
    assert "conversation *** has no members: name recipients" in caplog.text


def test_only_described_error_decides_about_messages() -> None:
    """`described_error` decides which messages are safe. A dead letter of the codec contains nothing but Avro's."""
    telling = [module.name for module in modules(*ROOMS) if "{type(error).__name__}: {error}" in module.text]
    assert telling == ["schemas/codec.py"]


async def test_asyncio_lines_have_no_arguments_and_no_results(caplog: pytest.LogCaptureFixture) -> None:
    async def forgotten(text: str) -> None:
        raise ValueError(text)

    asyncio.get_running_loop().call_soon(int, VALUE)
    task = asyncio.create_task(forgotten(VALUE))
    await asyncio.wait([task])
    del task
    lines = [line_of(each.name, each.getMessage()) for each in caplog.records]
    caplog.clear()
    assert len(lines) == 2
    assert not any("Grüße" in line or "95550" in line for line in lines)
    assert lines[0].endswith("asyncio: Exception in callback int")


async def test_where_all_stand_names_frames_and_no_values() -> None:
    held = VALUE
    stacks = where_all_stand()
    assert "thread MainThread" in stacks
    assert "test_where_all_stand_names_frames_and_no_values" in stacks
    assert held not in stacks


@pytest.mark.parametrize(
    ("line", "masked"),
    [
        (f"posting to /bot{TOKEN}/send", "posting to /bot***/send"),
        (f"posting to /bot{quote(TOKEN, safe='')}/send", "posting to /bot***/send"),
        ("AAF-redacted-everywhere alone", "*** alone"),
        ('signed with first-"app"-secret', "signed with ***"),
        (json.dumps({"key": 'first-"app"-secret'}), '{"key": "***"}'),
        (f"password is {PASSWORD}.", "password is ***."),
        ("dsn postgresql://any:body@db.example/x", "dsn postgresql://any:***@db.example/x"),
        ("http://:onlypassword@db.example", "http://:***@db.example"),
        ("http://127.0.0.1:8080/a@b is no password", "http://127.0.0.1:8080/a@b is no password"),
        ("chat4all-core, chat4all", "chat4all-core, chat4all"),
    ],
)
def test_secrets_of_the_settings_and_passwords_of_urls_are_masked(line: str, masked: str) -> None:
    assert redactor(SETTINGS)(line) == masked


def test_the_supervisor_of_a_stack_logs_no_password(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Supervisor(tmp_path, StackPlan(servers=[])).say(
        "postgres 18 answers on postgresql://chat4all:of-this-stack@127.0.0.1:5432/chat4all after 1.0 s"
    )
    assert "postgresql://chat4all:***@127.0.0.1:5432/chat4all after" in capsys.readouterr().err


WARNS = """
import warnings
from pipelines import logs
from schemas.settings import Settings
logs.configure(Settings())
warnings.warn("unclosed connection to /bot7310256241:AAF-redacted-everywhere/getMe", ResourceWarning)
"""


def test_a_warning_is_an_ordinary_log_line() -> None:
    environment = os.environ | {"CHAT4ALL_TELEGRAM_TOKEN": TOKEN}
    command = [sys.executable, "-W", "always", "-c", WARNS]
    ran = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True)
    assert "unclosed connection to /bot***/getMe" in ran.stderr
    assert "redacted-everywhere" not in ran.stdout + ran.stderr


def test_masking_takes_microseconds() -> None:
    redact, line = redactor(SETTINGS), "2026-11-29T11:00:00Z [info] an ordinary line stage=core partition=3 " * 5
    best = min(_seconds(redact, line) for _ in range(5))
    assert best < 0.001


def _seconds(redact: object, line: str) -> float:
    assert callable(redact)
    began = time.perf_counter()
    for _ in range(20):
        redact(line)
    return (time.perf_counter() - began) / 20


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (f'value too long\nDETAIL: Failing row ({VALUE})\nCONTEXT: COPY messages, line 1: "{VALUE}"', "value too long"),
        ('missing "=" after "postgres:/chat4all:pw@db" in connection info string', 'missing "=" after "***" in connection info string'),
        ("connection failed\n\tIs the server running?", "connection failed Is the server running?"),
        ("", "OperationalError"),
    ],
)  # fmt: skip  # one case a line
def test_quoted_parts_of_a_drivers_message_are_masked(said: str, kept: str) -> None:
    assert sentence(psycopg.OperationalError(said)) == kept
