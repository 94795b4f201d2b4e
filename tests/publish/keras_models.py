"""Keras models of every kind, as users would save them: ``python keras_models.py FOLDER``, where TensorFlow is.

Each is saved as ``NAME.keras`` (or .h5), with ``NAME.sample.npz`` to push it with, and ``NAME.expected.npz``: other
inputs (``in/...``), and what Keras answers to them (``out/...``, in the order of the outputs).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

os.environ.update(CUDA_VISIBLE_DEVICES="-1", TF_CPP_MIN_LOG_LEVEL="3")

import keras
import numpy as np
from keras import layers

RANDOM = np.random.default_rng(0)
Arrays = Mapping[str, Any]


def numbers(*shape: int) -> Any:
    return RANDOM.normal(size=shape).astype(np.float32)


def classifier() -> tuple[Any, Callable[[int], Arrays]]:
    """Trained a little, so that the averages of BatchNormalization are not those it starts with."""
    model = keras.Sequential(
        [
            keras.Input((6,), name="row"),
            layers.Dense(16, activation="relu"),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.Dense(3, activation="softmax", name="shares"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    x = numbers(256, 6) * 3 + 1
    model.fit(x, (x[:, 0] > 0).astype(int) + (x[:, 1] > 1), epochs=3, verbose=0)
    return model, lambda n: {"row": numbers(n, 6) * 3 + 1}


def regression() -> tuple[Any, Callable[[int], Arrays]]:
    """A Normalization layer, adapted, in front."""
    normalization = layers.Normalization()
    normalization.adapt(RANDOM.normal(50, 20, size=(200, 4)).astype(np.float32))
    model = keras.Sequential([keras.Input((4,)), normalization, layers.Dense(8, activation="gelu"), layers.Dense(1)])
    return model, lambda n: {"table": RANDOM.normal(50, 20, size=(n, 4)).astype(np.float32)}


def pictures() -> tuple[Any, Callable[[int], Arrays]]:
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1), name="picture"),
            layers.Conv2D(8, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.SeparableConv2D(8, 3, padding="same"),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(10, activation="softmax"),
        ]
    )
    return model, lambda n: {"picture": numbers(n, 28, 28, 1)}


def raw_bytes() -> tuple[Any, Callable[[int], Arrays]]:
    inputs = keras.Input((24, 32, 3), dtype="uint8", name="picture")
    x = layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(6, 3, strides=2, activation="relu")(x))
    model = keras.Model(inputs, layers.Dense(4, activation="softmax")(x))
    return model, lambda n: {"picture": RANDOM.integers(0, 256, (n, 24, 32, 3), dtype=np.uint8)}


def two_and_two() -> tuple[Any, Callable[[int], Arrays]]:
    left, right = keras.Input((4,), name="left"), keras.Input((2, 3), name="right")
    x = layers.Concatenate()([left, layers.Flatten()(right)])
    x = layers.Dense(12, activation="relu")(x)
    outputs = [layers.Dense(3, activation="softmax", name="kind")(x), layers.Dense(1, name="amount")(x)]
    return keras.Model([left, right], outputs), lambda n: {"left": numbers(n, 4), "right": numbers(n, 2, 3)}


def mapped() -> tuple[Any, Callable[[int], Arrays]]:
    """Inputs and outputs by name, in orders that are not the alphabet's."""
    given = {"zoo": keras.Input((4,), name="zoo"), "ant": keras.Input((2,), name="ant")}
    x = layers.Dense(6, activation="tanh")(layers.Concatenate()([given["zoo"], given["ant"]]))
    model = keras.Model(given, {"worth": layers.Dense(1)(x), "class": layers.Dense(2, activation="softmax")(x)})
    return model, lambda n: {"ant": numbers(n, 2), "zoo": numbers(n, 4)}


def sequences() -> tuple[Any, Callable[[int], Arrays]]:
    inputs = keras.Input((None, 5), name="steps")
    model = keras.Model(inputs, layers.Dense(2)(layers.LSTM(7)(inputs)))
    return model, lambda n: {"steps": numbers(n, 9, 5)}


