"""What comes along with the client: nothing of the server, and no library of a protocol that is not used. # G0"""

from __future__ import annotations

import subprocess
import sys

import pytest

import keelway.client

#: Modules of ours that the client may load. The binary codec brings what reads shapes and values.
OURS = {
    "keelway",
    "keelway.client",
    "keelway.clock",
    "keelway.codecs",
    "keelway.codecs.binary",
    "keelway.codecs.shapes",
    "keelway.contract",
    "keelway.contract.values",
    "keelway.errors",
    "keelway.types",
    "keelway.wire",
}


def loaded(script: str) -> set[str]:
    printed = f"{script}\nimport sys\nprint(*sys.modules, sep='\\n')"
    return set(
        subprocess.run([sys.executable, "-c", printed], capture_output=True, text=True, check=True).stdout.split()
    )


@pytest.mark.parametrize(
    ("script", "used"),
    [
        ("import keelway.client", set()),
        ("from keelway.client import Client\nClient('http://127.0.0.1:1').live(timeout=1)", {"httpx"}),
        ("from keelway.client import Client\nClient('grpc://127.0.0.1:1').live(timeout=1)", {"grpc", "google"}),
    ],
    ids=["import", "REST", "gRPC"],
)
def test_nothing_of_the_server_comes_along_and_one_protocol_at_most(script: str, used: set[str]) -> None:
    modules = loaded(script)
    ours = {name for name in modules if name.partition(".")[0] == "keelway"}
    assert {name for name in ours if ".".join(name.split(".")[:2]) not in ("keelway.client", "keelway.wire")} <= OURS
    packages = {name.partition(".")[0] for name in modules}
    of_the_server = {"onnxruntime", "uvicorn", "uvloop", "starlette", "sqlalchemy", "alembic", "orjson", "pandas"}
    assert packages & of_the_server == set()
    assert packages & {"httpx", "httpcore", "grpc", "google"} == used | ({"httpcore"} if "httpx" in used else set())


def test_a_library_that_is_missing_is_named_with_the_way_to_get_it() -> None:
    script = """
import sys
sys.modules["httpx"] = None
from keelway.client import Client
from keelway.errors import FailedPrecondition
try:
    Client("http://127.0.0.1:1")
except FailedPrecondition as error:
    print("said:", error.message, error.hint)
"""
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert said == 'said: the client needs httpx pip install "keelway[client]"\n'


def test_what_the_package_exports_is_there() -> None:
    public = {name for name, value in vars(keelway.client).items() if isinstance(value, type)}
    assert set(keelway.client.__all__) == public
