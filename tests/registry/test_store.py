# S1, S4, S6: versions, aliases, append-only history, safe changes
from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keelway.clock import Clock
from keelway.contract.baseline import Baseline, ObservedFeature
from keelway.contract.constraints import Constraint, Policy
from keelway.contract.semver import Version
from keelway.errors import AlreadyExists, FailedPrecondition, InvalidInput, NotFound
from keelway.registry import evidence
from keelway.registry.models import Alias, ModelVersion
from keelway.registry.store import Registry


def digest(number: int = 0) -> str:
    return f"sha256:{number:064x}"


BY: dict[str, Any] = {"who": "ann", "why": "because"}


def push(registry: Registry, version: str | None = None, content: int = 0, name: str = "churn") -> ModelVersion:
    return registry.push(name, version, digest(content), **BY)


# Pushing


def test_the_first_version_is_1_0_0_and_the_champion(registry: Registry) -> None:
    pushed = push(registry)
    assert (pushed.model, pushed.version, pushed.model_digest) == ("churn", "1.0.0", digest())
    assert (pushed.created_by, pushed.state) == ("ann", "available")
    assert registry.aliases("churn") == (Alias("churn", "champion", "1.0.0"),)
    assert [model.name for model in registry.models()] == ["churn"]


def test_a_first_version_with_a_number_of_its_own_is_the_champion_too(registry: Registry) -> None:
    assert push(registry, "0.3.0-rc.1").version == "0.3.0-rc.1"
    assert registry.resolve("churn").version == "0.3.0-rc.1"


@pytest.mark.parametrize(
    ("there", "following"),
    [
        (["1.0.0"], "1.1.0"),
        (["1.9.0", "1.10.0", "1.2.0"], "1.11.0"),
        (["2.0.0-rc.1", "1.9.0"], "2.0.0"),
        (["1.0.0-rc.2", "1.0.0"], "1.1.0"),
        (["10.0.0", "9.9.9"], "10.1.0"),
        (["1.2.3+build.7"], "1.3.0"),
    ],
)
def test_a_push_without_a_version_is_the_next_minor_after_the_highest(
    registry: Registry, there: list[str], following: str
) -> None:
    for version in there:
        push(registry, version)
    assert push(registry).version == following


def test_a_later_version_leaves_the_champion_alone(registry: Registry) -> None:
    push(registry)
    push(registry)
    assert registry.resolve("churn").version == "1.0.0"


def test_the_same_version_with_the_same_content_changes_nothing(registry: Registry) -> None:
    first = push(registry, "1.0.0")
    before = registry.state_token(), registry.history()
    assert push(registry, "1.0.0") == first
    assert (registry.state_token(), registry.history()) == before


def test_the_same_version_with_other_content_is_refused_with_a_way_on(registry: Registry) -> None:
    push(registry, "1.0.0")
    push(registry, "1.4.0")
    before = registry.state_token()
    with pytest.raises(AlreadyExists) as refusal:
        push(registry, "1.0.0", content=1)
    assert "1.5.0" in str(refusal.value.hint)
    assert registry.get("churn", "1.0.0").model_digest == digest()
    assert registry.state_token() == before


def test_versions_that_differ_in_build_metadata_only_are_one_version(registry: Registry) -> None:
    push(registry, "1.0.0+a")
    with pytest.raises(AlreadyExists):
        push(registry, "1.0.0+b")
    with pytest.raises(AlreadyExists):
        push(registry, "1.0.0")
    assert push(registry, "1.0.0+a").version == "1.0.0+a"


def test_names_that_differ_in_dashes_only_are_one_name(registry: Registry) -> None:
    push(registry, name="lead_scoring")
    with pytest.raises(AlreadyExists) as refusal:
        push(registry, name="lead-scoring")
    assert "lead_scoring" in str(refusal.value.hint)
    assert [model.name for model in registry.models()] == ["lead_scoring"]


