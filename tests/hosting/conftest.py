"""Versions of a real model in a registry, for the tests of hosting."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.serving import forest

from keelway.artifacts.blobs import BlobStore
from keelway.artifacts.manifest import Manifest
from keelway.artifacts.materialise import put_manifest, store_folder
from keelway.registry.store import Registry, Signing


@pytest.fixture
def push(registry: Registry, blobs: BlobStore, tmp_path: Path) -> Callable[..., str]:
    """Push the forest as a version of a model; each version has a file of its own, so that digests differ."""

    def push(name: str, version: str, sign: Signing | None = None) -> str:
        path, signature, *_ = forest()
        folder = tmp_path / f"{name}-{version}"
        folder.mkdir()
        shutil.copy(path, folder / "model.onnx")
        (folder / "version.txt").write_text(version)
        digest = put_manifest(blobs, Manifest(store_folder(blobs, folder), signature, "onnx"))
        registry.push(name, version, digest, sign=sign, who="ada", why="a test")
        return digest

    return push
