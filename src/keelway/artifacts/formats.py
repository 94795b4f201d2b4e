"""What a file is, told by its content: enough to choose a way to push it, or to say what it is instead of a model.

No parser here executes or builds anything: pickles are looked at as opcodes, archives as lists of names. A verdict is
a help to the user, never a permission: loaders check again. ``keelway push`` and ``keelway serve`` call it.
"""

from __future__ import annotations

import bz2
import codecs
import lzma
import os
import pickletools
import re
import struct
import warnings
import zlib
from enum import StrEnum
from pathlib import Path
from typing import IO, Final, NamedTuple

from keelway.artifacts.archives import is_tar_header, zip_names
from keelway.artifacts.onnx_files import is_onnx, mapped
from keelway.artifacts.paths import open_regular
from keelway.errors import CorruptArtifact, InvalidInput, NotFound

_HEAD: Final = 1024 * 1024


class Format(StrEnum):
    """What keelway knows how to name. ``UNKNOWN`` may still have a description: see ``describe``."""

    ONNX = "onnx"
    PICKLE = "pickle"
    JOBLIB = "joblib"
    SKOPS = "skops"
    XGBOOST = "xgboost"
    LIGHTGBM = "lightgbm"
    CATBOOST = "catboost"
    TORCH = "torch"
    LITERT = "litert"
    TORCH_PROGRAM = "torch-program"
    KERAS = "keras"
    HDF5 = "hdf5"
    ZIP = "zip"
    TAR = "tar"
    PYTHON = "python"
    FOLDER = "folder"
    UNKNOWN = "unknown"


class _Finding(NamedTuple):
    format: Format
    description: str


def detect(path: Path) -> Format:
    """The format of the file at ``path``, by content; links are followed.

    Raises ``NotFound`` if there is none, ``InvalidInput`` if it cannot be read.
    """
    return _look(path).format


def describe(path: Path) -> str:
    """What the file is, in words with an article that fit after "this is": ``a PNG image``. Raises as ``detect``."""
    return _look(path).description


def _look(path: Path) -> _Finding:
    try:
        path = path.resolve(strict=True)
    except FileNotFoundError:
        raise NotFound("there is no such file", field="path") from None
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        raise InvalidInput("the file cannot be read", field="path") from error
    if path.is_dir():
        return _Finding(Format.FOLDER, "a folder")
    with open_regular(path) as file:
        head = file.read(_HEAD)
        whole = len(head) == os.fstat(file.fileno()).st_size
        if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
            return _zip(file)
    return (
        _by_magic(head)
        or _compressed(head)
        or _pickle(head, whole=whole)
        or _onnx(path)
        or _text(head, whole=whole)
        or _Finding(Format.UNKNOWN, "a file of no known format" if head else "an empty file")
    )


