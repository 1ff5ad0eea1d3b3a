"""dashboards/ as Grafana and Prometheus would read it: every board and rule is complete, and uses only what the product has."""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import Histogram

from schemas.causes import DESCRIPTIONS
from schemas.objectives import OBJECTIVES
from stack.state import ServiceState, StackState
from stack.targets import targets_path, write_targets
from tests.support.promql import reads
from tests.support.source_tree import REPOSITORY
from tools.boards import BOARDS, DASHBOARDS, files
from tools.reference_pages import METRICS, counted_events, exposed_name

RULES = sorted((DASHBOARDS / "prometheus/rules").glob("*.yml"))
UNIT_TESTS = sorted((DASHBOARDS / "prometheus/tests").glob("*.yml"))
# What the Prometheus client and Prometheus itself give every program.
STANDARD = {
    "up": set[str](),
    "process_start_time_seconds": set[str](),
    "process_resident_memory_bytes": set[str](),
    "process_cpu_seconds_total": set[str](),
    "ALERTS": {"alertname", "alertstate", "severity"},
}
TARGET = {"job", "instance", "stack", "program", "service"}  # labels that the targets file and Prometheus add
BOARD_FILES = {name: json.loads((DASHBOARDS / f"grafana/{name}.json").read_text(encoding="utf-8")) for name in BOARDS}


def loaded(path: Path) -> Any:
    """A YAML file, by the parser in C: some are long."""
    return yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)  # it is the safe loader


def panels(name: str) -> list[dict[str, Any]]:
    return [panel for panel in BOARD_FILES[name]["panels"] if panel["type"] != "row"]


@cache
def rules() -> list[dict[str, Any]]:
    documents = [loaded(path) for path in RULES]
    return [rule for document in documents for group in document["groups"] for rule in group["rules"]]


ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}


@cache
def exposed() -> dict[str, set[str]]:
    """Every series of ours and its labels."""
    found = {name: set(labels) for name, labels in STANDARD.items()}
    for metric in METRICS.values():
        labels = set(metric._labelnames)
        if isinstance(metric, Histogram):
            found |= {f"{metric._name}_{part}": labels for part in ("sum", "count")}
            found[f"{metric._name}_bucket"] = labels | {"le"}
        else:
            found[exposed_name(metric)] = labels
    return found


@cache
def recorded() -> dict[str, set[str]]:
    """Every recorded series, and the labels that its rule leaves it."""
    found: dict[str, set[str]] = {}
    for rule in rules():
        if "record" in rule:
            grouped = reads(rule["expr"]).labels | set(rule.get("labels", {}))
            found.setdefault(rule["record"], set()).update(grouped)
    return found


def expressions() -> Iterator[tuple[str, str]]:
    """Where it stands, and the PromQL."""
    for name in BOARDS:
        for panel in panels(name):
            yield from ((f"{name}: {panel['title']}", each["expr"]) for each in panel["targets"] if "expr" in each)
    yield from ((rule.get("alert") or rule["record"], rule["expr"]) for rule in rules())


EXPRESSIONS = list(expressions())


def test_the_files_are_what_the_code_makes() -> None:
    stale = [path.name for path, text in files().items() if path.read_text(encoding="utf-8") != text]
    assert stale == [], "run `python -m tools.boards`"
    assert {path.stem for path in (DASHBOARDS / "grafana").glob("*.json")} == set(BOARDS)


@pytest.mark.parametrize("name", BOARDS)
def test_a_panel_says_what_it_shows(name: str) -> None:
    board = BOARD_FILES[name]
    assert board["uid"] == f"chat4all-{name}"
    for panel in panels(name):
        defaults = panel["fieldConfig"]["defaults"]
        assert panel["title"]
        assert len(panel["description"]) > 20, panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert defaults["unit"], panel["title"]
        steps = defaults["thresholds"]["steps"]
        assert steps[0] == {"value": None, "color": "green"}, panel["title"]
        values = [step["value"] for step in steps[1:]]
        assert values == sorted(values), panel["title"]
        assert [target["refId"] for target in panel["targets"]] == list("ABCDEFGH"[: len(panel["targets"])])
    assert any("${docs}/operations.md" in link.get("url", "") for link in board["links"])


