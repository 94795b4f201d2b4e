"""Weights in a file of their own: from the registry or a file, with the same answers. # T3 R6"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import onnx
import pytest
from tests.artifacts.test_external_data import LARGE, dense
from tests.serving import forest

from keelway.artifacts.blobs import BlobStore
from keelway.artifacts.manifest import Manifest
from keelway.artifacts.materialise import put_manifest, store_folder
from keelway.artifacts.onnx_files import external_locations
from keelway.clock import SystemClock
from keelway.contract.constraints import Policy
from keelway.contract.tensors import signature_from_tensors
from keelway.hosting import weights
from keelway.hosting.artifacts import ArtifactLoader
from keelway.hosting.files import FileSource
from keelway.hosting.pricing import price
from keelway.hosting.sharing import SharedFolders
from keelway.hosting.sources import Opened, Release
from keelway.hosting.weights import Price, Question, share_weights
from keelway.ports import RuntimeOptions
from keelway.runtimes.onnx import OnnxRuntime

PLAIN, SHARE = RuntimeOptions(), RuntimeOptions(share_weights=True)
ROWS = np.random.default_rng(2).standard_normal((3, LARGE)).astype(np.float32)


@pytest.fixture(autouse=True)
def heard(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "dense.onnx"
    path.write_bytes(dense().SerializeToString())
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "shared"
    folder.mkdir()
    return folder


def answer(opened: Opened | OnnxRuntime) -> list[float]:
    runtime = opened.runtime if isinstance(opened, Opened) else opened
    (output,) = runtime.run({"x": ROWS}, ["y1"])  # type: ignore[misc]
    return output.tolist()  # type: ignore[no-any-return]


@pytest.fixture
def expected(file: Path) -> Iterator[list[float]]:
    with closing(OnnxRuntime(file, PLAIN)) as plain:
        yield answer(plain)


def close_to(expected: list[float]) -> object:
    return pytest.approx(np.array(expected), rel=1e-4, abs=1e-5)


def test_a_file_is_served_from_weights_that_others_can_map(
    file: Path, root: Path, expected: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    shared = FileSource(file, SharedFolders(root))
    (release,) = shared.wanted()[0].releases
    opened = shared.open(release, SHARE)
    assert np.array(answer(opened)) == close_to(expected)
    maps = Path("/proc/self/maps").read_text()
    assert "dense-weights" in maps
    # Its digest is that of the file as it is: how it is loaded is no part of what it is.
    plain = FileSource(file).open(release, PLAIN)
    assert opened.manifest.digest == plain.manifest.digest
    plain.close()
    again = FileSource(file, SharedFolders(root)).open(release, SHARE)
    assert caplog.text.count("weights of dense.onnx are shared: 0.2 MB; a row takes") == 1
    opened.close()
    assert np.array(answer(again)) == close_to(expected)
    again.close()
    assert not any(path.is_dir() for path in root.iterdir())


def registered(tmp_path: Path, file: Path) -> tuple[BlobStore, Release]:
    blobs = BlobStore.open(tmp_path / "artifacts")
    folder = tmp_path / "pushed"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(file.read_bytes())
    with closing(OnnxRuntime(file, PLAIN)) as runtime:
        signature = signature_from_tensors(runtime.inputs, runtime.outputs)
    digest = put_manifest(blobs, Manifest(store_folder(blobs, folder), signature, "onnx"))
    return blobs, Release("dense", "1.0.0", digest, Policy(), None)


def test_a_registered_model_is_verified_first_and_shared_then(
    tmp_path: Path, file: Path, root: Path, expected: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    blobs, release = registered(tmp_path, file)
    opened = ArtifactLoader(blobs, SharedFolders(root)).open(release, SHARE)
    assert opened.manifest.digest == release.model_digest
    assert np.array(answer(opened)) == close_to(expected)
    assert "weights of dense 1.0.0 are shared" in caplog.text
    (files,) = [path / "files" for path in root.iterdir() if path.is_dir()]
    assert sorted(path.name for path in files.iterdir()) == ["model-weights", "model.onnx"]
    opened.close()


def test_nothing_changes_for_who_does_not_ask_for_it(tmp_path: Path, file: Path, root: Path) -> None:
    blobs, release = registered(tmp_path, file)
    opened = ArtifactLoader(blobs, SharedFolders(root)).open(release, PLAIN)
    assert list(root.iterdir()) == []
    assert external_locations(opened.folders[0] / "model.onnx") == ()
    opened.close()


def test_a_forest_has_nothing_to_share_and_is_served_all_the_same(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, _, samples, labels, _ = forest()
    source = FileSource(path, SharedFolders(root))
    opened = source.open(source.wanted()[0].releases[0], SHARE)
    assert (opened.runtime.run({"input": samples}, ["label"])[0] == labels).all()  # type: ignore[index]
    assert "has no weights that can be shared" in caplog.text
    opened.close()


def test_weights_that_lie_beside_the_model_are_mapped_where_they_are(
    tmp_path: Path, root: Path, expected: list[float]
) -> None:
    path = tmp_path / "beside" / "model.onnx"
    path.parent.mkdir()
    onnx.save_model(dense(), str(path), save_as_external_data=True, location="theirs", size_threshold=1024)
    source = FileSource(path, SharedFolders(root))
    opened = source.open(source.wanted()[0].releases[0], SHARE)
    assert list(root.iterdir()) == []
    assert np.array(answer(opened)) == close_to(expected)
    opened.close()


def test_the_price_is_measured_on_both(file: Path, tmp_path: Path) -> None:
    result = tmp_path / "result" / "dense.onnx"
    result.parent.mkdir()
    share_weights(file, result, "dense", SHARE)
    found = price(Question(str(file), str(result), None, None, 1, PLAIN.providers), SystemClock())
    assert found.same is True
    assert found.plain is not None
    assert found.shared is not None
    assert 0 < found.plain < 1
    assert 0 < found.shared < 1


def test_a_model_that_answers_otherwise_is_not_shared(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    model = dense()
    model.graph.initializer[1].raw_data = np.ones(LARGE, np.float32).tobytes()
    other.write_bytes(model.SerializeToString())
    assert price(Question(str(file), str(other), None, None, 1, PLAIN.providers), SystemClock()).same is False


def test_sharing_is_given_up_where_the_answers_differ(
    file: Path, tmp_path: Path, expected: list[float], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(weights, "_price", lambda *_: Price(1.0, 1.0, False))
    result = tmp_path / "result" / "dense.onnx"
    result.parent.mkdir()
    share_weights(file, result, "dense", SHARE)
    assert external_locations(result) == ()
    assert [path.name for path in result.parent.iterdir()] == ["dense.onnx"]
    assert "it would answer differently" in caplog.text
    with closing(OnnxRuntime(result, SHARE)) as runtime:
        assert answer(runtime) == expected


def test_a_price_that_cannot_be_measured_is_no_reason_not_to_share(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(weights.sys, "executable", "/bin/false")
    result = tmp_path / "result" / "dense.onnx"
    result.parent.mkdir()
    share_weights(file, result, "dense", SHARE)
    assert external_locations(result) == ("dense-weights",)
    assert "what that costs could not be measured" in caplog.text
