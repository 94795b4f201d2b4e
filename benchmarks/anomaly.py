"""``python -m benchmarks.anomaly``: how often the anomaly detector is wrong about real rows, and how much it catches.

Real data are split by chance: seven tenths are the sample of a push, the rest was never seen. False alarms on it are
compared with the rate that the detector says is in force, by the binomial bound. Attacks are made of the same rows with
every column shuffled by itself and clipped into its observed range: each value is an ordinary one, the row is not. The
rule of variance alarms on the largest distance of a value from its mean in deviations, with a threshold from the same
number of held-out rows at the same rate; so do the Mahalanobis distance by itself from one mean and covariance of all
rows, and from those of each class (the least), of which a push keeps what finds more. ``with_forest`` is the detector
that ``--isolation-forest`` makes. It ends with status 1 if a bound does not hold. It writes no page.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from keelway.artifacts.blobs import BlobStore
from keelway.artifacts.isolation import forest_of
from keelway.contract.anomaly import fit
from keelway.publish.isolation import grow
from keelway.statistics.held_out import thresholds
from keelway.statistics.mahalanobis import of_all, of_classes

Rows = np.ndarray
Labelled = tuple[Rows, Rows]
#: The chance that a right detector fails one of the bounds.
ALPHA = 0.001
SPLITS = 20
COLUMNS = ("caught", "by_variance", "of_all", "of_classes", "with_forest")


class Found(NamedTuple):
    """Of ``rows`` unseen rows ``false`` were alarms. ``caught`` and those after it are shares of the attacks; ``apart``
    says whether the detector tells classes apart."""

    said: float
    rows: int
    false: int
    caught: float
    by_variance: float
    held_out: int
    of_all: float = 0.0
    of_classes: float = 0.0
    with_forest: float = 0.0
    apart: bool = False

    @property
    def bound(self) -> tuple[int, int]:
        """The least and the most false alarms that chance allows: of a threshold that is the r-th largest of
        ``held_out`` scores, itself drawn, so that counts are beta-binomial."""
        from scipy.stats import betabinom

        rank = max(round(self.said * (self.held_out + 1)), 1)
        chance = betabinom(self.rows, rank, self.held_out + 1 - rank)
        return int(chance.ppf(ALPHA / 2)), int(chance.ppf(1 - ALPHA / 2))

    @property
    def holds(self) -> bool:
        low, high = self.bound
        return low <= self.false <= high


def breast_cancer() -> Labelled:
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    return np.asarray(data.data), np.asarray(data.target)


def digits() -> Labelled:
    from sklearn.datasets import load_digits

    data = load_digits()
    return np.asarray(data.data), np.asarray(data.target)


def leads() -> Labelled:
    from examples.lead_scoring.train import TARGET, load_leads

    leads = load_leads()
    features = leads.drop(columns=[TARGET]).select_dtypes("number")
    return features.to_numpy(float), np.unique(leads[TARGET], return_inverse=True)[1]


#: Data with its classes, and the declared rate: one that the rows held out support.
DATA: dict[str, tuple[Callable[[], Labelled], float]] = {
    "breast cancer": (breast_cancer, 0.02),
    "digits": (digits, 0.05),
    "leads": (leads, 0.01),
}


def measure(rows: Rows, rate: float, seed: int, classes: Rows | None = None) -> Found:
    """One split of ``rows``. Without ``classes`` all are of one."""
    random = np.random.default_rng(seed)
    order = random.permutation(len(rows))
    cut = int(0.7 * len(rows))
    sample, unseen = rows[order[:cut]], rows[order[cut:]]
    kinds = np.zeros(cut, np.int64) if classes is None else classes[order[:cut]]
    names = tuple(map(str, range(rows.shape[1])))
    detector = fit(sample, names, kinds)
    assert detector is not None
    columns = [names.index(name) for name in detector.features]
    chosen = detector.thresholds(rate)

    def alarms(given: Rows) -> Rows:
        return (detector.scores(given[:, columns]) > np.array(chosen.values)).any(axis=1)

    blobs = BlobStore.open("memory://anomaly")
    larger = fit(sample, names, kinds, partial(grow, blobs))
    assert larger is not None
    forest = forest_of(blobs.read(larger.forest), len(columns))

    def of_larger(given: Rows) -> Rows:
        return (larger.scores(given[:, columns], forest) > np.array(larger.thresholds(rate).values)).any(axis=1)

    shuffled = np.stack([random.permutation(unseen[:, column]) for column in range(rows.shape[1])], axis=1)
    attacks = shuffled.clip(sample.min(axis=0), sample.max(axis=0))
    half = len(sample) // 2

    def alone(score: Callable[[Rows], Rows]) -> float:
        """The share of attacks that ``score``, fitted on the second half of the sample, finds by itself."""
        limit = thresholds(score(sample[:half])[:, None], half, chosen.rate).values[0]
        return float((score(attacks) > limit).mean())

    second = sample[half:][:, columns]
    together, apart = of_all(second).distances, of_classes(second, kinds[half:]).distances
    return Found(
        chosen.rate,
        len(unseen),
        int(alarms(unseen).sum()),
        float(alarms(attacks).mean()),
        alone(by_variance(sample[half:])),
        detector.held_out,
        alone(lambda given: together(given[:, columns])),
        alone(lambda given: apart(given[:, columns])),
        float(of_larger(attacks).mean()),
        bool(detector.volumes),
    )


def by_variance(seen: Rows) -> Callable[[Rows], Rows]:
    mean, deviation = seen.mean(axis=0), seen.std(axis=0)
    varies = deviation > 0
    return lambda rows: (np.abs(rows - mean)[:, varies] / deviation[varies]).max(axis=1)


def lines(name: str, found: list[Found]) -> Iterator[str]:
    """The first split, as one user would see it, and the mean of all."""
    first = found[0]
    low, high = first.bound
    alarms = f"{first.false / first.rows:>10.2%}  ({first.false} of {first.rows}, bound {low} to {high})"
    left = f"{name:<14}{'one split':<12}{first.said:>8.2%}{alarms}".ljust(70)
    yield f"{left}{_shares(found[:1])}"
    said, false = np.mean([one.said for one in found]), np.mean([one.false / one.rows for one in found])
    held, apart = sum(one.holds for one in found), sum(one.apart for one in found)
    left = f"{name:<14}{f'{len(found)} splits':<12}{said:>8.2%}{false:>10.2%}  (bound held in {held})".ljust(70)
    yield f"{left}{_shares(found)}   {apart} of {len(found)} told classes apart"


def _shares(found: list[Found]) -> str:
    return "".join(f"{np.mean([getattr(one, column) for one in found]):>13.1%}" for column in COLUMNS)


def holds(found: list[Found]) -> bool:
    """Whether every split is within its bound, and the catch is twice that of the rule of variance."""
    caught, variance = (sum(getattr(one, name) for one in found) for name in ("caught", "by_variance"))
    return all(one.holds for one in found) and caught >= 2 * variance


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.anomaly", description=__doc__)
    parser.add_argument("data", nargs="*", choices=[*DATA, []], help="which data; all of them by default")
    chosen = parser.parse_args().data or list(DATA)
    heads = "".join(f"{column.replace('_', ' '):>13}" for column in COLUMNS)
    print(f"{'':<26}{'in force':>8}{'false':>10}{'':<26}{heads}")
    wrong = False
    for name in chosen:
        load, rate = DATA[name]
        rows, classes = load()
        found = [measure(rows, rate, seed, classes) for seed in range(SPLITS)]
        for line in lines(name, found):
            print(line)
        wrong |= not holds(found)
    if wrong:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
