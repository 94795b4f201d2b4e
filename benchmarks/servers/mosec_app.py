"""mosec with one worker process behind its own HTTP server, without batching. Run with ``--port PORT``."""

from __future__ import annotations

from typing import Any

import numpy as np
from mosec import Server, Worker

from benchmarks.servers.engine import load_probabilities


class Forest(Worker):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.probabilities = load_probabilities()

    def forward(self, data: Any) -> dict[str, Any]:
        return {"predictions": self.probabilities(np.array(data["instances"], dtype=np.float32)).tolist()}


if __name__ == "__main__":
    server = Server()
    server.append_worker(Forest, num=1)
    server.run()
