"""One ONNX file served without any registry: called after its file name, version 0.0.0, in place."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from keelway.artifacts.formats import Format, describe, detect
from keelway.artifacts.manifest import FileEntry, Manifest
from keelway.artifacts.onnx_files import confine
from keelway.artifacts.statement import SignaturePolicy
from keelway.contract.constraints import Policy
from keelway.contract.names import fold, name_from_file
from keelway.contract.tensors import signature_from_tensors
from keelway.errors import FailedPrecondition, NotFound
from keelway.hosting.sharing import SharedFolders
from keelway.hosting.sources import Opened, Release, Wanted
from keelway.hosting.weights import share_weights
from keelway.ports import RuntimeOptions

#: The version of a model that is served from a file.
FILE_VERSION = "0.0.0"


class FileSource:
    """One ONNX file, called after its file name, version 0.0.0. Served in place; external data is confined to its
    folder."""

    def __init__(
        self, path: Path, shared: SharedFolders | None = None, *, signed: SignaturePolicy | None = None
    ) -> None:
        """``UntrustedArtifact`` where signatures are demanded: the file has none."""
        if signed is not None:
            signed.refuse_file(path.name)
        if not path.is_file():
            raise NotFound(f"there is no file {path.name}", hint="give the path of an ONNX file, or a registered name")
        if detect(path) is not Format.ONNX:
            raise FailedPrecondition(
                f"{path.name} is {describe(path)}; only ONNX files are served without a registry",
                hint=f"first: keelway push {name_from_file(path)} {path.name} --sample SAMPLE, then: keelway serve "
                f"{name_from_file(path)}",
            )
        self._path = path
        self._shared = shared or SharedFolders()
        self._name = name_from_file(path)

    def token(self) -> object:
        return 0

    def wanted(self) -> Sequence[Wanted]:
        release = Release(self._name, FILE_VERSION, "", Policy(), None)
        return [Wanted(self._name, [release], FILE_VERSION)]

    def open(self, release: Release, options: RuntimeOptions) -> Opened:
        from keelway.runtimes.onnx import OnnxRuntime  # the supervisor of workers opens nothing

        path = self._path
        beside = confine(path, path.parent)
        entries = tuple(_entry(path.parent, name) for name in (path.name, *beside))
        loaded, leave = path, tuple[Callable[[], None], ...]()
        if options.share_weights and not beside:  # what lies beside it can be mapped where it is
            folder, left = self._shared.open(f"file-{entries[0].sha256}", partial(self._make, options))
            loaded, leave = folder / path.name, (left,)
        try:
            runtime = OnnxRuntime(loaded, options)
        except BaseException:
            for left in leave:
                left()
            raise
        signature = signature_from_tensors(runtime.inputs, runtime.outputs)
        return Opened(Manifest(entries, signature, "onnx", {"file": path.name}), runtime, (), leave)

    def _make(self, options: RuntimeOptions, folder: Path) -> None:
        folder.mkdir(mode=0o700)
        share_weights(self._path, folder / self._path.name, self._path.name, options)

    def follow(self, name: str) -> None:
        if fold(name) != fold(self._name):
            raise NotFound("no such model; this server was started with a single file")


def _entry(folder: Path, name: str) -> FileEntry:
    with (folder / name).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileEntry(name, digest, (folder / name).stat().st_size)
