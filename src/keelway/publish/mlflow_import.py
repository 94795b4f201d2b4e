"""A folder as MLflow saves models, read: which file holds the model, the columns it declares, and its input example.

Nothing of MLflow is needed, and nothing in the folder is run or believed: of the YAML only plain values are read, paths
stay inside the folder, and what it says may be trusted is not. The file then goes the way of every push.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from keelway.artifacts.paths import check_relative, open_regular
from keelway.contract.sample import read_sample, split_target
from keelway.errors import CorruptArtifact, FailedPrecondition, InvalidInput, NotFound

if TYPE_CHECKING:
    import pandas as pd

#: The file that describes the folder, and more than it ever has.
DESCRIPTION: Final = "MLmodel"
MAX_DESCRIPTION_BYTES: Final = 1024 * 1024
MAX_EXAMPLE_BYTES: Final = 64 * 1024 * 1024
EXTRA_HINT: Final = 'pip install "keelway[mlflow]"'

#: For each flavour that ``push`` has a way for, the key that says where its file is, and the names that it may have
#: there if that is a folder. The most exact first.
_FLAVOURS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "onnx": ("data", ()),
    "xgboost": ("data", ()),
    "lightgbm": ("data", ()),
    "catboost": ("data", ()),
    "sklearn": ("pickled_model", ()),
    "pytorch": ("model_data", ("model.pt2", "model.pth")),
}
#: MLflow's types of columns, as pandas names them.
_DTYPES: Final[Mapping[str, str]] = {
    "boolean": "bool",
    "integer": "int32",
    "long": "int64",
    "float": "float32",
    "double": "float64",
    "string": "object",
}


class _Column(msgspec.Struct, frozen=True):
    type: str
    name: str | None = None


class _Description(msgspec.Struct, frozen=True):
    flavors: dict[str, dict[str, Any]]
    signature: dict[str, Any] | None = None
    saved_input_example_info: dict[str, Any] | None = None
    mlflow_version: Any = None
    model_uuid: Any = None
    run_id: Any = None


class _Split(msgspec.Struct, frozen=True):
    """A table as pandas writes it with ``orient="split"``."""

    data: list[list[Any]]
    columns: list[str]


@dataclass(frozen=True, slots=True)
class MlflowModel:
    """``columns`` maps the names of the declared columns to pandas' types, empty if none are declared; ``example`` is
    the file with example rows. ``facts`` says where it comes from, for the lineage."""

    file: Path
    flavour: str
    columns: Mapping[str, str]
    example: Path | None
    facts: Mapping[str, str]


def read_folder(folder: Path) -> MlflowModel:
    """What the MLflow model in ``folder`` is.

    Raises ``NotFound`` if there is none, ``InvalidInput`` for a description that is none, or of a model in no format
    that ``push`` takes, ``CorruptArtifact`` for one that leads out of its folder, ``FailedPrecondition`` if PyYAML is
    missing.
    """
    if not folder.is_dir() or not (folder / DESCRIPTION).exists():
        raise NotFound(
            f"there is no MLflow model in {folder.name or 'that folder'}", hint=f"name the folder with {DESCRIPTION}"
        )
    described = _described(folder)
    flavour = _flavour(described)
    key, names = _FLAVOURS[flavour]
    file = _inside(folder, described.flavors[flavour].get(key), names)
    info = described.saved_input_example_info or {}
    example = _inside(folder, info["artifact_path"]) if info.get("type") == "dataframe" else None
    facts = {"flavour": flavour} | {
        name: str(value)
        for name in ("mlflow_version", "model_uuid", "run_id")
        if isinstance(value := getattr(described, name), str | int | float) and str(value).isprintable()
        if len(str(value)) <= 100
    }
    return MlflowModel(file, flavour, _columns(described), example, facts)


def sample_of(model: MlflowModel, given: Path | None, target: str | None = None) -> pd.DataFrame | None:
    """The rows of the file ``given``, or of the example in the folder: the declared columns, in their order and of
    their types; where none are declared all but the column ``target``. ``None`` if there are no rows. ``InvalidInput``
    if they do not fit."""
    if given is not None:
        frame = read_sample(given) if target is None else split_target(read_sample(given), target)[0]
    elif model.example is not None:
        frame = _example(model.example)
    else:
        return None
    return _fitted(frame, model.columns) if model.columns else frame


def _described(folder: Path) -> _Description:
    try:
        import yaml
    except ImportError as error:
        raise FailedPrecondition("reading an MLflow model needs PyYAML", hint=EXTRA_HINT) from error

    text = _bytes(folder / DESCRIPTION, MAX_DESCRIPTION_BYTES)
    try:
        return msgspec.convert(yaml.safe_load(text), _Description)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError, msgspec.ValidationError) as error:
        raise InvalidInput(
            f"{DESCRIPTION} is no description of a model", field=DESCRIPTION, hint="save the model with MLflow again"
        ) from error


def _flavour(described: _Description) -> str:
    generic = str(described.flavors.get("python_function", {}).get("loader_module", "")).removeprefix("mlflow.")
    for flavour in (generic, *_FLAVOURS):
        if flavour in _FLAVOURS and flavour in described.flavors:
            return flavour
    raise InvalidInput(
        "the MLflow model has no flavour that can be taken over",
        field="flavors",
        hint=f"these can: {', '.join(_FLAVOURS)}; or push a Python class that loads it (docs/how-to)",
    )


def _inside(folder: Path, path: Any, names: Sequence[str] = ()) -> Path:
    """The regular file ``path`` below ``folder``, or the one of ``names`` in it, with no link on the way."""
    if not isinstance(path, str):
        raise InvalidInput(f"{DESCRIPTION} does not say where its files are", field=DESCRIPTION)
    place = folder / check_relative(path)
    for name in names:
        if (place / name).exists():
            place /= name
            break
    current = folder
    for part in place.relative_to(folder).parts:
        current /= part
        try:
            mode = current.lstat().st_mode
        except OSError:
            raise NotFound("a file of the MLflow model is missing", field=DESCRIPTION, hint="copy all of it") from None
        if not (stat.S_ISREG(mode) if current == place else stat.S_ISDIR(mode)):
            raise CorruptArtifact(
                "a file of the MLflow model is a link, or no file", hint="replace it by a regular file (cp -rL)"
            )
    return place


def _bytes(path: Path, limit: int) -> bytes:
    with open_regular(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise InvalidInput(f"{path.name} has more than {limit:,} bytes", field=path.name)
    return data


def _columns(described: _Description) -> dict[str, str]:
    inputs = (described.signature or {}).get("inputs")
    if inputs is None:
        return {}
    try:
        declared = msgspec.json.decode(inputs, type=list[_Column])
    except (msgspec.DecodeError, TypeError):
        raise InvalidInput("the MLflow model's signature cannot be read", field="signature") from None
    if any(column.type == "tensor" or column.name is None for column in declared):
        return {}
    columns: dict[str, str] = {}
    for column in declared:
        if column.type not in _DTYPES:
            raise InvalidInput(
                "a column of the MLflow model is of a type that no feature can be",
                field=str(column.name),
                hint=f"these can: {', '.join(_DTYPES)}",
            )
        columns[str(column.name)] = _DTYPES[column.type]
    return columns


def _example(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        table = msgspec.json.decode(_bytes(path, MAX_EXAMPLE_BYTES), type=_Split)
        return read_sample(pd.DataFrame(table.data, columns=table.columns))
    except (msgspec.DecodeError, ValueError):
        raise InvalidInput(
            "the input example of the MLflow model cannot be read", field="sample", hint="give --sample FILE"
        ) from None


def _fitted(frame: pd.DataFrame, columns: Mapping[str, str]) -> pd.DataFrame:
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise InvalidInput(
            f"the sample lacks the column '{missing[0]}' of the MLflow model's signature", field=missing[0]
        )
    chosen = frame[list(columns)].copy()
    for name, dtype in columns.items():
        try:
            chosen[name] = chosen[name].astype(dtype)  # type: ignore[call-overload]
        except (ValueError, TypeError, OverflowError):
            raise InvalidInput(
                f"the column '{name}' of the sample does not fit the MLflow model's signature ({dtype})", field=name
            ) from None
    return chosen
