"""What the search for a leak makes of what it reads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.leak import Look, drive, leaks, slope

ROOT = Path(__file__).parents[2]


def test_the_slope_is_what_a_million_requests_add() -> None:
    assert slope([Look(0, 100.0), Look(500_000, 101.0), Look(1_000_000, 102.0)]) == pytest.approx(2.0)
    assert slope([Look(0, 100.0), Look(500_000, 100.0), Look(1_000_000, 100.0)]) == pytest.approx(0.0, abs=1e-9)


def test_a_step_that_stays_is_less_than_growth_that_goes_on() -> None:
    step = [Look(at, 100.0 if at == 0 else 110.0) for at in range(0, 10_000_000, 100_000)]
    growth = [Look(at, 100.0 + at / 1e6) for at in range(0, 10_000_000, 100_000)]
    assert 0 <= slope(step) < 0.2 < slope(growth)


def test_the_rise_of_one_tooth_of_the_collectors_saw_is_no_leak_and_growth_that_goes_on_is() -> None:
    tooth = [Look(at, 100.0 + 2 * at / 1e6) for at in range(0, 1_500_001, 100_000)]
    growth = [Look(at, 100.0 + 2 * at / 1e6) for at in range(0, 10_000_001, 100_000)]
    assert not leaks(tooth, 1.0)
    assert leaks(growth, 1.0)
    assert not leaks(growth, 3.0)


def test_bursts_take_turns_until_enough_is_done() -> None:
    order: list[str] = []

    def burst(name: str, done: int) -> int:
        order.append(name)
        return done

    looks = drive(25, [lambda: burst("a", 10), lambda: burst("b", 5)], lambda: 100.0 + len(order))
    assert order == ["a", "b", "a"]
    assert looks == [Look(0, 100.0), Look(10, 101.0), Look(15, 102.0), Look(25, 103.0)]


@pytest.mark.slow
def test_a_short_search_drives_both_transports_and_prints_the_slope() -> None:
    words = ["--requests", "3000", "--burst", "0.5", "--most", "1000000"]
    command = [sys.executable, "-m", "benchmarks.leak", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["requests", "before", "after", "slope"]
