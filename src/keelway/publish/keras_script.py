"""The process that opens a Keras model: ``python -I keras_script.py WHAT FOLDER``, where there is TensorFlow.

TensorFlow does not get along with what keelway pins, so this one file runs by its path, in another environment and
perhaps another version of Python, and imports nothing of keelway. Two steps, each a process: ``describe`` leaves the
inputs and outputs of the model in ``described.json``; ``convert`` gives it the batches of ``examples.npz``, leaves what
it answered in ``answers.npz``, and writes it as LiteRT and as ONNX. Either may leave ``failure.json``, in which
``said`` is what a library said. ``keras_file.py`` starts it and judges what it left; whatever it prints goes nowhere.
"""

from __future__ import annotations

import json
import os
import re
import sys
import timeit
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

#: Examples that are also asked one by one.
SINGLES = 16

#: Characters of what a library says that are passed on.
MAX_SAID = 8_000

#: Before this version, safe mode could be got around (CVE-2025-1550, -8747, -9905, -9906).
SAFE_SINCE = (3, 11, 3)


class Refused(Exception):
    """Left as ``failure.json``: the name of a class of ``keelway.errors``, its parts, and what Keras ``said``."""

    def __init__(self, error: str, message: str, hint: str, said: str = "") -> None:
        super().__init__(message)
        self.failure = {"error": error, "message": message, "field": "file", "hint": hint, "said": said[:MAX_SAID]}


def main(what: str, folder: Path) -> int:
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    try:
        versions = start()
        original = Original(opened(Path(request["file"]), request["trusted"]))
        if what == "describe":
            name = "described.json"
            left = {**original.described(), "versions": versions, "saved_with": saved_with(Path(request["file"]))}
        else:
            name, left = "converted.json", convert(original, folder)
    except Refused as refused:
        name, left = "failure.json", refused.failure
    except MemoryError:
        hint = "push it from a larger machine"
        name, left = "failure.json", Refused("FailedPrecondition", "the model does not fit into memory", hint).failure
    (folder / name).write_text(json.dumps(left), encoding="utf-8")
    return int(name == "failure.json")


def start() -> dict[str, str]:
    """Import TensorFlow, for one thread and no GPU, and say which versions it is and comes with."""
    os.environ.update(
        CUDA_VISIBLE_DEVICES="-1", KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="3", TF_USE_LEGACY_KERAS="0"
    )
    try:
        import keras
        import tensorflow as tf
    except ImportError as error:
        raise Refused(
            "FailedPrecondition",
            f"the environment of {sys.executable} has no {error.name or 'TensorFlow that can be imported'}",
            f"{sys.executable} -m pip install tensorflow-cpu tf2onnx",
        ) from error
    if numbers(keras.__version__) < (3,):
        raise Refused(
            "FailedPrecondition",
            f"Keras {keras.__version__} is too old",
            "install Keras 3, which opens the files of Keras 2 too: pip install 'tensorflow-cpu>=2.18'",
        )
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    return {"keras": keras.__version__, "tensorflow": tf.__version__}


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


# Opening


def opened(file: Path, trusted: bool) -> Any:
    """The model in ``file``. Code in it is built and run only if it is ``trusted``."""
    import keras

    if not trusted and numbers(keras.__version__) < SAFE_SINCE:
        raise Refused(
            "UntrustedArtifact",
            f"Keras {keras.__version__} runs code that a file holds, whether it is wanted or not",
            "install Keras 3.11.3 or newer, or say --trust-pickle if you trust whoever made the file",
        )
    try:
        model = keras.saving.load_model(str(file), compile=False, safe_mode=not trusted)
    except Exception as error:
        saved = saved_with(file)
        versions = f"it was saved by Keras {saved}, here is {keras.__version__}" if saved else f"{keras.__version__}"
        raise Refused(
            "CorruptArtifact",
            f"Keras cannot open the file ({versions})",
            "save it again, or give --python of an environment with the version of Keras that it was saved with",
            str(error) or type(error).__name__,
        ) from error
    if not isinstance(model, keras.Model):
        raise Refused("InvalidInput", "the file holds something else than a Keras model", "save the whole model")
    if any(getattr(layer, "stateful", False) for layer in layers_of(model)):
        raise Refused(
            "InvalidInput",
            "the model has a layer with stateful=True: what it answers depends on what it was asked before",
            "build it again with stateful=False, give it the weights of this one, and save that",
        )
    return model


