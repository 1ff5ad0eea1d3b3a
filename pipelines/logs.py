"""Configures logging for every process: structlog, as console lines or as JSON. The standard library's loggers use the same output.

In: settings. Out: configured loggers. Guaranteed, in both formats: an exception is logged without values (schemas/tracebacks.py); a
configured secret is masked wherever it occurs (schemas/redaction.py); a line has at most LONGEST characters; an unreadable HTTP
request costs one line.
"""

import logging
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web import RequestPayloadError

from connectors import call_log
from schemas import tracebacks
from schemas.redaction import redactor
from schemas.settings import Settings

LONGEST = 16_000
FOREIGN = ("faust", "mode", "aiokafka", "_faust")
_EXCHANGES = {"all": logging.INFO, "failures": logging.WARNING, "none": logging.CRITICAL}


def configure(settings: Settings) -> None:
    """Configures logging. Call it once, before anything logs."""
    level = getattr(logging, settings.log_level.upper())
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    output = tracebacks.LogOutput()
    output.setFormatter(
        Formatter(
            redactor(settings),
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _without_values,
                _EXCEPTION,
                renderer,
            ],
        )
    )
    output.addFilter(RateLimit(FOREIGN))
    logging.basicConfig(level=level, handlers=[output], force=True)
    for name in (*FOREIGN, "aiohttp.access"):
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    logging.getLogger("aiohttp.server").addFilter(in_one_line)
    tracebacks.catch_all()
    _configure_exchanges(settings)


class Formatter(structlog.stdlib.ProcessorFormatter):
    """Cuts a rendered line to LONGEST characters and masks secrets in it."""

    def __init__(self, redact: Callable[[str], str], **processing: Any) -> None:
        super().__init__(**processing)
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        if len(line) > LONGEST:
            line = f"{line[:LONGEST]} [{len(line) - LONGEST} characters left out]"
        return self._redact(line)


def _without_values(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Replaces an exception that was passed as a value by one line."""
    return {
        name: tracebacks.described_error(value) if name != "exc_info" and isinstance(value, BaseException) else value
        for name, value in event.items()
    }


_EXCEPTION = structlog.processors.ExceptionRenderer(lambda found: tracebacks.formatted(found[1]))


class RateLimit:
    """A filter for libraries that log every retry: it passes one line of a kind in `seconds`. It applies to the loggers `names`."""

    def __init__(self, names: tuple[str, ...], seconds: float = 10.0) -> None:
        self._names = names
        self._seconds = seconds
        # (logger, text before its values) -> time of the last line; usually as many as the code has log statements
        self._logged_at: dict[tuple[str, str], float] = {}

    def filter(self, line: logging.LogRecord) -> bool:
        if line.name.partition(".")[0] not in self._names:
            return True
        kind, now = (line.name, str(line.msg)[:80]), time.monotonic()
        if now - self._logged_at.get(kind, -self._seconds) < self._seconds:
            return False
        if len(self._logged_at) >= 1000:  # some texts contain their values
            self._logged_at.clear()
        self._logged_at[kind] = now
        return True


def in_one_line(line: logging.LogRecord) -> bool:
    """A filter that logs an unreadable request (no HTTP, or a body that contradicts its headers) as one warning. It was answered 400; the
    exception is no error of ours, and it quotes the URL, which may contain a secret."""
    error = line.exc_info[1] if line.exc_info else None
    if isinstance(error, HttpProcessingError | RequestPayloadError):
        line.msg, line.args, line.exc_info = "request not readable: %s", (type(error).__name__,), None
        line.levelno, line.levelname = logging.WARNING, "WARNING"
    return True


def _configure_exchanges(settings: Settings) -> None:
    """The call log has its own level. Its lines are JSON already and are written unchanged in both formats."""
    call_log.LOGGER.setLevel(_EXCHANGES[settings.exchange_log])
    call_log.CALL_LOG.write = partial(os.write, sys.stderr.fileno())
