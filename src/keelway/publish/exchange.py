"""What the parent process asks of the child that opens a foreign file, and what the child answers: JSON in a folder.

Nothing here may hold a pickle or a path that leads out of the folder: the child has run somebody else's code.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import msgspec

from keelway import errors
from keelway.contract.signature import Feature
from keelway.errors import CorruptArtifact, KeelwayError
from keelway.publish.proof import Comparison
from keelway.runtimes.boosters import BoosterOptions
from keelway.runtimes.skops import Given
from keelway.runtimes.tokens import TokensOptions
from keelway.types import TensorSpec

REQUEST: Final = "request.json"
RESULT: Final = "result.json"
FAILURE: Final = "failure.json"
SAMPLE: Final = "sample.npz"
EXAMPLES: Final = "examples.npz"
ROWS: Final = "rows.npz"
ANSWERS: Final = "answers.npz"
SKOPS: Final = "model.skops"

#: No answer of a child is longer than this, in bytes; arrays and models are files of their own.
_MAX_JSON: Final = 16 * 1024 * 1024

#: How the child opens a file: three are the libraries' own formats, and ``factory`` is a function that made the model.
FileFormat = Literal["pickle", "skops", "xgboost", "lightgbm", "catboost", "factory"]

_Struct = TypeVar("_Struct", bound=msgspec.Struct)

#: Files of a network in the folder, as they are called in the artifact.
ONNX: Final = "model.onnx"
PROGRAM: Final = "model.pt2"
KERAS: Final = "model.keras"


class EstimatorRequest(msgspec.Struct, frozen=True, tag="estimator"):
    """Open ``file``, ask the model, convert it. ``features`` are the sample's, with FP32 numbers, in its order."""

    file: str
    format: FileFormat
    features: tuple[Feature, ...]
    tolerance: float
    trusted_types: frozenset[str] = frozenset()


class PythonRequest(msgspec.Struct, frozen=True, tag="python"):
    """Import ``file`` and let its class answer the sample, given as ``inputs``."""

    file: str
    class_name: str
    inputs: tuple[TensorSpec, ...]


class NetworkRequest(msgspec.Struct, frozen=True, tag="network"):
    """Open ``file``, an exported program or a whole module of PyTorch, ask it on ``EXAMPLES``, convert it."""

    file: str
    format: Literal["program", "module"]
    tolerance: float


class Pooling(msgspec.Struct, frozen=True):
    """How the states of a text's tokens become its embedding, and whether that has the length 1 then."""

    how: Literal["mean", "cls", "max"]
    normalized: bool


class EncoderRequest(msgspec.Struct, frozen=True, tag="encoder"):
    """Build the text encoder in ``folder``, whose weights are a pickle if ``pickled``, ask and convert it. ``SAMPLE``
    holds texts, if it is there."""

    folder: str
    tokens: TokensOptions
    pooling: Pooling
    pickled: bool
    tolerance: float


class FactoryRequest(msgspec.Struct, frozen=True, tag="factory"):
    """Call ``target``, ``package.module:function``, ``folder`` searched for modules first, and publish what it makes.

    ``features`` are those of ``SAMPLE``; without any there is no table. ``EXAMPLES`` is there where arrays were given,
    or the table holds numbers only.
    """

    target: str
    folder: str
    features: tuple[Feature, ...]
    tolerance: float | None


class StoredRequest(msgspec.Struct, frozen=True, tag="stored"):
    """Ask the model ``digest`` for ``ROWS``. The folder holds the files and the manifest of each of ``stored``."""

    digest: str
    stored: tuple[str, ...]
    allowed_python: frozenset[str]
    trusted_types: frozenset[str]


class StoredResult(msgspec.Struct, frozen=True, tag="stored"):
    """Which rows were answered, in ``ANSWERS``."""

    accepted: tuple[bool, ...]


class Candidate(msgspec.Struct, frozen=True):
    """One conversion: a model ``file`` in the folder that takes numbers as ``door`` (FP32 or FP64), or a ``reason``
    why there is none."""

    name: str
    door: Literal["FP32", "FP64"]
    outputs: tuple[TensorSpec, ...] = ()
    file: str = ""
    reason: str = ""


