"""API keys with several workers: what holds in one holds in all, and what holds no more holds in none. # U1"""

from __future__ import annotations

import signal
import threading
import time

import pytest
from tests.credentials import KEYS, SECRET
from tests.serving import wait_until
from tests.supervise.served import START, WHO, Served, Shop
from tests.wire import ask, predict_bytes

from keelway.config import Settings, load_settings
from keelway.errors import FailedPrecondition
from keelway.guard.keys import digest_of, make_key
from keelway.supervise.supervisor import unmoved
from keelway.types import StoredKey


def create(shop: Shop, name: str, *scopes: str) -> str:
    made = make_key()
    digest = digest_of(made.text.encode(), SECRET.encode())
    with shop.registry() as registry:
        registry.keys.create(StoredKey(made.id, name, digest, scopes or ("predict:*",)), **WHO)
    return made.text


def statuses(served: Served, key: str, connections: int = 8) -> set[int]:
    """Over connections open at the same time: every worker has some of them."""
    wires = [served.wire() for _ in range(connections)]
    replies = [wire.ask(predict_bytes(("X-API-Key", key))) for wire in wires]
    for wire in wires:
        wire.close()
    return {reply.status for reply in replies}


@pytest.mark.slow
def test_a_key_is_known_to_all_workers_and_gone_from_all_within_two_seconds_under_load(shop: Shop) -> None:
    first = create(shop, "first")
    sections = {"auth": {**KEYS, "max_failures": 10**6}, "audit": {"file": str(shop.folder / "audit")}}
    with shop.served(workers=2, **sections) as served:
        assert statuses(served, first) == {200}
        second = create(shop, "second", "predict:m", "metrics")
        wait_until(lambda: statuses(served, second) == {200}, "the key to be known", 2.0)
        ended, seen = threading.Event(), []

        def keep_asking() -> None:
            with served.wire() as wire:
                while not ended.is_set():
                    status = wire.ask(predict_bytes(("X-API-Key", first))).status
                    seen.append((time.monotonic(), status))

        threads = [threading.Thread(target=keep_asking) for _ in range(6)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        with shop.registry() as registry:
            registry.keys.revoke("first", **WHO)
        revoked = time.monotonic()
        time.sleep(2.5)
        ended.set()
        for thread in threads:
            thread.join()
        assert max(at for at, status in seen if status == 200) - revoked < 2
        assert {status for at, status in seen if at > revoked + 2} == {401}
        assert statuses(served, second) == {200}
        # A worker that takes the place of another knows the keys as they are now.
        for worker in served.workers()[:1]:
            worker.kill()
        wait_until(lambda: len(served.workers()) == 2 and statuses(served, second) == {200}, "a new worker", START)
        assert statuses(served, first) == {401}
        metrics = ask(served.url + "/metrics", "GET", headers={"X-API-Key": second}).body.decode()
        assert 'ml_auth_failures_total{reason="key"}' in metrics
        served.signal(signal.SIGTERM)
        served.exit()
    with shop.registry() as registry:
        used = {key.name: key.last_used_at for key in registry.keys.list()}
    assert used["second"] is not None
    assert abs(used["second"] - time.time()) < 120
    text = (shop.folder / "audit").read_text()
    assert text.count('"key_gone"') == 1
    assert first not in text


def test_a_reload_does_not_open_the_door_by_mistake() -> None:
    closed = load_settings(None, {}, {"auth": {"key_secret": SECRET}})
    for new, old in ((Settings(), closed), (closed, Settings())):
        with pytest.raises(FailedPrecondition, match="restart"):
            unmoved(new, old)
    assert unmoved(closed, closed).auth == closed.auth
