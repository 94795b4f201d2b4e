"""Semantic versions: the specification's own examples, the laws of an order, and ranges."""

from __future__ import annotations

import itertools
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keelway.contract.semver import MAX_LENGTH, Range, Version, by_precedence, is_range
from keelway.errors import InvalidInput

# semver.org, item 11
CHAIN = [
    "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1",
    "1.0.0", "1.9.0", "1.10.0", "1.11.0", "2.0.0", "2.1.0", "2.1.1",
]  # fmt: skip

NUMBERS = st.integers(0, 10**6)
WORDS = st.from_regex(r"[0-9]*[a-zA-Z-][0-9a-zA-Z-]*", fullmatch=True).filter(lambda word: len(word) < 8)
PRERELEASES = st.lists(NUMBERS.map(str) | WORDS, max_size=3).map(".".join)
BUILDS = st.lists(st.from_regex(r"[0-9A-Za-z-]{1,5}", fullmatch=True), max_size=2).map(".".join)
VERSIONS = st.builds(Version, NUMBERS, NUMBERS, NUMBERS, PRERELEASES, BUILDS)


def test_the_specifications_chain_is_in_order() -> None:
    # S1
    for lower, higher in itertools.combinations(map(Version.parse, CHAIN), 2):
        assert lower < higher
        assert not higher < lower
        assert lower != higher


def test_sorting_puts_the_chain_back_in_order() -> None:
    # S1
    assert [str(version) for version in sorted(map(Version.parse, reversed(CHAIN)))] == CHAIN


@pytest.mark.parametrize(
    "text",
    [
        "1.2.3", "0.0.0", "10.20.30", "1.1.2-prerelease+meta", "1.1.2+meta", "1.1.2+meta-valid", "1.0.0-alpha.0valid",
        "1.0.0-alpha-a.b-c-somethinglong+build.1-aef.1-its-okay", "2.0.0+build.1848", "1.0.0-0A.is.legal",
        "1.2.3----RC-SNAPSHOT.12.9.1--.12+788", "99999999999999999999999.999999999999999999.99999999999999999",
        "1.0.0+0.build.1-rc.10000aaa-kk-0.1", "1.2.3-SNAPSHOT-123", "1.0.0--",
    ],
)  # fmt: skip
def test_valid_texts_come_back_as_written(text: str) -> None:
    assert str(Version.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "", "1", "1.2", "1.2.3.4", "v1.2.3", "1.2.3 ", " 1.2.3", "1.2.3\n", "01.2.3", "1.02.3", "1.2.03", "1.2.3-",
        "1.2.3+", "1.2.3-01", "1.2.3-a..b", "1.2.3-a.", "1.2.3+a+b", "1.2.3-ä", "-1.2.3", "1.2.x", "^1.2.3", "alpha",
        "٣.1.1", "1.2.3-" + "a" * MAX_LENGTH, "9" * 5_000 + ".0.0",
    ],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_invalid_texts_are_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Version.parse(text)
    assert caught.value.message == "the version is not a semantic version"


def test_build_metadata_has_no_say_in_the_order() -> None:
    left, right = Version.parse("1.0.0+a"), Version.parse("1.0.0+b")
    assert left == right
    assert hash(left) == hash(right)
    assert not left < right
    assert left <= right
    assert left < Version.parse("1.0.1-0+a")


def test_a_version_equals_and_orders_with_versions_only() -> None:
    assert Version(1, 0, 0) != "1.0.0"
    with pytest.raises(TypeError):
        assert Version(1, 0, 0) < "1.0.1"


@pytest.mark.parametrize(
    ("text", "part", "expected"),
    [
        ("1.2.3", "major", "2.0.0"),
        ("1.2.3", "minor", "1.3.0"),
        ("1.2.3", "patch", "1.2.4"),
        ("1.2.3+build", "patch", "1.2.4"),
        ("1.2.3-rc.1", "patch", "1.2.3"),
        ("1.3.0-rc.1", "minor", "1.3.0"),
        ("1.3.0-rc.1", "patch", "1.3.0"),
        ("1.3.0-rc.1", "major", "2.0.0"),
        ("1.3.1-rc.1", "minor", "1.4.0"),
        ("2.0.0-rc.1", "major", "2.0.0"),
        ("2.0.0-rc.1", "minor", "2.0.0"),
    ],
)
def test_a_bump_goes_to_the_next_release(text: str, part: Literal["major", "minor", "patch"], expected: str) -> None:
    # S2
    assert str(Version.parse(text).bump(part)) == expected


@given(VERSIONS)
def test_text_and_version_are_each_others_inverse(version: Version) -> None:
    again = Version.parse(str(version))
    assert (again, again.build, str(again)) == (version, version.build, str(version))


@given(VERSIONS, VERSIONS, VERSIONS)
def test_precedence_is_a_total_order(first: Version, second: Version, third: Version) -> None:
    assert (first < second) + (first == second) + (second < first) == 1
    if first <= second <= third:
        assert first <= third


@given(VERSIONS, st.sampled_from(["major", "minor", "patch"]))
def test_a_bump_is_a_higher_release(version: Version, part: Literal["major", "minor", "patch"]) -> None:
    bumped = version.bump(part)
    assert version < bumped
    assert not bumped.prerelease
    assert not bumped.build


@given(VERSIONS.filter(lambda version: version.prerelease))
def test_a_pre_release_stands_before_its_release(version: Version) -> None:
    assert version < Version(version.major, version.minor, version.patch)


