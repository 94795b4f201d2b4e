"""The code that the how-to pages show does what the pages say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from markdown_it import MarkdownIt

from keelway.ports import Runtime, RuntimeOptions
from keelway.runtimes import python

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to"


def python_blocks(page: str) -> list[str]:
    tokens = MarkdownIt("commonmark").parse((HOW_TO / page).read_text())
    return [token.content for token in tokens if token.type == "fence" and token.info == "python"]


def no_member(_: str) -> Runtime:
    raise AssertionError("a Python class has no members")


def test_the_python_class_can_be_loaded_and_called(tmp_path: Path) -> None:
    (source,) = python_blocks("serve-a-python-class.md")
    (tmp_path / "discount.py").write_text(source)
    (tmp_path / "rates.json").write_text(json.dumps([0.0, 0.25]))
    digest = "sha256:" + 64 * "0"
    declared = {
        "module": "discount.py",
        "class": "Discount",
        "inputs": [
            {"name": "list_price", "datatype": "FP32", "shape": [-1]},
            {"name": "customer_band", "datatype": "INT64", "shape": [-1]},
        ],
        "outputs": [{"name": "price", "datatype": "FP32", "shape": [-1]}],
    }
    options = RuntimeOptions(allowed_python=frozenset({digest}))
    runtime = python.load(tmp_path, digest, declared, options, no_member)
    inputs = {"list_price": np.array([80, 80], np.float32), "customer_band": np.array([0, 1])}
    assert np.array_equal(np.asarray(runtime.run(inputs, ["price"])), [[80, 60]])
    assert runtime.thread_safe
    runtime.close()
