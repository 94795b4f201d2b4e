"""Two versions side by side: what they promise, how they answer, what is known of them. ``keelway diff`` prints it.

The document is JSON values; the command line makes tables and a page of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from keelway.artifacts.blobs import BlobStore
from keelway.artifacts.manifest import Manifest
from keelway.artifacts.materialise import read_manifest
from keelway.clock import rfc3339
from keelway.contract.compatibility import Promise, compare, needed
from keelway.contract.constraints import Policy
from keelway.contract.signature import ModelSignature
from keelway.errors import InvalidInput, KeelwayError
from keelway.publish.behaviour import (
    Behaviour,
    all_refused,
    behaviour_reasons,
    compare_answers,
    in_words,
    tolerance_of,
    unknown,
)
from keelway.publish.golden import Columns, Golden, fitted, golden_of, pack_columns
from keelway.publish.running import Answered, ask_stored
from keelway.publish.slices import slices
from keelway.registry.models import ModelVersion
from keelway.types import Array

#: What a report says that is no property of the version, or too much for a line.
_NO_METADATA = frozenset({"attempts", "anomalies", "beyond", "bump", "golden", "worst_kind", "worst_row"})


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two versions."""

    version: ModelVersion
    policy: Policy
    manifest: Manifest
    golden: Golden | None
    aliases: tuple[str, ...]

    @classmethod
    def of(cls, version: ModelVersion, policy: Policy, aliases: Sequence[str], blobs: BlobStore) -> Side:
        manifest = read_manifest(blobs, version.model_digest)
        return cls(version, policy, manifest, golden_of(version, blobs), tuple(aliases))


@dataclass(frozen=True, slots=True)
class Consent:
    """What code may run to answer the other's golden sample."""

    allowed_python: frozenset[str]
    trusted_types: frozenset[str]


def diff(old: Side, new: Side, blobs: BlobStore, consent: Consent) -> dict[str, Any]:
    """``old`` and ``new`` side by side, and what a caller of the old one would notice of the new one."""
    samples, reasons = _behaviour(old, new, blobs, consent)
    found = (
        *compare(Promise(old.manifest.signature, old.policy), Promise(new.manifest.signature, new.policy)),
        *reasons,
    )
    return {
        "old": _identity(old),
        "new": _identity(new),
        "part": needed(found),
        "reasons": msgspec.to_builtins(found),
        "signature": _signature(old.manifest.signature, new.manifest.signature),
        "declared": _rows(
            {rule.feature: _but(rule, "feature") for rule in old.policy.constraints},
            {rule.feature: _but(rule, "feature") for rule in new.policy.constraints},
        ),
        "behaviour": samples,
        "metadata": _rows(_metadata(old), _metadata(new)),
    }


# Behaviour


def _behaviour(old: Side, new: Side, blobs: BlobStore, consent: Consent) -> tuple[list[dict[str, Any]], Sequence[Any]]:
    """What is found on each golden sample, and what that of the old version asks for."""
    if old.version.model_digest == new.version.model_digest:
        return [], ()
    reasons: Sequence[Any] = unknown(
        "the old version has no golden sample, so that nothing says how the answers differ"
    )
    tolerance = tolerance_of(*(float(side.version.report.get("tolerance") or 0.0) for side in (old, new)))
    samples = []
    for side, other in ((old, new), (new, old)):
        if side.golden is None:
            continue
        if side is new and old.golden is not None and _same_rows(old.golden, new.golden):
            continue
        entry: dict[str, Any] = {"of": side.version.version, "rows": len(side.golden)}
        samples.append(entry)
        try:
            given = _answers(side.golden, other, blobs, consent)
            if given.accepted.any():
                entry |= _on(side.golden, given, side, tolerance, forward=side is old)
            else:
                entry["reason"] = "not compared: the other version refuses all of them"
            if side is old and "reason" in entry:
                reasons = all_refused(len(side.golden))
            elif side is old:
                reasons = behaviour_reasons(msgspec.convert(entry["overall"], Behaviour))
        except KeelwayError as error:
            entry["reason"] = f"not compared: {error.message}"
            if side is old:
                reasons = unknown(in_words(error))
    return samples, reasons


