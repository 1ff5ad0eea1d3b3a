"""Pictures of reports: percentiles, funnel, waterfall, heatmap, SLA. Imported only when a picture is asked for.

Enters: a ReportResult with at least one row. Leaves: the bytes of an SVG or PNG. Guaranteed: the same rows give the same bytes (no date, no
random ids); axes are labelled with units; at most GROUPS groups are drawn, and the title says so when there are more. No window is opened.
"""

import io
from collections.abc import Callable, Mapping
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from sinks.report_queries import OBJECTIVE, ReportResult

Row = Mapping[str, Any]
GROUPS = 16
_MARKS = (1, 10, 100, 1000, 10_000, 60_000, 600_000, 3_600_000, 36_000_000, 864_000_000)  # ms
_STYLE: dict[Any, Any] = {  # matplotlib's names, a type of their own
    "svg.hashsalt": "chat4all",  # else ids in an SVG are random
    "svg.fonttype": "none",  # text stays text: a fifth of the size
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "axes.edgecolor": "#888888",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "font.size": 10,
    "axes.titlesize": 11,
}
_BLUES = ("#9ecae1", "#4292c6", "#084594")
_PARTS = {
    "waiting": "#4292c6",
    "pacing": "#9ecae1",
    "attempts": "#e6550d",
    "provider": "#74c476",
    "receipt": "#bcbddc",
    "other": "#bdbdbd",
}


def picture(result: ReportResult, format_: str) -> bytes:
    """The plot of the report as `svg` or `png`. Raises KeyError for a report without one."""
    with mpl.rc_context(_STYLE):
        figure = PLOTS[result.report.name](result)
        written = io.BytesIO()
        no_date = {"Date": None} if format_ == "svg" else {"Software": None}
        figure.savefig(written, format=format_, dpi=110, metadata=no_date, bbox_inches="tight", pad_inches=0.15)
    return written.getvalue()


def _figure(result: ReportResult, height: float, note: str = "") -> tuple[Figure, Axes]:
    figure = Figure(figsize=(9, height))
    axes = figure.add_subplot()
    question = result.question
    axes.set_title(
        f"{result.report.question}\n{question.since:%Y-%m-%d %H:%M} to {question.until:%Y-%m-%d %H:%M} UTC{note}",
        loc="left",
        pad=12,
    )
    return figure, axes


def _groups(result: ReportResult, *names: str) -> tuple[dict[str, list[Row]], str]:
    """(label -> rows, a note when there are more than GROUPS). The tenant is in the label when there are several."""
    several = len({row["tenant_id"] for row in result.rows}) > 1
    found: dict[str, list[Row]] = {}
    for row in result.rows:
        parts = [str(row[name]) for name in (*(("tenant_id",) if several else ()), *names)]
        found.setdefault(_text(", ".join(parts)), []).append(row)
    note = f"; {GROUPS} of {len(found)} are drawn" if len(found) > GROUPS else ""
    return dict(list(found.items())[:GROUPS]), note


def _text(text: str) -> str:
    return text.replace("$", r"\$")  # matplotlib would take it for a formula


def _clock(ms: float, _position: int = 0) -> str:
    for limit, factor, unit in ((1e3, 1, "ms"), (6e4, 1e3, "s"), (3.6e6, 6e4, "min")):
        if ms < limit:
            return f"{ms / factor:.3g} {unit}"
    return f"{ms / 3.6e6:.3g} h"


