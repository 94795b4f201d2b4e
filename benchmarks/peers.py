"""An environment for each peer, in ``.cache/peers/NAME``, made on demand from ``requirements/peers/NAME.txt``.

Peers pin against each other, so that no two share one. Files are pinned by hash; uv installs them.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENTS = ROOT / ".cache" / "peers"
LOCKS = ROOT / "requirements" / "peers"
#: Interpreters to try for a peer that does not run on every one. Triton's stub fails on the lock of some 3.11.
INTERPRETERS = {"pytriton": ("/usr/bin/python3.11", "3.12", "3.13")}
UV = Path(sys.executable).with_name("uv")


class NotMade(Exception):
    """No environment for this peer on this machine; the text says why."""


def environment(name: str, lock: Path | None = None) -> Path:
    """The Python of the peer's environment, which is made anew if its lock has changed. ``NotMade`` if that fails.

    ``lock`` is another file than the peer's own."""
    folder, lock = ENVIRONMENTS / name, lock or LOCKS / f"{name}.txt"
    python, done = folder / "bin" / "python", folder / ".lock-sha256"
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()
    if done.exists() and done.read_text() == digest:
        return python
    print(f"making the environment of {name}", file=sys.stderr, flush=True)
    _run("venv", "--clear", "--python", interpreter(name), str(folder))
    _run("pip", "install", "--python", str(python), "--require-hashes", "-r", str(lock))
    done.write_text(digest)
    return python


def interpreter(name: str) -> str:
    """The first interpreter that this peer runs on and that is installed."""
    for request in INTERPRETERS.get(name, (sys.executable,)):
        command = [UV, "python", "find", "--system", request]
        found = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
        if found.returncode == 0:
            return found.stdout.strip()
    raise NotMade(f"needs one of these interpreters: {', '.join(INTERPRETERS[name])}")


def versions(python: Path, names: tuple[str, ...]) -> str:
    """``names`` and their versions in the environment of ``python``, and that Python's own."""
    folders = [str(path) for path in python.parent.parent.glob("lib/python*/site-packages")]
    installed = {found.name.lower(): found.version for found in distributions(path=folders)}
    said = [f"{name} {installed[name]}" for name in names if name in installed]
    configuration = (python.parent.parent / "pyvenv.cfg").read_text()
    lines = dict(line.split(" = ", 1) for line in configuration.splitlines() if " = " in line)
    return ", ".join([*said, f"Python {lines.get('version_info') or lines.get('version')}"])


def library_path(python: Path) -> dict[str, str]:
    """Where the interpreter keeps its shared library, for programs that link to it without knowing."""
    asked = "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"
    folder = subprocess.run(
        [python, "-c", asked], check=True, capture_output=True, text=True, timeout=60
    ).stdout.strip()
    return {"LD_LIBRARY_PATH": os.pathsep.join(filter(None, (folder, os.environ.get("LD_LIBRARY_PATH"))))}


def _run(*words: str) -> None:
    done = subprocess.run(
        [UV, "--quiet", *words],
        check=False,
        env={**os.environ, "UV_PYTHON_DOWNLOADS": "never"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    if done.returncode:
        raise NotMade(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "uv failed")
