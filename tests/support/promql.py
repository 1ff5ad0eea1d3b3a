"""What a PromQL expression reads: its selectors, and the labels that it groups and matches by.

Enters: an expression of a board or of a rule. Leaves: names and labels. Guaranteed: an expression that Prometheus would not parse raises
ValueError. Grafana's own variables become the durations that Grafana would put there.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import promql_parser

GRAFANA = {"$__rate_interval": "1m", "$__interval": "15s", "$__range": "6h"}


@dataclass(frozen=True)
class Selector:
    """One metric that an expression reads, and its matchers: label -> the values it asks for."""

    metric: str
    matchers: dict[str, list[str]] = field(default_factory=dict)


@dataclass
class Reads:
    """Everything that an expression reads."""

    selectors: list[Selector] = field(default_factory=list)
    labels: set[str] = field(default_factory=set)  # in by (...), without (...), on (...), ignoring (...)


def plain(expr: str) -> str:
    """The expression as Grafana sends it."""
    for name, value in GRAFANA.items():
        expr = expr.replace(name, value)
    return expr


def reads(expr: str) -> Reads:
    """Raises ValueError for what is no PromQL."""
    found = Reads()
    for node in _nodes(promql_parser.parse(plain(expr))):
        if isinstance(node, promql_parser.VectorSelector):
            matchers: dict[str, list[str]] = {}
            for each in node.matchers.matchers:
                matchers.setdefault(each.name, []).extend(each.value.split("|"))
            found.selectors.append(Selector(str(node.name), matchers))
        modifier = getattr(node, "modifier", None)
        if isinstance(node, promql_parser.BinaryExpr):
            modifier = None if modifier is None else modifier.matching
        if modifier is not None:
            found.labels |= set(modifier.labels)
    return found


def _nodes(node: Any) -> Iterator[Any]:
    """The node and all below it."""
    yield node
    for name in ("lhs", "rhs", "expr", "vector_selector", "param"):
        below = getattr(node, name, None)
        if below is not None:
            yield from _nodes(below)
    for argument in getattr(node, "args", None) or ():
        yield from _nodes(argument)
