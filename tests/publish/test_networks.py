"""PyTorch networks pushed: converted with proof, kept where ONNX has no form of them, refused with what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.publish.conftest import in_this_process
from tests.serving import Server

from keelway.artifacts.blobs import BlobStore
from keelway.clock import SystemClock
from keelway.contract.names import parse_reference
from keelway.errors import ConversionRefused, CorruptArtifact, InvalidInput, ModelFailed, UntrustedArtifact
from keelway.hosting.registered import RegistrySource
from keelway.publish import network, torch_model
from keelway.publish.factory import prepare_factory
from keelway.publish.push import prepare
from keelway.publish.release import Source, release
from keelway.publish.report import Prepared
from keelway.registry.store import Registry

# PyTorch is no part of the pinned environment: `make test-slow` brings it.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")]

HERE = Path(__file__).parent
Make = Callable[..., Prepared]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """``--from-python nets:NAME``, in a process of its own."""
    monkeypatch.chdir(HERE)

    def made(name: str, sample: Any = None, **settings: Any) -> Prepared:
        workspace = tmp_path / name
        workspace.mkdir()

        def prepare_file(file: Path) -> Prepared:
            return prepare(file, sample, None, trust_pickle=True, workspace=workspace)

        given = {"tolerance": None, "progress": lambda message: None, "prepare_file": prepare_file, **settings}
        return prepare_factory(f"nets:{name}", sample, workspace=workspace, **given)

    return made


@pytest.fixture
def table() -> pd.DataFrame:
    return pd.DataFrame(np.random.default_rng(1).normal(size=(60, 4)), columns=["a", "b", "c", "d"])


def test_a_network_of_columns_keeps_their_names_and_gets_a_baseline(make: Make, table: pd.DataFrame) -> None:
    prepared = make("mlp", table)
    assert (prepared.runtime, prepared.report.format) == ("onnx", "onnx")
    assert [spec.columns for spec in prepared.signature.inputs] == [("a", "b", "c", "d")]
    assert [feature.name for feature in prepared.signature.features] == ["a", "b", "c", "d"]
    assert prepared.baseline is not None
    assert prepared.report.worst_difference is not None
    assert prepared.report.worst_difference < 1e-5
    assert prepared.report.sample_rows == 60
    assert prepared.report.perturbed_rows > 100
    assert prepared.report.speedup is not None


@pytest.mark.parametrize(
    ("name", "inputs", "outputs"),
    [
        ("cnn", [("image", "FP32", (-1, 1, 28, 28))], [("probabilities", "FP32", (-1, 10)), ("digit", "INT64", (-1,))]),
        ("raw_bytes", [("picture", "UINT8", (-1, 16, 16, 3))], [("output", "FP32", (-1, 4))]),
        (
            "recurrent",
            [("tokens", "INT64", (-1, -1)), ("numbers", "FP32", (-1, 4))],
            [("output_0", "FP32", (-1, 2)), ("output_1", "FP32", (-1, -1, 16))],
        ),
        ("attention", [("tokens", "INT64", (-1, -1))], [("output", "FP32", (-1, 16))]),
    ],
)
def test_networks_with_tensors_of_every_kind_become_onnx_with_proof(
    make: Make, name: str, inputs: list[Any], outputs: list[Any]
) -> None:
    prepared = make(name)
    assert prepared.report.format == "onnx", prepared.report
    assert [(s.name, s.datatype, s.shape) for s in prepared.signature.inputs] == inputs
    assert [(s.name, s.datatype, s.shape) for s in prepared.signature.outputs] == outputs
    assert prepared.signature.batched
    assert prepared.report.worst_difference is not None
    assert prepared.report.worst_difference < 1e-4


def test_a_network_that_onnx_has_no_operator_for_is_kept_as_a_program(make: Make) -> None:
    prepared = make("eigenvalues")
    assert (prepared.runtime, prepared.report.format) == ("torch", "torch")
    assert [path.name for path in prepared.folder.iterdir()] == ["model.pt2"]
    assert "ONNX has no form of the operator aten._linalg_eigh" in prepared.report.reason


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("branch", ConversionRefused, "decides by the values of its tensors"),
        ("fixed", ConversionRefused, "answers 8 examples and raises RuntimeError on 2"),
        ("pooled", InvalidInput, "one entry for each example"),
        ("half", InvalidInput, "computes in bfloat16"),
        ("counting", ConversionRefused, "differently when it is asked again"),
        ("mlp", InvalidInput, "without examples"),
        ("no_such", InvalidInput, "has no 'no_such'"),
    ],
)
def test_what_cannot_be_pushed_is_refused_with_what_to_do(
    make: Make, name: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as raised:
        make(name)
    assert getattr(raised.value, "hint", None)


def test_a_sample_of_another_width_is_refused(make: Make, table: pd.DataFrame) -> None:
    with pytest.raises(ModelFailed, match=r"raised RuntimeError on the sample, given as input \[32, 3\]"):
        make("mlp", table[["a", "b", "c"]])


def test_a_wrong_conversion_is_not_kept(make: Make, table: pd.DataFrame) -> None:
    """A tolerance of nothing is one that no float32 arithmetic in another order keeps."""
    prepared = make("attention", tolerance=0.0)
    assert prepared.report.format == "torch"
    assert "of examples differ by up to" in prepared.report.reason


def test_weights_too_large_for_protobuf_go_into_external_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a lower limit than that of protobuf, 2 GiB."""
    from tests.publish import nets

    monkeypatch.setattr(torch_model, "EXTERNAL_BEYOND", 100)
    monkeypatch.setattr(network, "run_apart", in_this_process)
    import torch

    torch.export.save(nets.program(), tmp_path / "model.pt2")
    prepared = pushed(tmp_path / "model.pt2", pd.DataFrame(np.eye(4), columns=list("abcd")), tmp_path)
    assert prepared.report.format == "onnx"
    assert {path.name for path in prepared.folder.iterdir()} == {"model.onnx", "model.onnx.data"}