def tokens() -> tuple[Any, Callable[[int], Arrays]]:
    """Whole numbers of any length, 0 where there is none, and an answer for each."""
    inputs = keras.Input((None,), dtype="int32", name="ids")
    x = layers.Embedding(50, 8, mask_zero=True)(inputs)
    model = keras.Model(inputs, layers.Dense(2)(layers.GRU(6, return_sequences=True)(x)))

    def made(n: int) -> Arrays:
        ids = RANDOM.integers(1, 50, (n, 8))
        ids[:, 5:] *= RANDOM.integers(0, 2, (n, 1))
        return {"ids": ids.astype(np.int32)}

    return model, made


def columns() -> tuple[Any, Callable[[int], Arrays]]:
    """An input for each column of a table."""
    given = [keras.Input((1,), name=name) for name in ("age", "income", "rooms")]
    x = layers.Concatenate()([layers.Rescaling(0.1)(one) for one in given])
    model = keras.Model(given, layers.Dense(1)(layers.Dense(5, activation="relu")(x)))
    return model, lambda n: {name: numbers(n, 1) for name in ("age", "income", "rooms")}


def doubled() -> tuple[Any, Callable[[int], Arrays]]:
    inputs = keras.Input((4,), name="x")
    return keras.Model(inputs, layers.Lambda(lambda x: x * 2)(inputs)), lambda n: {"x": numbers(n, 4)}


def in_company() -> tuple[Any, Callable[[int], Arrays]]:
    """What it answers depends on who else is in the batch."""
    inputs = keras.Input((4,), name="x")
    apart = layers.Lambda(lambda x: x - x[:1])(inputs)
    return keras.Model(inputs, apart), lambda n: {"x": numbers(n, 4)}


def remembering() -> tuple[Any, Callable[[int], Arrays]]:
    inputs = keras.Input(batch_shape=(1, 3, 5), name="x")
    return keras.Model(inputs, layers.LSTM(4, stateful=True)(inputs)), lambda n: {"x": numbers(n, 3, 5)}


def fixed() -> tuple[Any, Callable[[int], Arrays]]:
    inputs = keras.Input(batch_shape=(8, 3), name="x")
    return keras.Model(inputs, layers.Dense(2)(inputs)), lambda n: {"x": numbers(n, 3)}


@keras.saving.register_keras_serializable("tests")
class Own(layers.Layer):  # type: ignore[misc]
    def call(self, inputs: Any) -> Any:
        return inputs * 3


def own_layer() -> tuple[Any, Callable[[int], Arrays]]:
    inputs = keras.Input((4,), name="x")
    return keras.Model(inputs, layers.Dense(1)(Own()(inputs))), lambda n: {"x": numbers(n, 4)}


#: Those that are served, and how each is saved; then those that are refused.
SERVED = {
    classifier: ".keras",
    regression: ".keras",
    pictures: ".h5",
    raw_bytes: ".keras",
    two_and_two: ".h5",
    mapped: ".keras",
    sequences: ".keras",
    tokens: ".keras",
    columns: ".keras",
}
ODD = (doubled, in_company, remembering, fixed, own_layer)


def write(folder: Path) -> None:
    for make, suffix in (SERVED | dict.fromkeys(ODD, ".keras")).items():
        keras.utils.set_random_seed(1)
        model, given = make()
        model.save(folder / f"{make.__name__}{suffix}")
        np.savez(folder / f"{make.__name__}.sample.npz", **given(60))
        if make in (remembering, fixed, in_company):
            continue
        asked = given(7)
        called = model({**asked} if len(asked) > 1 else next(iter(asked.values())), training=False)
        answers = called if isinstance(called, dict) else dict(enumerate(keras.tree.flatten(called)))
        left = {f"in/{name}": array for name, array in asked.items()}
        left |= {f"out/{name}": np.asarray(array) for name, array in answers.items()}
        np.savez(folder / f"{make.__name__}.expected.npz", **left)
    own = own_layer()[0]
    own.save(folder / "own_layer.h5")
    own.save_weights(folder / "only.weights.h5")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