def test_texts_sort_by_precedence_and_not_by_letters() -> None:
    # S1
    assert by_precedence(["1.10.0", "1.9.0", "1.10.0-rc.1", "0.9.0"]) == ["0.9.0", "1.9.0", "1.10.0-rc.1", "1.10.0"]


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("^2.1", "2.1.0 2.1.9 2.10.0 2.99.0", "2.0.9 3.0.0 1.9.0"),
        ("^2.1.3", "2.1.3 2.2.0", "2.1.2 3.0.0"),
        ("^2", "2.0.0 2.9.9", "1.9.9 3.0.0"),
        ("^0.2.1", "0.2.1 0.2.9", "0.2.0 0.3.0 1.0.0"),
        ("^0.0.3", "0.0.3", "0.0.2 0.0.4 0.1.0"),
        ("^0.0", "0.0.0 0.0.9", "0.1.0"),
        ("^0", "0.0.0 0.9.9", "1.0.0"),
        ("~2.1.3", "2.1.3 2.1.10", "2.1.2 2.2.0"),
        ("~2.1", "2.1.0 2.1.10", "2.0.9 2.2.0"),
        ("~2", "2.0.0 2.9.0", "1.9.9 3.0.0"),
        (">=1.2,<2", "1.2.0 1.10.0", "1.1.9 2.0.0"),
        (">1.2", "1.3.0 2.0.0", "1.2.0 1.2.9"),
        (">1.2.3", "1.2.4 1.3.0", "1.2.3"),
        ("<=1.4", "1.4.7 1.0.0 0.1.0", "1.5.0"),
        ("<=1.4.2", "1.4.2", "1.4.3"),
        ("=1.4", "1.4.0 1.4.7", "1.5.0 1.3.9"),
        ("=1.4.2", "1.4.2 1.4.2+build", "1.4.3 1.4.1"),
        ("=1", "1.0.0 1.9.9", "2.0.0"),
    ],
)  # fmt: skip
def test_a_range_holds_what_is_in_it(text: str, inside: str, outside: str) -> None:
    # S1
    wanted = Range.parse(text)
    assert [version for version in inside.split() if Version.parse(version) not in wanted] == []
    assert [version for version in outside.split() if Version.parse(version) in wanted] == []


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("^2.1", "2.1.0", "2.2.0-rc.1 3.0.0-rc.1 2.1.0-rc.1"),
        ("^2.2.0-rc.1", "2.2.0-rc.1 2.2.0-rc.2 2.2.0 2.3.0", "2.2.0-beta 2.3.0-rc.1 3.0.0-rc.1"),
        (">=1.0.0-rc.1,<1.0.0", "1.0.0-rc.1 1.0.0-rc.9", "1.0.0 1.0.0-alpha"),
        ("=1.0.0-rc.1", "1.0.0-rc.1", "1.0.0-rc.1.0 1.0.0-rc.2 1.0.0"),
        (">1.0.0-rc.1", "1.0.0-rc.2 1.0.0 2.0.0", "1.0.0-rc.1 2.0.0-rc.1"),
        (">1.2.3", "1.2.4", "1.2.4-rc.1"),
        ("<2.0.0", "1.9.9", "2.0.0-rc.1"),
    ],
)
def test_a_pre_release_is_in_a_range_only_if_the_range_names_one_of_the_same_numbers(
    text: str, inside: str, outside: str
) -> None:
    # S1
    wanted = Range.parse(text)
    assert [version for version in inside.split() if Version.parse(version) not in wanted] == []
    assert [version for version in outside.split() if Version.parse(version) in wanted] == []


@pytest.mark.parametrize(
    "text",
    ["", "^", "1.2.3", "^1.2.x", "^v1", "^01", "^1.2-rc.1", "^1.2.3+b", "^1,", ",^1", ">=1 <2", "=>1", "^^1",
     "^1.2.3.4", ">=2,<1", ">=1,<1", "^1" + "0" * MAX_LENGTH],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_what_is_no_range_or_holds_no_version_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="range of versions") as caught:
        Range.parse(text)
    assert not text or text not in caught.value.message


def test_the_highest_version_in_a_range_is_chosen() -> None:
    # S1
    known = [Version.parse(text) for text in ("1.9.0", "1.10.0", "1.11.0-rc.1", "2.0.0", "0.1.0")]
    assert str(Range.parse("^1.2").highest(known)) == "1.10.0"
    assert Range.parse("^3").highest(known) is None
    assert str(Range.parse("^1.2")) == "^1.2"


def test_no_version_and_no_word_is_meant_as_a_range() -> None:
    assert [text for text in ("1.2.3", "champion", "2024q1") if is_range(text)] == []
    assert [text for text in ("^1", "~1", ">1", "<1", "=1") if not is_range(text)] == []


@given(VERSIONS.filter(lambda version: not version.prerelease), VERSIONS.filter(lambda version: not version.prerelease))
def test_a_caret_holds_what_a_bump_below_a_breaking_one_leads_to(first: Version, other: Version) -> None:
    # S1
    wanted = Range.parse(f"^{first.major}.{first.minor}.{first.patch}")
    assert first in wanted
    assert first.bump("major") not in wanted
    assert (first.bump("minor") in wanted) == (first.major > 0)
    assert (first.bump("patch") in wanted) == (first.major > 0 or first.minor > 0)
    assert other not in wanted or other >= first