def _time_axis(axis: Axis, longest: float) -> None:
    """Logarithmic, with marks at times that people use; 0 is drawn at 1 ms."""
    marks = [mark for mark in _MARKS if mark <= longest * 3]
    axis.set_major_locator(FixedLocator(marks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(_clock))
    axis.set_label_text("time (logarithmic)")


def _percentiles(result: ReportResult) -> Figure:
    """Bars of p50, p95, p99 for each step and group; the longest as a tick."""
    names = ("channel", *(name for name in ("account",) if name in result.report.columns), "step")
    groups, note = _groups(result, *names)
    rows = [(label, each[0]) for label, each in groups.items()]
    figure, axes = _figure(result, 1.6 + 0.62 * len(rows), note)
    for n, (_, row) in enumerate(rows):
        for offset, (level, colour) in zip(
            (-0.26, 0, 0.26), zip(("p50", "p95", "p99"), _BLUES, strict=True), strict=True
        ):
            value = max(1, row[f"{level}_ms"])
            axes.barh(n + offset, value, height=0.24, left=0, color=colour, label=level if n == 0 else None)
            axes.annotate(
                _clock(value),
                (value, n + offset),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=7,
                color="#444444",
            )
        axes.plot(
            [max(1, row["max_ms"])] * 2,
            [n - 0.38, n + 0.38],
            color="#cb181d",
            linewidth=1.5,
            label="longest" if n == 0 else None,
        )
    axes.set_yticks(range(len(rows)), [f"{label} ({row['deliveries']:,})" for label, row in rows])
    axes.invert_yaxis()
    longest = max(row["max_ms"] for _, row in rows)
    axes.set_xscale("log")
    _time_axis(axes.xaxis, longest)
    axes.set_xlim(1, max(10, longest) * 4)
    axes.grid(axis="x")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    return figure


def _by_hour(result: ReportResult) -> Figure:
    """p95 of accepted to sent, a line for each channel."""
    sent = [row for row in result.rows if row["step"] == "accepted to sent"]
    figure, axes = _figure(result, 4.2, "; accepted to sent, p95")
    several = len({row["tenant_id"] for row in sent}) > 1
    lines: dict[str, list[Row]] = {}
    for row in sent:
        lines.setdefault(_text(f"{row['tenant_id']}, {row['channel']}" if several else row["channel"]), []).append(row)
    for label, rows in list(lines.items())[:GROUPS]:
        axes.plot(
            [row["hour"] for row in rows],
            [max(1, row["p95_ms"]) for row in rows],
            marker="o",
            markersize=3,
            label=label,
        )
    axes.set_yscale("log")
    _time_axis(axes.yaxis, max((row["p95_ms"] for row in sent), default=1))
    axes.set_xlabel("hour in which the deliveries were accepted (UTC)")
    axes.grid()
    axes.tick_params(axis="x", rotation=30)
    if lines:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    return figure


def _funnel(result: ReportResult) -> Figure:
    groups, note = _groups(result, "channel")
    figure, axes = _figure(result, 1.6 + 0.95 * len(groups), note)
    colours = {"accepted": "#bdbdbd", "sent": _BLUES[0], "delivered": _BLUES[1], "read": _BLUES[2]}
    most = max(row["deliveries"] for rows in groups.values() for row in rows) or 1
    for n, rows in enumerate(groups.values()):
        for k, row in enumerate(rows):
            place = n + (k - 1.5) * 0.21
            axes.barh(
                place, row["deliveries"], height=0.2, color=colours[row["step"]], label=row["step"] if n == 0 else None
            )
            share = row["of_accepted_share"] or 0
            axes.annotate(
                f"{row['deliveries']:,} ({share:.0%})",
                (row["deliveries"], place),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                color="#444444",
            )
    axes.set_yticks(range(len(groups)), list(groups))
    axes.invert_yaxis()
    axes.set_xlim(0, most * 1.15)
    axes.set_xlabel("deliveries (share of the accepted)")
    axes.grid(axis="x")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    return figure


def _waterfall(result: ReportResult) -> Figure:
    """The mean of each part, one after the other: means add up to the mean total."""
    groups, note = _groups(result, "channel")
    figure, axes = _figure(result, 1.8 + 0.6 * len(groups), note)
    longest = 1.0
    for n, rows in enumerate(groups.values()):
        number = next(row["deliveries"] for row in rows if row["part"] == "total")
        left = 0.0
        for row in rows:
            if row["part"] == "total":
                continue
            mean = row["sum_ms"] / number
            axes.barh(n, mean, left=left, height=0.6, color=_PARTS[row["part"]], edgecolor="white", linewidth=0.5)
            left += mean
        axes.annotate(
            f"{left:,.0f} ms",
            (left, n),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color="#444444",
        )
        longest = max(longest, left)
    for part, colour in _PARTS.items():
        axes.barh(0, 0, color=colour, label=part)
    numbers = [next(row["deliveries"] for row in rows if row["part"] == "total") for rows in groups.values()]
    axes.set_yticks(
        range(len(groups)), [f"{label} ({number:,})" for label, number in zip(groups, numbers, strict=True)]
    )
    axes.invert_yaxis()
    axes.set_xlim(0, longest * 1.15)
    axes.set_xlabel("mean time of a delivery, part by part (ms)")
    axes.grid(axis="x")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    return figure


def _heatmap(result: ReportResult) -> Figure:
    """Accepted deliveries by weekday and hour; the number in a cell is the share that failed, in percent, where any did."""
    figure, axes = _figure(result, 3.6)
    grid = [[0] * 24 for _ in range(7)]
    for row in result.rows:
        grid[row["weekday"] - 1][row["hour_of_day"]] = row["accepted"]
    drawn = axes.imshow(grid, cmap="Blues", aspect="auto", vmin=0)
    most = max(max(hours) for hours in grid) or 1
    for row in result.rows:
        if row["failure_share"]:
            axes.text(
                row["hour_of_day"],
                row["weekday"] - 1,
                f"{row['failure_share']:.0%}"[:-1],
                ha="center",
                va="center",
                fontsize=7,
                color="white" if row["accepted"] > 0.6 * most else "#b30000",
            )
    axes.set_yticks(range(7), ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"])
    axes.set_xticks(range(24), [str(hour) for hour in range(24)])
    axes.set_xlabel("hour of the day (UTC); number in a cell: share that failed, in %")
    axes.set_ylabel("weekday")
    figure.colorbar(drawn, ax=axes, label="accepted deliveries", pad=0.02)
    return figure


def _sla(result: ReportResult) -> Figure:
    """The share that was late against what the objective allows: 98.5 % and 99 % would look alike."""
    groups, note = _groups(result, "channel")
    measured = [(label, rows[0]) for label, rows in groups.items() if rows[0]["attained_share"] is not None]
    note += f"; objective: {OBJECTIVE.share:.0%} within {OBJECTIVE.seconds:g} s"
    figure, axes = _figure(result, 1.6 + 0.5 * max(1, len(measured)), note)
    allowed = (1 - OBJECTIVE.share) * 100
    late = [(1 - row["attained_share"]) * 100 for _, row in measured]
    axes.barh(
        range(len(late)), late, height=0.6, color=["#238b45" if row["is_met"] else "#cb181d" for _, row in measured]
    )
    for n, (share, (_, row)) in enumerate(zip(late, measured, strict=True)):
        axes.annotate(
            f"{share:.2f}% late: {row['late']:,} of {row['measured']:,}",
            (share, n),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color="#444444",
        )
    axes.axvline(allowed, color="#444444", linestyle="--", linewidth=1.2, label=f"allowed: {allowed:g}%")
    axes.set_yticks(range(len(measured)), [label for label, _ in measured])
    axes.invert_yaxis()
    axes.set_xlim(0, max([allowed, *late]) * 1.35)
    axes.set_xlabel("share of the measured deliveries that was sent too late (%)")
    axes.grid(axis="x")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    return figure


PLOTS: Mapping[str, Callable[[ReportResult], Figure]] = {
    "latency": _percentiles,
    "latency_by_account": _percentiles,
    "latency_by_hour": _by_hour,
    "funnel": _funnel,
    "sla": _sla,
    "waterfall": _waterfall,
    "heatmap": _heatmap,
}
