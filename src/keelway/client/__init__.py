"""What callers import to call a server: ``Client``, and ``AsyncClient`` for asyncio, over REST or gRPC by the address.

Nothing of the server comes along: no engine, no web framework, no database. Needs the extra ``client``. Errors are
those of ``keelway.errors``.
"""

from keelway.client.asynchronous import AsyncClient
from keelway.client.options import ClientOptions
from keelway.client.results import Inference, ModelMetadata, Predictions, ServerMetadata
from keelway.client.synchronous import Client

__all__ = [
    "AsyncClient",
    "Client",
    "ClientOptions",
    "Inference",
    "ModelMetadata",
    "Predictions",
    "ServerMetadata",
]
