"""A push, whole: the golden sample it leaves, the version it computes, and what it refuses. # S2 S3 S6"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from onnx import TensorProto, helper
from tests.steps import write_model

from keelway.artifacts.blobs import BlobStore
from keelway.errors import AlreadyExists, FailedPrecondition, Overtaken
from keelway.publish import lineage, running
from keelway.publish.golden import golden_of
from keelway.publish.release import Source, release
from keelway.registry.models import ModelVersion
from keelway.registry.store import Registry

BY: dict[str, Any] = {"who": "ann", "why": "because"}
Push = Callable[..., ModelVersion]

CLASS = """
import numpy as np
class Model:
    def predict(self, inputs):
        {before}
        return {{"prediction": inputs["input"].sum(axis=1) * {factor}}}
"""


def linear(path: Path, *weights: float, output: str = "y") -> Path:
    """A model of as many numbers as there are ``weights``."""
    nodes = [helper.make_node("MatMul", ["input", "weights"], [output])]
    inputs = [("input", TensorProto.FLOAT, ["rows", len(weights)])]
    constants = [("weights", np.array(weights, np.float32)[:, None])]
    return write_model(path, nodes, inputs, [(output, TensorProto.FLOAT, ["rows", 1])], constants)


@pytest.fixture
def push(registry: Registry, blobs: BlobStore, tmp_path: Path) -> Push:
    """Push a linear model with these weights, with a sample of columns a, b, ... or without."""

    def push(
        *weights: float, version: str | None = None, sample: bool = True, columns: str = "", **how: Any
    ) -> ModelVersion:
        names = columns or "abcdef"[: len(weights)]
        frame = pd.DataFrame({name: np.linspace(place, place + 1, 300) for place, name in enumerate(names)})
        frame.to_csv(tmp_path / "sample.csv", index=False)
        file = linear(tmp_path / "model.onnx", *weights, output=how.pop("output", "y"))
        source = Source(file, tmp_path / "sample.csv" if sample else None, **how)
        return release(registry, blobs, "m", version, source, **BY)

    return push


def rules(pushed: ModelVersion) -> list[str]:
    return [reason["rule"] for found in pushed.metadata["bump"]["compared"] for reason in found["reasons"]]


def test_a_push_leaves_rows_of_its_sample_with_the_models_answers(push: Push, blobs: BlobStore) -> None:
    pushed = push(1.0, 2.0)
    assert (pushed.version, pushed.metadata["bump"]["compared"]) == ("1.0.0", [])
    golden = golden_of(pushed, blobs)
    assert golden is not None
    assert len(golden) == 256
    expected = golden.rows["a"] + 2 * golden.rows["b"]
    np.testing.assert_allclose(golden.answers["y"][:, 0], expected, rtol=1e-6)
    assert pushed.report["golden"] == "256 rows of the sample, with the model's answers"


def test_no_golden_sample_is_kept_where_none_is_wanted_or_can_be(push: Push, blobs: BlobStore) -> None:
    for pushed, why in (
        (push(1.0, golden=False), "--no-golden was said"),
        (push(1.0, sample=False), "there was no sample"),
    ):
        assert golden_of(pushed, blobs) is None
        assert pushed.report["golden"] == f"none: {why}"


def test_equivalent_predictions_are_a_patch_and_others_a_minor_version(push: Push) -> None:
    push(1.0, 2.0)
    alike = push(1.0, 2.0 + 2e-7)
    assert (alike.version, rules(alike)) == ("1.0.1", ["equivalent"])
    other = push(1.0, 2.1)
    assert (other.version, rules(other)) == ("1.1.0", ["predictions_differ", "predictions_differ"])


def test_a_model_is_loaded_once_however_often_a_push_asks_it(push: Push, monkeypatch: pytest.MonkeyPatch) -> None:
    push(1.0, 2.0)
    loaded: list[str] = []
    laid_out: list[str] = []
    loader, materialise = running.runtime_loader, running.materialise

    def loading(name: str) -> Any:
        loaded.append(name)
        return loader(name)

    def laying_out(blobs: BlobStore, manifest: Any, folder: Path) -> None:
        laid_out.append(folder.name)
        materialise(blobs, manifest, folder)

    monkeypatch.setattr(running, "runtime_loader", loading)
    monkeypatch.setattr(running, "materialise", laying_out)
    assert rules(push(1.0, 3.0)) == ["predictions_differ"]  # asked for its own golden sample, and beside the other's
    assert (loaded, len(laid_out)) == (["onnx"], 1)


def test_a_file_that_is_stored_as_it_is_is_hashed_once(
    push: Push, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path | None] = []
    monkeypatch.setattr(lineage, "_hashed", read.append)
    source = push(1.0, 2.0, sample=False).metadata["lineage"]["source"]
    assert read == [None]  # the sample
    content = (tmp_path / "model.onnx").read_bytes()
    assert source == {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}


def test_the_same_model_again_is_a_patch(push: Push) -> None:
    push(1.0, 2.0)
    again = push(1.0, 2.0)
    assert (again.version, rules(again)) == ("1.0.1", ["same_model"])


def test_without_a_golden_sample_predictions_count_as_different_and_it_is_said(push: Push) -> None:
    push(1.0, 2.0, golden=False)
    pushed = push(1.0, 2.0 + 2e-7)
    assert (pushed.version, rules(pushed)) == ("1.1.0", ["behaviour_unknown"])


@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_a_golden_sample_that_cannot_be_read_blocks_no_push(push: Push, blobs: BlobStore, damage: str) -> None:
    first = push(1.0, 2.0)
    digest = first.metadata["golden"].removeprefix("sha256:")
    (item,) = (item for item in blobs.stored() if item.digest == digest)
    blobs._filesystem.rm_file(item.key) if damage == "gone" else blobs._filesystem.pipe_file(item.key, b"other")
    pushed = push(1.0, 2.1)
    assert (pushed.version, rules(pushed)) == ("1.1.0", ["behaviour_unknown"])


def test_what_breaks_callers_is_a_major_version(push: Push) -> None:
    push(1.0, 2.0)
    assert push(1.0, 2.0, columns="ac").version == "2.0.0"
    wider = push(1.0, 2.0, 3.0, columns="acb")
    assert wider.version == "3.0.0"
    assert {"required_input_added", "behaviour_unknown"} <= set(rules(wider))
    assert push(1.0, 2.0, 3.0, columns="acb", output="z").version == "4.0.0"


def test_a_version_that_says_too_little_is_refused_and_nothing_is_registered(push: Push, registry: Registry) -> None:
    push(1.0, 2.0)
    token = registry.state_token()
    with pytest.raises(FailedPrecondition, match="of 256 rows of its golden sample, 256 with another number"):
        push(1.0, 2.1, version="1.0.1")
    with pytest.raises(FailedPrecondition, match="'b' is called 'c' now"):
        push(1.0, 2.0, version="1.1.0", columns="ac")
    assert registry.state_token() == token
    declared = push(1.0, 2.1, version="1.4.0")
    assert (declared.version, declared.metadata["bump"]["computed"]) == ("1.4.0", "1.1.0")


def test_a_version_that_is_there_is_the_same_or_taken_whatever_it_would_say(push: Push) -> None:
    first = push(1.0, 2.0, version="1.0.0")
    assert push(1.0, 2.0, version="1.0.0") == first
    with pytest.raises(AlreadyExists):
        push(1.0, 2.1, version="1.0.0")


def test_a_push_is_decided_anew_when_another_comes_first(
    push: Push, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(1.0, 2.0)
    standing, calls = registry.standing, []

    def overtaken(name: str) -> Any:
        found = standing(name)
        if not calls:
            calls.append(1)
            registry.push("m", "1.1.0", registry.get("m", "1.0.0").model_digest, **BY)
        return found

    monkeypatch.setattr(registry, "standing", overtaken)
    pushed = push(1.0, 2.1)
    assert pushed.version == "1.2.0"
    assert [found["against"] for found in pushed.metadata["bump"]["compared"]] == ["1.1.0", "1.0.0"]


def test_a_push_gives_up_where_the_model_never_rests(
    push: Push, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, standing = push(1.0, 2.0), registry.standing

    def overtaken(name: str) -> Any:
        found = standing(name)
        registry.push("m", None, first.model_digest, **BY)
        return found

    monkeypatch.setattr(registry, "standing", overtaken)
    with pytest.raises(Overtaken, match="again and again"):
        push(1.0, 2.1)


def test_code_is_run_in_a_process_of_its_own(
    registry: Registry, blobs: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apart: list[Path] = []
    run_apart = running.run_apart
    monkeypatch.setattr(running, "run_apart", lambda folder: (apart.append(folder), run_apart(folder)))

    def pushed(factor: float) -> ModelVersion:
        (tmp_path / "model.py").write_text(CLASS.format(factor=factor, before="pass"))
        pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]}).to_csv(tmp_path / "sample.csv", index=False)
        source = Source(tmp_path / "model.py", tmp_path / "sample.csv", trust_pickle=True)
        return release(registry, blobs, "code", None, source, **BY)

    first = pushed(2.0)
    golden = golden_of(first, blobs)
    assert golden is not None
    assert golden.answers["prediction"].tolist() == [8.0, 12.0]
    assert len(apart) == 1
    assert pushed(3.0).version == "1.1.0"


def test_rows_that_are_refused_now_are_a_major_version(registry: Registry, blobs: BlobStore, tmp_path: Path) -> None:
    def pushed(limit: int, rows: Sequence[float]) -> ModelVersion:
        before = f"if (inputs['input'] > {limit}).any(): raise ValueError"
        (tmp_path / "model.py").write_text(CLASS.format(factor=1.0, before=before))
        pd.DataFrame({"a": rows}).to_csv(tmp_path / "sample.csv", index=False)
        source = Source(tmp_path / "model.py", tmp_path / "sample.csv", trust_pickle=True)
        return release(registry, blobs, "code", None, source, **BY)

    pushed(10, [1.0, 2.0, 9.0])
    assert pushed(5, [1.0, 2.0]).version == "2.0.0"
    none = pushed(0, [-1.0])
    assert none.version == "3.0.0"
    reasons = none.metadata["bump"]["compared"][0]["reasons"]
    assert [reason["message"] for reason in reasons] == ["all 2 rows of its golden sample are refused now"]