@pytest.mark.parametrize(
    "arguments",
    [
        {"name": "No Name"},
        {"name": ""},
        {"version": "v1"},
        {"version": "latest"},
        {"manifest_digest": "sha256:0"},
        {"manifest_digest": "0" * 64},
        {"manifest_digest": digest().upper()},
        {"who": ""},
        {"who": " "},
        {"why": "x" * 2001},
        {"why": "a\0b"},
    ],
)
def test_a_push_that_cannot_be_right_leaves_no_trace(registry: Registry, arguments: dict[str, str]) -> None:
    given: dict[str, Any] = {"name": "churn", "version": None, "manifest_digest": digest(), **BY, **arguments}
    with pytest.raises(InvalidInput):
        registry.push(given.pop("name"), given.pop("version"), given.pop("manifest_digest"), **given)
    assert registry.models() == ()
    assert registry.state_token() == 0


def test_what_a_push_records_comes_back(registry: Registry) -> None:
    baseline = Baseline(
        rows=5,
        features=(
            ObservedFeature("age", 5, minimum=1.0, maximum=9.5, edges=(1.0, 9.5), counts=(5,)),
            ObservedFeature("city", 4, missing=1, categories={"Zürich": 4}, categories_cut=True),
        ),
    )
    policy = Policy(constraints=(Constraint("age", minimum=0.0),))
    report, metadata = {"rows": 5, "worst": 4e-7, "steps": ["a", None]}, {"seed": 7}
    pushed = registry.push(
        "churn", "1.0.0", digest(), report=report, baseline=baseline, policy=policy, metadata=metadata, **BY
    )
    assert (pushed.report, pushed.baseline, pushed.metadata) == (report, baseline, metadata)
    assert registry.get("churn", "1.0.0") == registry.resolve("churn") == pushed
    assert registry.policy("churn", "1.0.0") == policy


def test_a_version_pushed_with_nothing_has_no_baseline_and_an_empty_policy(registry: Registry) -> None:
    pushed = push(registry)
    assert (pushed.report, pushed.baseline, pushed.metadata) == ({}, None, {})
    assert registry.policy("churn", "1.0.0") == Policy()


# Reading


def test_versions_are_listed_by_precedence_the_highest_first(registry: Registry) -> None:
    for version in ("1.9.0", "1.10.0", "2.0.0-rc.1", "2.0.0-rc.10", "2.0.0-rc.2", "1.0.0"):
        push(registry, version)
    listed = [row.version for row in registry.versions("churn")]
    assert listed == ["2.0.0-rc.10", "2.0.0-rc.2", "2.0.0-rc.1", "1.10.0", "1.9.0", "1.0.0"]


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.builds(
            Version,
            st.integers(0, 12),
            st.integers(0, 12),
            st.integers(0, 2),
            st.sampled_from(["", "rc.1", "rc.10", "rc.2", "alpha"]),
        ),
        min_size=1,
        max_size=8,
        unique=True,
    ),
)
def test_whatever_the_versions_the_next_is_above_all_and_no_pre_release(
    registry: Registry, there: list[Version]
) -> None:
    name = f"m{len(registry.models())}"
    for version in there:
        push(registry, str(version), name=name)
    assert [row.version for row in registry.versions(name)] == [str(version) for version in sorted(there, reverse=True)]
    following = Version.parse(push(registry, name=name).version)
    assert following > max(there)
    assert not following.prerelease


def test_a_version_an_alias_and_nothing_resolve(registry: Registry) -> None:
    for _ in range(3):
        push(registry)
    registry.set_alias("churn", "challenger", "1.2.0", **BY)
    resolved = [registry.resolve("churn", wanted).version for wanted in (None, "champion", "challenger", "1.1.0")]
    assert resolved == ["1.0.0", "1.0.0", "1.2.0", "1.1.0"]


def test_a_range_is_the_highest_available_version_in_it(registry: Registry) -> None:  # S1
    for version in ("1.9.0", "1.10.0", "1.11.0", "1.12.0-rc.1", "2.0.0"):
        push(registry, version)
    registry.archive("churn", "1.11.0", **BY)
    resolved = [registry.resolve("churn", wanted).version for wanted in ("^1.2", "~1.9", ">=1.9", "^1.12.0-rc.1")]
    assert resolved == ["1.10.0", "1.9.0", "2.0.0", "1.12.0-rc.1"]
    with pytest.raises(NotFound) as missing:
        registry.resolve("churn", "^3")
    assert "2.0.0" in str(missing.value.hint)
    with pytest.raises(NotFound, match="no such model"):
        registry.resolve("chum", "^1")
    with pytest.raises(InvalidInput):
        registry.resolve("churn", "^1.x")


