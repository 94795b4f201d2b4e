"""A short-lived process of its own for whatever runs foreign code: opening a pickle, importing a Python class.

The process gets an environment made of an allow-list, so that no credential of the shell is in it, no input, and a time
limit; it answers in files. That keeps secrets and the parent's memory out of reach and a crash harmless. It is no
sandbox: the code runs as this user and can read what this user can read, which is why it needs consent.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from keelway.errors import DeadlineExceeded, FailedPrecondition
from keelway.publish.exchange import FAILURE, Failure, error_of, read

#: What a Python process needs to start and to find its libraries. Everything else is left behind.
_INHERITED: Final = (
    "DYLD_LIBRARY_PATH",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "LD_LIBRARY_PATH",
    "PATH",
    "PYTHONHOME",
    "PYTHONPATH",
    "SYSTEMROOT",
)

#: Seconds that opening, asking and converting may take.
TIME_LIMIT: Final = 1_800.0


def run_apart(workspace: Path, limit: float = TIME_LIMIT, command: Sequence[str] | None = None) -> None:
    """Run ``keelway.publish.child`` on the request in ``workspace``, or ``command``, and wait.

    Raises the child's own ``KeelwayError`` if it left one, ``DeadlineExceeded`` after ``limit`` seconds, and
    ``FailedPrecondition`` if the process ended without an answer.
    """
    # -P: the folder it starts in is not searched for modules, since foreign code may write there.
    own = [sys.executable, "-P", "-m", "keelway.publish.child", str(workspace)]
    process = _started(own if command is None else command, workspace)
    try:
        status = process.wait(limit)
    except subprocess.TimeoutExpired:
        raise DeadlineExceeded(
            f"opening and converting the file took longer than {limit:.0f} seconds",
            hint="use a smaller sample, or export the model to ONNX yourself and push that",
        ) from None
    finally:
        _end(process)
    if (workspace / FAILURE).exists():
        raise error_of(read(workspace, FAILURE, Failure))
    if status:
        how = f"by signal {-status}" if status < 0 else f"with status {status}"
        raise FailedPrecondition(
            f"the process that opened the file ended {how}",
            hint="the file may be damaged, or need more memory than there is",
        )


def _started(command: Sequence[str], workspace: Path) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(  # noqa: S603 - an interpreter and a file of this package, no shell
            command,
            cwd=workspace,
            env=environment(workspace),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise FailedPrecondition(
            f"{Path(command[0]).name} cannot be started: {error.strerror}", hint="name a Python that runs here"
        ) from error


def environment(workspace: Path) -> dict[str, str]:
    """The child's whole environment. One thread everywhere, so that the same sums are added in the same order."""
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    home = str(workspace)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**inherited, **threads, "HOME": home, "TMPDIR": home, "PYTHONDONTWRITEBYTECODE": "1"}


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the child and whatever it started: it leads a session of its own."""
    if process.poll() is None:
        process.kill()
        process.wait()
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return
