"""Prometheus metrics of serving. ``METRICS`` lists them all and is the source of ``docs/reference/metrics.md``.

Children are looked up once per version and kept: ``labels()`` costs four times the increment. Labels are bounded: only
models that are served, fields of their signatures and codes of ``ErrorCode`` ever become label values.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics
from prometheus_client.exposition import generate_latest

from keelway import __version__
from keelway.contract.signature import ModelSignature
from keelway.observe.histograms import Histogram, Observations

_LATENCY = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_STAGE = (0.000002, 0.000005, 0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.001, 0.01, 0.1, 1.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 8192)
_LOAD = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)

# A creation time beside every series doubles the page and tells nobody anything.
disable_created_metrics()  # type: ignore[no-untyped-call]

#: Stages whose durations are measured, in the order of the request line. Not every server has a cache.
STAGES: Final = ("parse", "bind", "validate", "cache", "run", "encode")


class Metric(NamedTuple):
    """``kind`` is counter, gauge or histogram; ``buckets`` only for the last, in the metric's unit. ``across``:
    what a gauge of several workers is, their sum, the largest or the smallest."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str
    buckets: tuple[float, ...] = ()
    across: str = "sum"


METRICS: Final = (
    Metric("ml_requests_total", "counter", ("model", "version", "transport", "code"), "Inference requests answered."),
    Metric(
        "ml_request_duration_seconds",
        "histogram",
        ("model", "version", "transport"),
        "From the whole request read to its answer encoded.",
        _LATENCY,
    ),
    Metric(
        "ml_stage_duration_seconds",
        "histogram",
        ("model", "version", "stage"),
        "Stages of one request in sixteen. Of requests that share a run, run has the validation of all.",
        _STAGE,
    ),
    Metric(
        "ml_cache_requests_total",
        "counter",
        ("model", "version", "result"),
        "Requests that came to the cache, and what it did for them.",
    ),
    Metric("ml_cache_bytes", "gauge", ("store",), "Memory that cached answers take."),
    Metric("ml_cache_entries", "gauge", ("store",), "Cached answers, expired ones among them."),
    Metric("ml_cache_evictions_total", "counter", ("store", "reason"), "Cached answers that went."),
    Metric(
        "ml_cache_store_requests_total",
        "counter",
        ("operation", "outcome"),
        "Questions to the store that servers share.",
    ),
    Metric(
        "ml_cache_store_open",
        "gauge",
        ("store",),
        "1 while that store does not answer and is not asked.",
        across="largest",
    ),
    Metric("ml_batch_size", "histogram", ("model", "version"), "Rows given to the model in one run.", _ROWS),
    Metric(
        "ml_queue_delay_seconds",
        "histogram",
        ("model", "version"),
        "Wait of a request for a slot of a model that runs in worker threads.",
        _LATENCY,
    ),
    Metric("ml_rows_refused_total", "counter", ("model", "version"), "Rows refused beside good rows of their request."),
    Metric(
        "ml_validation_failures_total",
        "counter",
        ("model", "version", "field"),
        "Requests or rows refused for the value of a field.",
    ),
    Metric(
        "ml_input_tags_total",
        "counter",
        ("model", "version", "tag"),
        "Requests with something unusual: a value outside what the sample showed, a value clipped or flagged by a "
        "declared constraint, an anomaly that is told.",
    ),
    Metric(
        "ml_anomalies_total",
        "counter",
        ("model", "version", "detector"),
        "Rows that a detector has found unlike the sample, told to the caller or not, refused or not.",
    ),
    Metric("ml_requests_in_flight", "gauge", (), "Requests being answered now."),
    Metric(
        "ml_requests_shed_total",
        "counter",
        ("reason",),
        "Requests refused for want of capacity: `limit` (too many at once, before they were read), `late` (the "
        "deadline would have passed), `queue_full`, `displaced` (a batch request made room for an interactive one).",
    ),
    Metric(
        "ml_rate_limited_total",
        "counter",
        ("rule", "scope"),
        "Requests refused by a rate limit, or because too many of the principal's were under way, and for whom that is "
        "counted.",
    ),
    Metric("ml_rate_limit_callers", "gauge", ("rule",), "Callers that a rate limit counts apart in memory."),
    Metric(
        "ml_rate_limit_store_requests_total",
        "counter",
        ("operation", "outcome"),
        "Questions to the store of rate limits.",
    ),
    Metric(
        "ml_rate_limit_store_open",
        "gauge",
        ("store",),
        "1 while that store does not answer and is not asked.",
        across="largest",
    ),
    Metric(
        "ml_auth_failures_total",
        "counter",
        ("reason",),
        "Callers that were not let in: `missing` credentials, `malformed`, `conflict` (more than one, not the same), "
        "`key`, `expired`, `signature`, `claims`, `signing_keys` (the issuer's are not known), `limited` (the address "
        "has failed too often); or not to what they asked for: `scope`.",
    ),
    Metric("ml_queue_rows", "gauge", ("model", "version"), "Rows waiting for a slot of a model now."),
    Metric("ml_concurrency_limit", "gauge", (), "Requests that may be answered at once now."),
    Metric("ml_model_load_seconds", "histogram", ("model",), "Time to verify, load and warm up a version.", _LOAD),
    Metric("ml_model_loaded", "gauge", ("model", "version"), "1 for each version that is loaded.", across="largest"),
    Metric("ml_records_dropped_total", "counter", (), "Inference records dropped because the ring was full."),
    Metric("ml_records_written_total", "counter", (), "Inference records handed to the sink."),
    Metric("ml_audit_dropped_total", "counter", (), "Lines of the audit log that were lost: the disk was full, say."),
    Metric(
        "ml_source_up",
        "gauge",
        (),
        "1 while what should be served can be read, in the registry; at 0 what is loaded goes on being served.",
        across="smallest",
    ),
    Metric("ml_workers", "gauge", ("state",), "Workers, where there are several."),
    Metric("ml_worker_restarts_total", "counter", ("cause",), "Workers that took the place of another."),
    Metric(
        "ml_tls_certificate_expiry_timestamp_seconds",
        "gauge",
        ("certificate",),
        "When the server's certificate expires, in seconds since 1970; of several workers, the first that does.",
        across="smallest",
    ),
    Metric(
        "ml_build_info",
        "gauge",
        ("version", "python"),
        "Always 1; the version of keelway and of Python.",
        across="largest",
    ),
)


