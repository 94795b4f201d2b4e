"""The serving snapshot: everything the request line may know of the control plane, immutable and swapped whole.

Built by ``keelway.hosting``; read by ``keelway.dataplane``. A reader that holds a snapshot sees one consistent state
for as long as it likes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, Protocol

from keelway.contract.binding import Binding
from keelway.contract.semver import Range, Version, is_range
from keelway.contract.signature import ModelSignature
from keelway.errors import InvalidInput, NotFound, Unavailable
from keelway.ports import Runtime
from keelway.types import Array, BoundRequest, ColumnRequest, InferenceRequest, OutputRoles, StoredKey, TensorRequest

Usual = Callable[[Mapping[str, Array]], bool]


class Validates(Protocol):
    """What a snapshot needs of a validator (``keelway.guard.validation.Validator``)."""

    @property
    def usual(self) -> Usual | None:
        """Whether ``validate`` would change and say nothing, whatever requests the rows are of. ``None``: that cannot
        be said of several together."""
        ...

    def validate(self, bound: BoundRequest, *, atomic: bool, client: str = "") -> BoundRequest: ...


class Batches(Protocol):
    """What a snapshot needs of a batcher (``keelway.batching``)."""

    @property
    def checks(self) -> bool:
        """Whether shares may come with their ``usual``, not yet validated."""
        ...

    @property
    def waiting_rows(self) -> int: ...

    def declines(self, rows: int) -> bool:
        """Whether a request of ``rows`` rows is to be run by itself, at once."""
        ...

    def submit(self, share: Any) -> Callable[[Any], None] | None:
        """Run a share. What is answered is to be called when its caller leaves."""
        ...


class Usage:
    """How many awaited runs of a version are under way, so that its runtime is closed after the last, not before."""

    __slots__ = ("_idle", "_running")

    def __init__(self) -> None:
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def begin(self) -> None:
        self._running += 1
        self._idle.clear()

    def end(self) -> None:
        self._running -= 1
        if not self._running:
            self._idle.set()

    async def idle(self) -> None:
        """Returns once no run is under way."""
        await self._idle.wait()


@dataclass(frozen=True, slots=True, eq=False)
class ServedVersion:
    """One loaded, warmed version. Without an ``executor`` its runs are short enough for the event loop. A ``batcher``
    lets requests share runs there; with an ``executor`` it is their queue. ``metadata`` is for people: ``runtime``,
    ``example`` and ``batching``."""

    name: str
    version: str
    model_digest: str
    policy_revision: int
    signature: ModelSignature
    binding: Binding
    validator: Validates
    runtime: Runtime
    executor: Executor | None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    batcher: Batches | None = None
    usage: Usage = field(default_factory=Usage)
    roles: OutputRoles = field(init=False)
    output_names: tuple[str, ...] = field(init=False)
    output_datatypes: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        signature = self.signature
        roles = OutputRoles(signature.label_output, signature.probability_output, signature.labels)
        object.__setattr__(self, "roles", roles)
        object.__setattr__(self, "output_names", tuple(spec.name for spec in signature.outputs))
        object.__setattr__(self, "output_datatypes", {spec.name: spec.datatype for spec in signature.outputs})

    @property
    def platform(self) -> str:
        """What the Open Inference Protocol calls the platform of a model."""
        return f"keelway_{self.metadata['runtime']}"

    def wanted_outputs(self, request: InferenceRequest) -> tuple[str, ...]:
        """The outputs to compute, in the caller's order; all when it named none."""
        if not isinstance(request, TensorRequest) or not request.outputs:
            return self.output_names
        names = tuple(output.name for output in request.outputs)
        self.check_outputs(names)
        return names

    def check_outputs(self, names: tuple[str, ...]) -> None:
        """``InvalidInput`` naming the model's outputs if one of ``names`` is not among them, or is there twice: one
        output asked for a million times would be written a million times."""
        if len(set(names)) != len(names):
            raise InvalidInput("an output is asked for twice")
        for name in names:
            if name not in self.output_names:
                raise InvalidInput(f"this model has no such output; it has {', '.join(self.output_names)}")


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The loaded versions of one model. ``default`` answers when the caller names no version."""

    name: str
    versions: Mapping[str, ServedVersion]
    default: str
    aliases: Mapping[str, str] = field(default_factory=dict)

    def highest(self, selector: str) -> ServedVersion | None:
        """The highest loaded version in the range ``selector``; ``None`` if it is no range, or holds none of them."""
        if not is_range(selector):
            return None
        try:
            wanted = Range.parse(selector)
        except InvalidInput:
            return None
        known = {Version.parse(version): version for version in self.versions}
        found = wanted.highest(known)
        return None if found is None else self.versions[known[found]]


@dataclass(frozen=True, slots=True)
class ServingSnapshot:
    """``models`` is keyed by folded name (``_`` as ``-``); ``known`` names the configured ones, loaded or not. ``keys``
    are the API keys that hold."""

    models: Mapping[str, ServedModel] = field(default_factory=dict)
    known: frozenset[str] = frozenset()
    keys: Sequence[StoredKey] = ()

    def resolve(self, name: str, selector: str | None) -> ServedVersion:
        """The version that answers for ``name`` and ``selector`` (a version, an alias, a range or ``None``).

        Raises ``NotFound``, in the same words whether the model or the version is unknown, and ``Unavailable`` for a
        model that is known but not loaded.
        """
        model = self.model(name)
        if selector is None:
            return model.versions[model.default]
        version = model.versions.get(model.aliases.get(selector, selector)) or model.highest(selector)
        if version is None:
            raise NotFound("no such model or version is served here")
        return version

    def model(self, name: str) -> ServedModel:
        """Raises as ``resolve`` does."""
        model = self.models.get(name) or self.models.get(name.replace("_", "-"))
        if model is None:
            if name.replace("_", "-") in self.known:
                raise Unavailable("this model is not loaded", retry_after=1.0)
            raise NotFound("no such model or version is served here")
        return model

    @property
    def only(self) -> ServedModel | None:
        """The one model served, if there is exactly one: the short routes answer for it."""
        return next(iter(self.models.values())) if len(self.models) == 1 else None


def target(model: str, selector: str | None, request: InferenceRequest) -> tuple[str, str | None]:
    """The model asked for, and its version or alias: by the path, or by the body where the format names them there."""
    if model or isinstance(request, ColumnRequest):
        return model, selector
    return request.model, request.selector
