"""The fleet: what is loaded converges on what is wanted, and a failure leaves what answers in place. # S4 C1

Without sockets and with a clock moved by hand; ``test_hot_swap.py`` does the same under load.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from tests.serving import Item, Shelf, score, wait_until

from keelway.config import Settings
from keelway.contract.constraints import Constraint, Policy
from keelway.errors import CorruptArtifact, KeelwayError, NotFound, Unavailable
from keelway.hosting.fleet import RETRY_AFTER, Fleet
from keelway.hosting.sources import Wanted
from keelway.observe.metrics import ServingMetrics
from keelway.ports import Runtime
from keelway.routing.snapshot import ServingSnapshot
from keelway.testing import FakeClock


class Stage:
    """A fleet over a shelf, with the snapshots it has published."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self.clock = FakeClock()
        self.metrics = ServingMetrics()
        self.snapshots: list[ServingSnapshot] = []
        self.fleet = Fleet(shelf, Settings(), self.snapshots.append, self.metrics, self.clock)

    def answering(self, selector: str | None = None, name: str = "m") -> str:
        return self.snapshots[-1].resolve(name, selector).version

    def reasons(self) -> dict[tuple[str, str], str]:
        return {(entry.name, entry.version): entry.reason for entry in self.fleet.index()}


async def until(condition: Callable[[], object]) -> None:
    await asyncio.to_thread(wait_until, condition, "the fleet")


def broken() -> Runtime:
    raise CorruptArtifact("the file differs from its manifest")


def surprising() -> Runtime:
    raise ValueError("a word of the model's own")


def play(shelf: Shelf, scene: Callable[[Stage], Awaitable[None]]) -> None:
    async def whole() -> None:
        stage = Stage(shelf)
        try:
            await scene(stage)
        finally:
            await stage.fleet.close()

    asyncio.run(whole())


def two_versions(second: Callable[[], Runtime] = score) -> Shelf:
    shelf = Shelf().put("m", "1.0.0", Item(score)).put("m", "2.0.0", Item(second))
    return shelf.want("m", "1.0.0", aliases={"champion": "1.0.0"})


def promote(shelf: Shelf) -> None:
    shelf.want("m", "2.0.0", aliases={"champion": "2.0.0"})


def test_before_the_first_load_a_wanted_model_is_unavailable_and_another_unknown() -> None:
    async def scene(stage: Stage) -> None:
        stage.shelf.may_load.clear()
        starting = asyncio.create_task(stage.fleet.start())
        await until(lambda: stage.snapshots)
        assert not stage.fleet.ready
        with pytest.raises(Unavailable):
            stage.answering()
        with pytest.raises(NotFound):
            stage.answering(name="nobody")
        assert stage.reasons() == {("m", "1.0.0"): "loading"}
        stage.shelf.may_load.set()
        await starting
        assert stage.fleet.ready
        assert stage.answering() == "1.0.0"

    play(two_versions(), scene)


def test_a_server_starts_whole_or_not_at_all() -> None:
    async def scene(stage: Stage) -> None:
        with pytest.raises(CorruptArtifact):
            await stage.fleet.start()

    shelf = Shelf().serve("m", score).serve("rotten", broken)
    play(shelf, scene)
    (good,) = shelf.runtimes("m")
    assert good.closed == 1


def test_a_runtime_that_raises_anything_at_the_start_is_a_refusal_without_its_words() -> None:
    async def scene(stage: Stage) -> None:
        with pytest.raises(KeelwayError, match="ValueError") as refusal:
            await stage.fleet.start()
        assert "a word" not in refusal.value.message

    play(Shelf().serve("m", surprising), scene)


def test_a_new_default_answers_and_the_old_runtime_is_closed() -> None:
    async def scene(stage: Stage) -> None:
        await stage.fleet.start()
        promote(stage.shelf)
        await stage.fleet.reconcile()
        assert (stage.answering(), stage.answering("champion")) == ("2.0.0", "2.0.0")
        with pytest.raises(NotFound):
            stage.answering("1.0.0")

    shelf = two_versions()
    play(shelf, scene)
    assert [runtime.closed for runtime in shelf.runtimes("m")] == [1, 1]


