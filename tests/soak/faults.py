"""What goes wrong during a soak, by whom and when, and the proof that it was felt.

Three troublemakers work side by side: one at the Valkey that the servers share, one at the workers, one at the alias.
"""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from random import Random
from types import TracebackType
from typing import Any

from tests.serving import wait_until
from tests.soak.callers import Target
from tests.soak.models import FOREST, SLOW, VERSIONS
from tests.supervise.served import Shop, kill, read_metric
from tests.valkey import SlowWire, Valkey

#: What was done, and the counter of the servers that shows that it was felt.
FELT: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "Valkey stopped": ("ml_cache_store_requests_total", {"outcome": "timeout"}),
    "Valkey killed": ("ml_cache_store_requests_total", {"outcome": "error"}),
    "Valkey slow": ("ml_cache_store_requests_total", {"outcome": "timeout"}),
    "Valkey full": ("ml_cache_store_requests_total", {"outcome": "refused"}),
    "Valkey garbled": ("ml_cache_store_requests_total", {"outcome": "garbage"}),
    "worker killed": ("ml_worker_restarts_total", {"cause": "died"}),
    "workers reloaded": ("ml_worker_restarts_total", {"cause": "reload"}),
}
#: What has to have happened in the servers, or the load went past what it was made for.
USED: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "answers found in memory": ("ml_cache_requests_total", {"result": "hit"}),
    "answers found in Valkey": ("ml_cache_requests_total", {"result": "stored"}),
    "answers shared by equal requests": ("ml_cache_requests_total", {"result": "shared"}),
    "answers run": ("ml_cache_requests_total", {"result": "miss"}),
    "refused": ("ml_requests_shed_total", {}),
    "answers of the slow model run": ("ml_cache_requests_total", {"model": SLOW, "result": "miss"}),
    "answers of the forest run": ("ml_cache_requests_total", {"model": FOREST, "result": "miss"}),
    "rows of the slow model": ("ml_batch_size_sum", {"model": SLOW}),
    "runs of the slow model": ("ml_batch_size_count", {"model": SLOW}),
    "rows of the forest": ("ml_batch_size_sum", {"model": FOREST}),
    "runs of the forest": ("ml_batch_size_count", {"model": FOREST}),
}
REFUSALS = ("late", "limit", "queue_full", "displaced")
_SLOW = 2.0
#: Seconds that a reload of all workers may take under the load.
_RELOAD = 120.0