class EstimatorResult(msgspec.Struct, frozen=True, tag="estimator"):
    """``columns`` are the features in the model's order, and ``given`` says in which form it takes them.

    ``kinds`` counts the rows of ``ROWS`` by kind, in order. ``kept`` compares the model with itself as a skops file
    (``SKOPS``), where that was written; ``kept_outputs`` are what it answers then, and ``most_probable`` whether its
    label is that of the largest probability. ``native`` says how a booster that
    was kept in its own format is served instead. ``framework`` is the library the model is of.
    """

    estimator: str
    columns: tuple[str, ...]
    dtypes: tuple[str, ...]
    given: Given
    task: Literal["classification", "regression", "other"]
    labels: tuple[str | int | float | bool, ...]
    probabilities: bool
    kinds: tuple[tuple[str, int], ...]
    candidates: tuple[Candidate, ...]
    micros: float
    saved_with: str = ""
    kept: Comparison | None = None
    kept_outputs: tuple[TensorSpec, ...] = ()
    kept_micros: float = 0.0
    untrusted_types: tuple[str, ...] = ()
    framework: str = "scikit-learn"
    native: BoosterOptions | None = None
    most_probable: bool = False


class NetworkCandidate(msgspec.Struct, frozen=True):
    """One conversion of a network: ``files`` in the folder, the model first, for ``runtime``, or a ``reason`` why there
    is none."""

    name: str
    runtime: Literal["onnx", "litert"]
    files: tuple[str, ...] = ()
    reason: str = ""


class KeptNetwork(msgspec.Struct, frozen=True):
    """A network in its own format: ``file``, compared with itself there, and median microseconds of one example."""

    file: str
    comparison: Comparison
    micros: float


class NetworkResult(msgspec.Struct, frozen=True, tag="network"):
    """``model`` is its class, ``micros`` the framework's own time for one example. ``EXAMPLES`` now holds the batches
    of the proof and ``ANSWERS`` what the original answered, as batches too. ``kept`` only if no candidate held there.
    """

    model: str
    framework: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    candidates: tuple[NetworkCandidate, ...]
    micros: float
    versions: dict[str, str]
    kept: KeptNetwork | None = None


class MadeFile(msgspec.Struct, frozen=True, tag="file"):
    """What a factory made is in ``file`` of the folder (an ONNX model), or in the Python ``source`` named."""

    file: str = ""
    source: str = ""


class PythonResult(msgspec.Struct, frozen=True, tag="python"):
    outputs: tuple[TensorSpec, ...]
    micros: float


class Failure(msgspec.Struct, frozen=True):
    """A deliberate error of the child: the name of its class in ``keelway.errors``, and its parts."""

    error: str
    message: str
    field: str | None = None
    hint: str | None = None


def write(folder: Path, name: str, value: msgspec.Struct) -> None:
    (folder / name).write_bytes(msgspec.json.encode(value))


def read(folder: Path, name: str, kind: type[_Struct]) -> _Struct:
    """Raises ``CorruptArtifact`` unless the file is a regular one of reasonable size that holds a ``kind``."""
    found: _Struct = read_one_of(folder, name, kind)
    return found


def read_one_of(folder: Path, name: str, kinds: Any) -> Any:
    """As ``read``, for a union of tagged structs."""
    path = answer_file(folder, name)
    try:
        if path.stat().st_size > _MAX_JSON:
            raise CorruptArtifact("the process that opened the file answered too much")
        return msgspec.json.decode(path.read_bytes(), type=kinds)
    except (OSError, msgspec.DecodeError) as error:
        raise CorruptArtifact("the process that opened the file answered what cannot be read") from error


def answer_file(folder: Path, name: str) -> Path:
    """The file ``name`` of the child, which must be a plain file in ``folder`` itself."""
    path = folder / name
    try:
        plain = Path(name).name == name and stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        plain = False
    if not plain:
        raise CorruptArtifact("the process that opened the file left no answer", hint="try again")
    return path


def failure_of(error: KeelwayError) -> Failure:
    return Failure(type(error).__name__, error.message, error.field, error.hint)


def error_of(failure: Failure) -> KeelwayError:
    """The error that ``failure`` stands for; an unknown name becomes ``KeelwayError`` itself."""
    found: Any = getattr(errors, failure.error, KeelwayError)
    kind = found if isinstance(found, type) and issubclass(found, KeelwayError) else KeelwayError
    error: KeelwayError = kind(failure.message, field=failure.field, hint=failure.hint)
    return error
