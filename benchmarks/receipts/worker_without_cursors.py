"""`python -m benchmarks.receipts.worker_without_cursors worker core`: the product's worker of core, except that track keeps no cursors.

The product has no switch for it. The other arguments, settings and behaviour are those of `python -m pipelines`.
"""

import sys
from typing import Any

from pipelines import track
from pipelines.__main__ import main
from pipelines.track_cursors import CursorUpdates


class NoCursors(CursorUpdates):
    """Numbers no delivery, and moves nothing."""

    def number(self, *_: Any) -> int:
        return 0

    def move(self, *_: Any) -> None: ...

    def forget(self, *_: Any) -> None: ...

    def reply(self, *_: Any) -> None: ...


if __name__ == "__main__":
    setattr(track, CursorUpdates.__name__, NoCursors)  # for this process only
    sys.exit(main())
