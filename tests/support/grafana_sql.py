"""A board's SQL as Grafana and its ClickHouse plugin send it: macros and variables replaced.

Enters: the `rawSql` of a panel or a variable, a range, and what a person chose. Leaves: SQL for ClickHouse. Guaranteed: the same text as
the plugin makes (pkg/macros of grafana/clickhouse-datasource) and as Grafana's format `singlequote` makes; a macro or a variable that is
not known raises KeyError.
"""

import re
from collections.abc import Mapping

ALL = "All"


def sent(sql: str, since_ms: int, until_ms: int, chosen: Mapping[str, str]) -> str:
    """`chosen` is variable -> value, ALL for its option All, for which a board has the text '' as it is."""
    macros = {
        "fromTime_ms": f"fromUnixTimestamp64Milli({since_ms})",
        "toTime_ms": f"fromUnixTimestamp64Milli({until_ms})",
        "fromTime": f"toDateTime({since_ms // 1000})",
        "toTime": f"toDateTime({until_ms // 1000})",
    }

    def within(match: re.Match[str]) -> str:
        return f"{match[1]} >= {macros['fromTime']} AND {match[1]} <= {macros['toTime']}"

    sql = re.sub(r"\$__timeFilter\((\w+)\)", within, sql)
    sql = re.sub(r"\$__(\w+)", lambda match: macros[match[1]], sql)
    return re.sub(r"\$\{(\w+):singlequote\}", lambda match: _quoted(chosen[match[1]]), sql)


def _quoted(value: str) -> str:
    escaped = value.replace("'", "\\'")
    return "''" if value == ALL else f"'{escaped}'"
