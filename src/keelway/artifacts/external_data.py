"""The large weights of an ONNX file moved into a file of their own, where ONNX Runtime maps them into memory.

Only bytes are moved: every other byte of the model stays as it is. A walk over protobuf's wire format as in
``onnx_files.py``, because the ``onnx`` package is not part of a server, and reads a whole model into memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final, NamedTuple

from keelway.artifacts.onnx_files import Buffer, is_onnx, lengths, mapped, varint
from keelway.artifacts.paths import open_new
from keelway.errors import CorruptArtifact

#: Weights of fewer bytes stay in the model: what lies in the page of another is not worth a page of its own.
THRESHOLD: Final = 64 * 1024

#: Weights begin at a page, so that they can be mapped.
_PAGE: Final = 4096
_CHUNK: Final = 16 * 1024 * 1024

_GRAPH, _INITIALIZER = 7, 5
#: Fields of TensorProto: its datatype, its values in a form that is that of the memory, and where they lie.
_DATATYPE, _RAW, _EXTERNAL, _LOCATION = 2, 9, 13, 14
_FLOAT, _DOUBLE = 1, 11
#: Packed values of these fields are their bytes in memory, for that datatype.
_PACKED: Final = {4: _FLOAT, 10: _DOUBLE}

#: A part of the new model: bytes of its own, or a range of the old one.
_Part = bytes | tuple[int, int]


class _Weights(NamedTuple):
    """``begin`` is where the field with the values begins, ``first`` and ``last`` enclose them."""

    begin: int
    first: int
    last: int


def move_weights(source: Path, target: Path, weights: Path) -> int:
    """Write the model ``source`` to ``target`` with its large initializers in ``weights``, which lies beside it.

    Both files must not exist. Answers the bytes moved; 0 if there is nothing to move, and then writes no file. Raises
    ``CorruptArtifact`` if ``source`` is not an ONNX model.
    """
    with mapped(source) as data:
        if not is_onnx(data):
            raise CorruptArtifact("this is not an ONNX model")
        graphs = [field for field in lengths(data, 0, len(data)) if field[0] == _GRAPH]
        found = dict(_large(data, *graphs[0][2:])) if len(graphs) == 1 else {}
        if not found:
            return 0
        offsets = _write_weights(data, list(found.values()), weights)
        _, begin, first, last = graphs[0]
        graph = list(_graph(data, first, last, found, offsets, weights.name))
        model: list[_Part] = [(0, begin), _tag(_GRAPH, 2), _encoded(_size(graph)), *graph, (last, len(data))]
        with open_new(target) as file:
            for part in model:
                _copy(data, part, file)
        return sum(one.last - one.first for one in found.values())


def _large(data: Buffer, start: int, end: int) -> Iterator[tuple[int, _Weights]]:
    """Where each large initializer of the graph begins, and its values."""
    for number, _, first, last in lengths(data, start, end):
        if number == _INITIALIZER and last - first >= THRESHOLD:
            weights = _values(data, first, last)
            if weights is not None:
                yield first, weights


def _values(data: Buffer, start: int, end: int) -> _Weights | None:
    """The values of a tensor, if they stand in it in one piece, as they lie in memory."""
    found: dict[int, _Weights] = {}
    for number, begin, first, last in lengths(data, start, end):
        if number in found or number == _EXTERNAL:
            return None
        if number == _RAW or number in _PACKED:
            found[number] = _Weights(begin, first, last)
    if len(found) != 1:
        return None
    ((number, weights),) = found.items()
    if weights.last - weights.first < THRESHOLD:
        return None
    return weights if number == _RAW or _datatype(data, start, end, weights) == _PACKED[number] else None


def _datatype(data: Buffer, start: int, end: int, weights: _Weights) -> int:
    """The datatype of a tensor, wherever it stands; 0 if there is none."""
    value, position = 0, start
    while position < end:
        if position == weights.begin:
            position = weights.last
            continue
        tag, position = varint(data, position, end)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == 0:
            read, position = varint(data, position, end)
            value = read if number == _DATATYPE else value
        elif wire_type == 2:
            length, position = varint(data, position, end)
            position += length
        else:
            position += 8 if wire_type == 1 else 4
    return value


def _write_weights(data: Buffer, found: list[_Weights], path: Path) -> list[int]:
    """Write the values one after the other, each at a page of its own; answers where."""
    offsets = []
    with open_new(path) as file:
        for one in found:
            file.write(bytes(-file.tell() % _PAGE))
            offsets.append(file.tell())
            _copy(data, (one.first, one.last), file)
    return offsets


def _graph(
    data: Buffer, start: int, end: int, found: dict[int, _Weights], offsets: list[int], location: str
) -> Iterator[_Part]:
    places = dict(zip(found, offsets, strict=True))
    copied = start
    for number, begin, first, last in lengths(data, start, end):
        if number != _INITIALIZER or first not in found:
            continue
        values = found[first]
        entry = _where(location, places[first], values.last - values.first)
        tensor: list[_Part] = [(first, values.begin), (values.last, last), entry]
        yield (copied, begin)
        yield _tag(_INITIALIZER, 2) + _encoded(_size(tensor))
        yield from tensor
        copied = last
    yield (copied, end)


def _where(location: str, offset: int, length: int) -> bytes:
    """The fields of a tensor whose values are in another file."""
    entries = {"location": location, "offset": str(offset), "length": str(length)}
    fields = [_field(_EXTERNAL, _field(1, key.encode()) + _field(2, value.encode())) for key, value in entries.items()]
    return b"".join(fields) + _tag(_LOCATION, 0) + _encoded(1)


def _field(number: int, content: bytes) -> bytes:
    return _tag(number, 2) + _encoded(len(content)) + content


def _tag(number: int, wire_type: int) -> bytes:
    return _encoded(number << 3 | wire_type)


def _encoded(value: int) -> bytes:
    """``value`` as protobuf's variable-length integer."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _size(parts: list[_Part]) -> int:
    return sum(len(part) if isinstance(part, bytes) else part[1] - part[0] for part in parts)


def _copy(data: Buffer, part: _Part, file: IO[bytes]) -> None:
    if isinstance(part, bytes):
        file.write(part)
        return
    first, last = part
    for position in range(first, last, _CHUNK):
        file.write(data[position : min(position + _CHUNK, last)])
