"""The server of the conformance suite, in a process of its own: clients and server then share no interpreter and no
gRPC library, as in life. Also the program that the process runs; the models are those of ``models.py``."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from tests.conformance.clients import Addresses
from tests.wire import PATIENCE

ROOT = Path(__file__).parents[2]


class ServerProcess:
    """For ``with``: ``addresses`` are there once it serves; gRPC's is REST's where it has none of its own. ``settings``
    are sections of the settings."""

    def __init__(self, **settings: Mapping[str, Any]) -> None:
        self._settings = {
            "http": {"address": "127.0.0.1:0"},
            "grpc": {"address": "127.0.0.1:0"},
            "registry": {"poll_interval": 0.05},
            **settings,
        }
        self._settings["serving"] = {"drain_delay": 0.0, "drain_timeout": 10.0, **settings.get("serving", {})}
        self.addresses = Addresses("", "")

    def __enter__(self) -> ServerProcess:
        self._log = TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.conformance.server", json.dumps(self._settings)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait(PATIENCE)
        assert line, self.log()
        http, grpc = json.loads(line)
        self.addresses = Addresses(http, grpc or http.partition("://")[2])
        return self

    def terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def log(self) -> str:
        self._log.seek(0)
        return self._log.read().decode()

    def __exit__(self, *_: object) -> None:
        try:
            self.terminate()
            code = self._process.wait(PATIENCE)
            assert code == 0, self.log()
        finally:
            self._process.kill()
            self._process.communicate()
            self._log.close()


def main(settings: str) -> None:
    from tests.conformance.models import shelf

    from keelway.app import App
    from keelway.config import load_settings
    from keelway.observe.logs import configure

    configure("info", "text")
    app = App(load_settings(None, {}, json.loads(settings)), shelf())
    app.run(lambda addresses: print(json.dumps(addresses), flush=True))


if __name__ == "__main__":
    main(sys.argv[1])
