"""Logs: one JSON object a line (or text for people), with the request id where there is one, never a caller's value."""

from __future__ import annotations

import logging
import sys
import traceback
from typing import Any, TextIO

import msgspec

from keelway.clock import rfc3339

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


class _DiscreetFormatter(logging.Formatter):
    """Shows where an exception came from and its type, not its text: a model's may quote the caller's data."""

    def formatException(self, ei: Any) -> str:  # noqa: N802 - the standard library's name
        kind, _, trace = ei
        return "".join(traceback.format_tb(trace)) + (kind.__name__ if kind else "")

    def format(self, record: logging.LogRecord) -> str:
        record.exc_text = None  # what a formatter before this one wrote is kept there, text and all
        return super().format(record)


class JsonFormatter(_DiscreetFormatter):
    """Time (RFC 3339, UTC), level, logger, message and whatever ``extra`` holds."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": rfc3339(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(entry, enc_hook=str).decode()


class _Numbered(logging.Filter):
    """Writes the number of the worker into every record."""

    def __init__(self, worker: int) -> None:
        super().__init__()
        self._worker = worker

    def filter(self, record: logging.LogRecord) -> bool:
        record.worker = self._worker
        return True


def configure(level: str, form: str, stream: TextIO | None = None, worker: int | None = None) -> None:
    """Send the logs of keelway and uvicorn to ``stream`` (standard error). ``form`` is ``json``, ``text`` or ``auto``:
    text on a terminal, else JSON. Lines of one of several workers carry its number."""
    stream = stream or sys.stderr
    as_json = form == "json" or (form == "auto" and not stream.isatty())
    handler = logging.StreamHandler(stream)
    who = "" if worker is None else " worker=%(worker)d"
    handler.setFormatter(
        JsonFormatter() if as_json else _DiscreetFormatter(f"%(asctime)s %(levelname)s{who} %(name)s: %(message)s")
    )
    if worker is not None:
        handler.addFilter(_Numbered(worker))
    for name in ("keelway", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        # What uvicorn calls information, the app says itself.
        logger.setLevel(level.upper() if name == "keelway" else "WARNING")
        logger.propagate = False
