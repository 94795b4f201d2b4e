"""Calling a keelway server from Python: ``Client`` and ``AsyncClient``, over REST or gRPC by the address.

Nothing of the server comes along; the extra ``keelway[client]`` brings what is needed.
"""

from keelway.client.clients import AsyncClient, Client
from keelway.client.results import Inference, ModelMetadata, Predictions, RowError, ServerMetadata

__all__ = [
    "AsyncClient",
    "Client",
    "Inference",
    "ModelMetadata",
    "Predictions",
    "RowError",
    "ServerMetadata",
]
