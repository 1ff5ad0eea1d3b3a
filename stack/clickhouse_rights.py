"""The rights of SQL on the stack's ClickHouse: it may use its own tables, and reach nothing else.

Enters: statements and settings of requests. Leaves: the same, or a refusal. Guaranteed: no statement reads or writes a file that it names,
runs a program, or connects to another server, however it is nested. Grants of ClickHouse do most of that: it has a source for each kind
of outside (FILE, URL, S3, REMOTE, MYSQL, ...), checks every use, and no source is granted here. What no grant covers in an engine without
a server is looked for in the statement as the engine's own parser prints it (formatQuery): without comments and heredocs, and with one
form of quotes.
"""

import re
from collections.abc import Iterable
from xml.sax.saxutils import escape

ENGINES = (
    "MergeTree",
    "ReplacingMergeTree",
    "SummingMergeTree",
    "AggregatingMergeTree",
    "CollapsingMergeTree",
    "VersionedCollapsingMergeTree",
    "Memory",
    "Log",
    "TinyLog",
    "StripeLog",
    "Null",
    "Set",
    "Join",
    "Buffer",
    "Merge",
    "View",
    "MaterializedView",
    "GenerateRandom",
)
# For databases too. ClickHouse checks a grant only for engines that are sources; but EmbeddedRocksDB takes a folder, ExecutablePool a
# program.
_ALLOWED_ENGINES = {*ENGINES, "Atomic"}
PRIVILEGES = (
    "SHOW, SELECT, INSERT, ALTER, CREATE DATABASE, CREATE TABLE, CREATE TEMPORARY TABLE, CREATE VIEW, DROP, TRUNCATE, OPTIMIZE, KILL QUERY,"
    " SYSTEM MERGES"
)
# Settings that name a file or a server, or contain an expression as text.
FIXED = (
    "additional_result_filter",
    "additional_table_filters",
    "dialect",
    "filter",
    "format_avro_schema_registry_url",
    "format_schema",
    "format_schema_source",
    "format_template_resultset",
    "format_template_row",
    "order",
    "parallel_replicas_custom_key",
    "select",
    "sort",
)
# Data after VALUES are literals only: `reaches` does not see an expression there.
PLAIN = ("input_format_values_deduce_templates_of_expressions", "input_format_values_interpret_expressions")
# Functions that no grant covers: `file` as a scalar, `disk` in the settings of a table, and those that run their argument.
REACHING = {"catboostevaluate", "disk", "eval", "executable", "file", "python"}
# Table functions with a text that describes columns. The text may contain an expression, and may be built from pieces. `values` is one of
# them only in the place of a table, `format` only with the name of a format.
_DESCRIBED = {"input", "values", "format"}
_BEFORE_TABLES = {"from", "join", "describe", "desc", "table", "as", "function", "in", ",", "("}
# Kinds of tokens that may be the name of a function: some functions take a name as an argument (arrayMap, APPLY), without brackets.
_NAMED = {"word", "quoted"}
_TOKEN = re.compile(
    r"(?P<text>'(?:[^'\\]|\\.|'')*')|(?P<quoted>`(?:[^`\\]|\\.|``)*`|\"(?:[^\"\\]|\\.|\"\")*\")|(?P<word>\w+)|(?P<other>\S)",
    re.DOTALL,
)


def users(proof: str = "<password></password>") -> str:
    """ClickHouse's configuration of the only user, as XML. `proof` is the element for its password."""
    grants = [f"GRANT {PRIVILEGES} ON *.*", *(f"GRANT TABLE ENGINE ON {engine}" for engine in ENGINES)]
    queries = "".join(f"<query>{escape(grant)}</query>" for grant in grants)
    fixed = "".join(f"<{name}><const/></{name}>" for name in (*FIXED, *PLAIN))
    plain = "".join(f"<{name}>0</{name}>" for name in PLAIN)
    return (
        f"<profiles><default>{plain}<constraints>{fixed}</constraints></default></profiles><quotas><default/></quotas>"
        f"<users><default>{proof}<networks><ip>::/0</ip></networks>"
        f"<profile>default</profile><quota>default</quota><grants>{queries}</grants></default></users>"
    )


def _describes(function: str, before: str, kind_of_first: str) -> bool:
    if function == "values":
        return before in _BEFORE_TABLES
    return function in _DESCRIBED and (function == "input" or kind_of_first in {"word", "quoted"})


def reaches(normal: str, given: Iterable[str] = ()) -> str:
    """The first part of a statement that reaches outside; "" when nothing does. `normal` is the statement as formatQuery printed it,
    `given` are the values of its parameters."""
    tokens = [(found.lastgroup or "", found[0]) for found in _TOKEN.finditer(normal)]
    following = [*tokens[1:], ("", ""), ("", "")]
    before = ""
    for (kind, token), (kind_next, after), (kind_after, third) in zip(tokens, following, following[1:], strict=False):
        word = token.strip('`"').lower()
        if kind in _NAMED and after == "(" and (word in REACHING or _describes(word, before, kind_after)):
            return f"{word}()"
        before = token.lower()
        if kind == "word" and f"{word} {after.lower()}" in {"into outfile", "from infile"} and kind_after == "text":
            return f"{token} {after}"
        if (
            kind == "word"
            and word == "engine"
            and after == "="
            and kind_after in _NAMED
            and third not in _ALLOWED_ENGINES
        ):
            return f"ENGINE = {third}"
        if (
            kind == "word"
            and word == "identifier"
            and after == "}"
            and REACHING & {each.strip().lower() for each in given}
        ):
            return "the name in a parameter"
        if kind == "word" and word == "apply" and kind_next in _NAMED and after.strip('`"').lower() in REACHING:
            return f"APPLY {after}"
    return _as_argument(normal)


def _as_argument(normal: str) -> str:
    """A function that reaches outside, used as an argument of a call; "" when there is none. formatQuery prints a space before every other
    bracket: of a list of columns, of `IN (...)`."""
    calls: list[bool] = []
    before, end = "", 0
    for found in _TOKEN.finditer(normal):
        token = found[0]
        if token in {"(", "["}:
            touches = before not in {"", "(", "[", ","} and found.start() == end
            calls.append(touches or (before in {"(", "[", ","} and bool(calls) and calls[-1]))
        elif token in {")", "]"} and calls:
            calls.pop()
        elif calls and calls[-1] and before in {"(", "[", ","} and found.lastgroup in _NAMED:
            word, is_table = token.strip('`"').lower(), normal[found.end() : found.end() + 1] == "."
            if word in REACHING and not is_table:
                return f"{token} as an argument"
        before, end = token, found.end()
    return ""
