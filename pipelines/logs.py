"""One way of logging for every process: structlog, as console lines or as JSON, with the standard library's loggers going through it."""

import logging
import os
import sys
import time
from functools import partial

import structlog
from aiohttp.http_exceptions import HttpProcessingError

from connectors import exchange_log
from schemas.settings import Settings

FOREIGN = ("faust", "mode", "aiokafka", "_faust")
_EXCHANGES = {"all": logging.INFO, "failures": logging.WARNING, "none": logging.CRITICAL}


def configure(settings: Settings) -> None:
    """Sets logging up; to be called once, before anything logs."""
    level = getattr(logging, settings.log_level.upper())
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=False)
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    output = logging.StreamHandler(sys.stderr)
    output.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer]
        )
    )
    output.addFilter(Seldom(FOREIGN))
    logging.basicConfig(level=level, handlers=[output], force=True)
    for name in (*FOREIGN, "aiohttp.access"):
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    logging.getLogger("aiohttp.server").addFilter(is_no_bad_request)
    _configure_exchanges(settings)


class Seldom:
    """Lets one line of a kind pass in `seconds`, of these loggers: what tries again ten times a second says so ten times a second."""

    def __init__(self, names: tuple[str, ...], seconds: float = 10.0) -> None:
        self._names = names
        self._seconds = seconds
        self._said: dict[
            tuple[str, str], float
        ] = {}  # (logger, text before its values) -> when; as many as there are in the code

    def filter(self, line: logging.LogRecord) -> bool:
        if line.name.partition(".")[0] not in self._names:
            return True
        kind, now = (line.name, str(line.msg)[:80]), time.monotonic()
        if now - self._said.get(kind, -self._seconds) < self._seconds:
            return False
        if len(self._said) >= 1000:  # texts with their values in them
            self._said.clear()
        self._said[kind] = now
        return True


def is_no_bad_request(line: logging.LogRecord) -> bool:
    """Without the tracebacks of requests that are no HTTP: they were answered 400, and quote the URL with whatever secret is in it."""
    return not (line.exc_info and isinstance(line.exc_info[1], HttpProcessingError))


def _configure_exchanges(settings: Settings) -> None:
    """The exchange log has a level of its own, and its lines are JSON already: they go out as they are, whatever the format."""
    exchange_log.LOGGER.setLevel(_EXCHANGES[settings.exchange_log])
    exchange_log.EXCHANGES.write = partial(os.write, sys.stderr.fileno())