def test_without_a_champion_the_highest_available_release_is_served(registry: Registry) -> None:
    for version in ("1.9.0", "1.10.0", "1.11.0", "2.0.0-rc.1"):
        push(registry, version)
    registry.remove_alias("churn", "champion", **BY)
    registry.archive("churn", "1.11.0", **BY)
    assert registry.resolve("churn").version == "1.10.0"


def test_without_a_champion_and_a_release_there_is_nothing_to_serve(registry: Registry) -> None:
    push(registry, "1.0.0-rc.1")
    registry.remove_alias("churn", "champion", **BY)
    with pytest.raises(NotFound):
        registry.resolve("churn")


def test_the_unknown_is_not_found_and_what_is_close_is_named(registry: Registry) -> None:
    push(registry, name="lead-scoring")
    push(registry, name="churn")
    cases = [
        (lambda: registry.resolve("lead-scorin"), "model", "lead-scoring"),
        (lambda: registry.resolve("lead_scoring"), "model", "lead-scoring"),
        (lambda: registry.versions("churm"), "model", "churn"),
        (lambda: registry.aliases("churm"), "model", "churn"),
        (lambda: registry.history("churm"), "model", "churn"),
        (lambda: registry.get("churm", "1.0.0"), "model", "churn"),
        (lambda: registry.policy("churn", "1.0.1"), "version", "1.0.0"),
        (lambda: registry.get("churn", "1.0.1"), "version", "1.0.0"),
        (lambda: registry.resolve("churn", "9.0.0-rc.1"), "version", "1.0.0"),
        (lambda: registry.resolve("churn", "champ"), "alias", "champion"),
        (lambda: registry.set_alias("churn", "champion", "2.0.0", **BY), "version", "1.0.0"),
        (lambda: registry.remove_alias("churn", "champio", **BY), "alias", "champion"),
        (lambda: registry.archive("churn", "3.0.0", **BY), "version", "1.0.0"),
    ]
    before = registry.state_token()
    for call, field, close in cases:
        with pytest.raises(NotFound) as refusal:
            call()
        assert refusal.value.field == field
        assert close in str(refusal.value.hint)
    assert registry.state_token() == before


def test_an_empty_registry_says_how_to_begin(registry: Registry) -> None:
    assert registry.models() == ()
    assert registry.history() == ()
    with pytest.raises(NotFound) as refusal:
        registry.resolve("churn")
    assert "keelway push" in str(refusal.value.hint)


def test_hostile_text_is_never_sql(registry: Registry) -> None:
    push(registry)
    for hostile in ("x' OR '1'='1", 'champion"; DROP TABLE models; --', "%", "_"):
        with pytest.raises(InvalidInput):
            registry.resolve(hostile)
        with pytest.raises((InvalidInput, NotFound)):
            registry.resolve("churn", hostile)
    assert registry.models()


# Aliases


def test_an_alias_moves_and_the_move_is_told(registry: Registry) -> None:
    push(registry)
    push(registry)
    moved = registry.set_alias(
        "churn", "champion", "1.1.0", who="bob", why="better", decide=lambda last, policy: {"auc": 0.9}
    )
    assert moved == Alias("churn", "champion", "1.1.0")
    entry = registry.history("churn", 1)[0]
    assert (entry.action, entry.alias, entry.from_version, entry.to_version) == ("alias", "champion", "1.0.0", "1.1.0")
    assert (entry.who, entry.why, entry.evidence, entry.version) == ("bob", "better", {"auc": 0.9}, None)


def test_an_alias_set_to_where_it_is_changes_nothing(registry: Registry) -> None:
    push(registry)
    before = registry.state_token()
    registry.set_alias("churn", "champion", "1.0.0", **BY)
    assert registry.state_token() == before


