"""A page as a reader follows it: its files are written, its commands run in order, and what it prints is compared.

- A block whose first line is ``# name.ext`` is a file of that name.
- A ``bash`` block is run by bash; one that begins with ``pip install`` or makes an environment is not.
  ``keelway serve`` stays in the background until the next one, and has to end with exit code 0 when it is told to stop.
- A ``text`` or ``json`` block behind it is what it prints. A text that ends with ``keelway: ...`` is a refusal: exit
  code 1. Of a text every word has to occur; a JSON document has to be equal but for ``_VOLATILE``.
"""

from __future__ import annotations

import http.client
import json
import math
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.docs.pages import Block, blocks

#: Addresses as the pages have them; a reader takes free ones.
HTTP, GRPC = "127.0.0.1:8080", "127.0.0.1:9090"
#: Seconds for one command, or for a server to become ready or to stop.
PATIENCE = 180.0
#: Seconds in which running servers have certainly seen a promotion.
FOLLOWED = 3.0

#: How a block begins that installs something: the environment of the tests has it.
_INSTALLS = ("pip install", "python3 -m venv")

# Python calls some statuses otherwise from version to version, hence "title".
_VOLATILE = frozenset({"duration", "model_digest", "request_id", "time", "title"})


class Step(NamedTuple):
    """One thing a reader does. ``expected`` is what the page says that it prints."""

    block: Block
    expected: Block | None

    @property
    def file(self) -> str | None:
        """The name of the file that the block is, if it is one."""
        named = re.match(r"# ([\w./-]+\.\w+)\n", self.block.text)
        return named[1] if named and self.block.language != "bash" else None

    @property
    def is_refused(self) -> bool:
        if self.expected is None or self.expected.language != "text":
            return False
        return self.expected.text.strip().splitlines()[-1].startswith("keelway: ")

    @property
    def serves(self) -> bool:
        return bool(re.search(r"^keelway serve\b", self.block.text, re.MULTILINE)) and not self.is_refused


def steps(page: Path) -> Iterator[Step]:
    """The steps of ``page`` in order: files and shell blocks."""
    everything = blocks(page)
    for block, after in zip(everything, [*everything[1:], None], strict=True):
        step = Step(block, after if after is not None and after.language in ("text", "json") else None)
        if step.file or (block.language == "bash" and not block.text.startswith(_INSTALLS)):
            yield step


