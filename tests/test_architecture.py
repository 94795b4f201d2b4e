"""The rules of the house that no linter knows. The dependency rule itself is import-linter's (pyproject.toml)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from keelway import errors
from keelway.errors import ErrorCode, KeelwayError

SOURCE = Path(__file__).parents[1] / "src" / "keelway"
MODULES = [path for path in sorted(SOURCE.rglob("*.py")) if "wire" not in path.relative_to(SOURCE).parts]
PARAMETRISED = pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(SOURCE).as_posix())

#: Libraries of the extras, or slow to import: only inside functions.
LAZY = frozenset(
    {
        "ai_edge_litert",
        "alembic",
        "catboost",
        "cryptography",
        "grpc",
        "h5py",
        "httpx",
        "PIL",
        "joblib",
        "keras",
        "lightgbm",
        "limits",
        "onnx",
        "pandas",
        "psycopg",
        "pyarrow",
        "redis",
        "s3fs",
        "scipy",
        "skl2onnx",
        "sklearn",
        "skops",
        "tensorflow",
        "tf2onnx",
        "tokenizers",
        "torch",
        "transformers",
        "xgboost",
        "yaml",
    }
)

#: Packages that are themselves imported inside functions, and what they may therefore import at their head.
HOMES = {"client": frozenset({"grpc", "httpx"})}


def imported_at_module_level(tree: ast.AST) -> Iterator[str]:
    """Top-level names of the packages imported when the module is, leaving out ``if TYPE_CHECKING`` and functions."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imported_at_module_level(node)


@PARAMETRISED
def test_a_module_is_one_idea_and_under_450_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 450


@PARAMETRISED
def test_no_module_is_a_drawer_for_leftovers(path: Path) -> None:
    words = {word for part in path.relative_to(SOURCE).with_suffix("").parts for word in part.split("_")}
    assert not words & {"util", "utils", "helper", "helpers", "common", "misc"}


@PARAMETRISED
def test_heavy_libraries_are_imported_inside_functions(path: Path) -> None:
    if "migrations" in path.parts:  # alembic itself runs these
        return
    folder = path.relative_to(SOURCE).parent.as_posix()
    assert not (LAZY - HOMES.get(folder, frozenset())) & set(imported_at_module_level(ast.parse(path.read_text())))


@PARAMETRISED
def test_only_the_clock_reads_the_time(path: Path) -> None:
    if path == SOURCE / "clock.py":
        return
    reads = re.findall(
        r"\btime\.(?:time|monotonic|perf_counter)(?:_ns)?\b|\bdatetime\.(?:now|utcnow|today)\b", path.read_text()
    )
    assert reads == []


def drawn_tree() -> dict[str, tuple[str | None, str]]:
    """Error class -> (its parent, the code drawn beside it), read from the docstring of ``keelway.errors``."""
    drawn: dict[str, tuple[str | None, str]] = {}
    ancestors: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^    ([│ ├└─]*)([A-Z]\w+)(?: .*\(([A-Z_]+)\))?$", line)
        if match is None:
            continue
        depth = len(match[1]) // 4
        ancestors[depth:] = [match[2]]
        drawn[match[2]] = (ancestors[depth - 1] if depth else None, match[3] or "INTERNAL")
    return drawn


def real_tree(root: type[KeelwayError], parent: str | None = None) -> dict[str, tuple[str | None, str]]:
    tree = {root.__name__: (parent, root.code.value)}
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            tree |= real_tree(child, root.__name__)
    return tree


def test_the_drawn_error_tree_is_the_real_one() -> None:
    assert drawn_tree() == real_tree(KeelwayError)


def test_every_error_code_is_explained_in_the_drawn_tree() -> None:
    assert {code for _, code in drawn_tree().values()} == {code.value for code in ErrorCode}


def test_no_error_is_defined_outside_the_tree() -> None:
    names = set(real_tree(KeelwayError))
    strays = [
        f"{path.relative_to(SOURCE)}: {node.name}"
        for path in MODULES
        if path != SOURCE / "errors.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and names & {ast.unparse(base).rpartition(".")[2] for base in node.bases}
    ]
    assert strays == []