def test_a_promotion_decided_on_an_older_state_is_refused(registry: Registry) -> None:
    for _ in range(3):
        push(registry)
    registry.set_alias("churn", "champion", "1.1.0", **BY, expected_from="1.0.0")
    with pytest.raises(FailedPrecondition) as refusal:
        registry.set_alias("churn", "champion", "1.2.0", **BY, expected_from="1.0.0")
    assert "1.1.0" in str(refusal.value.hint)
    with pytest.raises(FailedPrecondition):
        registry.set_alias("churn", "champion", "1.2.0", **BY, expected_from=None)
    with pytest.raises(FailedPrecondition):
        registry.set_alias("churn", "challenger", "1.2.0", **BY, expected_from="1.0.0")
    with pytest.raises(FailedPrecondition):
        registry.remove_alias("churn", "champion", **BY, expected_from="1.0.0")
    assert registry.aliases("churn") == (Alias("churn", "champion", "1.1.0"),)
    registry.set_alias("churn", "challenger", "1.2.0", **BY, expected_from=None)


@pytest.mark.parametrize("alias", ["1.0.0", "7", "latest", "", "UPPER", "a b"])
def test_an_alias_that_could_be_a_version_or_misread_is_refused(registry: Registry, alias: str) -> None:
    push(registry)
    with pytest.raises(InvalidInput):
        registry.set_alias("churn", alias, "1.0.0", **BY)


def test_a_removed_alias_is_gone_and_told(registry: Registry) -> None:
    push(registry)
    registry.remove_alias("churn", "champion", **BY, expected_from="1.0.0")
    assert registry.aliases("churn") == ()
    entry = registry.history("churn", 1)[0]
    assert (entry.action, entry.from_version, entry.to_version) == ("alias", "1.0.0", None)


# Archiving


def test_a_rollback_goes_back_one_step_and_never_to_what_was_just_left(registry: Registry) -> None:  # S4
    for content in range(4):
        push(registry, content=content)
    for version in ("1.1.0", "1.2.0"):
        registry.set_alias("churn", "champion", version, who="ann", why="x")
    assert registry.rollback("churn", who="ann", why="complaints").version == "1.1.0"
    entry = registry.history("churn")[0]
    assert (entry.action, entry.from_version, entry.to_version, entry.why) == ("alias", "1.2.0", "1.1.0", "complaints")
    assert registry.rollback("churn", who="ann", why="x").version == "1.0.0"
    with pytest.raises(FailedPrecondition):
        registry.rollback("churn", who="ann", why="x")
    registry.set_alias("churn", "champion", "1.3.0", who="ann", why="x")
    assert registry.rollback("churn", who="ann", why="x").version == "1.0.0"
    assert registry.resolve("churn").version == "1.0.0"
    assert registry.audit().findings == ()


def test_a_rollback_that_cannot_be_is_refused(registry: Registry) -> None:
    for content in range(3):
        push(registry, content=content)
    with pytest.raises(NotFound):
        registry.rollback("churn", "challenger", who="ann", why="x")
    with pytest.raises(NotFound):
        registry.rollback("chrun", who="ann", why="x")
    with pytest.raises(FailedPrecondition):  # it was nowhere before
        registry.rollback("churn", who="ann", why="x")
    registry.set_alias("churn", "champion", "1.1.0", who="ann", why="x")
    with pytest.raises(FailedPrecondition):  # somebody has moved it meanwhile
        registry.rollback("churn", who="ann", why="x", expected_from="1.0.0")
    registry.archive("churn", "1.0.0", who="ann", why="x")
    with pytest.raises(FailedPrecondition) as refusal:
        registry.rollback("churn", who="ann", why="x")
    assert "restore churn@1.0.0" in str(refusal.value.hint)
    assert registry.resolve("churn").version == "1.1.0"


