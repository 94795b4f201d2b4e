"""What wrk and h2load print, and which runs are refused."""

from __future__ import annotations

import pytest
from benchmarks.load import Refused, parse_h2load, parse_wrk

WRK = """Running 1s test @ http://127.0.0.1:1/
  1 threads and 16 connections
RESULT {"requests": 5000, "microseconds": 1000000, "p50": 1500.0, "p99": 4000.0, "status": 0, "socket": 0}
"""
H2LOAD = """Application protocol: h2c

finished in 1.00s, 6620.00 req/s, 737.84KB/s
requests: 6620 total, 6624 started, 6620 done, 6620 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 6620 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 737.84KB (755545) total, 19.69KB (20160) headers (space savings 96.24%), 355.57KB (364100) data
"""
LOG = "".join(f"1795691879676215\t200\t{microseconds}\n" for microseconds in range(1000, 2001, 10))


def test_wrk_gives_the_rate_and_milliseconds() -> None:
    assert parse_wrk(WRK) == (5000.0, 1.5, 4.0, 5000)


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ('"status": 0', '"status": 3', "3 replies other than 2xx"),
        ('"socket": 0', '"socket": 2', "2 socket errors"),
        ('"requests": 5000', '"requests": 0', "no request was answered"),
        ("RESULT", "nothing", "printed no result"),
    ],
)
def test_a_wrk_run_with_one_failure_is_refused(before: str, after: str, reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        parse_wrk(WRK.replace(before, after))


def test_h2load_gives_the_rate_and_the_percentiles_of_its_log() -> None:
    found = parse_h2load(H2LOAD, LOG, reply_size=50, connections=4)
    assert (found.rate, found.requests) == (6620.0, 6620)
    assert (round(found.p50, 3), round(found.p99, 3)) == (1.5, 1.99)


def test_an_h2load_run_with_errors_in_trailers_is_refused_by_the_bytes_it_received() -> None:
    # Errors in trailers carry no message: h2load still says 2xx and "succeeded".
    with pytest.raises(Refused, match="some answers are errors"):
        parse_h2load(H2LOAD.replace("(364100) data", "(364045) data"), LOG, 50, 4)
    with pytest.raises(Refused, match="some answers are errors"):
        parse_h2load(H2LOAD, LOG, 49, 4)


def test_h2load_may_cut_off_one_reply_of_each_connection_at_the_end() -> None:
    assert parse_h2load(H2LOAD.replace("(364100) data", "(364320) data"), LOG, 50, 4).requests == 6620
    with pytest.raises(Refused):
        parse_h2load(H2LOAD.replace("(364100) data", "(364321) data"), LOG, 50, 4)


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ("6620 succeeded, 0 failed", "6619 succeeded, 1 failed", "1 of 6620 requests did not succeed"),
        ("0 timeout", "1 timeout", "did not succeed"),
        (
            "6620 total, 6624 started, 6620 done, 6620 succeeded",
            "0 total, 0 started, 0 done, 0 succeeded",
            "no request",
        ),
        ("traffic", "nothing", "printed no result"),
    ],
)
def test_an_h2load_run_with_one_failure_is_refused(before: str, after: str, reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        parse_h2load(H2LOAD.replace(before, after), LOG, 50, 4)
