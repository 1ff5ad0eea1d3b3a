"""Every report on a real ClickHouse against a slow, obvious reference in Python, and the command that prints them."""

import csv
import io
import json
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError
from rich.console import Console
from typer.testing import CliRunner, Result

from cli.main import app
from cli.report_plots import PLOTS, picture
from cli.report_tables import draw
from cli.sla_summary import sla_summary
from connectors.registry import OBSERVED
from sinks import report_views
from sinks.clickhouse import connect
from sinks.report_catalog import reports
from sinks.report_queries import Question, ask, call
from tests.support.long_runs import LONG
from tests.support.report_reference import Asked
from tests.support.report_reference_more import ALL
from tests.support.report_seed import BASE, DAY, HOUR, MINUTE, Row, seeded
from tests.support.sink_databases import clickhouse_database
from tools import report_pages

WORLD = seeded(1)
WIDE = Question(datetime(2026, 11, 2, tzinfo=UTC), datetime(2026, 11, 7, tzinfo=UTC), worst_n=1000)
RANGE = ("--from", "2026-11-02", "--to", "2026-11-07")
run = CliRunner()


@pytest.fixture(scope="module")
def url(clickhouse_url: str) -> Iterator[str]:
    with clickhouse_database(clickhouse_url) as url:
        client = connect(url)
        WORLD.insert(client, random.Random(2))  # noqa: S311  # a reproducible order, no secret
        client.close()
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[Client]:
    client = connect(url)
    yield client
    client.close()


