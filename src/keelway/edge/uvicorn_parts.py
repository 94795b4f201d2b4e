"""All that this package takes of uvicorn: nothing else imports it. A server, and what answers HTTP/1.1 below ASGI.

``Config`` and ``Server`` are what uvicorn offers to everybody. The rest is its inside, which may change with any
release: ``RELIED_ON`` names every part of it that is used, overridden or imitated, and ``missing`` says which of them a
version no longer has. ``tests/edge/test_uvicorn.py`` asks the pinned version, and the newest.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator, Mapping
from typing import Any, Final

from uvicorn import Config, Server
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

__all__ = ["RELIED_ON", "Config", "FlowControl", "HttpToolsProtocol", "RequestResponseCycle", "Server", "ServerState"]

#: By part: attributes that are read or written from outside or by a subclass, and methods that are called or overridden
#: by a subclass.
RELIED_ON: Final[Mapping[str, tuple[str, ...]]] = {
    # ``edge/server.py``: the order of start and end, and what stands where it keeps the servers of asyncio.
    "Server": (
        *("capture_signals", "config", "force_exit", "serve", "server_state", "should_exit", "shutdown", "started"),
        *("startup",),
    ),
    "ServerState": ("connections", "default_headers", "tasks", "total_requests"),
    "Config": ("http_protocol_class", "loaded_app"),
    # ``edge/protocol.py`` and ``edge/fast_lane.py``: one connection, which keeps what it is told by the parser.
    "HttpToolsProtocol": (
        *("_start_asgi_task", "_unset_keepalive_if_required", "app_state", "connection_lost", "connection_made"),
        *("connections", "cycle", "data_received", "expect_100_continue", "flow", "headers", "logger", "on_body"),
        *("on_headers_complete", "on_message_begin", "on_message_complete", "on_response_complete", "parser"),
        *("pipeline", "send_400_response", "server_state", "shutdown", "tasks", "timeout_keep_alive_task"),
        *("transport", "url"),
    ),
    # What an answer under way is asked, and told; ``fast_lane._LaneCycle`` stands in for it.
    "RequestResponseCycle": (
        *("disconnected", "keep_alive", "message_event", "response_complete", "response_started", "transport"),
    ),
    "FlowControl": ("pause_reading", "read_paused", "resume_reading", "write_paused"),
}


def missing() -> list[str]:
    """What of ``RELIED_ON`` the version that is installed does not have. Called on a running loop."""
    return [
        f"{name}.{attribute}" for name, part in _made() for attribute in RELIED_ON[name] if not hasattr(part, attribute)
    ]


def _made() -> Iterator[tuple[str, Any]]:
    """One of each part: most attributes are there once it is made."""
    config = Config(_nobody, http=HttpToolsProtocol, ws="none", lifespan="off", log_config=None)
    config.load()
    server = Server(config)
    yield "Config", config
    yield "Server", server
    yield "ServerState", server.server_state
    connection = HttpToolsProtocol(config, server.server_state, {}, asyncio.get_running_loop())
    connection.on_message_begin()
    yield "HttpToolsProtocol", connection
    yield "FlowControl", FlowControl(asyncio.Transport())
    cycle: Any = RequestResponseCycle
    yield "RequestResponseCycle", cycle(**dict.fromkeys(inspect.signature(cycle).parameters))


async def _nobody(scope: Any, receive: Any, send: Any) -> None:
    """An application that is never asked."""
