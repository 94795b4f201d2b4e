"""The files beside an ONNX file: which ones it refers to, and whether each lies where it may.

A minimal walk over the protobuf wire format, because the ``onnx`` package is not part of a server. It visits exactly
the messages that can hold a tensor and knows nothing of operators. Hosting calls ``confine`` before ONNX Runtime
opens anything; publishing calls it before a push. The field numbers are those of onnx.proto, checked by a test.
"""

from __future__ import annotations

import mmap
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from keelway.artifacts.paths import check_relative, open_regular
from keelway.errors import CorruptArtifact, InvalidInput

Buffer = bytes | mmap.mmap

#: Message type -> number of each field that leads to a tensor -> the type of message there.
TENSOR_FIELDS: Final[Mapping[str, Mapping[int, str]]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {13: "StringStringEntryProto"},
}

#: Fields of ModelProto and GraphProto that hold bytes. A file whose top two levels have others is no ONNX model.
_MODEL_FIELDS: Final = frozenset({2, 3, 4, 6, 7, 8, 14, 20, 25, 26})
_GRAPH_FIELDS: Final = frozenset({1, 2, 5, 10, 11, 12, 13, 14, 15, 16})

#: Protobuf's own limit on messages within messages, which ONNX Runtime keeps.
_MAX_DEPTH: Final = 100
_MAX_LOCATION_BYTES: Final = 4096


def _tags(wire_type: int) -> bytes:
    return b"[" + b"".join(rb"\x%02x" % (number << 3 | wire_type) for number in range(1, 16)) + b"]"


#: A run of scalar fields with numbers up to 15. A forest has millions of them in a row, unpacked: a loop in Python
#: over each would take seconds. What does not fit here (longer tags) is left to the loop.
_SCALARS: Final = re.compile(
    rb"(?:%s[\x80-\xff]{0,9}+[\x00-\x7f]|%s.{4}|%s.{8})++" % (_tags(0), _tags(5), _tags(1)), re.DOTALL
)


def external_locations(path: Path) -> tuple[str, ...]:
    """The distinct external-data locations an ONNX file refers to, sorted, exactly as written in it.

    All tensors count: initializers, sparse ones, attributes, subgraphs, functions and training graphs. Raises
    ``CorruptArtifact`` if the file is not an ONNX model, ``NotFound`` or ``InvalidInput`` if it cannot be read.
    """
    with mapped(path) as data:
        return tuple(sorted(set(_locations(data))))


def confine(path: Path, folder: Path) -> tuple[str, ...]:
    """The external locations of the ONNX file at ``path``, after a check that none leads out of ``folder``.

    Each must be a plain path relative to the ONNX file, of an existing regular file, with no link on the way.
    Raises ``CorruptArtifact`` otherwise, and as ``external_locations`` does; ``InvalidInput`` if ``path`` itself is
    not in ``folder``.
    """
    if not path.is_relative_to(folder):
        raise InvalidInput("the ONNX file is not in the folder given", field="path")
    _check_regular(folder, path.relative_to(folder).as_posix())
    locations = external_locations(path)
    for location in locations:
        _check_regular(path.parent, location)
    return locations


def is_onnx(data: Buffer) -> bool:
    """Whether ``data`` has the outline of an ONNX model: a graph, and in it and around it nothing unknown."""
    try:
        model = list(lengths(data, 0, len(data)))
        graphs = [(start, end) for number, _, start, end in model if number == 7]
        known = all(number in _MODEL_FIELDS for number, *_ in model)
        return bool(graphs and known) and all(
            number in _GRAPH_FIELDS for start, end in graphs for number, *_ in lengths(data, start, end)
        )
    except CorruptArtifact:
        return False


@contextmanager
def mapped(path: Path) -> Iterator[Buffer]:
    """The bytes of a regular file, without reading them all. It must not shrink meanwhile; our own copies never do."""
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size == 0:
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data


def _check_regular(folder: Path, relative: str) -> None:
    *parents, name = check_relative(relative).split("/")
    for parent in parents:
        folder = folder / parent
        _check_kind(folder, stat.S_ISDIR)
    _check_kind(folder / name, stat.S_ISREG)


def _check_kind(path: Path, is_expected: Callable[[int], bool]) -> None:
    try:
        mode = path.lstat().st_mode
    except OSError:
        raise CorruptArtifact(
            "the ONNX model refers to a file that is not beside it", hint="push the folder that holds both"
        ) from None
    if not is_expected(mode):
        raise CorruptArtifact(
            "the ONNX model refers to a link or a folder, not to a file", hint="put the file itself beside the model"
        )


def _locations(data: Buffer) -> Iterator[str]:
    """Depth-first over every message that can hold a tensor. Linear in the size of the file at a bounded depth."""
    if not is_onnx(data):
        raise CorruptArtifact("this is not an ONNX model")
    pending = [("ModelProto", 0, len(data), 1)]
    while pending:
        kind, start, end, depth = pending.pop()
        if depth > _MAX_DEPTH:
            raise CorruptArtifact(f"the ONNX model is nested more than {_MAX_DEPTH} levels deep")
        if kind == "StringStringEntryProto":
            yield from _location(data, start, end)
            continue
        children = TENSOR_FIELDS[kind]
        for number, _, first, last in lengths(data, start, end):
            if number in children:
                pending.append((children[number], first, last, depth + 1))


def _location(data: Buffer, start: int, end: int) -> Iterator[str]:
    """The value of one key-value entry, if its key is ``location``. Of a field given twice, protobuf takes the last."""
    fields = {number: (first, last) for number, _, first, last in lengths(data, start, end)}
    key_first, key_last = fields.get(1, (0, 0))
    first, last = fields.get(2, (0, 0))
    if data[key_first : min(key_last, key_first + 16)] != b"location":
        return
    if last - first > _MAX_LOCATION_BYTES:
        raise CorruptArtifact("the ONNX model refers to a file by too long a path")
    try:
        yield data[first:last].decode()
    except UnicodeDecodeError:
        raise CorruptArtifact("the ONNX model refers to a file by a path that is not UTF-8") from None


def lengths(data: Buffer, position: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """The length-delimited fields of the message in ``data[position:end]``: number, position of the tag, and start and
    end of what is in it. ``CorruptArtifact`` if the bytes are no message."""
    while position < end:
        if run := _SCALARS.match(data, position, end):
            position = run.end()
            continue
        begin = position
        tag, position = varint(data, position, end)
        number, wire_type = tag >> 3, tag & 7
        if number == 0 or tag > 0xFFFF_FFFF:
            raise _broken()
        if wire_type == 2:
            length, position = varint(data, position, end)
            if length > end - position:
                raise _broken()
            yield number, begin, position, position + length
            position += length
        elif wire_type == 0:
            _, position = varint(data, position, end)
        elif wire_type in (1, 5):
            position += 8 if wire_type == 1 else 4
        else:  # groups, which ONNX never used
            raise _broken()
    if position != end:
        raise _broken()


def varint(data: Buffer, position: int, end: int) -> tuple[int, int]:
    """An unsigned integer of up to ten bytes, and the position after it."""
    value = 0
    for index in range(position, min(position + 10, end)):
        byte = data[index]
        value |= (byte & 0x7F) << 7 * (index - position)
        if byte < 0x80:
            return value, index + 1
    raise _broken()


def _broken() -> CorruptArtifact:
    return CorruptArtifact("the ONNX file is damaged", hint="save the model again")
