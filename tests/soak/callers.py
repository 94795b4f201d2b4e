"""Those who load the servers: callers who check every answer, some who leave, some who send half, and crowds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from random import Random

from tests.soak.asking import BINARY, JSON, ROWS, Channel, Format, ask_http, heard, lost
from tests.soak.judging import LIMIT, MARGIN, STRUCK, Outcome, Tally, Told, judge
from tests.soak.models import FOREST, MOST_ROWS, SLOW, Question, Subject, draw
from tests.supervise.served import Served
from tests.wire import Wire

#: Connections of a crowd, each with one request, and the rows of these.
CROWD, CROWD_ROWS = 300, (1, 2, 4, MOST_ROWS)
#: Seconds that servers wait for a body (``http.body_timeout``).
BODY_TIMEOUT = 2.0
#: Longest pause of a caller between two requests, in seconds: the machine is for the servers too.
_PAUSE = 0.005


class Target:
    """A server under load. ``kills`` are the times at which one of its workers was killed."""

    def __init__(self, name: str, served: Served) -> None:
        self.name = name
        self.served = served
        self.kills: list[float] = []

    def struck(self, ended: float) -> bool:
        return any(kill <= ended <= kill + STRUCK for kill in self.kills)


class Load:
    """All callers, for ``with``: they ask until it ends. ``harm`` of the tally is theirs to fill."""

    def __init__(self, targets: Sequence[Target], subjects: Sequence[Subject], tally: Tally, seed: int) -> None:
        self.targets = targets
        self.subjects = subjects
        self.tally = tally
        self._seed = seed
        self._over = threading.Event()
        works: list[Callable[[Random], None]] = [*[self.call] * 12, *[self.call_grpc] * 6, self.leave, self.leave]
        works += [self.send_half, self.send_half, self.crowd]
        self._threads = [
            threading.Thread(target=self._work, args=(work, number), name=f"{work.__name__}-{number}", daemon=True)
            for number, work in enumerate(works)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        ends = time.monotonic() + 2 * (LIMIT + MARGIN)
        for thread in self._threads:
            thread.join(max(0.0, ends - time.monotonic()))
            if thread.is_alive():
                self.tally.note(thread.name, Outcome.HUNG, "the caller never came back")

    def lanes(self) -> list[str]:
        """Every lane that has to have right answers."""
        return [
            f"{target.name} {form} {subject.name}"
            for target in self.targets
            for subject in self.subjects
            for form in (JSON.name, BINARY.name, "grpc", *((ROWS.name,) if subject.has_rows else ()))
        ]

    def _work(self, work: Callable[[Random], None], number: int) -> None:
        random = Random(self._seed * 1000 + number)
        while not self._over.is_set():
            try:
                work(random)
            except Exception as error:  # noqa: BLE001 - whatever it is, it belongs into the report
                self.tally.note(work.__name__, Outcome.UNEXPECTED, repr(error))
                time.sleep(0.1)

    def _settle(self, lane: str, target: Target, question: Question, told: Told, began: float) -> None:
        ended = time.monotonic()
        outcome, reason = judge(question, told, ended - began, target.struck(ended))
        self.tally.note(lane, outcome, reason, told, ended - began)

    def _connect(self, target: Target, question: Question) -> Wire | None:
        """``None`` once it has been noted why there is no connection."""
        began = time.monotonic()
        try:
            return Wire(target.served.port, LIMIT + MARGIN)
        except OSError as error:
            self._settle(f"{target.name} connect", target, question, lost(error), began)
            time.sleep(0.05)
            return None

    # One visit each

    def call(self, random: Random) -> None:
        """Some requests on one connection."""
        target = random.choice(self.targets)
        question = draw(random, self.subjects)
        wire = self._connect(target, question)
        if wire is None:
            return
        with wire:
            for _ in range(random.randint(1, 60)):
                form = self._form(random, question)
                began = time.monotonic()
                told, again = ask_http(wire, form, question)
                self._settle(f"{target.name} {form.name} {question.subject.name}", target, question, told, began)
                if not again or self._over.is_set():
                    return
                time.sleep(random.random() * _PAUSE)
                question = draw(random, self.subjects)

    def _form(self, random: Random, question: Question) -> Format:
        return random.choice((JSON, BINARY, ROWS) if question.subject.has_rows else (JSON, BINARY))

    def call_grpc(self, random: Random) -> None:
        target = random.choice(self.targets)
        channel = Channel(target.served.grpc)
        try:
            for _ in range(random.randint(1, 100)):
                question = draw(random, self.subjects)
                began = time.monotonic()
                told = channel.ask(question)
                self._settle(f"{target.name} grpc {question.subject.name}", target, question, told, began)
                if told.code in ("BROKEN", "SILENT") or self._over.is_set():
                    return
                time.sleep(random.random() * _PAUSE)
        finally:
            channel.close()

    def leave(self, random: Random) -> None:
        """A caller who goes at any moment of a request, its answer included."""
        time.sleep(random.random() * 2 * _PAUSE)
        target, question = random.choice(self.targets), draw(random, self.subjects)
        wire = self._connect(target, question)
        if wire is None:
            return
        with suppress(OSError):
            wire.send(self._form(random, question).write(question))
            time.sleep(random.random() * 0.008)
            if random.random() < 0.3:
                wire.socket.recv(random.randint(1, 200))
        (wire.reset if random.random() < 0.5 else wire.close)()
        self.tally.note(f"{target.name} leaving", Outcome.LEFT)

    def send_half(self, random: Random) -> None:
        """Half a request; then nobody, or nothing more until the server has enough of it (408)."""
        target, question = random.choice(self.targets), draw(random, self.subjects)
        form = self._form(random, question)
        data = form.write(question)
        head = data.index(b"\r\n\r\n") + 4
        wire = self._connect(target, question)
        if wire is None:
            return
        lane = f"{target.name} half"
        with wire:
            began = time.monotonic()
            with suppress(OSError):
                wire.send(data[: random.randrange(head, len(data))])
            if random.random() < 0.8:
                time.sleep(random.random() * 0.1)
                self.tally.note(lane, Outcome.LEFT)
                return
            wire.socket.settimeout(BODY_TIMEOUT + MARGIN)
            told, _ = heard(wire, form, question)
            ended = time.monotonic()
        if told.code in ("TOO_SLOW", "UNAVAILABLE", "DEADLINE_EXCEEDED"):
            self.tally.note(lane, Outcome.REFUSED, "", told, ended - began)
        elif told.code == "BROKEN" and target.struck(ended):
            self.tally.note(lane, Outcome.LOST, "", told)
        else:
            self.tally.note(lane, Outcome.HUNG if told.code == "SILENT" else Outcome.UNEXPECTED, f"{told}", told)

    def crowd(self, random: Random) -> None:
        """Far more than there is room for, at once; every one of them is owed an answer in time."""
        if self._over.wait(4 + 4 * random.random()):
            return
        target = random.choice(self.targets)
        subjects = [subject for subject in self.subjects if subject.name in (SLOW, FOREST)]
        asked = []
        for _ in range(CROWD):
            subject = random.choice(subjects)
            pool = subject.pools[0]
            places = [random.randrange(len(pool.rows)) for _ in range(random.choice(CROWD_ROWS))]
            question = Question(subject, pool, places, deadline=random.choice((0.1, 0.3, None)))
            if (wire := self._connect(target, question)) is not None:
                asked.append((wire, question, JSON.write(question)))
        sent = [(wire, question, time.monotonic(), self._sent(wire, data)) for wire, question, data in asked]
        for wire, question, began, failed in sent:
            # All are read by one thread: how long each of them took is not to be seen, that one hangs is.
            wire.socket.settimeout(LIMIT + MARGIN)
            told = failed or heard(wire, JSON, question)[0]
            wire.close()
            waited = min(time.monotonic() - began, LIMIT) if told.code != "SILENT" else LIMIT + MARGIN
            outcome, reason = judge(question, told, waited, target.struck(time.monotonic()) or self._was(target, began))
            self.tally.note(f"{target.name} crowd {question.subject.name}", outcome, reason, told)

    def _sent(self, wire: Wire, data: bytes) -> Told | None:
        try:
            wire.send(data)
        except OSError as error:
            return lost(error)
        return None

    def _was(self, target: Target, began: float) -> bool:
        """Whether a worker was killed since: the end of a connection is seen when its turn comes to be read."""
        return any(kill >= began for kill in target.kills)
