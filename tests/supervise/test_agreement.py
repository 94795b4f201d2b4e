"""What all workers serve: loaded by every one before any swaps, whoever fails, comes or goes meanwhile. # C1 S4"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.hosting.test_told import release, wanted

from keelway.artifacts.blobs import BlobStore
from keelway.clock import SystemClock
from keelway.contract.names import parse_reference
from keelway.errors import ErrorCode, FailedPrecondition, KeelwayError, Unavailable
from keelway.hosting.fleet import RETRY_AFTER
from keelway.hosting.registered import RegistrySource
from keelway.hosting.sources import ModelSource, Opened, Release, Wanted
from keelway.ports import RuntimeOptions
from keelway.registry.store import Registry
from keelway.supervise.agreement import Agreement
from keelway.supervise.child import State
from keelway.supervise.messages import Commit, Failure, Message, Prepare, Prepared
from keelway.testing import FakeClock

INTERVAL = 0.005


class Worker:
    """A worker that notes what it is told. ``fails`` are versions that it cannot load; it loads while ``may_load``."""

    def __init__(self, number: int, turn: int = 0, fails: Sequence[str] = ()) -> None:
        self.number, self.turn, self.state = number, turn, State.SERVING
        self.admitted = False
        self.fails = set(fails)
        self.told: list[Message] = []
        self.serves = ""
        self.may_load = asyncio.Event()
        self.may_load.set()
        self.gone = asyncio.get_running_loop().create_future()

    async def ask(self, kind: Callable[[int], Message], patience: float | None = None) -> Prepared | None:
        message = kind(len(self.told) + 1)
        self.told.append(message)
        assert isinstance(message, Prepare | Commit)
        loading = asyncio.ensure_future(self.may_load.wait())
        await asyncio.wait((loading, self.gone), timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        if not loading.done() or self.gone.done():
            loading.cancel()
            return None
        if isinstance(message, Commit):
            self.serves = ",".join(model.default for model in message.wanted)
        releases = [one for model in message.wanted for one in model.releases if one.version in self.fails]
        failure = Failure(ErrorCode.DATA_LOSS, "no such drive", None)
        return Prepared(message.turn, tuple((one.key, failure) for one in releases))

    def kill(self) -> None:
        self.state = State.GONE
        self.gone.set_result(-9)

    def kinds(self) -> list[str]:
        return [type(message).__name__ for message in self.told]


class Wish:
    """A source whose wish the test changes."""

    def __init__(self, *models: Wanted) -> None:
        self.models = models
        self.turn = 0
        self.asked = 0
        self.error: Exception | None = None

    def change(self, *models: Wanted) -> None:
        self.models = models
        self.turn += 1

    def token(self) -> object:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self.turn

    def wanted(self) -> Sequence[Wanted]:
        return self.models

    def open(self, release: Release, options: RuntimeOptions) -> Opened:
        raise AssertionError("a supervisor loads nothing")

    def follow(self, name: str) -> None:
        raise AssertionError


class World:
    def __init__(self, source: ModelSource | None = None) -> None:
        self.clock = FakeClock()
        self.wish = Wish(wanted("1.0.0"))
        self.workers = [Worker(1), Worker(2), Worker(3)]
        for worker in self.workers:
            worker.admitted = True
        self.agreement = Agreement(
            source or self.wish,
            lambda: [one for one in self.workers if one.admitted and one.state is State.SERVING],  # type: ignore[misc]
            self.clock,
        )

    async def until(self, condition: Callable[[], object]) -> None:
        for _ in range(2000):
            if condition():
                return
            await asyncio.sleep(0.001)
        raise AssertionError("still waiting")

    def serve(self) -> list[str]:
        return [one.serves for one in self.workers]


def play(scene: Callable[[World], Coroutine[Any, Any, None]], source: ModelSource | None = None) -> None:
    async def run() -> None:
        world = World(source)
        await world.agreement.begin()
        following = asyncio.create_task(world.agreement.follow(INTERVAL))
        try:
            await scene(world)
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    asyncio.run(run())


def test_nobody_swaps_before_all_have_loaded() -> None:
    async def scene(world: World) -> None:
        slow = world.workers[2]
        slow.may_load.clear()
        world.wish.change(wanted("2.0.0"))
        await world.until(lambda: all(one.told for one in world.workers))
        await asyncio.sleep(0.05)
        assert world.serve() == ["", "", ""]
        slow.may_load.set()
        await world.until(lambda: world.serve() == ["2.0.0"] * 3)
        assert [one.kinds() for one in world.workers] == [["Prepare", "Commit"]] * 3
        assert {one.turn for one in world.workers} == {world.agreement.turn} == {1}

    play(scene)


def test_what_one_cannot_load_waits_in_all_and_is_tried_again() -> None:
    async def scene(world: World) -> None:
        world.workers[1].fails = {"2.0.0"}
        world.wish.change(wanted("2.0.0"), wanted("7.0.0", "n"))
        await world.until(lambda: world.serve() == ["1.0.0,7.0.0"] * 3)  # the other model goes live
        (held,) = world.agreement.held_back
        assert (held.version, held.state, held.reason) == ("2.0.0", "UNAVAILABLE", "no such drive")
        commit = world.workers[0].told[-1]
        assert isinstance(commit, Commit)
        assert commit.held_back == (held,)
        await asyncio.sleep(0.05)
        assert world.agreement.turn == 1  # not at once
        world.workers[1].fails = set()
        world.clock.advance(RETRY_AFTER)
        await world.until(lambda: world.serve() == ["2.0.0,7.0.0"] * 3)
        assert world.agreement.held_back == ()

    play(scene)


def test_who_comes_while_the_others_load_swaps_with_them() -> None:
    async def scene(world: World) -> None:
        world.workers[0].may_load.clear()
        world.wish.change(wanted("2.0.0"))
        await world.until(lambda: all(one.told for one in world.workers))
        late = Worker(4)
        world.workers.append(late)
        await world.agreement.admit(late)  # type: ignore[arg-type] - it serves what they serve still
        assert late.told == []
        world.workers[0].may_load.set()
        await world.until(lambda: world.serve() == ["2.0.0"] * 4)
        assert late.kinds() == ["Prepare", "Commit"]

    play(scene)


def test_who_is_brought_up_to_date_while_the_others_wait_to_swap_swaps_with_them() -> None:
    async def scene(world: World) -> None:
        world.wish.change(wanted("2.0.0"))
        await world.until(lambda: world.serve() == ["2.0.0"] * 3)
        late = Worker(4, turn=0)
        late.may_load.clear()
        world.workers.append(late)
        admitting = asyncio.create_task(world.agreement.admit(late))  # type: ignore[arg-type]
        await world.until(lambda: late.told)
        world.wish.change(wanted("3.0.0"))
        await world.until(lambda: all(one.kinds() == ["Prepare", "Commit", "Prepare"] for one in world.workers[:3]))
        await asyncio.sleep(0.02)
        late.may_load.set()
        await admitting
        await world.until(lambda: world.serve() == ["3.0.0"] * 4)
        assert late.kinds() == ["Commit", "Prepare", "Commit"]

    play(scene)


def test_who_was_started_before_a_change_is_brought_up_to_it_first() -> None:
    async def scene(world: World) -> None:
        world.wish.change(wanted("2.0.0"))
        await world.until(lambda: world.serve() == ["2.0.0"] * 3)
        late = Worker(4, turn=0)
        await world.agreement.admit(late)  # type: ignore[arg-type]
        assert (late.serves, late.kinds()) == ("2.0.0", ["Commit"])
        broken = Worker(5, turn=0, fails=["2.0.0"])
        with pytest.raises(KeelwayError, match="no such drive"):
            await world.agreement.admit(broken)  # type: ignore[arg-type]

    play(scene)


def test_who_dies_while_it_loads_holds_nobody_up() -> None:
    async def scene(world: World) -> None:
        dying = world.workers[2]
        dying.may_load.clear()
        world.wish.change(wanted("2.0.0"))
        await world.until(lambda: dying.told)
        dying.kill()
        await world.until(lambda: world.serve()[:2] == ["2.0.0"] * 2)

    play(scene)


def test_who_hangs_while_it_loads_is_killed(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    from keelway.supervise import agreement

    monkeypatch.setattr(agreement, "_LOADING", 0.05)

    async def scene(world: World) -> None:
        hanging = world.workers[2]
        hanging.may_load.clear()
        world.wish.change(wanted("2.0.0"))
        await world.until(lambda: world.serve()[:2] == ["2.0.0"] * 2)
        assert hanging.state is State.GONE

    play(scene)
    assert "worker 3 is killed: it did not load what is new" in caplog.text


@pytest.mark.parametrize("error", [Unavailable("the registry is away"), RuntimeError("a driver")])
def test_a_source_that_is_away_changes_nothing_and_is_said_once(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene(world: World) -> None:
        world.wish.error = error
        asked = world.wish.asked
        await world.until(lambda: world.wish.asked > asked + 4)
        assert [one.told for one in world.workers] == [[], [], []]
        world.wish.error = None
        world.wish.change(wanted("2.0.0"))
        await world.until(lambda: world.serve() == ["2.0.0"] * 3)

    play(scene)
    assert caplog.text.count("serving what is loaded") == 1


def test_a_reference_that_names_nothing_any_more_holds_up_no_other_model(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    who = {"who": "ada", "why": "a test"}
    with closing(Registry.open(f"sqlite:///{tmp_path}/registry.db", clock=SystemClock())) as registry:
        for place, (name, number) in enumerate([("m", "1.0.0"), ("m", "2.0.0"), ("n", "1.0.0"), ("n", "1.1.0")]):
            registry.push(name, number, f"sha256:{place:064x}", **who)
        registry.set_alias("m", "champion", "2.0.0", **who)
        references = [parse_reference(one) for one in ("m@1.0.0", "n")]

        async def scene(world: World) -> None:
            registry.archive("m", "1.0.0", **who)
            for promoted in ("1.1.0", "1.0.0"):
                registry.set_alias("n", "champion", promoted, **who)
                expected = [f"1.0.0,{promoted}"] * 3
                await world.until(lambda: world.serve() == expected)  # noqa: B023
            commit = world.workers[0].told[-1]
            assert isinstance(commit, Commit)
            assert commit.wanted[0].releases[0].lost.startswith("m@1.0.0 names nothing any more")  # for the index
            assert not world.agreement.stale

        play(scene, RegistrySource(registry, BlobStore.open(tmp_path / "artifacts"), references))
    assert caplog.text.count("names nothing any more") == 1


def test_the_source_is_asked_once_an_interval_however_many_workers_there_are() -> None:
    async def scene(world: World) -> None:
        world.workers += [Worker(number) for number in range(4, 40)]
        asked = world.wish.asked
        await asyncio.sleep(20 * INTERVAL)
        assert world.wish.asked - asked <= 20

    play(scene)


def test_a_model_that_is_gone_from_the_wish_goes_from_all() -> None:
    async def scene(world: World) -> None:
        world.wish.change(wanted("1.0.0"), wanted("1.0.0", "n"))
        await world.until(lambda: world.serve() == ["1.0.0,1.0.0"] * 3)
        world.wish.change(wanted("1.0.0", "n"))
        await world.until(lambda: world.serve() == ["1.0.0"] * 3)

    play(scene)


def test_an_error_keeps_its_code_and_its_hint_on_the_way() -> None:
    error = Failure.of(FailedPrecondition("no", hint="do this")).error()
    assert (error.code, error.message, error.hint) == (ErrorCode.FAILED_PRECONDITION, "no", "do this")
    assert release("1.0.0").key == ("m", "1.0.0", "sha256:m-1.0.0", 1)