def test_an_archived_version_is_there_but_not_served_and_comes_back(registry: Registry) -> None:
    push(registry)
    push(registry)
    assert registry.archive("churn", "1.1.0", **BY).state == "archived"
    assert registry.get("churn", "1.1.0").state == "archived"
    assert [row.state for row in registry.versions("churn")] == ["archived", "available"]
    with pytest.raises(FailedPrecondition):
        registry.resolve("churn", "1.1.0")
    with pytest.raises(FailedPrecondition):
        registry.set_alias("churn", "challenger", "1.1.0", **BY)
    assert push(registry).version == "1.2.0", "the number of an archived version is not given again"
    assert registry.restore("churn", "1.1.0", **BY).state == "available"
    assert registry.resolve("churn", "1.1.0").version == "1.1.0"
    actions = [entry.action for entry in registry.history("churn")]
    assert actions == ["restore", "push", "archive", "push", "alias", "push"]


def test_what_an_alias_points_to_is_never_archived(registry: Registry) -> None:  # S6
    push(registry)
    with pytest.raises(FailedPrecondition) as refusal:
        registry.archive("churn", "1.0.0", **BY)
    assert "champion" in str(refusal.value.hint)


def test_archiving_twice_is_once(registry: Registry) -> None:
    push(registry)
    push(registry)
    registry.archive("churn", "1.1.0", **BY)
    before = registry.state_token()
    registry.archive("churn", "1.1.0", **BY)
    assert registry.state_token() == before


# Policies


def test_a_policy_grows_by_one_revision_and_two_authors_cannot_cross(registry: Registry) -> None:
    push(registry)
    constraint = Constraint("age", minimum=0.0, maximum=120.0)
    policy = registry.set_policy("churn", "1.0.0", Policy(constraints=(constraint,)), **BY, expected_revision=1)
    assert policy == registry.policy("churn", "1.0.0") == Policy(2, (constraint,))
    with pytest.raises(FailedPrecondition):
        registry.set_policy("churn", "1.0.0", Policy(), **BY, expected_revision=1)
    entry = registry.history("churn", 1)[0]
    assert (entry.action, entry.version) == ("policy", "1.0.0")
    assert entry.evidence == {"revision": 2, "policy": evidence.digest(policy)}


# History and token


def test_history_is_newest_first_limited_and_in_time_order(registry: Registry, clock: Clock) -> None:
    push(registry, name="a")
    push(registry, name="b")
    push(registry, name="a")
    every = registry.history()
    assert [(entry.model, entry.action) for entry in every] == [
        ("a", "push"),
        ("b", "alias"),
        ("b", "push"),
        ("a", "alias"),
        ("a", "push"),
    ]
    assert [entry.id for entry in every] == [5, 4, 3, 2, 1]
    assert [entry.at for entry in every] == sorted((entry.at for entry in every), reverse=True)
    assert registry.history(limit=2) == every[:2]
    assert [entry.model for entry in registry.history("b")] == ["b", "b"]


def test_times_are_the_clocks_to_the_microsecond(registry: Registry) -> None:
    pushed = push(registry)
    assert pushed.created_at == registry.history()[0].at == registry.models()[0].created_at == 1_700_000_001.123456


def test_the_token_moves_with_every_change_and_with_nothing_else(registry: Registry) -> None:
    push(registry)
    push(registry)
    changes = [
        lambda: push(registry),
        lambda: registry.set_alias("churn", "challenger", "1.1.0", **BY),
        lambda: registry.remove_alias("churn", "challenger", **BY),
        lambda: registry.archive("churn", "1.1.0", **BY),
        lambda: registry.restore("churn", "1.1.0", **BY),
        lambda: registry.set_policy("churn", "1.0.0", Policy(), **BY, expected_revision=1),
    ]
    seen = [registry.state_token()]
    for change in changes:
        change()
        seen.append(registry.state_token())
    assert len(set(seen)) == len(seen)
    (
        registry.models(),
        registry.versions("churn"),
        registry.resolve("churn"),
        registry.history(),
        registry.policy("churn", "1.0.0"),
    )
    assert registry.state_token() == seen[-1]


def test_rows_travel_as_json(registry: Registry) -> None:
    push(registry)
    for row in (*registry.models(), *registry.versions("churn"), *registry.aliases("churn"), *registry.history()):
        assert msgspec.json.decode(msgspec.json.encode(row), type=type(row)) == row
