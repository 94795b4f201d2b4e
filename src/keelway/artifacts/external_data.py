"""The large weights of an ONNX file moved into a file of their own, where ONNX Runtime maps them into memory.

Only bytes are moved: every other byte of the model stays as it is. A walk over protobuf's wire format as in
``onnx_files.py``, because the ``onnx`` package is not part of a server, and reads a whole model into memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Final, NamedTuple

from keelway.artifacts.onnx_files import Buffer, is_onnx, lengths, mapped
from keelway.artifacts.paths import open_new
from keelway.errors import CorruptArtifact

#: Weights of fewer bytes stay in the model: what lies in the page of another is not worth a page of its own.
THRESHOLD: Final = 64 * 1024

#: Weights begin at a page, so that they can be mapped.
_PAGE: Final = 4096
_CHUNK: Final = 256 * 1024

_GRAPH, _INITIALIZER = 7, 5
#: Fields of TensorProto: where its values lie,
_EXTERNAL, _LOCATION = 13, 14
#: and those whose content is what lies in memory: raw bytes, and floats and doubles packed.
_VALUES: Final = frozenset({9, 4, 10})

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
        return _without_weights(data, target, weights.name, partial(_write_weights, data, weights))


def outline(source: Path, target: Path, weights: Path) -> int:
    """As ``move_weights``, but the values stay where they are: ``weights`` is a hole, as large as ``source``. That is
    enough to look at a model without reading its weights."""

    def places(found: Sequence[_Weights]) -> list[int]:
        with open_new(weights) as file:
            file.truncate(source.stat().st_size)
        return [one.first for one in found]

    with mapped(source) as data:
        return _without_weights(data, target, weights.name, places)


def _without_weights(
    data: Buffer, target: Path, location: str, put: Callable[[Sequence[_Weights]], Sequence[int]]
) -> int:
    """Write the model without its large weights, for which ``put`` finds places in the file ``location``."""
    if not is_onnx(data):
        raise CorruptArtifact("this is not an ONNX model")
    graphs = [field for field in lengths(data, 0, len(data)) if field[0] == _GRAPH]
    found = dict(_large(data, *graphs[0][2:])) if len(graphs) == 1 else {}
    if not found:
        return 0
    offsets = put(list(found.values()))
    _, begin, first, last = graphs[0]
    graph = list(_graph(data, first, last, found, offsets, location))
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
        if number in _VALUES:
            found[number] = _Weights(begin, first, last)
    if len(found) != 1:
        return None
    (weights,) = found.values()
    return weights if weights.last - weights.first >= THRESHOLD else None


def _write_weights(data: Buffer, path: Path, found: Sequence[_Weights]) -> list[int]:
    """Write the values one after the other, each at a page of its own; answers where."""
    offsets = []
    with open_new(path) as file:
        for one in found:
            file.write(bytes(-file.tell() % _PAGE))
            offsets.append(file.tell())
            _copy(data, (one.first, one.last), file)
    return offsets


def _graph(
    data: Buffer, start: int, end: int, found: dict[int, _Weights], offsets: Sequence[int], location: str
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
