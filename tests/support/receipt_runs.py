"""Many runs of a World, each judged: `python -m tests.support.receipt_runs --runs 200 --seed 1`; exits 1 at the first one that is wrong.

Out: one line a run, and the totals. A seed that fails here fails in the same way each time.
"""

import argparse
import sys
import time
import traceback
from collections import Counter

from tests.support.receipt_verdict import judge
from tests.support.receipt_world import World, a_long_world, a_world


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.support.receipt_runs", description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1, help="of the first run; each further one has the next")
    parser.add_argument("--messages", type=int, default=400, help="of a run, about")
    given = parser.parse_args()
    totals, began = Counter[str](), time.monotonic()
    for seed in range(given.seed, given.seed + given.runs):
        for world in (a_world(seed, messages=given.messages), a_long_world(seed)):
            if not is_right(world):
                print(f"seed {seed}: WRONG")
                sys.exit(1)
            totals += world.counts
            totals.update({"deliveries": len(world.watch.states), "records watched": world.watch.records})
        print(f"seed {seed}: {totals['deliveries']} deliveries so far, all as the reference says", flush=True)
    print(f"{given.runs} runs in {time.monotonic() - began:.0f} s: {dict(totals)}")


def is_right(world: World) -> bool:
    try:
        world.run()
        judge(world)
    except AssertionError:
        traceback.print_exc()
        return False
    return True


if __name__ == "__main__":
    main()
