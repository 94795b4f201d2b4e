"""A model that is a Python class: found in the file without running it, then run once, apart, to learn its answers.

The class is what ``keelway.runtimes.python`` takes: made without arguments, ``predict(inputs) -> outputs`` with a
mapping of arrays each way. There is nothing to convert and nothing to prove: the file is the model.
"""

from __future__ import annotations

import ast
import inspect
import shutil
import sys
from collections.abc import Callable, Mapping
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import module_from_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from keelway.contract.baseline import observe
from keelway.contract.signature import ModelSignature, infer_features, pack
from keelway.contract.tensors import meaning_of
from keelway.errors import FailedPrecondition, InvalidInput, KeelwayError, ModelFailed
from keelway.publish import exchange
from keelway.publish.apart import run_apart
from keelway.publish.exchange import PythonRequest, PythonResult
from keelway.publish.proving import micros
from keelway.publish.report import ConversionReport, Prepared
from keelway.publish.rows import Rows, rows_of, tensors
from keelway.types import Array, TensorSpec, datatype_of

if TYPE_CHECKING:
    import pandas as pd

#: The file's name in the artifact.
MODULE: Final = "model.py"

_SHAPE: Final = "class Model:\n    def predict(self, inputs): ...  # mapping of arrays -> mapping of arrays"


def class_in(path: Path) -> str:
    """The name of the one public class with a ``predict`` method in the source ``path``, which is not run.

    Raises ``InvalidInput`` if the source does not parse, or holds none or several.
    """
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        raise InvalidInput(
            f"{path.name} is not valid Python{f': line {line}' if line else ''}", field="file", hint="correct it first"
        ) from error
    names = [
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and _has_predict(node)
    ]
    if len(names) == 1:
        return names[0]
    what = f"has several classes that predict: {', '.join(names)}" if names else "has no class with a predict method"
    hint = "let the names of all but one begin with an underscore" if names else f"write one: {_SHAPE.splitlines()[0]}"
    raise InvalidInput(f"{path.name} {what}", field="file", hint=hint)


def _has_predict(node: ast.ClassDef) -> bool:
    methods = (part for part in node.body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef))
    return any(method.name == "predict" for method in methods)


# The parent


def prepare_class(
    file: Path, sample: pd.DataFrame | None, workspace: Path, progress: Callable[[str], None]
) -> Prepared:
    """``file`` as it is, with a signature from ``sample`` and from what the class answers to it.

    Raises ``InvalidInput`` without a sample, ``ModelFailed`` if the class does not answer it.
    """
    name = class_in(file)
    if sample is None:
        raise InvalidInput(
            "a Python class says nothing about its inputs",
            field="sample",
            hint="give --sample: its columns become the features",
        )
    features = infer_features(sample, "FP64")
    inputs = pack(features)
    folder = workspace / "artifact"
    folder.mkdir()
    shutil.copyfile(file, folder / MODULE)
    rows_of(sample).save(workspace / exchange.SAMPLE)
    progress(f"running {name} on the sample, in a process of its own")
    exchange.write(workspace, exchange.REQUEST, PythonRequest(str(folder / MODULE), name, inputs))
    run_apart(workspace)
    result = exchange.read(workspace, exchange.RESULT, PythonResult)
    shutil.copyfile(file, folder / MODULE)  # again: the class may have written where it ran
    task, label, probabilities = meaning_of(result.outputs)
    signature = ModelSignature(
        features, inputs, result.outputs, task, label_output=label, probability_output=probabilities
    )
    options = {
        "module": MODULE,
        "class": name,
        "inputs": msgspec.to_builtins(inputs),
        "outputs": msgspec.to_builtins(result.outputs),
    }
    report = ConversionReport(
        format="python",
        source="a Python class",
        reason="code is served as it is, where the operator allows its digest",
        tolerance=0.0,
        size=(folder / MODULE).stat().st_size,
        estimator=name,
        sample_rows=len(sample),
        micros_after=result.micros,
    )
    return Prepared(folder, signature, observe(sample, features), "python", options, report)


# The child


def ask_class(request: PythonRequest, folder: Path) -> PythonResult:
    """Import the class and let it answer the whole sample, then one row: what follows the rows is the batch axis."""
    given = tensors(Rows.load(folder / exchange.SAMPLE), request.inputs)
    rows = len(next(iter(given.values())))
    one = {name: array[:1] for name, array in given.items()}
    model = _made(Path(request.file), request.class_name)
    many, few = _answer(model, given), _answer(model, one)
    outputs = tuple(_spec(name, many[name], few.get(name), rows) for name in many)
    if not outputs:
        raise ModelFailed("predict answers no outputs", hint="return {'prediction': array}")
    return PythonResult(outputs, micros(lambda: _answer(model, one)))


def _made(path: Path, class_name: str) -> Any:
    """An instance, made as ``keelway.runtimes.python`` makes it: no arguments, then ``load`` if there is one."""
    name = "keelway_pushed_model"
    loader = SourceFileLoader(name, str(path))
    module = module_from_spec(ModuleSpec(name, loader, origin=str(path)))
    sys.modules[name] = module  # dataclasses look their module up while it is executed
    try:
        loader.exec_module(module)
        model = getattr(module, class_name)()
        if hasattr(model, "load"):
            model.load(path.parent)
    except ModuleNotFoundError as error:
        raise FailedPrecondition(
            f"the class needs the module '{error.name}', which is not installed", field="file", hint="install it here"
        ) from error
    except Exception as error:
        raise ModelFailed(
            f"making an instance of {class_name} raised {type(error).__name__}",
            field="file",
            hint="it is made without arguments, from this one file",
        ) from error
    return model


def _answer(model: Any, inputs: Mapping[str, Array]) -> dict[str, Array]:
    try:
        answer = model.predict(dict(inputs))
        if inspect.isawaitable(answer):
            import asyncio

            answer = asyncio.run(_await(answer))
        return {str(name): np.asarray(value) for name, value in answer.items()}
    except KeelwayError:
        raise
    except AttributeError as error:
        raise ModelFailed(
            "predict does not answer a mapping of names to arrays", hint="return {'prediction': array}"
        ) from error
    except Exception as error:
        raise ModelFailed(
            f"the class raised {type(error).__name__} on the sample",
            hint="its inputs are arrays of shape (rows, columns), one for numbers, one for text, one for booleans",
        ) from error


async def _await(answer: Any) -> Any:
    return await answer


def _spec(name: str, many: Array, few: Array | None, rows: int) -> TensorSpec:
    try:
        datatype = datatype_of(many.dtype)
    except KeyError as error:
        raise ModelFailed(f"the output '{name}' is of no datatype that can be served", field=name) from error
    if few is None or many.ndim != few.ndim or many.shape[1:] != few.shape[1:] or datatype_of(few.dtype) != datatype:
        raise ModelFailed(
            f"the output '{name}' changes its shape or datatype with the rows", field=name, hint="answer one form"
        )
    if many.shape[:1] == (rows,) and few.shape[:1] == (1,):
        return TensorSpec(name, datatype, (-1, *many.shape[1:]))
    raise ModelFailed(
        f"the output '{name}' does not have one entry for each row", field=name, hint="answer arrays of as many rows"
    )
