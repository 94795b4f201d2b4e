"""Server reflection: what services there are and the descriptors of their messages, from the generated modules."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from keelway.wire import POOL, reflection_pb2

PATHS = (
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)

_NOT_FOUND = 5
_UNIMPLEMENTED = 12


class Reflection:
    """``services`` are the full names of all services of the server."""

    def __init__(self, services: Collection[str]) -> None:
        self._services = sorted(services)

    def answer(self, request: reflection_pb2.ServerReflectionRequest) -> reflection_pb2.ServerReflectionResponse:
        """What one message of the stream asks for; what there is not is an answer too, not the end of the stream."""
        response = reflection_pb2.ServerReflectionResponse(valid_host=request.host, original_request=request)
        try:
            match request.WhichOneof("message_request"):
                case "list_services":
                    services = response.list_services_response.service
                    services.extend(reflection_pb2.ServiceResponse(name=name) for name in self._services)
                case "file_by_filename":
                    _describe(response, POOL.FindFileByName(request.file_by_filename))
                case "file_containing_symbol":
                    _describe(response, _file_of(request.file_containing_symbol))
                case "file_containing_extension" | "all_extension_numbers_of_type":
                    _refuse(response, _NOT_FOUND, "there are no extensions")
                case _:
                    _refuse(response, _UNIMPLEMENTED, "this server does not know that question")
        except KeyError:
            _refuse(response, _NOT_FOUND, "there is no such name")
        return response


def _file_of(symbol: str) -> Any:
    """The file that has ``symbol``; the pool's own search knows no methods. ``KeyError`` if there is none."""
    try:
        return POOL.FindFileContainingSymbol(symbol)
    except KeyError:
        return POOL.FindMethodByName(symbol).containing_service.file


def _describe(response: reflection_pb2.ServerReflectionResponse, file: Any) -> None:
    """Add ``file``; keelway's own import no other file."""
    response.file_descriptor_response.file_descriptor_proto.append(file.serialized_pb)


def _refuse(response: reflection_pb2.ServerReflectionResponse, code: int, message: str) -> None:
    response.error_response.error_code = code
    response.error_response.error_message = message
