"""Models that people send rows to: a classifier with declared limits and a sample, a regressor, and one that takes
bytes and refuses some of them itself."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from tests.serving import Item

from keelway.contract.baseline import Baseline, ObservedFeature
from keelway.contract.constraints import Constraint, Policy
from keelway.contract.signature import Feature, ModelSignature
from keelway.errors import InvalidInput, RowsRefused
from keelway.testing import FakeRuntime
from keelway.types import Array, TensorSpec

LOAN = ModelSignature(
    (
        Feature("age", "FP32"),
        Feature("income", "FP32", nullable=True),
        Feature("city", "BYTES"),
        Feature("member", "BOOL"),
    ),
    (
        TensorSpec("numbers", "FP32", (-1, 2), ("age", "income")),
        TensorSpec("city", "BYTES", (-1,)),
        TensorSpec("member", "BOOL", (-1,)),
    ),
    (TensorSpec("label", "BYTES", (-1,)), TensorSpec("probabilities", "FP32", (-1, 2))),
    "classification",
    ("no", "yes"),
    "label",
    "probabilities",
)

LOAN_POLICY = Policy(3, (Constraint("age", minimum=0, maximum=120), Constraint("city", categories=("Basel", "Zürich"))))

LOAN_SAMPLE = Baseline(
    100, (ObservedFeature("age", 100, minimum=18, maximum=90), ObservedFeature("income", 100, minimum=0, maximum=500))
)


def decide(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
    """``yes`` with 0.75 to members and with 0.25 to others; 0.125 more for an income that is known."""
    known = ~np.isnan(inputs["numbers"][:, 1])
    yes = np.where(inputs["member"], 0.75, 0.25) + np.where(known, 0.125, 0.0)
    labels = np.array(["yes" if share > 0.5 else "no" for share in yes.tolist()], dtype=object)
    return {"label": labels, "probabilities": np.stack([1 - yes, yes], axis=1).astype(np.float32)}


PRICE = ModelSignature(
    (Feature("rooms", "INT64"), Feature("area", "FP64")),
    (TensorSpec("rooms", "INT64", (-1,)), TensorSpec("area", "FP64", (-1,))),
    (TensorSpec("price", "FP64", (-1,)),),
    "regression",
    (),
    "price",
)


LENGTHS = ModelSignature(
    (Feature("data", "BYTES"),), (TensorSpec("data", "BYTES", (-1,)),), (TensorSpec("length", "INT64", (-1,)),)
)


def measure(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
    """The length in bytes; what begins with 0xFF 0xFF is refused, row by row."""
    rows = [value if isinstance(value, bytes) else value.encode() for value in inputs["data"].tolist()]
    bad = [row for row, data in enumerate(rows) if data.startswith(b"\xff\xff")]
    if bad:
        raise RowsRefused.of({row: InvalidInput("the data begin with two bytes of ones", field="data") for row in bad})
    return {"length": np.array([len(data) for data in rows], dtype=np.int64)}


def item(
    signature: ModelSignature, function: object, policy: Policy | None = None, sample: Baseline | None = None
) -> Item:
    return Item(
        lambda: FakeRuntime(signature.inputs, signature.outputs, function),  # type: ignore[arg-type]
        signature,
        policy or Policy(),
        sample,
    )


ROW_MODELS: Mapping[str, Item] = {
    "loan": item(LOAN, decide, LOAN_POLICY, LOAN_SAMPLE),
    "lengths": Item(lambda: FakeRuntime(LENGTHS.inputs, LENGTHS.outputs, measure), LENGTHS, runtime="python"),
    "price": item(PRICE, lambda inputs: {"price": inputs["rooms"] * 1000.0 + inputs["area"]}),
}
