# S5: content-addressed artifacts
from __future__ import annotations

import hashlib
import os
import socket
import stat
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.objectstore import ObjectStore

from keelway.artifacts import blobs
from keelway.artifacts.blobs import BlobStore
from keelway.clock import SystemClock
from keelway.errors import CorruptArtifact, FailedPrecondition, InvalidInput, NotFound, Unavailable

CONTENT = b"the weights of a model" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(params=["folder", "file-url", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    """What is tested with it holds for every kind of store."""
    match request.param:
        case "folder":
            return BlobStore.open(tmp_path / "store")
        case "file-url":
            return BlobStore.open(f"file://{tmp_path}/store")
        case "memory":
            return BlobStore.open(f"memory://{uuid.uuid4().hex}")
        case _:
            server: ObjectStore = request.getfixturevalue("object_store")
            return server.open()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "model.bin"
    path.write_bytes(CONTENT)
    return path


def blob_path(root: Path, digest: str = DIGEST) -> Path:
    return root / "sha256" / digest[:2] / digest[2:]


def test_a_file_comes_back_as_it_was_put(store: BlobStore, source: Path, tmp_path: Path) -> None:
    entry = store.put_file(source)
    assert (entry.path, entry.sha256, entry.size) == ("model.bin", DIGEST, len(CONTENT))
    store.fetch(entry.sha256, tmp_path / "copy", entry.size)
    assert (tmp_path / "copy").read_bytes() == CONTENT
    assert stat.S_IMODE((tmp_path / "copy").stat().st_mode) == 0o600


def test_bytes_come_back_by_either_spelling_of_their_digest(store: BlobStore) -> None:
    digest = store.put_bytes(CONTENT)
    assert digest == "sha256:" + DIGEST
    assert store.exists(digest)
    assert store.exists(DIGEST)
    assert store.read(digest) == store.read(DIGEST) == CONTENT


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 16, 23])
def test_every_length_around_the_chunk_size_comes_back(
    store: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    for name, step in (("_PIECE", 3), ("_CHUNK", 4), ("_RANGE", 8)):
        monkeypatch.setattr(blobs, name, step)
    data = os.urandom(size)
    (tmp_path / "file").write_bytes(data)
    entry = store.put_file(tmp_path / "file")
    assert store.read(entry.sha256) == data
    store.fetch(entry.sha256, tmp_path / "copy", size)
    assert (tmp_path / "copy").read_bytes() == data


def test_putting_again_writes_nothing(tmp_path: Path, source: Path) -> None:
    store = BlobStore.open(tmp_path / "store")
    store.put_file(source)
    before = blob_path(tmp_path / "store").stat()
    store.put_file(source)
    store.put_bytes(CONTENT)
    after = blob_path(tmp_path / "store").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_a_blob_cut_short_by_the_disk_is_healed_by_the_next_put(tmp_path: Path, source: Path) -> None:
    store = BlobStore.open(tmp_path / "store")
    store.put_file(source)
    blob_path(tmp_path / "store").write_bytes(CONTENT[:10])
    store.put_file(source)
    assert store.read(DIGEST) == CONTENT


@pytest.mark.parametrize("damage", [CONTENT[:-1], CONTENT + b"x", b"y" + CONTENT[1:], b""])
def test_a_blob_that_differs_is_refused_and_its_copy_removed(tmp_path: Path, source: Path, damage: bytes) -> None:
    store = BlobStore.open(tmp_path / "store")
    entry = store.put_file(source)
    blob_path(tmp_path / "store").write_bytes(damage)
    with pytest.raises(CorruptArtifact):
        store.fetch(entry.sha256, tmp_path / "copy", entry.size)
    with pytest.raises(CorruptArtifact):
        store.read(entry.sha256)
    assert not (tmp_path / "copy").exists()


def test_a_true_blob_of_another_size_than_stated_is_refused(store: BlobStore, source: Path, tmp_path: Path) -> None:
    entry = store.put_file(source)
    for size in (entry.size - 1, entry.size + 1, 0):
        with pytest.raises(CorruptArtifact):
            store.fetch(entry.sha256, tmp_path / "copy", size)
        assert not (tmp_path / "copy").exists()


def test_a_blob_that_has_grown_never_fills_the_disk(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs, "_CHUNK", 1024)
    store = BlobStore.open(tmp_path / "store")
    entry = store.put_file(source)
    with blob_path(tmp_path / "store").open("r+b") as file:
        file.truncate(1_000_000)
    read: list[int] = []
    whole = store._filesystem.cat_file

    def counted(path: str, start: int, end: int) -> bytes:
        read.append(end)
        return whole(path, start, end)

    monkeypatch.setattr(store._filesystem, "cat_file", counted)
    with pytest.raises(CorruptArtifact):
        store.fetch(entry.sha256, tmp_path / "copy", entry.size)
    assert read[-1] < entry.size + 2048


def test_fetch_never_overwrites_or_follows_what_is_there(store: BlobStore, source: Path, tmp_path: Path) -> None:
    entry = store.put_file(source)
    (tmp_path / "taken").write_bytes(b"mine")
    (tmp_path / "link").symlink_to(tmp_path / "taken")
    for destination in (tmp_path / "taken", tmp_path / "link"):
        with pytest.raises(InvalidInput):
            store.fetch(entry.sha256, destination, entry.size)
    assert (tmp_path / "taken").read_bytes() == b"mine"


def test_a_missing_blob_is_not_found(store: BlobStore, tmp_path: Path) -> None:
    assert not store.exists(DIGEST)
    with pytest.raises(NotFound):
        store.read(DIGEST)
    with pytest.raises(NotFound):
        store.fetch(DIGEST, tmp_path / "copy", 1)
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize(
    "digest", ["", "sha256:", "../../etc/passwd", DIGEST[:-1], DIGEST + "0", DIGEST.upper(), "md5:" + DIGEST, "٣" * 64]
)
def test_a_digest_that_is_none_never_becomes_a_path(store: BlobStore, digest: str, tmp_path: Path) -> None:
    for call in (
        lambda: store.exists(digest),
        lambda: store.read(digest),
        lambda: store.fetch(digest, tmp_path / "copy", 1),
    ):
        with pytest.raises(CorruptArtifact):
            call()


def test_reading_stops_at_its_limit(store: BlobStore) -> None:
    digest = store.put_bytes(CONTENT)
    assert store.read(digest, limit=len(CONTENT)) == CONTENT
    with pytest.raises(CorruptArtifact):
        store.read(digest, limit=len(CONTENT) - 1)


def test_links_and_pipes_are_not_stored(store: BlobStore, source: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(source)
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "link", tmp_path / "pipe", tmp_path):
        with pytest.raises(InvalidInput):
            store.put_file(path)
    with pytest.raises(NotFound):
        store.put_file(tmp_path / "missing")


class Failing:
    """A file system that fails in one call, as an object store does on a bad day."""

    def __init__(self, inner: Any, call: str, error: Exception) -> None:
        self._inner, self._call, self._error = inner, call, error

    def __getattr__(self, name: str) -> Any:
        def fail(*arguments: Any, **options: Any) -> Any:
            raise self._error

        return fail if name == self._call else getattr(self._inner, name)


@pytest.mark.parametrize("error", [TimeoutError("connect"), OSError(5, "EIO"), RuntimeError("botocore said no")])
@pytest.mark.parametrize("call", ["info", "cat_file", "open", "mv"])
def test_a_store_that_fails_is_unavailable_and_nothing_becomes_visible(
    store: BlobStore, source: Path, tmp_path: Path, call: str, error: Exception
) -> None:
    known = store.put_bytes(b"known")
    broken = BlobStore(Failing(store._filesystem, call, error), store._root, local=store._local)
    with pytest.raises(Unavailable) as refusal:
        broken.read(known) if call in ("info", "cat_file") else broken.put_file(source)
    assert str(error) not in refusal.value.message
    assert not store.exists(DIGEST)


def test_a_failed_write_leaves_no_temporary_file(tmp_path: Path, source: Path) -> None:
    store = BlobStore.open(tmp_path / "store")
    broken = BlobStore(Failing(store._filesystem, "mv", OSError(28, "ENOSPC")), store._root, local=True)
    with pytest.raises(Unavailable):
        broken.put_file(source)
    assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == []


def test_a_full_disk_under_a_copy_is_unavailable_and_leaves_nothing(
    store: BlobStore, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = store.put_file(source)

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "_copy", full)
    with pytest.raises(Unavailable):
        store.fetch(entry.sha256, tmp_path / "copy", entry.size)
    assert not (tmp_path / "copy").exists()


def test_a_file_that_changes_while_it_is_stored_is_never_under_a_wrong_name(
    store: BlobStore, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = blobs._chunks

    def changed_meanwhile(file: Any) -> Iterator[bytes]:
        for chunk in whole(file):
            yield chunk
            source.write_bytes(os.urandom(len(CONTENT)))

    monkeypatch.setattr(blobs, "_CHUNK", 4096)
    monkeypatch.setattr(blobs, "_chunks", changed_meanwhile)
    entry = store.put_file(source)
    assert hashlib.sha256(store.read(entry.sha256)).hexdigest() == entry.sha256


def test_readers_and_writers_of_one_blob_do_not_disturb_each_other(store: BlobStore, source: Path) -> None:
    digest = store.put_file(source).sha256

    def work(_: int) -> bool:
        store.put_file(source)
        return store.read(digest) == CONTENT

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(80)))


