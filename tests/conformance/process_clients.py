"""Clients in processes of their own, KServe's and JavaScript's: for each call they read a line of JSON and write one.

Tensors are base64 of their bytes, so that nothing is lost on the way to the client. The programs are
``kserve_driver.py`` and ``js/driver.cjs``.
"""

from __future__ import annotations

import json
import os
import subprocess
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from threading import Timer
from typing import Any

from tests.conformance.cases import Case
from tests.conformance.clients import (
    CODES,
    PLAIN,
    Addresses,
    Answered,
    Described,
    Options,
    Output,
    Refused,
    described,
    from_raw,
    raw,
)
from tests.conformance.environments import JAVASCRIPT, ROOT, kserve_python, node_modules

from keelway.errors import ErrorCode

PATIENCE = 60.0


class ProcessClient:
    def __init__(self, command: list[str], environment: dict[str, str] | None = None) -> None:
        self._log = TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            command,
            env=os.environ | (environment or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def ask(self, call: str, **arguments: Any) -> Any:
        """The value of a call. ``Refused`` if the server refused it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        late = Timer(PATIENCE, self._process.kill)
        late.start()
        try:
            self._process.stdin.write(json.dumps({"call": call, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        finally:
            late.cancel()
        if not line:
            self._log.seek(0)
            raise AssertionError(self._log.read().decode())
        reply = json.loads(line)
        if "refused" in reply:
            status = reply["status"]
            code = CODES[status] if isinstance(status, int) else ErrorCode[status]
            raise Refused(code, reply["refused"])
        return reply["value"]

    def infer(self, case: Case, request_id: str, options: Options = PLAIN) -> Answered:
        """``options`` are JavaScript's only."""
        metadata = [
            [name, {"text": value} if isinstance(value, str) else {"base64": b64encode(value).decode()}]
            for name, value in options.metadata
        ]
        more = {} if options is PLAIN else {"timeout": options.timeout, "metadata": metadata, "gzip": options.gzip}
        return answered(self.ask("infer", **asked_of(case, request_id), **more))

    def begin(self, case: Case) -> Callable[[], None]:
        """JavaScript's only, as what follows."""
        number = self.ask("begin", **asked_of(case, ""))
        return lambda: self.ask("cancel", number=number)

    def at_once(self, case: Case, count: int) -> Sequence[Answered]:
        return [answered(value) for value in self.ask("at_once", count=count, **asked_of(case, ""))]

    def watch(self, service: str) -> Iterator[str]:
        number = self.ask("watch", service=service)
        try:
            while (status := self.ask("next", number=number)) is not None:
                yield status
        finally:
            self.ask("cancel", number=number)

    def live(self) -> bool:
        return bool(self.ask("live"))

    def ready(self) -> bool:
        return bool(self.ask("ready"))

    def model_ready(self, model: str, version: str) -> bool:
        return bool(self.ask("model_ready", model=model, version=version))

    def server(self) -> tuple[str, str, list[str]]:
        document = self.ask("server")
        return document["name"], document["version"], document["extensions"]

    def model(self, model: str, version: str) -> Described:
        return described(self.ask("model", model=model, version=version))

    def index(self) -> list[tuple[str, str, str]]:
        return [(entry["name"], entry["version"], entry["state"]) for entry in self.ask("index")]

    def load(self, model: str) -> None:
        self.ask("load", model=model)

    def unload(self, model: str) -> None:
        self.ask("unload", model=model)

    def close(self) -> None:
        """End of input ends the program."""
        try:
            self._process.communicate(timeout=PATIENCE)
        finally:
            self._process.kill()
            self._process.communicate()
            self._log.close()


def asked_of(case: Case, request_id: str) -> dict[str, Any]:
    inputs = [
        {
            "name": sent.name,
            "datatype": sent.datatype,
            "shape": sent.array.shape,
            "raw": b64encode(raw(sent.array)).decode(),
        }
        for sent in case.inputs
    ]
    return {
        "model": case.model,
        "version": case.version,
        "id": request_id,
        "inputs": inputs,
        "outputs": case.outputs,
    }


def answered(value: Any) -> Answered:
    outputs = [
        Output(
            output["name"],
            output["datatype"],
            from_raw(b64decode(output["raw"]), output["datatype"]).reshape(output["shape"]),
        )
        for output in value["outputs"]
    ]
    return Answered(value["model"], value["version"], value["id"], outputs)


def kserve(addresses: Addresses, transport: str, encoding: str) -> ProcessClient:
    driver = Path(__file__).with_name("kserve_driver.py")
    address = addresses.http if transport == "REST" else addresses.grpc
    return ProcessClient([str(kserve_python()), str(driver), transport, address, encoding])


def javascript(addresses: Addresses, encoding: str) -> ProcessClient:
    trusted = addresses.trust
    driver = str(JAVASCRIPT / "driver.cjs")
    arguments = [str(ROOT / "proto"), addresses.grpc, encoding, *([str(trusted)] if trusted else [])]
    return ProcessClient(["node", driver, *arguments], {"NODE_PATH": str(node_modules())})
