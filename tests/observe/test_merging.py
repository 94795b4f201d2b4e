"""The metrics of several workers as one page: sums that never fall, gauges of the living, nothing made up. # M1 M2"""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from keelway.observe.merging import Ledger, Table, merge, page_registry, tables
from keelway.observe.metrics import METRICS, ServingMetrics, VersionMeters


def worker(in_flight: int = 0, requests: int = 0, seconds: float = 0.003) -> ServingMetrics:
    metrics = ServingMetrics(lambda: in_flight)
    meters = VersionMeters(metrics, "m", "1.0.0", ["age"])
    for _ in range(requests):
        meters.answered("rest_v1", "OK", seconds)
    metrics.gauge("ml_model_loaded").labels("m", "1.0.0").set(1)
    return metrics


def values(page: tuple[Table, ...]) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = generate_latest(page_registry(page)).decode()
    return {
        (one.name, tuple(sorted(one.labels.items()))): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }


def value(page: tuple[Table, ...], name: str, **labels: str) -> float:
    found = [v for (n, given_), v in values(page).items() if n == name and labels.items() <= dict(given_).items()]
    return sum(found) if found else math.nan


def test_one_worker_alone_is_shown_as_it_shows_itself() -> None:
    metrics = worker(2, 5)
    page = merge([tables(metrics.registry)])
    assert generate_latest(page_registry(page)) == metrics.render()


def test_both_formats_can_be_read_back() -> None:
    page = merge([tables(worker(1, 3).registry), tables(worker(2, 4).registry)])
    written = generate_openmetrics(page_registry(page)).decode()  # type: ignore[no-untyped-call]
    families = {family.name: family for family in parse_openmetrics(written)}
    assert families["ml_requests"].type == "counter"
    assert families["ml_request_duration_seconds"].type == "histogram"
    assert len(values(page)) == sum(len(family.samples) for family in families.values())


def test_counters_and_buckets_are_added_and_gauges_by_their_kind() -> None:
    page = merge([tables(worker(2, 3, 0.003).registry), tables(worker(5, 4, 0.3).registry)])
    assert value(page, "ml_requests_total", code="OK") == 7
    assert value(page, "ml_request_duration_seconds_count") == 7
    assert value(page, "ml_request_duration_seconds_bucket", le="0.005") == 3
    assert value(page, "ml_request_duration_seconds_bucket", le="0.5") == 7
    assert value(page, "ml_requests_in_flight") == 7
    assert value(page, "ml_model_loaded") == 1
    assert value(page, "ml_build_info") == 1


def test_a_gauge_that_no_worker_has_set_is_absent() -> None:
    page = merge([tables(worker().registry), tables(worker().registry)])
    assert math.isnan(value(page, "ml_cache_bytes"))
    assert math.isnan(value(page, "ml_workers"))


def test_of_several_certificates_the_one_that_expires_first_is_shown() -> None:
    early, late, without = worker(), worker(), worker()
    late.certificate_expires(2e9)
    early.certificate_expires(1e9)
    page = merge([tables(one.registry) for one in (without, late, early)])
    assert value(page, "ml_tls_certificate_expiry_timestamp_seconds", certificate="server") == 1e9


def test_every_gauge_says_what_several_workers_make_of_it() -> None:
    assert {metric.across for metric in METRICS} == {"sum", "largest", "smallest"}
    assert all(metric.across == "sum" for metric in METRICS if metric.kind != "gauge")


def test_what_a_worker_had_counted_outlives_it_and_what_it_had_under_way_does_not() -> None:
    ledger = Ledger()
    ledger.heard("a", tables(worker(3, 10).registry))
    ledger.heard("b", tables(worker(1, 5).registry))
    ledger.left("a")
    ledger.left("never heard of")
    assert value(ledger.page(), "ml_requests_total") == 15
    assert value(ledger.page(), "ml_requests_in_flight") == 1
    ledger.heard("c", tables(worker(0, 1).registry))
    ledger.left("b")
    assert value(ledger.page(), "ml_requests_total") == 16
    assert value(ledger.page(), "ml_requests_in_flight") == 0
    ledger.left("c")
    assert math.isnan(value(ledger.page(), "ml_requests_in_flight"))


class _Counting:
    """A worker that counts, and may be killed between two reports."""

    def __init__(self) -> None:
        self.metrics = worker()
        self.meters = VersionMeters(self.metrics, "m", "1.0.0", [])


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["count", "report", "die", "look"])), max_size=60))
def test_no_count_ever_falls_whoever_dies_when(events: list[tuple[int, str]]) -> None:
    ledger, workers, serial = Ledger(), [_Counting() for _ in range(3)], [0, 0, 0]
    last: dict[object, float] = {}
    reported = 0.0
    for which, what in [*events, (0, "look")]:
        one, name = workers[which], (which, serial[which])
        if what == "count":
            one.meters.answered("rest_v1", "OK", 0.003)
        elif what == "report":
            ledger.heard(name, tables(one.metrics.registry))
        elif what == "die":
            ledger.left(name)
            workers[which], serial[which] = _Counting(), serial[which] + 1
        else:
            now = {key: found for key, found in values(ledger.page()).items() if key[0].startswith("ml_request")}
            now = {key: found for key, found in now.items() if key[0] != "ml_requests_in_flight"}
            assert all(now.get(key, -1.0) >= found for key, found in last.items())
            last = now
            reported = max(reported, value(ledger.page(), "ml_requests_total"))
    counted = sum(1 for _, what in events if what == "count")
    assert math.isnan(reported) or reported <= counted
