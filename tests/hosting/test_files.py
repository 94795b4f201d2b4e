"""One ONNX file, served without a registry."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
from tests.serving import Server, forest

from keelway.errors import FailedPrecondition, NotFound
from keelway.hosting.files import FILE_VERSION, FileSource
from keelway.ports import RuntimeOptions


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return Path(shutil.copy(forest()[0], tmp_path / "Iris Forest.onnx"))


def test_a_file_is_served_under_its_own_name_as_version_0_0_0(file: Path) -> None:
    _, _, samples, labels, _ = forest()
    with Server(FileSource(file)) as server:
        tensor = {"name": "input", "shape": [150, 4], "datatype": "FP32", "data": samples.ravel().tolist()}
        document = server.post("/v2/models/iris-forest/infer", {"inputs": [tensor]}).json
        assert (document["model_name"], document["model_version"]) == ("iris-forest", FILE_VERSION)
        answers = {output["name"]: output["data"] for output in document["outputs"]}
        assert answers["label"] == labels.tolist()
        reply = server.post("/predict", {"instances": [samples[0].tolist()]})
        assert (reply.status, reply.json["predictions"]) == (200, [0])
        assert reply.json["model_digest"] == document["parameters"]["model_digest"]
        assert reply.json["model_digest"].startswith("sha256:")
        assert server.get("/health/ready").status == 200


def test_the_manifest_names_the_bytes_that_are_served(file: Path) -> None:
    source = FileSource(file)
    (wanted,) = source.wanted()
    opened = source.open(wanted.releases[0], RuntimeOptions())
    (entry,) = opened.manifest.files
    assert entry.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert (entry.path, entry.size) == (file.name, file.stat().st_size)
    opened.close()
    assert file.exists(), "the file is the user's, not a copy to be removed"


def test_unload_and_load_again(file: Path) -> None:
    with Server(FileSource(file), serving={"allow_model_control": True, "drain_delay": 0.0}) as server:
        for action in ("unload", "load"):
            assert server.post(f"/v2/repository/models/iris_forest/{action}", {}).status == 200
        assert server.post("/predict", {"instances": [[1.0, 2.0, 3.0, 4.0]]}).status == 200
        assert server.post("/v2/repository/models/another/load", {}).status == 404


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"model\.onnx"):
        FileSource(tmp_path / "model.onnx")


def test_another_kind_of_file_is_refused_with_the_way_out(tmp_path: Path) -> None:
    file = tmp_path / "model.joblib"
    file.write_bytes(b"\x80\x04N.")
    with pytest.raises(FailedPrecondition) as refusal:
        FileSource(file)
    assert "keelway push model model.joblib" in (refusal.value.hint or "")


def test_only_its_own_name_is_followed(file: Path) -> None:
    source = FileSource(file)
    source.follow("iris_forest")
    with pytest.raises(NotFound):
        source.follow("another")
