"""What a source of models is. ``files.py`` serves one ONNX file, ``registered.py`` the models of the registry.

A source says what is wanted and opens it; the fleet decides when. Methods block (files, database) and are called from
worker threads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree
from typing import Protocol

from keelway.artifacts.manifest import Manifest
from keelway.artifacts.signing import Signature
from keelway.contract.anomaly import Detector, Isolation
from keelway.contract.baseline import Baseline
from keelway.contract.constraints import Policy
from keelway.ports import Runtime, RuntimeOptions


@dataclass(frozen=True, slots=True)
class Release:
    """One version that should be live. ``key`` changes when it must be served anew, ``model_key`` when it must be
    loaded anew: a policy is not part of the model, and what is loaded already needs no further signature. ``lost`` says
    why nothing names it any more, where it is served on all the same."""

    name: str
    version: str
    model_digest: str
    policy: Policy
    baseline: Baseline | None
    detector: Detector | None = None
    signatures: tuple[Signature, ...] = ()
    lost: str = ""

    @property
    def key(self) -> tuple[str, str, str, int]:
        return (*self.model_key, self.policy.revision)

    @property
    def model_key(self) -> tuple[str, str, str]:
        return (self.name, self.version, self.model_digest)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What should be live of one model: its releases, the default among them and the aliases that name them."""

    name: str
    releases: Sequence[Release]
    default: str
    aliases: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Opened:
    """A loaded runtime with its manifest. ``folders`` are private copies, removed when the model is closed; ``leave``
    is called then for what is shared with other processes. ``isolation`` is the forest that the detector names."""

    manifest: Manifest
    runtime: Runtime
    folders: Sequence[Path] = ()
    leave: Sequence[Callable[[], None]] = ()
    isolation: Isolation | None = None

    def close(self) -> None:
        try:
            self.runtime.close()
        finally:
            for folder in self.folders:
                rmtree(folder, ignore_errors=True)
            for left in self.leave:
                left()


class ModelSource(Protocol):
    """What the fleet needs to know about a source."""

    def token(self) -> object:
        """Cheap; differs from the last answer whenever ``wanted`` may differ."""
        ...

    def wanted(self) -> Sequence[Wanted]:
        """What should be live now. Raises ``NotFound`` for a reference that has never named anything."""
        ...

    def open(self, release: Release, options: RuntimeOptions) -> Opened: ...

    def follow(self, name: str) -> None:
        """Want the model ``name`` as well. Raises ``NotFound`` if there is none."""
        ...
