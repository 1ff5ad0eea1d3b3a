"""Takes the pictures of docs/views.md again: `python -m tests.support.view_screenshots [FOLDER]`; the default folder is docs/images.

Enters: nothing; it starts a stack of its own. Leaves: PNG files. Look at them before you commit them.
"""

import sys
import tempfile
from pathlib import Path

from tests.support.browser import started, window
from tests.support.source_tree import REPOSITORY
from tests.support.view_scenario import shop_stack

WIDE, PHONE = (1000, 920), (390, 844)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as data, shop_stack(Path(data) / "stack") as shown, started() as browser:
        pages = {
            "tables": "/tables/",
            "conversation": f"/conversations/{shown.conversation}",
            "row": f"/tables/conversations/{shown.conversation}",
        }
        for name, path in pages.items():
            for kind, size, dark in (("desktop", WIDE, False), ("phone", PHONE, False), ("dark", WIDE, True)):
                with window(browser, shown.asked, token=shown.token, size=size, dark=dark) as opened:
                    assert opened.open(path) == 200
                    opened.page.screenshot(path=folder / f"view-{name}-{kind}.png")
                    print(f"view-{name}-{kind}.png", (folder / f"view-{name}-{kind}.png").stat().st_size, "bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else REPOSITORY / "docs" / "images")
