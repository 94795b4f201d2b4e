"""``--from-python package.module:function``: what a function of the user's makes, published as a file of it would be.

A scikit-learn estimator or a booster, a PyTorch module or exported program, a Keras or an ONNX model, the path of a
file, or an object with a ``predict`` method whose class is the only one of its module. The function runs in the child
process; naming it is the consent. ``push.py`` calls the parent's half, ``child.py`` the other.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from keelway.contract.sample import column_kind, read_sample
from keelway.contract.signature import infer_features
from keelway.errors import FailedPrecondition, InvalidInput, KeelwayError, ModelFailed
from keelway.publish import exchange
from keelway.publish.apart import run_apart
from keelway.publish.examples import check_examples
from keelway.publish.exchange import EstimatorRequest, EstimatorResult, FactoryRequest, MadeFile, NetworkResult
from keelway.publish.network import TOLERANCE, judged_network, leave_examples, sample_arrays
from keelway.publish.opening import is_booster
from keelway.publish.report import Prepared
from keelway.publish.rows import rows_of
from keelway.publish.sklearn_file import TOLERANCE as ROWS_TOLERANCE
from keelway.publish.sklearn_file import judged
from keelway.types import Array

if TYPE_CHECKING:
    import pandas as pd

Made = EstimatorResult | NetworkResult | MadeFile

_FORM: Final = "package.module:function"
_KINDS: Final = (
    "return a scikit-learn estimator, a booster, a PyTorch module with its examples (module, examples), an exported "
    "program, a Keras or an ONNX model, the path of a model file, or an object with a predict method"
)


# The parent


def prepare_factory(
    target: str,
    sample: pd.DataFrame | Path | None,
    *,
    tolerance: float | None,
    workspace: Path,
    progress: Callable[[str], None],
    prepare_file: Callable[[Path], Prepared],
) -> Prepared:
    """What the function ``target`` makes, ready to be stored. ``prepare_file`` publishes a file that it left.

    Raises ``InvalidInput`` for a target or a result that is none, ``FailedPrecondition`` if it cannot be imported,
    ``ModelFailed`` if it raises, and what publishing raises.
    """
    module, _, name = target.partition(":")
    if not all(part.isidentifier() for part in module.split(".")) or not name.isidentifier():
        raise InvalidInput(f"a function is named as {_FORM}", field="from_python", hint="such as churn.train:make")
    table = _table(sample)
    if table is not None:
        rows_of(table).save(workspace / exchange.SAMPLE)
    arrays = _arrays(sample)
    if arrays is not None:
        leave_examples(arrays, workspace)
    features = () if table is None else infer_features(table)
    exchange.write(workspace, exchange.REQUEST, FactoryRequest(target, str(Path.cwd()), features, tolerance))
    progress(f"calling {target}, in a process of its own")
    run_apart(workspace)
    result: Made = exchange.read_one_of(workspace, exchange.RESULT, Made)
    if isinstance(result, MadeFile):
        return prepare_file(exchange.answer_file(workspace, result.file) if result.file else Path(result.source))
    progress("proving the conversion")
    if isinstance(result, NetworkResult):
        source = f"a {result.framework} network made by {target}"
        return judged_network(result, source, sample, TOLERANCE if tolerance is None else tolerance, workspace)
    if table is None:
        raise InvalidInput("the sample is no table", field="sample", hint="give a table: CSV, Parquet, Arrow or JSON")
    request = _estimator_request(target, features, tolerance)
    return judged(request, table, workspace)


def _table(sample: pd.DataFrame | Path | None) -> pd.DataFrame | None:
    if not isinstance(sample, Path):
        return sample
    try:
        return read_sample(sample)
    except InvalidInput:  # arrays of more axes
        return None


def _arrays(sample: pd.DataFrame | Path | None) -> dict[str, Array] | None:
    if sample is None:
        return None
    if not isinstance(sample, Path) and any(column_kind(sample[name]) == "text" for name in sample.columns):
        return None
    return sample_arrays(sample)


def _estimator_request(target: str, features: Any, tolerance: float | None) -> EstimatorRequest:
    return EstimatorRequest(target, "factory", features, ROWS_TOLERANCE if tolerance is None else tolerance)


# The child


def ask_factory(request: FactoryRequest, folder: Path) -> Made:
    """Call the function and publish what it makes, as a file that holds it would be."""
    made = _called(request.target, Path(request.folder))
    examples: Mapping[str, Array] | None = None
    free: Mapping[str, Sequence[int]] = {}
    if isinstance(made, tuple) and 2 <= len(made) <= 3:
        examples, free = _examples(*made)
        made = made[0]
    if _is_a(made, "torch", "nn.Module") or _is_a(made, "torch", "export.ExportedProgram"):
        from keelway.publish.asking_network import ask_network, given_examples

        if (folder / exchange.EXAMPLES).exists():
            examples = given_examples(folder)
        if examples is None:
            raise InvalidInput(
                "a network cannot be proved without examples to prove it on",
                field="sample",
                hint="give --sample FILE, or let the function return (module, examples)",
            )
        allowed = TOLERANCE if request.tolerance is None else request.tolerance
        return ask_network(made, examples, free, allowed, folder)
    return _estimator(made, request, folder) or _file(made, folder)


def _called(target: str, folder: Path) -> Any:
    module_name, _, name = target.partition(":")
    sys.path.insert(0, str(folder))
    os.chdir(folder)  # relative paths in the function mean what they mean to who wrote it
    try:
        function = getattr(importlib.import_module(module_name), name)
    except ModuleNotFoundError as error:
        raise FailedPrecondition(
            f"there is no module '{error.name}' to import",
            field="from_python",
            hint="start from the folder that holds it, put that folder on PYTHONPATH, or install it",
        ) from error
    except AttributeError as error:
        raise InvalidInput(f"{module_name} has no '{name}'", field="from_python", hint="check its spelling") from error
    except Exception as error:
        raise ModelFailed(
            f"importing {module_name} raised {type(error).__name__}",
            field="from_python",
            hint="import it by hand first",
        ) from error
    try:
        return function()
    except KeelwayError:
        raise
    except Exception as error:
        raise ModelFailed(
            f"{target} raised {type(error).__name__}",
            field="from_python",
            hint="it is called without arguments; call it by hand first",
        ) from error


def _examples(model: Any, given: Any, free: Any = None) -> tuple[dict[str, Array], dict[str, Sequence[int]]]:
    """Examples by input name, and free axes likewise, as a factory returns them beside a module."""
    if not isinstance(given, Mapping):
        values = list(given) if isinstance(given, tuple | list) else [given]
        names = list(inspect.signature(getattr(model, "forward", model)).parameters)
        given = dict(zip(names, values, strict=False)) if len(values) <= len(names) else {}
    arrays = {str(name): np.asarray(value) for name, value in given.items()}
    check_examples(arrays)
    return arrays, {str(name): sorted(set(axes) - {0}) for name, axes in dict(free or {}).items()}


def _is_a(made: Any, library: str, name: str) -> bool:
    """Whether ``made`` is of a class of ``library``, which is not imported for that: then it could not be."""
    found: Any = sys.modules.get(library)
    for part in name.split("."):
        found = getattr(found, part, None)
    return isinstance(found, type) and isinstance(made, found)


def _estimator(made: Any, request: FactoryRequest, folder: Path) -> EstimatorResult | None:
    if not (_is_a(made, "sklearn.base", "BaseEstimator") or is_booster(made)):
        return None
    if not request.features:
        raise InvalidInput(
            "the model cannot be proved without rows to prove it on",
            field="sample",
            hint="give --sample FILE: a table with a few hundred rows like those it was trained on",
        )
    from keelway.publish.asking import ask_estimator

    return ask_estimator(_estimator_request(request.target, request.features, request.tolerance), folder, made)


def _file(made: Any, folder: Path) -> MadeFile:
    if isinstance(made, str | Path):
        return MadeFile(source=str(Path(made).absolute()))
    if _is_a(made, "onnx", "ModelProto"):
        import onnx

        onnx.save(made, str(folder / exchange.ONNX))
        return MadeFile(file=exchange.ONNX)
    if type(made).__module__.partition(".")[0] == "keras":
        made.save(folder / exchange.KERAS)
        return MadeFile(file=exchange.KERAS)
    if callable(getattr(made, "predict", None)):
        source = inspect.getsourcefile(type(made))
        if source is not None:
            return MadeFile(source=source)
    raise InvalidInput(
        f"the function made a {type(made).__name__}, which is no model", field="from_python", hint=_KINDS
    )
