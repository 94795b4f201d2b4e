"""The generated reference: nothing is missing from it, it is the same everywhere, and a change of the code shows."""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
import tomllib
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer

from keelway.cli import main as command_line
from keelway.cli import reference
from keelway.cli.declared import commands, own_parameters, usage
from keelway.cli.markdown import help_text, table
from keelway.config import Settings, load_settings, variables
from keelway.errors import ErrorCode
from keelway.observe.metrics import METRICS
from keelway.transports.rest.paths import InferencePaths


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return reference.pages()


def section(page: str, title: str) -> str:
    """The text below a heading of the second level."""
    return page.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_every_setting_has_its_row_with_variable_and_meaning(pages: dict[str, str]) -> None:
    for name, field, variable in variables():
        rows = [line for line in section(pages["settings.md"], name).splitlines() if line.startswith(f"| `{field}` |")]
        assert len(rows) == 1, f"{name}.{field}"
        *_, environment, meaning, _ = re.split(r"(?<!\\)\|", rows[0])
        assert environment.strip() == f"`{variable}`"
        assert len(meaning.strip()) > 10


def test_the_file_of_all_defaults_is_the_defaults(pages: dict[str, str], tmp_path: Path) -> None:
    text = re.findall(r"```toml\n(.*?)```", pages["settings.md"], flags=re.DOTALL)[0]
    (tmp_path / "keelway.toml").write_text(text)
    assert load_settings(tmp_path / "keelway.toml", {}) == Settings()
    written = {(name, field) for name, fields in tomllib.loads(text).items() for field in fields}
    assert written == {(name, field) for name, field, _ in variables()}


def test_every_metric_and_each_of_its_labels_is_explained(pages: dict[str, str]) -> None:
    labels = section(pages["metrics.md"], "Labels")
    for metric in METRICS:
        assert f"| `{metric.name}` | {metric.kind} |" in pages["metrics.md"]
        assert metric.help in pages["metrics.md"]
        assert all(f"| `{label}` |" in labels for label in metric.labels)
        assert bool(metric.buckets) == (f"| `{metric.name}` |" in section(pages["metrics.md"], "Buckets"))


def test_every_error_and_every_code_is_there_with_its_status(pages: dict[str, str]) -> None:
    for error in reference.error_classes():
        assert f"| `{error.__name__}` | `{error.code}` | {reference.STATUS[error.code]} |" in pages["errors.md"]
    for code in ErrorCode:
        assert f"| `{code}` | {reference.STATUS[code]} |" in section(pages["errors.md"], "Codes")


def test_every_route_that_is_no_inference_is_there(pages: dict[str, str]) -> None:
    listed = section(pages["http.md"], "Everything else")
    assert len(reference.service_routes()) > 15
    for method, path in reference.service_routes():
        assert f"| {method} | `{path}` |" in listed


def patterns() -> set[str]:
    """The paths that ``InferencePaths`` matches, read from its source: every ``case`` with every alternative."""
    tree = ast.parse(inspect.cleandoc("\n" + inspect.getsource(InferencePaths)))
    found: set[str] = set()
    for case in (node for node in ast.walk(tree) if isinstance(node, ast.match_case)):
        assert isinstance(case.pattern, ast.MatchSequence)
        suffix = ":predict" if case.guard is not None else ""
        parts = [alternatives(part) for part in case.pattern.patterns]
        found |= {"/" + "/".join(choice) + suffix for choice in product(*parts)}
    return found


def alternatives(part: ast.pattern) -> list[str]:
    if isinstance(part, ast.MatchOr):
        return [word for one in part.patterns for word in alternatives(one)]
    if isinstance(part, ast.MatchValue):
        return [str(ast.literal_eval(part.value))]
    return ["{}"]


def test_every_inference_route_is_there_and_none_that_does_not_exist(pages: dict[str, str]) -> None:
    assert {re.sub(r"\{\w+\}", "{}", path) for path in reference.INFERENCE} == patterns()
    for path in reference.INFERENCE:
        assert f"| POST | `{path}` |" in section(pages["http.md"], "Inference")


def test_every_command_and_each_of_its_options_is_there_with_its_help(pages: dict[str, str]) -> None:
    listed = list(commands(command_line.app))
    assert {"push", "serve", "predict", "models", "show", "promote", "health"} <= {name for name, _, _ in listed}
    for name, _, declared in listed:
        text = section(pages["cli.md"], name)
        assert f"keelway {name} [OPTIONS]" in text
        for parameter in declared:
            shown = parameter.metavar if parameter.is_argument else parameter.spellings[0]
            assert shown in text, f"{name} {shown}"
            assert parameter.help.replace("|", "\\|").replace("*", "\\*").replace("<", "\\<") in text


def test_the_parser_takes_exactly_the_options_that_are_documented() -> None:
    for name, _, declared in commands(command_line.app):
        built: Any = typer.main.get_command(command_line.app)
        for word in name.split():
            built = built.commands[word]
        taken = {word for option in built.params for word in option.opts if word.startswith("-")}
        assert {word for parameter in declared if not parameter.is_argument for word in parameter.spellings} == taken


