"""Who is measured: each server's command, its environment, its wire format and its settings, as one table for each
section of the page. Pure data; ``served`` runs it.

``settings`` is printed in the page's method. The words ``{python}``, ``{keelway}``, ``{http}``, ``{grpc}`` and
``{metrics}`` of a command are filled in when it runs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from benchmarks import bodies
from benchmarks.bodies import Format

V2_PATH = "/v2/models/forest/infer"
GRPC_PATH = "/inference.GRPCInferenceService/ModelInfer"
KEELWAY = "keelway"
BINARY = "keelway, binary tensors"
#: The floors that are nothing but the bytes of their protocol and the inference.
PROTOCOL, HTTP2 = "asyncio protocol, bare", "HTTP/2 frames, bare"


class Counter(NamedTuple):
    """The server's own count of its successes: a metric, labels it has to carry, and the port it is read from."""

    metric: str
    labels: frozenset[tuple[str, str]]
    port: str


class Scenario(NamedTuple):
    rows: int
    connections: int

    @property
    def name(self) -> str:
        rows = "one row" if self.rows == 1 else f"{self.rows} rows"
        return f"{rows}, {self.connections} connection{'s' if self.connections > 1 else ''}"


@dataclass(frozen=True)
class Server:
    """``peer`` names the environment, empty for the project's own; ``packages`` are those whose versions are printed.
    ``required`` servers have to start; another that does not is named in the page, with the reason. ``says`` is a
    header and its value, which every reply to a body but the first has to carry."""

    name: str
    command: tuple[str, ...]
    format: Format
    path: str = V2_PATH
    peer: str = ""
    packages: tuple[str, ...] = ()
    settings: str = ""
    counter: Counter | None = None
    most_rows: int = 1_000_000
    needs_library_path: bool = False
    environment: tuple[tuple[str, str], ...] = ()
    says: tuple[str, str] | None = None

    @property
    def required(self) -> bool:
        return not self.peer

    @property
    def is_grpc(self) -> bool:
        return self.path == GRPC_PATH


@dataclass(frozen=True)
class Lineup:
    """The servers of one section, in the order of its tables, and what they are asked."""

    servers: tuple[Server, ...]
    scenarios: tuple[Scenario, ...]
    model: str = "forest"
    names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(server.name for server in self.servers))


def module(name: str, *words: str) -> tuple[str, ...]:
    return ("{python}", "-m", f"benchmarks.servers.{name}", *words)


SERVE = ("{keelway}", "serve", "forest", "--http", "127.0.0.1:{http}")
_SERVE_BOTH = (*SERVE, "--grpc", "127.0.0.1:{grpc}")
MLSERVER = module("mlserver_runtime", "{http}", "{grpc}", "{metrics}")
_KSERVE = module("kserve_app", "{http}", "{grpc}")
BENTOML = ("{python}", "-m", "bentoml", "serve", "benchmarks.servers.bentoml_app:Forest")
_TRITON = module("triton_app", "{http}", "{grpc}", "{metrics}")
OWN = ("keelway", "onnxruntime", "uvicorn", "uvloop", "httptools", "hpack")
_BARE = ("uvicorn", "uvloop", "httptools", "msgspec", "orjson", "onnxruntime")
_BARE_GRPC = ("grpcio", "protobuf", "onnxruntime")
_ON_MLSERVER = ("mlserver", "fastapi", "uvicorn", "uvloop", "httptools", "grpcio", "onnxruntime")
_ON_KSERVE = ("kserve", "fastapi", "uvicorn", "uvloop", "httptools", "grpcio", "onnxruntime")

KEELWAY_SETTINGS = (
    "`keelway serve` with every default: validation, metrics, JSON logs and inference records on, no file of records"
)
_MLSERVER_SETTINGS = (
    "a custom runtime around ONNX Runtime, `parallel_workers` 0 (inference in the server's own process), not in debug "
    "mode, httptools installed beside it; metrics at their default, on"
)
_KSERVE_SETTINGS = (
    "a custom `Model`, one worker, `enable_latency_logging` off, the loggers `kserve.trace` and `uvicorn.access` at "
    "WARNING (otherwise three lines a request)"
)
_TRITON_SETTINGS = (
    "started by pytriton, whose wheel has the Python backend alone; `max_batch_size` 64 with the default batcher, "
    "which does not wait; logs at their default"
)


def _succeeded(metric: str, port: str, **labels: str) -> Counter:
    return Counter(metric, frozenset(labels.items()), port)


