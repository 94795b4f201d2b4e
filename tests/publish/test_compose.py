"""A pipeline's TOML, and the functions beside it, become a manifest that pins every step by its digest. # S5"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.steps import colour_model, mood_model, write_tokenizer

from keelway.artifacts.blobs import BlobStore
from keelway.artifacts.manifest import Manifest
from keelway.artifacts.materialise import materialise, put_manifest, read_manifest
from keelway.contract.signature import Feature, validate_signature
from keelway.errors import InvalidInput, KeelwayError, NotFound
from keelway.publish.compose import Member, compose, picture_pipeline, text_pipeline, wire
from keelway.publish.release import Source, release
from keelway.publish.steps import describe_step, image_step, tokens_step
from keelway.registry.store import Registry
from keelway.runtimes.image import ImageOptions
from keelway.runtimes.tokens import TokensOptions
from keelway.types import TensorSpec

WHO = {"who": "ada", "why": "a test"}


@pytest.fixture
def folder(tmp_path: Path, registry: Registry, blobs: BlobStore) -> Path:
    """With a tokenizer in it; the models ``colour`` and ``mood`` are registered."""
    folder = tmp_path / "work"
    folder.mkdir()
    write_tokenizer(folder / "tokenizer.json")
    for name, write in (("colour", colour_model), ("mood", mood_model)):
        release(registry, blobs, name, None, Source(write(tmp_path / f"{name}.onnx")), **WHO)
    return folder


Compose = Callable[[str], Manifest]


@pytest.fixture
def composed(folder: Path, registry: Registry, blobs: BlobStore) -> Compose:
    def composed(text: str) -> Manifest:
        (folder / "pipeline.toml").write_text(text)
        manifest = compose(folder / "pipeline.toml", registry, blobs)
        validate_signature(manifest.signature)
        return manifest

    return composed


PICTURES = """
[[step]]
name = "prepare"
image = { size = [24, 32], how = "crop", original_size = "INT64" }
inputs = { picture = "photo" }

[[step]]
name = "classify"
model = "colour"
inputs = { input = "prepare.pixels" }

[outputs]
label = "classify.label"
size = "prepare.original_size"
"""

TEXTS = """
[[step]]
name = "tokens"
tokenizer = "tokenizer.json"
tokens = { max_length = 12 }

[[step]]
name = "judge"
model = "mood"
inputs = { input_ids = "tokens.input_ids", attention_mask = "tokens.attention_mask" }

