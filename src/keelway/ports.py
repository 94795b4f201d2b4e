"""The seams: what a stage needs from outside, as one-purpose protocols. Implementations live with their own kind.

Only seams with an implementation stand here; the design names more, and they arrive with their steps.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from keelway.types import Array, InferenceRecord, InferenceRequest, InferenceResponse, StoredKey, TensorSpec


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


class Exemplary(Protocol):
    """A ``Runtime`` that would refuse the zeros and empty texts of a warm-up, and says what a row looks like instead:
    one for each of the inputs it names, batch axis included. What it is sent may be of any size, so that the time which
    the example takes says nothing: it runs in worker threads."""

    examples: Mapping[str, Array]


class RuntimeOptions(NamedTuple):
    """What the operator, not the model, decides about a runtime.

    ``threads`` is the number of compute threads a run may use. ``allowed_python`` holds the model digests whose
    Python code may be imported. ``trusted_types`` are the skops type names that may be built beyond skops' defaults.
    ``providers`` are ONNX Runtime execution providers, most wanted first. ``share_weights``: weights in files of their
    own are mapped, so that processes share them, and not copied into an order that is faster.
    """

    threads: int = 1
    allowed_python: frozenset[str] = frozenset()
    trusted_types: frozenset[str] = frozenset()
    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    share_weights: bool = False


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


class KeySource(Protocol):
    """Where API keys are kept. Methods block, and raise ``Unavailable`` if it is out of reach."""

    def token(self) -> object:
        """Cheap; differs from the last answer whenever ``keys`` may differ."""
        ...

    def keys(self) -> Sequence[StoredKey]:
        """Those that hold."""
        ...

    def note_used(self, used: Mapping[str, float]) -> None:
        """When keys were used last, by their ids, in seconds since the Unix epoch."""
        ...


class Looked(NamedTuple):
    """What a store said: the ``value`` (``None``: there is none) that it keeps ``ttl`` seconds more, or else whose turn
    it is to make one. ``token`` is the lease of whoever asked, empty where no lease could be had but nobody need be
    waited for, and ``None`` while another process holds it."""

    value: bytes | None
    ttl: float
    token: bytes | None


class CacheStore(Protocol):
    """Answers kept outside this process, for several. Raises nothing and takes milliseconds: one that is away, full or
    confused is as good as an empty one.

    ``look`` finds a value that lasts more than ``min_ttl`` seconds; if there is none it asks for the lease of ``key``,
    for ``lease`` seconds at most. ``keep`` writes ``value`` (``None``: nothing) for ``ttl`` seconds and gives the lease
    ``token`` back, both later: nobody waits for it."""

    async def look(self, key: bytes, lease: float, min_ttl: float = 0.0) -> Looked: ...

    def keep(self, key: bytes, value: bytes | None, ttl: float, token: bytes) -> None: ...

    async def close(self) -> None: ...


class Charge(NamedTuple):
    """``cost`` to be taken from what ``subject`` may use of a rule: ``amount`` in any ``seconds``."""

    rule: str
    subject: str
    amount: int
    seconds: int
    cost: int


class Use(NamedTuple):
    """What was used of a rule: ``current`` in this window, which lasts ``left`` seconds more, and ``previous`` in the
    one before, of which as large a share still counts as is left of this."""

    previous: int
    current: int
    left: float


class LimitStore(Protocol):
    """Use of rules counted outside this process, for several. Raises nothing and takes milliseconds.

    ``take`` makes all of ``charges``, or none if too little is left for one of them: then for that one what was used,
    and ``None`` for the others. ``None`` altogether: the store is away, or has not answered in so many ``seconds``."""

    async def take(self, charges: Sequence[Charge], seconds: float) -> Sequence[Use | None] | None: ...

    async def close(self) -> None: ...