# Formats told by their first bytes. Those that are no models are here so that an error can name them.
_MAGIC: Final[tuple[tuple[int, bytes, _Finding], ...]] = tuple(
    (offset, magic, _Finding(known, description))
    for offset, magic, known, description in (
        (0, b"\x89HDF\r\n\x1a\n", Format.HDF5, "an HDF5 file, as old Keras models are"),
        (0, b"\x89PNG\r\n", Format.UNKNOWN, "a PNG image"),
        (0, b"\xff\xd8\xff", Format.UNKNOWN, "a JPEG image"),
        (0, b"GIF8", Format.UNKNOWN, "a GIF image"),
        (0, b"%PDF-", Format.UNKNOWN, "a PDF document"),
        (0, b"PAR1", Format.UNKNOWN, "a Parquet table"),
        (0, b"ARROW1", Format.UNKNOWN, "an Arrow table"),
        (0, b"\x93NUMPY", Format.UNKNOWN, "a NumPy array (.npy)"),
        (0, b"SQLite format 3\x00", Format.UNKNOWN, "an SQLite database"),
        (0, b"\x7fELF", Format.UNKNOWN, "a program or shared library (ELF)"),
        (0, b"GGUF", Format.UNKNOWN, "a GGUF language model"),
        (0, b"binf", Format.UNKNOWN, "an XGBoost model in its old binary form"),
        (0, b"CBM1", Format.CATBOOST, "a CatBoost model"),
        (0, b"{L\x00\x00\x00\x00\x00\x00\x00\x07learner", Format.XGBOOST, "an XGBoost model in UBJSON form"),
        (0, b"\x04\x22\x4d\x18", Format.UNKNOWN, "an LZ4-compressed file"),
        (0, b"7z\xbc\xaf\x27\x1c", Format.UNKNOWN, "a 7z archive"),
        (0, b"Rar!\x1a\x07", Format.UNKNOWN, "a RAR archive"),
        (4, b"TFL3", Format.LITERT, "a LiteRT (TensorFlow Lite) model"),
        (4, b"ORTM", Format.UNKNOWN, "a model in ONNX Runtime's own format (.ort)"),
        (8, b'{"', Format.UNKNOWN, "a safetensors file"),
        (0, b"version https://git-lfs", Format.UNKNOWN, "a Git LFS pointer, not the file itself"),
    )
)


def _by_magic(head: bytes) -> _Finding | None:
    for offset, magic, finding in _MAGIC:
        if head.startswith(magic, offset):
            return finding
    if len(head) >= 512 and is_tar_header(head[:512]):
        return _Finding(Format.TAR, "a tar archive")
    return None


def _zip(file: IO[bytes]) -> _Finding:
    try:
        names = set(zip_names(file))
    except CorruptArtifact:
        return _Finding(Format.ZIP, "a damaged zip archive")
    if "schema.json" in names:
        return _Finding(Format.SKOPS, "a skops file")
    if {"config.json", "metadata.json"} <= names:
        return _Finding(Format.KERAS, "a Keras model")
    if any(name == "archive_format" or name.endswith("/archive_format") for name in names):
        return _Finding(Format.TORCH_PROGRAM, "a PyTorch program")
    # torch.save puts everything below one folder named after the file.
    if any(name == "data.pkl" or name.endswith("/data.pkl") for name in names):
        return _Finding(Format.TORCH, "a PyTorch file")
    if names and all(name.endswith(".npy") for name in names):
        return _Finding(Format.UNKNOWN, "NumPy arrays (.npz)")
    if "[Content_Types].xml" in names:
        return _Finding(Format.UNKNOWN, "an Office document")
    return _Finding(Format.ZIP, "a zip archive")


def _compressed(head: bytes) -> _Finding | None:
    """joblib compresses a pickle by any of these; a tar archive may be compressed too."""
    for magic, name in ((b"\x1f\x8b", "gzip"), (b"BZh", "bzip2"), (b"\xfd7zXZ\x00", "xz"), (b"\x5d\x00\x00", "lzma")):
        if head.startswith(magic):
            inside = _inflate(head, name)
            if inside and _pickle(inside, whole=False):
                return _Finding(Format.JOBLIB, f"a joblib file compressed with {name}")
            if name == "gzip" and len(inside) >= 512 and is_tar_header(inside[:512]):
                return _Finding(Format.TAR, "a tar archive compressed with gzip")
            return _Finding(Format.UNKNOWN, f"a file compressed with {name}")
    # zlib has no magic of its own, only a checksum over two bytes: believed if a pickle is inside.
    if head[:1] == b"\x78" and _pickle(_inflate(head, "zlib"), whole=False):
        return _Finding(Format.JOBLIB, "a joblib file compressed with zlib")
    return None


def _inflate(head: bytes, name: str) -> bytes:
    """Up to 64 KiB of what is inside, or nothing if it is damaged."""
    most = 64 * 1024
    try:
        if name == "bzip2":
            return bz2.BZ2Decompressor().decompress(head, most)
        if name in ("xz", "lzma"):
            return lzma.LZMADecompressor(memlimit=256 * 1024 * 1024).decompress(head, most)
        return zlib.decompressobj(wbits=47 if name == "gzip" else 15).decompress(head, most)
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError):
        return b""


