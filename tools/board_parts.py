"""The parts of every Grafana board: panels, queries, variables, links. Uses the builders of grafana-foundation-sdk.

In: titles, plain words, units, queries. Out: builders. Guaranteed: each panel has a title, a description, a unit and thresholds, and takes
its data from the board's variables `prometheus` and `clickhouse`, so that a board runs in any Grafana. No I/O.
"""

from collections.abc import Sequence

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.common import (
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    VisibilityMode,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

CLICKHOUSE = "grafana-clickhouse-datasource"
WIDTH = 24  # of a board, in Grafana's columns
ALL = "''"  # what "All" of a variable puts into SQL: Grafana does not quote it, and the report views take '' for all
DOCS = "/public/chat4all-docs"  # where deploy/compose.yaml lets Grafana serve docs/; the constant `docs` of a board changes it

Steps = Sequence[tuple[float, str]]  # from this value on: this colour
NONE: Steps = ()


def above(warning: float, critical: float) -> Steps:
    """Yellow from `warning` on, red from `critical` on."""
    return ((warning, "yellow"), (critical, "red"))


def below(critical: float, warning: float) -> Steps:
    """Red below `critical`, yellow below `warning`, green above."""
    return ((0, "red"), (critical, "yellow"), (warning, "green"))


class SqlQuery(Dataquery):
    """A query of the ClickHouse plugin, as its editor for SQL saves it. `shape` is `table` or `timeseries`."""

    def __init__(self, sql: str, shape: str) -> None:
        self.sql = sql
        self.shape = shape
        self.ref_id = ""

    def to_json(self) -> dict[str, object]:
        return {
            "datasource": {"type": CLICKHOUSE, "uid": "${clickhouse}"},
            "editorType": "sql",
            "format": 0 if self.shape == "timeseries" else 1,
            "queryType": self.shape,
            "rawSql": self.sql,
            "refId": self.ref_id,
        }


class SqlTarget(Builder[SqlQuery]):
    """The builder of a SqlQuery."""

    def __init__(self, sql: str, shape: str = "timeseries") -> None:
        self._query = SqlQuery(" ".join(sql.split()), shape)

    def ref_id(self, name: str) -> "SqlTarget":
        self._query.ref_id = name
        return self

    def build(self) -> SqlQuery:
        return self._query


def series(expr: str, legend: str = "") -> prometheus.Dataquery:
    """A Prometheus query over the range of the board."""
    return prometheus.Dataquery().expr(expr).range().legend_format(legend or "__auto").datasource(_prometheus())


def now(expr: str, legend: str = "") -> prometheus.Dataquery:
    """A Prometheus query of the end of the range, as a table."""
    query = prometheus.Dataquery().expr(expr).instant().format(PromQueryFormat.TABLE)
    return query.legend_format(legend or "__auto").datasource(_prometheus())


Target = prometheus.Dataquery | SqlTarget
Panel = timeseries.Panel | stat.Panel | table.Panel


def chart(title: str, about: str, unit: str, *targets: Target, steps: Steps = NONE, span: int = 12) -> Panel:
    """Lines over time."""
    legend = common.VizLegendOptions().show_legend(True).placement(LegendPlacement.BOTTOM)
    panel = timeseries.Panel().legend(legend.display_mode(LegendDisplayMode.LIST)).show_points(VisibilityMode.AUTO)
    if steps:
        panel = panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED))
    return _finished(panel.height(8).span(span).min(0), title, about, unit=unit, targets=targets, steps=steps)


def figure(title: str, about: str, unit: str, target: Target, steps: Steps = NONE, *, span: int = 4) -> Panel:
    """One number: the latest."""
    reduce = common.ReduceDataOptions().calcs(["lastNotNull"])
    return _finished(
        stat.Panel().reduce_options(reduce).height(5).span(span),
        title,
        about,
        unit=unit,
        targets=(target,),
        steps=steps,
    )


def listing(title: str, about: str, unit: str, target: Target, steps: Steps = NONE, *, span: int = WIDTH) -> Panel:
    """A table."""
    return _finished(
        table.Panel().height(9).span(span).filterable(True), title, about, unit=unit, targets=(target,), steps=steps
    )


def row(title: str) -> dashboard.Row:
    return dashboard.Row(title)


