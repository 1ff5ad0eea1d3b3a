"""A stage's Faust app by the stage's name, for Faust's own command line: `faust -A pipelines.apps:route tables`.

Settings come from the environment, or from the running development stack. `python -m pipelines worker` stays the way to run one: it
looks at the topics first.
"""

from functools import cache
from typing import Any

from pipelines.app import build
from pipelines.stages import BUILDERS
from schemas.settings import MissingSetting, Settings


@cache
def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(name)
    if name not in BUILDERS:
        raise SystemExit(f"no stage {name!r}: faust -A pipelines.apps:STAGE with one of {', '.join(sorted(BUILDERS))}")
    settings = Settings()
    try:
        settings.require("kafka_url")
    except MissingSetting as error:
        raise SystemExit(str(error)) from error
    return build(BUILDERS[name](settings), settings)
