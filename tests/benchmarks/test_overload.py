"""The section beyond the limit: its load, its verdicts, and its place on the page."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import numpy as np
import pytest
from benchmarks import heavy, page
from benchmarks.load import Refused
from benchmarks.openloop import Answered, drive
from benchmarks.overload import values
from benchmarks.results import Notebook
from tests.benchmarks.stored import section


def stored(rate: float, good: float, p99: float) -> str:
    notebook = Notebook()
    notebook.add("saturation", "keelway", capacity=1000.0, rate=rate)
    notebook.add(
        "overload",
        "keelway",
        capacity=1000.0,
        offered=1500.0,
        good=good,
        p50=20.0,
        p99=p99,
        refused=0.3,
        late=0.0,
        unsent=0.0,
    )
    return page.render({"overload": section("overload", notebook)})


def test_the_page_says_what_was_promised_and_whether_it_was_kept() -> None:
    assert stored(970.0, 900.0, 51.0).count("**met**") == 3
    assert stored(900.0, 700.0, 80.0).count("**missed**") == 3
    assert "1,000 rows a second in runs of 32" in stored(970.0, 900.0, 51.0)


def test_only_honest_runs_are_measurements() -> None:
    found = values(Answered((0.01, 0.02), {200: 2, 503: 1, 504: 1}, 0, 0), 6.0, 1.0)
    assert (found["good"], found["refused"], found["late"]) == (2.0, 0.25, 0.25)
    for wrong in (Answered((0.01,), {200: 1, 500: 1}, 0, 0), Answered((0.01,), {200: 1}, 0, 1), Answered((), {}, 0, 0)):
        with pytest.raises(Refused):
            values(wrong, 6.0, 1.0)


def test_an_open_loop_does_not_wait_for_a_slow_server() -> None:
    """Every request counts from when it was due, and those behind a slow one are sent all the same."""

    async def scenario() -> Answered:
        open_now: set[asyncio.StreamWriter] = set()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            open_now.add(writer)
            try:
                while True:
                    await reader.readuntil(b"\r\n\r\n")
                    await asyncio.sleep(0.2)
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            except asyncio.IncompleteReadError:
                writer.close()
                await writer.wait_closed()
                open_now.discard(writer)

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            found = await drive(port, b"POST / HTTP/1.1\r\n\r\n", 200.0, 0.5, connections=50)
            while open_now:  # noqa: ASYNC110 - a handful of connections, once
                await asyncio.sleep(0.01)
            return found

    began = time.monotonic()
    found = asyncio.run(scenario())
    assert time.monotonic() - began < 5
    assert 50 < len(found.seconds) + found.unsent < 200
    assert found.lost == 0
    assert min(found.seconds) >= 0.19


def test_the_heavy_model_answers_a_row_alike_in_any_company(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(heavy.model(1000, 100).SerializeToString())
    rows = heavy.make(tmp_path, "unused").iloc[:5]
    alone = heavy.answers(tmp_path / "m.onnx", rows)
    assert alone.shape == (5, 2)
    assert np.allclose(alone.sum(axis=1), 1, atol=1e-6)
    assert len(np.unique(alone[:, 0])) == 5
