"""What all workers serve where one of them cannot: every name stands for a version that all have. # C1 S4"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keelway.contract.constraints import Policy
from keelway.errors import FailedPrecondition
from keelway.hosting.sources import Opened, Release, Wanted
from keelway.hosting.told import ToldSource, settle
from keelway.ports import RuntimeOptions

VERSIONS = ("1.0.0", "2.0.0", "3.0.0", "4.0.0")
ALIASES = ("champion", "challenger", "blue")


def release(version: str, name: str = "m", revision: int = 1) -> Release:
    return Release(name, version, f"sha256:{name}-{version}", Policy(revision), None)


def wanted(default: str, name: str = "m", revision: int = 1, **aliases: str) -> Wanted:
    versions = dict.fromkeys((default, *aliases.values()))
    return Wanted(name, [release(version, name, revision) for version in versions], default, aliases)


def test_what_nobody_refuses_is_served_as_it_is_wanted() -> None:
    new = wanted("2.0.0", champion="2.0.0", blue="1.0.0")
    assert settle([new], [wanted("1.0.0")], set()) == ((new,), ())


def test_a_refused_champion_leaves_the_one_before_it() -> None:
    before = wanted("1.0.0", champion="1.0.0")
    new = wanted("2.0.0", champion="2.0.0")
    assert settle([new], [before], {release("2.0.0").key}) == ((before,), (release("2.0.0"),))


def test_the_other_aliases_of_its_model_and_the_other_models_move() -> None:
    before = [wanted("1.0.0", champion="1.0.0", challenger="1.0.0"), wanted("1.0.0", "n")]
    new = [wanted("2.0.0", champion="2.0.0", challenger="3.0.0"), wanted("2.0.0", "n")]
    (m, n), _ = settle(new, before, {release("2.0.0").key})
    assert (m.default, m.aliases) == ("1.0.0", {"champion": "1.0.0", "challenger": "3.0.0"})
    assert {one.version for one in m.releases} == {"1.0.0", "3.0.0"}
    assert n.default == "2.0.0"


def test_a_new_policy_that_is_refused_leaves_the_old_one() -> None:
    ((kept,), waiting) = settle([wanted("1.0.0", revision=2)], [wanted("1.0.0")], {release("1.0.0", revision=2).key})
    assert [one.policy.revision for one in kept.releases] == [1]
    assert [one.policy.revision for one in waiting] == [2]


def test_a_model_that_is_new_and_refused_is_left_out_and_one_that_is_not_wanted_goes() -> None:
    new = wanted("1.0.0", "n")
    assert settle([new], [wanted("1.0.0")], {new.releases[0].key}) == ((), (new.releases[0],))


wishes = st.builds(
    lambda default, aliases: wanted(default, **aliases),
    st.sampled_from(VERSIONS),
    st.dictionaries(st.sampled_from(ALIASES), st.sampled_from(VERSIONS)),
)


@given(wishes, wishes, st.sets(st.sampled_from(VERSIONS)))
def test_every_name_stands_for_a_version_that_all_workers_have(before: Wanted, new: Wanted, refused: set[str]) -> None:
    served = {one.version for one in before.releases}
    settled, waiting = settle([new], [before], {release(version).key for version in refused - served})
    (model,) = settled
    has = {one.version for one in model.releases}
    assert model.default in has
    assert set(model.aliases.values()) <= has
    # Nothing that somebody could not load, and nothing that nobody has been asked for.
    assert has <= served | ({one.version for one in new.releases} - refused)
    assert {one.version for one in waiting} == {one.version for one in new.releases} & (refused - served)
    for alias, version in new.aliases.items():
        if version not in refused - served:
            assert model.aliases[alias] == version


def test_a_told_source_changes_its_token_when_it_is_told_and_opens_by_its_opener() -> None:
    opened: list[Release] = []

    def opener(one: Release, options: RuntimeOptions) -> Opened:
        opened.append(one)
        raise FailedPrecondition("enough")

    source = ToldSource([wanted("1.0.0")], opener)
    token = source.token()
    assert source.token() == token
    source.tell([wanted("2.0.0")])
    assert source.token() != token
    assert [model.default for model in source.wanted()] == ["2.0.0"]
    with pytest.raises(FailedPrecondition, match="enough"):
        source.open(release("2.0.0"), RuntimeOptions())
    assert opened == [release("2.0.0")]
    with pytest.raises(FailedPrecondition, match="by itself"):
        source.follow("other")
