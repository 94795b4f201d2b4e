"""A push on a bad day: killed at every step, on a full disk, beside another of the same version. Nothing is half
visible afterwards, and the next push works. # S6
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from tests.registry.conftest import SQLITE
from tests.registry.test_concurrency import together

from keelway.artifacts.blobs import BlobStore
from keelway.clock import Clock
from keelway.registry.references import require_stored
from keelway.registry.store import Registry

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
    return release(registry, BlobStore.open(root / "artifacts"), name, version, source, who="ann", why="x")
"""

KILLED = (
    PRELUDE
    + """
def dying(after):
    \"\"\"Die by SIGKILL at the step ``after`` of all that write: into the store, to the disk, to the database.\"\"\"
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
    from fsspec.implementations.local import LocalFileSystem
    around(LocalFileSystem, "open")
    around(LocalFileSystem, "mv")
    for event in ("before_cursor_execute", "after_cursor_execute", "commit"):
        sa.event.listen(sa.Engine, event, step)
    return lambda: steps

Registry.open(url, clock=SystemClock()).close()
after, results = 0, []
while True:
    after += 1
    name = f"m{after}"
    child = os.fork()
    if child == 0:
        count = dying(after)
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
