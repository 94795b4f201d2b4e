"""What a principal may do with a model, and what it hears if it may not."""

from __future__ import annotations

from collections.abc import Callable

from keelway.errors import KeelwayError, NotFound, PermissionDenied
from keelway.types import Peer, Principal

#: Says why a principal, by a connection from a peer, may not do an action with a model, and may take note.
Denied = Callable[[Principal, Peer, str, str], KeelwayError]
#: Takes note of what was done: the action, by whom, from where, to which model.
Done = Callable[[str, Principal, Peer, str], None]


def forbidden(principal: Principal, peer: Peer, action: str, model: str) -> KeelwayError:
    """Why ``principal``, by a connection from ``peer``, may not do ``action`` with ``model``, whether there is one or
    not: without any scope for it, a forbidden model looks like an unknown one."""
    if principal.sees(model):
        return PermissionDenied("these credentials do not allow that with this model")
    return unknown()


def demand(scope: str, denied: Denied, principal: Principal, peer: Peer, action: str, target: str) -> None:
    """``PermissionDenied`` unless ``principal`` holds ``scope``, which is one of the server and of no model."""
    if not principal.holds(scope):
        denied(principal, peer, action, target)
        raise PermissionDenied("these credentials do not allow that")


def check_seen(principal: Principal, model: str) -> None:
    """``NotFound`` if ``principal`` may not know whether there is ``model``."""
    if not principal.sees(model):
        raise unknown()


def unknown() -> NotFound:
    """In the words of a model that there is not."""
    return NotFound("no such model or version is served here")
