"""The attack: `python -m tests.attack --seed 1 [--short]`, as in `make attack`; exits 1 after any finding. It uses the loopback only.

It starts a gateway with its own Kafka. 20 addresses attack it in all ways of tests/attack/attackers.py, while a good sender posts signed
webhooks from another address. It passes if the gateway's memory stays below 250 MB, the good sender keeps 0.7 of its undisturbed rate, no
answer is a 500, no bad request is accepted, and no log line contains a secret or a text. `--views URL` attacks a worker's views as well,
which must answer as before.
"""

import argparse
import os
import sys

from schemas import benchmark
from schemas.benchmark import Figure
from tests.attack.attack_run import LONG, MEMORY_MIB, RATIO, REFUSED_MS, SHORT, Report, Views, run


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--short", action="store_true", help="a tenth of everything; writes no benchmark")
    parser.add_argument("--views", default="", help="http://127.0.0.1:PORT/PATH of a worker's views to attack as well")
    parser.add_argument("--views-token-variable", default="", help="environment variable with the token of these views")
    given = parser.parse_args()
    views = Views(given.views, os.environ.get(given.views_token_variable, "")) if given.views else None
    report = run(seed=given.seed, size=SHORT if given.short else LONG, views=views)
    print("\n".join(report.lines()))
    if not given.short:
        path = benchmark.write("attack", f"make attack SEED={given.seed}", figures(report))
        print(f"written: {path.name}")
    sys.exit(1 if report.findings else 0)


def figures(report: Report) -> dict[str, Figure]:
    return {
        "memory of the gateway, at most": Figure(round(report.most_mib), "MiB", MEMORY_MIB),
        "memory of the gateway before": Figure(round(report.before_mib), "MiB"),
        "good sender, undisturbed": Figure(round(report.undisturbed, 1), "webhooks a second"),
        "good sender, under attack": Figure(round(report.attacked, 1), "webhooks a second"),
        "good sender, under attack to undisturbed": Figure(round(report.ratio, 2), "ratio", RATIO, "higher"),
        "good webhooks that were not taken": Figure(report.good_refused, "webhooks", 0, "lower"),
        "CPU of the gateway for a refused request": Figure(round(report.refused_ms, 2), "ms", REFUSED_MS),
        "answers 500": Figure(report.failures, "answers", 0, "lower"),
        "log lines of the gateway": Figure(report.log_lines, "lines"),
        "requests and connections of the attack": Figure(report.attempts, "requests"),
    }


if __name__ == "__main__":
    main()
