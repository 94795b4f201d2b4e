"""Who takes whose place, with workers that are no processes. What processes do is in ``test_workers``. # R4"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from keelway.errors import CorruptArtifact, KeelwayError, Unavailable
from keelway.supervise.child import State
from keelway.supervise.crew import Crew, pause
from keelway.supervise.messages import Done, Drain, Force, Message, Retire
from keelway.testing import FakeClock


class Worker:
    """Ends when it is told to, or by ``die``."""

    def __init__(self, number: int, early: bool, error: KeelwayError | None) -> None:
        self.number, self.early, self.seat, self.turn = number, early, 0, 0
        self.state, self.admitted = State.STARTING, False
        self.told: list[Message] = []
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = loop.create_future()
        self.gone: asyncio.Future[int] = loop.create_future()
        if error is None:
            self.ready.set_result(None)
        else:
            self.ready.set_exception(error)

    def die(self, code: int = -9) -> None:
        if not self.gone.done():
            self.state = State.GONE
            self.gone.set_result(code)

    kill = die

    def tell(self, message: Message) -> None:
        self.told.append(message)
        if isinstance(message, Drain | Retire | Force):
            self.die(0)

    async def ask(self, kind: Callable[[int], Message], patience: float | None = None) -> Message | None:
        return None if self.state is State.GONE else Done(kind(1).turn)


class World:
    def __init__(self, size: int = 3) -> None:
        self.clock = FakeClock()
        self.made: list[Worker] = []
        self.lost: list[Worker] = []
        self.pauses: list[int] = []
        self.cannot_launch = 0
        self.cannot_load: KeelwayError | None = None
        self.cannot_be_admitted: KeelwayError | None = None
        self.crew = Crew(
            size,
            self._launch,  # type: ignore[arg-type]
            self._admit,  # type: ignore[arg-type]
            self.lost.append,  # type: ignore[arg-type]
            1.0,
            1.0,
            self.clock,
            self._pause,
        )

    async def _launch(self, number: int, early: bool) -> Worker:
        if self.cannot_launch:
            self.cannot_launch -= 1
            raise Unavailable("a worker cannot be started: no process left")
        self.made.append(Worker(number, early, self.cannot_load))
        return self.made[-1]

    async def _admit(self, child: Worker) -> None:
        if self.cannot_be_admitted is not None:
            raise self.cannot_be_admitted

    def _pause(self, deaths: int) -> float:
        self.pauses.append(deaths)
        return 0.001

    def serving(self) -> list[int]:
        return sorted(child.number for child in self.crew.serving())

    async def until(self, condition: Callable[[], object]) -> None:
        for _ in range(2000):
            if condition():
                return
            await asyncio.sleep(0.001)
        raise AssertionError("still waiting")


def play(scene: Callable[[World], Coroutine[Any, Any, None]]) -> World:
    async def run() -> World:
        world = World()
        await scene(world)
        await world.crew.stop(0.0)
        return world

    return asyncio.run(run())


def test_the_pause_grows_and_ends_at_half_a_minute() -> None:
    pauses = [pause(deaths) for deaths in range(1, 20)]
    assert pauses[0] == 0.0
    assert pauses == sorted(pauses)
    assert pauses[-1] == 30.0


def test_the_first_workers_answer_probes_while_they_load_and_later_ones_wait_their_turn() -> None:
    async def scene(world: World) -> None:
        await world.crew.start()
        assert world.serving() == [1, 2, 3]
        world.made[1].die()
        await world.until(lambda: len(world.made) == 4 and world.serving() == [1, 2, 3])

    world = play(scene)
    assert [worker.early for worker in world.made] == [True, True, True, False]
    assert len(world.lost) == 4


def test_when_all_have_died_a_new_one_answers_probes_at_once() -> None:
    async def scene(world: World) -> None:
        await world.crew.start()
        for worker in world.made[:]:
            worker.die()
        await world.until(lambda: world.serving() == [1, 2, 3])
        assert world.made[3].early

    play(scene)


def test_a_worker_that_lives_is_forgiven() -> None:
    async def scene(world: World) -> None:
        await world.crew.start()
        for _ in range(3):
            next(worker for worker in reversed(world.made) if worker.number == 1).die()
            count = len(world.made)
            await world.until(lambda count=count: len(world.made) > count and world.serving() == [1, 2, 3])  # type: ignore[misc]
        assert max(world.pauses) == 3
        world.clock.advance(61.0)
        world.pauses.clear()
        next(worker for worker in reversed(world.made) if worker.number == 1).die()
        await world.until(lambda: world.pauses and world.serving() == [1, 2, 3])
        assert set(world.pauses) == {1}

    play(scene)


def test_a_system_without_processes_is_asked_again() -> None:
    async def scene(world: World) -> None:
        await world.crew.start()
        world.cannot_launch = 3
        world.made[0].die()
        await world.until(lambda: world.cannot_launch == 0 and world.serving() == [1, 2, 3])

    assert max(play(scene).pauses) == 4


def test_the_error_of_one_worker_is_that_of_the_start() -> None:
    async def scene(world: World) -> None:
        world.cannot_load = CorruptArtifact("the file differs")
        with pytest.raises(CorruptArtifact, match="the file differs"):
            await world.crew.start()

    play(scene)


@pytest.mark.parametrize("when", ["launch", "load", "admit"])
def test_a_reload_that_fails_leaves_what_there_is(when: str) -> None:
    async def scene(world: World) -> None:
        await world.crew.start()
        world.cannot_launch = int(when == "launch")
        world.cannot_load = Unavailable("away") if when == "load" else None
        world.cannot_be_admitted = Unavailable("away") if when == "admit" else None
        assert not await world.crew.reload()
        assert world.serving() == [1, 2, 3]
        assert [worker.told for worker in world.made[:3]] == [[], [], []]
        assert world.crew.restarts == {"died": 0, "reload": 0}

    play(scene)


def test_a_reload_replaces_one_after_the_other() -> None:
    async def scene(world: World) -> None:
        await world.crew.start()
        assert await world.crew.reload()
        assert world.serving() == [1, 2, 3]
        assert [type(one.told[0]).__name__ for one in world.made[:3]] == ["Retire"] * 3
        assert world.crew.restarts == {"died": 0, "reload": 3}
        await asyncio.sleep(0.02)
        assert len(world.made) == 6  # who has been replaced is not missed

    play(scene)


def test_who_is_stopped_is_not_started_again() -> None:
    async def scene(world: World) -> None:
        await world.crew.start()
        await world.crew.stop(0.0)
        await asyncio.sleep(0.02)
        assert len(world.made) == 3
        assert world.serving() == []
        assert not world.crew.abandoned

    play(scene)


def test_who_does_not_stop_in_time_is_killed_and_that_is_said() -> None:
    async def scene(world: World) -> None:
        await world.crew.start()
        stubborn = world.made[1]
        stubborn.tell = stubborn.told.append  # type: ignore[method-assign]
        forcing = asyncio.create_task(world.crew.force())
        await asyncio.sleep(0.05)
        world.clock.advance(10.0)
        await forcing
        assert stubborn.gone.result() == -9
        assert world.crew.abandoned

    play(scene)
