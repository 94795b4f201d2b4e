"""Names, aliases and references: one spelling each, and no alias that reads as a version."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keelway.contract.names import Reference, check_alias, check_name, fold, name_from_file, parse_reference
from keelway.contract.semver import Version
from keelway.errors import InvalidInput


@pytest.mark.parametrize("name", ["a", "0", "lead-scoring", "lead_scoring", "a" * 63, "2fast"])
def test_valid_names_are_returned(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "A", "-a", "_a", "a.b", "a b", "a\n", "a" * 64, "ä", "a/b", "../a", "a@b", "٣"])
def test_invalid_names_are_refused_without_being_repeated(name: str) -> None:
    with pytest.raises(InvalidInput, match=r"^the model name is not valid$"):
        check_name(name)


def test_underscore_and_hyphen_fold_to_one_name() -> None:
    assert fold("lead_scoring-v_2") == fold("lead-scoring_v-2") == "lead-scoring-v-2"


@pytest.mark.parametrize("alias", ["champion", "challenger", "team-a", "2024q1"])
def test_valid_aliases_are_returned(alias: str) -> None:
    # S4
    assert check_alias(alias) == alias


@pytest.mark.parametrize("alias", ["", "1.2.0", "1", "42", "latest", "Champion", "a.b"])
def test_an_alias_never_reads_as_a_version(alias: str) -> None:
    # S4
    with pytest.raises(InvalidInput):
        check_alias(alias)


@given(st.from_regex(r"[a-z0-9][a-z0-9_-]{0,62}", fullmatch=True))
def test_no_accepted_alias_parses_as_a_version(text: str) -> None:
    try:
        alias = check_alias(text)
    except InvalidInput:
        return
    with pytest.raises(InvalidInput):
        Version.parse(alias)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("churn", Reference("churn")),
        ("churn@1.2.0", Reference("churn", version="1.2.0")),
        ("churn@1.2.0-rc.1+b", Reference("churn", version="1.2.0-rc.1+b")),
        ("churn@champion", Reference("churn", alias="champion")),
        ("churn@^1.2", Reference("churn", range="^1.2")),
        ("churn@>=1.2,<2", Reference("churn", range=">=1.2,<2")),
    ],
)
def test_a_reference_names_a_model_and_perhaps_a_version_a_range_or_an_alias(text: str, expected: Reference) -> None:
    assert parse_reference(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@1.0.0",
        "churn@",
        "churn@1.2",
        "churn@1",
        "churn@latest",
        "churn@a@b",
        "C@1.0.0",
        "churn@^",
        "churn@^x",
        "^1",
    ],
)
def test_anything_else_is_no_reference(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_reference(text)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("model.onnx", "model"),
        ("/data/Lead Scoring (v2).onnx", "lead-scoring-v2"),
        ("best.model.skops", "best-model"),
        ("_private_.pkl", "private"),
        ("modèle.onnx", "mod-le"),
        ("x" * 80 + ".onnx", "x" * 63),
        ("folder/", "folder"),
    ],
)
def test_a_file_gives_a_valid_name(path: str, name: str) -> None:
    assert name_from_file(path) == name


@given(st.text(max_size=100), st.sampled_from("az09"))
def test_a_name_made_from_any_file_is_valid(path: str, letter: str) -> None:
    name = name_from_file(path.replace("/", "").replace(".", "") + letter)
    assert check_name(name) == name


def test_a_file_name_with_nothing_usable_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no model name"):
        name_from_file("模型.onnx")
