"""What is pushed, beside what is live: the golden sample it leaves, and its answers to those that older versions left.

Joins ``golden.py``, ``running.py`` and ``behaviour.py`` for ``release.py``. Nothing here fails a push: a model that
does not answer leaves no golden sample, and counts as one that answers differently.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keelway.artifacts.blobs import BlobStore
from keelway.artifacts.manifest import Manifest
from keelway.artifacts.materialise import read_manifest
from keelway.contract.compatibility import Promise, Reason
from keelway.errors import KeelwayError
from keelway.publish.behaviour import all_refused, behaviour_reasons, compare_answers, in_words, tolerance_of, unknown
from keelway.publish.golden import Golden, choose, fitted, golden_of
from keelway.publish.running import Ask
from keelway.registry.standing import LiveVersion

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Judge:
    """The new version: its ``manifest``, stored as ``digest``, the ``report`` of its proof, and how it is asked."""

    blobs: BlobStore
    manifest: Manifest
    digest: str
    report: Mapping[str, Any]
    ask: Ask
    progress: Callable[[str], None]
    _judged: dict[tuple[str, str], Sequence[Reason]] = field(default_factory=dict)

    def keep_golden(self, sample: pd.DataFrame | Path | None) -> tuple[str | None, str]:
        """The digest of the golden sample, stored, or ``None``; and what the report says of it."""
        if sample is None:
            return None, "none: there was no sample"
        rows = choose(sample, self.manifest.signature)
        if rows is None:
            return None, "none: the sample does not hold what the model's inputs take"
        self.progress("keeping a golden sample")
        try:
            found = self.ask(rows)
        except KeelwayError as error:
            return None, f"none: {error.message}"
        if not found.accepted.any():
            return None, "none: the model answers none of the rows"
        kept = {name: column[found.accepted] for name, column in rows.items()}
        golden = Golden(kept, found.answers)
        return self.blobs.put_bytes(golden.to_bytes()), f"{len(golden)} rows of the sample, with the model's answers"

    def promise_of(self, live: LiveVersion) -> Promise:
        return Promise(read_manifest(self.blobs, live.version.model_digest).signature, live.policy)

    def behave(self, live: LiveVersion) -> Sequence[Reason]:
        """What the predictions beside those of ``live`` ask of the version; asked once, however often it is decided."""
        key = live.version.version, live.version.model_digest
        if key not in self._judged:
            self._judged[key] = self._behave(live)
        return self._judged[key]

    def _behave(self, live: LiveVersion) -> Sequence[Reason]:
        if live.version.model_digest == self.digest:
            return [Reason("patch", "same_model", "", "it is the same model, by its digest")]
        try:
            golden = golden_of(live.version, self.blobs)
            if golden is None:
                return unknown("it has no golden sample, so that nothing says whether predictions are the same")
            rows = fitted(golden.rows, self.manifest.signature)
            if rows is None:
                return unknown("its golden sample lacks what the new version needs")
            self.progress(f"comparing the answers with those of {live.version.version}")
            found = self.ask(rows)
            if not found.accepted.any():
                return all_refused(len(golden))
            tolerance = tolerance_of(_tolerance(live.version.report), _tolerance(self.report))
            beside, _ = compare_answers(golden.answers, found.answers, found.accepted, tolerance)
            return behaviour_reasons(beside)
        except KeelwayError as error:
            return unknown(in_words(error))


def _tolerance(report: Mapping[str, Any]) -> float:
    found = report.get("tolerance")
    return float(found) if isinstance(found, int | float) else 0.0
