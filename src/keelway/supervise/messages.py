"""What a supervisor and its workers say to each other, over a pair of sockets: one length-prefixed message at a time.

``turn`` pairs an answer with its question; 0 where nothing was asked. Both ends are of one release: this is no protocol
for others.
"""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path

import msgspec

from keelway.config import Settings
from keelway.errors import ErrorCode, KeelwayError
from keelway.hosting.fleet import IndexEntry
from keelway.hosting.sources import Wanted
from keelway.hosting.told import ReleaseKey
from keelway.observe.merging import Table
from keelway.types import StoredKey

_LENGTH = struct.Struct("=I")


class Message(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Each is one array with the name of its class in front."""

    turn: int


# From the supervisor


class Start(Message, frozen=True, tag=True):
    """The first word to a worker. ``file`` is the ONNX file to serve; empty: ``wanted`` of the registry. ``folder`` is
    where workers share what they load. ``early``: take connections before the models are loaded. ``keys`` are the API
    keys that hold."""

    number: int
    settings: Settings
    seat: int
    seats: int
    early: bool
    wanted: tuple[Wanted, ...]
    held_back: tuple[IndexEntry, ...]
    file: str
    folder: str
    keys: tuple[StoredKey, ...] = ()


class Keys(Message, frozen=True, tag=True):
    """From now on these API keys hold."""

    keys: tuple[StoredKey, ...]


class Join(Message, frozen=True, tag=True):
    """Take part in serving. Answered by ``Done``."""


class Prepare(Message, frozen=True, tag=True):
    """Load what ``wanted`` needs. Answered by ``Prepared``."""

    wanted: tuple[Wanted, ...]


class Commit(Message, frozen=True, tag=True):
    """Serve ``wanted`` now. Answered by ``Prepared``, empty if it does."""

    wanted: tuple[Wanted, ...]
    held_back: tuple[IndexEntry, ...]


class Drain(Message, frozen=True, tag=True):
    """Stop as on SIGTERM, with ``delay`` seconds for load balancers."""

    delay: float


class Retire(Message, frozen=True, tag=True):
    """Leave while others go on; connections without a request are closed after ``linger`` seconds."""

    linger: float


class Force(Message, frozen=True, tag=True):
    """Stop without waiting for anything."""


class Scrape(Message, frozen=True, tag=True):
    """Say what you have counted. Answered by ``Report``."""


class Page(Message, frozen=True, tag=True):
    """The metrics of all workers: the answer to ``AskPage``."""

    tables: tuple[Table, ...]


# From a worker


class Ready(Message, frozen=True, tag=True):
    """Everything is loaded."""


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """An error on its way to another process."""

    code: ErrorCode
    message: str
    hint: str | None

    @classmethod
    def of(cls, error: KeelwayError) -> Failure:
        return cls(error.code, error.message, error.hint)

    def error(self) -> KeelwayError:
        """As the base class, with the code, the message and the hint that it had."""
        error = KeelwayError(self.message, hint=self.hint)
        error.code = self.code
        return error


class Failed(Message, frozen=True, tag=True):
    """The worker cannot start, and ends."""

    failure: Failure


class Done(Message, frozen=True, tag=True):
    """As told."""


class Prepared(Message, frozen=True, tag=True):
    """What could not be loaded, by the key of the release."""

    failures: tuple[tuple[ReleaseKey, Failure], ...]


class Report(Message, frozen=True, tag=True):
    """All counts of the worker."""

    tables: tuple[Table, ...]


class Used(Message, frozen=True, tag=True):
    """When API keys were used last, by their ids, in seconds since the Unix epoch."""

    used: dict[str, float]


class AskPage(Message, frozen=True, tag=True):
    """What have all workers counted? Answered by ``Page``."""


ToWorker = Start | Join | Prepare | Commit | Drain | Retire | Force | Scrape | Page | Keys
ToSupervisor = Ready | Failed | Done | Prepared | Report | AskPage | Used


def own_folder(folder: str, seat: int) -> Path:
    """Where the worker on ``seat`` keeps what is its own, in the folder that all share."""
    return Path(folder) / f"seat-{seat}"


_encoder = msgspec.msgpack.Encoder()
_to_worker = msgspec.msgpack.Decoder(ToWorker)
_to_supervisor = msgspec.msgpack.Decoder(ToSupervisor)


def send(writer: asyncio.StreamWriter, message: Message) -> None:
    """Write ``message``; waits for nothing. To an end that has gone it is lost, which its reader hears of."""
    if not writer.is_closing():
        body = _encoder.encode(message)
        writer.write(_LENGTH.pack(len(body)) + body)


async def heard_by_worker(reader: asyncio.StreamReader) -> ToWorker | None:
    """The next message of the supervisor, ``None`` when it has gone."""
    body = await _body(reader)
    return None if body is None else _to_worker.decode(body)


async def heard_by_supervisor(reader: asyncio.StreamReader) -> ToSupervisor | None:
    """The next message of a worker, ``None`` when it has gone."""
    body = await _body(reader)
    return None if body is None else _to_supervisor.decode(body)


async def _body(reader: asyncio.StreamReader) -> bytes | None:
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        return await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
