"""What a child leaves is read with care: it has run somebody else's code."""

from __future__ import annotations

from pathlib import Path

import pytest

from keelway.errors import CorruptArtifact, InvalidInput, KeelwayError
from keelway.publish import apart, exchange
from keelway.publish.exchange import Failure, answer_file, error_of, failure_of, read


def test_a_link_is_no_answer(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("{}")
    (tmp_path / "result.json").symlink_to(tmp_path / "secret")
    with pytest.raises(CorruptArtifact):
        answer_file(tmp_path, "result.json")


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", ""])
def test_a_path_that_leads_elsewhere_is_no_answer(tmp_path: Path, name: str) -> None:
    with pytest.raises(CorruptArtifact):
        answer_file(tmp_path, name)


def test_an_answer_of_another_form_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "result.json").write_text('{"estimator": 1}')
    with pytest.raises(CorruptArtifact, match="cannot be read"):
        read(tmp_path, "result.json", exchange.EstimatorResult)
    monkeypatch.setattr(exchange, "_MAX_JSON", 3)
    with pytest.raises(CorruptArtifact, match="too much"):
        read(tmp_path, "result.json", exchange.EstimatorResult)


def test_a_deliberate_error_crosses_the_border_whole() -> None:
    error = error_of(failure_of(InvalidInput("no", field="a", hint="do")))
    assert (type(error), error.message, error.field, error.hint) == (InvalidInput, "no", "a", "do")


@pytest.mark.parametrize("name", ["Nonsense", "annotations", "ErrorCode", "StrEnum"])
def test_an_error_of_no_known_kind_is_only_an_error(name: str) -> None:
    assert type(error_of(Failure(name, "no"))) is KeelwayError


def test_the_environment_of_a_child_is_a_list_of_what_is_let_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "x")
    monkeypatch.setenv("LANG", "C.UTF-8")
    given = apart.environment(tmp_path)
    assert "SECRET_TOKEN" not in given
    assert given["LANG"] == "C.UTF-8"
    assert given["HOME"] == given["TMPDIR"] == str(tmp_path)
