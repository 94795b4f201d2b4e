"""Examples of a network's input tensors, in batches: read from arrays, and varied for a proof.

A table becomes one tensor of its numbers; a .npz file holds a tensor under the name of each input, a .npy file the only
one. Axis 0 counts the examples. Files are .npz without pickles, since they cross a trust boundary.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from keelway.contract.sample import column_kind
from keelway.errors import InvalidInput, NotFound
from keelway.publish.rows import rows_of
from keelway.types import Array, datatype_of

if TYPE_CHECKING:
    import pandas as pd

#: Files of arrays, as ``--sample`` takes them.
ARRAY_FILES: Final = frozenset({".npy", ".npz"})

#: Examples of the sample that a proof uses, at most so many and of so many bytes.
_EXAMPLES: Final = 256
_BYTES: Final = 96 * 1024 * 1024

#: Examples in a batch, and how many are also given one by one: another batch may take another path through a kernel.
_BATCH: Final = 32
_SINGLES: Final = 16

#: The kind of those batches that hold the sample itself.
SAMPLE_KIND: Final = "sample"

_ONLY: Final = "input"


@dataclass(frozen=True, slots=True)
class Batch:
    """``arrays`` [b, ...] by input name, b examples each; ``kind`` says where they come from."""

    kind: str
    arrays: Mapping[str, Array]

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))


def read_arrays(path: Path) -> dict[str, Array]:
    """The arrays in a .npy or .npz file, by name; the one of a .npy file is called ``input``.

    Raises ``NotFound``, and ``InvalidInput`` unless they are numbers or booleans with the same number of examples.
    """
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            arrays = {_ONLY: loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    except FileNotFoundError:
        raise NotFound(f"there is no file {path.name}", field="sample") from None
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise InvalidInput(
            f"{path.name} holds no arrays that can be read", field="sample", hint="save them with numpy.savez"
        ) from error
    check_examples(arrays)
    return arrays


def check_examples(arrays: Mapping[str, Array]) -> None:
    """Raise ``InvalidInput`` unless every array has the same number of examples, at least one, of numbers."""
    counts = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    if not counts or 0 in counts.values() or len(set(counts.values())) != 1:
        raise InvalidInput(
            "the arrays of the sample do not hold the same number of examples",
            field="sample",
            hint="axis 0 of each counts the examples, and there is at least one",
        )
    for name, array in arrays.items():
        try:
            numeric = datatype_of(array.dtype) != "BYTES"
        except KeyError:
            numeric = False
        if not numeric:
            raise InvalidInput(f"the array '{name}' of the sample holds no numbers", field=name)


def arrays_of(frame: pd.DataFrame) -> dict[str, Array]:
    """The numbers of a table as one float32 tensor [rows, columns]. Raises ``InvalidInput`` for other columns."""
    for name in frame.columns:
        if column_kind(frame[name]) == "text":
            raise InvalidInput(
                f"column '{name}' of the sample holds text, a network takes numbers",
                field=str(name),
                hint="encode it first, or give the tensors in a .npz file, each under the name of its input",
            )
    rows = rows_of(frame)
    return {_ONLY: np.stack([rows.columns[str(name)] for name in frame.columns], axis=1).astype(np.float32)}


def chosen(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """As many examples as a proof can hold, drawn evenly from all of them."""
    count = len(next(iter(arrays.values())))
    each = sum(array[:1].nbytes for array in arrays.values())
    kept = max(1, min(count, _EXAMPLES, _BYTES // max(each, 1)))
    places = np.linspace(0, count - 1, kept).astype(np.int64)
    return {name: np.ascontiguousarray(array[places]) for name, array in arrays.items()}


def batches(arrays: Mapping[str, Array], free: Mapping[str, Sequence[int]], size: int | None) -> list[Batch]:
    """The batches of a proof, those of the sample itself first.

    ``free`` names the axes beside 0 whose length may vary, by input. ``size`` is the only number of examples that the
    network takes, or None for any number. Made from a seed: the same on every call.
    """
    random = np.random.default_rng(0)
    step = size or _BATCH
    whole = _repeated(arrays, step) if size else dict(arrays)
    made = list(_cut(SAMPLE_KIND, whole, step, whole=size is not None))
    for kind, changed in _varied(whole, random):
        made += _cut(kind, changed, step, whole=size is not None)
    if size is None:
        made += _cut("one by one", {name: array[:_SINGLES] for name, array in whole.items()}, 1, whole=False)
    if any(free.values()):
        made += _lengths(whole, free, step)
    return made


def _cut(kind: str, arrays: Mapping[str, Array], step: int, *, whole: bool) -> Iterable[Batch]:
    count = len(next(iter(arrays.values())))
    stop = count - count % step if whole else count
    for start in range(0, stop, step):
        yield Batch(kind, {name: array[start : start + step] for name, array in arrays.items()})


def _repeated(arrays: Mapping[str, Array], least: int) -> dict[str, Array]:
    """``arrays`` with their examples repeated until there are ``least``."""
    count = len(next(iter(arrays.values())))
    places = np.arange(max(count, least)) % count
    return {name: array[places] for name, array in arrays.items()}


def _varied(arrays: Mapping[str, Array], random: np.random.Generator) -> Iterable[tuple[str, dict[str, Array]]]:
    """Examples like those of the sample, and some unlike them: values beside the seen ones, exchanged, none, large."""
    yield "noise", {name: _noisy(array, random) for name, array in arrays.items()}
    yield "exchanged", {name: random.permuted(array, axis=0) for name, array in arrays.items()}
    few = {name: array[: 2 * _SINGLES] for name, array in arrays.items()}
    yield "reversed", {name: np.ascontiguousarray(np.flip(array, axis=-1)) for name, array in few.items()}
    yield "zeros", {name: _zeros(array[:2]) for name, array in arrays.items()}
    yield "large", {name: _large(array) for name, array in few.items()}


def _noisy(array: Array, random: np.random.Generator) -> Array:
    if array.dtype.kind == "f":
        finite = array[np.isfinite(array)].astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            spread = float(finite.std()) if len(finite) else 0.0
            step = 0.1 * spread if 0 < spread < np.inf else 0.1
            return (array + random.normal(0, step, array.shape)).astype(array.dtype)
    if array.dtype == np.uint8:
        moved: Array = np.clip(array.astype(np.int16) + random.integers(-16, 17, array.shape), 0, 255).astype(np.uint8)
        return moved
    # Whole numbers may be ids: what was not seen might not exist.
    return random.permutation(array.ravel()).reshape(array.shape)


def _zeros(array: Array) -> Array:
    return np.full_like(array, 0 if array.dtype.kind == "f" or array.dtype == np.uint8 else array.min())


def _large(array: Array) -> Array:
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):
            return (array * 10).astype(array.dtype)
    return np.full_like(array, 255 if array.dtype == np.uint8 else array.max())


def _lengths(arrays: Mapping[str, Array], free: Mapping[str, Sequence[int]], step: int) -> Iterable[Batch]:
    """Examples cut short and drawn out along their free axes, the same way in every input."""
    few = {name: array[:step] for name, array in arrays.items()}
    for factor in (0.5, 0.0, 2.0):
        changed = dict(few)
        for name, axes in free.items():
            for axis in axes:
                length = changed[name].shape[axis]
                places = np.arange(max(1, int(length * factor))) % length
                changed[name] = np.ascontiguousarray(np.take(changed[name], places, axis=axis))
        yield Batch("other lengths", changed)


def save_batches(path: Path, made: Sequence[Batch]) -> None:
    """Write to ``path`` (.npz), arrays as they are."""
    arrays: dict[str, Array] = {}
    for position, batch in enumerate(made):
        arrays[f"{position}/kind"] = np.frombuffer(batch.kind.encode(), np.uint8)
        arrays |= {f"{position}/array/{name}": array for name, array in batch.arrays.items()}
    np.savez(path, allow_pickle=False, **arrays)


def load_batches(path: Path) -> list[Batch]:
    """Read what ``save_batches`` wrote. ``ValueError`` or ``KeyError`` for anything else."""
    found: dict[int, tuple[str, dict[str, Array]]] = {}
    with np.load(path, allow_pickle=False) as arrays:
        for key in arrays.files:
            position, _, rest = key.partition("/")
            _, named = found.setdefault(int(position), (arrays[f"{position}/kind"].tobytes().decode(), {}))
            if rest.startswith("array/"):
                named[rest.removeprefix("array/")] = arrays[key]
    return [Batch(*found[position]) for position in range(len(found))]
