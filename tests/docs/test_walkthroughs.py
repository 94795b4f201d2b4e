"""The pages do what they say, from an empty folder on, with the outputs they show. Slow: they train, push and serve."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conformance.environments import keras_python
from tests.docs.pages import DOCS, Block
from tests.docs.walkthrough import Reader, compare, same, steps

TUTORIAL = DOCS / "tutorial.md"
#: How-to pages that go on in the folder of the tutorial. The others begin in an empty one.
AFTER_THE_TUTORIAL = {
    "authenticate-callers.md",
    "cache-answers.md",
    "call-from-existing-clients.md",
    "call-from-python.md",
    "call-over-grpc.md",
    "configure-the-server.md",
    "limit-callers.md",
    "declare-constraints.md",
    "move-from-mlflow.md",
    "roll-a-new-version.md",
    "run-in-production.md",
    "sign-models.md",
    "trace-a-version.md",
    "use-tls.md",
    "version-models.md",
}


def follow(page: Path, folder: Path) -> None:
    reader = Reader(folder)
    try:
        reader.follow(page)
    finally:
        reader.close()


@pytest.fixture(scope="module")
def after_the_tutorial(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """A folder as the tutorial leaves it; the tutorial is followed once, by whoever asks first."""
    folder = tmp_path_factory.mktemp("tutorial")
    outcomes: list[str] = []

    def copied() -> Path:
        if not outcomes:
            try:
                follow(TUTORIAL, folder)
                outcomes.append("")
            except AssertionError as error:
                outcomes.append(str(error))
        if outcomes[0]:
            pytest.fail(outcomes[0])
        return Path(shutil.copytree(folder, tmp_path_factory.mktemp("after") / "work"))

    return copied


@pytest.mark.slow
def test_the_tutorial_works_from_an_empty_folder_on(after_the_tutorial: Callable[[], Path]) -> None:
    assert (after_the_tutorial() / "predictions.json").stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted((DOCS / "how-to").glob("*.md")), ids=lambda page: page.stem)
def test_a_how_to_page_works(page: Path, tmp_path: Path, after_the_tutorial: Callable[[], Path]) -> None:
    if "keras-env/" in page.read_text():
        (tmp_path / "keras-env").symlink_to(keras_python().parents[1])
    follow(page, after_the_tutorial() if page.name in AFTER_THE_TUTORIAL else tmp_path)


def test_every_how_to_page_has_something_to_run() -> None:
    pages = {page.name for page in (DOCS / "how-to").glob("*.md")}
    assert pages >= AFTER_THE_TUTORIAL
    assert [name for name in sorted(pages) if not any(steps(DOCS / "how-to" / name))] == []


PRINTED = "kept as onnx: proved equal, version 1.1.0\nsha256:1234567890abcdef1234"


def test_an_output_that_differs_in_a_word_or_a_version_is_noticed() -> None:
    compare(Block("text", "kept as onnx, sha256:abcdef1234567890abcd\n1.1.0", 1), PRINTED, "here")
    for wrong in ("kept as skops", "version 1.2.0", "Kept as onnx: refused"):
        with pytest.raises(AssertionError, match="here"):
            compare(Block("text", wrong, 1), PRINTED, "here")


def test_an_answer_is_compared_value_by_value() -> None:
    documented = {"time": "then", "model_version": "1.0.0", "probabilities": [[0.73, 0.27], None]}
    assert same(documented, documented | {"time": "now", "probabilities": [[0.7300001, 0.27], None]})
    assert not same(documented, documented | {"probabilities": [[0.74, 0.26], None]})
    assert not same(documented, documented | {"flags": []})
    assert not same(documented, documented | {"model_version": "1.0.1"})


def test_a_page_that_is_wrong_fails(tmp_path: Path) -> None:
    def page(text: str) -> Path:
        path = tmp_path / f"page{len(list(tmp_path.glob('page*')))}.md"
        path.write_text(text)
        return path

    follow(page("```bash\necho good\n```\n\n```text\ngood\n```\n"), tmp_path)
    follow(page("```python\n# hello.py\nprint('x')\n```\n\n```bash\npython hello.py\n```\n"), tmp_path)
    follow(page("```bash\necho 'keelway: no'; exit 1\n```\n\n```text\nkeelway: no\n```\n"), tmp_path)
    for wrong in ("```bash\nexit 3\n```\n", "```bash\necho bad\n```\n\n```text\ngood\n```\n"):
        with pytest.raises(AssertionError, match=r"page\d\.md, line 1"):
            follow(page(wrong), tmp_path)
