"""The reference pages show what the code has: every setting, topic, schema, cause, metric and objective, and nothing else."""

import re
from pathlib import Path

import pytest

from schemas.catalog import TOPICS
from schemas.metrics import exposition
from schemas.objectives import OBJECTIVES, Objective
from sinks.report_catalog import reports
from tests.support.source_tree import REPOSITORY, modules, tracked
from tools.reference_pages import METRICS, PAGES, exposed_name, shown


@pytest.mark.parametrize(("page", "mark"), [(page, mark) for page, tables in PAGES.items() for mark in tables])
def test_a_page_shows_what_the_code_has(page: str, mark: str) -> None:
    assert shown(page, mark) == PAGES[page][mark](), "run `python -m tools.reference_pages`"


def test_metric_names_are_the_ones_prometheus_sees() -> None:
    exposed = {line.split()[2] for line in exposition().decode().splitlines() if line.startswith("# TYPE chat4all")}
    assert {exposed_name(metric) for metric in METRICS.values()} == {
        name for name in exposed if not name.endswith("_created")
    }


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: o.name)
def test_an_objective_can_be_measured(objective: Objective) -> None:
    """Its limit is a bucket of its histogram, or its percentile is a column of the report and of the same share."""
    assert 0 < objective.share < 1
    if not isinstance(objective.measured_by, str):
        assert objective.measured_by in METRICS.values()
        assert objective.seconds in objective.measured_by._upper_bounds
        return
    report, column = objective.measured_by.split(".")
    definition = reports()[report.removeprefix("report_")]
    step, _, level = column.removesuffix("_ms").rpartition("_p")
    levels = re.findall(rf"quantilesExactIf\(([0-9., ]+)\)\(.*\) as {step},?\n", definition.sql)[0].split(", ")
    place = levels.index(str(objective.share)) + 1
    assert re.search(rf"{step}\[{place}\]\) as {column},?\n", definition.sql)
    assert float(level) == objective.share * 100
    assert column.endswith(f"p{objective.share:.0%}_ms".replace("%", ""))


def test_objectives_have_names_of_their_own() -> None:
    assert len({objective.name for objective in OBJECTIVES}) == len(OBJECTIVES)


def test_the_readme_s_picture_has_every_topic() -> None:
    _, _, text = (REPOSITORY / "README.md").read_text(encoding="utf-8").partition("## The picture\n")
    picture = text.split("```")[1]
    names = {re.sub(r"^deliveries\.(?!internal).*", "deliveries.<channel>", name) for name in TOPICS}
    assert {name for name in names if name not in picture} == set()


# --- links and names in pages ---------------------------------------------------------------------------------------------

PAGES_OF_PROSE = [path for path in tracked() if path.suffix == ".md"]
FILES = {path.relative_to(REPOSITORY).as_posix() for path in tracked()}
FILE_NAMES = {name.rsplit("/", 1)[-1] for name in FILES}
TESTS = {function.name for module in modules("tests") for function in module.functions()}
FOLDERS = {name.split("/")[0] for name in FILES if "/" in name}


@pytest.mark.parametrize("path", PAGES_OF_PROSE, ids=lambda p: p.relative_to(REPOSITORY).as_posix())
def test_a_page_points_to_what_exists(path: Path) -> None:
    """Links to files; paths, modules and tests in code quotes. A path with <...> or a star in it is a pattern."""
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    broken = [link for link in re.findall(r"\]\(([^)#:]+)[^):]*\)", text) if not (path.parent / link).exists()]
    for name in re.findall(r"`([^`\s:]+)(?:::\w+)?`", text):
        if name.split("/")[0] in FOLDERS or re.fullmatch(r"\w+\.py", name):
            broken += [] if re.search(r"[<{*]", name) or is_there(name) else [name]
    named = re.findall(r"(?:`|::)(test_\w+)`", text)
    broken += [name for name in named if name not in TESTS]
    assert broken == []


def is_there(name: str) -> bool:
    """Whether a path from the root, a folder, or the bare name of a module exists."""
    return name in FILES or (REPOSITORY / name).is_dir() if "/" in name else name in FILE_NAMES | FOLDERS
