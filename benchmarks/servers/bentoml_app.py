"""BentoML with one worker, an asynchronous method, and neither its metrics nor its access log."""

from __future__ import annotations

import bentoml
import numpy as np

from benchmarks.servers.engine import BATCH, load_probabilities


@bentoml.service(workers=1, traffic={"timeout": 30}, metrics={"enabled": False}, logging={"access": {"enabled": False}})
class Forest:
    def __init__(self) -> None:
        self.probabilities = load_probabilities()

    # It takes no batches of one, not even where it does not batch.
    @bentoml.api(batchable=BATCH > 1, max_batch_size=max(BATCH, 2), max_latency_ms=10_000)
    async def predict(self, instances: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        found: np.ndarray = self.probabilities(instances.astype(np.float32))  # type: ignore[type-arg]
        return found
