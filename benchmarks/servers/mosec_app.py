"""mosec with one worker process behind its own HTTP server. Run with ``--port PORT``.

With batching its worker is given a list of bodies, each of one row here."""

from __future__ import annotations

from typing import Any

import numpy as np
from mosec import Server, Worker

from benchmarks.servers.engine import BATCH, BATCH_SECONDS, load_probabilities


class Forest(Worker):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.probabilities = load_probabilities()

    def forward(self, data: Any) -> Any:
        if BATCH > 1:
            found = self.probabilities(np.array([one["instances"][0] for one in data], dtype=np.float32)).tolist()
            return [{"predictions": [row]} for row in found]
        return {"predictions": self.probabilities(np.array(data["instances"], dtype=np.float32)).tolist()}


if __name__ == "__main__":
    server = Server()
    wait = int(BATCH_SECONDS * 1000) if BATCH > 1 else 0
    server.append_worker(Forest, num=1, max_batch_size=BATCH, max_wait_time=wait)
    server.run()
