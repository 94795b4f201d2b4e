"""Pictures and texts sent to a served pipeline get what the direct computation gives, whatever way. # R1 R2 R7 G1"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image
from tests.serving import Server
from tests.steps import MOODS, colour_model, encoded, mood_model, objects, photo, write_tokenizer
from tokenizers import Tokenizer

from keelway.artifacts.blobs import BlobStore
from keelway.client import Client
from keelway.clock import SystemClock
from keelway.contract.names import parse_reference
from keelway.errors import InvalidInput
from keelway.hosting.registered import RegistrySource
from keelway.publish.release import Source, release
from keelway.registry.store import Registry
from keelway.types import Array
from keelway.wire import open_inference_pb2 as wire

WHO = {"who": "ada", "why": "a test"}

PIPELINES = {
    "pictures": """
[[step]]
name = "prepare"
image = { size = [24, 24], how = "crop", crop_fraction = 0.75, mean = [0.5, 0.4, 0.3], std = [0.2, 0.2, 0.2] }
inputs = { picture = "photo" }

[[step]]
name = "classify"
model = "colour"
inputs = { input = "prepare.pixels" }

[outputs]
label = "classify.label"
means = "classify.means"
""",
    "reviews": """
[[step]]
name = "tokens"
tokenizer = "tokenizer.json"
tokens = { max_length = 12 }

[[step]]
name = "judge"
model = "mood"
inputs = { input_ids = "tokens.input_ids", attention_mask = "tokens.attention_mask" }

[outputs]
label = "judge.label"
scores = "judge.scores"
""",
    "free": """
[[step]]
name = "prepare"
image = { longest = 48, multiple = 8, original_size = "INT32" }

[[step]]
name = "classify"
model = "colour"
inputs = { input = "prepare.pixels" }