[outputs]
scores = "judge.scores"
"""


def step_of(blobs: BlobStore, pipeline: Manifest, name: str) -> Manifest:
    (digest,) = (step["model_digest"] for step in pipeline.options["steps"] if step["name"] == name)
    return read_manifest(blobs, digest)


def test_a_picture_step_is_a_manifest_of_its_own_in_the_blob_store(composed: Compose, blobs: BlobStore) -> None:
    pipeline = composed(PICTURES)
    step = step_of(blobs, pipeline, "prepare")
    assert (step.runtime, step.files) == ("image", ())
    assert step.options["size"] == [24, 32]
    # Every option is in it, those that were not said too: a default may change, a digest may not.
    assert set(step.options) == set(ImageOptions.__struct_fields__)
    assert pipeline.signature.inputs == (TensorSpec("photo", "BYTES", (-1,)),)
    assert pipeline.signature.features == (Feature("photo", "BYTES"),)
    assert pipeline.signature.outputs == (TensorSpec("label", "INT64", (-1,)), TensorSpec("size", "INT64", (-1, 2)))
    assert (pipeline.signature.label_output, pipeline.signature.task) == ("label", "classification")


def test_a_tokens_step_holds_the_tokenizers_file(
    composed: Compose, blobs: BlobStore, folder: Path, tmp_path: Path
) -> None:
    pipeline = composed(TEXTS)
    step = step_of(blobs, pipeline, "tokens")
    assert step.runtime == "tokens"
    assert [entry.path for entry in step.files] == ["tokenizer.json"]
    materialise(blobs, step, tmp_path / "copy")
    assert (tmp_path / "copy" / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    assert pipeline.signature.inputs == (TensorSpec("text", "BYTES", (-1,)),)
    assert pipeline.signature.batched


def test_the_digest_of_a_pipeline_covers_the_options_and_files_of_its_steps(composed: Compose, folder: Path) -> None:
    known = composed(TEXTS).digest
    assert composed(TEXTS).digest == known
    assert composed(TEXTS.replace("= 12", "= 13")).digest != known
    write_tokenizer(folder / "tokenizer.json", direction="left")
    assert composed(TEXTS).digest != known
    assert composed(PICTURES).digest != composed(PICTURES.replace("[24, 32]", "[24, 33]")).digest


def test_options_may_be_tables_and_the_file_in_a_folder_below(composed: Compose, folder: Path) -> None:
    flat = composed(TEXTS)
    (folder / "files").mkdir()
    (folder / "tokenizer.json").rename(folder / "files" / "tokenizer.json")
    moved = TEXTS.replace('"tokenizer.json"', '"files/tokenizer.json"')
    assert composed(moved.replace("tokens = { max_length = 12 }", "[step.tokens]\nmax_length = 12")) == flat


def refused(composed: Compose, text: str) -> KeelwayError:
    with pytest.raises(KeelwayError) as caught:
        composed(text)
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize(
    "name", ["../tokenizer.json", "/etc/passwd", "files/../../tokenizer.json", "link", "up/t.json"]
)
def test_a_file_outside_the_pipelines_folder_is_not_read(name: str, composed: Compose, folder: Path) -> None:
    outside = write_tokenizer(folder.parent / "tokenizer.json")
    (folder / "link").symlink_to(outside)
    (folder.parent / "t.json").write_bytes(outside.read_bytes())
    (folder / "up").symlink_to(folder.parent)
    error = refused(composed, TEXTS.replace("tokenizer.json", name))
    assert isinstance(error, InvalidInput)
    assert error.message == "step 'tokens': its file lies outside the pipeline's folder; copy it beside the TOML file"


def test_a_link_within_the_folder_is_followed(composed: Compose, folder: Path) -> None:
    flat = composed(TEXTS)
    (folder / "link.json").symlink_to(folder / "tokenizer.json")
    assert composed(TEXTS.replace("tokenizer.json", "link.json")) == flat


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"tokenizer.json"', '"gone.json"', "step 'tokens': its file is not there"),
        ('"tokenizer.json"', '"pipeline.toml"', "holds no tokenizer"),
        ("max_length = 12", "", "step 'tokens': Object missing required field `max_length`"),
        ("max_length = 12", "max_length = 12, more = 1", "unknown field `more`"),
        ("max_length = 12", "max_length = 0", "max_length is between"),
        ('tokenizer = "tokenizer.json"', "", "says nothing of model, image and tokenizer"),
        ('tokenizer = "tokenizer.json"', 'model = "mood"', "says model of model, image and tokenizer"),
        ('model = "mood"', 'model = "mood"\nimage = {size = [8, 8]}', "says model and image of model"),
    ],
)
def test_a_step_that_is_not_one_is_named(composed: Compose, old: str, new: str, message: str) -> None:
    assert message in refused(composed, TEXTS.replace(old, new)).message


def test_what_a_step_makes_has_to_fit(composed: Compose) -> None:
    for old, new, message in (
        ('original_size = "INT64"', 'original_size = "INT64", datatype = "UINT8"', "is FP32, its source UINT8"),
        ('"crop"', '"crop", layout = "NHWC"', "has the shape [-1, 3, -1, -1], its source [-1, 24, 32, 3]"),
    ):
        assert message in refused(composed, PICTURES.replace(old, new)).message


def test_nothing_is_stored_of_a_pipeline_that_does_not_fit(composed: Compose, blobs: BlobStore) -> None:
    refused(composed, PICTURES.replace('"crop"', '"crop", layout = "NHWC"'))
    options = ImageOptions((24, 32), "crop", layout="NHWC", original_size="INT64")
    assert not blobs.exists(image_step(options).digest)
    composed(PICTURES)
    assert blobs.exists(image_step(ImageOptions((24, 32), "crop", original_size="INT64")).digest)


# Without a file


def model(registry: Registry, blobs: BlobStore, name: str) -> Manifest:
    return read_manifest(blobs, registry.resolve(name, None).model_digest)


def test_a_model_is_put_behind_a_tokenizer_by_a_call(registry: Registry, blobs: BlobStore, folder: Path) -> None:
    options = TokensOptions(max_length=12)
    pipeline = text_pipeline(folder / "tokenizer.json", options, model(registry, blobs, "mood"), blobs, text="review")
    assert pipeline.signature.inputs == (TensorSpec("review", "BYTES", (-1,)),)
    assert [spec.name for spec in pipeline.signature.outputs] == ["label", "scores"]
    assert step_of(blobs, pipeline, "tokens").options["token_type_ids"] is False
    assert step_of(blobs, pipeline, "model") == model(registry, blobs, "mood")


def test_it_makes_what_the_model_takes_and_leaves_the_rest_open(
    registry: Registry, blobs: BlobStore, folder: Path
) -> None:
    mood = model(registry, blobs, "mood")
    taken = (*mood.signature.inputs, TensorSpec("token_type_ids", "INT64", (-1, -1)), TensorSpec("age", "FP32", (-1,)))
    features = (*mood.signature.features, Feature("token_type_ids", "INT64", shape=(-1,)), Feature("age", "FP32"))
    from msgspec.structs import replace

    wider = replace(mood, signature=replace(mood.signature, inputs=taken, features=features))
    pipeline = text_pipeline(folder / "tokenizer.json", TokensOptions(12), wider, blobs)
    assert {spec.name: spec.shape for spec in pipeline.signature.inputs} == {"text": (-1,), "age": (-1,)}
    assert step_of(blobs, pipeline, "tokens").options["token_type_ids"] is True
    validate_signature(pipeline.signature)


def test_the_call_follows_a_link_that_it_was_given(registry: Registry, blobs: BlobStore, folder: Path) -> None:
    """Hugging Face keeps its files behind links; whoever calls has chosen the path."""
    (folder / "link.json").symlink_to(folder / "tokenizer.json")
    mood = model(registry, blobs, "mood")
    one = text_pipeline(folder / "link.json", TokensOptions(12), mood, blobs)
    assert one == text_pipeline(folder / "tokenizer.json", TokensOptions(12), mood, blobs)


def test_a_model_is_put_behind_a_decoder_by_a_call(registry: Registry, blobs: BlobStore, folder: Path) -> None:
    pipeline = picture_pipeline(ImageOptions((8, 8)), model(registry, blobs, "colour"), blobs, tensor="input")
    assert pipeline.signature.inputs == (TensorSpec("picture", "BYTES", (-1,)),)
    assert [spec.name for spec in pipeline.signature.outputs] == ["label", "means"]
    with pytest.raises(InvalidInput, match="no input 'inputs'"):
        picture_pipeline(ImageOptions((8, 8)), model(registry, blobs, "colour"), blobs, tensor="inputs")


def test_steps_of_one_name_are_refused(blobs: BlobStore) -> None:
    step = image_step(ImageOptions((8, 8)))
    twice = [Member("a", step, {"picture": "x"}), Member("a", step, {"picture": "x"})]
    with pytest.raises(InvalidInput, match="two steps are called 'a'"):
        wire(twice, {"y": "a.pixels"}, blobs)


def test_a_step_may_be_used_twice_and_stand_alone(blobs: BlobStore) -> None:
    step = image_step(ImageOptions((8, 8)))
    pipeline = wire(
        [Member("left", step, {"picture": "l"}), Member("right", step, {"picture": "r"})],
        {"a": "left.pixels", "b": "right.pixels"},
        blobs,
    )
    assert len({s["model_digest"] for s in pipeline.options["steps"]}) == 1
    assert put_manifest(blobs, pipeline) == pipeline.digest


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (ImageOptions((8, 9), "crop"), "pictures to RGB FP32 NCHW, 8×9 (crop)"),
        (
            ImageOptions(longest=640, multiple=32, colours="BGR", datatype="UINT8", layout="NHWC"),
            "pictures to BGR UINT8 NHWC, 640 at most, multiples of 32",
        ),
        (TokensOptions(128), "text to at most 128 tokens (cut), padded to the longest text"),
        (
            TokensOptions(64, "refuse", multiple=8),
            "text to at most 64 tokens (refuse), padded to the longest text in multiples of 8",
        ),
        (TokensOptions(64, pad=64), "text to at most 64 tokens (cut), padded to 64"),
    ],
)
def test_a_step_is_described_in_words(options: Any, words: str, tmp_path: Path, blobs: BlobStore) -> None:
    if isinstance(options, ImageOptions):
        manifest = image_step(options)
    else:
        manifest = tokens_step(write_tokenizer(tmp_path / "tokenizer.json"), options, blobs)
    assert describe_step(manifest) == words


def test_a_missing_tokenizer_is_not_found(tmp_path: Path, blobs: BlobStore) -> None:
    with pytest.raises(NotFound):
        tokens_step(tmp_path / "tokenizer.json", TokensOptions(8), blobs)
