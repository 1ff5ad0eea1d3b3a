"""Prometheus' rules for the objectives of schemas/objectives.py: how fast each error budget is used, and when that is an alert.

In: the objectives. Out: the text of dashboards/prometheus/rules/objectives.yml. Guaranteed: every objective has its rules, with its own
limit and share. No I/O.
"""

from typing import NamedTuple

from prometheus_client import Histogram

from schemas.objectives import OBJECTIVES, Objective

WINDOWS = ("5m", "30m", "1h", "6h", "3d")
LEAST_CASES = 20  # in the long window: fewer say nothing about a share of 99 %
# An objective that ClickHouse measures, and the events of stage track that count the same: late, in time.
COUNTED = {"accept_to_sent": ("sent_late", "sent_in_time")}
HEAD = """# Made by `python -m tools.boards` from schemas/objectives.py. Do not edit it.
#
# errors: the share of the cases that missed the limit. burn: that share, divided by the share that the objective allows; at 1 the
# error budget of 30 days lasts 30 days. An alert needs a long window (enough has been used) and a short one (it goes on).
groups:
  - name: objectives
    rules:
"""


class BurnAlert(NamedTuple):
    """An alert when the budget is used `burn` times too fast, over a long window and over a short one."""

    name: str
    severity: str
    burn: float
    long: str
    short: str
    lasts: str
    ends: str  # when the budget would have ended


ALERTS = (
    BurnAlert("ObjectiveBurnsFast", "critical", 14.4, "1h", "5m", lasts="2m", ends="in 2 days"),
    BurnAlert("ObjectiveBurnsSteadily", "critical", 6.0, "6h", "30m", lasts="15m", ends="in 5 days"),
    BurnAlert("ObjectiveBurnsSlowly", "warning", 1.0, "3d", "6h", lasts="1h", ends="before its 30 days are over"),
)


def objective_rules() -> str:
    """The whole file. Raises KeyError for an objective that nothing counts in Prometheus."""
    rules = [_rule(each, window) for each in OBJECTIVES for window in WINDOWS]
    return HEAD + "".join(rules) + "".join(map(_alert, ALERTS))


def _rule(objective: Objective, window: str) -> str:
    """Three recorded series: errors, burn, and the number of cases."""
    errors, cases = _expressions(objective, window)
    allowed = round(1 - objective.share, 6)
    return "".join(
        f"      - record: chat4all:objective_{name}{window}\n        labels: {{objective: {objective.name}}}\n        expr: {expr}\n"
        for name, expr in (
            ("errors:ratio_rate", errors),
            (
                "burn:rate",
                f'chat4all:objective_errors:ratio_rate{window}{{objective="{objective.name}"}} / {allowed:g}',
            ),
            ("cases:increase", cases),
        )
    )


def _expressions(objective: Objective, window: str) -> tuple[str, str]:
    """The share of the cases that missed the limit, and the number of cases."""
    if isinstance(objective.measured_by, Histogram):
        name = str(objective.measured_by._name)
        within = f'sum(rate({name}_bucket{{le="{float(objective.seconds)}"}}[{window}]))'
        return f"1 - {within} / sum(rate({name}_count[{window}]))", f"sum(increase({name}_count[{window}]))"
    late, in_time = COUNTED[objective.name]
    both = f'chat4all_events_total{{stage="track",event=~"{late}|{in_time}"}}[{window}]'
    missed = f'(sum(rate(chat4all_events_total{{stage="track",event="{late}"}}[{window}])) or vector(0))'
    return f"{missed} / sum(rate({both}))", f"sum(increase({both}))"


def _alert(alert: BurnAlert) -> str:
    name, severity, burn, long, short, lasts, ends = alert
    page = f"docs/operations.md#{name.lower()}"
    return f"""      - alert: {name}
        expr: >-
          chat4all:objective_burn:rate{long} > {burn:g} and chat4all:objective_burn:rate{short} > {burn:g}
          and chat4all:objective_cases:increase{long} >= {LEAST_CASES}
        for: {lasts}
        labels: {{severity: {severity}}}
        annotations:
          summary: "Objective {{{{ $labels.objective }}}} is missed too often: its error budget would end {ends}"
          description: "The error budget was used {{{{ $value | printf \\"%.1f\\" }}}} times too fast over the last {long}, and it goes on."
          runbook_url: {page}
"""
