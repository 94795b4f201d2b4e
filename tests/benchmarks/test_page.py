"""The page and its picture are made of stored results, and of nothing else."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from benchmarks import bounds, page
from benchmarks.chart import WIDTH, Bar, Group, draw
from benchmarks.guards import ARRIVALS
from benchmarks.results import Notebook, Section, store, stored
from msgspec import structs
from tests.benchmarks.stored import cache, grpc, guard, leads, rest, section, small

SVG = "{http://www.w3.org/2000/svg}"


def everything() -> dict[str, Section]:
    return {"rest": rest(), "grpc": grpc(), "leads": leads(), "cache": cache(), **small()}


def test_a_stored_section_is_read_as_it_was_written(tmp_path: Path) -> None:
    store(tmp_path, rest())
    store(tmp_path, grpc())
    assert stored(tmp_path, ["rest", "grpc", "leads"]) == {"rest": rest(), "grpc": grpc()}


def test_a_section_that_is_measured_again_replaces_its_own_alone(tmp_path: Path) -> None:
    for one in everything().values():
        store(tmp_path, one)
    before = page.render(stored(tmp_path, everything()))
    store(tmp_path, rest(keelway=(9000.0, 9001.0, 9002.0)))
    after = page.render(stored(tmp_path, everything()))
    changed = [line for line in after.splitlines() if line not in before.splitlines()]
    assert any("9,001" in line for line in changed)
    assert not any("grpc" in line.lower() for line in changed)
    assert page.render(stored(tmp_path, everything())) == after


def test_a_row_has_the_median_the_spread_and_the_ratio_of_the_rounds() -> None:
    row = "| FastAPI | 3,000 (3,000 to 4,000) | 1.25 | 2.50 | 2.00 × (1.75 to 2.17) |"
    assert row in page.render({"rest": rest()}).splitlines()


def test_every_section_says_when_where_and_of_which_commit() -> None:
    text = page.render(everything())
    said = "*Measured 2026-01-02 03:04 UTC at commit abc1234: A Processor, 2 cores, 15.6 GiB, Linux 6.1"
    assert text.count(said) == len(everything())
    assert "- **FastAPI** (FastAPI-lib 1.2.3): pydantic in and out" in text


def test_figures_in_the_tables_come_from_the_results() -> None:
    digits = re.compile(r"\d[\d,]*(?:\.\d+)?")

    def numbers(text: str) -> set[float]:
        return {float(found.replace(",", "")) for found in digits.findall(text)}

    measured = numbers(str(leads()).replace(", ", " "))
    lines = [line for line in page.render({"leads": leads()}).splitlines() if line.startswith("| keelway")]
    assert lines
    assert set().union(*map(numbers, lines)) <= measured


def test_a_server_that_did_not_start_is_named_with_its_reason() -> None:
    one = section("rest", Notebook(), absent={"Triton (pytriton)": "libpython3.so: cannot open"})
    text = page.render({"rest": one})
    assert "Triton (pytriton) did not start here" in text
    assert "libpython3.so: cannot open" in text


# Bounds


def test_a_bound_is_kept_or_missed_by_a_share_of_itself() -> None:
    text = page.render(everything())
    # 6000/1000, 7000/1000, 6500/900
    assert "REST, one row, 16 connections, at least 6 × the better of MLServer and KServe: **met**, 7.00 ×" in text
    assert "7.00 × (6.00 to 7.22), 17% over the bound." in text
    assert "at least 0.85 × bare grpc.aio with the same inference: **missed**, 0.82 × (0.80 to 0.90), 4% under" in text


def test_a_bound_of_a_server_that_was_not_measured_says_so() -> None:
    assert bounds.outcome(bounds.BOUNDS[0], {"grpc": grpc()}) is None
    text = page.render({"grpc": grpc()})
    assert "REST, one row, 16 connections, against FastAPI: not measured." in text


def test_binary_tensors_are_weighed_against_keelways_own_json() -> None:
    text = page.render({"rest": rest(**{"keelway, binary tensors": (12_000.0, 15_400.0, 11_700.0)})})
    assert "Binary tensors over REST, 32 rows, 16 connections, at least 2 × its own JSON: **met**, 2.00 ×" in text


@pytest.mark.parametrize(
    ("p99", "loaded", "slow", "heavy"),
    [(3.75, 130.0, "**met**, 3.00", "**met**, 130"), (3.8, 130.5, "**missed**, 3.04", "**missed**, 130")],
)
def test_the_slowest_answers_and_the_memory_are_weighed(p99: float, loaded: float, slow: str, heavy: str) -> None:
    notebook = Notebook()
    notebook.add("one row, 16 connections", "keelway", rate=1000.0, p50=1.25, p99=p99)
    one = structs.replace(section("rest", notebook), figures=notebook.figures())
    weighed = Notebook()
    weighed.add("process", "keelway", loaded=loaded)
    lines = list(page._bounds({"rest": structs.replace(one, figures=one.figures + weighed.figures())}))[1]
    assert f"the slowest of 100 answers, at most 3 × the median: {slow}" in lines
    assert f"Resident memory after the load, at most 130 MiB: {heavy}" in lines
    assert "Resident memory after the load, with gRPC: not measured." in lines


def test_the_time_of_a_key_is_printed_and_weighed() -> None:
    said = "The key of one row of 50 packed features takes {} at most 5 µs: **{}**."
    assert said.format("2.50 µs (1.50 to 3.50);", "met") in page.render({"cache": cache()})
    assert said.format("5.50 µs (4.50 to 6.50);", "missed") in page.render({"cache": cache(5.5)})


def test_what_guards_add_together_is_printed_and_weighed_in_a_turn_and_alone() -> None:
    for added, in_turn, alone in ((8.0, "met", "met"), (13.0, "missed", "met"), (26.0, "missed", "missed")):
        lines = page.render({"guard": guard(added)}).splitlines()
        turned, single = (next(line for line in lines if line.startswith(f"| {name}")) for name in ARRIVALS)
        assert f"{added:.1f} µs ({added - 1:.1f} to {added + 1:.1f})" in turned
        assert f"at most 12 µs: **{in_turn}**" in turned
        assert f"at most 25 µs: **{alone}**" in single


def test_an_answer_from_memory_is_weighed_against_the_floor() -> None:
    said = "An answer from memory, one row, 1 connection, at least 0.77 × uvicorn's constant answer: **met**"
    assert said in page.render({"cache": cache()})


# Picture


def test_bars_are_as_long_as_their_values_and_stay_within_the_picture() -> None:
    text = draw([Group("Title", [Bar("a < b", 2000.0, "ours"), Bar("b", 500.0)])], "What it shows")
    root = ET.fromstring(text)
    bars = [found for found in root.iter(f"{SVG}rect") if "bar" in found.attrib["class"]]
    lengths = [float(found.attrib["width"]) for found in bars]
    assert lengths[0] == pytest.approx(4 * lengths[1], abs=0.3)  # written with one digit
    assert all(float(found.attrib["x"]) + float(found.attrib["width"]) < WIDTH for found in bars)
    assert {"a < b", "b", "2,000", "500"} <= {found.text for found in root.iter(f"{SVG}text")}


def test_the_picture_is_no_wider_than_a_phone_and_knows_dark_mode() -> None:
    text = page.picture(everything())
    assert text is not None
    assert int(ET.fromstring(text).attrib["width"]) <= 400
    assert "@media (prefers-color-scheme: dark)" in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


def test_the_picture_orders_by_speed_and_marks_keelway() -> None:
    text = page.picture({"rest": rest()})
    assert text is not None
    labels = re.findall(r'text-anchor="end">([^<]+)<', text)
    assert labels == ["uvicorn, raw ASGI", "keelway", "FastAPI", "KServe", "MLServer"]
    assert text.count('class="bar ours"') == 1


def test_without_servers_there_is_no_picture() -> None:
    assert page.picture(small()) is None
    assert "benchmarks.svg" not in page.render(small())


@pytest.mark.parametrize(
    ("shared", "verdict"),
    [
        (780.0, "1.30 × the memory of one; at most 1.5 ×: **met**"),
        (960.0, "1.60 × the memory of one; at most 1.5 ×: **missed**"),
    ],
)
def test_the_memory_of_workers_is_judged(shared: float, verdict: str) -> None:
    notebook = Notebook()
    for count, own, mapped in ((1, 1000.0, 600.0), (4, 4000.0, shared)):
        notebook.add("workers", f"{count}, own", pss=own)
        notebook.add("workers", f"{count}, shared", pss=mapped, row=18.0, row_own=15.0)
    text = page.render({"workers": section("workers", notebook)})
    assert verdict in text
    assert "| 4 | 4,000 |" in text
    assert "takes 18.0 ms, and 15.0 ms with weights of its own" in text
