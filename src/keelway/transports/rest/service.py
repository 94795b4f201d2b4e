"""Everything over REST that is no inference, on Starlette: health, metadata, the repository, metrics and documentation.

Thin: each handler asks the fleet or the snapshot and writes down the answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import orjson
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from keelway import __version__
from keelway.contract.semver import by_precedence
from keelway.dataplane import DataPlane
from keelway.errors import Cancelled, KeelwayError, PayloadTooLarge, PermissionDenied
from keelway.guard.scopes import Done, check_seen, demand
from keelway.hosting.fleet import Fleet
from keelway.observe.metrics import ServingMetrics
from keelway.routing.snapshot import ServedModel, ServedVersion
from keelway.transports.rest.docs_page import docs_page
from keelway.transports.rest.door import peer_of
from keelway.transports.rest.errors import HttpRefusal, error_body_of, error_reply
from keelway.transports.rest.openapi import openapi_document
from keelway.transports.rest.openapi_security import secured
from keelway.types import Principal, TensorSpec

#: Largest body of a route that is no inference, in bytes: a few options at most.
_LARGEST_BODY = 64 * 1024


#: Collects the metrics of several workers. Raises ``Unavailable`` if that cannot be done in time.
Scrape = Callable[[], Awaitable[CollectorRegistry]]


def json_response(document: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(document), status, media_type="application/json")


class Service:
    """``ready`` says whether the server is: its models are there and it has not been told to stop. ``scrape`` collects
    the metrics of several workers; without it those are shown that are given. ``methods`` are those by which
    callers prove who they are; ``audit`` is told what was done to models, and by whom."""

    def __init__(
        self,
        plane: DataPlane,
        fleet: Fleet,
        metrics: ServingMetrics,
        *,
        allow_model_control: bool,
        ready: Callable[[], bool],
        scrape: Scrape | None = None,
        methods: Sequence[str] = (),
        audit: Done = lambda action, principal, peer, target: None,
    ) -> None:
        self._plane = plane
        self._secured = methods
        self._audit = audit
        self._scrape = scrape
        self._fleet = fleet
        self._metrics = metrics
        self._allow_model_control = allow_model_control
        self._ready = ready
        self._was_ready = False
        self.application = Starlette(routes=self._routes(), exception_handlers=_HANDLERS)

    def _routes(self) -> list[Route]:
        return [
            Route("/", self.root),
            Route("/docs", self.docs),
            Route("/openapi.json", self.openapi),
            Route("/metrics", self.metrics),
            Route("/health/live", self.live),
            Route("/health/ready", self.ready),
            Route("/health/startup", self.startup),
            Route("/ping", self.ready),
            Route("/v1/models", self.models),
            Route("/v1/models/{model}", self.model_status),
            Route("/v2", self.server_metadata),
            Route("/v2/health/live", self.live),
            Route("/v2/health/ready", self.ready),
            Route("/v2/models/{model}", self.model_metadata),
            Route("/v2/models/{model}/ready", self.model_ready),
            Route("/v2/models/{model}/versions/{version}", self.model_metadata),
            Route("/v2/models/{model}/versions/{version}/ready", self.model_ready),
            Route("/v2/repository/index", self.index, methods=["POST"]),
            Route("/v2/repository/models/{model}/load", self.load, methods=["POST"]),
            Route("/v2/repository/models/{model}/unload", self.unload, methods=["POST"]),
        ]

    # Health

    async def live(self, request: Request) -> Response:
        return json_response({"live": True})

    async def ready(self, request: Request) -> Response:
        ready = self._ready()
        self._was_ready = self._was_ready or ready
        # A registry that is away is no reason to answer nobody: it is said, and what is loaded is served.
        return json_response({"ready": ready, "stale": self._fleet.stale}, 200 if ready else 503)

    async def startup(self, request: Request) -> Response:
        """Whether the server has ever been ready: a drain does not undo a start."""
        self._was_ready = self._was_ready or self._fleet.ready
        return json_response({"started": self._was_ready}, 200 if self._was_ready else 503)

    # Metadata

    async def server_metadata(self, request: Request) -> Response:
        extensions = ["binary_tensor_data", "model_repository"]
        return json_response({"name": "keelway", "version": __version__, "extensions": extensions})

    async def model_metadata(self, request: Request) -> Response:
        model, version = self._find(request)
        signature = version.signature
        return json_response(
            {
                "name": model.name,
                "versions": [version.version] if "version" in request.path_params else by_precedence(model.versions),
                "platform": version.platform,
                "inputs": [tensor_document(spec) for spec in signature.inputs],
                "outputs": [tensor_document(spec) for spec in signature.outputs],
                "parameters": {"model_digest": version.model_digest, "policy_revision": version.policy_revision},
            }
        )

    async def model_ready(self, request: Request) -> Response:
        self._find(request)
        return json_response({"ready": True})

    async def models(self, request: Request) -> Response:
        """The models served, with their versions and features, for people."""
        return json_response({"models": [model_document(model) for model in self._seen(request)]})

    async def model_status(self, request: Request) -> Response:
        """TensorFlow Serving's model status and KServe V1's readiness in one document."""
        model, _ = self._find(request)
        states = [
            {"version": version, "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
            for version in model.versions
        ]
        return json_response({**model_document(model), "ready": True, "model_version_status": states})

    # Repository

    async def index(self, request: Request) -> Response:
        only_ready = (await _json_object(request)).get("ready") is True
        sees = _principal(request).sees
        entries = [entry._asdict() for entry in self._fleet.index() if sees(entry.name)]
        return json_response([entry for entry in entries if entry["state"] == "READY" or not only_ready])

    async def load(self, request: Request) -> Response:
        await self._controlled(request, "load")
        await self._fleet.load(request.path_params["model"])
        self._done(request, "load")
        return json_response({})

    async def unload(self, request: Request) -> Response:
        await self._controlled(request, "unload")
        await self._fleet.unload(request.path_params["model"])
        self._done(request, "unload")
        return json_response({})

    def _done(self, request: Request, action: str) -> None:
        self._audit(action, _principal(request), peer_of(request.scope), request.path_params["model"])

    def _demand(self, request: Request, scope: str, action: str, target: str = "") -> None:
        """``PermissionDenied`` unless the caller has ``scope``."""
        demand(scope, self._plane.denied, _principal(request), peer_of(request.scope), action, target)

    async def _controlled(self, request: Request, action: str) -> None:
        self._demand(request, "admin", action, request.path_params["model"])
        await _json_object(request)
        if not self._allow_model_control:
            raise PermissionDenied(
                "loading and unloading over the network is switched off; start with --allow-model-control"
            )

    # Metrics and documentation

    async def metrics(self, request: Request) -> Response:
        self._demand(request, "metrics", "metrics")
        registry = await self._scrape() if self._scrape else self._metrics.registry
        if "application/openmetrics-text" in request.headers.get("accept", ""):
            content = openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]
            return Response(content, headers={"content-type": openmetrics.CONTENT_TYPE_LATEST})
        return Response(generate_latest(registry), headers={"content-type": CONTENT_TYPE_PLAIN_0_0_4})

    async def openapi(self, request: Request) -> Response:
        return json_response(secured(openapi_document(self._seen(request)), self._secured))

    async def docs(self, request: Request) -> Response:
        return docs_page(request)

    async def root(self, request: Request) -> Response:
        return RedirectResponse("/docs")

    def _seen(self, request: Request) -> list[ServedModel]:
        """The models that the caller may know of."""
        sees = _principal(request).sees
        return [model for model in self._plane.snapshot.models.values() if sees(model.name)]

    def _find(self, request: Request) -> tuple[ServedModel, ServedVersion]:
        name = request.path_params["model"]
        check_seen(_principal(request), name)
        snapshot = self._plane.snapshot
        return snapshot.model(name), snapshot.resolve(name, request.path_params.get("version"))


def _principal(request: Request) -> Principal:
    """Who asks; the door has found out."""
    principal: Principal = request.scope["principal"]
    return principal


def tensor_document(spec: TensorSpec) -> dict[str, Any]:
    """A tensor as the Open Inference Protocol describes it; a packed one names its columns in its parameters."""
    document: dict[str, Any] = {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}
    if spec.columns:
        document["parameters"] = {"columns": list(spec.columns)}
    return document


def model_document(model: ServedModel) -> dict[str, Any]:
    """A model as people read it."""
    default = model.versions[model.default]
    return {
        "name": model.name,
        "version": model.default,
        "versions": by_precedence(model.versions),
        "aliases": dict(model.aliases),
        "model_digest": default.model_digest,
        "batching": default.metadata.get("batching"),
        "features": [
            {"name": feature.name, "datatype": feature.datatype, "nullable": feature.nullable}
            for feature in default.signature.features
        ],
    }


async def _json_object(request: Request) -> dict[str, Any]:
    """The body as an object; an empty body is an empty object. Other media types are refused: a page of another site
    can send those without asking. Bytes it cannot, and NVIDIA's asynchronous client calls its JSON so."""
    media_type = request.headers.get("content-type", "")
    if media_type and not media_type.startswith(("application/json", "application/octet-stream")):
        raise HttpRefusal(415, "the content type must be application/json")
    body = await _body(request)
    try:
        document = orjson.loads(body) if body else {}
    except orjson.JSONDecodeError:
        raise HttpRefusal(400, "the body is not valid JSON") from None
    if not isinstance(document, dict):
        raise HttpRefusal(400, "the body must be an object")
    return document


async def _body(request: Request) -> bytes:
    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > _LARGEST_BODY:
                raise PayloadTooLarge(f"the body is larger than {_LARGEST_BODY} bytes")
    except ClientDisconnect:
        raise Cancelled("the caller left before the body was whole") from None
    return bytes(body)


async def _error_response(request: Request, error: Exception) -> Response:
    """Every error of a route, in the form its family promises; an unknown one without a word of its text.

    Waits for nothing, and is a coroutine all the same: a plain function would get a worker thread for each error."""
    if not isinstance(error, KeelwayError | HttpRefusal):
        status = getattr(error, "status_code", 500)
        words = {404: "there is no such route", 405: "this route does not take that method"}
        headers = tuple((k.lower().encode(), v.encode()) for k, v in (getattr(error, "headers", None) or {}).items())
        error = HttpRefusal(status, words.get(status, "internal error"), headers)
    status, headers_list, body = error_reply(error, error_body_of(request.url.path), request.scope["request_id"])
    response = Response(body, status)
    response.raw_headers[:] = headers_list
    return response


_HANDLERS: Mapping[Any, Any] = {
    KeelwayError: _error_response,
    HttpRefusal: _error_response,
    404: _error_response,
    405: _error_response,
    Exception: _error_response,
}