def test_rows_have_as_many_cells_as_their_table_has_columns(pages: dict[str, str]) -> None:
    for page in pages.values():
        for block in re.findall(r"(?:^\|.*\n)+", page, flags=re.MULTILINE):
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1, block


# Writing and checking


def test_what_was_written_is_not_stale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reference.main([str(tmp_path / "new" / "folder")]) == 0
    assert reference.main(["--check", str(tmp_path / "new" / "folder")]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["cli.md", "errors.md", "http.md", "metrics.md", "settings.md"])
def test_a_changed_page_is_named_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    reference.main([str(tmp_path)])
    page = tmp_path / name
    page.write_text(page.read_text().replace("| --- |", "| ---- |", 1))
    assert reference.main(["--check", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert f"{name} is stale" in said
    assert "make docs" in said
    assert said.count("\n") == 1


def test_a_missing_page_and_a_page_that_nobody_writes_are_named(tmp_path: Path) -> None:
    reference.main([str(tmp_path)])
    (tmp_path / "http.md").rename(tmp_path / "old.md")
    assert reference.stale(tmp_path) == [
        f"{tmp_path / 'http.md'} is missing",
        f"{tmp_path / 'old.md'} is written by nobody",
    ]


def test_a_new_metric_makes_the_page_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference.main([str(tmp_path)])
    monkeypatch.setattr(reference, "METRICS", (*METRICS, METRICS[0]._replace(name="ml_new_total")))
    assert reference.stale(tmp_path) == [f"{tmp_path / 'metrics.md'} is stale"]


def test_a_new_command_makes_the_page_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference.main([str(tmp_path)])
    more = typer.Typer(help=command_line.app.info.help)
    more.registered_callback = command_line.app.registered_callback
    more.registered_commands = list(command_line.app.registered_commands)
    more.command("retire", help="Take a version away.")(lambda: None)
    monkeypatch.setattr(command_line, "app", more)
    assert f"{tmp_path / 'cli.md'} is stale" in reference.stale(tmp_path)


def test_the_pages_do_not_depend_on_the_terminal_the_environment_or_the_folder(tmp_path: Path) -> None:
    reference.main([str(tmp_path / "here")])
    strange = os.environ | {
        "COLUMNS": "20",
        "TERM": "dumb",
        "NO_COLOR": "1",
        "LC_ALL": "C",
        "PYTHONHASHSEED": "7",
        "TZ": "Asia/Tokyo",
        "HOME": str(tmp_path),
        "KEELWAY_HTTP_ADDRESS": "0.0.0.0:1",
        "KEELWAY_NO_SUCH_THING": "1",
        "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
    }
    command = [sys.executable, "-m", "keelway.cli.reference", "--check", "here"]
    done = subprocess.run(command, cwd=tmp_path, env=strange, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# What commands declare


@pytest.fixture
def application() -> typer.Typer:
    app, keys = typer.Typer(), typer.Typer(help="Keys.")

    @app.callback()
    def root(loud: Annotated[bool, typer.Option("--loud", help="Say more.")] = False) -> None: ...

    @app.command("copy-all")
    def copy_all(
        source: Annotated[Path, typer.Argument(help="From.")],
        targets: Annotated[list[str] | None, typer.Argument(metavar="TO")] = None,
        count: Annotated[int, typer.Option("--count", "-n", help="How many.")] = 3,
        dry_run: Annotated[bool, typer.Option(help="Only say it.")] = False,
        secret: Annotated[str, typer.Option(hidden=True)] = "",
    ) -> None:
        """Copy."""

    @app.command(hidden=True)
    def internal() -> None: ...

    @keys.command("new")
    def new() -> None:
        """Make a key."""

    app.add_typer(keys, name="keys")
    return app


def test_commands_are_read_as_they_are_declared(application: typer.Typer) -> None:
    found = {name: (text, declared) for name, text, declared in commands(application)}
    assert list(found) == ["copy-all", "keys new"]
    text, declared = found["copy-all"]
    assert text == "Copy."
    assert usage("copy-all", declared) == "keelway copy-all [OPTIONS] SOURCE [TO]..."
    options = {tuple(p.spellings): (p.metavar, p.default_text) for p in declared if not p.is_argument}
    assert options == {("--count", "-n"): ("N", "`3`"), ("--dry-run",): ("", "")}
    assert [parameter.spellings for parameter in own_parameters(application)] == [["--loud"]]


def test_a_block_that_must_not_be_wrapped_stays_a_block() -> None:
    text = "First *line* of <words>.\n\n\b\nExamples:\n  keelway serve a\n  keelway serve b\n"
    block = ["```text", "keelway serve a\nkeelway serve b", "```"]
    assert help_text(text) == ["First \\*line\\* of \\<words>.", "", "Examples:", "", *block]


def test_a_bar_does_not_end_a_cell() -> None:
    assert table(["a"], [["x|y"]]) == ["| a |", "| --- |", "| x\\|y |"]
