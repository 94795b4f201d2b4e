"""The isolation forest of an anomaly detector, opened: an ONNX model of its own in the blob store.

A push writes it (``publish/isolation.py``) and proves it with this; hosting opens it beside the model.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Never

import numpy as np

from keelway.artifacts.onnx_files import external_locations
from keelway.contract.anomaly import Floats, Isolation
from keelway.errors import CorruptArtifact
from keelway.plugins import runtime_loader
from keelway.ports import RuntimeOptions
from keelway.types import Array, TensorSpec

#: Its tensors: rows of the detector's features, and for each the mean depth at which a row is alone, in units of the
#: depth that is to be expected.
ROWS: Final = "rows"
DEPTH: Final = "depth"


def tensors(width: int) -> tuple[TensorSpec, TensorSpec]:
    """Input and output of a forest over ``width`` features."""
    return TensorSpec(ROWS, "FP32", (-1, width)), TensorSpec(DEPTH, "FP32", (-1, 1))


def forest_of(model: bytes, width: int) -> Isolation:
    """The forest in the verified bytes of ``model``, in one thread. Raises ``CorruptArtifact`` if it is none over
    ``width`` features."""
    with TemporaryDirectory(prefix="keelway-") as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model)
        # The digest of the blob is as good as the registry: what it names may read nothing else.
        if external_locations(path):
            raise _no_forest()
        runtime = runtime_loader("onnx")(Path(folder), "", {}, RuntimeOptions(1), _no_member)
    if (*runtime.inputs, *runtime.outputs) != tensors(width):
        raise _no_forest()

    def isolation(rows: Array) -> Floats:
        (depth,) = runtime.run({ROWS: rows.astype(np.float32, copy=False)}, [DEPTH])  # type: ignore[misc]
        # F. T. Liu, K. M. Ting, Z.-H. Zhou, "Isolation forest", ICDM 2008, equation 2.
        scores: Floats = np.exp2(-depth[:, 0].astype(np.float64))
        return scores

    return isolation


def _no_forest() -> CorruptArtifact:
    return CorruptArtifact("what the anomaly detector names is no isolation forest", hint="push the model again")


def _no_member(model_digest: str) -> Never:
    raise _no_forest()
