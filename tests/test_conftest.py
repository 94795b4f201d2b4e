"""The rules of the test run itself: they must be able to turn a run red."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def run_pytest(folder: Path, test: str) -> subprocess.CompletedProcess[str]:
    """Run ``test`` as the only test file of a project that has this project's conftest."""
    shutil.copy(Path(__file__).with_name("conftest.py"), folder)
    (folder / "test_it.py").write_text(test)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "test_it.py"],
        cwd=folder,
        env=os.environ | {"KEELWAY_HTTP_ADDRESS": "0.0.0.0:1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    "test",
    [
        "import pytest\ndef test_a(): pytest.skip('no time')\n",
        "import pytest\npytest.skip('not here', allow_module_level=True)\n",
        "import pytest\n@pytest.mark.skipif(True, reason='never')\ndef test_a(): ...\ndef test_b(): ...\n",
    ],
    ids=["inside a test", "a whole module", "by a mark"],
)
def test_a_skip_that_nobody_agreed_on_fails_the_run(tmp_path: Path, test: str) -> None:
    result = run_pytest(tmp_path, test)
    assert result.returncode != 0
    assert "skipped without being on the list" in result.stdout


def test_a_run_without_skips_passes_and_sees_no_settings_from_outside(tmp_path: Path) -> None:
    test = (
        "import os, pytest\n"
        "def test_settings(): assert 'KEELWAY_HTTP_ADDRESS' not in os.environ\n"
        "@pytest.mark.xfail(strict=True)\n"
        "def test_known(): assert False\n"
    )
    result = run_pytest(tmp_path, test)
    assert result.returncode == 0, result.stdout
