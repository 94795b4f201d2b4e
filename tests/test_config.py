"""Settings: a file, the environment and the command line, in that order, and a misspelt one never passes silently."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import pytest

from keelway.config import Settings, load_settings, variables
from keelway.errors import FailedPrecondition, InvalidInput

EVERY_SETTING = pytest.mark.parametrize(
    ("section", "field", "variable"), list(variables()), ids=[variable for _, _, variable in variables()]
)

#: Settings whose values are checked against a pattern or may be 0: setting -> another valid value than the default.
OTHERS: dict[str, Any] = {
    "tls.client_certificates": "optional",
    "logs.level": "warning",
    "logs.format": "text",
    "cache.jitter": 0.5,
    "rate_limits.on_failure": "closed",
    "rate_limits.proxy_header": "forwarded",
}
#: Seconds that may be none at all.
MAY_BE_0 = {"leeway", "drain_delay", "negative_ttl", "lease_wait", "max_queue_delay", "warm_up_seconds"}


def default_of(section: str, field: str) -> Any:
    return getattr(getattr(Settings(), section), field)


def another(section: str, field: str) -> Any:
    """A valid value that is not the default."""
    default = default_of(section, field)
    match default:
        case bool():
            return not default
        case int():
            return default + 1
        case float():
            return OTHERS.get(f"{section}.{field}", default + 1.5)
        case tuple():
            return ("one", "two")
        case _:
            return OTHERS.get(f"{section}.{field}", "another")


def in_words(value: Any) -> str:
    """``value`` as one writes it into the environment."""
    return " one, ,two," if isinstance(value, tuple) else str(value)


def in_toml(value: Any) -> str:
    return str(list(value)) if isinstance(value, tuple) else msgspec.json.encode(value).decode()


def file(folder: Path, text: str | bytes) -> Path:
    path = folder / "keelway.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def refusal(path: Path | None = None, environment: dict[str, str] | None = None, overrides: Any = None) -> str:
    with pytest.raises(InvalidInput) as refused:
        load_settings(path, environment or {}, overrides)
    return refused.value.message


def test_nothing_given_is_the_defaults() -> None:
    assert load_settings(None, {}) == Settings() == load_settings(None, {}, {"http": {"address": None}, "logs": {}})


def test_the_environment_of_the_process_is_read_when_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEELWAY_LIMITS_MAX_ROWS", "7")
    assert load_settings().limits.max_rows == 7
    assert load_settings(None, {}).limits.max_rows == Settings().limits.max_rows


@EVERY_SETTING
def test_every_setting_can_be_given_in_each_of_the_three_ways(
    section: str, field: str, variable: str, tmp_path: Path
) -> None:
    value = another(section, field)
    assert value != default_of(section, field)
    for settings in (
        load_settings(None, {variable: in_words(value)}),
        load_settings(file(tmp_path, f"[{section}]\n{field} = {in_toml(value)}\n"), {}),
        load_settings(None, {}, {section: {field: value}}),
    ):
        assert getattr(getattr(settings, section), field) == value


@EVERY_SETTING
def test_every_setting_is_explained(section: str, field: str, variable: str) -> None:
    section_type = next(info.type for info in msgspec.structs.fields(Settings) if info.name == section)
    info = next(info for info in msgspec.inspect.type_info(section_type).fields if info.name == field)
    assert isinstance(info.type, msgspec.inspect.Metadata)
    assert len((info.type.extra_json_schema or {}).get("description", "")) > 20
    assert variable == f"KEELWAY_{section}_{field}".upper()


def test_the_environment_outranks_the_file_and_the_command_line_both(tmp_path: Path) -> None:
    path = file(tmp_path, "[limits]\nmax_rows = 1\nmax_nesting = 1\nmax_in_flight = 1\n")
    environment = {"KEELWAY_LIMITS_MAX_NESTING": "2", "KEELWAY_LIMITS_MAX_IN_FLIGHT": "2"}
    limits = load_settings(path, environment, {"limits": {"max_in_flight": 3, "max_rows": None}}).limits
    assert (limits.max_rows, limits.max_nesting, limits.max_in_flight) == (1, 2, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[limits]\nmax_row = 5\n", "settings: Object contains unknown field `max_row` - at `$.limits`"),
        ("[limit]\nmax_rows = 5\n", "settings: Object contains unknown field `limit`"),
        ("[limits]\nmax_rows = 0\n", "settings: Expected `int` >= 1 - at `$.limits.max_rows`"),
        ("[limits]\nmax_rows = 4711.5\n", "settings: Expected `int`, got `float` - at `$.limits.max_rows`"),
        ('[limits]\nmax_rows = "4711"\n', "settings: Expected `int`, got `str` - at `$.limits.max_rows`"),
        ("[limits]\nrequest_timeout = 0\n", "settings: Expected `float` > 0.0 - at `$.limits.request_timeout`"),
        ("[limits]\nrequest_timeout = nan\n", "settings: Expected `float` > 0.0 - at `$.limits.request_timeout`"),
        ("[http]\nallowed_hosts = [4711]\n", "settings: Expected `str`, got `int` - at `$.http.allowed_hosts[0]`"),
        ("[http]\ninsecure = 1\n", "settings: Expected `bool`, got `int` - at `$.http.insecure`"),
        ("http = 4711\n", "settings: Expected `object`, got `int` - at `$.http`"),
    ],
)
def test_a_wrong_file_names_the_setting_and_not_the_value(text: str, message: str, tmp_path: Path) -> None:
    # R3: a value may be a secret.
    assert refusal(file(tmp_path, text)) == message


@pytest.mark.parametrize(
    ("variable", "text", "setting"),
    [
        ("KEELWAY_LIMITS_MAX_ROWS", "4711x", "limits.max_rows from the environment is not a valid int"),
        ("KEELWAY_LIMITS_MAX_ROWS", "", "limits.max_rows from the environment is not a valid int"),
        ("KEELWAY_LIMITS_MAX_ROWS", "9" * 5000, "limits.max_rows from the environment is not a valid int"),
        ("KEELWAY_LIMITS_MAX_ROWS", "-4711", "$.limits.max_rows"),
        ("KEELWAY_HTTP_INSECURE", "perhaps", "http.insecure from the environment is not a valid bool"),
        ("KEELWAY_HTTP_BODY_TIMEOUT", "4711s", "http.body_timeout from the environment is not a valid float"),
        ("KEELWAY_HTTP_BODY_TIMEOUT", "nan", "$.http.body_timeout"),
        ("KEELWAY_HTTP_BODY_TIMEOUT", "inf", "$.http.body_timeout"),
        ("KEELWAY_LOGS_LEVEL", "sentinel", "$.logs.level"),
        ("KEELWAY_LOGS_FORMAT", "sentinel", "$.logs.format"),
    ],
)
def test_a_wrong_variable_names_the_setting_and_not_the_value(variable: str, text: str, setting: str) -> None:
    # R3
    message = refusal(None, {variable: text})
    assert setting in message
    assert "4711" not in message
    assert "sentinel" not in message
    assert "999" not in message


@pytest.mark.parametrize("text", ["true", "True", "TRUE", "1"])
def test_yes_in_the_environment(text: str) -> None:
    assert load_settings(None, {"KEELWAY_HTTP_INSECURE": text}).http.insecure


@pytest.mark.parametrize("text", ["false", "False", "0"])
def test_no_in_the_environment(text: str, tmp_path: Path) -> None:
    path = file(tmp_path, "[http]\ninsecure = true\n")
    assert not load_settings(path, {"KEELWAY_HTTP_INSECURE": text}).http.insecure


@pytest.mark.parametrize(
    ("text", "hosts"),
    [("", ()), (",", ()), ("a", ("a",)), (" a.example , b.example ", ("a.example", "b.example"))],
)
def test_lists_are_separated_by_commas(text: str, hosts: tuple[str, ...], tmp_path: Path) -> None:
    path = file(tmp_path, '[http]\nallowed_hosts = ["from.file"]\n')
    assert load_settings(path, {"KEELWAY_HTTP_ALLOWED_HOSTS": text}).http.allowed_hosts == hosts


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error", "INFO"])
def test_log_levels_are_words_in_any_case(level: str) -> None:
    assert load_settings(None, {"KEELWAY_LOGS_LEVEL": level}).logs.level == level


def test_a_section_that_is_no_table_is_said_to_be_none_whoever_else_speaks(tmp_path: Path) -> None:
    path = file(tmp_path, "http = 4711\n")
    for environment, overrides in (({"KEELWAY_HTTP_INSECURE": "true"}, None), ({}, {"http": {"insecure": True}})):
        assert refusal(path, environment, overrides) == "settings: http is not a table"


def test_an_unknown_option_is_refused() -> None:
    assert "unknown field `max_row`" in refusal(None, {}, {"limits": {"max_row": 1}})


@pytest.mark.parametrize("text", ["[limits\n", "max_rows 5\n", "[limits]\nmax_rows = 1\nmax_rows = 2\n", b"\xff\xfe"])
def test_a_file_that_is_no_toml_is_said_to_be_none(text: str | bytes, tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match=r"^the settings file keelway\.toml is not valid TOML"):
        load_settings(file(tmp_path, text), {})


def test_a_file_that_cannot_be_read_is_named_without_its_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(FailedPrecondition) as refused:
            load_settings(path, {})
        assert refused.value.message.startswith(f"cannot read the settings file {path.name}: ")
        assert str(tmp_path.parent) not in refused.value.message


def test_the_registry_lives_in_the_project_folder_unless_told_otherwise() -> None:
    registry = Settings().registry
    assert (registry.store_url, registry.artifacts_url) == ("sqlite:///.keelway/registry.db", ".keelway/artifacts")
    told = load_settings(None, {}, {"registry": {"store": "postgresql://db/k", "artifacts": "s3://b"}}).registry
    assert (told.store_url, told.artifacts_url) == ("postgresql://db/k", "s3://b")


def test_every_number_of_seconds_is_positive_and_finite() -> None:
    # R3: an event loop has no timer for infinity, and a negative one is over before it began.
    for section, field, _ in variables():
        if isinstance(default_of(section, field), float) and not {field} & {
            "inline_below_ms",
            "early_refresh",
            "jitter",
            "busy_poll_us",
        }:
            for wrong in (-1.0, math.inf, math.nan, *([] if field in MAY_BE_0 else [0.0])):
                assert f"$.{section}.{field}" in refusal(None, {}, {section: {field: wrong}})


@pytest.mark.parametrize(
    "variable",
    ["KEELWAY_AUTH_KEY_SECRET", "KEELWAY_AUTH_KEY_SECRET_FILE", "KEELWAY_AUTH_REQUIRE", "KEELWAY_JWT_SECRET"],
)
@pytest.mark.parametrize("text", ["", "  \n"])
def test_a_variable_that_was_to_bring_a_secret_and_is_blank_is_refused(variable: str, text: str) -> None:  # U1
    assert "from the environment is empty" in refusal(None, {variable: text})


def test_an_example_with_every_setting_left_empty_asks_for_no_credentials(tmp_path: Path) -> None:  # U1
    path = file(tmp_path, '[auth]\nkey_secret = ""\nrequire = []\nmtls = []\n[jwt]\nissuer = ""\naudience = []\n')
    assert not load_settings(path, {}).demands_credentials
