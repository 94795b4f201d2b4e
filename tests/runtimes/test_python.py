"""The python runtime: no byte of code without consent, and no answer beyond the declared outputs."""

from __future__ import annotations

import asyncio
import inspect
import py_compile
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keelway.errors import CorruptArtifact, InvalidInput, ModelFailed, UntrustedArtifact
from keelway.ports import Runtime, RuntimeOptions
from keelway.runtimes import python
from keelway.types import TensorSpec

DIGEST = "sha256:" + "ab" * 32
ALLOWED = RuntimeOptions(allowed_python=frozenset({DIGEST}))
INPUTS = [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
ROWS = {"x": np.array([[1, 2], [3, 4]], dtype=np.float32)}


def no_members(model_digest: str) -> Runtime:
    raise AssertionError("a Python model has no members")


def output(datatype: str = "FP32", shape: tuple[int, ...] = (-1,)) -> dict[str, Any]:
    return {"name": "y", "datatype": datatype, "shape": list(shape)}


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Callable[..., python.PythonRuntime]]:
    """Loads ``code`` as model.py; closes what it loaded."""
    loaded: list[python.PythonRuntime] = []

    def load_code(code: str, outputs: Any = None, options: RuntimeOptions = ALLOWED, **changed: Any) -> Any:
        (tmp_path / "model.py").write_text(textwrap.dedent(code))
        manifest = {
            "module": "model.py",
            "class": "Model",
            "inputs": INPUTS,
            "outputs": outputs or [output()],
            **changed,
        }
        loaded.append(python.load(tmp_path, DIGEST, manifest, options, no_members))
        return loaded[-1]

    yield load_code
    for runtime in loaded:
        runtime.close()


def answering(expression: str) -> str:
    return textwrap.dedent(f"""
        import numpy as np
        class Model:
            def predict(self, inputs):
                x = inputs["x"]
                return {expression}
    """)


SUM = answering("{'y': x.sum(axis=1), 'extra': None}")


def test_a_model_is_refused_before_a_byte_of_it_is_read(tmp_path: Path) -> None:
    # No model.py at all: the refusal comes first, and nothing is told about the folder.
    manifest = {"module": "model.py"}
    with pytest.raises(UntrustedArtifact) as caught:
        python.load(tmp_path, DIGEST, manifest, RuntimeOptions(), no_members)
    assert f"--allow-python {DIGEST}" in str(caught.value.hint)
    assert "allowed_python" in str(caught.value.hint)


def test_consent_is_for_one_digest_only(load: Any) -> None:
    with pytest.raises(UntrustedArtifact):
        load("raise SystemExit", options=RuntimeOptions(allowed_python=frozenset({"sha256:" + "cd" * 32})))


def test_an_allowed_model_answers(load: Any) -> None:
    runtime: Runtime = load(SUM)
    answer = runtime.run(ROWS, ["y"])
    assert not inspect.isawaitable(answer)
    assert answer[0].tolist() == [3, 7]
    assert answer[0].dtype == np.float32
    assert runtime.outputs == (TensorSpec("y", "FP32", (-1,)),)
    assert runtime.inputs == (TensorSpec("x", "FP32", (-1, 2)),)
    assert not runtime.thread_safe


def test_load_is_called_once_with_the_folder_and_close_once_at_the_end(load: Any, tmp_path: Path) -> None:
    (tmp_path / "weights.txt").write_text("5")
    runtime = load("""
        import numpy as np
        class Model:
            thread_safe = True
            def load(self, folder):
                self.offset = np.float32((folder / "weights.txt").read_text())
                self.log = folder / "log.txt"
                self.note("loaded ")
            def predict(self, inputs):
                return {"y": inputs["x"][:, 0] + self.offset}
            def close(self):
                self.note("closed ")
            def note(self, text):
                with self.log.open("a") as log:
                    log.write(text)
    """)
    assert runtime.thread_safe
    assert runtime.run(ROWS, ["y"])[0].tolist() == [6, 8]
    runtime.close()
    runtime.close()
    assert (tmp_path / "log.txt").read_text() == "loaded closed "


def test_an_async_predict_gives_an_awaitable_answer(load: Any) -> None:
    runtime = load(SUM.replace("def predict", "async def predict"))
    answer = runtime.run(ROWS, ["y"])
    assert inspect.isawaitable(answer)
    assert asyncio.run(answer)[0].tolist() == [3, 7]  # type: ignore[arg-type]


