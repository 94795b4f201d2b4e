"""Inference calls: the door of gRPC. Each takes a permit and goes down the request line, as REST's do."""

from __future__ import annotations

from keelway.batching.waiting import Waiting
from keelway.codecs.protobuf import OpenInferenceProtobufCodec
from keelway.codecs.protobuf_rows import BatchPredictCodec, PredictCodec
from keelway.config import LimitSettings
from keelway.dataplane import DataPlane, InferenceCall
from keelway.errors import InvalidInput
from keelway.ports import Codec
from keelway.transports.grpc.calls import Answer, Context
from keelway.types import Priority


def inference_calls(plane: DataPlane, limits: LimitSettings) -> dict[str, Answer]:
    """Path of the method -> its answer."""
    nesting = limits.max_nesting
    calls: dict[str, tuple[Codec, str]] = {
        "/inference.GRPCInferenceService/ModelInfer": (OpenInferenceProtobufCodec(), "grpc_v2"),
        "/keelway.v1.ModelService/Predict": (PredictCodec(nesting), "grpc_v1"),
        "/keelway.v1.ModelService/BatchPredict": (BatchPredictCodec(nesting), "grpc_v1"),
    }
    return {
        path: _inference(plane, codec, transport, limits.request_timeout) for path, (codec, transport) in calls.items()
    }


def _inference(plane: DataPlane, codec: Codec, transport: str, limit: float) -> Answer:
    async def infer(body: bytes, context: Context, request_id: str) -> bytes:
        remaining = context.time_remaining()
        seconds = limit if remaining is None else min(limit, remaining)
        deadline = plane.clock.monotonic() + seconds
        priority = priority_of(context)
        plane.admit(transport, priority)
        try:
            answer = plane.infer(
                InferenceCall("", None, codec, body, transport, request_id, deadline, priority=priority)
            )
            if isinstance(answer, Waiting):
                # The caller's going cancels this call, and with it what is awaited here.
                answer = await answer.future()
            if answer.cache_status:
                context.set_trailing_metadata((("cache-status", answer.cache_status.decode()),))
            return answer.encoded.body
        finally:
            plane.admission.leave()

    return infer


def priority_of(context: Context) -> Priority:
    """The metadata ``x-request-priority``: ``interactive``, which is the default, or ``batch``. ``InvalidInput``
    otherwise."""
    for key, value in context.invocation_metadata() or ():
        if key == "x-request-priority":
            priority = _PRIORITIES.get(value.lower())
            if priority is None:
                raise InvalidInput("x-request-priority must be interactive or batch")
            return priority
    return Priority.INTERACTIVE


_PRIORITIES = {priority.name.lower(): priority for priority in Priority}
