"""The reports' files say what they have to; times are read as people write them; a wrong command line ends in one sentence."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cli.main import app
from cli.report_tables import heading
from cli.report_times import WrongTime, moment
from sinks.report_catalog import FOLDER, WrongReportFile, files, is_shared, parsed, reports
from sinks.report_queries import LIMITS, OBJECTIVE, Question, call, quoted, whole
from tests.support.report_reference_more import ALL
from tests.support.source_tree import REPOSITORY

NOW = datetime(2026, 11, 30, 10, 20, 30, 456_000, tzinfo=UTC)


def test_every_file_is_a_report_with_a_reference() -> None:
    stems = [path.stem for path in files() if not is_shared(path)]
    assert list(reports()) == [stem.partition("_")[2] for stem in stems] == list(ALL)
    assert len({stem[:2] for stem in stems}) == len(stems) >= 20


def test_the_objective_is_a_limit_of_the_roll_ups() -> None:
    assert round(OBJECTIVE.seconds * 1000) in LIMITS
    roll_up = (REPOSITORY / "sinks/ddl/clickhouse/0006_daily.sql").read_text(encoding="utf-8")
    assert f"[{', '.join(map(str, LIMITS))}, 4294967295] as limits" in roll_up
    for name in ("sla", "burn"):
        assert f"not in ({', '.join(map(str, LIMITS))})" in reports()[name].sql


GOOD = (FOLDER / "06_funnel.sql").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("stem", "was", "now", "sentence"),
    [
        ("6_funnel", "", "", "needs a name of two digits"),
        ("06_funnels", "", "", "must create the view report_funnels"),
        ("06_funnel", "how many were read?", "how many were read.", "first line is the question"),
        ("06_funnel", "--   step: accepted, sent, delivered, read", "--   step: ", "what each column means"),
        ("06_funnel", "{account:String}", "''", "lacks the parameters account"),
        ("06_funnel", "Grain: minute", "Grain: week", "unknown grain: week"),
        ("06_funnel", "-- Grain", "-- Table: channel, steps\n-- Grain", "unknown columns for its table: steps"),
    ],
)
def test_a_file_that_says_too_little_is_refused(stem: str, was: str, now: str, sentence: str) -> None:
    with pytest.raises(WrongReportFile, match=sentence):
        parsed(stem, GOOD.replace(was, now))


def test_a_meaning_may_go_on_in_the_next_line() -> None:
    assert reports()["audit"].columns["difference"].endswith("the sinks read the two topics one after the other")
    assert list(reports()["audit"].columns)[-1] == "minutes_that_differ"


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("now", NOW),
        ("today", datetime(2026, 11, 30, tzinfo=UTC)),
        ("-90s", NOW - timedelta(seconds=90)),
        ("-15m", NOW - timedelta(minutes=15)),
        ("-24h", NOW - timedelta(hours=24)),
        ("-7d", NOW - timedelta(days=7)),
        ("-2w", NOW - timedelta(days=14)),
        ("2026-11-02", datetime(2026, 11, 2, tzinfo=UTC)),
        ("2026-11-02T10:30", datetime(2026, 11, 2, 10, 30, tzinfo=UTC)),
        ("2026-11-02 10:30:01.5", datetime(2026, 11, 2, 10, 30, 1, 500_000, tzinfo=UTC)),
        ("2026-11-02T10:30:00Z", datetime(2026, 11, 2, 10, 30, tzinfo=UTC)),
        ("2026-11-02T10:30:00-03:00", datetime(2026, 11, 2, 13, 30, tzinfo=UTC)),
    ],
)
def test_a_time_is_read_as_it_is_written(text: str, time: datetime) -> None:
    assert moment(text, NOW) == time


@settings(max_examples=40)
@given(
    st.text(max_size=6)
    | st.builds("{}{}{}".format, st.sampled_from(["", "-"]), st.integers(0, 10**12), st.sampled_from("smhdwy"))
)
def test_any_other_text_is_refused_in_a_sentence(text: str) -> None:
    try:
        found = moment(text, NOW)
    except WrongTime as error:
        assert "write -90s" in str(error) or "outside the years" in str(error)  # noqa: PT017  # either is right
    else:
        assert found.tzinfo is UTC
        assert 1970 <= found.year <= 2299


@given(
    st.integers(0, 10**13),
    st.integers(1, 10**9),
    st.sampled_from(["minute", "hour", ""]),
)
def test_a_range_in_whole_minutes_or_hours_covers_the_asked_one(since_ms: int, seconds: int, grain: str) -> None:
    name = {"minute": "funnel", "hour": "heatmap", "": "delivery"}[grain]
    since = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=since_ms)
    asked = Question(since, since + timedelta(seconds=seconds))
    got = whole(reports()[name], asked)
    size = timedelta(minutes=1) if grain == "minute" else timedelta(hours=1)
    if not grain:
        assert got == asked
    else:
        assert got.since <= asked.since < got.since + size
        assert got.until - size < asked.until <= got.until
        assert {at.second + at.microsecond for at in (got.since, got.until)} == {0}


def test_a_text_in_the_sql_is_quoted() -> None:
    assert quoted("o'brien \\") == "'o\\'brien \\\\'"
    sql = call(reports()["delivery"], Question(NOW, NOW, tenant="x', account = '"))
    assert "tenant = 'x\\', account = \\''" in sql
    assert "since = '2026-11-30 10:20:30.456'" in sql


@pytest.mark.parametrize(
    ("column", "shown"),
    [
        ("accept_to_sent_p95_ms", "accept to sent p95 (ms)"),
        ("failure_share", "failure (%)"),
        ("first_at", "first at (UTC)"),
        ("hour", "hour (UTC)"),
        ("tenant_id", "tenant"),
        ("value_bytes", "value (bytes)"),
        ("read", "read"),
    ],
)
def test_a_heading_has_the_unit(column: str, shown: str) -> None:
    assert heading(column) == shown


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("latancy",), "there is no report 'latancy', did you mean latency: `chat4all report list`"),
        (("zzz",), "there is no report 'zzz': `chat4all report list`"),
        (("sla", "--from", "yesterday"), "'yesterday' is no time: write -90s"),
        (("sla", "--from", "2026-01-02", "--to", "2026-01-01"), "is not before --to"),
        (("sla", "--channel", "whatsap"), "there is no channel 'whatsap', did you mean whatsapp"),
        (("sla", "--worst", "3"), "takes no --worst"),
        (("breaches", "--worst", "0"), "--worst must be 1 to 10,000, not 0"),
        (("sla", "--label", "x"), "takes no --label"),
        (("burn", "--from", "-3h"), "takes no --from"),
        (("audit", "--account", "a"), "takes no --account"),
        (("sla", "--csv", "--json"), "choose one of --csv, --json and --sql"),
        (("sla", "--csv", "--sql"), "choose one of --csv, --json and --sql"),
        (("breaches", "--plot", "x.svg"), "has no plot; these have one: latency"),
        (("sla", "--plot", "x.pdf"), "must end in .svg or .png"),
    ],
)
def test_a_wrong_command_line_ends_in_one_sentence(arguments: tuple[str, ...], sentence: str) -> None:
    result = CliRunner().invoke(app, ["report", *arguments])
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_without_clickhouse_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAT4ALL_CLICKHOUSE_URL", "http://127.0.0.1:1/default")
    result = CliRunner().invoke(app, ["report", "delivery"])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "CHAT4ALL_CLICKHOUSE_URL" in result.stderr


def test_the_list_has_every_report_and_its_question() -> None:
    shown = CliRunner().invoke(app, ["report", "list"]).stdout
    for name, report in reports().items():
        assert name in shown
        assert report.question in shown
