"""One ONNX file served without any registry: called after its file name, version 0.0.0, in place."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from keelway.artifacts.formats import Format, describe, detect
from keelway.artifacts.manifest import FileEntry, Manifest
from keelway.artifacts.onnx_files import confine
from keelway.contract.constraints import Policy
from keelway.contract.names import fold, name_from_file
from keelway.contract.tensors import signature_from_tensors
from keelway.errors import FailedPrecondition, NotFound
from keelway.hosting.sources import Opened, Release, Wanted
from keelway.ports import RuntimeOptions
from keelway.runtimes.onnx import OnnxRuntime

#: The version of a model that is served from a file.
FILE_VERSION = "0.0.0"


class FileSource:
    """One ONNX file, called after its file name, version 0.0.0. Served in place; external data is confined to its
    folder."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise NotFound(f"there is no file {path.name}", hint="give the path of an ONNX file, or a registered name")
        if detect(path) is not Format.ONNX:
            raise FailedPrecondition(
                f"{path.name} is {describe(path)}; only ONNX files are served without a registry",
                hint=f"first: keelway push {name_from_file(path)} {path.name} --sample SAMPLE, then: keelway serve "
                f"{name_from_file(path)}",
            )
        self._path = path
        self._name = name_from_file(path)

    def token(self) -> object:
        return 0

    def wanted(self) -> Sequence[Wanted]:
        release = Release(self._name, FILE_VERSION, "", Policy(), None)
        return [Wanted(self._name, [release], FILE_VERSION)]

    def open(self, release: Release, options: RuntimeOptions) -> Opened:
        path = self._path
        files = [path.name, *confine(path, path.parent)]
        runtime = OnnxRuntime(path, options)
        entries = tuple(_entry(path.parent, name) for name in files)
        signature = signature_from_tensors(runtime.inputs, runtime.outputs)
        return Opened(Manifest(entries, signature, "onnx", {"file": path.name}), runtime)

    def follow(self, name: str) -> None:
        if fold(name) != fold(self._name):
            raise NotFound("no such model; this server was started with a single file")


def _entry(folder: Path, name: str) -> FileEntry:
    with (folder / name).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileEntry(name, digest, (folder / name).stat().st_size)