def _on(golden: Golden, given: Answered, side: Side, tolerance: float, *, forward: bool) -> dict[str, Any]:
    """Both on the golden sample of ``side``, of which ``given`` are the other's answers; ``forward``: that is the old
    version."""
    own = {name: column[given.accepted] for name, column in golden.answers.items()}
    before, after = (own, given.answers) if forward else (given.answers, own)
    overall, rows = compare_answers(golden.answers, given.answers, given.accepted, tolerance)
    label, scores = _scores(side.manifest.signature, before, after)
    found = []
    for feature, what, mask in slices({name: column[given.accepted] for name, column in golden.rows.items()}):
        entry = {"feature": feature, "slice": what, "rows": int(mask.sum())}
        entry |= {"differ": int(rows.differ[mask].sum()), "labels": int(rows.labels[mask].sum())}
        found.append(entry | {name: _mean(values[mask]) for name, values in scores.items()})
    return {
        "overall": msgspec.to_builtins(overall),
        "score": label,
        "predicts": "labels" if side.manifest.signature.task == "classification" else "differ",
        **{name: _mean(values) for name, values in scores.items()},
        "slices": found,
    }


def _answers(golden: Golden, other: Side, blobs: BlobStore, consent: Consent) -> Answered:
    """What ``other`` answers to the rows; by what it has answered already, where they are its own too."""
    if other.golden is not None and _same_rows(golden, other.golden):
        return Answered(other.golden.answers, np.ones(len(golden), bool))
    rows = fitted(golden.rows, other.manifest.signature)
    if rows is None:
        raise InvalidInput("the rows lack what the other version needs")
    return ask_stored(
        blobs,
        other.version.model_digest,
        rows,
        allowed_python=consent.allowed_python,
        trusted_types=consent.trusted_types,
    )


def _same_rows(first: Golden, second: Golden | None) -> bool:
    return second is not None and pack_columns(first.rows) == pack_columns(second.rows)


def _scores(signature: ModelSignature, old: Columns, new: Columns) -> tuple[str, dict[str, Array]]:
    """One number a row, where there is one that says most: the probability of the second of two classes, or what is
    predicted. With its name."""
    name = signature.probability_output
    if name in old and name in new and old[name].ndim == new[name].ndim == 2 and old[name].shape[1] == 2:
        label = f"probability of {signature.labels[1]}" if len(signature.labels) == 2 else name
        return label, {"old_mean": old[name][:, 1], "new_mean": new[name][:, 1]}
    name = signature.label_output or signature.outputs[0].name
    shared = signature.task != "classification" and name in old and name in new
    if shared and _is_number(old[name]) and _is_number(new[name]):
        return name, {"old_mean": old[name].reshape(-1), "new_mean": new[name].reshape(-1)}
    return "", {}


def _is_number(column: Array) -> bool:
    return column.dtype.kind == "f" and column.size == len(column)


def _mean(values: Array) -> float | None:
    finite = values[np.isfinite(values)].astype(np.float64)
    return float(finite.mean()) if len(finite) else None


# Side by side


def _identity(side: Side) -> dict[str, Any]:
    version = side.version
    return {
        "model": version.model,
        "version": version.version,
        "aliases": list(side.aliases),
        "model_digest": version.model_digest,
    }


def _signature(old: ModelSignature, new: ModelSignature) -> list[dict[str, Any]]:
    rows = [
        {"kind": "input", **row}
        for row in _rows(
            {feature.name: _but(feature, "name") for feature in old.features},
            {feature.name: _but(feature, "name") for feature in new.features},
        )
    ]
    for kind, before, after in (("tensor", old.inputs, new.inputs), ("output", old.outputs, new.outputs)):
        sides = [{spec.name: _but(spec, "name", "columns") for spec in specs} for specs in (before, after)]
        rows += [{"kind": kind, **row} for row in _rows(*sides)]
    answers = [{"task": one.task, "classes": list(one.labels), "prediction": one.label_output} for one in (old, new)]
    return rows + [{"kind": "answer", **row} for row in _rows(*answers)]


def _metadata(side: Side) -> dict[str, Any]:
    version = side.version
    golden = None if side.golden is None else f"{len(side.golden)} rows"
    return {
        "pushed": rfc3339(version.created_at),
        "by": version.created_by,
        "runtime": side.manifest.runtime,
        "files": len(side.manifest.files),
        "bytes": sum(file.size for file in side.manifest.files),
        "policy revision": side.policy.revision,
        "golden sample": golden,
        **dict(_flat("", version.report)),
        **dict(_flat("", version.metadata)),
    }


def _flat(prefix: str, document: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in document.items():
        if prefix or name not in _NO_METADATA:
            if isinstance(value, Mapping):
                yield from _flat(f"{prefix}{name}.", value)
            else:
                yield f"{prefix}{name}", value


def _rows(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[dict[str, Any]]:
    """In the order of the new side, what only the old one has behind it."""
    names = dict.fromkeys((*new, *old))
    return [
        {"name": name, "old": old.get(name), "new": new.get(name), "changed": old.get(name) != new.get(name)}
        for name in names
    ]


def _but(value: msgspec.Struct, *left_out: str) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(value)
    return {name: found for name, found in fields.items() if name not in left_out}
