"""What garbage collection removes, what it never removes, and that no push loses its files to it. # S6"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from threading import Barrier, Event, Thread
from typing import TYPE_CHECKING, Any

import pytest
from tests.registry.conftest import POSTGRESQL

from keelway.artifacts import blobs as blobs_module
from keelway.artifacts.blobs import BlobStore
from keelway.artifacts.manifest import FileEntry, Manifest
from keelway.artifacts.materialise import put_manifest
from keelway.contract.signature import Feature, ModelSignature
from keelway.errors import FailedPrecondition, Unavailable
from keelway.registry import collection
from keelway.registry.collection import Collected
from keelway.registry.database import STATEMENT_SECONDS
from keelway.registry.models import ModelVersion
from keelway.registry.references import references, require_stored
from keelway.registry.store import Registry
from keelway.types import TensorSpec

if TYPE_CHECKING:
    from tests.objectstore import ObjectStore

DAY = 86400.0
SIGNATURE = ModelSignature(
    (Feature("x", "FP32"),),
    (TensorSpec("x", "FP32", (-1,)),),
    (TensorSpec("y", "FP32", (-1,)),),
)


class Tomorrow:
    """Two days from now: all that is stored now is old then."""

    def now(self) -> float:
        return time.time() + 2 * DAY

    monotonic = staticmethod(time.monotonic)


@pytest.fixture
def registry(url: str) -> Iterator[Registry]:
    with closing(Registry.open(url, clock=Tomorrow())) as opened:
        yield opened


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore.open(tmp_path / "artifacts")


def put(store: BlobStore, *contents: bytes, runtime: str = "onnx", **options: object) -> str:
    """Store files and a manifest of them; its digest."""
    files = [
        FileEntry(f"{n}.bin", store.put_bytes(data).removeprefix("sha256:"), len(data))
        for n, data in enumerate(contents)
    ]
    return put_manifest(store, Manifest(tuple(files), SIGNATURE, runtime, options))


def push(registry: Registry, store: BlobStore, digest: str, name: str = "churn", **metadata: object) -> ModelVersion:
    stored = partial(require_stored, store, digest)
    return registry.push(name, None, digest, metadata=metadata, stored=stored, who="ann", why="x")


def collect(registry: Registry, store: BlobStore, **options: bool) -> Collected:
    return registry.collection.run(store, grace=DAY, who="ann", why="full", **options)


def there(store: BlobStore) -> set[str]:
    return {item.digest or item.key for item in store.stored()}


def test_what_nothing_refers_to_is_removed_and_the_bytes_are_told(registry: Registry, store: BlobStore) -> None:
    push(registry, store, put(store, b"weights"))
    before = there(store)
    put(store, b"pushed and never registered")
    unfinished = Path(store._root) / "incoming" / ("0123" * 8)
    unfinished.parent.mkdir(exist_ok=True)
    unfinished.write_bytes(b"half")
    size = sum(item.size for item in store.stored())
    told = collect(registry, store, dry_run=True)
    assert unfinished.exists()
    assert (told.blobs, told.versions) == (3, ())
    assert collect(registry, store) == told
    assert there(store) == before
    assert told.bytes + told.kept_bytes == size
    assert told.kept_blobs == 2
    entry = registry.history()[0]
    assert (entry.action, entry.model, entry.why) == ("gc", "", "full")
    assert entry.evidence == {"blobs": 3, "bytes": told.bytes}
    assert registry.audit().findings == ()
    assert collect(registry, store).blobs == 0
    assert registry.history()[0].id == entry.id  # nothing was removed: nothing to tell


def test_what_is_newer_than_the_grace_period_stays(url: str, clock: object, store: BlobStore) -> None:
    class Now(Tomorrow):
        now = staticmethod(time.time)

    with closing(Registry.open(url, clock=Now())) as registry:
        put(store, b"being pushed")
        assert collect(registry, store) == Collected(0, 0, (), 2, sum(item.size for item in store.stored()))


def test_whatever_an_available_version_refers_to_stays(registry: Registry, store: BlobStore) -> None:
    golden = store.put_bytes(b"golden sample")
    forest = store.put_bytes(b"isolation forest")
    inner = put(store, b"inner")
    nested = put(store, runtime="pipeline", steps=[{"name": "a", "model_digest": inner, "inputs": {}}])
    step = {"name": "b", "model_digest": nested, "inputs": {}}
    push(registry, store, put(store, b"one"), golden=golden, deep={"list": [{"forest": forest}]})
    push(registry, store, put(store, b"two", runtime="pipeline", steps=[step]))
    registry.set_alias("churn", "champion", "1.1.0", who="ann", why="x")
    before = there(store)
    for archived in (False, True):
        assert collect(registry, store, archived=archived).blobs == 0
    assert there(store) == before
    assert len(before) == 9


def test_archived_versions_keep_their_files_until_they_are_released(registry: Registry, store: BlobStore) -> None:
    shared = b"shared weights"
    digests = [put(store, shared, text) for text in (b"one", b"two", b"three")]
    for digest in digests:
        push(registry, store, digest)
    registry.archive("churn", "1.1.0", who="ann", why="x")
    assert collect(registry, store).blobs == 0
    assert registry.restore("churn", "1.1.0", who="ann", why="x").state == "available"
    registry.archive("churn", "1.1.0", who="ann", why="x")
    told = collect(registry, store, archived=True, dry_run=True)
    assert (told.versions, told.blobs) == (("churn@1.1.0",), 2)
    assert registry.history()[0].action == "archive"
    assert collect(registry, store, archived=True) == told
    assert not store.exists(digests[1])
    for kept in (digests[0], digests[2]):
        require_stored(store, kept)
    with pytest.raises(FailedPrecondition) as refusal:
        registry.restore("churn", "1.1.0", who="ann", why="x")
    assert "push it again" in str(refusal.value.hint)
    assert [entry.action for entry in registry.history(limit=2)] == ["gc", "collect"]
    assert collect(registry, store, archived=True).versions == ()
    # Pushed again, its files are there again.
    again = put(store, shared, b"two")
    assert registry.push("churn", "1.1.0", again, who="ann", why="x").state == "archived"
    assert registry.restore("churn", "1.1.0", who="ann", why="x").state == "available"
    assert collect(registry, store, archived=True).blobs == 0
    assert registry.audit().findings == ()


def test_what_is_said_of_a_version_pushed_again_is_of_the_files_that_are_there_again(
    registry: Registry, store: BlobStore
) -> None:
    """The golden sample of the first push was removed with the rest."""

    def say(golden: bytes, **rest: object) -> dict[str, object]:
        return {"golden": store.put_bytes(golden), **rest}

    first, second = put(store, b"one"), put(store, b"two")
    push(registry, store, first)
    registry.push("churn", None, second, metadata=say(b"rows", bump={"part": "minor"}), who="ann", why="x")
    kept = registry.get("churn", "1.1.0").metadata
    registry.push("churn", "1.1.0", second, metadata=say(b"others"), who="ann", why="the same again")
    assert registry.get("churn", "1.1.0").metadata == kept
    registry.archive("churn", "1.1.0", who="ann", why="x")
    collect(registry, store, archived=True)
    put(store, b"two")
    said = say(b"others")
    again = registry.push("churn", "1.1.0", second, metadata=said, report={"rows": 7}, who="bob", why="wanted back")
    assert again.metadata == {**said, "bump": {"part": "minor"}}
    assert again.report == {"rows": 7}
    newest = registry.history("churn")[0]
    assert (newest.action, newest.version, newest.who, newest.why) == ("push", "1.1.0", "bob", "wanted back")
    registry.restore("churn", "1.1.0", who="ann", why="x")
    assert collect(registry, store).blobs == 0
    assert store.exists(str(said["golden"]))
    assert registry.audit().findings == ()


def test_an_archived_member_of_a_pipeline_in_use_is_never_released(registry: Registry, store: BlobStore) -> None:
    member = put(store, b"member")
    push(registry, store, member, name="member")
    registry.remove_alias("member", "champion", who="ann", why="x")
    registry.archive("member", "1.0.0", who="ann", why="x")
    step = {"name": "a", "model_digest": member, "inputs": {}}
    pipeline = put(store, runtime="pipeline", steps=[step])
    push(registry, store, pipeline, name="whole")
    told = collect(registry, store, archived=True)
    assert (told.versions, told.blobs) == ((), 0)
    assert registry.restore("member", "1.0.0", who="ann", why="x").state == "available"
    require_stored(store, pipeline)


def test_the_database_waits_for_no_manifest_that_a_distant_store_has(
    registry: Registry, store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text in (b"one", b"two", b"three"):
        push(registry, store, put(store, text))
    held, references = [], collection.references

    def read(*arguments: Any) -> frozenset[str]:
        held.append(registry._engine.pool.checkedout())  # type: ignore[attr-defined]
        return references(*arguments)

    monkeypatch.setattr(collection, "references", read)
    assert collect(registry, store).blobs == 0
    assert held == [0, 0, 0]


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_nothing_is_removed_where_what_a_version_refers_to_is_unknown(
    registry: Registry, store: BlobStore, damage: str
) -> None:
    digest = put(store, b"weights")
    push(registry, store, digest)
    put(store, b"garbage")
    path = Path(store._root) / "sha256" / digest[7:9] / digest[9:]
    path.unlink() if damage == "missing" else path.write_bytes(b"{}")
    before = there(store)
    with pytest.raises(FailedPrecondition, match=r"churn@1\.0\.0"):
        collect(registry, store)
    assert there(store) == before


def test_a_store_of_something_else_is_left_alone(registry: Registry, store: BlobStore, tmp_path: Path) -> None:
    push(registry, store, put(store, b"weights"))
    other = BlobStore.open(tmp_path / "other")
    other.put_bytes(b"of another registry")
    with pytest.raises(FailedPrecondition):
        collect(registry, other)
    assert len(there(other)) == 1


def test_pipelines_are_followed_however_deep_they_nest(store: BlobStore) -> None:
    digest = inner = put(store, b"inner")
    for _ in range(9):
        digest = put(store, runtime="pipeline", steps=[{"name": "a", "model_digest": digest, "inputs": {}}])
    found = references(store, digest)
    assert len(found) == 11, "ten manifests and the file of the innermost"
    assert inner.removeprefix("sha256:") in found


def test_a_distant_store_is_asked_about_several_files_at_once(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the lock of the registry: one after the other, hundreds of files would hold everybody up."""
    digest = put(store, *(bytes([number]) for number in range(7)))
    together, exists = Barrier(8, timeout=20), BlobStore.exists

    def slow(self: BlobStore, name: str) -> bool:
        together.wait()
        return exists(self, name)

    monkeypatch.setattr(BlobStore, "exists", slow)
    require_stored(store, digest)


