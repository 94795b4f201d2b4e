"""Steps that live inside a pipeline: a manifest of their own for decoding pictures or for making tokens of text.

They are no models: they have no name and no version, and are found by their digest alone, which the pipeline's options
hold. ``compose.py`` makes them of a pipeline's TOML; other publishers call the two functions.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from keelway.artifacts.blobs import BlobStore
from keelway.artifacts.manifest import FileEntry, Manifest
from keelway.contract.signature import Feature, ModelSignature
from keelway.errors import InvalidInput
from keelway.runtimes import image, tokens
from keelway.runtimes.image import ImageOptions
from keelway.runtimes.tokens import TokensOptions
from keelway.types import TensorSpec

#: The runtimes of steps, by which a reader of manifests can tell them from models.
STEP_RUNTIMES = frozenset({"image", "tokens"})


def image_step(options: ImageOptions) -> Manifest:
    """A step that takes encoded pictures as ``picture``, BYTES [-1], and answers ``pixels``.

    Raises ``InvalidInput`` naming the option that makes no sense."""
    options.check()
    signature = _signature(image.PICTURE, options.outputs)
    return Manifest((), signature, "image", msgspec.to_builtins(options))


def tokens_step(tokenizer: Path, options: TokensOptions, blobs: BlobStore) -> Manifest:
    """A step that takes ``text``, BYTES [-1], and answers ``input_ids`` and ``attention_mask``; stores the file
    ``tokenizer``, a ``tokenizer.json`` or a link to one.

    Raises ``InvalidInput`` for a file that holds no tokenizer and for options that do not fit it, ``NotFound`` if there
    is none, ``FailedPrecondition`` if the library is not installed.
    """
    tokenizer = tokenizer.resolve()
    entry = blobs.put_file(tokenizer)
    tokens.open_tokens(tokenizer, options).close()
    files = (FileEntry(tokens.FILE, entry.sha256, entry.size),)
    return Manifest(files, _signature(tokens.TEXT, options.outputs), "tokens", msgspec.to_builtins(options))


def describe_step(manifest: Manifest) -> str:
    """What a step does, in a few words: ``pictures to 224×224 RGB FP32 NCHW (crop)``."""
    if manifest.runtime == "image":
        return _describe_image(msgspec.convert(manifest.options, ImageOptions))
    if manifest.runtime == "tokens":
        return _describe_tokens(msgspec.convert(manifest.options, TokensOptions))
    raise InvalidInput(f"{manifest.runtime} is no step")


def _signature(taken: TensorSpec, outputs: tuple[TensorSpec, ...]) -> ModelSignature:
    return ModelSignature((Feature(taken.name, taken.datatype),), (taken,), outputs)


def _describe_image(options: ImageOptions) -> str:
    if options.size is None:
        size = f"{options.longest} at most, multiples of {options.multiple}"
    else:
        size = f"{options.size[0]}×{options.size[1]} ({options.how})"
    return f"pictures to {options.colours} {options.datatype} {options.layout}, {size}"


def _describe_tokens(options: TokensOptions) -> str:
    padding = "the longest text" if options.pad == "longest" else f"{options.pad}"
    multiple = f" in multiples of {options.multiple}" if options.multiple > 1 else ""
    return f"text to at most {options.max_length} tokens ({options.too_long}), padded to {padding}{multiple}"
