"""The seams: what a stage needs from outside, as one-purpose protocols. Implementations live with their own kind.

Only seams with an implementation stand here; the design names more, and they arrive with their steps.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from keelway.types import Array, InferenceRecord, InferenceRequest, InferenceResponse, TensorSpec


class Runtime(Protocol):
    """A loaded model.

    ``inputs`` and ``outputs`` describe its tensors, batch axis included. ``run`` is given arrays of exactly those
    dtypes and ranks, and the wanted output names in order; it answers one array per name, or an awaitable of that.
    It is called from one thread at a time unless ``thread_safe``. Any exception it raises is the model's fault.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    thread_safe: bool

    def run(
        self, inputs: Mapping[str, Array], outputs: Sequence[str]
    ) -> Sequence[Array] | Awaitable[Sequence[Array]]: ...

    def close(self) -> None: ...


class RuntimeOptions(NamedTuple):
    """What the operator, not the model, decides about a runtime.

    ``threads`` is the number of compute threads a run may use. ``allowed_python`` holds the model digests whose
    Python code may be imported. ``trusted_types`` are the skops type names that may be built beyond skops' defaults.
    ``providers`` are ONNX Runtime execution providers, most wanted first.
    """

    threads: int = 1
    allowed_python: frozenset[str] = frozenset()
    trusted_types: frozenset[str] = frozenset()
    providers: tuple[str, ...] = ("CPUExecutionProvider",)


#: Loads a member of a pipeline, given its model digest. The caller owns and closes the runtime.
MemberLoader = Callable[[str], Runtime]


class RuntimeLoader(Protocol):
    """The entry point of a runtime (group ``keelway.runtimes``).

    ``folder`` holds the verified files of the manifest; ``manifest_options`` are the runtime options that are part of
    the model's digest.
    """

    def __call__(
        self,
        folder: Path,
        model_digest: str,
        manifest_options: Mapping[str, Any],
        options: RuntimeOptions,
        load_member: MemberLoader,
    ) -> Runtime: ...


class BatchMeters(Protocol):
    """What a batcher tells of itself. Called on the event loop; raises nothing."""

    def ran(self, rows: int) -> None:
        """A run of ``rows`` rows has ended."""
        ...

    def waited(self, seconds: float) -> None:
        """A request has waited so long for its first run to begin."""
        ...

    def shed(self, reason: str) -> None:
        """A request was refused: see ``ml_requests_shed_total``."""
        ...


class Encoded(NamedTuple):
    """A reply body. ``json_length`` is the length of the JSON part when binary tensors follow it."""

    body: bytes
    content_type: bytes
    json_length: int | None = None


class Codec(Protocol):
    """One wire format: bytes to a typed request, a typed response to bytes.

    ``header_length`` is the caller's ``Inference-Header-Content-Length``. ``parse`` raises ``MalformedRequest`` or
    ``InvalidInput``, never anything else, whatever the bytes are.
    """

    def parse(self, body: bytes, header_length: int | None) -> InferenceRequest: ...

    def encode(self, response: InferenceResponse, request: InferenceRequest) -> Encoded: ...


class RecordSink(Protocol):
    """Where inference records go, a batch at a time, off the request path and off the event loop."""

    def write(self, records: Sequence[InferenceRecord]) -> None: ...

    def close(self) -> None: ...
