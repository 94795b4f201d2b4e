"""The gate and the rate limits that the settings ask for, with their metrics."""

from __future__ import annotations

from typing import cast

from keelway.clock import Clock
from keelway.config import Settings
from keelway.errors import FailedPrecondition
from keelway.guard.addresses import Header, Proxies
from keelway.guard.admission import Admission
from keelway.guard.gate import Gate
from keelway.guard.rate_rules import parse_rules
from keelway.guard.ratelimit import OnFailure, RateLimiter
from keelway.observe.metrics import ServingMetrics
from keelway.ports import LimitStore


def gate(settings: Settings, admission: Admission, metrics: ServingMetrics, clock: Clock) -> Gate:
    """The gate that ``settings`` ask for, with its metrics. Raises as ``rate_limiter``, and ``InvalidInput`` for a
    proxy that is no network."""
    wanted = settings.rate_limits
    limited = metrics.counter("ml_rate_limited_total")
    return Gate(
        admission,
        rate_limiter(settings, metrics, clock),
        Proxies(wanted.trusted_proxies, cast(Header, wanted.proxy_header)),
        settings.limits.max_in_flight_per_principal,
        lambda: limited.labels("max_in_flight_per_principal", "principal").inc(),
    )


def check_rate_limits(settings: Settings, clock: Clock) -> None:
    """Raises what ``gate`` does, for whoever only starts those that have one."""
    gate(settings, Admission(1), ServingMetrics(), clock)


def rate_limiter(settings: Settings, metrics: ServingMetrics, clock: Clock) -> RateLimiter | None:
    """The rate limits that ``settings`` ask for. Raises ``InvalidInput`` for what is no rule, and
    ``FailedPrecondition`` if rules cannot be kept: several workers would each count for themselves, or the store cannot
    be asked at all. One that is away is no reason not to start."""
    wanted = settings.rate_limits
    rules = parse_rules(wanted.rules)
    if not rules:
        return None
    if not wanted.store and settings.serving.workers > 1:
        raise FailedPrecondition(
            "each of several workers would count rate limits for itself",
            field="rate_limits.store",
            hint="set rate_limits.store to a Redis that they share, or to `memory` if that is meant",
        )
    limited = metrics.counter("ml_rate_limited_total")
    store = None if wanted.store in ("", "memory") else _limit_store(settings, metrics, clock)
    limiter = RateLimiter(
        rules,
        clock,
        most=wanted.max_callers,
        store=store,
        on_failure=cast(OnFailure, wanted.on_failure),
        noted=lambda rule: limited.labels(rule.text, rule.scope).inc(),
    )
    callers = metrics.gauge("ml_rate_limit_callers")
    for rule, windows in limiter.counted:
        callers.labels(rule.text).set_function(windows.__len__)
    return limiter


def _limit_store(settings: Settings, metrics: ServingMetrics, clock: Clock) -> LimitStore:
    from keelway.guard.ratelimit_redis import RedisLimitStore
    from keelway.remote.redis import RedisLink

    wanted = settings.rate_limits
    asked = metrics.counter("ml_rate_limit_store_requests_total")
    is_open = metrics.gauge("ml_rate_limit_store_open")
    is_open.labels("redis").set(0)
    link = RedisLink(
        wanted.store,
        clock,
        timeout=wanted.redis_timeout,
        failures=wanted.redis_failures,
        pause=wanted.redis_pause,
        setting="rate_limits.store",
        what="the store of rate limits",
        noted=lambda operation, outcome: asked.labels(operation, outcome).inc(),
        turned=lambda opened: is_open.labels("redis").set(opened),
    )
    return RedisLimitStore(link)
