"""What a model answered for many rows: the two sides of a proof meet in this form."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keelway.types import Array


@dataclass(frozen=True, slots=True)
class Answers:
    """``labels`` [n] are class labels (None for a regressor); ``values`` [n, k] are probabilities, scores or predicted
    values in float64, with k = 0 where there are none. ``accepted`` [n] is false for rows the model refused."""

    labels: Array | None
    values: Array
    accepted: Array

    def __len__(self) -> int:
        return len(self.accepted)

    def take(self, positions: Array) -> Answers:
        labels = None if self.labels is None else self.labels[positions]
        return Answers(labels, self.values[positions], self.accepted[positions])

    def save(self, path: Path) -> None:
        """Write to ``path`` (.npz), labels of text as unicode, never a pickle."""
        arrays = {"values": self.values, "accepted": self.accepted}
        if self.labels is not None:
            arrays["labels"] = self.labels.astype(str) if self.labels.dtype == object else self.labels
        np.savez(path, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path) -> Answers:
        with np.load(path, allow_pickle=False) as arrays:
            labels = arrays.get("labels")
            return cls(labels, arrays["values"], arrays["accepted"])


def joined(parts: list[Answers]) -> Answers:
    labels = None if parts[0].labels is None else np.concatenate([np.asarray(part.labels) for part in parts])
    values = np.concatenate([part.values for part in parts])
    return Answers(labels, values, np.concatenate([part.accepted for part in parts]))
