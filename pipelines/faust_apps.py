"""A Faust app by its name (core, archive, analyse), for Faust's own command line: `faust -A pipelines.faust_apps:core tables`.

Settings come from the environment, or from the running development stack. To run a worker, use `python -m pipelines worker`: it checks
the topics first.
"""

from functools import cache
from typing import Any

from pydantic import ValidationError

from pipelines.app import build
from pipelines.stages import APPS, WORKERS, apps
from schemas.settings import MissingSetting, Settings, wrong


@cache
def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(name)
    if name not in APPS:
        raise SystemExit(f"no app {name!r}: faust -A pipelines.faust_apps:NAME with one of {', '.join(sorted(APPS))}")
    try:
        settings = Settings()
        settings.require("kafka_url")
        worker = name if name in WORKERS else "sinks"
        return build(next(stage for stage in apps(worker, settings) if stage.name == name), settings)
    except (ValidationError, MissingSetting) as error:
        raise SystemExit(wrong(error) if isinstance(error, ValidationError) else str(error)) from error