@pytest.mark.parametrize(("opener", "reason"), [(broken, "the file differs"), (surprising, "ValueError")])
def test_a_version_that_cannot_be_loaded_leaves_the_old_one_answering(
    opener: Callable[[], Runtime], reason: str
) -> None:
    async def scene(stage: Stage) -> None:
        await stage.fleet.start()
        promote(stage.shelf)
        await stage.fleet.reconcile()
        assert stage.fleet.ready
        # The alias is the caller's word for the default: it goes on working as well.
        assert (stage.answering(), stage.answering("champion")) == ("1.0.0", "1.0.0")
        assert reason in stage.reasons()["m", "2.0.0"]
        assert "a word" not in stage.reasons()["m", "2.0.0"]

    shelf = two_versions(opener)
    play(shelf, scene)
    assert [runtime.closed for runtime in shelf.runtimes("m")] == [1]


def test_a_default_that_cannot_be_loaded_is_not_replaced_by_a_version_nobody_chose() -> None:
    """Neither when the old default is still wanted under an alias, nor when other versions are loaded."""

    async def scene(stage: Stage) -> None:
        await stage.fleet.start()
        stage.shelf.want(
            "m", "2.0.0", "1.0.0", "1.5.0", aliases={"champion": "2.0.0", "previous": "1.0.0", "challenger": "1.5.0"}
        )
        await stage.fleet.reconcile()
        assert stage.answering() == stage.answering("champion") == stage.answering("previous") == "1.0.0"
        assert stage.answering("challenger") == "1.5.0"

    play(two_versions(broken).put("m", "1.5.0", Item(score)), scene)


def test_an_alias_that_moves_to_a_broken_version_keeps_the_version_it_named() -> None:
    async def scene(stage: Stage) -> None:
        await stage.fleet.start()
        stage.shelf.want("m", "1.0.0", "1.5.0", aliases={"champion": "1.0.0", "challenger": "1.5.0"})
        await stage.fleet.reconcile()
        stage.shelf.want("m", "1.0.0", "2.0.0", aliases={"champion": "1.0.0", "challenger": "2.0.0"})
        await stage.fleet.reconcile()
        assert (stage.answering(), stage.answering("challenger")) == ("1.0.0", "1.5.0")

    play(two_versions(broken).put("m", "1.5.0", Item(score)), scene)


def test_a_model_whose_default_was_never_loaded_is_not_served_by_its_challenger() -> None:
    async def scene(stage: Stage) -> None:
        await stage.fleet.start()
        stage.shelf.want("new", "2.0.0", "1.0.0", aliases={"champion": "2.0.0", "challenger": "1.0.0"})
        await stage.fleet.reconcile()
        with pytest.raises(Unavailable):
            stage.answering(name="new")
        assert stage.answering() == "1.0.0"

    shelf = two_versions().put("new", "1.0.0", Item(score)).put("new", "2.0.0", Item(broken))
    play(shelf, scene)


def declare(shelf: Shelf, policy: Policy) -> None:
    shelf.put("m", "1.0.0", Item(score, policy=policy)).want("m", "1.0.0")


def test_a_new_policy_is_a_new_release_of_the_same_loaded_model() -> None:
    # V1
    async def scene(stage: Stage) -> None:
        await stage.fleet.start()
        before = stage.snapshots[-1].resolve("m", None)
        for revision in (2, 3):
            declare(stage.shelf, Policy(revision, (Constraint("age", maximum=revision),)))
            await stage.fleet.reconcile()
            now = stage.snapshots[-1].resolve("m", None)
            assert now.policy_revision == revision
            assert now.metadata["constraints"] == (Constraint("age", maximum=revision),)
            assert (now.runtime, now.batcher, now.usage) == (before.runtime, before.batcher, before.usage)
            assert now.validator is not before.validator
        assert shelf.runtimes("m")[0].closed == 0

    shelf = two_versions()
    play(shelf, scene)
    (only,) = shelf.runtimes("m")
    assert only.closed == 1


def test_a_policy_that_was_prepared_and_not_served_leaves_the_model_open() -> None:
    # V1: one of several workers is told to prepare, and then that another could not.
    async def scene(stage: Stage) -> None:
        await stage.fleet.start()
        release = Item(score, policy=Policy(2)).release("m", "1.0.0")
        assert await stage.fleet.prepare([Wanted("m", [release], "1.0.0")]) == []
        await stage.fleet.reconcile()
        assert stage.snapshots[-1].resolve("m", None).policy_revision == 1
        assert shelf.runtimes("m")[0].closed == 0

    shelf = two_versions()
    play(shelf, scene)
    assert [runtime.closed for runtime in shelf.runtimes("m")] == [1]