_PICKLE = _Finding(Format.PICKLE, "a pickle")
_JOBLIB = _Finding(Format.JOBLIB, "a joblib file")
_GLOBAL: Final = re.compile(r"[\w.]+ [\w.<>]+", re.ASCII)


def _pickle(head: bytes, *, whole: bool) -> _Finding | None:
    """Protocols 2 to 5 say so in their first two bytes; 0 and 1 only show in their opcodes, which are read, not run."""
    if not (len(head) > 2 and head[0] == 0x80 and 2 <= head[1] <= 5) and not _is_old_pickle(head, whole=whole):
        return None
    return _JOBLIB if b"joblib.numpy_pickle" in head else _PICKLE


def _is_old_pickle(head: bytes, *, whole: bool) -> bool:
    """Believed if the opcodes are right to the last byte, or as far as the first import of a class or function."""
    opcodes = 0
    try:
        with warnings.catch_warnings(action="ignore"):  # of escapes in what is no pickle
            for opcode, argument, position in pickletools.genops(head):
                opcodes += 1
                if opcode.name == "GLOBAL" and _GLOBAL.fullmatch(str(argument)):
                    return True
                if opcode.name == "STOP":
                    return whole and opcodes > 1 and position == len(head) - 1
    except (ValueError, IndexError, OverflowError, struct.error):
        return False
    return False


def _onnx(path: Path) -> _Finding | None:
    with mapped(path) as data:
        return _Finding(Format.ONNX, "an ONNX model") if is_onnx(data) else None


_PYTHON: Final = re.compile(
    r"^(?:import [\w., ]+|from [\w.]+ import .+|(?:async )?def \w+\(.*|class \w+.*:|@\w.*)$", re.MULTILINE
)
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]")
# Models in text form first: names of features may look like anything.
_MODELS: Final[tuple[tuple[re.Pattern[str], _Finding], ...]] = (
    (re.compile(r"tree\r?\nversion="), _Finding(Format.LIGHTGBM, "a LightGBM model in text form")),
    (re.compile(r'\s*\{\s*"learner"\s*:'), _Finding(Format.XGBOOST, "an XGBoost model in JSON form")),
    (
        re.compile(r'\s*\{\s*"(?:cat_features_hash|ctr_data|features_info)"\s*:'),
        _Finding(Format.CATBOOST, "a CatBoost model in JSON form"),
    ),
)
_TEXTS: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (re.compile(r"\s*<(?:!doctype html|html)", re.IGNORECASE), "a web page, perhaps an error or a login"),
    (re.compile(r'\s*\{\s*"name"\s*:\s*"tree"'), "a dump of a LightGBM model, which cannot be loaded again"),
    (re.compile(r"\s*[\[{]"), "a JSON document"),
    (re.compile(r"\s*<"), "an XML document"),
    (re.compile(r"[^\n,;\t]*([,;\t])[^\n]*\n[^\n]*\1"), "a table in text form (CSV)"),
)


def _text(head: bytes, *, whole: bool) -> _Finding | None:
    try:
        # Incremental: where the head is cut, its last character may be cut too.
        text = codecs.getincrementaldecoder("utf-8")().decode(head, final=whole)
    except UnicodeDecodeError:
        return None
    if not text or _CONTROL.search(text):
        return None
    for pattern, finding in _MODELS:
        if pattern.match(text):
            return finding
    if _PYTHON.search(text):
        return _Finding(Format.PYTHON, "Python source code")
    for pattern, description in _TEXTS:
        if pattern.match(text):
            return _Finding(Format.UNKNOWN, description)
    return _Finding(Format.UNKNOWN, "a text file")
