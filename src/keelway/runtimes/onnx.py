"""ONNX Runtime, the main engine. Loads ``model.onnx`` (or the file named in the manifest) from a verified folder.

Text elements reach the model as UTF-8; a missing text is the empty one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from keelway.artifacts.onnx_files import external_locations
from keelway.artifacts.paths import check_relative
from keelway.errors import CorruptArtifact, FailedPrecondition
from keelway.ports import MemberLoader, RuntimeOptions
from keelway.types import Array, TensorSpec

#: ONNX Runtime's element types, as Open Inference Protocol datatypes.
DATATYPES: Mapping[str, str] = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}


class OnnxRuntime:
    """One session. ``run`` may be called from several threads at once; ONNX Runtime releases the interpreter lock."""

    thread_safe = True

    def __init__(self, path: Path, options: RuntimeOptions) -> None:
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = options.threads
        settings.inter_op_num_threads = 1
        settings.log_severity_level = 3
        # Spinning threads would burn the CPU that other models and the event loop need.
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if options.share_weights and external_locations(path):
            # Prepacking copies every weight into an order of its own; what is not copied stays the mapped file.
            settings.add_session_config_entry("session.disable_prepacking", "1")
        known = set(onnxruntime.get_available_providers())
        missing = [name for name in options.providers if name not in known]
        if missing:
            raise FailedPrecondition(
                f"ONNX Runtime has no provider {missing[0]!r} here", hint=f"runtime.providers may hold {sorted(known)}"
            )
        try:
            self._session = onnxruntime.InferenceSession(path, settings, providers=list(options.providers))
        except Exception as error:  # noqa: BLE001 - ONNX Runtime raises a dozen kinds, none of them documented
            raise CorruptArtifact(
                f"ONNX Runtime cannot load {path.name}: {_reason(error)}", hint="check the file, or push it again"
            ) from None
        self.inputs = tuple(map(_spec, self._session.get_inputs()))
        self.outputs = tuple(map(_spec, self._session.get_outputs()))
        # The public ``run`` looks at names and providers anew on each call, a sixth of a small model's time; binding
        # has done so. Its inner session is not promised to stay, hence the way back.
        inner = getattr(self._session, "_sess", None)
        self._run = self._session.run if inner is None else inner.run
        self._text_inputs = [spec.name for spec in self.inputs if spec.datatype == "BYTES"]

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> Sequence[Array]:
        if self._text_inputs:
            inputs = {**inputs, **{name: _text(inputs[name]) for name in self._text_inputs}}
        return self._run(outputs, inputs, None)  # type: ignore[no-any-return]

    def close(self) -> None:
        """The session's memory goes with its last reference."""
        del self._session, self._run


def load(
    folder: Path,
    model_digest: str,
    manifest_options: Mapping[str, Any],
    options: RuntimeOptions,
    load_member: MemberLoader,
) -> OnnxRuntime:
    """The entry point ``onnx``. The manifest option ``file`` names the model file, ``model.onnx`` by default.

    Raises ``CorruptArtifact`` if there is no such file in ``folder`` or ONNX Runtime cannot load it."""
    path = folder / check_relative(str(manifest_options.get("file", "model.onnx")))
    if not path.is_file():
        raise CorruptArtifact("the artifact has no ONNX file of that name", field="file", hint="push it again")
    return OnnxRuntime(path, options)


def _spec(node: Any) -> TensorSpec:
    datatype = DATATYPES.get(node.type)
    if datatype is None:
        raise CorruptArtifact(
            f"the tensor {node.name!r} is a {node.type}, which cannot be served",
            hint="push the model: keelway push rewrites maps and sequences to tensors",
        )
    return TensorSpec(node.name, datatype, tuple(size if isinstance(size, int) else -1 for size in node.shape))


def _text(array: Array) -> Array:
    flat = [
        element.decode(errors="replace") if isinstance(element, bytes) else element or ""
        for element in array.ravel().tolist()
    ]
    result = np.empty(len(flat), dtype=object)
    result[:] = flat
    return result.reshape(array.shape)


def _reason(error: Exception) -> str:
    """ONNX Runtime's own short reason, without the path it prefixes."""
    reason = str(error).rpartition("failed:")[2].strip()
    return reason.splitlines()[0][:200] if reason else type(error).__name__