def test_a_writer_killed_halfway_leaves_nothing_visible(tmp_path: Path, source: Path) -> None:
    program = """
import os, signal, sys
from pathlib import Path
from keelway.artifacts.blobs import BlobStore
from keelway.clock import SystemClock
store = BlobStore.open(sys.argv[1])
store._move = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
store.put_file(Path(sys.argv[2]))
"""
    command = [sys.executable, "-c", program, str(tmp_path / "store"), str(source)]
    assert subprocess.run(command, check=False, timeout=60).returncode == -9
    store = BlobStore.open(tmp_path / "store")
    assert not store.exists(DIGEST)
    store.put_file(source)
    assert store.read(DIGEST) == CONTENT


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_the_digest_is_the_sha256_of_the_content(tmp_path: Path, data: bytes) -> None:
    store = BlobStore.open(tmp_path / "store")
    digest = store.put_bytes(data)
    assert digest == "sha256:" + hashlib.sha256(data).hexdigest()
    assert store.read(digest) == data


def test_what_is_stored_is_listed_with_its_size_and_age_and_can_be_removed(store: BlobStore) -> None:  # S6
    assert list(store.stored()) == []
    digests = {store.put_bytes(text).removeprefix("sha256:"): len(text) for text in (b"one", b"three")}
    listed = list(store.stored())
    assert {item.digest: item.size for item in listed} == digests
    now = SystemClock().now()
    assert all(now - 60 < item.modified < now + 2 for item in listed)
    assert not store.remove(listed[0], older_than=now - 3600)
    assert store.exists(listed[0].digest or "")
    assert store.remove(listed[0], older_than=now + 3600)
    assert not store.exists(listed[0].digest or "")
    assert not store.remove(listed[0], older_than=now + 3600)
    assert [item.key for item in store.stored()] == [listed[1].key]


