"""Public libraries of gRPC: grpcio, ``grpc.aio`` and grpclib, whose HTTP/2 is the h2 library's. The asynchronous ones
run on event loops of their own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import grpclib.client
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpclib.const import Cardinality
from tests.conformance.cases import Case
from tests.conformance.clients import PLAIN, Addresses, Answered, Options, Refused
from tests.conformance.grpc_clients import MessageClient, answer_of, messages, path_of, request_of

from keelway.errors import ErrorCode

#: grpcio's own limit on what it receives is 4 MiB.
UNLIMITED = [("grpc.max_receive_message_length", -1)]
INFER = path_of("ModelInfer")
WATCH = "/grpc.health.v1.Health/Watch"


def serializers(request: Any, reply: Any) -> tuple[Any, Any]:
    return type(request).SerializeToString, reply.FromString


def said(options: Options) -> dict[str, Any]:
    """As the arguments of a call of grpcio."""
    compression = grpc.Compression.Gzip if options.gzip else None
    return {"timeout": options.timeout, "metadata": tuple(options.metadata), "compression": compression}


def refused(error: Any) -> Refused:
    return Refused(ErrorCode[error.code().name], error.details())


def credentials(trust: Path) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(trust.read_bytes())


class GrpcioClient(MessageClient):
    """grpcio, blocking."""

    def __init__(self, addresses: Addresses, raw: bool) -> None:
        super().__init__(raw)
        if addresses.trust is None:
            self._channel = grpc.insecure_channel(addresses.grpc, options=UNLIMITED)
        else:
            self._channel = grpc.secure_channel(addresses.grpc, credentials(addresses.trust), options=UNLIMITED)

    def call(self, method: str, request: Any, reply: Any, options: Options = PLAIN) -> Any:
        ask = self._channel.unary_unary(path_of(method), *serializers(request, reply))
        try:
            return ask(request, **said(options))
        except grpc.RpcError as error:
            raise refused(error) from error

    def begin(self, case: Case) -> Callable[[], None]:
        return self._begun(case).cancel  # type: ignore[no-any-return]

    def at_once(self, case: Case, count: int) -> Sequence[Answered]:
        calls = [self._begun(case) for _ in range(count)]
        return [answer_of(call.result()) for call in calls]

    def _begun(self, case: Case) -> Any:
        request = request_of(case, "", self._raw)
        ask = self._channel.unary_unary(INFER, *serializers(request, messages.ModelInferResponse))
        return ask.future(request, timeout=PLAIN.timeout)

    def watch(self, service: str) -> Iterator[str]:
        asked = HealthCheckRequest(service=service)
        stream = self._channel.unary_stream(WATCH, *serializers(asked, HealthCheckResponse))(
            asked, timeout=PLAIN.timeout
        )
        try:
            for answer in stream:
                yield name_of(answer)
        finally:
            stream.cancel()

    def close(self) -> None:
        self._channel.close()


class LoopClient(MessageClient):
    """An asynchronous one. ``open`` is run on its loop; ``ask``, ``follow`` and ``leave`` are left to the library."""

    channel: Any

    def __init__(self, addresses: Addresses, raw: bool) -> None:
        super().__init__(raw)
        self._loop = asyncio.Runner()
        self._loop.run(self.open(addresses))

    async def open(self, addresses: Addresses) -> None:
        raise NotImplementedError

    async def ask(self, method: str, request: Any, reply: Any, options: Options) -> Any:
        raise NotImplementedError

    def follow(self, request: Any) -> AsyncIterator[Any]:
        raise NotImplementedError

    async def leave(self) -> None:
        raise NotImplementedError

    def call(self, method: str, request: Any, reply: Any, options: Options = PLAIN) -> Any:
        return self._loop.run(self.ask(method, request, reply, options))

    def _asking(self, case: Case) -> Any:
        return self.ask("ModelInfer", request_of(case, "", self._raw), messages.ModelInferResponse, PLAIN)

    def begin(self, case: Case) -> Callable[[], None]:
        async def begun() -> asyncio.Task[Any]:
            task = asyncio.create_task(self._asking(case))
            await asyncio.sleep(0.1)  # the loop stands still afterwards: what is to be sent has to leave now
            return task

        async def cancelled(task: asyncio.Task[Any]) -> None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await asyncio.sleep(0.1)

        task = self._loop.run(begun())
        return lambda: self._loop.run(cancelled(task))

    def at_once(self, case: Case, count: int) -> Sequence[Answered]:
        async def gathered() -> Sequence[Any]:
            return await asyncio.gather(*(self._asking(case) for _ in range(count)))

        return [answer_of(reply) for reply in self._loop.run(gathered())]

    def watch(self, service: str) -> Iterator[str]:
        stream: Any = self.follow(HealthCheckRequest(service=service))
        try:
            while (answer := self._loop.run(anext(stream, None))) is not None:
                yield name_of(answer)
        finally:
            self._loop.run(stream.aclose())

    def close(self) -> None:
        self._loop.run(self.leave())
        self._loop.close()


class GrpcAioClient(LoopClient):
    async def open(self, addresses: Addresses) -> None:
        if addresses.trust is None:
            self.channel = grpc.aio.insecure_channel(addresses.grpc, options=UNLIMITED)
        else:
            self.channel = grpc.aio.secure_channel(addresses.grpc, credentials(addresses.trust), options=UNLIMITED)

    async def ask(self, method: str, request: Any, reply: Any, options: Options) -> Any:
        try:
            return await self.channel.unary_unary(path_of(method), *serializers(request, reply))(
                request, **said(options)
            )
        except grpc.RpcError as error:
            raise refused(error) from error

    async def follow(self, request: Any) -> AsyncIterator[Any]:
        stream = self.channel.unary_stream(WATCH, *serializers(request, HealthCheckResponse))(
            request, timeout=PLAIN.timeout
        )
        try:
            async for answer in stream:
                yield answer
        finally:
            stream.cancel()

    async def leave(self) -> None:
        await self.channel.close()


class GrpclibClient(LoopClient):
    """It compresses nothing."""

    async def open(self, addresses: Addresses) -> None:
        host, _, port = addresses.grpc.rpartition(":")
        self.channel = grpclib.client.Channel(host, int(port), ssl=addresses.secured("h2"))

    async def ask(self, method: str, request: Any, reply: Any, options: Options) -> Any:
        assert not options.gzip
        ask: Any = grpclib.client.UnaryUnaryMethod(self.channel, path_of(method), type(request), reply)
        try:
            return await ask(request, timeout=options.timeout, metadata=list(options.metadata))
        except grpclib.GRPCError as error:
            raise Refused(ErrorCode[error.status.name], error.message or "") from error
        except TimeoutError as error:  # it does not wait for the server's word
            raise Refused(ErrorCode.DEADLINE_EXCEEDED, "") from error

    async def follow(self, request: Any) -> AsyncIterator[Any]:
        stream = self.channel.request(
            WATCH, Cardinality.UNARY_STREAM, type(request), HealthCheckResponse, timeout=PLAIN.timeout
        )
        async with stream:
            await stream.send_message(request, end=True)
            try:
                async for answer in stream:
                    yield answer
            except GeneratorExit:
                await stream.cancel()
                raise
            except grpclib.exceptions.StreamTerminatedError:
                return  # it gives a connection up with all its streams once the server says that it leaves

    async def leave(self) -> None:
        # Closed, it would wait for the other side's goodbye in TLS for longer than this loop lives.
        connected: Any = self.channel._protocol
        # A connection that the server has ended has none any more.
        transport = getattr(connected.connection, "_transport", None) if connected is not None else None
        self.channel.close()
        if transport is not None:
            transport.abort()
            await asyncio.sleep(0)


def name_of(answer: Any) -> str:
    return str(HealthCheckResponse.ServingStatus.Name(answer.status))
