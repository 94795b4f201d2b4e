"""Keras models for the page of families, saved with a sample each: ``python keras_networks.py FOLDER``, where Keras is.

Runs by path in an environment of its own, and imports nothing of this one.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

os.environ.update(CUDA_VISIBLE_DEVICES="-1", TF_CPP_MIN_LOG_LEVEL="3")

import keras
import numpy as np
from keras import layers


def mlp() -> tuple[Any, Any]:
    hidden = [layers.Dense(128, activation="relu"), layers.Dense(128, activation="relu")]
    return keras.Sequential([keras.Input((30,), name="row"), *hidden, layers.Dense(2, activation="softmax")]), (30,)


def cnn() -> tuple[Any, Any]:
    steps = [
        layers.Conv2D(16, 3, activation="relu"), layers.MaxPooling2D(), layers.BatchNormalization(),
        layers.Conv2D(32, 3, activation="relu"), layers.MaxPooling2D(), layers.Flatten(),
    ]  # fmt: skip
    shape = (28, 28, 1)
    return keras.Sequential([keras.Input(shape, name="image"), *steps, layers.Dense(10, activation="softmax")]), shape


def lstm() -> tuple[Any, Any]:
    return keras.Sequential([keras.Input((20, 8), name="steps"), layers.LSTM(64), layers.Dense(2)]), (20, 8)


def main(folder: Path) -> None:
    keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    for make in (mlp, cnn, lstm):
        model, shape = make()
        model.save(folder / f"{make.__name__}.keras")
        examples = random.normal(size=(100, *shape)).astype(np.float32)
        np.savez(folder / f"{make.__name__}.npz", **{model.inputs[0].name: examples})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
