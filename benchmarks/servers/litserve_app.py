"""LitServe with one worker and one API server.

With batching it stacks what ``decode_request`` gives, and hands out the rows of what ``predict`` answers: a request has
one row there."""

from __future__ import annotations

import sys
from typing import Any

import litserve
import numpy as np

from benchmarks.servers.engine import BATCH, BATCH_SECONDS, load_probabilities


class Forest(litserve.LitAPI):  # type: ignore[misc]
    def setup(self, device: str) -> None:
        self.probabilities = load_probabilities()

    # LitServe wants this very name, and takes a body only where no type is given.
    def decode_request(self, request):  # type: ignore[no-untyped-def]
        rows = np.array(request["instances"], dtype=np.float32)
        return rows[0] if BATCH > 1 else rows

    def predict(self, rows: Any) -> Any:
        return self.probabilities(rows)

    def encode_response(self, output: Any) -> dict[str, Any]:
        return {"predictions": np.atleast_2d(output).tolist()}


if __name__ == "__main__":
    api = Forest(max_batch_size=BATCH, batch_timeout=BATCH_SECONDS) if BATCH > 1 else Forest()
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(
        port=int(sys.argv[1]),
        host="127.0.0.1",
        num_api_servers=1,
        generate_client_file=False,
        log_level="warning",
    )
