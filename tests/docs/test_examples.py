"""The class that the how-to page shows can be loaded and called as the page says; quick, unlike the walkthroughs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.docs.pages import DOCS, blocks

from keelway.errors import UntrustedArtifact
from keelway.ports import Runtime, RuntimeOptions
from keelway.publish.python_class import class_in
from keelway.runtimes import python

PAGE = DOCS / "how-to" / "serve-a-python-class.md"
DIGEST = "sha256:" + 64 * "0"
DECLARED = {
    "module": "discount.py",
    "class": "Discount",
    "inputs": [
        {"name": "input_fp64", "datatype": "FP64", "shape": [-1, 1], "columns": ["list_price"]},
        {"name": "input_bytes", "datatype": "BYTES", "shape": [-1, 1], "columns": ["customer"]},
    ],
    "outputs": [{"name": "price", "datatype": "FP64", "shape": [-1]}],
}


def no_member(_: str) -> Runtime:
    raise AssertionError("a Python class has no members")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (source,) = (block.text for block in blocks(PAGE) if block.language == "python")
    (tmp_path / "discount.py").write_text(source)
    return tmp_path


def test_the_python_class_can_be_loaded_and_called(folder: Path) -> None:
    assert class_in(folder / "discount.py") == "Discount"
    runtime = python.load(folder, DIGEST, DECLARED, RuntimeOptions(allowed_python=frozenset({DIGEST})), no_member)
    customers = np.array([["private"], ["trade"]], object)
    inputs = {"input_fp64": np.array([[80.0], [80.0]]), "input_bytes": customers}
    assert np.array_equal(np.asarray(runtime.run(inputs, ["price"])), [[80, 60]])
    assert runtime.thread_safe
    runtime.close()


def test_it_is_not_loaded_unless_its_digest_is_allowed(folder: Path) -> None:
    with pytest.raises(UntrustedArtifact):
        python.load(folder, DIGEST, DECLARED, RuntimeOptions(), no_member)