class Version(Protocol):
    """What is needed of a served version."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def signature(self) -> ModelSignature: ...


class ServingMetrics:
    """All metrics of one server, in a registry of their own."""

    def __init__(
        self, in_flight: Callable[[], int] = lambda: 0, concurrency_limit: Callable[[], int] = lambda: 0
    ) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        self._versions: dict[tuple[str, str], VersionMeters] = {}
        for metric in METRICS:
            name, text, labels = metric.name, metric.help, metric.labels
            match metric.kind:
                case "counter":
                    self._counters[name] = Counter(name, text, labels, registry=self.registry)
                case "gauge":
                    self._gauges[name] = Gauge(name, text, labels, registry=self.registry)
                case _:
                    self._histograms[name] = Histogram(name, text, labels, metric.buckets, self.registry)
        self.gauge("ml_requests_in_flight").set_function(in_flight)
        self.gauge("ml_concurrency_limit").set_function(concurrency_limit)
        self.gauge("ml_build_info").labels(__version__, platform.python_version()).set(1)

    def counter(self, name: str) -> Counter:
        return self._counters[name]

    def gauge(self, name: str) -> Gauge:
        return self._gauges[name]

    def histogram(self, name: str) -> Histogram:
        return self._histograms[name]

    def of(self, version: Version | None = None) -> VersionMeters:
        """Meters of a version; without one those of requests that never reached any, under empty labels."""
        key = (version.name, version.version) if version else ("", "")
        meters = self._versions.get(key)
        if meters is None:
            fields = [feature.name for feature in version.signature.features] if version else []
            meters = self._versions[key] = VersionMeters(self, *key, fields)
        return meters

    def certificate_expires(self, at: float) -> None:
        """The server's certificate expires at ``at``, in seconds since 1970."""
        self.gauge("ml_tls_certificate_expiry_timestamp_seconds").labels("server").set(at)

    def render(self) -> bytes:
        """The Prometheus text format, version 0.0.4."""
        return generate_latest(self.registry)


