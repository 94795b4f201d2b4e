"""Logs say what failed, where and in which request; the text of an exception, which may quote data, stays out."""

from __future__ import annotations

import io
import json
import logging
import math
from collections.abc import Iterator
from typing import Any

import pytest

from keelway.observe.logs import configure

SECRET = "sentinel-4711"
log = logging.getLogger("keelway.somewhere")


@pytest.fixture(autouse=True)
def _loggers_as_they_were() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("keelway", "uvicorn")]
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate = propagate


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def fail() -> None:
    try:
        raise KeyError(SECRET)
    except KeyError as error:
        raise ValueError(f"cannot use {SECRET}") from error


def log_a_failure() -> None:
    try:
        fail()
    except ValueError as error:
        log.error("a stage raised %s", type(error).__name__, exc_info=error, extra={"request_id": "r-1"})
        log.exception("and again")


def test_an_exceptions_text_never_reaches_the_log() -> None:
    # M3 R3: nor does that of the exception it came from.
    for form in ("json", "text"):
        stream = io.StringIO()
        configure("info", form, stream)
        log_a_failure()
        written = stream.getvalue()
        assert SECRET not in written
        assert "ValueError" in written
        assert "in fail" in written


def test_an_exception_formatted_by_others_before_is_not_taken_over() -> None:
    # M3: logging keeps the text of the first formatter on the record.
    stream = io.StringIO()
    configure("info", "text", stream)
    record = logging.LogRecord("keelway", logging.ERROR, "x.py", 1, "failed", (), None)
    try:
        fail()
    except ValueError as error:
        record.exc_info = (type(error), error, error.__traceback__)
    logging.Formatter().format(record)
    assert SECRET in (record.exc_text or "")
    logging.getLogger("keelway").handle(record)
    assert SECRET not in stream.getvalue()


def test_a_line_is_one_json_object_with_its_time_in_utc() -> None:
    # M3
    stream = io.StringIO()
    configure("info", "json", stream)
    log.warning("two\nlines of %s", "text", extra={"request_id": "r-1", "model": "churn", "share": math.nan})
    log_a_failure()
    first, second, third = lines(stream)
    assert first.pop("time").endswith("Z")
    assert first == {
        "level": "warning",
        "logger": "keelway.somewhere",
        "message": "two\nlines of text",
        "request_id": "r-1",
        "model": "churn",
        "share": None,
    }
    assert second["exception"].splitlines()[-1] == "ValueError"
    assert second["request_id"] == "r-1"
    assert "request_id" not in third


def test_what_json_has_no_word_for_is_written_as_text() -> None:
    stream = io.StringIO()
    configure("info", "json", stream)
    log.info("listening", extra={"address": object, "peers": {1: (2, 3)}})
    (line,) = lines(stream)
    assert "object" in line["address"]
    assert line["peers"] == {"1": [2, 3]}


@pytest.mark.parametrize(
    ("form", "stream", "is_json"),
    [
        ("json", Terminal(), True),
        ("text", io.StringIO(), False),
        ("auto", Terminal(), False),
        ("auto", io.StringIO(), True),
    ],
)
def test_auto_is_text_for_people_and_json_for_machines(form: str, stream: io.StringIO, is_json: bool) -> None:
    configure("info", form, stream)
    log.info("hello")
    assert stream.getvalue().startswith("{") == is_json
    assert stream.getvalue().rstrip().endswith("}" if is_json else "INFO keelway.somewhere: hello")


@pytest.mark.parametrize("level", ["warning", "WARNING"])
def test_only_what_is_severe_enough_is_written_and_only_once(level: str) -> None:
    stream = io.StringIO()
    for _ in range(2):
        configure(level, "text", stream)
    log.info("quiet")
    log.warning("loud")
    logging.getLogger("uvicorn.error").warning("too")
    assert [line.rpartition(" ")[2] for line in stream.getvalue().splitlines()] == ["loud", "too"]


def test_the_lines_of_a_worker_carry_its_number() -> None:
    # M3
    stream = io.StringIO()
    configure("info", "json", stream, worker=3)
    log.info("hello")
    (line,) = lines(stream)
    assert (line["worker"], line["message"]) == (3, "hello")
    text = io.StringIO()
    configure("info", "text", text, worker=3)
    log.info("hello")
    assert text.getvalue().rstrip().endswith("INFO worker=3 keelway.somewhere: hello")
