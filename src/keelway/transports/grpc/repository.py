"""The calls of the Open Inference Protocol that infer nothing: health, metadata and the model repository."""

from __future__ import annotations

from collections.abc import Callable

import orjson

from keelway import __version__
from keelway.contract.semver import by_precedence
from keelway.dataplane import DataPlane
from keelway.errors import NotFound, PermissionDenied, Unavailable
from keelway.guard.scopes import Done, check_seen, demand
from keelway.hosting.fleet import Fleet
from keelway.transports.grpc.calls import Answer, Caller, message_call
from keelway.types import Peer, Principal, TensorSpec
from keelway.wire import open_inference_pb2 as wire

_SERVICE = "/inference.GRPCInferenceService/"


class Repository:
    """Thin: each call asks the fleet or the snapshot. ``ready`` says whether the server is, drains included."""

    def __init__(
        self,
        plane: DataPlane,
        fleet: Fleet,
        ready: Callable[[], bool],
        *,
        allow_model_control: bool,
        audit: Done,
    ) -> None:
        self._audit = audit
        self._plane = plane
        self._fleet = fleet
        self._ready = ready
        self._allow_model_control = allow_model_control

    def calls(self) -> dict[str, Answer]:
        """Path of the method -> its answer."""
        return {
            _SERVICE + "ServerLive": message_call(wire.ServerLiveRequest, self.server_live),
            _SERVICE + "ServerReady": message_call(wire.ServerReadyRequest, self.server_ready),
            _SERVICE + "ModelReady": message_call(wire.ModelReadyRequest, self.model_ready),
            _SERVICE + "ServerMetadata": message_call(wire.ServerMetadataRequest, self.server_metadata),
            _SERVICE + "ModelMetadata": message_call(wire.ModelMetadataRequest, self.model_metadata),
            _SERVICE + "RepositoryIndex": message_call(wire.RepositoryIndexRequest, self.index),
            _SERVICE + "RepositoryModelLoad": message_call(wire.RepositoryModelLoadRequest, self.load),
            _SERVICE + "RepositoryModelUnload": message_call(wire.RepositoryModelUnloadRequest, self.unload),
        }

    async def server_live(self, request: wire.ServerLiveRequest, caller: Caller) -> wire.ServerLiveResponse:
        return wire.ServerLiveResponse(live=True)

    async def server_ready(self, request: wire.ServerReadyRequest, caller: Caller) -> wire.ServerReadyResponse:
        return wire.ServerReadyResponse(ready=self._ready())

    async def model_ready(self, request: wire.ModelReadyRequest, caller: Caller) -> wire.ModelReadyResponse:
        if not caller.principal.sees(request.name):
            return wire.ModelReadyResponse(ready=False)
        try:
            self._plane.snapshot.resolve(request.name, request.version or None)
        except (NotFound, Unavailable):
            return wire.ModelReadyResponse(ready=False)
        return wire.ModelReadyResponse(ready=True)

    async def server_metadata(self, request: wire.ServerMetadataRequest, caller: Caller) -> wire.ServerMetadataResponse:
        return wire.ServerMetadataResponse(name="keelway", version=__version__, extensions=["model_repository"])

    async def model_metadata(self, request: wire.ModelMetadataRequest, caller: Caller) -> wire.ModelMetadataResponse:
        check_seen(caller.principal, request.name)
        snapshot = self._plane.snapshot
        model, version = snapshot.model(request.name), snapshot.resolve(request.name, request.version or None)
        return wire.ModelMetadataResponse(
            name=model.name,
            versions=[version.version] if request.version else by_precedence(model.versions),
            platform=version.platform,
            inputs=map(_tensor, version.signature.inputs),
            outputs=map(_tensor, version.signature.outputs),
            parameters={
                "model_digest": wire.InferParameter(string_param=version.model_digest),
                "policy_revision": wire.InferParameter(int64_param=version.policy_revision),
            },
        )

    async def index(self, request: wire.RepositoryIndexRequest, caller: Caller) -> wire.RepositoryIndexResponse:
        seen = [entry for entry in self._fleet.index() if caller.principal.sees(entry.name)]
        entries = [entry for entry in seen if entry.state == "READY" or not request.ready]
        return wire.RepositoryIndexResponse(
            models=[wire.RepositoryIndexResponse.ModelIndex(**entry._asdict()) for entry in entries]
        )

    async def load(self, request: wire.RepositoryModelLoadRequest, caller: Caller) -> wire.RepositoryModelLoadResponse:
        name = self._controlled(request, caller, "load")
        await self._fleet.load(name)
        self._audit("load", caller.principal, caller.peer, name)
        return wire.RepositoryModelLoadResponse(model_name=name, is_loaded=True)

    async def unload(
        self, request: wire.RepositoryModelUnloadRequest, caller: Caller
    ) -> wire.RepositoryModelUnloadResponse:
        name = self._controlled(request, caller, "unload")
        await self._fleet.unload(name)
        self._audit("unload", caller.principal, caller.peer, name)
        return wire.RepositoryModelUnloadResponse(model_name=name, is_unloaded=True)

    def _controlled(
        self, request: wire.RepositoryModelLoadRequest | wire.RepositoryModelUnloadRequest, caller: Caller, action: str
    ) -> str:
        """The model named, in either of the fields that clients put it into."""
        name: str = request.model_name or request.repository_name
        demand("admin", self._plane.denied, caller.principal, caller.peer, action, name)
        if not self._allow_model_control:
            raise PermissionDenied(
                "loading and unloading over the network is switched off; start with --allow-model-control"
            )
        return name


def nobody_is_told(action: str, principal: Principal, peer: Peer, model: str) -> None:
    """As long as nobody takes note."""


def _tensor(spec: TensorSpec) -> wire.ModelMetadataResponse.TensorMetadata:
    """A tensor's description; a packed one names its columns in its parameters, as a JSON list."""
    metadata = wire.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype, shape=spec.shape)
    if spec.columns:
        metadata.parameters["columns"].string_param = orjson.dumps(spec.columns).decode()
    return metadata
