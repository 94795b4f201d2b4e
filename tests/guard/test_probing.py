"""Near-duplicates of one client are counted, in bounded memory. # X1"""

from __future__ import annotations

import numpy as np
import pytest

from keelway.contract.anomaly import fit
from keelway.contract.constraints import Policy, ProbingRule
from keelway.contract.signature import Feature, ModelSignature, pack
from keelway.errors import ErrorCode, Probing
from keelway.guard import probing
from keelway.guard.probing import ProbingWatch, client_of
from keelway.guard.validation import Validator
from keelway.testing import FakeClock
from keelway.types import ANONYMOUS, BoundRequest, Peer, Principal, TensorSpec

WIDTH = 20
FEATURES = tuple(Feature(f"f{position}", "FP32", True) for position in range(WIDTH))
SIGNATURE = ModelSignature(FEATURES, pack(FEATURES), (TensorSpec("y", "FP32", (-1,)),))
DETECTOR = fit(np.random.default_rng(0).normal(size=(600, WIDTH)), tuple(feature.name for feature in FEATURES))


class Client:
    """A validator with one rule, and whoever asks it."""

    def __init__(self, **rule: object) -> None:
        self.clock = FakeClock()
        chosen = ProbingRule(**{"action": "tag", "threshold": 20, "window": 60.0, **rule})  # type: ignore[arg-type]
        self.validator = Validator(SIGNATURE, Policy(1, probing=chosen), None, DETECTOR, self.clock.monotonic)
        self.random = np.random.default_rng(1)

    def send(self, rows: np.ndarray, name: str = "ada") -> BoundRequest:
        bound = BoundRequest({"input": np.atleast_2d(rows).astype(np.float32)}, len(np.atleast_2d(rows)))
        return self.validator.validate(bound, atomic=False, client=name)

    def probe(self, count: int, name: str = "ada", step: float = 0.01) -> list[BoundRequest]:
        """Around one row, a few features moved a little each time."""
        start = self.random.normal(size=WIDTH)
        sent = []
        for _ in range(count):
            row = start.copy()
            row[self.random.integers(WIDTH, size=2)] += step * self.random.normal(size=2)
            sent.append(self.send(row, name))
        return sent

    def ask(self, count: int, name: str = "ada") -> list[BoundRequest]:
        """About different things."""
        return [self.send(self.random.normal(size=WIDTH), name) for _ in range(count)]


def tagged(sent: list[BoundRequest]) -> int:
    return sum("probing" in bound.tags for bound in sent)


def test_a_client_that_feels_its_way_is_tagged_and_counted() -> None:
    client = Client()
    sent = client.probe(60)
    assert tagged(sent[:20]) == 0
    assert tagged(sent[30:]) > 25
    assert sent[-1].anomalies["probing"] == 1


def test_one_that_asks_about_different_things_is_not() -> None:
    assert tagged(Client().ask(3_000)) == 0


def test_the_same_row_again_and_again_is_no_probe() -> None:
    client = Client()
    row = client.random.normal(size=WIDTH)
    assert tagged([client.send(row) for _ in range(500)]) == 0


def test_others_are_not_blamed() -> None:
    client = Client()
    client.probe(100)
    assert tagged(client.probe(15, name="ben")) == 0


def test_rows_of_one_request_count_like_rows_of_many() -> None:
    client = Client()
    start = client.random.normal(size=WIDTH)
    rows = np.tile(start, (60, 1))
    rows[np.arange(60), client.random.integers(WIDTH, size=60)] += 0.01 * client.random.normal(size=60)
    assert tagged([client.send(rows)]) == 1


@pytest.mark.parametrize("hidden", [0, 1])
def test_probes_cannot_be_hidden_between_the_rows_that_are_looked_at(hidden: int) -> None:
    client = Client()
    start = client.random.normal(size=WIDTH)

    def sent() -> BoundRequest:
        rows = client.random.normal(size=(128, WIDTH))
        rows[hidden::2] = start
        rows[hidden::2, 0] += 0.01 * client.random.normal(size=64)
        return client.send(rows)

    # Each time half of the rows are looked at: these or the others.
    assert tagged([sent() for _ in range(40)]) > 0


def test_what_is_long_ago_is_forgiven() -> None:
    client = Client()
    client.probe(60)
    client.clock.advance(600.0)
    assert tagged(client.probe(15)) == 0


def test_it_may_refuse_what_is_near_and_says_when_to_come_back() -> None:
    client = Client(action="reject")
    with pytest.raises(Probing) as refusal:
        client.probe(60)
    assert refusal.value.code is ErrorCode.RESOURCE_EXHAUSTED
    assert (refusal.value.retry_after, refusal.value.anomalies) == (60.0, {"probing": 1})
    client.ask(50)  # other rows still pass


def test_only_so_many_clients_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "MAX_CLIENTS", 50)
    client = Client()
    for number in range(500):
        client.ask(1, name=f"c{number}")
    watch = client.validator._probing
    assert isinstance(watch, ProbingWatch)
    assert list(watch._clients) == [f"c{number}" for number in range(450, 500)]


@pytest.mark.parametrize("value", [np.nan, np.float32(3e38), -np.float32(3e38)])
def test_values_of_any_size_pass(value: float) -> None:
    client = Client()
    row = np.zeros(WIDTH)
    row[3] = value
    assert client.send(row).rows == 1


def test_a_client_is_its_name_or_its_address() -> None:
    class Call:
        def __init__(self, principal: Principal, peer: Peer) -> None:
            self.principal, self.peer = principal, peer

    peer = Peer("192.0.2.7")
    assert client_of(Call(ANONYMOUS, peer)) == "@192.0.2.7"
    assert client_of(Call(Principal("ada"), peer)) == "ada"