def _finished(panel: Panel, title: str, about: str, *, unit: str, targets: Sequence[Target], steps: Steps) -> Panel:
    is_sql = isinstance(targets[0], SqlTarget)
    panel = panel.title(title).description(about).unit(unit)
    panel = panel.datasource(models.DataSourceRef(CLICKHOUSE, "${clickhouse}") if is_sql else _prometheus())
    for name, target in zip("ABCDEFGH", targets, strict=False):
        panel = panel.with_target(target.ref_id(name))
    green = models.Threshold(None, "green")
    thresholds = dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE)
    return panel.thresholds(thresholds.steps([green, *(models.Threshold(value, colour) for value, colour in steps)]))


def _prometheus() -> models.DataSourceRef:
    return models.DataSourceRef("prometheus", "${prometheus}")


# --- variables ------------------------------------------------------------------------------------------------------------

TENANT, CHANNEL, ACCOUNT = "tenant", "channel", "account"
FILTERS = """(${tenant:singlequote} = '' or tenant_id = ${tenant:singlequote})
    and (${channel:singlequote} = '' or channel = ${channel:singlequote})
    and (${account:singlequote} = '' or account = ${account:singlequote})"""


def report(name: str, **more: int) -> str:
    """All rows of a report view, for the range and the choices of the board; `more` are its own parameters."""
    own = "".join(f", {parameter} = {value}" for parameter, value in more.items())
    return f"""select * from report_{name}(since = $__fromTime_ms, until = $__toTime_ms, tenant = ${{tenant:singlequote}},
        channel = ${{channel:singlequote}}, account = ${{account:singlequote}}{own}) limit 500"""


CHOICES = {
    TENANT: "select distinct tenant_id from deliveries_by_hour where hour >= now() - interval 35 day order by tenant_id limit 1000",
    CHANNEL: "select distinct channel from deliveries_by_hour where hour >= now() - interval 35 day order by channel limit 1000",
    ACCOUNT: """select distinct account from deliveries_by_hour where hour >= now() - interval 35 day
        and (${channel:singlequote} = '' or channel = ${channel:singlequote}) order by account limit 1000""",
}


def choice(name: str) -> dashboard.QueryVariable:
    """A list of values from ClickHouse, with All."""
    query: dict[str, object] = {
        "rawSql": " ".join(CHOICES[name].split()),
        "queryType": "table",
        "format": 1,
        "editorType": "sql",
    }
    variable = dashboard.QueryVariable(name).label(name).query({**query, "refId": name})
    everything = models.VariableOption(text="All", value="$__all", selected=True)
    return (
        variable.datasource(models.DataSourceRef(CLICKHOUSE, "${clickhouse}"))
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .include_all(True)
        .all_value(ALL)
        .multi(False)
        .current(everything)
    )


def board(
    uid: str,
    title: str,
    about: str,
    panels: Sequence[Panel | dashboard.Row],
    variables: Sequence[Builder[models.VariableModel]] = (),
) -> dashboard.Dashboard:
    """A board: its data sources, the variables, the links to the other boards and to docs/operations.md, and its panels in their order."""
    made = dashboard.Dashboard(f"Chat4All / {title}").uid(f"chat4all-{uid}").description(about).tags(["chat4all"])
    made = made.time("now-6h", "now").refresh("30s").timezone("browser").readonly()
    sources = {"prometheus": "Prometheus", CLICKHOUSE: "ClickHouse"}
    for kind, label in sources.items():
        made = made.with_variable(dashboard.DatasourceVariable(label.lower()).label(label).type(kind))
    made = made.with_variable(dashboard.ConstantVariable("docs").label("docs").value(DOCS))
    for variable in variables:
        made = made.with_variable(variable)
    boards = dashboard.DashboardLink("Boards").type(models.DashboardLinkType.DASHBOARDS).tags(["chat4all"])
    made = made.link(boards.as_dropdown(True).keep_time(True).include_vars(True))
    page = dashboard.DashboardLink("What to do: docs/operations.md").type(models.DashboardLinkType.LINK)
    made = made.link(page.url("${docs}/operations.md").icon("doc").target_blank(True))
    for panel in panels:
        made = made.with_row(panel) if isinstance(panel, dashboard.Row) else made.with_panel(panel)
    return made
