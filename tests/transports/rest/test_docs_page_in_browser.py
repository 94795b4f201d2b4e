"""The documentation page in a real browser, against a real server: it shows what is served and asks nobody else. # R4

Chromium is driven by its command line alone: it runs the page's script and prints the document that results. Where
there is no Chromium the browser tests are skipped, and the run says so in red (``tests/conftest.py``).
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np
import pytest
from tests.serving import Item, Server, Shelf, forest_item, score, wait_until

from keelway import __version__
from keelway.contract.signature import Feature, ModelSignature
from keelway.testing import FakeRuntime
from keelway.types import TensorSpec

PAGE = files("keelway.transports.rest").joinpath("docs.html").read_text(encoding="utf-8")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SWITCHES = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--window-size=1280,900",
)

#: A feature may be called anything; nothing of it may become markup.
HOSTILE = "<img src=x onerror=\"document.title='taken over'\">"
WIDE = ModelSignature(
    features=(
        *(Feature(f"indicator_{number:02d}", "FP32", nullable=number % 2 == 0) for number in range(84)),
        Feature(HOSTILE, "FP32"),
    ),
    inputs=(TensorSpec("input", "FP32", (-1, 85), (*(f"indicator_{n:02d}" for n in range(84)), HOSTILE)),),
    outputs=(TensorSpec("score", "FP32", (-1,)),),
)


class Shown(NamedTuple):
    """What the browser made of the page. ``requests`` are the addresses that the page itself asked for."""

    html: str
    text: str
    tags: list[tuple[str, dict[str, str | None]]]
    requests: list[str]

    def has(self, tag: str, **attributes: str) -> bool:
        return any(tag == name and attributes.items() <= given.items() for name, given in self.tags)


class _Reader(HTMLParser):
    """Text outside of script and style, and every element that was opened."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._mute = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._mute += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._mute -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self._mute:
            self.words.append(data)


def browser() -> str:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on the PATH")
    return found


def show(url: str, folder: Path) -> Shown:
    """Open ``url``, let the script finish, and read what stands there."""
    log = folder / "network.json"
    command = [browser(), *SWITCHES, f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}"]
    command += ["--virtual-time-budget=5000", "--dump-dom", url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    reader = _Reader()
    reader.feed(done.stdout)
    return Shown(done.stdout, " ".join(" ".join(reader.words).split()), reader.tags, list(asked_by_page(log)))


def asked_by_page(log: Path) -> Iterator[str]:
    """Addresses of the requests that a page started, from Chromium's own record of its network.

    The browser's requests of its own (there should be none with these switches) have no page as their initiator."""
    for event in json.loads(log.read_text(encoding="utf-8"))["events"]:
        parameters = event.get("params", {})
        if isinstance(parameters, dict) and "url" in parameters and parameters.get("initiator", "").startswith("http"):
            yield parameters["url"]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    def wide() -> FakeRuntime:
        return FakeRuntime(
            WIDE.inputs, WIDE.outputs, lambda given: {"score": np.zeros(len(given["input"]), np.float32)}
        )

    shelf = Shelf().put("iris", "1.2.0", forest_item()).put("iris", "2.0.0", forest_item())
    shelf.want("iris", "1.2.0", "2.0.0", default="2.0.0", aliases={"champion": "2.0.0", "challenger": "1.2.0"})
    shelf.put("wide", "1.0.0", Item(wide, WIDE)).want("wide", "1.0.0")
    with Server(shelf) as running:
        yield running


@pytest.fixture(scope="module")
def shown(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Shown:
    return show(f"{server.url}/docs", tmp_path_factory.mktemp("browser"))


def test_the_page_names_no_other_place_and_makes_no_markup_of_text() -> None:
    places = re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s'\"]*", re.sub(r"^\s*//.*$", "", PAGE, flags=re.MULTILINE))
    assert set(places) <= {"http://www.w3.org/2000/svg"}  # a name in the icon, asked for by nobody
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser", PAGE
    )
    assert not re.search(r"<(?:link|script|img|iframe)[^>]+(?:href|src)=[\"'](?!data:)", PAGE)


def test_the_page_is_served_with_a_policy_that_keeps_it_so(server: Server) -> None:
    reply = server.get("/docs")
    assert reply.body.decode() == PAGE
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    assert "connect-src 'self'" in reply.headers["content-security-policy"]


@pytest.mark.slow
def test_the_page_shows_the_server_and_its_health(shown: Shown, server: Server) -> None:
    assert f"{__version__} at 127.0.0.1:{server.port}" in shown.text
    assert ("span", {"id": "health", "class": "pill good", "role": "status"}) in shown.tags
    assert not shown.has("section", role="alert")


@pytest.mark.slow
def test_the_page_shows_each_model_with_its_versions_and_features(shown: Shown) -> None:
    assert shown.has("section", id="model-iris")
    assert shown.has("section", id="model-wide")
    for words in ("champion → 2.0.0", "challenger → 1.2.0", "sepal_length number required FP32", "Features 85"):
        assert words in shown.text
    missing = [feature.name for feature in WIDE.features if feature.name not in shown.text]
    assert missing == []
    assert "indicator_02 number may be missing FP32" in shown.text


@pytest.mark.slow
def test_the_page_lists_every_operation_and_opens_the_first_with_an_example(shown: Shown, server: Server) -> None:
    document = server.get("/openapi.json").json
    operations = [
        operation for item in document["paths"].values() for operation in item.values() if isinstance(operation, dict)
    ]
    assert {f"op-{operation['operationId']}" for operation in operations} <= {
        given.get("id") for _, given in shown.tags
    }
    assert shown.has("details", id="op-iris.predict", open="")
    assert f"curl -sS '{server.url}/v1/models/iris/predict'" in shown.text
    assert '-d \'{"instances":[{"sepal_length":' in shown.text


@pytest.mark.slow
def test_a_name_is_text_whatever_it_looks_like(shown: Shown) -> None:
    assert HOSTILE in shown.text
    assert not any(tag == "img" for tag, _ in shown.tags)
    assert "<title>keelway" in shown.html


@pytest.mark.slow
def test_the_page_asks_only_its_own_server(shown: Shown, server: Server) -> None:
    assert {urlsplit(url).path for url in shown.requests} >= {"/openapi.json", "/v1/models", "/health/ready"}
    assert {urlsplit(url).netloc for url in shown.requests} == {f"127.0.0.1:{server.port}"}


def answers(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.slow
def test_a_server_without_a_loaded_model_says_so(tmp_path: Path) -> None:
    shelf = Shelf().serve("late", score)
    shelf.may_load.clear()
    waiting = Server(shelf).start()
    try:
        wait_until(lambda: answers(waiting.port), "the server to listen")
        shown = show(f"{waiting.url}/docs", tmp_path)
        assert "No model is loaded here now" in shown.text
        assert "not ready" in shown.text
    finally:
        shelf.may_load.set()
        waiting.stop()
