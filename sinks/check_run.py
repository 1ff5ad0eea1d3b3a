"""The order of a check, and the rule that keeps it right while messages flow.

Enters: checks, a way to look, and `await_passed`, which waits until both sinks have written what was in Kafka a moment ago. Leaves: one
result a check. Guaranteed: a difference counts only if it is still there after both sinks have passed the ends of the topics as they were
after it was found. Before that it may be a record that one store has and the other is about to write.
"""

from collections.abc import Callable, Sequence

from sinks.check_look import Databases, Look
from sinks.check_result import SHOWN, Check, CheckResult, Difference, Found

CHUNK = 5000  # differences of one look again

AwaitPassed = Callable[[], str]


def run_checks(
    checks: Sequence[Check], databases: Databases, await_passed: AwaitPassed
) -> tuple[list[CheckResult], str]:
    """All results, in the order of the checks, and why some are open: empty if none is. `await_passed` returns which sink is behind, or
    an empty text. Blocks for minutes on large databases. Raises Unavailable or NotMigrated."""
    with databases.look() as look:
        found = [check.first(look) for check in checks]
    doubtful = [n for n, check in enumerate(checks) if found[n].differences and not check.is_exact]
    if not doubtful:
        return [_final(check, each) for check, each in zip(checks, found, strict=True)], ""
    behind = await_passed()
    left = {n: found[n].differences for n in doubtful}
    for number in range(max(checks[n].looks for n in doubtful)):
        with databases.look() as look:
            for n in doubtful:
                if number < checks[n].looks:
                    left[n] = _again(checks[n], look, left[n])
    results = []
    for n, check in enumerate(checks):
        if n in left:
            again = Found(left[n], len(left[n]), found[n].compared)
            at_least = found[n].total > len(found[n].differences)
            results.append(_final(check, again, is_open=bool(behind), at_least=at_least))
        else:
            results.append(_final(check, found[n]))
    return results, behind if any(each.result == "open" for each in results) else ""


def _again(check: Check, look: Look, before: Sequence[Difference]) -> list[Difference]:
    chunks = (before[first : first + CHUNK] for first in range(0, len(before), CHUNK))
    return [each for chunk in chunks for each in check.again(look, chunk)]


def _final(check: Check, found: Found, *, is_open: bool = False, at_least: bool = False) -> CheckResult:
    shown = tuple(sorted(found.differences, key=lambda each: each.key)[:SHOWN])
    return CheckResult(check.name, found.compared, found.total, shown, at_least=at_least, is_open=is_open)
