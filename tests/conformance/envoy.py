"""Envoy in front of a server, as a service mesh would have it: one port for both transports, HTTP/1.1 behind it for
REST and HTTP/2 for gRPC."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.conformance.clients import Addresses
from tests.conformance.environments import envoy_command
from tests.wire import PATIENCE, ask

_MANAGER = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
_PROTOCOL = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


@contextmanager
def envoy(server: Addresses) -> Iterator[Addresses]:
    """The addresses of an Envoy that passes everything on to ``server``."""
    with TemporaryDirectory(prefix="keelway-envoy-") as name:
        folder = Path(name)
        (folder / "envoy.json").write_text(json.dumps(configuration(server)))
        command = [str(envoy_command()), "-c", "envoy.json", "--admin-address-path", "admin", "--concurrency", "1"]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [*command, "--disable-hot-restart", "--log-level", "warning"], cwd=folder, stdout=log, stderr=log
            )
        try:
            address = _listening(process, folder)
            yield Addresses(f"http://{address}", address)
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE)
            finally:
                process.kill()
                process.wait()


def _listening(process: subprocess.Popen[bytes], folder: Path) -> str:
    """Where it listens, once it does: it took a free port, and its administration knows which."""
    admin, end = folder / "admin", time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        if admin.is_file() and (where := admin.read_text()):
            listeners = ask(f"http://{where}/listeners?format=json", "GET").json.get("listener_statuses", [])
            if listeners and ask(f"http://{where}/ready", "GET").status == 200:
                socket = listeners[0]["local_address"]["socket_address"]
                return f"{socket['address']}:{socket['port_value']}"
        time.sleep(0.02)
    raise AssertionError((folder / "log").read_text())


def configuration(server: Addresses) -> Mapping[str, Any]:
    """Envoy's own time limits are off: those of the callers and of the server are what is tested."""
    routes = [
        {"match": {"prefix": "/", "grpc": {}}, "route": {"cluster": "grpc", "timeout": "0s"}},
        {"match": {"prefix": "/"}, "route": {"cluster": "rest", "timeout": "0s"}},
    ]
    manager = {
        "@type": _MANAGER,
        "stat_prefix": "front",
        "codec_type": "AUTO",
        "route_config": {"virtual_hosts": [{"name": "server", "domains": ["*"], "routes": routes}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": _ROUTER}}],
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    listener = {"name": "front", "address": _address("127.0.0.1:0"), "filter_chains": [{"filters": filters}]}
    clusters = [
        _cluster("rest", server.http.removeprefix("http://"), "http_protocol_options"),
        _cluster("grpc", server.grpc, "http2_protocol_options"),
    ]
    return {
        "admin": {"address": _address("127.0.0.1:0")},
        "static_resources": {"listeners": [listener], "clusters": clusters},
    }


def _address(text: str) -> Mapping[str, Any]:
    host, _, port = text.rpartition(":")
    return {"socket_address": {"address": host, "port_value": int(port)}}


def _cluster(name: str, address: str, protocol: str) -> Mapping[str, Any]:
    endpoint = {"endpoint": {"address": _address(address)}}
    options = {"@type": _PROTOCOL, "explicit_http_config": {protocol: {}}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
        # More at once than its default of 1,024 would be turned away by Envoy itself.
        "circuit_breakers": {"thresholds": [{"max_requests": 100_000, "max_pending_requests": 100_000}]},
    }
