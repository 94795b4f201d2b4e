"""The isolation forest of a version: pushed, verified, opened beside the model and asked for each row. # X1"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from msgspec import to_builtins
from onnx import TensorProto, helper
from tests.serving import Server, wait_until
from tests.steps import write_model

from keelway.artifacts.blobs import BlobStore
from keelway.contract.constraints import AnomalyRule, Policy
from keelway.contract.names import parse_reference
from keelway.errors import CorruptArtifact, InvalidInput, KeelwayError, NotFound
from keelway.hosting.registered import RegistrySource
from keelway.ports import RuntimeOptions
from keelway.publish.release import Source, release
from keelway.registry.models import ModelVersion
from keelway.registry.references import references
from keelway.registry.store import Registry

WHO: dict[str, Any] = {"who": "ada", "why": "a test"}
MIDDLE, USUAL = {"a": 0.0, "b": 0.0}, {"a": 10.0, "b": 0.1}


def source_of(folder: Path, rows: int = 1_000, **how: Any) -> Source:
    """The sum of two numbers, with a sample that is a ring around nothing."""
    nodes = [helper.make_node("MatMul", ["input", "weights"], ["y"])]
    constants = [("weights", np.ones((2, 1), np.float32))]
    file = write_model(
        folder / "model.onnx",
        nodes,
        [("input", TensorProto.FLOAT, ["rows", 2])],
        [("y", TensorProto.FLOAT, ["rows", 1])],
        constants,
    )
    random = np.random.default_rng(0)
    angle = random.uniform(0, 2 * np.pi, rows)
    ring = 10 * np.stack([np.cos(angle), np.sin(angle)], axis=1) + 0.3 * random.normal(size=(rows, 2))
    pd.DataFrame(ring, columns=["a", "b"]).to_csv(folder / "ring.csv", index=False)
    return Source(file, **{"sample": folder / "ring.csv", "isolation_forest": True, **how})


@pytest.fixture
def pushed(registry: Registry, blobs: BlobStore, tmp_path: Path) -> ModelVersion:
    return release(registry, blobs, "ring", None, source_of(tmp_path), **WHO)


def source(registry: Registry, blobs: BlobStore) -> RegistrySource:
    return RegistrySource(registry, blobs, [parse_reference("ring")])


def declare(registry: Registry, action: Any) -> None:
    revision = registry.policy("ring", "1.0.0").revision
    registry.set_policy("ring", "1.0.0", Policy(0, (), AnomalyRule(action, 0.02)), expected_revision=revision, **WHO)


def counted(server: Server) -> bool:
    return server.metric("ml_anomalies_total", model="ring", version="1.0.0", detector="isolation_forest") > 0


def test_a_served_version_tags_shadows_and_rejects_a_row_that_only_the_forest_finds(
    registry: Registry, blobs: BlobStore, pushed: ModelVersion
) -> None:
    declare(registry, "tag")
    with Server(source(registry, blobs)) as server:

        def ask(row: dict[str, float]) -> Any:
            return server.post("/v1/models/ring/predict", {"instances": [row]})

        assert not ask(USUAL).json.get("flags")
        assert not counted(server)
        assert ask(MIDDLE).json["flags"] == ["anomaly:isolation_forest"]
        assert counted(server)
        declare(registry, "shadow")
        wait_until(lambda: not ask(MIDDLE).json.get("flags"), "the shadow")
        declare(registry, "reject")
        wait_until(lambda: ask(MIDDLE).status == 400, "the refusal")
        assert ask(USUAL).status == 200


def opened(registry: Registry, blobs: BlobStore) -> None:
    found = source(registry, blobs)
    (wanted,) = found.wanted()
    found.open(wanted.releases[0], RuntimeOptions(1)).close()


@pytest.mark.parametrize(
    ("harm", "error", "words"),
    [("tamper", CorruptArtifact, "differs from what was pushed"), ("remove", NotFound, "a model file is missing")],
)
def test_a_version_whose_forest_was_changed_or_removed_is_not_loaded(
    registry: Registry,
    blobs: BlobStore,
    pushed: ModelVersion,
    tmp_path: Path,
    harm: str,
    error: type[KeelwayError],
    words: str,
) -> None:
    assert pushed.detector is not None
    opened(registry, blobs)
    name = pushed.detector.forest.removeprefix("sha256:")
    blob = tmp_path / "artifacts" / "sha256" / name[:2] / name[2:]
    if harm == "tamper":
        blob.write_bytes(blob.read_bytes()[:-1] + b"\0")
    else:
        blob.unlink()
    with pytest.raises(error, match=words) as refusal:
        opened(registry, blobs)
    assert "\n" not in refusal.value.message


def test_the_forest_is_among_what_the_version_refers_to(blobs: BlobStore, pushed: ModelVersion) -> None:
    assert pushed.detector is not None
    (forest,) = pushed.detector.blobs
    found = references(blobs, pushed.model_digest, to_builtins(pushed.detector))
    assert forest.removeprefix("sha256:") in found


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"sample": None}, "trained on the rows of a table"),
        ({"rows": 150}, "the sample has 150 rows"),
        ({"file": Path("pipeline.toml")}, "a pipeline has no anomaly detector"),
    ],
)
def test_a_forest_that_cannot_be_had_is_refused_with_what_to_do(
    registry: Registry, blobs: BlobStore, tmp_path: Path, how: dict[str, Any], words: str
) -> None:
    chosen = source_of(tmp_path, how.pop("rows", 1_000))
    if "file" in how:
        how = {"file": tmp_path / how["file"]}
        how["file"].touch()
    with pytest.raises(InvalidInput, match=words) as refusal:
        release(registry, blobs, "ring", None, replace(chosen, **how), **WHO)
    assert "--sample" in (refusal.value.hint or "")
    assert not registry.models()


def test_without_being_asked_there_is_none(registry: Registry, blobs: BlobStore, tmp_path: Path) -> None:
    made = release(registry, blobs, "ring", None, source_of(tmp_path, isolation_forest=False), **WHO)
    assert made.detector is not None
    assert made.detector.blobs == ()
