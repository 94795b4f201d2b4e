"""A tiny run from the command line to the page, on real servers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.lineup import GRPC, REST

ROOT = Path(__file__).parents[2]


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *words]
    return subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_the_list_names_every_section_and_server() -> None:
    listed = bench("--list").stdout
    assert all(name in listed for name in ("growth", *REST.names, *GRPC.names))


def test_an_unknown_section_is_refused() -> None:
    done = bench("nothing")
    assert done.returncode == 2
    assert "no section nothing; there are rest, grpc" in done.stderr


def test_a_page_of_nothing_is_not_written(tmp_path: Path) -> None:
    done = bench("--render", "--results", str(tmp_path / "none"), "--docs", str(tmp_path))
    assert done.returncode == 1
    assert "nothing has been measured yet" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_keelway_and_the_bare_servers_are_measured_and_printed(tmp_path: Path) -> None:
    results = tmp_path / "results"
    sizes = ["--rounds", "1", "--seconds", "0.5", "--results", str(results), "--docs", str(tmp_path)]
    done = bench("rest", "grpc", *sizes, "--servers", "keelway", "bare", "raw ASGI")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in results.iterdir()} == {"rest.json", "grpc.json"}
    assert not (tmp_path / "benchmarks.md").exists()  # A part of the servers is a look.
    assert "## REST" in done.stdout
    assert "| grpc.aio, bare |" in done.stdout

    done = bench("--render", *sizes)
    assert done.returncode == 0, done.stderr
    assert "| keelway, binary tensors |" in (tmp_path / "benchmarks.md").read_text()
    assert (tmp_path / "benchmarks.svg").read_text().startswith("<svg")
