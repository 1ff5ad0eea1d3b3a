"""The reports that there are: one SQL file each in ddl/reports, and everything about a report is in its file.

Enters: a folder. Leaves: ReportFile values: name, question, columns and what they mean, parameters, and the SQL. Guaranteed: no list of
reports exists anywhere else. Reads files, asks no database.

The comment in front of a file's view has the question in its first line, then a paragraph of prose, then lines that begin with a word and a
colon: `Columns:` (below it, one column a line: `name: meaning`), `Left out:`, `Ignores:` (parameters without effect), `Grain:` (minute or
hour, when the range has to consist of whole ones), `Table:` (the columns that a table on a terminal shows; one line for each table).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "ddl" / "reports"
GRAINS = {"": 0, "minute": 60, "hour": 3600}  # seconds
_FIELD = re.compile(r"(Columns|Left out|Ignores|Grain|Table):(?: (.*))?")
_PARAMETER = re.compile(r"\{(\w+):([^}]+)\}")


class WrongReportFile(Exception):
    """A file of ddl/reports does not say what it has to say. A fault of ours, found by a test."""


@dataclass(frozen=True, slots=True)
class ReportFile:
    """One report. `columns`: name -> meaning, in the order of the view. `parameters`: name -> type in ClickHouse."""

    name: str  # the view's name without `report_`
    question: str
    about: str
    columns: Mapping[str, str]
    left_out: str
    ignores: frozenset[str]
    grain: str  # "", "minute" or "hour"
    tables: tuple[tuple[str, ...], ...]  # columns of each table on a terminal; empty: all, in one
    parameters: Mapping[str, str]
    sql: str

    @property
    def view(self) -> str:
        return f"report_{self.name}"


@cache
def reports(folder: Path = FOLDER) -> Mapping[str, ReportFile]:
    """The reports by name, in the order of their files' numbers. Raises WrongReportFile."""
    found = [parsed(path.stem, path.read_text(encoding="utf-8")) for path in files(folder) if not is_shared(path)]
    return {report.name: report for report in found}


def files(folder: Path = FOLDER) -> list[Path]:
    """The SQL files in the order of their numbers: first 00_shared.sql, which is no report."""
    return sorted(folder.glob("*.sql"))


def is_shared(path: Path) -> bool:
    return path.name.startswith("00_")


def parsed(stem: str, text: str) -> ReportFile:
    """The report of a file, from its name (`07_sla`) and its content. Raises WrongReportFile."""
    comment = [line.removeprefix("--").removeprefix(" ") for line in text.splitlines() if line.startswith("--")]
    name = stem.partition("_")[2]
    question, about, fields = _sections(comment)
    single = {key: " ".join(found[0]) for key, found in fields.items() if found}
    columns = dict(_column(line) for line in _joined(fields.get("Columns", [[]])[0]))
    tables = tuple(tuple(" ".join(lines).split(", ")) for lines in fields.get("Table", []))
    report = ReportFile(
        name=name,
        question=question,
        about=about,
        columns=columns,
        left_out=single.get("Left out", ""),
        ignores=frozenset(filter(None, single.get("Ignores", "").split(", "))),
        grain=single.get("Grain", ""),
        tables=tables,
        parameters=dict(_PARAMETER.findall(text)),
        sql=text,
    )
    wrong = _fault(report, stem)
    if wrong:
        raise WrongReportFile(f"ddl/reports/{stem}.sql {wrong}")
    return report


def _sections(comment: list[str]) -> tuple[str, str, dict[str, list[list[str]]]]:
    """(question, prose, the lines of each field; a field may occur several times)."""
    question, prose, fields = (comment[0] if comment else ""), [], dict[str, list[list[str]]]()
    current: list[str] | None = None
    for line in comment[1:]:
        if begin := _FIELD.fullmatch(line):
            current = [begin[2]] if begin[2] else []
            fields.setdefault(begin[1], []).append(current)
        elif current is None:
            prose.append(line)
        else:
            # below `Columns:`, an indent of 2 begins a column and a larger one continues it
            current.append(
                line if not current or begins_a_column(line) or begins_a_column(current[0]) else line.strip()
            )
    return question, " ".join(filter(None, prose)), fields


def begins_a_column(line: str) -> bool:
    return re.match(r"  \w+: ", line) is not None


def _joined(lines: list[str]) -> list[str]:
    whole: list[str] = []
    for line in lines:
        if begins_a_column(line) or not whole:
            whole.append(line.strip())
        else:
            whole[-1] += f" {line.strip()}"
    return whole


def _column(line: str) -> tuple[str, str]:
    name, _, meaning = line.partition(": ")
    return name, meaning


def _fault(report: ReportFile, stem: str) -> str:
    """What is wrong with the file; empty if nothing is."""
    missing = {"since", "until", "tenant", "channel", "account"} - set(report.parameters)
    unknown = {column for table in report.tables for column in table} - set(report.columns)
    faults = {
        "needs a name of two digits, an underscore and lower-case letters": not re.fullmatch(r"\d\d_[a-z_]+", stem),
        "must begin with a comment whose first line is the question it answers": not report.question.endswith("?"),
        "must say below `Columns:` what each column means": not report.columns or not all(report.columns.values()),
        f"must create the view {report.view}": f"create or replace view {report.view} as\n" not in report.sql,
        f"lacks the parameters {', '.join(sorted(missing))}": bool(missing),
        f"has an unknown grain: {report.grain}": report.grain not in GRAINS,
        f"lists unknown columns for its table: {', '.join(sorted(unknown))}": bool(unknown),
    }
    return next((fault for fault, is_there in faults.items() if is_there), "")
