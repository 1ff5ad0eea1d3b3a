"""The reference pages tell what the code has: every setting, topic, schema, cause, metric and objective, and nothing else."""

import pytest

from schemas.metrics import exposition
from schemas.objectives import OBJECTIVES, Objective
from tests.unit.reference_pages import METRICS, PAGES, REPOSITORY, exposed_name, shown


@pytest.mark.parametrize(("page", "mark"), [(page, mark) for page, tables in PAGES.items() for mark in tables])
def test_a_page_shows_what_the_code_has(page: str, mark: str) -> None:
    assert shown(page, mark) == PAGES[page][mark](), "run `python -m tests.unit.reference_pages`"


def test_metric_names_are_the_ones_prometheus_sees() -> None:
    exposed = {line.split()[2] for line in exposition().decode().splitlines() if line.startswith("# TYPE chat4all")}
    assert {exposed_name(metric) for metric in METRICS.values()} == {
        name for name in exposed if not name.endswith("_created")
    }


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: o.name)
def test_an_objective_can_be_measured(objective: Objective) -> None:
    """Its limit is a bucket of its histogram; a percentile of a report stands in that report and is of the same share."""
    assert 0 < objective.share < 1
    if not isinstance(objective.measured_by, str):
        assert objective.measured_by in METRICS.values()
        assert objective.seconds in objective.measured_by._upper_bounds
        return
    report, column = objective.measured_by.split(".")
    files = sorted((REPOSITORY / "sinks/ddl/clickhouse").glob("*.sql"))
    views = "\n".join(path.read_text(encoding="utf-8") for path in files).split("create or replace view ")
    definition = next(view for view in views if view.split()[0] == report)
    assert f"quantileExactOrNullIf({objective.share})" in next(
        line for line in definition.splitlines() if line.endswith(f" {column},")
    )
    assert column.endswith(f"p{objective.share:.0%}_ms".replace("%", ""))


def test_objectives_have_names_of_their_own() -> None:
    assert len({objective.name for objective in OBJECTIVES}) == len(OBJECTIVES)
