"""Inference calls: the door of gRPC. A permit is taken when the headers have come; a message that is whole goes
straight down the request line, without a task, as on REST's fast lane.
"""

from __future__ import annotations

from functools import partial

from keelway.batching.waiting import Waiting
from keelway.codecs.protobuf import OpenInferenceProtobufCodec
from keelway.codecs.protobuf_rows import BatchPredictCodec, PredictCodec
from keelway.config import LimitSettings
from keelway.dataplane import Answer, DataPlane, InferenceCall
from keelway.edge.http2.application import Exchange, Response
from keelway.edge.http2.header_blocks import written
from keelway.edge.http2.streams import Stream
from keelway.errors import Cancelled, DeadlineExceeded, KeelwayError
from keelway.observe.request_ids import RequestIds
from keelway.ports import Codec
from keelway.transports.grpc.calls import Collected, RefusedCall
from keelway.transports.grpc.errors import OK_HEAD, OK_TRAILERS, CallRefused, refusal
from keelway.transports.grpc.framing import Framing, framed
from keelway.transports.grpc.metadata import CallHead
from keelway.types import Principal


def inference_methods(limits: LimitSettings) -> dict[str, tuple[Codec, str]]:
    """Path of the method -> its codec, and what its requests are counted under."""
    nesting = limits.max_nesting
    return {
        "/inference.GRPCInferenceService/ModelInfer": (OpenInferenceProtobufCodec(), "grpc_v2"),
        "/keelway.v1.ModelService/Predict": (PredictCodec(nesting), "grpc_v1"),
        "/keelway.v1.ModelService/BatchPredict": (BatchPredictCodec(nesting), "grpc_v1"),
    }


class InferenceOpening:
    """Inference with the same headers. ``seconds`` are those of the call, ``patience`` those for its message to
    come."""

    def __init__(
        self,
        plane: DataPlane,
        ids: RequestIds,
        codec: Codec,
        transport: str,
        head: CallHead,
        framing: Framing,
        seconds: float,
        patience: float,
    ) -> None:
        self.plane = plane
        self.ids = ids
        self.codec = codec
        self.transport = transport
        self.priority = head.priority
        self.framing = framing
        self.seconds = seconds
        self.patience = min(seconds, patience)

    def enter(self, stream: Stream, principal: Principal) -> Exchange:
        """Comes by the gate."""
        refused = self.plane.gate.enter(self.priority, principal, stream.peer)
        if refused is not None:
            return RefusedCall(stream, partial(self._not_let_in, refused))
        return InferenceExchange(self, stream, principal)

    def refused(self, error: KeelwayError) -> Response:
        self.plane.turned_away(self.transport, error)
        return refusal(error, self.ids.next())

    def _not_let_in(self, error: KeelwayError) -> Response:
        self.plane.refused(self.transport, error)
        return refusal(error, self.ids.next())


class InferenceExchange:
    """One call. It holds a permit until it is answered, refused or cancelled."""

    __slots__ = (
        "_admitted",
        "_cancelled",
        "_message",
        "_opening",
        "_principal",
        "_request_id",
        "_stream",
        "_waiting",
    )

    def __init__(self, opening: InferenceOpening, stream: Stream, principal: Principal) -> None:
        self._opening = opening
        self._principal = principal
        self._stream = stream
        self._admitted = True
        self._cancelled = False
        self._message: Collected | None = None
        self._waiting: Waiting[Answer] | None = None

    def receive(self, data: bytes) -> None:
        if self._message is None:
            self._message = Collected(self._opening.framing)
        try:
            self._message.add(data)
        except CallRefused as error:
            self._refuse(error)
        else:
            self._stream.consumed(len(data))

    def finish(self, data: bytes) -> Response | None:
        opening = self._opening
        plane = opening.plane
        self._request_id = request_id = opening.ids.next()
        try:
            message = opening.framing.message_of(data if self._message is None else self._message.whole(data))
            self._message = None
            answer = plane.infer(
                InferenceCall(
                    "",
                    None,
                    opening.codec,
                    message,
                    opening.transport,
                    request_id,
                    self._stream.since + opening.seconds,
                    None,
                    self._principal,
                    opening.priority,
                    self._stream.peer,
                )
            )
        except (KeelwayError, CallRefused) as error:
            self._leave()
            return refusal(error, request_id)
        if isinstance(answer, Answer):
            self._leave()
            return _answered(answer)
        self._waiting = answer
        answer.then(self._settled)
        return None

    def cancel(self) -> None:
        self._cancelled = True
        if self._waiting is not None:
            self._waiting.cancel()
        else:
            self._leave()

    def sweep(self, now: float) -> None:
        if now - self._stream.since > self._opening.patience:
            self._refuse(DeadlineExceeded("the message did not come in time"))

    def _settled(self, outcome: Answer | Exception | None) -> None:
        self._leave()
        if self._cancelled:
            return
        if isinstance(outcome, Answer):
            response = _answered(outcome)
        elif outcome is None:
            response = refusal(Cancelled("the server has stopped before the call was answered"), self._request_id)
        else:
            response = refusal(outcome, self._request_id)
        self._stream.respond(response)

    def _refuse(self, error: Exception) -> None:
        self._leave()
        self._stream.respond(refusal(error, self._opening.ids.next()))

    def _leave(self) -> None:
        if self._admitted:
            self._admitted = False
            self._opening.plane.gate.leave(self._principal)


def _answered(answer: Answer) -> Response:
    trailers = OK_TRAILERS
    if answer.cache_status:
        trailers += written([(b"cache-status", answer.cache_status)])
    if answer.rate_limit:
        trailers += written([(b"ratelimit", answer.rate_limit)])
    return Response(OK_HEAD, framed(answer.encoded.body), trailers)
