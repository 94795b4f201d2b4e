"""Metrics: counted once, under labels that nobody outside can make up."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from keelway import __version__
from keelway.errors import ErrorCode, InvalidInput
from keelway.observe.metrics import METRICS, STAGES, ServingMetrics, VersionMeters


def values(metrics: ServingMetrics, name: str) -> dict[tuple[str, ...], float]:
    """Label values (in the order of the declaration) -> value of every sample called ``name``."""
    declared = {metric.name: metric.labels for metric in METRICS}
    base = name.removesuffix("_count").removesuffix("_sum")
    return {
        tuple(sample.labels[label] for label in declared.get(name, declared.get(base, ()))): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
        if sample.name == name
    }


def meters(metrics: ServingMetrics) -> VersionMeters:
    return VersionMeters(metrics, "churn", "1.0.0", ["age", "city"])


def test_every_metric_is_there_with_its_help_and_buckets() -> None:
    # M1
    metrics = ServingMetrics()
    for metric in METRICS:
        kept = {"counter": metrics.counter, "gauge": metrics.gauge, "histogram": metrics.histogram}[metric.kind]
        assert kept(metric.name)._labelnames == metric.labels
        assert metric.help.endswith(".")
        assert (metric.kind == "histogram") == bool(metric.buckets)
        assert list(metric.buckets) == sorted(set(metric.buckets))
        assert metric.name.startswith("ml_")
        assert metric.kind != "counter" or metric.name.endswith("_total")
    assert len({metric.name for metric in METRICS}) == len(METRICS)


def test_a_fresh_server_shows_nothing_it_has_not_measured() -> None:
    # M2: an absent gauge is not 0.
    metrics = ServingMetrics(in_flight=lambda: 3)
    samples = {
        sample.name
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
        if sample.labels or sample.value
    }
    assert samples == {"ml_build_info", "ml_requests_in_flight"}
    assert values(metrics, "ml_requests_in_flight") == {(): 3}
    (build,) = values(metrics, "ml_build_info")
    assert build[0] == __version__


def test_servers_in_one_process_share_no_metric() -> None:
    first, second = ServingMetrics(), ServingMetrics()
    meters(first).answered("rest_v2", "OK", 0.1)
    assert values(second, "ml_requests_total") == {}


def test_each_answer_counts_once_under_its_outcome() -> None:
    # M1 M2
    metrics = ServingMetrics()
    kept = meters(metrics)
    for code in ("OK", "OK", ErrorCode.INVALID_ARGUMENT):
        kept.answered("rest_v2", code, 0.02)
    kept.answered("rest_v1", "OK", 3.0)
    assert values(metrics, "ml_requests_total") == {
        ("churn", "1.0.0", "rest_v2", "OK"): 2,
        ("churn", "1.0.0", "rest_v2", "INVALID_ARGUMENT"): 1,
        ("churn", "1.0.0", "rest_v1", "OK"): 1,
    }
    assert values(metrics, "ml_request_duration_seconds_count") == {
        ("churn", "1.0.0", "rest_v2"): 3,
        ("churn", "1.0.0", "rest_v1"): 1,
    }
    assert values(metrics, "ml_request_duration_seconds_sum")["churn", "1.0.0", "rest_v1"] == 3.0


def test_meters_made_twice_count_into_the_same_series() -> None:
    # R6: a version that is loaded again goes on where it was.
    metrics = ServingMetrics()
    for _ in range(2):
        meters(metrics).answered("rest_v2", "OK", 0.02)
    assert list(values(metrics, "ml_requests_total").values()) == [2]


def test_only_the_models_own_fields_become_labels() -> None:
    # M2
    metrics = ServingMetrics()
    kept = meters(metrics)
    for field in ("age", "age", "sentinel-4711", None, ""):
        kept.refused(field)
    assert values(metrics, "ml_validation_failures_total") == {
        ("churn", "1.0.0", "age"): 2,
        ("churn", "1.0.0", ""): 3,
    }


def test_stages_are_the_times_between_the_marks() -> None:
    # M1
    metrics = ServingMetrics()
    meters(metrics).stages([10.0, 11.0, 13.0, 16.0, 20.0, 25.0])
    without_cache = [stage for stage in STAGES if stage != "cache"]
    assert values(metrics, "ml_stage_duration_seconds_sum") == {
        ("churn", "1.0.0", stage): seconds for stage, seconds in zip(without_cache, [1, 2, 3, 4, 5], strict=True)
    }
    metrics = ServingMetrics()
    meters(metrics).stages([10.0, 11.0, 13.0, 16.0, 20.0, 25.0, 31.0])
    assert values(metrics, "ml_stage_duration_seconds_sum") == {
        ("churn", "1.0.0", stage): seconds for stage, seconds in zip(STAGES, [1, 2, 3, 4, 5, 6], strict=True)
    }


def test_what_the_cache_did_is_counted_by_version() -> None:
    # M1
    metrics = ServingMetrics()
    kept = meters(metrics)
    for result in ("hit", "miss", "hit"):
        kept.cached(result)
    assert values(metrics, "ml_cache_requests_total") == {("churn", "1.0.0", "hit"): 2, ("churn", "1.0.0", "miss"): 1}


def test_tags_and_refused_rows_are_counted() -> None:
    # M1 V1
    metrics = ServingMetrics()
    kept = meters(metrics)
    kept.tagged(["out_of_range:age", "unseen:city"])
    kept.tagged(["out_of_range:age"])
    kept.rows_refused(dict.fromkeys(range(3), InvalidInput("no", field="age")))
    kept.rows_refused(dict.fromkeys(range(2), InvalidInput("no", field="age")))
    assert values(metrics, "ml_input_tags_total") == {
        ("churn", "1.0.0", "out_of_range:age"): 2,
        ("churn", "1.0.0", "unseen:city"): 1,
    }
    assert values(metrics, "ml_rows_refused_total") == {("churn", "1.0.0"): 5}


@pytest.mark.parametrize("name", ["ml_batch_size", "ml_queue_delay_seconds"])
def test_sizes_and_waits_are_histograms_of_their_version(name: str) -> None:
    # M1
    metrics = ServingMetrics()
    kept = meters(metrics)
    {"ml_batch_size": kept.batch_size, "ml_queue_delay_seconds": kept.queue_delay}[name].observe(4)
    assert values(metrics, f"{name}_sum") == {("churn", "1.0.0"): 4}


def test_no_creation_times_double_the_page() -> None:
    metrics = ServingMetrics()
    meters(metrics).answered("rest_v2", "OK", 0.02)
    assert b"_created" not in metrics.render()
