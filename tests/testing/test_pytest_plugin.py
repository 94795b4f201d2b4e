# Y1: the fixture keelway_model, as a user's own tests have it
from __future__ import annotations

import shutil
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from keelway.artifacts.blobs import BlobStore
from keelway.clock import SystemClock
from keelway.publish.release import Source, release
from keelway.registry.store import Registry

pytest_plugins = ["pytester"]

TESTS = """
import numpy as np
import pandas as pd

CHECKS = "[metrics]\\nmae = 0.01\\n[robustness]\\nmissing = 0\\n"  # of what is missing it makes no number

def test_it_doubles(keelway_model):
    assert (keelway_model.name, keelway_model.version) == ("double", "1.0.0")
    assert keelway_model.model_digest.startswith("sha256:")
    assert keelway_model.predict([[1.5], [2.0]])["predictions"] == [3.0, 4.0]

def test_it_passes_its_check(keelway_model):
    x = np.linspace(-1, 1, 100)
    report = keelway_model.check(pd.DataFrame({"x": x, "y": 2 * x}), "y", checks=CHECKS)
    assert report.outcome == "passed", [f for f in report.findings if f.verdict in ("failed", "inconclusive")]
"""


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with ``double`` 1.0.0. Made before pytester, which forgets the modules that a test imports."""
    tmp_path = tmp_path_factory.mktemp("pushed")
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "double",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None])],
    )
    graph.node[0].output[0] = "wide"
    graph.node.append(helper.make_node("Reshape", ["wide", "flat"], ["y"]))
    graph.initializer.append(helper.make_tensor("flat", TensorProto.INT64, [1], np.array([-1])))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "double.onnx")
    home = tmp_path / ".keelway"
    home.mkdir()
    with closing(Registry.open(f"sqlite:///{home}/registry.db", clock=SystemClock())) as registry:
        blobs = BlobStore.open(str(home / "artifacts"))
        release(registry, blobs, "double", None, Source(tmp_path / "double.onnx"), who="ann", why="test")
    return home


@pytest.fixture
def shop(pushed: Path, pytester: pytest.Pytester) -> Path:
    """The registry, below the folder of the user's tests."""
    return Path(shutil.copytree(pushed, pytester.path / ".keelway"))


def run(pytester: pytest.Pytester, *words: str) -> pytest.RunResult:
    pytester.makepyfile(TESTS)
    return pytester.run(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *words, timeout=120)


def test_the_fixture_answers_as_a_server_does(pytester: pytest.Pytester, shop: Path) -> None:
    run(pytester, "--keelway-model", "double@1.0.0").assert_outcomes(passed=2)


def test_the_registry_may_be_elsewhere(pytester: pytest.Pytester, shop: Path, tmp_path: Path) -> None:
    shutil.move(shop, tmp_path / "away")
    where = (
        "--keelway-store",
        f"sqlite:///{tmp_path}/away/registry.db",
        "--keelway-artifacts",
        f"{tmp_path}/away/artifacts",
    )
    run(pytester, "--keelway-model", "double", *where).assert_outcomes(passed=2)


def test_a_test_without_a_model_fails_and_says_what_to_do(pytester: pytest.Pytester, shop: Path) -> None:
    ran = run(pytester)
    ran.assert_outcomes(errors=2)
    ran.stdout.fnmatch_lines(["*say which model: pytest --keelway-model NAME@VERSION*"])


def test_an_unknown_model_is_told_in_one_line(pytester: pytest.Pytester, shop: Path) -> None:
    ran = run(pytester, "--keelway-model", "duoble")
    ran.assert_outcomes(errors=2)
    ran.stdout.fnmatch_lines(["*NotFound: no such model*"])


def test_the_plugin_imports_nothing_heavy(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        "import sys\ndef test_it(): assert not {'pandas', 'onnxruntime', 'sqlalchemy'} & set(sys.modules)"
    )
    pytester.run(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:hypothesispytest").assert_outcomes(
        passed=1
    )
