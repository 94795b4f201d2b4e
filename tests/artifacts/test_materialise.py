# S5: content-addressed artifacts
from __future__ import annotations

import hashlib
import os
import socket
import stat
from pathlib import Path

import pytest

from keelway.artifacts.blobs import BlobStore
from keelway.artifacts.manifest import FileEntry, Manifest
from keelway.artifacts.materialise import (
    check_stored,
    materialise,
    put_manifest,
    read_manifest,
    read_manifests,
    store_folder,
)
from keelway.contract.signature import ModelSignature
from keelway.errors import CorruptArtifact, InvalidInput, NotFound, Unavailable

SIGNATURE = ModelSignature(features=(), inputs=(), outputs=())


def manifest_of(*files: FileEntry) -> Manifest:
    return Manifest(files=files, signature=SIGNATURE, runtime="onnx")


def entry(path: str, data: bytes) -> FileEntry:
    return FileEntry(path=path, sha256=hashlib.sha256(data).hexdigest(), size=len(data))


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore.open(tmp_path / "store")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "nested" / "deep").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"graph")
    (folder / "nested" / "weights.bin").write_bytes(b"weights")
    (folder / "nested" / "deep" / "empty").write_bytes(b"")
    return folder


def test_a_folder_comes_back_as_it_was_stored(store: BlobStore, folder: Path, tmp_path: Path) -> None:
    entries = store_folder(store, folder)
    assert [entry.path for entry in entries] == ["model.onnx", "nested/deep/empty", "nested/weights.bin"]
    digest = put_manifest(store, manifest_of(*entries))
    manifest = read_manifest(store, digest)
    assert (manifest.files, manifest.digest) == (entries, digest)
    materialise(store, manifest, tmp_path / "copy")
    assert tree(tmp_path / "copy") == tree(folder)