def test_a_policy_that_cannot_be_enforced_leaves_the_one_before_it_in_place() -> None:
    # V1
    async def scene(stage: Stage) -> None:
        await stage.fleet.start()
        declare(stage.shelf, Policy(2, (Constraint("age", minimum=0),)))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("keelway.hosting.loading.Validator", lambda *_: broken())
            await stage.fleet.reconcile()
        assert stage.snapshots[-1].resolve("m", None).policy_revision == 1
        stage.clock.advance(RETRY_AFTER + 1)
        await stage.fleet.reconcile()
        assert stage.snapshots[-1].resolve("m", None).policy_revision == 2

    play(two_versions(), scene)


def test_what_has_not_changed_is_not_loaded_again() -> None:
    async def scene(stage: Stage) -> None:
        await stage.fleet.start()
        await stage.fleet.reconcile()
        await stage.fleet.reconcile()

    shelf = two_versions()
    play(shelf, scene)
    assert len(shelf.runtimes("m")) == 1


def test_a_broken_version_is_tried_again_after_a_while_and_not_before() -> None:
    async def scene(stage: Stage) -> None:
        await stage.fleet.start()
        promote(stage.shelf)
        await stage.fleet.reconcile()
        stage.shelf.put("m", "2.0.0", Item(score))
        following = asyncio.create_task(stage.fleet.follow(0.001))
        await asyncio.sleep(0.05)
        await stage.fleet.reconcile()
        assert stage.answering() == "1.0.0"
        stage.clock.advance(RETRY_AFTER + 1)
        await until(lambda: stage.answering() == "2.0.0")
        assert stage.reasons() == {("m", "2.0.0"): ""}
        following.cancel()

    play(two_versions(broken), scene)


def test_a_failure_that_no_longer_matters_causes_no_work() -> None:
    """Neither that of a version no longer wanted nor that of a model unloaded since."""

    async def scene(stage: Stage) -> None:
        await stage.fleet.start()
        promote(stage.shelf)
        await stage.fleet.reconcile()
        stage.shelf.want("m", "1.0.0", aliases={"champion": "1.0.0"})
        await stage.fleet.reconcile()
        with pytest.raises(CorruptArtifact):
            await stage.fleet.load("rotten")
        stage.clock.advance(RETRY_AFTER + 1)
        published = len(stage.snapshots)
        following = asyncio.create_task(stage.fleet.follow(0.001))
        await asyncio.sleep(0.05)
        following.cancel()
        # The source has changed once, by the load.
        assert len(stage.snapshots) <= published + 1

    play(two_versions(broken).put("rotten", "1.0.0", Item(broken)), scene)


@pytest.mark.parametrize("error", [Unavailable("no database"), RuntimeError("anything")], ids=["known", "unknown"])
def test_a_source_out_of_reach_changes_nothing_and_is_followed_again(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene(stage: Stage) -> None:
        await stage.fleet.start()
        following = asyncio.create_task(stage.fleet.follow(0.001))
        stage.shelf.out_of_reach = error
        promote(stage.shelf)
        await asyncio.sleep(0.05)
        assert (stage.answering(), stage.fleet.ready) == ("1.0.0", True)
        stage.shelf.out_of_reach = None
        await until(lambda: stage.answering() == "2.0.0")
        following.cancel()

    play(two_versions(), scene)
    assert len([record for record in caplog.records if "serving what is loaded" in record.message]) == 1


def test_names_are_folded() -> None:
    async def scene(stage: Stage) -> None:
        await stage.fleet.start()
        assert stage.answering(name="lead-scoring") == stage.answering(name="lead_scoring") == "1.0.0"
        await stage.fleet.unload("lead-scoring")
        with pytest.raises(Unavailable):
            stage.answering(name="lead_scoring")

    play(Shelf().serve("lead_scoring", score), scene)


def test_a_load_that_is_cancelled_leaves_nothing_open() -> None:
    async def scene(stage: Stage) -> None:
        stage.shelf.may_load.clear()
        starting = asyncio.create_task(stage.fleet.start())
        await until(lambda: stage.snapshots)
        await asyncio.sleep(0.01)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        stage.shelf.may_load.set()

    shelf = two_versions()
    play(shelf, scene)
    (runtime,) = shelf.runtimes("m")
    assert runtime.closed == 1


def test_what_is_loaded_is_a_metric() -> None:  # M1
    async def scene(stage: Stage) -> None:
        await stage.fleet.start()
        promote(stage.shelf)
        await stage.fleet.reconcile()
        page = stage.metrics.render().decode()
        assert 'ml_model_loaded{model="m",version="2.0.0"} 1.0' in page
        assert 'ml_model_loaded{model="m",version="1.0.0"}' not in page
        assert 'ml_model_load_seconds_count{model="m"} 2.0' in page

    play(two_versions(), scene)
