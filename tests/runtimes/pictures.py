"""Pictures and tokenizers made by the tests themselves, for whoever serves them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from keelway.types import Array


def photo(height: int = 40, width: int = 60, seed: int = 0) -> Array:
    """A smooth picture, UINT8 [height, width, 3], no two of whose corners are alike."""
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    third = (across + down + 40 * seed) / 3 % 256
    return np.stack([across, down, third], axis=-1).astype(np.uint8)


def encoded(picture: Array | Image.Image, kind: str = "PNG", **how: Any) -> bytes:
    file = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(file, kind, **how)
    return file.getvalue()


def objects(*elements: Any) -> Array:
    array = np.empty(len(elements), object)
    array[:] = elements
    return array


WORDS = ("good", "bad", "room", "the", "was", "and", "very", "##ly", "food", "!")


def write_tokenizer(path: Path, **padding: Any) -> Path:
    """A small WordPiece tokenizer as BERT's: [PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3, then ``WORDS``."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary = {word: number for number, word in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    if padding:
        tokenizer.enable_padding(**padding)
    tokenizer.save(str(path))
    return path