def test_an_async_answer_is_checked_too(load: Any) -> None:
    runtime = load(answering("{}").replace("def predict", "async def predict"))
    with pytest.raises(ModelFailed, match="did not answer its output 'y'"):
        asyncio.run(runtime.run(ROWS, ["y"]))


def test_neither_the_search_path_nor_a_module_name_is_left_behind(load: Any, tmp_path: Path) -> None:
    before, modules = list(sys.path), set(sys.modules)
    runtime = load("import sys\nsys.path.insert(0, '/somewhere')\n" + SUM)
    assert sys.path == before
    assert "model" not in sys.modules
    runtime.close()
    assert set(sys.modules) == modules
    assert not (tmp_path / "__pycache__").exists()


def test_a_failed_load_leaves_nothing_behind(load: Any) -> None:
    before, modules = list(sys.path), set(sys.modules)
    with pytest.raises(ModelFailed):
        load("import sys\nsys.path.clear()\n1 / 0")
    assert sys.path == before
    assert set(sys.modules) == modules


def test_two_loads_of_one_digest_do_not_share_state(load: Any) -> None:
    code = """
    import numpy as np
    count = 0
    class Model:
        def predict(self, inputs):
            global count
            count += 1
            return {"y": np.full(len(inputs["x"]), count, np.float32)}
    """
    modules = set(sys.modules)
    first, second = load(code), load(code)
    assert len(set(sys.modules) - modules) == 2
    first.run(ROWS, ["y"])
    assert second.run(ROWS, ["y"])[0].tolist() == [1, 1]


def test_byte_code_beside_the_source_is_never_run(load: Any, tmp_path: Path) -> None:
    source = tmp_path / "model.py"
    source.write_text(answering("{'y': x[:, 0] * 0}"))
    py_compile.compile(str(source), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    assert list(tmp_path.glob("__pycache__/*.pyc"))
    assert load(SUM).run(ROWS, ["y"])[0].tolist() == [3, 7]


def test_a_dataclass_in_the_module_works(load: Any) -> None:
    # dataclasses look their module up in sys.modules while it is executed.
    load(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass P:\n    a: int\n"
        + SUM
    )


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("import no_such_library", "ModuleNotFoundError"),
        ("class Model(:", "SyntaxError"),
        ("class Model:\n    def __init__(self, a): ...\n    def predict(self, inputs): ...", "TypeError"),
        (
            "class Model:\n    def load(self, f): raise OSError('/secret')\n    def predict(self, inputs): ...",
            "OSError",
        ),
    ],
)
def test_code_that_raises_while_loading_is_the_models_fault(code: str, name: str, load: Any) -> None:
    with pytest.raises(ModelFailed, match=f"raised {name} while it was loaded") as caught:
        load(code)
    assert "secret" not in caught.value.message


def test_a_model_cannot_end_the_process(load: Any) -> None:
    with pytest.raises(ModelFailed, match="asked the process to exit"):
        load("raise SystemExit(3)")
    with pytest.raises(ModelFailed, match="asked the process to exit"):
        load(answering("exit(3)")).run(ROWS, ["y"])
    later = load(answering("exit(3)").replace("def predict", "async def predict")).run(ROWS, ["y"])
    with pytest.raises(ModelFailed, match="asked the process to exit"):
        asyncio.run(later)


def test_a_deliberate_error_of_the_model_reaches_the_caller(load: Any) -> None:
    runtime = load(
        "from keelway.errors import InvalidInput\nclass Model:\n    def predict(self, inputs):\n"
        "        raise InvalidInput('the basket is empty')"
    )
    with pytest.raises(InvalidInput, match="the basket is empty"):
        runtime.run(ROWS, ["y"])


@pytest.mark.parametrize(
    "changed",
    [
        {"module": "other.py"},
        {"module": "../model.py"},
        {"module": "/etc/passwd"},
        {"module": "model.txt"},
        {"module": "."},
        {"module": 3},
        {"class": "Other"},
        {"class": "np"},
        {"class": "Helper"},
        {"outputs": [{"name": "y"}]},
        {"surplus": 1},
    ],
    ids=str,
)
def test_options_that_name_no_model_are_a_corrupt_artifact(changed: dict[str, Any], load: Any, tmp_path: Path) -> None:
    (tmp_path / "model.txt").write_text(SUM)
    with pytest.raises(CorruptArtifact) as caught:
        load(SUM + "\nclass Helper: ...\n", **changed)
    assert caught.value.hint


