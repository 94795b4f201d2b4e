"""The key of an answer: a BLAKE2 hash of everything that may change it, and of nothing else.

Two requests have one key if the same version of a model is given the same tensors for the same outputs, for the same
tenant. Every part is written with its length, so that no two different requests write the same bytes. One ``KeyMaker``
for each served version; it knows no store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final

import numpy as np

from keelway.contract.signature import ModelSignature
from keelway.types import NUMPY_DTYPES, Array

#: Bytes of a key. Half as many would do against chance; against a caller who looks for collisions it takes these.
KEY_BYTES: Final = 32
#: What a key is made of may change from release to release of keelway; then this does.
_FORMAT: Final = "keelway-answer-1"
_MISSING: Final = b"\xff" * 8
#: Beginnings that are kept: one for each choice of outputs and each tenant.
_KEPT: Final = 256
_ZERO: Final = {dtype: np.zeros((), dtype)[()] for dtype in NUMPY_DTYPES.values() if dtype.kind == "f"}


class KeyMaker:
    """Keys for one version of a model. ``identity`` is whatever else distinguishes its answers, such as its digest."""

    def __init__(self, identity: Sequence[str], signature: ModelSignature) -> None:
        self._identity = (_FORMAT, *identity, *_schema(signature))
        self._inputs = [(spec.name, NUMPY_DTYPES[spec.datatype]) for spec in signature.inputs]
        self._openings: dict[tuple[tuple[str, ...], str | None], Any] = {}

    def key(self, inputs: Mapping[str, Array], wanted: tuple[str, ...], tenant: str | None) -> bytes | None:
        """The key of an answer to ``inputs`` (bound to the signature) with the outputs ``wanted``, in order.

        ``None`` if a number is NaN: it is not equal to itself, and the request is not to another. -0 counts as 0;
        text and bytes of the same UTF-8 count as the same."""
        opening = self._openings.get((wanted, tenant)) or self._open(wanted, tenant)
        hashed = opening.copy()
        for name, dtype in self._inputs:
            array = inputs[name]
            if dtype.kind == "f":
                # Adding nothing makes 0 of -0, and a contiguous array of whatever it was.
                array = array.astype(dtype, copy=False) + _ZERO[dtype]
                flat = array.reshape(-1)
                if np.isnan(flat).any():
                    return None
                hashed.update(repr(array.shape).encode())
                hashed.update(flat)
            elif dtype.kind == "O":
                hashed.update(_texts(array))
            else:
                hashed.update(repr(array.shape).encode() + array.astype(dtype, copy=False).tobytes())
        return hashed.digest()  # type: ignore[no-any-return]

    def _open(self, wanted: tuple[str, ...], tenant: str | None) -> Any:
        """The hash of all that does not differ from request to request."""
        if len(self._openings) >= _KEPT:
            self._openings.clear()
        parts = [*self._identity, str(len(wanted)), *wanted, *(() if tenant is None else ("tenant", tenant))]
        opening = blake2b(b"".join(map(_sized, parts)), digest_size=KEY_BYTES)
        self._openings[wanted, tenant] = opening
        return opening


def _schema(signature: ModelSignature) -> list[str]:
    schema: list[str] = [str(len(signature.inputs))]
    for spec in signature.inputs:
        schema += [spec.name, spec.datatype, repr(spec.shape), str(len(spec.columns)), *spec.columns]
    return schema


def _sized(text: str) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    return len(data).to_bytes(8, "little") + data


def _texts(array: Array) -> bytes:
    parts = [repr(array.shape).encode()]
    for element in array.reshape(-1).tolist():
        if element is None:
            parts.append(_MISSING)
        else:
            data = element if isinstance(element, bytes) else str(element).encode("utf-8", "surrogatepass")
            parts += (len(data).to_bytes(8, "little"), data)
    return b"".join(parts)