def test_a_blob_that_is_put_again_after_a_while_is_as_new_as_that_push(
    store: BlobStore, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put_file(source)
    (before,) = store.stored()
    time.sleep(1.1)  # an object store counts whole seconds
    monkeypatch.setattr(blobs, "REFRESH_SECONDS", 1.0)
    store.put_file(source)
    (after,) = store.stored()
    assert after.modified > before.modified
    assert not store.remove(before, older_than=after.modified)
    assert store.read(DIGEST) == CONTENT


def test_what_is_no_blob_is_not_listed(tmp_path: Path, source: Path) -> None:
    store = BlobStore.open(tmp_path / "store")
    store.put_file(source)
    for name in ("registry.db", "sha256/notes", f"sha256/{DIGEST}", f"other/{DIGEST[:2]}/{DIGEST[2:]}"):
        (tmp_path / "store" / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / "store" / name).write_bytes(b"mine")
    assert [item.digest for item in store.stored()] == [DIGEST]


def test_what_lies_in_a_store_within_or_in_a_folder_of_somebody_else_is_not_listed(store: BlobStore) -> None:  # S6
    store.put_bytes(b"mine")
    mine = {item.key for item in store.stored()}
    filesystem, root = store._filesystem, store._root
    foreign = ("team/sha256/" + f"{DIGEST[:2]}/{DIGEST[2:]}", "data/incoming/" + "0" * 32, "incoming/orders.csv")
    for name in foreign:
        filesystem.makedirs(f"{root}/{name}".rpartition("/")[0], exist_ok=True)
        filesystem.pipe_file(f"{root}/{name}", b"another's")
    assert {item.key for item in store.stored()} == mine


def test_an_upload_to_an_object_store_that_breaks_off_is_invisible(
    object_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = object_store.open()
    large = tmp_path / "large"
    large.write_bytes(os.urandom(12 * 1024 * 1024))  # more than one part

    def breaks(chunks: Iterator[bytes], target: Any = None) -> tuple[str, int]:
        if target is not None:
            for number, chunk in enumerate(chunks):
                target.write(chunk)
                if number == 1:
                    raise ConnectionResetError("the wire was cut")
        return whole(chunks, target)

    whole = blobs._hash
    with monkeypatch.context() as patched:
        patched.setattr(blobs, "_hash", breaks)
        with pytest.raises(Unavailable):
            store.put_file(large)
    assert [item for item in store.stored() if item.digest] == []
    entry = store.put_file(large)
    store.fetch(entry.sha256, tmp_path / "copy", entry.size)
    assert [item.digest for item in store.stored() if item.digest] == [entry.sha256]


def test_a_blob_changed_in_an_object_store_is_refused(object_store: ObjectStore, source: Path, tmp_path: Path) -> None:
    store = object_store.open()
    entry = store.put_file(source)
    (item,) = store.stored()
    store._filesystem.pipe_file(item.key, b"y" + CONTENT[1:])  # type: ignore[attr-defined]
    with pytest.raises(CorruptArtifact):
        store.fetch(entry.sha256, tmp_path / "copy", entry.size)
    with pytest.raises(CorruptArtifact):
        store.read(entry.sha256)
    assert not (tmp_path / "copy").exists()


def test_an_object_store_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        blobs, "_S3_TIMEOUTS", {"connect_timeout": 1, "read_timeout": 1, "retries": {"max_attempts": 1}}
    )
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        store = BlobStore.open("s3://bucket/prefix", endpoint_url=url, key="x", secret="y", skip_instance_cache=True)
        began = time.monotonic()
        with pytest.raises(Unavailable):
            store.exists(DIGEST)
        assert time.monotonic() - began < 30


def test_an_address_of_no_known_kind_is_refused() -> None:
    with pytest.raises(InvalidInput):
        BlobStore.open("nonsense://somewhere")


def test_a_store_whose_package_is_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(FailedPrecondition) as refusal:
        BlobStore.open("s3://bucket/prefix")
    assert "pip install" in str(refusal.value.hint)