def test_a_link_out_of_the_artifact_is_not_followed(load: Any, tmp_path: Path, tmp_path_factory: Any) -> None:
    outside = tmp_path_factory.mktemp("outside") / "evil.py"
    outside.write_text(SUM)
    (tmp_path / "link.py").symlink_to(outside)
    with pytest.raises(CorruptArtifact):
        load(SUM, module="link.py")


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("None", "did not answer a mapping"),
        ("x", "did not answer a mapping"),
        ("{}", "did not answer its output 'y'"),
        ("{'y': x}", "declared shape"),
        ("{'y': x[0, 0]}", "declared shape"),
        ("{'y': x[:1, 0]}", "has 1 rows for 2"),
        ("{'y': x[:, 0].astype('f8')}", "is not FP32"),
        ("{'y': x[:, 0].astype('i4')}", "is not FP32"),
        ("{'y': ['a', 'b']}", "is not FP32"),
        ("{'y': [None, None]}", "is not FP32"),
        ("{'y': [[1], [1, 2]]}", "is not an array"),
    ],
)
def test_an_answer_that_breaks_its_declaration_is_the_models_failure(expression: str, expected: str, load: Any) -> None:
    # T3
    with pytest.raises(ModelFailed, match=expected):
        load(answering(expression)).run(ROWS, ["y"])


@pytest.mark.parametrize(
    ("expression", "datatype"),
    [
        ("x[:, 0].astype('f2')", "FP32"),
        ("x[:, 0].astype('>f4')", "FP32"),
        ("x[:, 0].astype('i4')", "FP64"),
        ("x[:, 0].astype('u1')", "INT64"),
        ("[1, 2]", "INT64"),
        ("x[:, 0] > 1", "BOOL"),
        ("['a', 'ü']", "BYTES"),
        ("np.array([b'a', 'b'], dtype=object)", "BYTES"),
    ],
)
def test_an_answer_is_cast_where_nothing_is_lost(expression: str, datatype: str, load: Any) -> None:
    answer = load(answering(f"{{'y': {expression}}}"), [output(datatype)]).run(ROWS, ["y"])[0]
    assert answer.dtype == python.NUMPY_DTYPES[datatype]
    assert len(answer) == 2


@pytest.mark.parametrize(
    ("expression", "datatype"),
    [
        ("x[:, 0].astype('i8')", "FP64"),  # beyond 2**53 an int64 is no float64
        ("x[:, 0].astype('i8')", "INT32"),
        ("x[:, 0]", "BOOL"),
        ("x[:, 0]", "BYTES"),
        ("np.array(['a', None], dtype=object)", "BYTES"),
    ],
)
def test_an_answer_is_not_cast_where_something_might_be_lost(expression: str, datatype: str, load: Any) -> None:
    with pytest.raises(ModelFailed, match=f"is not {datatype}"):
        load(answering(f"{{'y': {expression}}}"), [output(datatype)]).run(ROWS, ["y"])


def test_a_model_without_a_batch_axis_answers_its_own_shape(load: Any) -> None:
    spec = {"name": "x", "datatype": "FP32", "shape": [2, 2]}
    runtime = load(answering("{'y': x.ravel()}"), [output(shape=(4,))], inputs=[spec])
    assert runtime.run(ROWS, ["y"])[0].shape == (4,)


def test_only_requested_outputs_are_checked_and_they_come_in_order(load: Any) -> None:
    outputs = [{"name": name, "datatype": "FP32", "shape": [-1]} for name in ("a", "b", "c")]
    runtime = load(answering("{'a': x[:, 0], 'b': x[:, 1]}"), outputs)
    assert [array.tolist() for array in runtime.run(ROWS, ["b", "a"])] == [[2, 4], [1, 3]]


def test_a_raising_close_still_forgets_the_module(load: Any) -> None:
    modules = set(sys.modules)
    runtime = load(SUM + "    def close(self):\n            raise KeyError\n")
    with pytest.raises(KeyError):
        runtime.close()
    assert set(sys.modules) == modules
