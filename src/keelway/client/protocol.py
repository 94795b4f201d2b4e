"""The seam between what a caller asks and how a protocol says it. Implemented by ``rest.py`` and ``rpc.py``.

Pure: a method makes a request and says how to read its reply; connections of the same protocol carry them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from keelway.client.attempts import Call
from keelway.client.results import Inference, ModelMetadata, Predictions, ServerMetadata
from keelway.types import Tensor


class WireProtocol(Protocol):
    """Arguments are checked and plain (``values.py``). ``version`` and ``model`` empty: not said."""

    def predict(self, model: str, rows: Sequence[Mapping[str, Any]], version: str) -> Call[Predictions]: ...

    def infer(
        self, model: str, inputs: Sequence[Tensor], outputs: Sequence[str], version: str, id: str
    ) -> Call[Inference]: ...

    def metadata(self, model: str, version: str) -> Call[ModelMetadata]: ...

    def ready(self, model: str, version: str) -> Call[bool]: ...

    def live(self) -> Call[bool]: ...

    def server_metadata(self) -> Call[ServerMetadata]: ...
