"""A registered version as a folder that MLflow reads: its ONNX files, and the description MLflow wants of them.

``mlflow.pyfunc.load_model`` and ``mlflow.onnx.load_model`` open it. The files are those of the version, verified on
their way.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, Final

from keelway.artifacts.blobs import BlobStore
from keelway.artifacts.manifest import Manifest
from keelway.artifacts.materialise import check_files
from keelway.artifacts.paths import appearing, make_parents
from keelway.clock import rfc3339
from keelway.contract.signature import ModelSignature
from keelway.errors import FailedPrecondition, Unsupported
from keelway.publish.mlflow_import import DESCRIPTION, EXTRA_HINT
from keelway.registry.models import ModelVersion
from keelway.types import NUMPY_DTYPES, TensorSpec

#: MLflow turns doubles into what a tensor takes, and refuses doubles where it was told of floats.
_COLUMN_TYPES: Final[Mapping[str, str]] = {
    "BOOL": "boolean",
    "INT32": "integer",
    "INT64": "long",
    "FP32": "double",
    "FP64": "double",
    "BYTES": "string",
}


def export_folder(version: ModelVersion, manifest: Manifest, blobs: BlobStore, folder: Path) -> None:
    """Write the MLflow model to ``folder``, which must be absent or empty, and appears whole or not at all.

    Raises ``Unsupported`` for a version that is not kept as ONNX, ``FailedPrecondition`` if PyYAML is missing, and what
    ``materialise`` raises.
    """
    if manifest.runtime != "onnx":
        raise Unsupported(
            f"{version.model} {version.version} is kept as {manifest.runtime}, and only ONNX models are exported",
            field="model",
        )
    try:
        import yaml
    except ImportError as error:
        raise FailedPrecondition("writing an MLflow model needs PyYAML", hint=EXTRA_HINT) from error

    requirements = ["mlflow", f"onnx=={installed('onnx')}", f"onnxruntime=={installed('onnxruntime')}"]
    texts = {
        DESCRIPTION: yaml.safe_dump(_description(version, manifest), sort_keys=True),
        "requirements.txt": "\n".join(requirements) + "\n",
        "python_env.yaml": yaml.safe_dump(
            {"python": platform.python_version(), "dependencies": ["-r requirements.txt"]}
        ),
        "conda.yaml": yaml.safe_dump(
            {
                "name": "mlflow-env",
                "channels": ["conda-forge"],
                "dependencies": [f"python={platform.python_version()}", "pip", {"pip": requirements}],
            }
        ),
    }
    check_files(manifest.files)
    # MLflow wants the model beside its description.
    if "/" in _file(manifest) or texts.keys() & {entry.path for entry in manifest.files}:
        raise Unsupported(f"the files of {version.model} {version.version} have names that MLflow needs", field="model")
    with appearing(folder) as filling:
        for entry in manifest.files:
            blobs.fetch(entry.sha256, make_parents(filling, entry.path), entry.size)
        for name, text in texts.items():
            (filling / name).write_text(text, encoding="utf-8")


def _file(manifest: Manifest) -> str:
    return str(manifest.options.get("file", "model.onnx"))


def _description(version: ModelVersion, manifest: Manifest) -> dict[str, Any]:
    data = _file(manifest)
    return {
        "flavors": {
            "onnx": {
                "code": None,
                "data": data,
                "onnx_session_options": None,
                "onnx_version": installed("onnx"),
                "providers": ["CPUExecutionProvider"],
            },
            "python_function": {
                "data": data,
                "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
                "loader_module": "mlflow.onnx",
                "python_version": platform.python_version(),
            },
        },
        "metadata": {
            "keelway": {
                "model": version.model,
                "version": version.version,
                "model_digest": version.model_digest,
            }
        },
        "signature": _signature(manifest.signature),
        "utc_time_created": rfc3339(version.created_at).replace("T", " ").removesuffix("Z"),
    }


def _signature(signature: ModelSignature) -> dict[str, Any]:
    """Columns where the model takes one table of them and answers columns: MLflow gives a table for a table, in which
    there is no place for probabilities. Else the tensors themselves, which MLflow takes and gives as arrays."""
    only = signature.inputs[0]
    flat = all(spec.shape[1:] in ((), (1,)) for spec in signature.outputs)
    if flat and len(signature.inputs) == 1 and only.columns and only.datatype in _COLUMN_TYPES:
        nullable = {feature.name: feature.nullable for feature in signature.features}
        inputs = [
            {"name": name, "type": _COLUMN_TYPES[only.datatype], "required": not nullable[name]}
            for name in only.columns
        ]
    else:
        inputs = [_tensor(spec) for spec in signature.inputs]
    outputs = [_tensor(spec) for spec in signature.outputs]
    return {"inputs": json.dumps(inputs), "outputs": json.dumps(outputs), "params": None}


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    dtype = "str" if spec.datatype == "BYTES" else NUMPY_DTYPES[spec.datatype].name
    return {"name": spec.name, "type": "tensor", "tensor-spec": {"dtype": dtype, "shape": list(spec.shape)}}
