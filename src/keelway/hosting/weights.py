"""Weights in memory once for several processes, and what that costs: measured in a process of its own.

ONNX Runtime maps weights that lie in a file beside the model; with its own arrangement of them (prepacking) switched
off they stay the pages of that file. A run may then take longer, or less long: that is measured on a plausible row, as
the model was and as it is shared, and said. Both have to answer the same.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import msgspec

from keelway.artifacts.external_data import move_weights
from keelway.artifacts.onnx_files import external_locations
from keelway.contract.baseline import Baseline
from keelway.contract.signature import ModelSignature
from keelway.ports import RuntimeOptions

log = logging.getLogger("keelway.hosting")

#: Seconds that measuring may take, two loads of the model included.
_PATIENCE = 300.0


class Question(msgspec.Struct, frozen=True):
    """``plain`` and ``shared`` are paths of the same model. Without a ``signature`` it is that of its tensors."""

    plain: str
    shared: str
    signature: ModelSignature | None
    baseline: Baseline | None
    threads: int
    providers: tuple[str, ...]


class Price(msgspec.Struct, frozen=True):
    """Seconds of a run of one row: with weights of one's own, and with shared ones. ``same``: both answer the same;
    ``None`` if the model refuses made-up rows."""

    plain: float | None
    shared: float | None
    same: bool | None


def share_weights(
    model: Path,
    result: Path,
    name: str,
    options: RuntimeOptions,
    signature: ModelSignature | None = None,
    baseline: Baseline | None = None,
) -> None:
    """Make ``result``, a model whose large weights are files of their own, of the ONNX file ``model``, which may be
    ``result`` itself. ``name`` is for the log. Where nothing can be shared, ``result`` is what ``model`` is.

    Loads nothing in this process, which would keep some of the memory. Raises ``CorruptArtifact`` if ``model`` is no
    ONNX model."""
    if external_locations(model):
        _said(name, _size_beside(model), _price(model, model, options, signature, baseline))
        return
    weights = result.with_name(_free_name(result))
    moved = result.with_name(weights.name + ".onnx")
    size = move_weights(model, moved, weights)
    if not size:
        log.info("%s has no weights that can be shared; each worker has a copy of it", name)
    else:
        price = _price(model, moved, options, signature, baseline)
        if price is None or price.same is not False:
            moved.replace(result)
            _said(name, size, price)
            return
        log.warning("the weights of %s are not shared: it would answer differently", name)
        moved.unlink()
        weights.unlink()
    if result != model:
        result.hardlink_to(model)


def _free_name(result: Path) -> str:
    names = (f"{result.stem}{'-' * count}weights" for count in range(1, 100))
    return next(name for name in names if not result.with_name(name).exists())


def _size_beside(model: Path) -> int:
    return sum((model.parent / location).stat().st_size for location in external_locations(model))


def _said(name: str, size: int, price: Price | None) -> None:
    if price is None or price.plain is None or price.shared is None:
        log.info("weights of %s are shared: %.1f MB; what that costs could not be measured", name, size / 1e6)
        return
    log.info(
        "weights of %s are shared: %.1f MB; a row takes %.3f ms, %.3f ms with weights of its own (%.2f times)",
        name,
        size / 1e6,
        price.shared * 1000,
        price.plain * 1000,
        price.shared / price.plain,
    )


def _price(
    plain: Path, shared: Path, options: RuntimeOptions, signature: ModelSignature | None, baseline: Baseline | None
) -> Price | None:
    """Measured by ``pricing.py`` in a process of its own: the memory of two loaded models goes with it."""
    question = Question(str(plain), str(shared), signature, baseline, options.threads, options.providers)
    try:
        ran = subprocess.run(
            [sys.executable, "-P", "-m", "keelway.hosting.pricing"],
            input=msgspec.json.encode(question),
            capture_output=True,
            timeout=_PATIENCE,
            check=True,
        )
        return msgspec.json.decode(ran.stdout, type=Price)
    except (OSError, subprocess.SubprocessError, msgspec.DecodeError) as error:
        log.warning("the price of shared weights could not be measured: %s", type(error).__name__)
        return None
