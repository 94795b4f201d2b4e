"""A stored model asked: what it answers to rows by feature, as the server that will load it would.

Models that are data are run here. One that is code, or holds types that somebody had to trust, is run in a process of
its own (``apart.py``), as when it was opened. ``release.py`` and ``keelway diff`` are the callers.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np

from keelway.artifacts.blobs import BlobStore
from keelway.artifacts.manifest import Manifest
from keelway.artifacts.materialise import materialise, read_manifests
from keelway.contract.signature import ModelSignature
from keelway.errors import CorruptArtifact, ModelFailed
from keelway.plugins import runtime_loader
from keelway.ports import Runtime, RuntimeOptions
from keelway.publish import exchange
from keelway.publish.apart import run_apart
from keelway.publish.exchange import StoredRequest, StoredResult
from keelway.publish.golden import Columns, pack_columns, unpack_columns
from keelway.types import Array, TensorSpec

#: Runtimes that run no code of the artifact.
_DATA: Final = frozenset({"boosters", "image", "litert", "onnx", "pipeline", "skops", "tokens"})


@dataclass(frozen=True, slots=True)
class Answered:
    """``answers`` [a, ...] by output to those of n rows that are ``accepted`` [n]; none, no outputs."""

    answers: Columns
    accepted: Array


#: Asks a model.
Ask = Callable[[Columns], Answered]


def ask_stored(
    blobs: BlobStore,
    digest: str,
    rows: Columns,
    *,
    allowed_python: frozenset[str] | None,
    trusted_types: frozenset[str],
) -> Answered:
    """What the model ``digest`` answers to ``rows``; the rest, and what it raises, is as in ``asking``."""
    with asking(blobs, digest, allowed_python=allowed_python, trusted_types=trusted_types) as ask:
        return ask(rows)


@contextmanager
def asking(
    blobs: BlobStore, digest: str, *, allowed_python: frozenset[str] | None, trusted_types: frozenset[str]
) -> Iterator[Ask]:
    """Asks the model ``digest``, which is laid out and loaded once, when there is a first question. ``allowed_python``
    are the digests whose code may run, ``None`` all that it consists of.

    Asking raises ``KeelwayError`` if it cannot be loaded.
    """
    with ExitStack() as closing:
        workspace = Path(closing.enter_context(TemporaryDirectory(prefix="keelway-ask-")))
        stored: dict[str, Manifest] = {}
        loaded: list[Runtime] = []

        def ask(rows: Columns) -> Answered:
            if not stored:
                stored.update(_laid_out(blobs, digest, workspace))
            if trusted_types or not {manifest.runtime for manifest in stored.values()} <= _DATA:
                allowed = frozenset(stored) if allowed_python is None else allowed_python
                return _ask_apart(workspace, digest, rows, tuple(stored), allowed, trusted_types)
            if not loaded:
                loaded.append(_load(workspace, stored, digest, RuntimeOptions()))
                closing.callback(loaded[0].close)
            return _answer(loaded[0], stored[digest].signature, rows)

        yield ask


def _laid_out(blobs: BlobStore, digest: str, workspace: Path) -> dict[str, Manifest]:
    manifests = read_manifests(blobs, digest)
    for one, manifest in manifests.items():
        if not _folder(workspace, one).exists():  # of a question that had no answer
            materialise(blobs, manifest, _folder(workspace, one))
        (workspace / _key(one)).with_suffix(".json").write_bytes(manifest.to_bytes())
    return manifests


def _load(workspace: Path, stored: Mapping[str, Manifest], digest: str, options: RuntimeOptions) -> Runtime:
    """What lies in ``workspace``."""

    def load(one: str) -> Runtime:
        manifest = stored[one]
        return runtime_loader(manifest.runtime)(_folder(workspace, one), one, manifest.options, options, load)

    return load(digest)


def _answer(runtime: Runtime, signature: ModelSignature, rows: Columns) -> Answered:
    """A batch that is refused is asked row by row."""
    count = len(next(iter(rows.values())))
    accepted = np.ones(count, bool)
    if signature.batched:
        try:
            return Answered(_run(runtime, signature, rows), accepted)
        except Exception:  # noqa: BLE001 - a model may raise anything for a row it does not like
            accepted[:] = False
    found: list[Columns] = []
    for place in range(count):
        try:
            found.append(_run(runtime, signature, {name: column[place : place + 1] for name, column in rows.items()}))
            accepted[place] = True
        except Exception:  # noqa: BLE001
            accepted[place] = False
    return Answered(_joined(found, batched=signature.batched), accepted)


def ask_child(request: StoredRequest, folder: Path) -> StoredResult:
    """In the child: what ``_ask_apart`` asks, from files and to files."""
    stored = {digest: Manifest.from_bytes((folder / _key(digest)).with_suffix(".json").read_bytes(), digest)
              for digest in request.stored}  # fmt: skip
    rows, _ = unpack_columns((folder / exchange.ROWS).read_bytes())
    options = RuntimeOptions(allowed_python=request.allowed_python, trusted_types=request.trusted_types)
    runtime = _load(folder, stored, request.digest, options)
    try:
        found = _answer(runtime, stored[request.digest].signature, rows)
    finally:
        runtime.close()
    (folder / exchange.ANSWERS).write_bytes(pack_columns(found.answers))
    return StoredResult(tuple(found.accepted.tolist()))


def _ask_apart(
    workspace: Path,
    digest: str,
    rows: Columns,
    stored: tuple[str, ...],
    allowed: frozenset[str],
    trusted_types: frozenset[str],
) -> Answered:
    (workspace / exchange.ROWS).write_bytes(pack_columns(rows))
    for left in (exchange.FAILURE, exchange.RESULT, exchange.ANSWERS):  # by a question before
        (workspace / left).unlink(missing_ok=True)
    exchange.write(workspace, exchange.REQUEST, StoredRequest(digest, stored, allowed, trusted_types))
    run_apart(workspace)
    accepted = np.array(exchange.read(workspace, exchange.RESULT, StoredResult).accepted, bool)
    if not accepted.any():
        return Answered({}, accepted)
    try:
        answers, _ = unpack_columns(exchange.answer_file(workspace, exchange.ANSWERS).read_bytes())
    except ValueError as error:
        raise CorruptArtifact("the process that ran the model answered what cannot be read") from error
    return Answered(answers, accepted)


def _key(digest: str) -> str:
    return digest.removeprefix("sha256:")


def _folder(workspace: Path, digest: str) -> Path:
    return workspace / _key(digest)


def _run(runtime: Runtime, signature: ModelSignature, rows: Columns) -> dict[str, Array]:
    names = [spec.name for spec in signature.outputs]
    given = {spec.name: _tensor(spec, rows, signature.batched) for spec in signature.inputs}
    answered: Any = runtime.run(given, names)
    if inspect.isawaitable(answered):
        answered = asyncio.run(_awaited(answered))
    count = len(next(iter(rows.values())))
    found = {name: np.asarray(array) for name, array in zip(names, answered, strict=True)}
    if signature.batched and any(len(array) != count for array in found.values()):
        raise ModelFailed("the model does not answer one value for each row")
    return found


async def _awaited(answer: Any) -> Any:
    return await answer


def _tensor(spec: TensorSpec, rows: Columns, batched: bool) -> Array:
    if spec.columns:
        return np.stack([rows[name] for name in spec.columns], axis=1)
    column = rows[spec.name]
    if batched:  # a scalar is a tensor with an axis of length one, or without
        return column.reshape(len(column), 1) if column.ndim == 1 and len(spec.shape) == 2 else column
    value = column.reshape(column.shape[1:])
    while value.ndim < len(spec.shape):
        value = value[None]
    return value


def _joined(parts: Sequence[Columns], *, batched: bool) -> dict[str, Array]:
    if not parts:
        return {}
    try:
        join = np.concatenate if batched else np.stack
        return {name: join([part[name] for part in parts]) for name in parts[0]}
    except ValueError:
        raise ModelFailed("the answers to the rows differ in shape") from None
