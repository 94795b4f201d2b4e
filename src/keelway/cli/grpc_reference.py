"""The reference page of the gRPC services, from the descriptors of their messages. Written by ``reference.py``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from keelway.cli.markdown import page, table
from keelway.wire import POOL

#: What each method does. A test says that none is missing.
METHODS: Final = {
    "inference.GRPCInferenceService/ServerLive": "The process is there",
    "inference.GRPCInferenceService/ServerReady": "Every model is loaded, and the server is not draining",
    "inference.GRPCInferenceService/ModelReady": "That model, or that version of it, can answer",
    "inference.GRPCInferenceService/ServerMetadata": "Name, version and extensions of the server",
    "inference.GRPCInferenceService/ModelMetadata": "Inputs, outputs and versions of a model, the digest that answers",
    "inference.GRPCInferenceService/ModelInfer": "Tensors in, tensors out; succeeds or fails as a whole",
    "inference.GRPCInferenceService/RepositoryIndex": "Every model that should be live, and why one is not",
    "inference.GRPCInferenceService/RepositoryModelLoad": "Serve a model too; off unless `serving.allow_model_control`",
    "inference.GRPCInferenceService/RepositoryModelUnload": "Stop serving a model; off in the same way",
    "keelway.v1.ModelService/Predict": "One row of named values; a bad row is an error of the call",
    "keelway.v1.ModelService/BatchPredict": "Many rows, each with a prediction or an error of its own",
    "grpc.health.v1.Health/Check": "Health of the server (no name) or of one of its services",
    "grpc.health.v1.Health/Watch": "The same, and again whenever it changes",
    "grpc.reflection.v1.ServerReflection/ServerReflectionInfo": "What services there are and what their messages hold; "
    "as `v1alpha` too",
}

_FILES: Final = ("open_inference", "model_service", "health", "reflection")

_METADATA: Final = (
    ("`x-request-id`", "The id of the request, as in records and logs."),
    ("`keelway-error-field`", "The input or feature at fault, where there is one."),
    ("`grpc-retry-pushback-ms`", "Milliseconds until it is worth asking again."),
    ("`retry-after`", "The same in seconds."),
    ("`ratelimit`, `ratelimit-policy`", "How much is left of a rate limit that has refused the call, and what it is."),
)


def methods() -> Iterator[tuple[str, str, str]]:
    """(path without its slash, request, response) of every method, ``stream`` before what is one."""
    from keelway.wire import health_pb2, model_service_pb2, open_inference_pb2, reflection_pb2  # noqa: F401 - fill POOL

    for file in _FILES:
        for service in POOL.FindFileByName(f"keelway/wire/{file}.proto").services_by_name.values():
            for method in service.methods:
                asked, answered = method.input_type.name, method.output_type.name
                yield (
                    f"{service.full_name}/{method.name}",
                    f"stream {asked}" if method.client_streaming else asked,
                    f"stream {answered}" if method.server_streaming else answered,
                )


def grpc_page() -> str:
    """The methods and the metadata of errors."""
    rows = [(f"`{path}`", f"`{asked}`", f"`{answered}`", METHODS[path]) for path, asked, answered in methods()]
    lines = [
        "Served on the HTTP port, in cleartext HTTP/2 with prior knowledge, and where `--grpc` or `grpc.address` says.",
        "The sources of the messages are in `proto/`; a running server hands them out by reflection.",
        "",
        *table(("method", "request", "response", "meaning"), rows),
        "",
        "An answer of `ModelInfer` carries its tensors as the request did, in `raw_output_contents` or in `contents`;",
        "FP16 travels raw only. Its parameters are `model_digest`, `policy_revision`, `request_id` and, where values",
        "lie outside what the sample showed, `tags`. With a cache, the trailing metadata `cache-status` say what it",
        "did.",
        "",
        "## Errors",
        "",
        "The status is the code of the [error](errors.md), the message its text. A message larger than",
        "`http.max_body_bytes` is `RESOURCE_EXHAUSTED`, which is gRPC's own word for it, and so are metadata beyond",
        "`http.max_header_bytes`. Messages may come compressed by `gzip` or `deflate`; answers are not.",
        "",
        *table(("trailing metadata", "meaning"), _METADATA),
    ]
    return page("gRPC services", lines)
