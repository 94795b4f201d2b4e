"""The models that the conformance cases ask for, behind one source."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

import numpy as np
from tests.conformance.cases import VALUES
from tests.conformance.row_models import ROW_MODELS
from tests.serving import Item, Shelf

from keelway.contract.signature import Feature, ModelSignature
from keelway.testing import FakeRuntime
from keelway.types import Array, TensorSpec

Function = Callable[[Mapping[str, Array]], Mapping[str, Array]]


def item(signature: ModelSignature, function: Function) -> Item:
    return Item(lambda: FakeRuntime(signature.inputs, signature.outputs, function), signature)


def identity(datatype: str) -> Item:
    signature = ModelSignature(
        (Feature("x", datatype, shape=(2,)),),
        (TensorSpec("x", datatype, (-1, 2)),),
        (TensorSpec("y", datatype, (-1, 2)),),
    )
    return item(signature, lambda inputs: {"y": inputs["x"]})


SUMS = ModelSignature(
    (Feature("a", "FP32"), Feature("b", "FP32")),
    (TensorSpec("input", "FP32", (-1, 2), ("a", "b")),),
    (TensorSpec("sum", "FP32", (-1,)), TensorSpec("product", "FP32", (-1,))),
)


def sums(offset: float) -> Item:
    return item(
        SUMS,
        lambda inputs: {
            "sum": inputs["input"].sum(axis=1) + np.float32(offset),
            "product": inputs["input"].prod(axis=1),
        },
    )


class Patient(FakeRuntime):
    """The sums of rows after as many seconds as the first value of the first row says."""

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> Awaitable[Sequence[Array]]:
        async def answered() -> Sequence[Array]:
            await asyncio.sleep(float(inputs["input"][0, 0]))
            return self._answer(inputs, outputs)

        return answered()


def patient() -> Item:
    function = {"sum": lambda rows: rows.sum(axis=1), "product": lambda rows: rows.prod(axis=1)}
    return Item(
        lambda: Patient(
            SUMS.inputs, SUMS.outputs, lambda inputs: {name: of(inputs["input"]) for name, of in function.items()}
        ),
        SUMS,
    )


def broken() -> Item:
    def fail(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        raise ValueError("a word of the model's own")

    return item(SUMS, fail)


MIXED = ModelSignature(
    (Feature("count", "INT64"), Feature("text", "BYTES"), Feature("loud", "BOOL")),
    (TensorSpec("count", "INT64", (-1,)), TensorSpec("text", "BYTES", (-1,)), TensorSpec("loud", "BOOL", (-1,))),
    (TensorSpec("out", "BYTES", (-1,)), TensorSpec("length", "INT32", (-1,))),
)


def repeat(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
    """A text as often as said, in capitals if loud."""
    words = []
    for text, count, loud in zip(*(inputs[name].tolist() for name in ("text", "count", "loud")), strict=True):
        word = (text.decode() if isinstance(text, bytes) else text) * count
        words.append(word.upper() if loud else word)
    return {"out": np.array(words, dtype=object), "length": np.array([len(word) for word in words], dtype=np.int32)}


FIXED = ModelSignature(
    (Feature("x", "FP64", shape=(3,)),), (TensorSpec("x", "FP64", (3,)),), (TensorSpec("y", "FP64", (2, 2)),)
)


def describe(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
    x = inputs["x"]
    return {"y": np.array([[x.sum(), x.min()], [x.max(), x.max() - x.min()]])}


STRANGE = ModelSignature(
    (Feature("x", "FP32"),), (TensorSpec("x", "FP32", (-1,)),), (TensorSpec("y", "FP32", (-1, 4)),)
)


def strange(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
    return {"y": np.array([[np.nan, np.inf, -np.inf, 1.0]] * len(inputs["x"]), dtype=np.float32)}


HALVES = ModelSignature((Feature("x", "FP32"),), (TensorSpec("x", "FP32", (-1,)),), (TensorSpec("y", "FP16", (-1,)),))

#: All but ``sums``, which has two versions.
MODELS: Mapping[str, Item] = {
    **{f"identity-{datatype.lower()}": identity(datatype) for datatype in VALUES},
    "mixed": item(MIXED, repeat),
    "fixed": item(FIXED, describe),
    "strange": item(STRANGE, strange),
    "halves": item(HALVES, lambda inputs: {"y": (inputs["x"] / 2).astype(np.float16)}),
    "broken": broken(),
    "patient": patient(),
    **ROW_MODELS,
}


def shelf() -> Shelf:
    """All of them, wanted; of ``sums`` two versions, of which 1.0.0 is the champion."""
    source = Shelf()
    for name, entry in MODELS.items():
        source.put(name, "1.0.0", entry).want(name, "1.0.0")
    source.put("sums", "1.0.0", sums(0)).put("sums", "2.0.0", sums(100))
    return source.want("sums", "1.0.0", "2.0.0", aliases={"champion": "1.0.0", "challenger": "2.0.0"})
