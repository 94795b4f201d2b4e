"""A push on a bad day: killed at every step, on a full disk, beside another of the same version; and a database on its
way to the schema of this keelway. Nothing is half visible afterwards, and the next push works. # S4 S6
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from tests.registry.conftest import SQLITE
from tests.registry.test_concurrency import together
from tests.registry.test_migration import at_revision

from keelway.artifacts.blobs import BlobStore
from keelway.clock import Clock
from keelway.registry import schema
from keelway.registry.database import connect, writing
from keelway.registry.migrations import HEAD
from keelway.registry.references import references, require_stored
from keelway.registry.store import Registry

if TYPE_CHECKING:
    from tests.objectstore import ObjectStore
    from tests.postgresql import PostgreSQL

#: A push as ``release`` makes it, of a model whose conversion does not matter here.
PRELUDE = """
import json, os, resource, signal, sys
from pathlib import Path
import sqlalchemy as sa
from keelway.artifacts import blobs as blobs_module
from keelway.artifacts.blobs import BlobStore
from keelway.artifacts.manifest import Manifest
from keelway.artifacts.materialise import store_folder
from keelway.clock import SystemClock
from keelway.contract.signature import Feature, ModelSignature
from keelway.errors import KeelwayError
from keelway.publish import release as release_module
from keelway.publish.release import Source, release
from keelway.registry.store import Registry
from keelway.types import TensorSpec

url, root = sys.argv[1], Path(sys.argv[2])
artifacts = os.environ.get("ARTIFACTS", root / "artifacts")
SIGNATURE = ModelSignature(
    (Feature("x", "FP32"),), (TensorSpec("x", "FP32", (-1,)),), (TensorSpec("y", "FP32", (-1,)),)
)

def convert(blobs, source, progress):
    manifest = Manifest(store_folder(blobs, source.file.parent), SIGNATURE, "onnx", {})
    return manifest, {"format": "onnx"}, None, None, None, None

release_module._convert = convert

def trained(name, content):
    folder = root / "trained" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(content)
    (folder / "model.onnx.data").write_bytes(b"weights of " + content)
    return Source(folder / "model.onnx")

def push(name, content, version=None, source=None):
    source = source or trained(name, content)
    registry = Registry.open(url, clock=SystemClock())
    return release(registry, BlobStore.open(artifacts), name, version, source, who="ann", why="x")
"""

#: ``dying(after)`` has the process die by SIGKILL at the step ``after`` of all that write: into the store, to the disk,
#: to the database.
DYING = """
import os, signal
import sqlalchemy as sa
from fsspec.implementations.local import LocalFileSystem
from s3fs import S3FileSystem
from keelway.artifacts import blobs as blobs_module
from keelway.registry import migration

def dying(after):
    steps = 0
    def step(*_):
        nonlocal steps
        steps += 1
        if steps == after:
            os.kill(os.getpid(), signal.SIGKILL)
    def around(owner, name):
        whole = getattr(owner, name)
        def stepping(*arguments, **options):
            step()
            answer = whole(*arguments, **options)
            step()
            return answer
        setattr(owner, name, stepping)
    around(blobs_module, "_hash")
    around(os, "fsync")
    around(LocalFileSystem, "open")
    around(LocalFileSystem, "mv")
    around(migration, "_write_ahead")
    called = S3FileSystem._call_s3
    async def calling(*arguments, **options):
        step()
        answer = await called(*arguments, **options)
        step()
        return answer
    S3FileSystem._call_s3 = calling
    for event in ("before_cursor_execute", "after_cursor_execute", "commit"):
        sa.event.listen(sa.Engine, event, step)
"""

KILLED = (
    PRELUDE
    + DYING
    + """
Registry.open(url, clock=SystemClock()).close()
after, results = 0, []
while True:
    after += 1
    name = f"m{after}"
    child = os.fork()
    if child == 0:
        dying(after)
        push(name, b"model %d" % after)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    results.append([name, status])
    if status == 0:
        break
print(json.dumps(results))
"""
)

AGAIN = PRELUDE + "print(json.dumps([push(name, b'model ' + name[1:].encode()).version for name in sys.argv[3:]]))"

#: For each database and step that it reads: how a process has ended that brings the one to head, or dies at the other.
MIGRATING = (
    DYING
    + """
import sys
import alembic.command
from keelway.clock import SystemClock
from keelway.registry.store import Registry