[outputs]
means = "classify.means"
size = "prepare.original_size"
""",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("steps")
    write_tokenizer(folder / "tokenizer.json")
    blobs = BlobStore.open(folder / "artifacts")
    with closing(Registry.open(f"sqlite:///{folder}/registry.db", clock=SystemClock())) as registry:
        for name, write in (("colour", colour_model), ("mood", mood_model)):
            release(registry, blobs, name, None, Source(write(folder / f"{name}.onnx")), **WHO)
        for name, text in PIPELINES.items():
            (folder / f"{name}.toml").write_text(text)
            release(registry, blobs, name, None, Source(folder / f"{name}.toml"), **WHO)
        source = RegistrySource(registry, blobs, [parse_reference(name) for name in PIPELINES])
        with Server(source, grpc={"address": "127.0.0.1:0"}) as running:
            yield running


# The direct computation


def means_of(picture: Image.Image) -> Array:
    """What ``pictures`` has to answer: by Pillow and NumPy alone."""
    picture = picture.convert("RGB")
    width, height = picture.size
    shorter = min(width, height)
    whole = picture.resize((width * 32 // shorter, height * 32 // shorter), Image.Resampling.BILINEAR)
    left, top = (whole.width - 24) // 2, (whole.height - 24) // 2
    values = np.asarray(whole.crop((left, top, left + 24, top + 24)), np.float64) / 255
    return ((values - [0.5, 0.4, 0.3]) / 0.2).mean(axis=(0, 1))


def scores_of(text: str, tokenizer: Path) -> Array:
    library = Tokenizer.from_file(str(tokenizer))
    library.enable_truncation(12)
    return MOODS[library.encode(text).ids].mean(axis=0)


PHOTOS = [Image.fromarray(photo(60, 90)), Image.fromarray(photo(70, 50, seed=3)), Image.fromarray(photo(40, 40, 1))]
KINDS = ["PNG", "BMP", "GIF"]
FILES = [encoded(picture, kind) for picture, kind in zip(PHOTOS, KINDS, strict=True)]
EXPECTED = np.array([means_of(Image.open(io.BytesIO(file))) for file in FILES])
TEXTS = ["The room was good!", "", "very bad food and " * 20, "Zürich → 東京"]


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Array:
    path = write_tokenizer(tmp_path_factory.mktemp("direct") / "tokenizer.json")
    return np.array([scores_of(text, path) for text in TEXTS])


# The ways to ask. Each takes the bytes of some rows and answers the outputs by name

Ask = Callable[[Server, str, str, Sequence[bytes]], Mapping[str, Any]]


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def over_json(server: Server, model: str, name: str, rows: Sequence[bytes]) -> Mapping[str, Any]:
    tensor = {
        "name": name,
        "datatype": "BYTES",
        "shape": [len(rows)],
        "data": [b64(row) for row in rows],
        "parameters": {"content_type": "base64"},
    }
    reply = server.post(f"/v2/models/{model}/infer", {"inputs": [tensor]})
    assert reply.status == 200, reply.body
    return {out["name"]: np.array(out["data"]).reshape(out["shape"]) for out in reply.json["outputs"]}


def over_binary(server: Server, model: str, name: str, rows: Sequence[bytes]) -> Mapping[str, Any]:
    with Client(server.url) as client:
        return client.infer(model, {name: objects(*rows)}).outputs


def over_raw_grpc(server: Server, model: str, name: str, rows: Sequence[bytes]) -> Mapping[str, Any]:
    with Client(f"grpc://{server.grpc}") as client:
        return client.infer(model, {name: objects(*rows)}).outputs


def typed(server: Server, model: str, name: str, elements: Sequence[bytes], **parameters: Any) -> Mapping[str, Any]:
    tensor = wire.ModelInferRequest.InferInputTensor(
        name=name,
        datatype="BYTES",
        shape=[len(elements)],
        contents=wire.InferTensorContents(bytes_contents=elements),
        parameters=parameters,
    )
    with grpc.insecure_channel(server.grpc) as channel:
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            wire.ModelInferRequest.SerializeToString,
            wire.ModelInferResponse.FromString,
        )
        answer = call(wire.ModelInferRequest(model_name=model, inputs=[tensor]), timeout=20)
    return {
        out.name: np.array(out.contents.fp32_contents or out.contents.int64_contents).reshape(list(out.shape))
        for out in answer.outputs
    }


def over_typed_grpc(server: Server, model: str, name: str, rows: Sequence[bytes]) -> Mapping[str, Any]:
    return typed(server, model, name, rows)


def over_typed_grpc_in_base64(server: Server, model: str, name: str, rows: Sequence[bytes]) -> Mapping[str, Any]:
    said = wire.InferParameter(string_param="base64")
    return typed(server, model, name, [b64(row).encode() for row in rows], content_type=said)


def over_tensorflow_columns(server: Server, model: str, name: str, rows: Sequence[bytes]) -> Mapping[str, Any]:
    """Answers the label alone, as that route does for a classifier."""
    reply = server.post(f"/v1/models/{model}:predict", {"inputs": {name: [{"b64": b64(row)} for row in rows]}})
    assert reply.status == 200, reply.body
    return {"label": np.array(reply.json["outputs"])}


WAYS: Sequence[Ask] = [
    over_json,
    over_binary,
    over_raw_grpc,
    over_typed_grpc,
    over_typed_grpc_in_base64,
    over_tensorflow_columns,
]


@pytest.mark.parametrize("way", WAYS)
def test_pictures_get_the_models_answer(server: Server, way: Ask) -> None:
    outputs = way(server, "pictures", "photo", FILES)
    assert outputs["label"].tolist() == EXPECTED.argmax(axis=1).tolist()
    if "means" in outputs:
        assert np.allclose(outputs["means"], EXPECTED, atol=1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_texts_get_the_models_answer(server: Server, way: Ask, scores: Array) -> None:
    outputs = way(server, "reviews", "text", [text.encode() for text in TEXTS])
    assert outputs["label"].tolist() == scores.argmax(axis=1).tolist()
    if "scores" in outputs:
        assert np.allclose(outputs["scores"], scores, atol=1e-5)


def test_text_needs_no_base64_in_json(server: Server, scores: Array) -> None:
    tensor = {"name": "text", "datatype": "BYTES", "shape": [len(TEXTS)], "data": TEXTS}
    reply = server.post("/v2/models/reviews/infer", {"inputs": [tensor], "outputs": [{"name": "scores"}]})
    assert np.allclose(np.reshape(reply.json["outputs"][0]["data"], (-1, 2)), scores, atol=1e-5)


# People's route


def people(server: Server, model: str, rows: Sequence[Any]) -> Any:
    reply = server.post(f"/v1/models/{model}/predict", {"instances": rows})
    assert reply.status == 200, reply.body
    return reply.json


def test_people_send_bytes_as_tensorflow_has_them(server: Server) -> None:
    labels = EXPECTED.argmax(axis=1).tolist()
    objects_ = [{"b64": b64(file)} for file in FILES]
    assert people(server, "pictures", [{"photo": picture} for picture in objects_])["predictions"] == labels
    # The only value of a row may stand for it.
    assert people(server, "pictures", objects_)["predictions"] == labels
    assert people(server, "pictures", [[picture] for picture in objects_])["predictions"] == labels


def test_people_send_text_as_text(server: Server, scores: Array) -> None:
    labels = scores.argmax(axis=1).tolist()
    assert people(server, "reviews", [{"text": text} for text in TEXTS])["predictions"] == labels
    assert people(server, "reviews", TEXTS)["predictions"] == labels


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_the_client_sends_rows_with_bytes_over_both_transports(server: Server, protocol: str) -> None:
    url = server.url if protocol == "http" else f"grpc://{server.grpc}"
    with Client(url) as client:
        answer = client.predict("pictures", [{"photo": file} for file in FILES])
    assert list(answer.predictions) == EXPECTED.argmax(axis=1).tolist()


SECRET = "sentinel-4711"


def test_a_bad_picture_is_answered_beside_the_good_ones(server: Server) -> None:
    """Told apart where they are: by the codec, by the validator and by the step itself."""
    rows = [
        {"photo": {"b64": "?"}},
        {"photo": {"b64": b64(FILES[0])}},
        {"photo": None},
        {"photo": {"b64": b64(SECRET.encode())}},
        {"photo": {"b64": b64(FILES[1])}},
        {"photo": SECRET},
        {"photo": {"b64": b64(FILES[2][:100])}},
        {"photo": {"b46": ""}},
    ]
    answer = people(server, "pictures", rows)
    labels = EXPECTED.argmax(axis=1).tolist()
    assert answer["predictions"] == [None, labels[0], None, None, labels[1], None, None, None]
    assert {error["row"]: error["message"] for error in answer["errors"]} == {
        0: "'photo' is not valid base64",
        2: "'photo' is missing and may not be",
        3: "this is no JPEG, PNG, WebP, GIF or BMP picture",
        5: "this is no JPEG, PNG, WebP, GIF or BMP picture",
        6: "the picture is damaged or cut short",
        7: "'photo' must be text, or bytes as {'b64': ...}, not an object",
    }
    assert {error["field"] for error in answer["errors"]} == {"photo"}
    assert SECRET not in json.dumps(answer)


def test_bad_pictures_alone_are_a_400(server: Server) -> None:
    reply = server.post("/v1/models/pictures/predict", {"instances": [{"photo": {"b64": "AA=="}}] * 2})
    assert reply.status == 400
    assert reply.json["detail"] == "this is no JPEG, PNG, WebP, GIF or BMP picture"
    assert reply.json["field"] == "photo"


def test_the_protocol_refuses_the_request_and_names_the_row(server: Server) -> None:
    for way in (over_binary, over_raw_grpc):
        with pytest.raises(InvalidInput) as refused:
            way(server, "pictures", "photo", [FILES[0], SECRET.encode(), FILES[1]])
        assert refused.value.message == "row 1: this is no JPEG, PNG, WebP, GIF or BMP picture"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": ["?"]}, "input 'photo': element 0 is not valid base64"),
        ({"datatype": "INT8", "data": [1]}, "input 'photo': the content_type base64 is for BYTES, not INT8"),
        ({"data": [None]}, "'photo' is missing and may not be"),
        ({"parameters": {}}, "row 0: the picture is base64 text; say so: as a row's value {'b64': ...}, in V2 JSON "),
        ({"parameters": {"content_type": "hg_json"}}, "row 0: the picture is base64 text"),
        (
            {"parameters": {"content_type": 7}},
            "the request does not fit the protocol: Expected `str | null`, got `int`",
        ),
    ],
    ids=str,
)
def test_mistakes_in_v2_json_are_named(server: Server, changes: Mapping[str, Any], message: str) -> None:
    tensor = {"name": "photo", "datatype": "BYTES", "shape": [1], "data": [b64(FILES[0])]}
    tensor |= {"parameters": {"content_type": "base64"}, **changes}
    reply = server.post("/v2/models/pictures/infer", {"inputs": [tensor]})
    assert reply.status == 400
    assert reply.json["error"].startswith(message)


def test_pictures_of_a_free_size_are_answered_if_they_come_out_alike(server: Server) -> None:
    wide, alike, high = (encoded(photo(*shape)) for shape in ((60, 90), (120, 180), (90, 60)))
    outputs = over_json(server, "free", "picture", [wide, alike])
    assert outputs["size"].tolist() == [[60, 90], [120, 180]]
    answer = people(server, "free", [{"picture": {"b64": b64(data)}} for data in (wide, high, alike)])
    assert [row and row["size"] for row in answer["predictions"]] == [[60, 90], None, [120, 180]]
    assert "separate requests" in answer["errors"][0]["message"]


# What the server says of itself


def test_the_documentation_has_examples_that_work(server: Server) -> None:
    paths = server.get("/openapi.json").json["paths"]
    for name in PIPELINES:
        for path in (f"/v1/models/{name}/predict", f"/v2/models/{name}/infer"):
            example = paths[path]["post"]["requestBody"]["content"]["application/json"]["example"]
            assert server.post(path, example).status == 200, path


def test_the_metadata_names_the_pipelines_own_input(server: Server) -> None:
    metadata = server.get("/v2/models/pictures").json
    assert metadata["inputs"] == [{"name": "photo", "datatype": "BYTES", "shape": [-1]}]


def test_a_refused_picture_counts_for_its_feature(server: Server) -> None:
    before = server.metric("ml_validation_failures_total", model="pictures", field="photo")
    server.post("/v1/models/pictures/predict", {"instances": [{"photo": {"b64": "AA=="}}]})
    assert server.metric("ml_validation_failures_total", model="pictures", field="photo") == before + 1