# Files


def test_an_exported_program_with_a_free_batch_axis_is_converted(tmp_path: Path, table: pd.DataFrame) -> None:
    import torch
    from tests.publish import nets

    torch.export.save(nets.program(), tmp_path / "model.pt2")
    prepared = pushed(tmp_path / "model.pt2", table, tmp_path)
    assert prepared.report.format == "onnx"
    assert prepared.report.source == "a PyTorch network, an exported program"
    assert [spec.columns for spec in prepared.signature.inputs] == [("a", "b", "c", "d")]


def test_a_program_for_one_example_is_a_model_without_a_batch_axis(tmp_path: Path) -> None:
    import torch
    from tests.publish import nets

    torch.export.save(nets.program_for_one(), tmp_path / "model.pt2")
    np.savez(tmp_path / "sample.npz", image=nets.pictures())
    prepared = pushed(tmp_path / "model.pt2", tmp_path / "sample.npz", tmp_path)
    assert prepared.report.format == "onnx"
    assert [spec.shape for spec in prepared.signature.inputs] == [(1, 1, 28, 28)]
    assert not prepared.signature.batched


def test_a_whole_module_in_a_file_is_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    import torch

    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    import nets

    torch.save(nets.cnn()[0], tmp_path / "model.pt")
    np.savez(tmp_path / "sample.npz", image=nets.pictures())
    try:
        prepared = pushed(tmp_path / "model.pt", tmp_path / "sample.npz", tmp_path)
    finally:
        sys.modules.pop("nets")
    assert prepared.report.source == "a PyTorch network, a module in a file"
    assert prepared.report.estimator == "Cnn"