@pytest.mark.slow
@POSTGRESQL
def test_hundreds_of_files_in_a_slow_store_are_asked_for_before_the_database_gives_up(
    registry: Registry, object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other they would take half a minute, and a silent transaction is ended after half of that."""
    store = object_store.open()
    filesystem: Any = store._filesystem
    contents = [b"file %d" % number for number in range(500)]
    entries = [FileEntry(f"{n}.bin", hashlib.sha256(data).hexdigest(), len(data)) for n, data in enumerate(contents)]
    for entry, data in zip(entries, contents, strict=True):
        filesystem.pipe_file(store._key(entry.sha256), data)
    digest = put_manifest(store, Manifest(tuple(entries), SIGNATURE, "onnx"))
    quick = filesystem.info

    def slow(path: str) -> Any:
        time.sleep(0.06)
        return quick(path)

    monkeypatch.setattr(filesystem, "info", slow)
    assert 1.9 * STATEMENT_SECONDS < 500 * 0.06
    filesystem.rm_file(store._key(entries[250].sha256))
    with pytest.raises(FailedPrecondition, match="were removed"):
        push(registry, store, digest)
    assert registry.models() == ()
    filesystem.pipe_file(store._key(entries[250].sha256), contents[250])
    garbage = store.put_bytes(b"garbage").removeprefix("sha256:")
    assert push(registry, store, digest).version == "1.0.0"
    assert collect(registry, store).blobs == 1
    assert there(store) == {entry.sha256 for entry in entries} | {digest.removeprefix("sha256:")}
    assert garbage not in there(store)
    assert registry.audit().findings == ()


def test_a_push_that_puts_an_old_orphan_again_has_it_to_itself(
    registry: Registry, store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, b"weights")  # an orphan of long ago
    listed = list(store.stored())
    monkeypatch.setattr(blobs_module, "REFRESH_SECONDS", 0.0)
    time.sleep(0.05)
    digest = put(store, b"weights")  # the push that is under way now
    assert [store.remove(item, older_than=listed[0].modified + 0.02) for item in listed] == [False, False]
    push(registry, store, digest)
    require_stored(store, digest)


def test_a_push_whose_files_were_removed_meanwhile_is_refused_and_not_entered(
    registry: Registry, store: BlobStore
) -> None:
    digest = put(store, b"weights")
    assert collect(registry, store).blobs == 2
    with pytest.raises(FailedPrecondition) as refusal:
        push(registry, store, digest)
    assert refusal.value.hint == "push it again"
    assert registry.models() == ()
    push(registry, store, put(store, b"weights"))


def test_a_version_entered_between_the_look_and_the_removal_keeps_its_files(
    registry: Registry, store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = put(store, b"weights")
    garbage = put(store, b"garbage")
    whole = store.stored

    def pushed_meanwhile() -> Iterator[blobs_module.Stored]:
        found = list(whole())
        push(registry, store, digest)
        return iter(found)

    monkeypatch.setattr(store, "stored", pushed_meanwhile)
    assert collect(registry, store).blobs == 2
    require_stored(store, digest)
    assert not store.exists(garbage)


def test_no_version_ever_lacks_a_file_whatever_is_pushed_and_collected_at_once(
    registry: Registry, store: BlobStore
) -> None:
    """Without a grace period, and with everything old from the start: the worst that can be set."""
    done = Event()
    wrong: list[str] = []

    def collecting() -> None:
        while not done.wait(0.01):  # a push has to be quicker than this to come in between
            registry.collection.run(store, grace=0.0, who="gc", why="x")

    thread = Thread(target=collecting)
    thread.start()
    entered = 0
    try:
        for number in range(60):
            try:
                push(registry, store, put(store, b"shared", b"%d" % (number % 7)))
                entered += 1
            except (FailedPrecondition, Unavailable):  # its files were taken, or one while it was written
                continue
            for version in registry.versions("churn"):
                try:
                    require_stored(store, version.model_digest)
                except FailedPrecondition:
                    wrong.append(version.version)
    finally:
        done.set()
        thread.join(60)
    assert wrong == []
    assert entered
