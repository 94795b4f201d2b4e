"""Clients that feel their way along a model: many rows that are nearly, but not quite, equal.

Whoever copies a model, or looks for the smallest change that flips its answer, sends such rows by the hundred; so does
a client that asks about the same thing again and again as it changes, which is why this is off unless declared. Values
are rounded to cells of a robust deviation, and cells are hashed in bands, so that a row that differs in a few values
still shares bands with its neighbours (locality-sensitive hashing). What is kept of a client is a few kilobytes of
hashes, and only so many clients are. Called by ``validation.py``.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from keelway.contract.anomaly import Detector
from keelway.contract.constraints import ProbingRule
from keelway.contract.signature import ModelSignature
from keelway.errors import Probing
from keelway.guard.addresses import counted
from keelway.guard.anomaly import PROBING
from keelway.types import ANONYMOUS, Array, BoundRequest, Peer, Principal, TensorSpec

Hashes = npt.NDArray[np.int64]

#: Clients that are remembered, the least recent go first; recent rows of each; rows looked at of one request.
MAX_CLIENTS: Final = 4096
_RECENT: Final = 64
_MOST_ROWS: Final = 64
#: Bands of a wide row, and how many of them two rows share that are near. A narrow row is one band.
_BANDS, _SHARED, _WIDE = 4, 3, 8


class Call(Protocol):
    """What is needed of a request (``keelway.dataplane.InferenceCall``)."""

    @property
    def principal(self) -> Principal: ...
    @property
    def peer(self) -> Peer: ...


def client_of(call: Call) -> str:
    """Whose rows are compared with each other: a name, or an address where nobody has one. No name begins so."""
    return f"@{counted(call.peer.address)}" if call.principal is ANONYMOUS else call.principal.name


class _Client:
    """The hashes of the latest rows, and the number of near-duplicates among them, fading."""

    __slots__ = ("at", "bands", "count", "exact", "when")

    def __init__(self, bands: int, when: float) -> None:
        self.bands: Hashes = np.zeros((_RECENT, bands), np.int64)
        self.exact: Hashes = np.zeros(_RECENT, np.int64)
        self.at = 0
        self.count = 0.0
        self.when = when


class ProbingWatch:
    """``now`` is a monotonic clock in seconds."""

    def __init__(
        self, signature: ModelSignature, rule: ProbingRule, detector: Detector, now: Callable[[], float]
    ) -> None:
        self._rule = rule
        self._now = now
        self._clients: dict[str, _Client] = {}
        width = len(detector.features)
        # Nobody outside knows where cells begin, nor which features make a band.
        random = np.random.default_rng(secrets.randbits(128))
        order = random.permutation(width).tolist()
        self._cell = np.array(detector.scale)[order] * rule.resolution
        self._origin = np.array(detector.median)[order] - self._cell * random.random(width)
        parts = np.array_split(np.arange(width), _BANDS if width >= _WIDE else 1)
        self._bands = [slice(int(part[0]), int(part[-1]) + 1) for part in parts]
        self._shared = _SHARED if width >= _WIDE else 1
        places = {detector.features[position]: place for place, position in enumerate(order)}
        self._places = [found for spec in signature.inputs if (found := _places(spec, places))[1]]

    @classmethod
    def of(
        cls, signature: ModelSignature, rule: ProbingRule, detector: Detector | None, now: Callable[[], float]
    ) -> ProbingWatch | None:
        """``None`` where there is nothing to do."""
        if detector is None or rule.action == "off" or not signature.batched:
            return None
        return cls(signature, rule, detector, now)

    def watch(self, bound: BoundRequest, client: str) -> BoundRequest:
        """``bound``, with a tag or ``Probing`` raised once ``client`` has sent too many near-duplicates lately. Of a
        large request some rows are looked at, evenly spread, from one on that nobody can know before."""
        state = self._state(client)
        near = sum(self._is_near(state, *hashes) for hashes in self._hashes(bound.inputs))
        state.count += near
        if state.count <= self._rule.threshold or not near:
            return bound
        found = {**bound.anomalies, PROBING: near}
        if self._rule.action == "reject":
            error = Probing("too many rows of this client are nearly equal", retry_after=self._rule.window)
            error.anomalies = found
            raise error
        return BoundRequest(bound.inputs, bound.rows, bound.row_errors, bound.positions, (*bound.tags, PROBING), found)

    def _state(self, client: str) -> _Client:
        now = self._now()
        state = self._clients.pop(client, None)
        if state is None:
            if len(self._clients) >= MAX_CLIENTS:
                del self._clients[next(iter(self._clients))]
            state = _Client(len(self._bands), now)
        self._clients[client] = state  # the most recent is the last
        state.count *= math.exp((state.when - now) / self._rule.window)
        state.when = now
        return state

    def _hashes(self, inputs: Mapping[str, Array]) -> list[tuple[list[int], int]]:
        """Of each row looked at: one hash for each band of its cells, and one of the row itself."""
        count = len(next(iter(inputs.values())))
        step = -(-count // _MOST_ROWS)
        first = secrets.randbelow(step) if step > 1 else 0
        values = np.empty((len(range(first, count, step)), len(self._cell)))
        for tensor, columns, places in self._places:
            values[:, places] = inputs[tensor].reshape(count, -1)[first::step, columns]
        with np.errstate(over="ignore", invalid="ignore"):
            cells = np.floor((values - self._origin) / self._cell)
        return [
            ([hash(row[band].tobytes()) for band in self._bands], hash(whole.tobytes()))
            for row, whole in zip(cells, values, strict=True)
        ]

    def _is_near(self, state: _Client, bands: list[int], exact: int) -> bool:
        """Whether a recent row is near this one and not equal to it. The row is recent from now on."""
        shared = (state.bands == bands).sum(axis=1) >= self._shared
        equal = state.exact == exact
        near = bool((shared & ~equal).any())
        if not equal.any():
            state.bands[state.at], state.exact[state.at] = bands, exact
            state.at = (state.at + 1) % _RECENT
        return near


def _places(spec: TensorSpec, places: Mapping[str, int]) -> tuple[str, list[int], list[int]]:
    """A tensor, its columns that are watched, and their places among all that are."""
    names = spec.columns or (spec.name,)
    columns = [column for column, name in enumerate(names) if name in places]
    return spec.name, columns, [places[names[column]] for column in columns]
