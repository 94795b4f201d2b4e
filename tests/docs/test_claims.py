"""What the pages name exists: commands, options, settings, variables, routes, metrics, errors and source files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from tests.docs import pages as read
from tests.docs.pages import DOCS, PAGES, ROOT, WRITTEN, blocks, code, each, inline_code, name_of

from keelway.cli.declared import Parameter, commands, own_parameters
from keelway.cli.main import app
from keelway.cli.reference import INFERENCE, service_routes
from keelway.config import load_settings, variables
from keelway.errors import ErrorCode
from keelway.observe.metrics import METRICS
from keelway.transports.rest.paths import InferencePaths

#: Names of groups of commands.
GROUPS = {group.name for group in app.registered_groups}
HELP = {"-h", "--help", "--install-completion", "--show-completion"}
SECTIONS = {section for section, _, _ in variables()}
SETTINGS = {f"{section}.{field}" for section, field, _ in variables()}
VARIABLES = {variable for _, _, variable in variables()}
#: Families of routes that the prose names, which are no routes themselves.
FAMILIES = {"/health", "/v1", "/v2"}


# Commands


@cache
def declared() -> dict[str, frozenset[str]]:
    """The options of each command; those of ``keelway`` itself under the empty name."""
    found = {name: spellings(parameters) for name, _, parameters in commands(app)}
    return found | {"": spellings(own_parameters(app))}


def spellings(parameters: Iterator[Parameter] | object) -> frozenset[str]:
    assert isinstance(parameters, list | tuple)
    return frozenset(word for parameter in parameters if not parameter.is_argument for word in parameter.spellings)


def unknown_words(words: list[str]) -> Iterator[str]:
    """What a call of keelway says that the application does not know."""
    name = words[0] if words and not words[0].startswith("-") else ""
    if name in GROUPS and len(words) > 1:
        name = f"{name} {words[1]}"
    if words == [name] and name in GROUPS:
        return
    if name not in declared():
        yield name
        return
    for word in words:
        option = word.partition("=")[0]
        if re.fullmatch(r"--?[a-z][a-z-]*", option) and option not in declared()[name] | HELP:
            yield f"{name} {option}"


@each(PAGES)
def test_every_command_and_option_in_a_call_exists(page: Path) -> None:
    calls = read.commands(page)
    assert [unknown for words in calls for unknown in unknown_words(words)] == []


@each(WRITTEN)
def test_every_option_in_the_prose_exists(page: Path) -> None:
    known = frozenset().union(*declared().values()) | HELP
    # pip's, those of the commands that write pages, and pytest's by our plugin
    of_others = {"--check", "--no-deps", "--write", "--keelway-model"}
    named = {option for text in inline_code(page) for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", text)}
    assert named - known - of_others == set()


def test_the_calls_on_the_pages_are_found() -> None:
    called = {words[0] for page in PAGES for words in read.commands(page) if words}
    assert called >= {"push", "serve", "predict", "models", "show", "promote", "health"}
    assert list(unknown_words(["serve", "iris", "--processes", "4"])) == ["serve --processes"]
    assert list(unknown_words(["deploy", "docker"])) == ["deploy"]
    assert list(unknown_words(["constraints", "drop"])) == ["constraints drop"]
    assert list(unknown_words(["constraints", "show", "m", "--yes"])) == ["constraints show --yes"]
    assert list(unknown_words(["push", "x", "m.onnx", "--why", "because"])) == []


# Settings


def named_settings(text: str) -> set[str]:
    return set(re.findall(rf"(?<![\w./])(?:{'|'.join(sorted(SECTIONS))})\.[a-z][a-z_]*(?!\w|/|\.\w)", text))


@each(PAGES)
def test_every_setting_exists(page: Path) -> None:
    named = {setting for text in inline_code(page) for setting in named_settings(text)}
    files = {f"{section}.{end}" for section in SECTIONS for end in ("json", "jsonl", "md", "py")}
    assert named - SETTINGS - files == set()


def test_settings_are_found() -> None:
    assert named_settings("`limits.max_rowz`, logs.py of `observe/logs.py`") == {"limits.max_rowz", "logs.py"}
    named = {setting for page in WRITTEN for text in inline_code(page) for setting in named_settings(text)}
    assert len(named & SETTINGS) > 15


@each(PAGES)
def test_every_environment_variable_exists(page: Path) -> None:
    named = {variable for text in code(page) for variable in re.findall(r"\bKEELWAY_[A-Z_]+\b", text)}
    assert named - VARIABLES - {"KEELWAY_SECTION_FIELD", "KEELWAY_API_KEY"} == set()


@each(PAGES)
def test_every_settings_file_can_be_loaded(page: Path, tmp_path: Path) -> None:
    for block in blocks(page):
        if block.language == "toml" and re.search(rf"^\[({'|'.join(SECTIONS)})\]$", block.text, re.MULTILINE):
            file = tmp_path / "keelway.toml"
            file.write_text(block.text)
            load_settings(file, environment={})


# Routes


@cache
def routes() -> re.Pattern[str]:
    """Every path that the server answers, with anything for what is in braces."""
    paths = [path for _, path in service_routes()] + list(INFERENCE)
    known = (re.sub(r"\\\{\w+\\\}", r"[^/:]+", re.escape(path)) for path in paths)
    return re.compile("|".join(known))


def named_routes(text: str) -> set[str]:
    """The paths in ``text`` that begin as one of ours does, without what may follow them in prose or in a shell."""
    text = re.sub(r"https?://[\w.\[\]-]+(:\d+)?", " ", text)
    first = "v1|v2|health|metrics|predict|invocations|ping|docs|openapi\\.json"
    found = re.findall(rf"(?<![\w./*~-])/(?:{first})(?![\w-])[\w:/{{}}.@-]*", text)
    return {path.rstrip("/.:") for path in found}


@each(WRITTEN)
def test_every_route_exists(page: Path) -> None:
    named = {route for text in code(page) for route in named_routes(text)}
    inference = InferencePaths(1)
    unknown = [path for path in sorted(named) if not routes().fullmatch(path) and inference.find(path) is None]
    assert [path for path in unknown if path not in FAMILIES] == []


def test_routes_are_found_and_unknown_ones_noticed() -> None:
    text = "`POST /v1/models/NAME:predict` and curl -s http://127.0.0.1:8080/v2/models/iris/infer -d @x, docs/v1"
    assert named_routes(text) == {"/v1/models/NAME:predict", "/v2/models/iris/infer"}
    assert not routes().fullmatch("/v2/models/iris/explain")
    assert InferencePaths(1).find("/v2/models/iris/explain") is None
    named = {route for page in WRITTEN for text in code(page) for route in named_routes(text)}
    assert named >= {"/v2/models/NAME/infer", "/health/ready", "/metrics", "/invocations", "/ping"}


# Names of metrics, errors and files


@each(WRITTEN)
def test_every_metric_exists(page: Path) -> None:
    known = {metric.name + end for metric in METRICS for end in ("", "_bucket", "_sum", "_count")}
    assert {name for text in code(page) for name in re.findall(r"\bml_[a-z_]+\b", text)} - known == set()


@each(WRITTEN)
def test_every_error_code_exists(page: Path) -> None:
    documents = [text for text in code(page) if '"code"' in text]
    named = {name for text in documents for name in re.findall(r'"code": ?"([A-Z_]+)"', text)}
    assert named <= {"OK", *map(str, ErrorCode)}


@each(WRITTEN)
def test_every_source_file_exists(page: Path) -> None:
    """``guard/admission.py`` and ``codecs/`` are below ``src/keelway``, unless they are below the root."""
    pattern = r"(?<![\w./])(?:[a-z_]+/)+(?:[a-z_]+\.py)?(?![\w.<])|(?<![\w./])dataplane\.py"
    named = {path for text in inline_code(page) for path in re.findall(pattern, text) if "/v" not in path}
    places = (ROOT, ROOT / "src" / "keelway", page.parent)
    known = {"dist/", "sha256/", "versions/"}
    assert {path for path in named if not any((place / path).exists() for place in places)} - known == set()


def test_the_index_names_every_page_of_its_folders() -> None:
    index = (DOCS / "index.md").read_text()
    for folder in ("how-to", "adr", "reference"):
        for page in (DOCS / folder).glob("*.md"):
            assert f"({folder}/{page.name})" in index, f"docs/index.md does not list {name_of(page)}"


@pytest.mark.parametrize("page", sorted((DOCS / "adr").glob("*.md")), ids=name_of)
def test_every_record_has_its_four_parts(page: Path) -> None:
    headings = re.findall(r"^## (.+)$", page.read_text(), re.MULTILINE)
    assert headings == ["Context", "Decision", "Consequences", "What would change our mind"]