class Faults:
    """Makes trouble while it is entered. ``done`` counts it by kind; ``failed`` are errors of the troublemakers."""

    def __init__(self, shop: Shop, valkey: Valkey, wire: SlowWire, workers: Target, seconds: float, seed: int) -> None:
        self.done: Counter[str] = Counter()
        self.now: dict[str, str] = {}
        self.champion = VERSIONS[0]
        self.failed: list[str] = []
        #: What befell the workers, and when.
        self.events: list[str] = []
        self._shop = shop
        self._valkey = valkey
        self._wire = wire
        self._workers = workers
        self._over = threading.Event()
        #: Seconds that a fault of Valkey lasts, and the peace after it; and between two of the workers.
        self._hold = min(6.0, max(1.5, seconds / 30))
        self._apart = min(100.0, max(10.0, seconds / 6))
        self._threads = [
            threading.Thread(target=self._trouble, args=(work, Random(seed + place)), name=work.__name__)
            for place, work in enumerate((self.mistreat_valkey, self.end_workers, self.promote))
        ]

    def __enter__(self) -> Faults:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def unfelt(self, pages: Mapping[str, str]) -> list[str]:
        """Faults that none of the servers, by their ``pages`` of metrics, has noticed; and those that never came."""
        found = []
        for fault, (metric, labels) in FELT.items():
            if not self.done[fault]:
                found.append(f"{fault}: never happened")
            elif not sum(read_metric(page, metric, **labels) for page in pages.values()):
                found.append(f"{fault}: not felt")
        return found + [
            f"{what}: none"
            for what, (metric, labels) in USED.items()
            if not sum(read_metric(page, metric, **labels) for page in pages.values())
        ]

    def _trouble(self, work: Callable[[Random], None], random: Random) -> None:
        try:
            work(random)
        except Exception as error:  # noqa: BLE001 - a soak without its faults shows nothing, which the report says
            self.failed.append(f"{work.__name__}: {error!r}")

    def mistreat_valkey(self, random: Random) -> None:
        kinds: list[tuple[str, Callable[[], Any], Callable[[], Any]]] = [
            ("Valkey stopped", self._valkey.stop_answering, self._valkey.answer_again),
            ("Valkey killed", self._valkey.kill, self._valkey.start),
            ("Valkey slow", lambda: self._slow(_SLOW), lambda: self._slow(0.0)),
            ("Valkey full", lambda: self._most_memory(1), lambda: self._most_memory(0)),
            ("Valkey garbled", lambda: self._garble(random), lambda: None),
        ]
        while not self._over.is_set():
            random.shuffle(kinds)
            for name, begin, end in kinds:
                if self._over.wait(self._hold):
                    return
                self.now["valkey"] = name
                begin()
                self.done[name] += 1
                self._over.wait(self._hold)
                end()
                self.now.pop("valkey")

    def _slow(self, delay: float) -> None:
        self._wire.delay = delay

    def _most_memory(self, size: int) -> None:
        self._valkey.client.config_set("maxmemory", str(size))

    def _garble(self, random: Random) -> None:
        """Bytes changed, cut and lost, nonsense, and answers under the keys of others."""
        ends = time.monotonic() + self._hold
        while time.monotonic() < ends and not self._over.is_set():
            names = [name for name in self._valkey.client.scan_iter(count=500) if not name.endswith(b"lease")]
            for name in random.sample(names, min(len(names), 300)):
                value = self._valkey.client.get(name) or b"x"
                other = self._valkey.client.get(random.choice(names)) or b""
                place = random.randrange(len(value))
                changed = value[:place] + bytes([value[place] ^ 1 << random.randrange(8)]) + value[place + 1 :]
                bad = random.choice((changed, value[:place], value + b"\0", b"", random.randbytes(50), other))
                self._valkey.client.set(name, bad, px=20_000)
            self._over.wait(0.2)

    def end_workers(self, random: Random) -> None:
        """Two kills, then a reload of all of them, and so on; in a short soak they take turns."""
        turn = 0
        while not self._over.wait(self._apart * (0.9 + 0.2 * random.random())):
            turn += 1
            if turn % (3 if self._apart > 30 else 2):
                self._kill(random)
            else:
                self._reload()
            self._over.wait(3.0)
            self.now.pop("workers", None)

    def _kill(self, random: Random) -> None:
        self.now["workers"] = "killed"
        victims = self._workers.served.workers()
        self._workers.kills.append(time.monotonic())
        kill(random.choice(victims).pid)
        self.done["worker killed"] += 1
        self._note("worker killed")

    def _reload(self) -> None:
        """Returns when it is over, be it after the end of the soak: on a busy machine a worker loads for half a minute,
        and one that is killed meanwhile has died and not been reloaded."""
        self.now["workers"] = "reload"
        before = self._workers.served.pids()
        self._workers.served.signal(signal.SIGHUP)
        self.done["workers reloaded"] += 1
        self._note("workers reloaded")
        wait_until(lambda: not before & self._workers.served.pids(), "the reload to end", _RELOAD)

    def _note(self, event: str) -> None:
        self.events.append(f"{time.strftime('%H:%M:%S')} {event}")

    def promote(self, random: Random) -> None:
        while not self._over.wait(3 + 6 * random.random()):
            self.champion = VERSIONS[1 - VERSIONS.index(self.champion)]
            self._shop.promote(self.champion, FOREST)
            self.done[f"{FOREST} {self.champion} promoted"] += 1


def counted(page: str) -> dict[str, int]:
    """What a server has counted of ``USED``."""
    found = {what: int(read_metric(page, metric, **labels)) for what, (metric, labels) in USED.items()}
    reasons = {f"refused: {why}": int(read_metric(page, "ml_requests_shed_total", reason=why)) for why in REFUSALS}
    return found | reasons