for line in sys.stdin:
    url, after = line.split()
    child = os.fork()
    if child == 0:
        dying(int(after))
        Registry.open(url, clock=SystemClock()).close()
        os._exit(0)
    print(os.waitpid(child, 0)[1], flush=True)
"""
)

ONE_VERSION = (
    PRELUDE.replace("Path(sys.argv[2])", "Path(os.environ['ROOT']) / sys.argv[2]").replace(
        'root / "artifacts"', 'root.parent / "artifacts"'
    )
    + """
content = b"the same" if os.environ["CONTENT"] == "same" else sys.argv[2].encode()
sys.stdin.readline()  # all begin together
for version in ("1.0.0", "1.1.0", "2.0.0"):
    try:
        print(version, push("churn", content, version).model_digest)
    except KeelwayError as error:
        print(version, error.code)
"""
)

FULL = (
    PRELUDE
    + """
push("before", b"x" * 100)

def limited(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

size = int(sys.argv[4])
try:
    for number in range(200):
        source = trained("churn", b"y" * size + str(number).encode())
        limited(int(sys.argv[3]) or max(path.stat().st_size for path in root.glob("store/*")))
        push("churn", b"", source=source)
        limited(resource.RLIM_INFINITY)
    sys.exit("no error")
except KeelwayError as error:
    print(error.code, "|", error.message, "|", error.hint)
limited(resource.RLIM_INFINITY)
print(push("churn", b"z" * size).model)
"""
)


class Later:
    """An hour from now: what is stored now is older than a minute then."""

    def now(self) -> float:
        return time.time() + 3600.0

    monotonic = staticmethod(time.monotonic)


def run(program: str, *arguments: str | Path) -> str:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr
    return done.stdout


def sound(registry: Registry, store: BlobStore) -> None:
    """Every version that can be seen is whole, and the history tells of all of them."""
    for model in registry.models():
        for version in registry.versions(model.name):
            require_stored(store, version.model_digest)
            registry.policy(model.name, version.version)
        assert registry.resolve(model.name).version
    assert registry.audit().findings == ()


@pytest.mark.slow
def test_a_push_killed_at_any_step_leaves_nothing_half_visible_and_the_next_one_works(
    url: str, clock: Clock, tmp_path: Path
) -> None:
    results = json.loads(run(KILLED, url, tmp_path))
    killed = [name for name, status in results if status != 0]
    assert len(killed) > 60
    assert {status for _, status in results} == {9, 0}
    store = BlobStore.open(tmp_path / "artifacts")
    with closing(Registry.open(url, clock=clock)) as registry:
        sound(registry, store)
        visible = {model.name for model in registry.models()}
        # Only what was committed is there: a push killed afterwards is one that was made.
        assert len(visible) < 4
        assert json.loads(run(AGAIN, url, tmp_path, *killed)) == ["1.0.0"] * len(killed)
        sound(registry, store)
        assert {model.name for model in registry.models()} == {name for name, _ in results}
        assert len(registry.history(limit=10_000)) == 2 * len(results)


@pytest.mark.slow
def test_a_push_to_an_object_store_killed_at_any_step_leaves_nothing_that_gc_does_not_take(
    url: str, object_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = object_store.new_bucket()
    for name, value in {**object_store.environment, "ARTIFACTS": bucket}.items():
        monkeypatch.setenv(name, value)
    results = json.loads(run(KILLED, url, tmp_path))
    killed = [name for name, status in results if status != 0]
    assert len(killed) > 80
    assert {status for _, status in results} == {9, 0}
    store = BlobStore.open(bucket)
    left = list(store.stored())
    assert any(item.digest is None for item in left)  # uploads that did not end
    for item in left:
        if item.digest:
            store.check(item.digest, item.size)
    with closing(Registry.open(url, clock=Later())) as registry:
        sound(registry, store)
        assert len(registry.models()) < 4
        assert json.loads(run(AGAIN, url, tmp_path, *killed)) == ["1.0.0"] * len(killed)
        sound(registry, store)
        assert {model.name for model in registry.models()} == {name for name, _ in results}
        registry.collection.run(store, grace=60.0, who="ann", why="x")
        sound(registry, store)
        needed = {
            digest
            for model in registry.models()
            for version in registry.versions(model.name)
            for digest in references(store, version.model_digest)
        }
        assert {item.digest for item in store.stored()} == needed


def prepared(server: PostgreSQL | None, folder: Path, older: bool) -> str:
    """The URL of a database as nobody has used it, or as an ``older`` keelway left it."""
    url = server.new_database() if server else f"sqlite:///{folder}/registry.db"
    if older:
        engine = at_revision(url, "0003")
        with writing(engine) as connection:
            connection.exec_driver_sql("INSERT INTO models VALUES ('old', 'old', 1, 'ann')")
            connection.exec_driver_sql(
                "INSERT INTO history (id, at, who, action, model, why) VALUES (1, 1, 'ann', 'push', 'old', 'x')"
            )
        engine.dispose()
    return url


def copy_of(url: str, server: PostgreSQL | None, folder: Path) -> str:
    if server is None:
        shutil.rmtree(folder / "copy", ignore_errors=True)
        (folder / "copy").mkdir()
        for path in folder.glob("registry.db*"):  # the log of what was written last among them
            shutil.copy(path, folder / "copy")
        return f"sqlite:///{folder}/copy/registry.db"
    return server.new_database(url)


def found_in(url: str) -> tuple[str | None, frozenset[str]]:
    """The revision of a database, and its tables."""
    engine = connect(url)
    with engine.connect() as connection:
        tables = frozenset(sa.inspect(connection).get_table_names())
        known = "alembic_version" in tables
        revision = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar() if known else None
    engine.dispose()
    return revision, tables


@pytest.mark.slow
@pytest.mark.parametrize("older", [False, True], ids=["empty", "older"])
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_bringing_a_database_to_head_may_be_killed_at_any_step(
    database: str, older: bool, request: pytest.FixtureRequest, clock: Clock, tmp_path: Path
) -> None:
    server = request.getfixturevalue("shared_postgresql") if database == "postgresql" else None
    original = prepared(server, tmp_path, older)
    before = found_in(original)
    with subprocess.Popen(
        [sys.executable, "-c", MIGRATING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as migrating:
        assert migrating.stdin is not None
        assert migrating.stdout is not None
        status, after = 9, 0
        while status == 9:
            after += 1
            url = copy_of(original, server, tmp_path)
            print(url, after, file=migrating.stdin, flush=True)
            status = int(migrating.stdout.readline())
            there = found_in(url)
            assert there == before or (there[0] == HEAD and schema.metadata.tables.keys() < there[1])
            with closing(Registry.open(url, clock=clock)) as registry:
                assert registry.push("new", None, "sha256:" + "0" * 64, who="ann", why="x").version == "1.0.0"
                assert registry.audit().entries == older + 2
                assert [model.name for model in registry.models()] == ["new", *["old"] * older]
            if server is not None:
                server.execute(f"DROP DATABASE {sa.make_url(url).database} WITH (FORCE)")
        migrating.stdin.close()
    assert status == 0
    assert after > (20 if older else 40)


@pytest.mark.parametrize("content", ["same", "different"])
def test_of_pushes_of_one_version_at_once_one_content_wins(
    url: str, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.setenv("ROOT", str(tmp_path))
    monkeypatch.setenv("CONTENT", content)
    said = together(ONE_VERSION, url, 3)
    store = BlobStore.open(tmp_path / "artifacts")
    with closing(Registry.open(url, clock=clock)) as registry:
        sound(registry, store)
        there = {version.version: version.model_digest for version in registry.versions("churn")}
        assert there.keys() == {"1.0.0", "1.1.0", "2.0.0"}
        for number, (_, digest) in enumerate(sorted(there.items())):
            answers = [lines[number].split()[1] for lines in said]
            assert answers.count(digest) == (3 if content == "same" else 1)
            assert set(answers) <= {digest, "ALREADY_EXISTS"}


def test_a_full_disk_under_the_artifacts_is_said_and_leaves_nothing(url: str, clock: Clock, tmp_path: Path) -> None:
    said = run(FULL, url, tmp_path, "40000", "100000").splitlines()
    assert said[0].startswith("UNAVAILABLE | the artifact store does not answer")
    assert "free space" in said[0]
    with closing(Registry.open(url, clock=clock)) as registry:
        store = BlobStore.open(tmp_path / "artifacts")
        sound(registry, store)
        assert len(registry.versions("churn")) == 1
        assert all(item.digest for item in store.stored())


@SQLITE
def test_a_full_disk_under_the_database_is_said_and_leaves_nothing(url: str, clock: Clock, tmp_path: Path) -> None:
    said = run(FULL, url, tmp_path, "0", "10").splitlines()
    assert said[0].startswith("UNAVAILABLE | the registry's database")
    assert "disk" in said[0]
    with closing(Registry.open(url, clock=clock)) as registry:
        sound(registry, BlobStore.open(tmp_path / "artifacts"))
