"""What a user installs: light to import, typed, and nothing in the wheel that does not belong there."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import keelway

ROOT = Path(__file__).parents[1]


def test_importing_keelway_loads_no_third_party_library() -> None:
    script = "import sys; before = set(sys.modules); import keelway; print(*(set(sys.modules) - before), sep='\\n')"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert "keelway" in loaded
    allowed = sys.stdlib_module_names | {"keelway"}
    assert {module for module in loaded if module.partition(".")[0] not in allowed} == set()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (built,) = folder.glob("keelway-*.whl")
    return zipfile.Path(built)


def names_in(wheel: zipfile.Path) -> set[str]:
    return {name for name in wheel.root.namelist() if not name.endswith("/")}


def test_the_wheel_holds_every_source_file_and_nothing_else(wheel: zipfile.Path) -> None:
    source = ROOT / "src"
    expected = {
        path.relative_to(source).as_posix()
        for path in (source / "keelway").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in names_in(wheel) if ".dist-info/" not in name} == expected
    assert not [name for name in expected if re.search(r"(^|/)(tests?/|test_|conftest)", name)]


def test_the_wheel_is_typed_licensed_and_says_its_version(wheel: zipfile.Path) -> None:
    info = f"keelway-{keelway.__version__}.dist-info"
    assert {"keelway/py.typed", f"{info}/licenses/LICENSE", f"{info}/entry_points.txt"} <= names_in(wheel)
    assert f"\nVersion: {keelway.__version__}\n" in (wheel / info / "METADATA").read_text()
    assert "keelway = keelway.cli.main:main" in (wheel / info / "entry_points.txt").read_text()
