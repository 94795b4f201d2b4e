"""The cache of answers that the settings ask for, with its metrics."""

from __future__ import annotations

import random

from keelway import __version__
from keelway.cache.answers import AnswerCache
from keelway.cache.memory import MemoryStore
from keelway.clock import Clock
from keelway.config import Settings
from keelway.observe.metrics import ServingMetrics


def answer_cache(settings: Settings, metrics: ServingMetrics, clock: Clock) -> AnswerCache | None:
    """The cache that ``settings`` ask for, with its metrics. Raises ``FailedPrecondition`` if it needs redis-py and
    there is none, or the URL is none. A Redis that is away is no reason not to start."""
    wanted = settings.cache
    if not wanted.enabled:
        return None
    evictions = metrics.counter("ml_cache_evictions_total")
    asked = metrics.counter("ml_cache_store_requests_total")
    is_open = metrics.gauge("ml_cache_store_open")

    def noted(operation: str, outcome: str) -> None:
        asked.labels(operation, outcome).inc()

    memory = MemoryStore(
        wanted.max_bytes, wanted.max_value_bytes, clock, lambda reason: evictions.labels("memory", reason).inc()
    )
    metrics.gauge("ml_cache_bytes").labels("memory").set_function(lambda: memory.size)
    metrics.gauge("ml_cache_entries").labels("memory").set_function(lambda: len(memory))
    store = None
    if wanted.redis_url:
        from keelway.cache.redis import RedisStore
        from keelway.remote.redis import RedisLink

        is_open.labels("redis").set(0)
        link = RedisLink(
            wanted.redis_url,
            clock,
            timeout=wanted.redis_timeout,
            failures=wanted.redis_failures,
            pause=wanted.redis_pause,
            setting="cache.redis_url",
            what="the cache store",
            noted=noted,
            turned=lambda opened: is_open.labels("redis").set(opened),
        )
        store = RedisStore(link, wanted.max_value_bytes)
    # Another release, or another kind of processor, may answer in other digits.
    salt = (__version__, *settings.runtime.providers)
    return AnswerCache(wanted, memory, clock, random.random, salt, store, noted)