def saved_with(file: Path) -> str:
    """The version of Keras that wrote the file, if it says so."""
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                return str(json.loads(archive.read("metadata.json")).get("keras_version", ""))
        import h5py

        with h5py.File(file, "r") as weights:
            return str(weights.attrs.get("keras_version", ""))
    except Exception:  # noqa: BLE001 - a version is a help, never a condition
        return ""


def layers_of(model: Any) -> list[Any]:
    """Every layer, those inside others included."""
    found = []
    for layer in getattr(model, "layers", []):
        found += [layer, *layers_of(layer)]
    return found


class Original:
    """The model with its inputs and outputs in a fixed order and under names that every format takes."""

    def __init__(self, model: Any) -> None:
        import keras

        self.model = model
        self._structure = getattr(model, "_inputs_struct", None)
        tensors = list(getattr(model, "inputs", None) or [])
        if not tensors:
            raise Refused(
                "InvalidInput",
                "the model does not say what its inputs are",
                "build it with keras.Input, or call it once before it is saved",
            )
        self.inputs = [specified(name, t) for name, t in zip(unique(t.name for t in tensors), tensors, strict=True)]
        structure = model.compute_output_spec(self._arranged(tensors))
        flat = keras.tree.flatten(structure)
        names = output_names(model, structure, len(flat))
        self.outputs = [specified(name, tensor) for name, tensor in zip(names, flat, strict=True)]

    def described(self) -> dict[str, Any]:
        return {"model": type(self.model).__name__, "inputs": self.inputs, "outputs": self.outputs}

    def call(self, arrays: Sequence[Any]) -> list[Any]:
        """The outputs, in order, of one call that trains nothing."""
        import keras

        return list(keras.tree.flatten(self.model(self._arranged(arrays), training=False)))

    def predict(self, arrays: Sequence[Any]) -> Any:
        return self.model.predict_on_batch(self._arranged(arrays))

    def answer(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Arrays in, arrays out, by name."""
        import numpy as np

        found = self.call([batch[entry["name"]] for entry in self.inputs])
        return {entry["name"]: np.asarray(output) for entry, output in zip(self.outputs, found, strict=True)}

    def _arranged(self, arrays: Sequence[Any]) -> Any:
        """``arrays`` in the structure the model was built with."""
        if isinstance(self._structure, dict):
            return dict(zip(sorted(self._structure), arrays, strict=True))  # as Keras flattens a mapping
        return list(arrays) if len(arrays) > 1 else arrays[0]


def specified(name: str, tensor: Any) -> dict[str, Any]:
    """Name, dtype and shape, -1 where it is open."""
    import keras

    shape = [-1 if size is None else int(size) for size in tensor.shape]
    if shape[:1] != [-1]:
        raise Refused(
            "InvalidInput",
            f"'{name}' has the shape {shape}, in which the number of examples is fixed",
            "build the model with keras.Input(shape=...), without batch_size, and give it the weights of this one",
        )
    return {"name": name, "dtype": keras.backend.standardize_dtype(tensor.dtype), "shape": shape}


def output_names(model: Any, structure: Any, count: int) -> list[str]:
    """The keys of a mapping; otherwise the names of the layers that answer."""
    if isinstance(structure, dict) and len(structure) == count:
        return unique(sorted(structure))
    names = getattr(model, "output_names", None) or [model.layers[-1].name]
    return unique(names if len(names) == count else [f"output_{place}" for place in range(count)])


def unique(names: Iterable[str]) -> list[str]:
    """``names`` with letters, digits, ``_``, ``.`` and ``-`` alone, none of them twice."""
    found: list[str] = []
    for name in names:
        clean = re.sub(r"[^A-Za-z0-9_.-]", "_", str(name)).lstrip("_.-") or "tensor"
        kept, count = clean, 2
        while kept in found:
            kept, count = f"{clean}_{count}", count + 1
        found.append(kept)
    return found


# Asking and converting


def convert(original: Original, folder: Path) -> dict[str, Any]:
    batches = read_batches(folder / "examples.npz")
    unanswered = ask(original, batches, folder)
    if 0 in unanswered:  # it does not take the sample: there is nothing to measure or to convert
        return {"unanswered": unanswered, "called": "", "micros": 0.0, "candidates": []}
    first = batches[0][1]
    way, micros = fastest(original, [first[entry["name"]][:1] for entry in original.inputs])
    frozen = Frozen(original)
    return {
        "unanswered": unanswered,
        "called": way,
        "micros": micros,
        "candidates": [
            candidate("litert", "model.tflite", lambda path: to_litert(frozen, path), folder),
            candidate("onnx", "model.onnx", lambda path: to_onnx(frozen, path), folder),
        ],
    }


def read_batches(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Kind and arrays of each batch, as ``examples.py`` writes them."""
    import numpy as np

    found: dict[int, tuple[str, dict[str, Any]]] = {}
    with np.load(path, allow_pickle=False) as arrays:
        for key in arrays.files:
            place, what, name = key.split("/", 2) if key.count("/") > 1 else (*key.split("/"), "")
            kind = arrays[f"{place}/kind"].tobytes().decode()
            batch = found.setdefault(int(place), (kind, {}))
            if what == "array":
                batch[1][name] = arrays[key]
    return [found[place] for place in range(len(found))]


def ask(original: Original, batches: Sequence[tuple[str, Mapping[str, Any]]], folder: Path) -> dict[int, str]:
    """Leave what the model answers to each batch, and say which it fails on, with the class of the exception."""
    import numpy as np

    left: dict[str, Any] = {}
    unanswered: dict[int, str] = {}
    for place, (kind, batch) in enumerate(batches):
        left[f"{place}/kind"] = np.frombuffer(kind.encode(), np.uint8)
        try:
            answers = original.answer(batch)
        except Exception as error:  # noqa: BLE001 - TensorFlow raises a dozen kinds
            unanswered[place] = type(error).__name__
            continue
        left.update({f"{place}/array/{name}": array for name, array in answers.items()})
        if place == 0:
            check_alone(original, batch, answers)
    np.savez(folder / "answers.npz", **left)
    return unanswered


def check_alone(original: Original, batch: Mapping[str, Any], answers: Mapping[str, Any]) -> None:
    """An example must be answered alone as it is in company, and the same when it is asked again."""
    import numpy as np

    for row in range(min(SINGLES, len(next(iter(batch.values()))))):
        alone = original.answer({name: array[row : row + 1] for name, array in batch.items()})
        for name, found in alone.items():
            if found.dtype.kind == "f" and not np.allclose(
                found[0], answers[name][row], rtol=1e-3, atol=1e-4, equal_nan=True
            ):
                raise Refused(
                    "InvalidInput",
                    "the model answers an example otherwise alone than among others, or when it is asked again",
                    "leave out what works on a whole batch, is random or remembers",
                )


def fastest(original: Original, one: Sequence[Any]) -> tuple[str, float]:
    """The faster of Keras's two ways to ask for one example, and its median in microseconds."""
    ways: dict[str, Callable[[], Any]] = {
        "model(x, training=False)": lambda: original.call(one),
        "predict_on_batch": lambda: original.predict(one),
    }
    took = {}
    for way, call in ways.items():
        call()  # traces, where it does
        first = timeit.timeit(call, number=1)
        took[way] = median(timeit.repeat(call, number=1, repeat=max(5, min(200, int(0.5 / max(first, 1e-6))))))
    best = min(took, key=lambda way: took[way])
    return best, took[best] * 1e6


def candidate(runtime: str, file: str, make: Callable[[Path], None], folder: Path) -> dict[str, Any]:
    """What became of one format: the file, or what its converter said."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            make(folder / file)
    except Exception as error:  # noqa: BLE001 - converters raise anything; the other format may do
        (folder / file).unlink(missing_ok=True)
        return {"runtime": runtime, "file": "", "said": f"{type(error).__name__}: {error}"[:MAX_SAID]}
    return {"runtime": runtime, "file": file, "said": ""}


class Frozen:
    """The model as a function of TensorFlow whose weights and other constants are in its graph.

    Both converters are given it. From a SavedModel with variables LiteRT makes a file whose variables nobody fills, and
    from a function tf2onnx, and so Keras's own export, takes the constants of a Normalization layer for inputs.
    """

    def __init__(self, original: Original) -> None:
        import tensorflow as tf
        from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

        #: TensorFlow sorts the outputs by name.
        self.outputs = sorted(entry["name"] for entry in original.outputs)
        self.inputs = [entry["name"] for entry in original.inputs]
        self.signature = [
            tf.TensorSpec([None if size == -1 else size for size in entry["shape"]], entry["dtype"], name=entry["name"])
            for entry in original.inputs
        ]
        names = [entry["name"] for entry in original.outputs]

        def serve(*arrays: Any) -> dict[str, Any]:
            return {name: tf.identity(output) for name, output in zip(names, original.call(arrays), strict=True)}

        concrete = tf.function(serve, input_signature=self.signature, autograph=False).get_concrete_function()
        self.function = convert_variables_to_constants_v2(concrete, lower_control_flow=False)


def to_litert(frozen: Frozen, path: Path) -> None:
    import tensorflow as tf

    def serve(*arrays: Any) -> dict[str, Any]:
        return dict(zip(frozen.outputs, frozen.function(*arrays), strict=True))

    module = tf.Module()
    module.serve = tf.function(serve, input_signature=frozen.signature, autograph=False)
    saved = path.with_name("saved_model")
    tf.saved_model.save(module, str(saved), signatures={"serving_default": module.serve.get_concrete_function()})
    path.write_bytes(tf.lite.TFLiteConverter.from_saved_model(str(saved)).convert())


def to_onnx(frozen: Frozen, path: Path) -> None:
    import numpy as np

    if not hasattr(np, "object"):
        np.object = object  # type: ignore[attr-defined]  # tf2onnx asks for it by its name of NumPy 1
    import tf2onnx

    inputs = [tensor.name for tensor in frozen.function.inputs]
    outputs = [tensor.name for tensor in frozen.function.outputs]
    names = dict(zip([*inputs, *outputs], [*frozen.inputs, *frozen.outputs], strict=True))
    tf2onnx.convert.from_graph_def(
        without_erfc(frozen.function.graph.as_graph_def()),
        input_names=inputs,
        output_names=outputs,
        tensors_to_rename=names,
        output_path=str(path),
    )


def without_erfc(graph: Any) -> Any:
    """``graph`` with 1 - Erf for every Erfc, which ONNX does not have: TensorFlow's exact GELU is made of it."""
    import tensorflow as tf

    for node in [node for node in graph.node if node.op == "Erfc"]:
        one, erf = graph.node.add(), graph.node.add()
        one.name, one.op, one.attr["dtype"].type = f"{node.name}/one", "Const", node.attr["T"].type
        one.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(1, tf.dtypes.as_dtype(node.attr["T"].type)))
        erf.CopyFrom(node)
        erf.name, erf.op = f"{node.name}/erf", "Erf"
        node.op = "Sub"
        del node.input[:]
        node.input.extend([one.name, erf.name])
    return graph


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
