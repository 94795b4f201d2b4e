"""What a principal may do with a model, and what it hears if it may not."""

from __future__ import annotations

from keelway.errors import KeelwayError, NotFound, PermissionDenied
from keelway.types import Peer, Principal


def forbidden(principal: Principal, peer: Peer, action: str, model: str) -> KeelwayError:
    """Why ``principal``, by a connection from ``peer``, may not do ``action`` with ``model``, whether there is one or
    not: without any scope for it, a forbidden model looks like an unknown one."""
    if principal.sees(model):
        return PermissionDenied("these credentials do not allow that with this model")
    return unknown()


def check_seen(principal: Principal, model: str) -> None:
    """``NotFound`` if ``principal`` may not know whether there is ``model``."""
    if not principal.sees(model):
        raise unknown()


def unknown() -> NotFound:
    """In the words of a model that there is not."""
    return NotFound("no such model or version is served here")