_TRITON_COUNTER = _succeeded("nv_inference_request_success", "metrics", model="forest")
_MLSERVER_COUNTER = _succeeded("model_infer_request_success_total", "metrics", model="forest")
_KSERVE_COUNTER = _succeeded("request_predict_seconds_count", "http", model_name="forest")


REST = Lineup(
    servers=(
        Server(
            "uvicorn, constant answer",
            module("asgi", "{http}", "echo"),
            bodies.V2_CONSTANT,
            packages=_BARE,
            settings="raw ASGI that reads the body and answers the same bytes always; no model, access log off",
            most_rows=1,
        ),
        Server(
            "uvicorn, raw ASGI",
            module("asgi", "{http}"),
            bodies.V2,
            packages=_BARE,
            settings="msgspec, the same inference, orjson; nothing is checked, counted or logged",
        ),
        Server(
            PROTOCOL,
            module("bare_protocol", "{http}"),
            bodies.V2,
            packages=("uvloop", "httptools", "msgspec", "orjson", "onnxruntime"),
            settings="an `asyncio.Protocol` that answers out of the parser's callback; otherwise as above",
        ),
        Server(
            KEELWAY,
            SERVE,
            bodies.V2,
            packages=OWN,
            settings=KEELWAY_SETTINGS,
            counter=_succeeded("ml_requests_total", "http", model="forest", code="OK", transport="rest_v2"),
        ),
        Server(
            BINARY,
            SERVE,
            bodies.V2_BINARY,
            packages=OWN,
            settings="the same server, asked in the binary extension of V2 and answering in it",
            counter=_succeeded("ml_requests_total", "http", model="forest", code="OK", transport="rest_v2"),
        ),
        Server(
            "FastAPI",
            module("fastapi_app", "{http}"),
            bodies.INSTANCES,
            "/predict",
            peer="fastapi",
            packages=("fastapi", "pydantic", "uvicorn", "uvloop", "httptools", "onnxruntime"),
            settings="pydantic in and out, an `async` route, uvicorn with uvloop and httptools, access log off",
        ),
        Server(
            "mosec",
            (*module("mosec_app"), "--address", "127.0.0.1", "--port", "{http}"),
            bodies.INSTANCES,
            "/inference",
            peer="mosec",
            packages=("mosec", "onnxruntime"),
            settings="one worker, no batching; logs and metrics at their default",
        ),
        Server(
            "MLServer",
            MLSERVER,
            bodies.V2,
            peer="mlserver",
            packages=_ON_MLSERVER,
            settings=_MLSERVER_SETTINGS,
            counter=_MLSERVER_COUNTER,
        ),
        Server(
            "KServe",
            _KSERVE,
            bodies.V2,
            peer="kserve",
            packages=_ON_KSERVE,
            settings=_KSERVE_SETTINGS,
            counter=_KSERVE_COUNTER,
        ),
        Server(
            "Triton (pytriton)",
            _TRITON,
            bodies.V2,
            peer="pytriton",
            packages=("nvidia-pytriton", "numpy", "onnxruntime"),
            settings=_TRITON_SETTINGS,
            counter=_TRITON_COUNTER,
            needs_library_path=True,
        ),
        Server(
            "LitServe",
            module("litserve_app", "{http}"),
            bodies.INSTANCES,
            "/predict",
            peer="litserve",
            packages=("litserve", "fastapi", "uvicorn", "uvloop", "httptools", "onnxruntime"),
            settings="one worker, one API server, no batching, `log_level` warning",
        ),
        Server(
            "BentoML",
            (*BENTOML, "--host", "127.0.0.1", "--port", "{http}"),
            bodies.ARRAY,
            "/predict",
            peer="bentoml",
            packages=("bentoml", "uvicorn", "onnxruntime"),
            settings="one worker, an `async` method, no batching, metrics and access log off",
        ),
    ),
    scenarios=(Scenario(1, 1), Scenario(1, 16), Scenario(1, 64), Scenario(32, 16)),
)