@pytest.fixture
def command(url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`chat4all report` with these arguments."""
    monkeypatch.setenv("CHAT4ALL_CLICKHOUSE_URL", url)

    def called(*arguments: str) -> Result:
        return run.invoke(app, ["report", *arguments])

    return called


def answer(client: Client, name: str, asked: Asked) -> list[Row]:
    """The rows of the view, as it is called with exactly these bounds; times as Unix milliseconds."""
    question = Question(
        _time(asked.since), _time(asked.until), asked.tenant, asked.channel, asked.account, asked.worst_n, asked.label
    )
    sql = call(reports()[name], question)
    rows = list(client.query(sql).named_results())
    assert all(list(row) == list(reports()[name].columns) for row in rows)
    return [{key: _plain(value) for key, value in row.items()} for row in rows]


def _time(at: int) -> datetime:
    return datetime.fromtimestamp(at / 1000, UTC)


def _plain(value: Any) -> Any:
    return round(value.timestamp() * 1000) if isinstance(value, datetime) else value


def same(found: list[Row], wanted: list[Row]) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert list(one) == list(other)
        for column, value in other.items():
            is_share = isinstance(value, float)
            assert one[column] == (pytest.approx(value) if is_share else value), (column, one, other)


ASKED = {
    "all": Asked(),
    "a tenant with a quote in its name": Asked(tenant="o'brien"),
    "an account": Asked(tenant="acme", channel="whatsapp", account="whatsapp-1"),
    "from a delivery's millisecond": Asked(since=BASE + DAY, until=BASE + 2 * DAY),
    "to a delivery's millisecond": Asked(since=BASE + DAY - 1, until=BASE + 2 * DAY - 1),
    "from 1970 to 2299": Asked(since=0, until=10_000_000_000_000),
    "odd bounds": Asked(
        since=BASE + 5 * HOUR + 17 * MINUTE + 1234, until=BASE + 71 * HOUR + 3 * MINUTE + 1, worst_n=3, label="o'clock"
    ),
}


@pytest.mark.parametrize("asked", ASKED.values(), ids=list(ASKED))
@pytest.mark.parametrize("name", reports())
def test_a_report_is_what_a_loop_over_the_rows_finds(client: Client, name: str, asked: Asked) -> None:
    found = answer(client, name, asked)
    same(found, ALL[name](WORLD, asked))
    assert found or asked != Asked(), "a report without rows tests nothing"


# --- the views among themselves, and with what else they have to agree ------------------------------------------------------


def test_a_channel_reports_what_its_connector_declares(client: Client) -> None:
    rows = client.query("select channel, reports_delivered, reports_read from channel_reports").result_rows
    assert {row[0]: row[1:] for row in rows} == {name: (each.delivered, each.read) for name, each in OBSERVED.items()}


def test_the_parts_of_every_delivery_add_up_to_its_total(client: Client) -> None:
    parameters = call(reports()["delivery"], WIDE).partition("report_delivery")[2]
    parts = [f"ifNull({part}_ms, 0)" for part in ("waiting", "pacing", "attempts", "provider", "receipt", "other")]
    add_up = f"{' + '.join(parts)} = total_ms and least({', '.join(parts)}) >= 0"
    sql = f"select count(), countIf({add_up}), countIf(other_ms > 0) from timed_deliveries{parameters}"
    every, right, with_other = client.query(sql).result_rows[0]
    assert every == right > with_other > 0


def test_an_objective_that_no_roll_up_counts_is_refused(client: Client) -> None:
    for name in ("sla", "burn"):
        sql = call(reports()[name], WIDE).replace("objective_ms = 1000", "objective_ms = 1001")
        with pytest.raises(DatabaseError, match="not a limit of the roll-ups"):
            client.query(sql)


def test_reports_from_roll_ups_agree_with_those_from_raw_rows(client: Client) -> None:
    exact = {row["tenant_id"] + row["channel"]: row for row in ask(client, "delivery", WIDE).rows}
    for row in ask(client, "funnel", WIDE).rows:
        assert row["deliveries"] == exact[row["tenant_id"] + row["channel"]][row["step"]]
    hours = ask(client, "delivery_by_hour", WIDE).rows
    for column in ("accepted", "sent", "delivered", "read", "pending", "failed", "expired", "cancelled", "suppressed"):
        assert sum(row[column] for row in hours) == sum(row[column] for row in exact.values())
    whole = sum(row["deliveries"] for row in ask(client, "latency", WIDE).rows)
    for name in ("latency_by_hour", "latency_by_account"):
        assert sum(row["deliveries"] for row in ask(client, name, WIDE).rows) == whole


# --- the views and their files ----------------------------------------------------------------------------------------------


def test_views_follow_their_files(clickhouse_url: str, tmp_path: Path) -> None:
    def view(name: str, value: int) -> None:
        (tmp_path / f"{name}.sql").write_text(
            f"-- x\ncreate or replace view {name} as\nselect {value} as n;\n", encoding="utf-8"
        )

    with clickhouse_database(clickhouse_url, migrated=False) as url:
        client = connect(url)
        assert report_views.apply(client, tmp_path / "nowhere") == []
        view("one", 1)
        view("two", 2)
        assert report_views.apply(client, tmp_path) == ["one.sql", "two.sql"]
        assert report_views.apply(client, tmp_path) == []
        view("two", 3)
        client.command("drop view one")
        assert report_views.apply(client, tmp_path) == ["one.sql", "two.sql"]
        assert client.query("select one.n, two.n from one, two").result_rows == [(1, 3)]
        (tmp_path / "two.sql").unlink()
        assert report_views.apply(client, tmp_path) == []
        there = "select name from system.tables where database = currentDatabase() and engine = 'View'"
        assert client.query(there).result_rows == [("one",)]
        view("two", 4)
        assert report_views.apply(client, tmp_path) == ["two.sql"]
        client.close()


# --- the command ------------------------------------------------------------------------------------------------------------


def test_a_report_in_every_form_has_the_same_rows(client: Client, command: Any) -> None:
    rows = ask(client, "sla", WIDE).rows
    shown = command("sla", *RANGE, "--sql")
    assert shown.exit_code == 0, shown.output
    sql = next(line for line in shown.stdout.splitlines() if line.startswith("select"))
    assert tuple(client.query(sql).named_results()) == rows
    assert "attained (%)" in shown.stdout
    assert f"{rows[0]['attained_share']:.2%}"[:-1] in shown.stdout
    assert json.loads(command("sla", *RANGE, "--json").stdout) == list(rows)
    text = run.invoke(app, ["report", "sla", *RANGE, "--csv"]).stdout_bytes.decode()
    assert text.count("\r\n") == len(rows) + 1 == text.count("\n")
    assert [row["late"] for row in csv.DictReader(io.StringIO(text, newline=""))] == [str(row["late"]) for row in rows]


def test_times_in_csv_and_json_are_whole(command: Any) -> None:
    found = json.loads(command("breaches", *RANGE, "--tenant", "o'brien", "--worst", "3", "--json").stdout)
    assert [row["tenant_id"] for row in found] == ["o'brien"] * 3
    assert all(re.fullmatch(r"2026-11-0\dT\d\d:\d\d:\d\d\.\d{3}Z", row["accepted_at"]) for row in found)


def test_an_empty_report_says_what_to_check(command: Any) -> None:
    result = command("funnel", "--from", "2001-01-01", "--to", "2001-01-02")
    assert result.exit_code == 0
    assert "no rows; if you expected some, check the range (--from, --to)" in result.stdout
    assert command("funnel", "--to", "2001-01-01", "--json").stdout == "[]\n"
    assert command("funnel", "--to", "2001-01-01", "--csv").stdout.startswith("tenant_id,channel,step")


def test_minutes_are_whole_where_the_roll_up_has_only_those(command: Any) -> None:
    result = command("funnel", "--from", "2026-11-02T10:00:30", "--to", "2026-11-03T11:00:30", "--sql")
    assert "from 2026-11-02 10:00 to 2026-11-03 11:01 UTC, in whole minutes" in result.stdout
    assert "since = '2026-11-02 10:00:00.000', until = '2026-11-03 11:01:00.000'" in result.stdout


@pytest.mark.parametrize("name", reports())
def test_a_table_fits_into_100_columns_and_loses_nothing(client: Client, name: str) -> None:
    result = ask(client, name, replace(WIDE, tenant="acme", worst_n=20))
    written = io.StringIO()
    draw(result, Console(file=written, width=100))
    shown = written.getvalue()
    assert max(map(len, shown.splitlines())) <= 100
    assert "…" not in shown
    numbers = [row[column] for row in result.rows for column in (result.report.tables or [()])[0] if column in row]
    assert all(f"{number:,}" in shown for number in numbers if type(number) is int)


@pytest.mark.parametrize("name", PLOTS if LONG else ["heatmap", "sla"])
def test_a_plot_is_the_same_each_time(client: Client, name: str) -> None:
    result = ask(client, name, replace(WIDE, channel="telegram"))
    once = picture(result, "svg")
    assert once == picture(result, "svg")
    assert result.report.question.encode() in once.replace(b"&apos;", b"'").replace(b"&#x27;", b"'")


def test_a_plot_is_written_beside_the_table(command: Any, tmp_path: Path) -> None:
    file = tmp_path / "plot.png"
    result = command("sla", *RANGE, "--plot", str(file))
    assert (result.exit_code, f"wrote {file}" in result.stdout) == (0, True)
    assert file.read_bytes().startswith(b"\x89PNG")


def test_a_plot_that_cannot_be_written_is_one_sentence(command: Any, tmp_path: Path) -> None:
    result = command("sla", *RANGE, "--plot", str(tmp_path / "nowhere" / "plot.svg"))
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "No such file or directory" in result.stderr
    result = command("sla", "--to", "2001-01-01", "--plot", str(tmp_path / "plot.svg"))
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "no rows to draw" in result.stderr


def test_the_summary_of_a_run_is_its_tenant_s(url: str) -> None:
    table = sla_summary(url, WIDE.since, WIDE.until, "o'brien")
    assert table is not None
    assert table.row_count == len(OBSERVED)
    assert sla_summary(url, WIDE.since, WIDE.until, "nobody") is None


# --- docs/reports.md --------------------------------------------------------------------------------------------------------


def test_the_page_shows_the_reports_as_they_are(clickhouse_url: str) -> None:
    """Text, SQL and columns; digits may differ, because percentiles of roll-ups depend on the order in which parts are merged."""
    with clickhouse_database(clickhouse_url) as url:
        client = connect(url)
        report_pages.fill(client)
        made = report_pages.text(report_pages.answers(client))
        client.close()
    page = report_pages.PAGE.read_text(encoding="utf-8")
    shown = page.partition(report_pages.BEGIN)[2].partition(report_pages.END)[0]
    assert re.sub(r"\d", "0", shown) == re.sub(r"\d", "0", made), "run `python -m tools.report_pages`"
