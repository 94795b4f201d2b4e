"""LiteRT models behind a server: rows and tensors, several examples at once, many callers, and the option that pushes
a Keras model from the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ai_edge_litert import schema_py_generated as schema
from tests.serving import Server
from tests.tflite import Given, Step, doubler, save

from keelway.artifacts.blobs import BlobStore
from keelway.cli.main import main
from keelway.clock import SystemClock
from keelway.contract.names import parse_reference
from keelway.hosting.registered import RegistrySource
from keelway.publish.release import Source, release
from keelway.registry.store import Registry


@contextmanager
def served(folder: Path, file: Path, sample: Path | None = None, **runtime: float) -> Iterator[Server]:
    blobs = BlobStore.open(folder / "artifacts")
    with closing(Registry.open(f"sqlite:///{folder}/registry.db", clock=SystemClock())) as registry:
        release(registry, blobs, "lite", None, Source(file, sample), who="ada", why="a test")
        with Server(RegistrySource(registry, blobs, [parse_reference("lite")]), runtime=runtime) as server:
            yield server


def test_rows_of_named_values_are_answered(tmp_path: Path) -> None:
    pd.DataFrame({"width": [1.0, 2.0], "height": [3.0, 4.0]}).to_csv(tmp_path / "sample.csv", index=False)
    with served(tmp_path, doubler(tmp_path / "double.tflite"), tmp_path / "sample.csv") as server:
        rows = [{"width": 1, "height": 2}, {"width": "wide", "height": 2}, {"height": 5, "width": 4}]
        reply = server.post("/v1/models/lite/predict", {"instances": rows})
    assert reply.status == 200, reply.body
    assert reply.json["predictions"][0] == [2, 4]
    assert reply.json["predictions"][2] == [8, 10]


@pytest.mark.parametrize("inline_below_ms", [0.0, 1000.0], ids=["in a thread", "on the event loop"])
def test_callers_with_different_numbers_of_rows_get_their_own_answers(tmp_path: Path, inline_below_ms: float) -> None:
    # The interpreter keeps the tensors of a run: nobody may see another's.
    with served(tmp_path, doubler(tmp_path / "double.tflite"), inline_below_ms=inline_below_ms) as server:

        def ask(number: int) -> bool:
            rows = number % 5 + 1
            data = [float(number)] * (rows * 2)
            body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [rows, 2], "data": data}]}
            [output] = server.post("/v2/models/lite/infer", body).json["outputs"]
            return bool(output["shape"] == [rows, 2] and output["data"] == [2 * value for value in data])

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(ask, range(200)))


def test_quantised_tensors_travel_as_integers(tmp_path: Path) -> None:
    tensors = [Given("x", "UINT8", scale=0.5, zero=4), Given("y", "UINT8", scale=1.0, zero=0)]
    file = save(tmp_path / "quantised.tflite", tensors, [Step("QUANTIZE", ["x"], ["y"])], ["x"], ["y"])
    with served(tmp_path, file) as server:
        body = {"inputs": [{"name": "x", "datatype": "UINT8", "shape": [1, 2], "data": [4, 24]}]}
        [output] = server.post("/v2/models/lite/infer", body).json["outputs"]
    assert (output["datatype"], output["data"]) == ("UINT8", [0, 10])


def test_a_shape_that_a_run_refuses_leaves_the_model_answering(tmp_path: Path) -> None:
    """The free axis has to be of the constant's length, which no signature says."""
    tensors = [Given("x", shape=(-1, -1)), Given("five", shape=(1, 5), value=np.ones((1, 5), np.float32))]
    tensors.append(Given("y", shape=(-1, -1)))
    steps = [Step("ADD", ["x", "five"], ["y"], schema.AddOptionsT())]
    with served(tmp_path, save(tmp_path / "five.tflite", tensors, steps, ["x"], ["y"])) as server:
        for length, status in ((5, 200), (3, 500), (5, 200)):
            data = [[1.0] * length] * 2
            body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, length], "data": data}]}
            assert server.post("/v2/models/lite/infer", body).status == status


def test_the_option_python_and_the_setting_name_the_environment_of_a_keras_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("metadata.json", "{}")
    np.save(tmp_path / "sample.npy", np.zeros((4, 2), np.float32))
    program = tmp_path / "python"
    failure = json.dumps({"error": "InvalidInput", "message": "asked here", "hint": "none"})
    program.write_text(f"#!/bin/sh\nfor last; do :; done\necho '{failure}' > \"$last/failure.json\"\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    push = ["keelway", "push", "flowers", "model.keras", "--sample", "sample.npy"]
    for arguments, setting in ((["--python", str(program)], ""), ([], str(program))):
        monkeypatch.setenv("KEELWAY_PUBLISH_KERAS_PYTHON", setting)
        monkeypatch.setattr(sys, "argv", [*push, *arguments])
        with pytest.raises(SystemExit):
            main()
        assert "asked here" in capsys.readouterr().err