class RunMeters:
    """What the batcher of one version tells (``keelway.ports.BatchMeters``)."""

    def __init__(self, metrics: ServingMetrics, model: str, version: str) -> None:
        self._shed = metrics.counter("ml_requests_shed_total")
        self._batch_size = metrics.histogram("ml_batch_size").labels(model, version)
        self._queue_delay = metrics.histogram("ml_queue_delay_seconds").labels(model, version)

    def ran(self, rows: int) -> None:
        self._batch_size.observe(rows)

    def waited(self, seconds: float) -> None:
        self._queue_delay.observe(seconds)

    def shed(self, reason: str) -> None:
        self._shed.labels(reason).inc()


class VersionMeters:
    """The kept children of one version's metrics. ``fields`` bounds the values of the ``field`` label."""

    def __init__(self, metrics: ServingMetrics, model: str, version: str, fields: Sequence[str]) -> None:
        self._metrics = metrics
        self._labels = (model, version)
        self._fields = frozenset(fields)
        self._requests: dict[tuple[str, str], tuple[Counter, Observations]] = {}
        self._stages = self._histograms_of([name for name in STAGES if name != "cache"])
        self._stages_with_cache: Sequence[Observations] = ()
        self._tags: dict[str, Counter] = {}
        self._cached: dict[str, Counter] = {}
        self.batch_size = metrics.histogram("ml_batch_size").labels(model, version)
        self.queue_delay = metrics.histogram("ml_queue_delay_seconds").labels(model, version)

    def answered(self, transport: str, code: str, duration: float) -> None:
        """Count one request with its outcome; ``duration`` in seconds."""
        meters = self._requests.get((transport, code))
        if meters is None:
            counter = self._metrics.counter("ml_requests_total").labels(*self._labels, transport, code)
            durations = self._metrics.histogram("ml_request_duration_seconds").labels(*self._labels, transport)
            meters = self._requests[transport, code] = (counter, durations)
        meters[0].inc()
        meters[1].observe(duration)

    def stages(self, times: Sequence[float]) -> None:
        """``times`` are the moments between the stages of ``STAGES``, with or without the cache, one more than there
        are stages, in seconds."""
        stages = self._stages
        if len(times) > len(STAGES):
            stages = self._stages_with_cache = self._stages_with_cache or self._histograms_of(STAGES)
        for position, histogram in enumerate(stages):
            histogram.observe(times[position + 1] - times[position])

    def _histograms_of(self, stages: Sequence[str]) -> Sequence[Observations]:
        family = self._metrics.histogram("ml_stage_duration_seconds")
        return [family.labels(*self._labels, name) for name in stages]

    def tagged(self, tags: Sequence[str]) -> None:
        for tag in tags:
            counter = self._tags.get(tag)
            if counter is None:
                counter = self._metrics.counter("ml_input_tags_total").labels(*self._labels, tag)
                self._tags[tag] = counter
            counter.inc()

    def anomalous(self, rows: Mapping[str, int]) -> None:
        """Count rows by detector, whose names are words of ours."""
        for detector, count in rows.items():
            self._metrics.counter("ml_anomalies_total").labels(*self._labels, detector).inc(count)

    def cached(self, result: str) -> None:
        """Count a request that came to the cache; ``result`` is a word of ours, empty where there is no cache."""
        if not result:
            return
        counter = self._cached.get(result)
        if counter is None:
            counter = self._metrics.counter("ml_cache_requests_total").labels(*self._labels, result)
            self._cached[result] = counter
        counter.inc()

    def refused(self, field: str | None) -> None:
        """Count a validation failure; a field that is not the model's own counts under an empty name."""
        name = field if field in self._fields else ""
        self._metrics.counter("ml_validation_failures_total").labels(*self._labels, name).inc()

    def rows_refused(self, errors: Mapping[int, Exception]) -> None:
        """Count rows that were refused beside good ones, and what is wrong with them."""
        if not errors:
            return
        self._metrics.counter("ml_rows_refused_total").labels(*self._labels).inc(len(errors))
        for error in errors.values():
            self.refused(getattr(error, "field", None))