GRPC = Lineup(
    servers=(
        Server(
            "grpc.aio, constant answer",
            module("bare_grpc", "{grpc}", "echo"),
            bodies.GRPC_CONSTANT,
            GRPC_PATH,
            packages=_BARE_GRPC,
            settings="answers the same bytes always and parses nothing; no model",
            most_rows=1,
        ),
        Server(
            "grpc.aio, bare",
            module("bare_grpc", "{grpc}", "aio"),
            bodies.GRPC,
            GRPC_PATH,
            packages=_BARE_GRPC,
            settings="the same inference on grpcio's asyncio server with its default event loop; nothing is checked, "
            "counted or logged",
        ),
        Server(
            "grpcio, 8 threads, bare",
            module("bare_grpc", "{grpc}", "threads"),
            bodies.GRPC,
            GRPC_PATH,
            packages=_BARE_GRPC,
            settings="the same on grpcio's synchronous server with a pool of eight threads",
        ),
        Server(
            HTTP2,
            module("bare_http2", "{grpc}"),
            bodies.GRPC,
            GRPC_PATH,
            packages=("uvloop", "hpack", "protobuf", "onnxruntime"),
            settings="the same on an `asyncio.Protocol` with uvloop that knows the frames of one unary method alone",
        ),
        Server(
            KEELWAY,
            _SERVE_BOTH,
            bodies.GRPC,
            GRPC_PATH,
            packages=OWN,
            settings=KEELWAY_SETTINGS,
            counter=_succeeded("ml_requests_total", "http", model="forest", code="OK", transport="grpc_v2"),
        ),
        Server(
            "Triton (pytriton)",
            _TRITON,
            bodies.GRPC,
            GRPC_PATH,
            peer="pytriton",
            packages=("nvidia-pytriton", "numpy", "onnxruntime"),
            settings=_TRITON_SETTINGS,
            counter=_TRITON_COUNTER,
            needs_library_path=True,
        ),
        Server(
            "KServe",
            _KSERVE,
            bodies.GRPC,
            GRPC_PATH,
            peer="kserve",
            packages=_ON_KSERVE,
            settings=_KSERVE_SETTINGS,
            counter=_KSERVE_COUNTER,
        ),
        Server(
            "MLServer",
            MLSERVER,
            bodies.GRPC,
            GRPC_PATH,
            peer="mlserver",
            packages=_ON_MLSERVER,
            settings=_MLSERVER_SETTINGS,
            counter=_MLSERVER_COUNTER,
        ),
    ),
    scenarios=(Scenario(1, 1), Scenario(1, 16), Scenario(1, 64), Scenario(32, 16)),
)

LEADS = Lineup(
    servers=(
        Server(
            KEELWAY,
            ("{keelway}", "serve", "leads", "--http", "127.0.0.1:{http}"),
            bodies.NAMED_KEELWAY,
            "/v1/models/leads/predict",
            packages=OWN,
            settings="the pipeline as `keelway push` converted it; rows of named values on the people's route",
        ),
        Server(
            "FastAPI and scikit-learn",
            module("fastapi_sklearn", "{http}"),
            bodies.NAMED,
            "/predict",
            peer="fastapi",
            packages=("fastapi", "pydantic", "uvicorn", "scikit-learn", "pandas"),
            settings="the pipeline itself on a data frame of the same rows; a plain route, run in FastAPI's threads",
        ),
        Server(
            "MLServer and scikit-learn",
            (*MLSERVER, "sklearn"),
            bodies.V2_COLUMNS,
            "/v2/models/leads/infer",
            peer="mlserver",
            packages=("mlserver", "mlserver-sklearn", "scikit-learn", "pandas"),
            settings="its own scikit-learn runtime, `predict_proba`, one V2 input a column; otherwise as above",
        ),
    ),
    scenarios=(Scenario(1, 1), Scenario(1, 16)),
    model="leads",
)

#: How long an answer from memory takes, beside the least that a server of HTTP can take.
CACHED = Lineup(
    servers=(
        Server(
            "uvicorn, constant answer",
            module("asgi", "{http}", "echo"),
            bodies.V2_CONSTANT,
            packages=_BARE,
            settings="raw ASGI that reads the body and answers the same bytes always; no model, access log off",
        ),
        Server(
            KEELWAY,
            SERVE,
            bodies.V2,
            packages=OWN,
            settings="`cache.enabled`, otherwise every default; one body, so that all but its first "
            "answer are found in memory",
            environment=(("KEELWAY_CACHE_ENABLED", "true"),),
            says=("cache-status", "keelway; hit"),
        ),
        Server(
            "keelway without a cache",
            SERVE,
            bodies.V2,
            packages=OWN,
            settings=KEELWAY_SETTINGS,
        ),
    ),
    scenarios=(Scenario(1, 1), Scenario(1, 16)),
)
