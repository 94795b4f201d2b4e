"""Hostile peers over HTTP/2 and gRPC: frames made one by one, right and wrong, and what came back read frame by frame.

Against an address; nothing here knows which library listens there.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

import grpc
import numpy as np
from hpack import Decoder, Encoder, HPACKError
from hyperframe.exceptions import HyperframeError
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    RstStreamFrame,
    SettingsFrame,
)
from tests.hostility.attack import Attack, Peer

from keelway.wire.open_inference_pb2 import ModelInferRequest

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
INFER = "/inference.GRPCInferenceService/ModelInfer"
CODES = {str(code.value[0]): code.name for code in grpc.StatusCode}
GREETING = PREFACE + SettingsFrame(0).serialize()

Headers = Sequence[tuple[str | bytes, str | bytes]]


def infer_message(model: str = "m", *row: float) -> bytes:
    array = np.array([row or (1.0, 2.0)], np.float32)
    tensor = ModelInferRequest.InferInputTensor(name="input", datatype="FP32", shape=array.shape)
    message = ModelInferRequest(model_name=model, inputs=[tensor], raw_input_contents=[array.tobytes()])
    return bytes(message.SerializeToString())


def prefixed(message: bytes, flag: int = 0, length: int | None = None) -> bytes:
    """``message`` behind gRPC's own prefix: a flag for compression and four bytes of length."""
    return struct.pack(">BI", flag, len(message) if length is None else length) + message


def call_headers(path: str = INFER, *more: tuple[str | bytes, str | bytes], **changed: str | None) -> Headers:
    """The headers of a call; ``changed`` replaces some by name (``_`` for ``-``), ``None`` leaves one out."""
    headers: dict[str, str | None] = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "localhost",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    for name, value in changed.items():
        headers[
            {"method": ":method", "scheme": ":scheme", "authority": ":authority"}.get(name, name.replace("_", "-"))
        ] = value
    return [*((name, value) for name, value in headers.items() if value is not None), *more]


def headers_frame(stream: int, headers: Headers, flags: Iterable[str] = ("END_HEADERS",)) -> bytes:
    return bytes(HeadersFrame(stream, Encoder().encode(headers, huffman=False), flags=list(flags)).serialize())


def data_frame(stream: int, data: bytes, end: bool = True) -> bytes:
    return bytes(DataFrame(stream, data, flags=["END_STREAM"] if end else []).serialize())


def call(stream: int, message: bytes, headers: Headers | None = None) -> bytes:
    return headers_frame(stream, headers or call_headers()) + data_frame(stream, prefixed(message))


def raw_frame(kind: int, flags: int, stream: int, body: bytes, length: int | None = None) -> bytes:
    """Any frame at all, the length it states included."""
    size = len(body) if length is None else length
    return struct.pack(">I", size)[1:] + struct.pack(">BBI", kind, flags, stream) + body


def frames(data: bytes) -> list[Frame]:
    """Those of ``data`` that are whole and known."""
    found: list[Frame] = []
    while len(data) >= 9:
        try:
            frame, length = Frame.parse_frame_header(memoryview(data[:9]))
            if len(data) < 9 + length:
                break
            frame.parse_body(memoryview(data[9 : 9 + length]))
            found.append(frame)
        except HyperframeError:
            length = int.from_bytes(data[:3])
        data = data[9 + length :]
    return found


def answers(data: bytes) -> list[str]:
    """The statuses of calls by name, other HTTP statuses, streams reset and connections ended by the server."""
    decoder, found = Decoder(), []
    for frame in frames(data):
        if isinstance(frame, HeadersFrame):
            try:
                headers = dict(decoder.decode(frame.data))
            except HPACKError:
                found.append("unreadable")
                continue
            status = headers.get("grpc-status")
            if status is not None:
                found.append(CODES[status])
            elif headers.get(":status") != "200":
                found.append(headers.get(":status", "no status"))
        elif isinstance(frame, RstStreamFrame):
            found.append("stream reset")
        elif isinstance(frame, GoAwayFrame):
            found.append("connection ended")
    return found


#: Seconds in which a server that has something to say says it.
PAUSE = 0.04


def says(attack: Attack, data: bytes, requests: int = 1, greeting: bytes = GREETING, pause: float = PAUSE) -> list[str]:
    """What the server answers to ``data`` until it ends the connection or has said nothing for a while; then the peer
    leaves."""
    with attack.peer() as peer:
        peer.send(greeting + data, requests)
        return heard(attack, peer, pause)


def heard(attack: Attack, peer: Peer, pause: float = PAUSE) -> list[str]:
    found = answers(peer.rest(pause))
    attack.answered(*found)
    return found


def expect_only(found: Sequence[str], *allowed: str, name: str = "") -> None:
    assert set(found) <= set(allowed), f"{name}: {found}"
