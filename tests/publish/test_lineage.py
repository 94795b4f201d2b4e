"""Where a version comes from is found out by its push, without a word of the data or of what lies elsewhere. # S5"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keelway.errors import InvalidInput
from keelway.publish import lineage
from keelway.publish.lineage import collect, lineage_lines, parse_given


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A Git repository with one commit, and a folder in it."""
    root = tmp_path / "secret-customer" / "project"
    (root / "training").mkdir(parents=True)
    (root / "train.py").write_text("print('trained')\n")
    (root / "pdm.lock").write_text("version = 1\n")
    git(root, "init", "-q")
    git(root, "add", "train.py", "pdm.lock")
    git(root, "-c", "user.name=ann", "-c", "user.email=ann@example.com", "commit", "-qm", "train")
    return root


def git(folder: Path, *arguments: str) -> str:
    ran = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, check=True, timeout=30)
    return ran.stdout.strip()


def test_the_revision_and_whether_it_is_all_of_it(project: Path) -> None:
    revision = git(project, "rev-parse", "HEAD")
    assert collect(None, None, {}, folder=project)["code"] == {"revision": revision, "dirty": False}
    (project / "new.txt").write_text("untracked files are no changes")
    assert collect(None, None, {}, folder=project / "training")["code"]["dirty"] is False
    (project / "train.py").write_text("print('changed')\n")
    assert collect(None, None, {}, folder=project / "training")["code"] == {"revision": revision, "dirty": True}


def test_the_nearest_lockfile_by_its_path_in_the_project(project: Path) -> None:
    found = collect(None, None, {}, folder=project / "training")["lockfile"]
    assert found == {"path": "pdm.lock", "sha256": hashlib.sha256(b"version = 1\n").hexdigest(), "size": 12}
    for name in ("requirements.txt", "pylock.training.toml"):  # the second says more
        (project / "training" / name).write_text("numpy==2.2\n")
        assert collect(None, None, {}, folder=project / "training")["lockfile"]["path"] == f"training/{name}"


def test_no_lockfile_beyond_the_project_is_looked_at(project: Path) -> None:
    (project / "pdm.lock").unlink()
    (project.parent / "poetry.lock").write_text("not of this project")
    assert "lockfile" not in collect(None, None, {}, folder=project / "training")


def test_without_a_repository_or_without_git_there_is_no_revision(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "requirements.txt").write_text("numpy\n")
    plain = collect(None, None, {}, folder=tmp_path)
    assert ("code" in plain, plain["lockfile"]["path"]) == (False, "requirements.txt")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "code" not in collect(None, None, {}, folder=project)


def test_a_git_that_does_not_answer_holds_up_no_push(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = tmp_path / "bin" / "git"
    stuck.parent.mkdir()
    stuck.write_text("#!/bin/sh\nexec sleep 60\n")
    stuck.chmod(0o700)
    monkeypatch.setenv("PATH", f"{stuck.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(lineage, "GIT_SECONDS", 0.2)
    assert "code" not in collect(None, None, {}, folder=project)


def test_a_repository_makes_git_run_nothing(project: Path, tmp_path: Path) -> None:
    git(project, "config", "core.fsmonitor", f"touch {tmp_path}/ran; echo")
    assert collect(None, None, {}, folder=project)["code"]["dirty"] is False
    assert not (tmp_path / "ran").exists()


def test_data_and_file_are_known_by_their_hashes_and_nothing_of_them_is_told(project: Path) -> None:
    sample, file = project.parent / "ann-smith.csv", project.parent / "model.bin"
    sample.write_text("name,age\nann smith,41\n")
    file.write_bytes(b"weights")
    found = collect(file, sample, {}, folder=project)
    assert found["data"] == {"sha256": hashlib.sha256(sample.read_bytes()).hexdigest(), "size": 22}
    assert found["source"] == {"sha256": hashlib.sha256(b"weights").hexdigest(), "size": 7}
    told = json.dumps(found)
    for secret in ("smith", "secret-customer", str(project.parent), "model.bin"):
        assert secret not in told


def test_the_libraries_of_the_push_are_named(tmp_path: Path) -> None:
    found = collect(None, None, {}, folder=tmp_path)["libraries"]
    assert {"python", "keelway", "numpy", "scikit-learn", "onnx"} <= found.keys()


def test_what_an_author_says_is_sorted_by_kind() -> None:
    words = ["seed=42", "parameter.depth=6", "parameter.kind=gini", "metric.auc=0.91", "ticket=ML-7", "note=a=b"]
    assert parse_given(words) == {
        "seed": 42,
        "parameters": {"depth": 6, "kind": "gini"},
        "metrics": {"auc": 0.91},
        "notes": {"ticket": "ML-7", "note": "a=b"},
    }
    assert parse_given(["parameter.bootstrap=true", "parameter.none=null"]) == {
        "parameters": {"bootstrap": True, "none": "null"}
    }


@pytest.mark.parametrize(
    "word",
    [
        "seed",
        "=1",
        "seed=x",
        "metric.auc=high",
        "metric.auc=true",
        "parameter.=1",
        "a b=1",
        "note=\x1b[31m",
        "n=" + "x" * 501,
    ],
)
def test_what_an_author_cannot_say(word: str) -> None:
    with pytest.raises(InvalidInput):
        parse_given([word])


def test_an_author_says_so_much_and_no_more() -> None:
    with pytest.raises(InvalidInput, match="more than 200"):
        parse_given([f"note{number}=1" for number in range(201)])


@given(st.lists(st.text(max_size=30), max_size=5))
def test_whatever_is_said_is_read_or_refused(words: list[str]) -> None:
    with contextlib.suppress(InvalidInput):
        json.dumps(parse_given(words), allow_nan=False)


def test_it_is_told_in_lines() -> None:
    lines = lineage_lines(
        {
            "code": {"revision": "a" * 40, "dirty": True},
            "lockfile": {"path": "pdm.lock", "sha256": "b" * 64, "size": 3},
            "data": {"sha256": "c" * 64, "size": 1234},
            "seed": 42,
            "metrics": {"auc": 0.91},
        }
    )
    assert lines == [
        "code aaaaaaaaaaaa, with changes that are not committed",
        "libraries locked by pdm.lock, sha256 bbbbbbbbbbbb",
        "sample of 1,234 bytes, sha256 cccccccccccc",
        "seed 42",
        "metrics: auc 0.91",
    ]
    assert lineage_lines({}) == []
