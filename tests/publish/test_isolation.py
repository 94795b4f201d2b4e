"""An isolation forest for anomaly tags: what is written is what was trained, and it keeps the rate. # X1"""

from __future__ import annotations

from functools import partial

import msgspec
import numpy as np
import onnx
import pytest
from scipy.stats import betabinom
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import IsolationForest

from keelway.artifacts.blobs import BlobStore
from keelway.artifacts.isolation import forest_of
from keelway.contract.anomaly import Detector, fit
from keelway.errors import CorruptArtifact, FailedPrecondition
from keelway.publish import isolation
from keelway.publish.isolation import grow, written

BLOBS = BlobStore.open("memory://isolation")
CELLS = np.asarray(load_breast_cancer().data)


def names(width: int) -> tuple[str, ...]:
    return tuple(f"f{position}" for position in range(width))


def fitted(rows: np.ndarray) -> Detector:
    detector = fit(rows, names(rows.shape[1]), None, partial(grow, BLOBS))
    assert detector is not None
    return detector


def found(detector: Detector, rows: np.ndarray, rate: float) -> np.ndarray:
    forest = forest_of(BLOBS.read(detector.forest), len(detector.features))
    return detector.scores(rows, forest) > np.array(detector.thresholds(rate).values)


def ring(rows: int) -> np.ndarray:
    random = np.random.default_rng(0)
    angle = random.uniform(0, 2 * np.pi, rows)
    return 10 * np.stack([np.cos(angle), np.sin(angle)], axis=1) + 0.3 * random.normal(size=(rows, 2))


@pytest.mark.parametrize("width", [1, 30])
def test_what_is_written_is_one_node_with_the_scores_of_scikit_learn(width: int) -> None:
    seen, unseen = CELLS[::2, :width], np.vstack([CELLS[1::2, :width], 1e3 * CELLS[:5, :width], -CELLS[:5, :width]])
    forest = IsolationForest(random_state=1).fit(seen)
    model = written(forest)
    assert [node.op_type for node in onnx.load_from_string(model).graph.node] == ["TreeEnsemble"]
    scores = forest_of(model, width)(unseen)
    np.testing.assert_allclose(scores, -forest.score_samples(unseen), atol=1e-6)
    np.testing.assert_allclose([forest_of(model, width)(row[None])[0] for row in unseen[:20]], scores[:20], rtol=1e-7)


def test_a_row_in_an_empty_middle_is_found_by_nothing_else() -> None:
    detector = fitted(ring(4_000))
    assert detector.names == ("robust_z", "mahalanobis", "isolation_forest")
    assert found(detector, np.zeros((1, 2)), 0.02).tolist() == [[False, False, True]]
    assert not found(detector, np.array([[10.0, 0.1], [np.nan, np.nan]]), 0.02)[0].any()


@pytest.mark.parametrize("seed", range(5))
def test_good_rows_that_were_never_seen_are_found_as_often_as_is_said(seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(CELLS))
    sample, unseen = CELLS[order[:398]], CELLS[order[398:]]
    detector = fitted(sample)
    rate = detector.thresholds(0.02).rate
    rank = round(rate * (detector.held_out + 1))
    chance = betabinom(len(unseen), rank, detector.held_out + 1 - rank)
    assert chance.ppf(0.0005) <= found(detector, unseen, 0.02).any(axis=1).sum() <= chance.ppf(0.9995)


def test_no_row_that_was_held_out_has_trained_it() -> None:
    given: list[np.ndarray] = []

    def watched(seen: np.ndarray, held_out: np.ndarray) -> tuple[str, np.ndarray]:
        given.extend((seen, held_out))
        return grow(BLOBS, seen, held_out)

    rows = ring(500)
    detector = fit(rows, names(2), None, watched)
    assert detector is not None
    assert [len(part) for part in given] == [detector.fitted, detector.held_out]
    assert sorted(map(tuple, np.vstack(given).tolist())) == sorted(map(tuple, rows.tolist()))


def test_missing_values_are_the_median() -> None:
    rows = ring(1_000)
    rows[::5, 0] = np.nan
    detector = fitted(rows)
    forest = forest_of(BLOBS.read(detector.forest), 2)
    gap = np.array([[np.nan, 10.0]])
    filled = np.array([[detector.median[0], 10.0]])
    assert detector.scores(gap, forest)[0, 2] == detector.scores(filled, forest)[0, 2]


def test_the_same_sample_makes_the_same_forest_and_it_travels_as_json() -> None:
    detector = fitted(ring(500))
    assert detector == fitted(ring(500))
    assert detector.blobs == (detector.forest,)
    assert detector.forest.startswith("sha256:")
    assert msgspec.json.decode(msgspec.json.encode(detector), type=Detector) == detector


def test_a_detector_without_a_forest_is_stored_as_before_and_loads() -> None:
    plain = fit(ring(500), names(2))
    assert plain is not None
    stored = msgspec.to_builtins(plain)
    assert "forest" not in stored
    loaded = msgspec.convert(stored, Detector)
    assert (loaded.forest, loaded.blobs, loaded.names) == ("", (), ("robust_z", "mahalanobis"))


def test_a_forest_that_was_written_wrongly_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "expected_depth", lambda rows: np.ones(len(rows)))
    blobs = BlobStore.open("memory://wrong")
    with pytest.raises(FailedPrecondition, match="differs from scikit-learn's") as refusal:
        fit(ring(500), names(2), None, partial(grow, blobs))
    assert refusal.value.hint
    assert not list(blobs.stored())


def test_what_is_no_forest_over_so_many_features_is_not_opened() -> None:
    model = written(IsolationForest(random_state=1).fit(ring(300)))
    for wrong, width in ((model, 3), (b"no model", 2), (b"", 2)):
        with pytest.raises(CorruptArtifact):
            forest_of(wrong, width)
    beside = onnx.load_from_string(model)
    tensor = beside.graph.initializer.add(name="beside", data_type=1, dims=[1], data_location=1)
    tensor.external_data.add(key="location", value="/etc/passwd")
    with pytest.raises(CorruptArtifact, match="no isolation forest"):
        forest_of(beside.SerializeToString(), 2)