def test_weights_alone_a_cut_file_and_one_that_nobody_trusts_are_refused(tmp_path: Path, table: pd.DataFrame) -> None:
    import torch
    from tests.publish import nets

    torch.save(nets.mlp().state_dict(), tmp_path / "weights.pt")
    with pytest.raises(InvalidInput, match="weights without the code"):
        pushed(tmp_path / "weights.pt", table, tmp_path)
    torch.export.save(nets.program(), tmp_path / "model.pt2")
    with pytest.raises(UntrustedArtifact, match="may run code when it is opened"):
        prepare(tmp_path / "model.pt2", table, None, trust_pickle=False, workspace=tmp_path)
    with pytest.raises(InvalidInput, match="without examples"):
        pushed(tmp_path / "model.pt2", None, tmp_path)
    whole = (tmp_path / "model.pt2").read_bytes()
    (tmp_path / "model.pt2").write_bytes(whole[:-200])
    with pytest.raises((CorruptArtifact, InvalidInput)):
        pushed(tmp_path / "model.pt2", table, tmp_path)


def pushed(file: Path, sample: Any, folder: Path) -> Prepared:
    workspace = folder / f"workspace_{len(list(folder.iterdir()))}"
    workspace.mkdir()
    return prepare(file, sample, None, trust_pickle=True, workspace=workspace)


# Served


@contextmanager
def served(folder: Path, name: str, sample: Path | None = None) -> Iterator[tuple[Server, dict[str, Any]]]:
    """``nets:NAME`` pushed into a registry of its own, and a server that has it."""
    blobs = BlobStore.open(folder / "artifacts")
    with closing(Registry.open(f"sqlite:///{folder}/registry.db", clock=SystemClock())) as registry:
        source = Source(factory=f"nets:{name}", sample=sample)
        version = release(registry, blobs, "net", None, source, who="ada", why="a test")
        allowed = {"allowed_python": [version.model_digest]}
        with Server(RegistrySource(registry, blobs, [parse_reference("net")]), runtime=allowed) as server:
            yield server, version.report


def test_a_kept_program_answers_like_the_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.publish import nets

    monkeypatch.chdir(HERE)
    with served(tmp_path, "eigenvalues") as (server, report):
        assert report["format"] == "torch"
        given = nets.matrices()[:3]
        rows = [{"matrix": matrix.tolist()} for matrix in given]
        reply = server.post("/v1/models/net/predict", {"instances": rows})
        assert reply.status == 200, reply.body
        expected = np.linalg.eigvalsh(given @ given.transpose(0, 2, 1))
        assert np.abs(np.array(reply.json["predictions"]) - expected).max() < 1e-4


def test_sequences_of_any_length_are_answered_by_the_people_s_route_and_in_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from tests.publish import nets

    monkeypatch.chdir(HERE)
    module, examples, _ = nets.recurrent()
    module.eval()
    with served(tmp_path, "recurrent") as (server, report):
        assert report["format"] == "onnx"
        for length in (3, 20):
            tokens = examples["tokens"][:2].repeat(2, axis=1)[:, :length]
            numbers = examples["numbers"][:2]
            with torch.inference_mode():
                expected = module(torch.from_numpy(tokens), torch.from_numpy(numbers))[0].numpy()
            rows = [{"tokens": t.tolist(), "numbers": n.tolist()} for t, n in zip(tokens, numbers, strict=True)]
            reply = server.post("/v1/models/net/predict", {"instances": rows})
            assert reply.status == 200, reply.body
            found = np.array([row["output_0"] for row in reply.json["predictions"]])
            assert np.abs(found - expected).max() < 1e-5
            body = {
                "inputs": [
                    {"name": "tokens", "datatype": "INT64", "shape": [2, length], "data": tokens.ravel().tolist()},
                    {"name": "numbers", "datatype": "FP32", "shape": [2, 4], "data": numbers.ravel().tolist()},
                ]
            }
            answer = server.post("/v2/models/net/infer", body).json
            found = np.array(answer["outputs"][0]["data"]).reshape(2, 2)
            assert np.abs(found - expected).max() < 1e-5
