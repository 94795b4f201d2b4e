"""Values and the shape a caller states for them: they fit, or an error that names the input. For the tensor codecs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from keelway.errors import InvalidInput
from keelway.types import Array


def check_shape(shape: Sequence[int], name: str) -> None:
    """``InvalidInput`` if a dimension is negative."""
    if any(size < 0 for size in shape):
        raise InvalidInput(f"input {name!r}: a dimension of the shape is negative", field=name)


def shaped(flat: Array, shape: tuple[int, ...], name: str) -> Array:
    """``flat`` in ``shape``. ``InvalidInput`` if it has another number of elements."""
    if len(flat) != math.prod(shape) or min(shape, default=0) < 0:
        check_shape(shape, name)
        raise InvalidInput(f"input {name!r}: {len(flat)} values do not make the shape it states", field=name)
    return reshape(flat, shape, name)


def reshape(flat: Array, shape: tuple[int, ...], name: str) -> Array:
    """``flat`` in ``shape``, which it is known to fill. ``InvalidInput`` for an empty tensor whose other dimensions are
    beyond NumPy."""
    try:
        return flat.reshape(shape)
    except ValueError:
        raise InvalidInput(f"input {name!r}: a dimension of the shape is too large", field=name) from None