class Reader:
    """Follows pages in ``folder``, on a port of its own. ``close`` stops the server that runs last."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._address = f"127.0.0.1:{free_port()}"
        self._grpc_address = f"127.0.0.1:{free_port()}"
        self._server: subprocess.Popen[str] | None = None
        self._log = folder / "server.log"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("KEELWAY_")}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        own = {"PATH": path, "LOGNAME": "ada", "COLUMNS": "120", "KEELWAY_HTTP_ADDRESS": self._address}
        self._environment = inherited | own

    def follow(self, page: Path) -> None:
        for step in steps(page):
            where = f"{page.name}, line {step.block.line}"
            text = step.block.text.replace(HTTP, self._address).replace(GRPC, self._grpc_address)
            if step.file:
                (self._folder / step.file).write_text(text)
                continue
            printed = self._serve(text, where) if step.serves else self._run(text, step.is_refused, where)
            if step.expected is not None:
                printed = printed.replace(self._address, HTTP).replace(self._grpc_address, GRPC)
                compare(step.expected, printed, where)
            if "keelway promote" in text or "keelway constraints edit" in text:
                self._until_followed()

    def close(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.send_signal(signal.SIGTERM)
            try:
                code = server.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                server.kill()
                raise
            assert code == 0, f"the server ended with exit code {code}:\n{self._log.read_text()}"

    def _until_followed(self) -> None:
        """Wait until a running server has seen a promotion and has tried to load what was promoted."""
        time.sleep(FOLLOWED)
        if self._server is None:
            return
        until = time.monotonic() + PATIENCE
        while any(entry["reason"] == "loading" for entry in self._index()):
            assert time.monotonic() < until, f"the server goes on loading\n{self._log.read_text()}"
            time.sleep(0.1)

    def _index(self) -> list[dict[str, str]]:
        connection = http.client.HTTPConnection(self._address, timeout=PATIENCE)
        try:
            connection.request("POST", "/v2/repository/index")
            index: list[dict[str, str]] = json.load(connection.getresponse())
            return index
        finally:
            connection.close()

    def _run(self, text: str, refused: bool, where: str) -> str:
        # pipefail without -e: the page's blocks are what people paste, where the last command decides.
        code, printed = on_a_terminal(["bash", "-c", f"set -o pipefail\n{text}"], self._folder, self._environment)
        assert code == int(refused), f"{where}: exit code {code}\n{printed}"
        return printed

    def _serve(self, text: str, where: str) -> str:
        """Start the server of the block and wait until it is ready; what it has printed by then."""
        self.close()
        command = re.sub(r"^keelway serve\b", "exec keelway serve", text, flags=re.MULTILINE)
        with self._log.open("w") as log:
            self._server = subprocess.Popen(
                ["bash", "-c", command],
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and self._server.poll() is None:
            if "keelway serves" in self._log.read_text():
                return self._log.read_text()
            time.sleep(0.05)
        if self._server.poll() is None:
            self._server.kill()
        self._server = None
        raise AssertionError(f"{where}: the server does not start\n{self._log.read_text()}")


def on_a_terminal(command: list[str], folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    """The exit code of ``command``, and what it prints on a terminal: tables have titles and frames there."""
    screen, terminal = pty.openpty()
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    printed = bytearray()
    until = time.monotonic() + PATIENCE
    try:
        while (left := until - time.monotonic()) > 0 and select.select([screen], [], [], left)[0]:
            try:
                part = os.read(screen, 65536)
            except OSError:  # how Linux says that nobody holds the terminal any more
                break
            if not part:
                break
            printed += part
        return process.wait(max(0.0, until - time.monotonic()) + 1.0), plain(printed.decode())
    finally:
        process.kill()
        process.wait()
        os.close(screen)


def plain(printed: str) -> str:
    """Without colours and the line ends of terminals."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", printed).replace("\r\n", "\n")


def compare(expected: Block, printed: str, where: str) -> None:
    """Raise ``AssertionError`` unless what was printed is what the page shows."""
    if expected.language == "json":
        document = printed[printed.index("{") :] if "{" in printed else printed
        assert same(json.loads(expected.text), json.loads(document)), f"{where}: the answer is\n{printed}"
        return
    said = words(printed)
    missing = [word for word in words(expected.text) if word not in said]
    assert missing == [], f"{where}: {missing} are not in\n{printed}"


def words(text: str) -> dict[str, None]:
    """The words and versions in ``text``, without digests and times, which differ from run to run."""
    moments = r"\d{4}-\d\d-\d\dt[\d:.]+z?|[a-z]{3}, \d\d [a-z]{3} \d{4} [\d:]+ gmt"
    text = re.sub(rf"\b[0-9a-f]{{12,}}\b|{moments}", " ", text.lower())
    return dict.fromkeys(re.findall(r"\d+\.\d+\.\d+(?![\d.])|[^\W\d]{3,}", text))


def same(documented: Any, real: Any) -> bool:
    """Whether two JSON values are equal, but for what is new in every run and the last digits of floats."""
    if isinstance(documented, dict) and isinstance(real, dict):
        return documented.keys() == real.keys() and all(
            key in _VOLATILE or same(value, real[key]) for key, value in documented.items()
        )
    if isinstance(documented, list) and isinstance(real, list):
        return len(documented) == len(real) and all(map(same, documented, real))
    if isinstance(documented, float) and isinstance(real, float | int):
        return math.isclose(documented, real, rel_tol=1e-3, abs_tol=1e-6)
    return bool(documented == real)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
