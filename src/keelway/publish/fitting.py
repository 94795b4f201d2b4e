"""Examples as the input tensors of a model whose tensors are known: by name, in their dtypes, in their shapes.

``keras_file.py`` and ``litert_file.py`` call it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from keelway.errors import InvalidInput
from keelway.publish.examples import check_examples
from keelway.publish.network import sample_arrays
from keelway.publish.rows import rows_of
from keelway.types import NUMPY_DTYPES, Array, TensorSpec

if TYPE_CHECKING:
    import pandas as pd


def fitted(sample: pd.DataFrame | Path | Mapping[str, Array], inputs: Sequence[TensorSpec]) -> dict[str, Array]:
    """The examples as arrays of ``inputs``, in their order, dtypes and shapes.

    A table is one input side by side, or has a column for each input; arrays go by name, unless there is only one.
    Raises ``InvalidInput`` for what does not fit, naming it.
    """
    if isinstance(sample, Mapping):
        given = dict(sample)
    elif not isinstance(sample, Path) and len(inputs) > 1:
        rows = rows_of(sample)
        given = {str(name): rows.columns[str(name)] for name in sample.columns}
    else:
        given = sample_arrays(sample)
    if len(given) == len(inputs) == 1:
        given = {inputs[0].name: next(iter(given.values()))}
    names = [spec.name for spec in inputs]
    if set(given) != set(names):
        raise InvalidInput(
            f"the sample holds {_quoted(given)}, the model takes {_quoted(names)}",
            field="sample",
            hint="give an array for each input, under its name, in a .npz file",
        )
    check_examples(given)
    return {spec.name: _as_input(given[spec.name], spec) for spec in inputs}


def _as_input(array: Array, spec: TensorSpec) -> Array:
    shape = spec.shape
    if array.ndim == len(shape) - 1 and shape[-1] == 1:  # a number for each example
        array = array[..., np.newaxis]
    if array.ndim != len(shape) or any(want not in (-1, have) for want, have in zip(shape, array.shape, strict=True)):
        raise InvalidInput(
            f"the examples for '{spec.name}' have the shape {list(array.shape)}, the model takes {list(shape)}",
            field="sample",
            hint="axis 0 counts the examples; the other axes must be those of the input",
        )
    with np.errstate(all="ignore"):
        cast = array.astype(NUMPY_DTYPES[spec.datatype])
    if cast.dtype.kind in "iub" and not np.array_equal(cast, array):
        raise InvalidInput(
            f"the examples for '{spec.name}' hold numbers that {spec.datatype} does not",
            field="sample",
            hint="give them as the model takes them",
        )
    return cast


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
