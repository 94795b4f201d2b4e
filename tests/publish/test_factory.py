"""``--from-python``: what a function makes is published as a file of it would be."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from keelway.errors import FailedPrecondition, InvalidInput, KeelwayError, ModelFailed
from keelway.publish.factory import prepare_factory
from keelway.publish.push import prepare
from keelway.publish.report import Prepared

#: A module as a user would write it; ``data.csv`` lies beside it.
SOURCE = """
import pandas as pd

class Sum:
    def predict(self, inputs):
        return {"prediction": inputs["input"].sum(axis=1)}

def tree():
    from sklearn.tree import DecisionTreeClassifier
    data = pd.read_csv("data.csv")
    return DecisionTreeClassifier(max_depth=3, random_state=0).fit(data[["a", "b"]], data["y"])

def booster():
    from lightgbm import LGBMRegressor
    data = pd.read_csv("data.csv")
    return LGBMRegressor(n_estimators=5, verbose=-1, n_jobs=1).fit(data[["a", "b"]], data["a"])

def rules():
    return Sum()

def graph():
    from onnx import TensorProto, helper
    value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2])
    nodes = [helper.make_node("Neg", ["x"], ["y"])]
    made = helper.make_graph(nodes, "g", [value("x")], [value("y")])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)

def path():
    import onnx
    onnx.save(graph(), "saved.onnx")
    return "saved.onnx"

def unfitted():
    from sklearn.tree import DecisionTreeClassifier
    return DecisionTreeClassifier()

def nothing():
    return None

def fails():
    raise RuntimeError("secret")

def wants(argument):
    return argument

made = 3
"""


@pytest.fixture
def table() -> pd.DataFrame:
    random = np.random.default_rng(0)
    frame = pd.DataFrame(random.normal(size=(200, 2)), columns=["a", "b"]).astype(np.float32)
    return frame.assign(y=(frame.a > 0).astype(int))


Make = Callable[..., Prepared]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: pd.DataFrame) -> Make:
    code = tmp_path / "code"
    code.mkdir()
    (code / "shop.py").write_text(SOURCE)
    table.to_csv(code / "data.csv", index=False)
    monkeypatch.chdir(code)

    def made(target: str, sample: pd.DataFrame | Path | None) -> Prepared:
        workspace = tmp_path / "workspace"
        workspace.mkdir()
        return prepare_factory(
            target,
            sample,
            tolerance=None,
            workspace=workspace,
            progress=lambda message: None,
            prepare_file=lambda file: prepare(file, sample, None, trust_pickle=True, workspace=workspace),
        )

    return made


@pytest.mark.parametrize(
    ("name", "kept", "source"),
    [
        ("tree", "onnx", "a scikit-learn model made by shop:tree"),
        pytest.param("booster", "onnx", "a LightGBM model made by shop:booster", marks=pytest.mark.slow),
        ("rules", "python", "a Python class"),
        ("graph", "onnx", "an ONNX model"),
        ("path", "onnx", "an ONNX model"),
    ],
)
def test_what_a_function_makes_is_published(make: Make, table: pd.DataFrame, name: str, kept: str, source: str) -> None:
    prepared = make(f"shop:{name}", table[["a", "b"]])
    assert (prepared.report.format, prepared.report.source) == (kept, source)
    assert [feature.name for feature in prepared.signature.features] == ["a", "b"]
    assert "shop" not in sys.modules  # the function ran elsewhere


def test_arrays_that_are_a_table_will_do_for_an_estimator(make: Make, table: pd.DataFrame, tmp_path: Path) -> None:
    np.savez(tmp_path / "sample.npz", a=table.a, b=table.b)
    assert make("shop:tree", tmp_path / "sample.npz").report.format == "onnx"


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        ("shop", InvalidInput, "a function is named as package.module:function"),
        ("shop:", InvalidInput, "a function is named as"),
        ("a b:c", InvalidInput, "a function is named as"),
        ("no_shop:tree", FailedPrecondition, "no module 'no_shop'"),
        ("shop:flower", InvalidInput, "shop has no 'flower'"),
        ("shop:made", ModelFailed, "shop:made raised TypeError"),
        ("shop:wants", ModelFailed, "shop:wants raised TypeError"),
        ("shop:fails", ModelFailed, "shop:fails raised RuntimeError"),
        ("shop:nothing", InvalidInput, "made a NoneType, which is no model"),
        ("shop:unfitted", InvalidInput, "before it was trained"),
    ],
)
def test_what_is_no_model_is_refused_in_a_line_that_says_what_to_do(
    make: Make, table: pd.DataFrame, target: str, error: type[KeelwayError], message: str
) -> None:
    with pytest.raises(error, match=message) as raised:
        make(target, table[["a", "b"]])
    assert raised.value.hint
    assert "secret" not in str(raised.value)


def test_an_estimator_needs_a_table(make: Make, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="without rows"):
        make("shop:tree", None)


def test_an_estimator_takes_no_pictures(make: Make, tmp_path: Path) -> None:
    np.save(tmp_path / "pictures.npy", np.zeros((3, 4, 4)))
    with pytest.raises(InvalidInput, match="without rows"):
        make("shop:tree", tmp_path / "pictures.npy")
