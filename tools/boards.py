"""Writes what is made from code in dashboards/: the Grafana boards, and Prometheus' rules for the objectives.

`python -m tools.boards` writes the files. A test fails while a file differs from what this module makes.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from tools.board_channels import channels
from tools.board_conversation import conversation
from tools.board_overview import overview
from tools.board_stages import stages
from tools.board_stores import stores
from tools.objective_rules import objective_rules

DASHBOARDS = Path(__file__).resolve().parents[1] / "dashboards"
BOARDS: Mapping[str, Callable[[], Dashboard]] = {
    "overview": overview,
    "channels": channels,
    "stages": stages,
    "stores": stores,
    "conversation": conversation,
}


def text_of(make: Callable[[], Dashboard]) -> str:
    """A board as the text of its file."""
    return json.dumps(_numbered(json.loads(JSONEncoder().encode(make().build()))), indent=1, ensure_ascii=False) + "\n"


def _numbered(board: dict[str, object]) -> dict[str, object]:
    """The board with an id for each panel, as Grafana gives them: links to a panel need one."""
    panels = board["panels"]
    assert isinstance(panels, list)  # noqa: S101  # a board of ours has panels
    for number, panel in enumerate(panels, 1):
        panel["id"] = number
    return board


def files() -> dict[Path, str]:
    """Every file that is made, with its text."""
    made = {DASHBOARDS / "grafana" / f"{name}.json": text_of(make) for name, make in BOARDS.items()}
    return made | {DASHBOARDS / "prometheus" / "rules" / "objectives.yml": objective_rules()}


def write() -> None:
    for path, text in files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path.relative_to(DASHBOARDS.parent)}")


if __name__ == "__main__":
    write()
