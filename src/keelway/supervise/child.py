"""One worker as its supervisor sees it: a process, the messages that it sends and answers, and its end.

Started anew and not forked: an event loop, ONNX Runtime and gRPC do not survive a fork. It inherits the listening
sockets, the seats at each, its end of the messages, and one end of a pipe whose other end is the supervisor's life.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum

from keelway.errors import KeelwayError, ModelFailed, Unavailable
from keelway.supervise.messages import (
    Failed,
    Message,
    Ready,
    Start,
    ToSupervisor,
    heard_by_supervisor,
    send,
)

#: Seconds that a process may take to end once it has let go of its messages.
_LAST_MOMENT = 5.0


class State(StrEnum):
    """``STARTING`` until it takes part in serving, ``LEAVING`` once it has been told to go."""

    STARTING = "starting"
    SERVING = "ready"
    LEAVING = "leaving"
    GONE = "gone"


class Child:
    """Made by ``spawn``. ``ready`` is done when the worker has loaded everything, with its error if it could not, and
    ``gone`` when it has ended, however that came."""

    def __init__(
        self,
        start: Start,
        process: asyncio.subprocess.Process,
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        heard: Callable[[Child, ToSupervisor], None],
    ) -> None:
        self.number = start.number
        self.seat = start.seat
        self.state = State.STARTING
        #: Whether it serves what the others do, or will as soon as it takes connections: it is asked with them.
        self.admitted = False
        #: The turn of the wish that it serves.
        self.turn = start.turn
        self._process = process
        self._reader, self._writer = streams
        self._heard = heard
        self._questions: dict[int, asyncio.Future[ToSupervisor | None]] = {}
        self._turns = 0
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = loop.create_future()
        # Asked for or not, an error that nobody waits for is no news.
        self.ready.add_done_callback(lambda ready: ready.cancelled() or ready.exception())
        self.gone: asyncio.Task[int] = loop.create_task(self._listen())

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, message: Message) -> None:
        send(self._writer, message)

    async def ask(self, kind: Callable[[int], Message], patience: float | None = None) -> ToSupervisor | None:
        """The answer to what ``kind`` makes of a turn; ``None`` if the worker has gone, or says nothing for
        ``patience`` seconds."""
        if self.state is State.GONE:
            return None
        self._turns += 1
        turn, answer = self._turns, asyncio.get_running_loop().create_future()
        self._questions[turn] = answer
        send(self._writer, kind(turn))
        await asyncio.wait((answer,), timeout=patience)
        self._questions.pop(turn, None)
        return answer.result() if answer.done() else None

    def kill(self) -> None:
        """End it at once. What it was answering is lost."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)

    async def _listen(self) -> int:
        while (message := await heard_by_supervisor(self._reader)) is not None:
            question = self._questions.get(message.turn)
            if isinstance(message, Ready | Failed):
                self._started(message)
            elif question is not None and not question.done() and not isinstance(message, Failed):
                question.set_result(message)
                self._heard(self, message)
            else:
                self._heard(self, message)
        return await self._ended()

    def _started(self, message: Ready | Failed) -> None:
        if self.ready.done():
            return
        if isinstance(message, Failed):
            self.ready.set_exception(message.failure.error())
        else:
            self.ready.set_result(None)

    async def _ended(self) -> int:
        """The exit code, negative for a signal. It holds no resources of its own then."""
        try:
            code = await asyncio.wait_for(self._process.wait(), _LAST_MOMENT)
        except TimeoutError:
            self.kill()
            code = await self._process.wait()
        self.state = State.GONE
        self._writer.close()
        if not self.ready.done():
            self.ready.set_exception(ended(code))
        for question in self._questions.values():
            if not question.done():
                question.set_result(None)
        return code


def ended(code: int) -> KeelwayError:
    """The error of a worker that ended without a word of its own."""
    if code < 0:
        return ModelFailed(
            f"a worker was ended by signal {signal.Signals(-code).name} while it started",
            hint="is there memory for so many? start fewer with --workers" if code == -signal.SIGKILL else None,
        )
    return ModelFailed(f"a worker ended with exit code {code} while it started", hint="look at the log above")


async def spawn(
    start: Start,
    ports: Sequence[tuple[socket.socket, int]],
    lifeline: int,
    heard: Callable[[Child, ToSupervisor], None],
) -> Child:
    """Start a worker. ``ports`` are listening sockets, each with the descriptor of its seats: HTTP's, and gRPC's if it
    has one of its own. ``heard`` is told whatever the worker says. ``Unavailable`` if the system has no process
    left."""
    ours, theirs = socket.socketpair()
    try:
        places = [number for listener, seats in ports for number in (listener.fileno(), seats)]
        inherited = (theirs.fileno(), lifeline, *places)
        process = await asyncio.create_subprocess_exec(
            *_command(inherited),
            pass_fds=inherited,
            stdin=asyncio.subprocess.DEVNULL,
            # Ctrl-C in a terminal is for the supervisor, which tells its workers in order.
            process_group=0,
        )
    except OSError as error:
        ours.close()
        raise Unavailable(f"a worker cannot be started: {error.strerror}") from error
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    ours.setblocking(False)
    child = Child(start, process, await asyncio.open_unix_connection(sock=ours), heard)
    child.tell(start)
    return child


def _command(inherited: Sequence[int]) -> list[str]:
    # -P: a folder that the server happens to be started in is no place to import from.
    warnings = [f"-W{option}" for option in sys.warnoptions]
    return [sys.executable, "-P", *warnings, "-m", "keelway.supervise.worker", *map(str, inherited)]


def close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
