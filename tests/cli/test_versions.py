"""Versions as a user meets them: computed by a push, refused, named by ranges, and shown side by side. # S1 S2 S3"""

from __future__ import annotations

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

if TYPE_CHECKING:
    from tests.cli.conftest import Keelway, Ran

pytestmark = pytest.mark.usefixtures("in_one_process")

Pushed = Callable[..., "Ran"]


@pytest.fixture
def pushed(keelway: Keelway, tmp_path: Path) -> Pushed:
    """Push a classifier of ``columns`` whose strength of regularisation is ``strength``."""

    def push(strength: float = 1.0, columns: tuple[str, ...] = ("age", "income"), *options: str) -> Ran:
        random = np.random.default_rng(0)
        frame = pd.DataFrame({"age": random.integers(18, 90, 300), "income": random.normal(50, 10, 300)}).astype(
            np.float32
        )
        frame["debt"] = np.float32(0.5)
        bought = np.where(frame["age"] + frame["income"] + random.normal(0, 9, 300) > 100, "yes", "<no>")
        frame = frame[list(columns)]
        joblib.dump(LogisticRegression(C=strength, max_iter=1000).fit(frame, bought), tmp_path / "model.joblib")
        frame.assign(bought=bought).to_csv(tmp_path / "sample.csv", index=False)
        return keelway(
            "push", "buyers", "model.joblib", "--sample", "sample.csv", "--target", "bought", "--trust-pickle", *options
        )

    return push


def diffed(keelway: Keelway, *arguments: str) -> Any:
    ran = keelway("diff", *arguments, "--json")
    assert ran.code == 0, ran.err
    return json.loads(ran.out)


class Words(HTMLParser):
    """The text of a page, and the tags of it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text = ""
        self.tags: set[str] = set()
        self.feed(page)

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        assert not any(value and value.startswith(("http", "//")) for _, value in attrs)


def test_a_push_computes_its_version_and_says_why(keelway: Keelway, pushed: Pushed) -> None:
    assert "golden sample: 256 rows" in pushed().out
    second = pushed(0.0001)
    assert second.out.startswith("buyers 1.1.0")
    assert "minor beside 1.0.0 (champion):" in second.out
    assert "of 256 rows of its golden sample" in second.out
    refused = pushed(1.0, ("age",), "--version", "1.2.0")
    gone = "the input 'income' is gone: rows that name it are refused (major)"
    line = (
        f"1.2.0 says too little: beside 1.1.0: {gone}; beside 1.0.0: {gone} · push it as 2.0.0, or leave --version out"
    )
    assert (refused.code, refused.err.strip().splitlines()[-1]) == (1, f"keelway: {line}")
    third = json.loads(pushed(1.0, ("age",), "--no-golden", "--json").out)
    assert (third["version"], third["bump"]["computed"]) == ("2.0.0", "2.0.0")
    assert third["report"]["golden"] == "none: --no-golden was said"
    shown = keelway("show", "buyers@^2")
    assert shown.out.startswith("buyers 2.0.0")
    assert "major beside 1.1.0:" in shown.out
    assert json.loads(keelway("show", "buyers@^1.0", "--json").out)["version"] == "1.1.0"
    missing = keelway("show", "buyers@^3")
    assert (missing.code, missing.err) == (1, "keelway: no version is in the range · there is 2.0.0, 1.1.0, 1.0.0\n")


def test_two_versions_are_shown_side_by_side(keelway: Keelway, pushed: Pushed, tmp_path: Path) -> None:
    pushed()
    pushed(0.0001)
    document = diffed(keelway, "buyers@1.1.0")
    assert (document["old"]["version"], document["new"]["version"], document["part"]) == ("1.0.0", "1.1.0", "minor")
    assert [reason["rule"] for reason in document["reasons"]] == ["predictions_differ"]
    (sample,) = document["behaviour"]  # both have the same rows
    assert sample["rows"] == 256
    assert sample["score"] == "probability of yes"
    for feature in ("age", "income"):
        found = [part for part in sample["slices"] if part["feature"] == feature]
        assert sum(part["rows"] for part in found) == 256
        assert sum(part["labels"] for part in found) == sample["overall"]["labels"]
        assert sum(part["rows"] * part["new_mean"] for part in found) / 256 == pytest.approx(sample["new_mean"])
    ran = keelway("diff", "buyers@1.0.0", "buyers@1.1.0", "--html", "diff.html")
    assert ran.out.startswith("buyers 1.0.0 (champion) → buyers 1.1.0: minor\n")
    assert "feature\tslice\trows\tanother class\tmean of probability of yes, 1.0.0" in ran.out
    assert ran.out.endswith("the page is in diff.html\n")
    page = Words((tmp_path / "diff.html").read_text(encoding="utf-8"))
    assert "18 to below" in page.text
    assert "<no>, yes" in page.text
    assert page.tags.isdisjoint({"script", "img", "link", "iframe", "no"})


def test_a_rollback_is_looked_at_the_other_way_round(keelway: Keelway, pushed: Pushed) -> None:
    pushed()
    pushed(1.0, ("age", "income", "debt"))
    there, back = diffed(keelway, "buyers@1.0.0", "buyers@2.0.0"), diffed(keelway, "buyers@2.0.0", "buyers@champion")
    assert "required_input_added" in {reason["rule"] for reason in there["reasons"]}
    assert "input_removed" in {reason["rule"] for reason in back["reasons"]}
    # On its own golden sample the old one can be asked, not the new one on that of the old.
    reasons = {sample["of"]: sample.get("reason") for sample in there["behaviour"]}
    assert reasons == {"1.0.0": "not compared: the rows lack what the other version needs", "2.0.0": None}
    up = json.loads(keelway("promote", "buyers@2.0.0", "--force", "--json").out)
    assert up["breaks"] == []
    gone = "the input 'debt' is gone: rows that name it are refused"
    ran = keelway("rollback", "buyers")
    assert (ran.code, ran.err) == (0, f"· callers of 2.0.0 beware: {gone}\n")
    assert keelway("promote", "buyers@2.0.0", "--force").err.count("beware") == 0
    down = json.loads(keelway("promote", "buyers@1.0.0", "--force", "--json").out)
    assert down["breaks"] == [gone]


def test_what_is_declared_later_counts_in_a_diff(keelway: Keelway, pushed: Pushed, tmp_path: Path) -> None:
    pushed()
    pushed()
    (tmp_path / "policy.toml").write_text("[features.age]\nminimum = 18\nmaximum = 120\n")
    assert keelway("constraints", "edit", "buyers@1.0.1", "--file", "policy.toml", "--yes").code == 0
    document = diffed(keelway, "buyers@1.0.1")
    assert (document["part"], [row["name"] for row in document["declared"]]) == ("major", ["age"])
    assert document["behaviour"] == []
    assert diffed(keelway, "buyers@1.0.1", "buyers@1.0.0")["part"] == "minor"


def test_a_page_that_cannot_be_written_is_one_line(keelway: Keelway, pushed: Pushed) -> None:
    pushed()
    ran = keelway("diff", "buyers@1.0.0", "--html", "nowhere/diff.html")
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert "diff.html cannot be written" in ran.err
    assert keelway("diff", "buyers@9.0.0").code == 1
