"""PyTorch programs served: only where their digest is allowed, never with pickles in them, with PyTorch's answers."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from keelway.errors import CorruptArtifact, UntrustedArtifact
from keelway.ports import Runtime, RuntimeOptions
from keelway.runtimes.torch import TorchOptions, TorchRuntime, load
from keelway.types import TensorSpec

# PyTorch is no part of the pinned environment: `make test-slow` brings it.
needs_torch = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")]

DIGEST = "sha256:" + "0" * 64
INPUTS = (TensorSpec("x", "FP32", (-1, 3)),)
OUTPUTS = (TensorSpec("twice", "FP32", (-1, 3)), TensorSpec("sum", "FP32", (-1,)))
ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)


def loaded(folder: Path, *allowed: str, **options: Any) -> Runtime:
    declared = {**msgspec.to_builtins(TorchOptions("model.pt2", INPUTS, OUTPUTS)), **options}

    def no_member(digest: str) -> Runtime:
        raise AssertionError(digest)

    return load(folder, DIGEST, declared, RuntimeOptions(allowed_python=frozenset(allowed)), no_member)


def saved(folder: Path, *, with_examples: bool = False) -> Path:
    import torch

    class Twice(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"twice": x * 2, "sum": x.sum(-1)}

    rows = {"x": {0: torch.export.Dim.DYNAMIC}}
    program = torch.export.export(Twice(), (torch.zeros(2, 3),), dynamic_shapes=rows)
    if not with_examples:
        program._example_inputs = None
    torch.export.save(program, folder / "model.pt2")
    return folder / "model.pt2"


def rewritten(path: Path, **changed: bytes) -> None:
    """The archive with members whose names end with a key of ``changed`` replaced, or added."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for ending, content in changed.items():
        name = next((name for name in members if name.endswith(ending)), f"model/data/constants/{ending}")
        members[name] = content
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def test_a_program_nobody_allowed_is_not_even_opened(tmp_path: Path) -> None:
    with pytest.raises(UntrustedArtifact, match="has not allowed it") as raised:
        loaded(tmp_path)
    assert f"--allow-python {DIGEST}" in str(raised.value.hint)


@pytest.mark.parametrize("options", [{"file": "../model.pt2"}, {"file": "other.pt2"}, {"inputs": 3}, {"extra": 1}])
def test_options_that_name_no_file_or_are_none_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(CorruptArtifact):
        loaded(tmp_path, DIGEST, **options)


@pytest.mark.slow
class TestWithPyTorch:
    pytestmark = needs_torch

    def test_any_number_of_examples_is_answered_like_the_module(self, tmp_path: Path) -> None:
        saved(tmp_path)
        runtime = loaded(tmp_path, DIGEST)
        for rows in (ROWS, ROWS[:1]):
            total, twice = runtime.run({"x": rows}, ["sum", "twice"])  # type: ignore[misc]
            assert np.array_equal(twice, rows * 2)
            assert np.array_equal(total, rows.sum(1))
        assert len(runtime.run({"x": ROWS}, ["sum"])) == 1  # type: ignore[arg-type]
        runtime.close()

    @pytest.mark.parametrize(
        "changed",
        [
            {"custom_obj_0": b"cos\nsystem\n"},
            {"opaque_obj_0": b"cos\nsystem\n"},
            {
                "model_weights_config.json": json.dumps(
                    {"config": {"w": {"path_name": "weight_0", "use_pickle": True}}}
                ).encode()
            },
        ],
    )
    def test_a_program_with_pickles_inside_is_refused_although_it_is_allowed(
        self, tmp_path: Path, changed: dict[str, bytes]
    ) -> None:
        rewritten(saved(tmp_path), **changed)
        with pytest.raises(CorruptArtifact, match="pickled objects"):
            loaded(tmp_path, DIGEST)

    def test_examples_kept_in_a_program_are_pickles_too(self, tmp_path: Path) -> None:
        path = saved(tmp_path, with_examples=True)
        with pytest.raises(CorruptArtifact, match="pickled objects"):
            TorchRuntime(path, INPUTS, OUTPUTS)

    @pytest.mark.parametrize("length", [0, 100, -300])
    def test_a_damaged_program_is_refused(self, tmp_path: Path, length: int) -> None:
        path = saved(tmp_path)
        path.write_bytes(path.read_bytes()[:length])
        with pytest.raises(CorruptArtifact, match="damaged"):
            loaded(tmp_path, DIGEST)

    def test_a_program_of_another_version_is_refused_with_what_to_do(self, tmp_path: Path) -> None:
        rewritten(saved(tmp_path), **{"models/model.json": b"{}"})
        with pytest.raises(CorruptArtifact, match="version installed here") as raised:
            loaded(tmp_path, DIGEST)
        assert raised.value.hint