@pytest.mark.parametrize("name", BOARDS)
def test_panels_do_not_lie_on_each_other(name: str) -> None:
    cells: set[tuple[int, int]] = set()
    ids = [panel["id"] for panel in BOARD_FILES[name]["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in BOARD_FILES[name]["panels"]:
        at = {"x": 0, "y": 0} | panel["gridPos"]
        own = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24, panel["title"]
        assert not own & cells, panel["title"]
        cells |= own


@pytest.mark.parametrize("name", BOARDS)
def test_a_board_names_its_variables_and_data_sources(name: str) -> None:
    """A variable that does not exist would reach the server as its own name."""
    board = BOARD_FILES[name]
    variables = {each["name"]: each for each in board["templating"]["list"]}
    used = set(re.findall(r"\$\{(\w+)(?::\w+)?\}", json.dumps(board)))
    assert used <= set(variables)
    assert {"prometheus", "clickhouse", "docs"} <= set(variables)
    for panel in panels(name):
        kinds = {"grafana-clickhouse-datasource" if "rawSql" in each else "prometheus" for each in panel["targets"]}
        assert {panel["datasource"]["type"]} == kinds, panel["title"]
        for target in panel["targets"]:
            assert target["datasource"] == panel["datasource"]
    for each in variables.values():
        assert each["type"] != "query" or each["allValue"] == "''"  # the report views take '' for all


def test_an_expression_uses_declared_metrics_and_labels_only() -> None:
    known = exposed() | recorded()
    for where, expr in EXPRESSIONS:
        found = reads(expr)
        assert found.selectors, where
        has: set[str] = set()
        for selector in found.selectors:
            assert selector.metric in known, where
            labels = known[selector.metric] | (set() if selector.metric in recorded() else TARGET)
            assert set(selector.matchers) <= labels, (where, selector)
            has |= labels
        assert found.labels <= has, where


def test_the_values_that_expressions_ask_for_exist() -> None:
    """Stages, events, causes and outcomes: a misspelt one is a line that is always empty."""
    events = counted_events()
    statuses = {
        "sent",
        "delivered",
        "read",
        "failed",
        "expired",
        "cancelled",
        "suppressed",
    }
    apps = {"core", "archive", "analyse", "gateway", *events, "match", "send"}
    for where, expr in EXPRESSIONS:
        for selector in reads(expr).selectors:
            asked = selector.matchers
            assert set(asked.get("stage", ())) <= apps, where
            assert set(asked.get("cause", ())) <= set(DESCRIPTIONS), where
            assert set(asked.get("outcome", ())) <= {"Accepted", "RetryLater", "Rejected", "Unknown"}, where
            assert set(asked.get("program", ())) <= {"core", "sinks", "gateway"}, where
            for event in asked.get("event", ()):
                assert any(
                    event in events[stage] | (statuses if stage == "track" else set()) for stage in asked["stage"]
                ), (
                    where,
                    event,
                )


def test_every_objective_has_its_rules() -> None:
    burning = {
        rule["labels"]["objective"] for rule in rules() if rule.get("record") == "chat4all:objective_burn:rate1h"
    }
    assert burning == {each.name for each in OBJECTIVES}


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_says_what_it_means_and_names_its_section(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/operations.md#{alert.lower()}"


def test_every_alert_has_its_section_and_every_section_its_alert() -> None:
    page = (REPOSITORY / "docs/operations.md").read_text(encoding="utf-8")
    _, _, part = page.partition("\n## Alerts\n")
    part = re.split(r"\n## ", part)[0]
    sections = re.split(r"\n### ", part)[1:]
    assert [section.split("\n")[0] for section in sections] == sorted(ALERTS)
    for section in sections:
        for question in ("**Means.**", "**Look first.**", "**Do.**", "**Escalate.**"):
            assert question in section, section.split("\n")[0]


def test_every_alert_has_a_case_that_fires_and_one_that_does_not() -> None:
    fires, quiet = set(), set()
    for path in UNIT_TESTS:
        for case in loaded(path)["tests"]:
            for each in case.get("promql_expr_test", ()):
                assert each["exp_samples"], path.name
                fires |= set(re.findall(r'alertname="(\w+)"', each["expr"]))
            quiet |= {each["alertname"] for each in case.get("alert_rule_test", ()) if each["exp_alerts"] == []}
    assert fires == set(ALERTS)
    assert quiet == set(ALERTS)


# --- targets ----------------------------------------------------------------------------------------------------------


def test_the_targets_are_the_programs_with_probes(tmp_path: Path) -> None:
    """Dead ones too: Prometheus must miss them. No label of a target is one of a metric, which Prometheus would rename."""
    parts = {"views": "http://127.0.0.1:6066", "probes": "http://127.0.0.1:6067"}
    services = [
        ServiceState(name="kafka", url="127.0.0.1:9092", status="ready"),
        ServiceState(name="core-2", url="http://127.0.0.1:6066", status="dead", parts=parts),
    ]
    folder = tmp_path / "dev"
    write_targets(folder, StackState(pid=1, phase="ready", keep_data=False, services=services))
    assert json.loads(targets_path(folder).read_text()) == [
        {"targets": ["127.0.0.1:6067"], "labels": {"stack": "dev", "program": "core", "service": "core-2"}}
    ]
    assert TARGET & {label for labels in exposed().values() for label in labels} == set()


# --- provisioning -----------------------------------------------------------------------------------------------------


def test_grafana_s_provisioning_and_compose_fit_the_boards() -> None:
    """The two data sources have the types that the boards ask for, and the containers get the folders that the files name."""
    folder = DASHBOARDS / "grafana/provisioning"
    sources = loaded(folder / "datasources/chat4all.yaml")["datasources"]
    assert [each["type"] for each in sources] == ["prometheus", "grafana-clickhouse-datasource"]
    (provider,) = loaded(folder / "dashboards/chat4all.yaml")["providers"]
    services = loaded(REPOSITORY / "deploy/compose.yaml")["services"]
    mounts = {
        volume.split(":")[1]: volume.split(":")[0] for volume in services["grafana"]["volumes"] if volume[0] == "."
    }
    assert mounts[provider["options"]["path"]] == "../dashboards/grafana"
    assert mounts["/etc/grafana/provisioning"] == "../dashboards/grafana/provisioning"
    for source in [
        *mounts.values(),
        *(volume.split(":")[0] for volume in services["prometheus"]["volumes"] if volume[0] == "."),
    ]:
        assert source.startswith("../.chat4all") or (REPOSITORY / "deploy" / source).resolve().exists(), source