def test_what_is_written_is_private_whatever_the_umask(store: BlobStore, folder: Path, tmp_path: Path) -> None:
    manifest = manifest_of(*store_folder(store, folder))
    before = os.umask(0)
    try:
        materialise(store, manifest, tmp_path / "copy")
    finally:
        os.umask(before)
    for path in (tmp_path / "copy", *(tmp_path / "copy").rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


def test_one_damaged_file_leaves_no_folder(store: BlobStore, folder: Path, tmp_path: Path) -> None:
    entries = store_folder(store, folder)
    damaged = tmp_path / "store" / "sha256" / entries[2].sha256[:2] / entries[2].sha256[2:]
    damaged.write_bytes(b"WEIGHTS")
    with pytest.raises(CorruptArtifact):
        materialise(store, manifest_of(*entries), tmp_path / "copy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "store"]


def test_a_missing_blob_leaves_no_folder(store: BlobStore, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        materialise(store, manifest_of(entry("a", b"never stored")), tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize(
    "path", ["../escape", "/tmp/escape", "a/../../escape", "C:\\escape", "", ".", "*/_ORT_MEM_ADDR_/*"]
)
def test_a_manifest_that_writes_elsewhere_is_refused_on_every_way(store: BlobStore, tmp_path: Path, path: str) -> None:
    store.put_bytes(b"x")
    hostile = manifest_of(entry(path, b"x"))
    digest = store.put_bytes(hostile.to_bytes())
    with pytest.raises(CorruptArtifact):
        materialise(store, hostile, tmp_path / "copy")
    with pytest.raises(CorruptArtifact):
        read_manifest(store, digest)
    with pytest.raises(CorruptArtifact):
        put_manifest(store, hostile)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]


def test_a_manifest_with_one_path_twice_or_a_negative_size_is_refused(store: BlobStore, tmp_path: Path) -> None:
    for hostile in (
        manifest_of(entry("a", b"x"), entry("A", b"y")),
        manifest_of(FileEntry(path="a", sha256="0" * 64, size=-1)),
        manifest_of(FileEntry(path="a", sha256="../../../etc/passwd", size=1)),
    ):
        with pytest.raises(CorruptArtifact):
            materialise(store, hostile, tmp_path / "copy")


def test_a_manifest_of_too_many_files_is_refused(store: BlobStore, tmp_path: Path) -> None:
    files = tuple(FileEntry(path=f"f{index}", sha256="0" * 64, size=0) for index in range(10_001))
    with pytest.raises(CorruptArtifact):
        materialise(store, manifest_of(*files), tmp_path / "copy")


def test_a_manifest_that_was_changed_is_refused(store: BlobStore, folder: Path, tmp_path: Path) -> None:
    digest = put_manifest(store, manifest_of(*store_folder(store, folder)))
    name = digest.removeprefix("sha256:")
    stored = tmp_path / "store" / "sha256" / name[:2] / name[2:]
    stored.write_bytes(stored.read_bytes().replace(b"model.onnx", b"other.onnx"))
    with pytest.raises(CorruptArtifact):
        read_manifest(store, digest)


def test_a_manifest_that_is_not_there_is_not_found(store: BlobStore) -> None:
    with pytest.raises(NotFound):
        read_manifest(store, "sha256:" + "0" * 64)


def test_a_folder_in_use_is_not_filled(store: BlobStore, folder: Path) -> None:
    manifest = manifest_of(*store_folder(store, folder))
    before = tree(folder)
    with pytest.raises(InvalidInput):
        materialise(store, manifest, folder)
    assert tree(folder) == before


def test_a_place_that_cannot_be_written_is_unavailable(store: BlobStore, folder: Path) -> None:
    manifest = manifest_of(*store_folder(store, folder))
    with pytest.raises(Unavailable):
        materialise(store, manifest, folder / "model.onnx" / "below-a-file")


def test_links_pipes_and_sockets_in_a_folder_are_refused(store: BlobStore, folder: Path, tmp_path: Path) -> None:
    strange = folder / "nested" / "strange"
    with socket.socket(socket.AF_UNIX) as unix:
        for make in (
            lambda: strange.symlink_to(folder / "model.onnx"),
            lambda: strange.symlink_to(folder / "nested"),
            lambda: strange.symlink_to("/etc"),
            lambda: os.mkfifo(strange),
            lambda: unix.bind(str(strange)),
        ):
            make()
            with pytest.raises(InvalidInput):
                store_folder(store, folder)
            strange.unlink()
    assert not (tmp_path / "store").exists()


def test_a_hard_link_to_elsewhere_is_refused_and_one_within_is_a_file(
    store: BlobStore, folder: Path, tmp_path: Path
) -> None:
    (folder / "twin").hardlink_to(folder / "model.onnx")
    assert [entry.path for entry in store_folder(store, folder)][-1] == "twin"
    outside = tmp_path / "outside"
    outside.write_bytes(b"secret")
    (folder / "leak").hardlink_to(outside)
    with pytest.raises(InvalidInput):
        store_folder(store, folder)


def test_names_no_artifact_may_have_and_missing_folders_are_refused(store: BlobStore, folder: Path) -> None:
    (folder / "what?").write_bytes(b"")
    with pytest.raises(CorruptArtifact):
        store_folder(store, folder)
    with pytest.raises(NotFound):
        store_folder(store, folder / "missing")
    with pytest.raises(NotFound):
        store_folder(store, folder / "model.onnx")


def test_a_folder_too_deep_is_refused(store: BlobStore, tmp_path: Path) -> None:
    (tmp_path / "top" / "/".join(["d"] * 20)).mkdir(parents=True)
    with pytest.raises(InvalidInput):
        store_folder(store, tmp_path / "top")


def pipeline_of(*members: str) -> Manifest:
    steps = [{"name": f"s{number}", "model_digest": digest} for number, digest in enumerate(members)]
    return Manifest(files=(), signature=SIGNATURE, runtime="pipeline", options={"steps": steps})


def test_the_files_of_all_members_at_any_depth_are_checked(store: BlobStore, folder: Path, tmp_path: Path) -> None:
    model = put_manifest(store, manifest_of(*store_folder(store, folder)))
    inner = put_manifest(store, pipeline_of(model, model))
    outer = put_manifest(store, pipeline_of(inner, model))
    assert list(read_manifests(store, outer)) == [outer, model, inner]
    assert len(list(check_stored(store, outer))) == 3
    weights = entry("", b"weights").sha256
    blob = tmp_path / "store" / "sha256" / weights[:2] / weights[2:]
    for damaged in (b"weightz", b"weight", b"weights2"):
        blob.write_bytes(damaged)
        with pytest.raises(CorruptArtifact):
            list(check_stored(store, outer))
    blob.unlink()
    with pytest.raises(NotFound):
        list(check_stored(store, outer))


@pytest.mark.parametrize("steps", [None, 3, [3], [{"name": "a"}], [{"model_digest": 3}]])
def test_steps_that_are_none_are_refused(store: BlobStore, steps: object) -> None:
    manifest = Manifest(files=(), signature=SIGNATURE, runtime="pipeline", options={"steps": steps})
    with pytest.raises(CorruptArtifact, match="steps"):
        read_manifests(store, put_manifest(store, manifest))
    assert manifest_of().members == ()
