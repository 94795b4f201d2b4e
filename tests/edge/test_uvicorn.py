"""What the edge takes of uvicorn is there, and does what it is taken for: in the pinned version and in the newest."""

from __future__ import annotations

import ast
import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import uvicorn

import keelway
from keelway.edge.uvicorn_parts import RELIED_ON, missing

ROOT = Path(__file__).parents[2]
#: The tests that see the parts at work.
AT_WORK = ("test_uvicorn.py", "test_protocol.py", "test_fast_lane.py", "test_slow_peers.py", "test_preface.py")


async def _missing() -> list[str]:
    return missing()


def test_every_part_that_is_relied_on_is_there() -> None:
    assert asyncio.run(_missing()) == []


def test_a_part_that_is_gone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(uvicorn.Server, "capture_signals")
    assert asyncio.run(_missing()) == ["Server.capture_signals"]


def _imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def test_nothing_else_imports_uvicorn() -> None:
    package = Path(keelway.__file__).parent
    users = {file.relative_to(package).as_posix() for file in package.rglob("*.py") if "uvicorn" in _imports(file)}
    assert users == {"edge/uvicorn_parts.py"}


@pytest.mark.parametrize("file", ["protocol.py", "fast_lane.py"])
def test_what_a_connection_uses_of_its_base_is_listed(file: str) -> None:
    """``self.x`` that neither file gives itself is uvicorn's."""
    edge = Path(keelway.__file__).parent / "edge"
    own: set[str] = set()
    for name in ("protocol.py", "fast_lane.py"):
        for node in ast.walk(ast.parse((edge / name).read_text())):
            if isinstance(node, ast.FunctionDef):
                own.add(node.name)
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                own |= {target.attr for target in targets if isinstance(target, ast.Attribute)}
    used = {
        node.attr
        for node in ast.walk(ast.parse((edge / file).read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    }
    assert used - own - set(RELIED_ON["HttpToolsProtocol"]) == set()


@pytest.mark.slow
def test_the_newest_version_will_do(tmp_path: Path, record_property: Any) -> None:
    """It is put before the pinned one on the path, and the tests that see it at work run with it."""
    where = ["--target", str(tmp_path), "--python", sys.executable]
    install = ["uv", "pip", "install", "--quiet", "--no-deps", "--upgrade", *where, "uvicorn"]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    installed = subprocess.run(install, env=environment, capture_output=True, text=True, timeout=120, check=False)
    if installed.returncode != 0:
        pytest.skip("no index of packages answers")
    environment["PYTHONPATH"] = str(tmp_path)
    which = subprocess.run(
        [sys.executable, "-c", "import uvicorn; print(uvicorn.__version__, uvicorn.__file__)"],
        env=environment, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    version, file = which.split()
    assert Path(file).is_relative_to(tmp_path)
    record_property("uvicorn", version)
    tests = [str(Path("tests/edge") / name) for name in AT_WORK]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", *tests]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert ran.returncode == 0, f"uvicorn {version}:\n{ran.stdout[-4000:]}"
