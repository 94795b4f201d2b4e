"""The reference pages of the documentation, written from the code that they describe, so that they cannot be wrong.

``python -m keelway.cli.reference docs/reference`` writes them; ``--check`` compares and exits 1 naming the first page
that is stale. The same text everywhere: nothing here looks at the terminal, the environment or the time.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from keelway import errors
from keelway.cli.declared import Parameter, commands, own_parameters, usage
from keelway.cli.grpc_reference import grpc_page
from keelway.cli.markdown import help_text, page, plain, table
from keelway.config import Settings, variables
from keelway.contract.signature import ModelSignature
from keelway.errors import ErrorCode, KeelwayError
from keelway.observe.metrics import METRICS, STAGES
from keelway.transports.rest.errors import (
    STATUS,
    ErrorBody,
    error_body_of,
    mlflow_error,
    problem,
    protocol_error,
)
from keelway.transports.rest.paths import InferencePaths, InferenceRoute

#: Every inference route with what it is for. The error form and the metric label come from the route itself.
INFERENCE: Final[Mapping[str, str]] = {
    "/v1/models/{model}/predict": "Named rows in, predictions out; rows succeed or fail one by one",
    "/v1/models/{model}/versions/{version}/predict": "The same with one version or alias",
    "/predict": "The same where exactly one model is served",
    "/v2/models/{model}/infer": "Open Inference Protocol: tensors as JSON or binary; succeeds or fails as a whole",
    "/v2/models/{model}/versions/{version}/infer": "The same with one version or alias",
    "/v1/models/{model}:predict": "TensorFlow Serving and KServe V1: `instances` or `inputs`",
    "/v1/models/{model}/versions/{version}:predict": "The same with one version",
    "/v1/models/{model}/labels/{version}:predict": "The same with an alias",
    "/invocations": "MLflow and SageMaker: `dataframe_split`, `dataframe_records`, `instances` or `inputs`",
}


_REQUEST_HEADERS: Final = (
    (
        "`X-Request-Priority`",
        "`interactive`, the default, or `batch`: takes what interactive requests leave, and is refused before them.",
    ),
    ("`X-Request-Timeout`", "Seconds the caller will wait: `0.25`, `0.25s` or `250ms`. It only shortens the limit."),
    ("`Inference-Header-Content-Length`", "Bytes of JSON in front of binary tensors (Open Inference Protocol)."),
)
_ANSWER_HEADERS: Final = (
    ("`X-Request-Id`", "Stands in the inference record too, and in the log where something went wrong."),
    (
        "`Keelway-Model-Version`, `Keelway-Model-Digest`",
        "The version that really answered, on the routes whose body has no place for it: MLflow, TensorFlow Serving.",
    ),
    ("`Cache-Status`", "What the cache did for an answer, where there is one: RFC 9211."),
    ("`Retry-After`", "Seconds until it is worth asking again."),
    ("`RateLimit`, `RateLimit-Policy`", "How much is left of a rate limit, and what it is, where one is."),
)

_FORMS: Final[Mapping[ErrorBody, str]] = {problem: "problem", protocol_error: "error", mlflow_error: "MLflow"}
_USED_BY: Final[Mapping[ErrorBody, str]] = {
    problem: "A problem document (RFC 9457): the people's routes and the server's own.",
    protocol_error: "The Open Inference Protocol, the model repository and TensorFlow Serving.",
    mlflow_error: "MLflow and SageMaker.",
}

_LABELS: Final[Mapping[str, str]] = {
    "model": "Name of a model that is served",
    "version": "Version of it; of `ml_build_info`: of keelway",
    "transport": "Family of the route: ",
    "code": "`OK`, or the code of the [error](errors.md)",
    "stage": "Stage of the request line: ",
    "field": "Name of a feature or input of the model; empty for one that it does not have",
    "tag": "What was unusual, such as `out_of_range:age`",
    "detector": "`robust_z`: a value far from its median; `mahalanobis`: values that do not go together; "
    "`isolation_forest`: a row in an empty place; `probing`: nearly equal rows of one client",
    "state": "`ready`, `starting`, `leaving`",
    "cause": "`died`, `reload`",
    "result": "`hit`: found in memory; `stored`: found in Redis; `shared`: another request's run; `miss`: a run of its "
    "own; `bypass`: not kept, as a value is missing or the model excluded",
    "store": "`memory`, `redis`",
    "reason": "Code of the [error](errors.md); of a cached answer `size` or `expired`",
    "operation": "`look`: find an answer or take the lease; `keep`: write an answer or give the lease back. Of rate "
    "limits `take`: count a request; `look`: when there is room; `give_back`: what another rule has refused",
    "outcome": "`ok`, `timeout`, `error`, `refused` (full, read-only), `garbage` (not an answer of ours), `skipped`",
    "rule": "One of `rate_limits.rules`, or `max_in_flight_per_principal`",
    "scope": "For whom it counts: `principal`, `address`, `model`, or several",
    "python": "Version of Python",
    "certificate": "`server`",
}


def pages() -> dict[str, str]:
    """File name to text of every page."""
    return {
        "cli.md": cli_page(),
        "errors.md": errors_page(),
        "grpc.md": grpc_page(),
        "http.md": http_page(),
        "metrics.md": metrics_page(),
        "settings.md": settings_page(),
    }


def stale(folder: Path) -> list[str]:
    """What is wrong with ``folder``, one line a page; empty when every page is what it should be."""
    wrong = []
    expected = pages()
    for name, text in expected.items():
        path = folder / name
        if not path.is_file():
            wrong.append(f"{path} is missing")
        elif path.read_text(encoding="utf-8") != text:
            wrong.append(f"{path} is stale")
    present = {path.name for path in folder.glob("*.md")}
    return wrong + [f"{folder / name} is written by nobody" for name in sorted(present - expected.keys())]


# Settings


def settings_page() -> str:
    """Every setting with its type, default, environment variable and meaning, then all defaults as a file."""
    environment = {(section, field): variable for section, field, variable in variables()}
    lines = [
        "A setting is read from a TOML file (`--config keelway.toml`), from its environment variable, or from an",
        "option of a [command](cli.md), each outranking the one before. A list in an environment variable is separated",
        "by commas. A name that is not listed here is an error.",
    ]
    for section, fields in _sections():
        rows = [
            (f"`{name}`", kind, f"`{_toml(default)}`", f"`{environment[section, name]}`", text)
            for name, kind, default, text in fields
        ]
        lines += ["", f"## {section}", "", *table(("setting", "type", "default", "environment", "meaning"), rows)]
    file = "\n\n".join(
        "\n".join([f"[{section}]", *(f"{name} = {_toml(default)}" for name, _, default, _ in fields)])
        for section, fields in _sections()
    )
    lines += ["", "## All defaults as a file", "", "```toml", file, "```"]
    return page("Settings", lines)


def _sections() -> Iterator[tuple[str, list[tuple[str, str, Any, str]]]]:
    """Each section with (field, type in words, default, description) of its fields."""
    defaults = Settings()
    for section in msgspec.structs.fields(Settings):
        fields = []
        for field in msgspec.structs.fields(section.type):
            described = msgspec.inspect.type_info(field.type)
            text = (getattr(described, "extra_json_schema", None) or {})["description"]
            default = getattr(getattr(defaults, section.name), field.name)
            fields.append((field.name, _kind(described), default, text))
        yield section.name, fields


def _kind(described: msgspec.inspect.Type) -> str:
    match described:
        case msgspec.inspect.Metadata(type=inner):
            return _kind(inner)
        case msgspec.inspect.VarTupleType():
            return "list of strings"
        case msgspec.inspect.BoolType():
            return "`true` or `false`"
        case msgspec.inspect.IntType(ge=least):
            return "whole number" + (f", at least {least}" if least is not None else "")
        case msgspec.inspect.FloatType(ge=least, gt=above):
            bound = f", at least {least}" if least is not None else f", above {above}" if above is not None else ""
            return f"number{bound}"
        case msgspec.inspect.StrType(pattern=pattern):
            return "string" + (f" (`{pattern}`)" if pattern else "")
    raise TypeError(f"the reference has no word for {described!r}")


def _toml(value: Any) -> str:
    # Of the kinds that settings have, TOML and JSON write all alike.
    return json.dumps(list(value) if isinstance(value, tuple) else value)


# Metrics


def metrics_page() -> str:
    """Every metric with its kind, labels and meaning, the labels, and the buckets."""
    rows = [
        (f"`{metric.name}`", metric.kind, ", ".join(f"`{label}`" for label in metric.labels), metric.help)
        for metric in METRICS
    ]
    families = dict.fromkeys(route.transport for route in map(_inference_route, INFERENCE))
    values = {"transport": families, "stage": STAGES}
    used = dict.fromkeys(label for metric in METRICS for label in metric.labels)
    labels = [
        (f"`{label}`", _LABELS[label] + ", ".join(f"`{value}`" for value in values.get(label, ()))) for label in used
    ]
    buckets = [
        (f"`{metric.name}`", ", ".join(f"{bound:g}" for bound in metric.buckets))
        for metric in METRICS
        if metric.buckets
    ]
    lines = ["Served at `/metrics` in the Prometheus text format, or as OpenMetrics to a scraper that asks for it.", ""]
    lines += table(("metric", "kind", "labels", "meaning"), rows)
    lines += ["", "## Labels", "", "The values of every label are bounded: nothing a caller sends becomes one.", ""]
    lines += table(("label", "values"), labels)
    lines += ["", "## Buckets", "", "Upper bounds, in the unit of the metric; `+Inf` is the last one everywhere.", ""]
    lines += table(("histogram", "buckets"), buckets)
    return page("Metrics", lines)


# Errors


def errors_page() -> str:
    """Every error class, every code with its HTTP status, and the body forms."""
    meanings = error_meanings()
    classes = [
        (f"`{cls.__name__}`", f"`{cls.code}`", str(STATUS[cls.code]), _yes(cls.code.retryable), meanings[cls.__name__])
        for cls in error_classes()
    ]
    # No phrases such as "Content Too Large": Python changes them between versions.
    codes = [(f"`{code}`", str(STATUS[code]), _yes(code.retryable)) for code in ErrorCode]
    lines = [
        "A message is written for the caller. It names fields, limits and datatypes, never the caller's values, a path",
        "or the text of an exception. An error may be retried when the same request can succeed later; then the answer",
        "carries `Retry-After` where the server knows how long to wait.",
        "",
        *table(("error", "code", "HTTP", "retry", "meaning"), classes),
        "",
        "## Codes",
        "",
        "The names are gRPC's.",
        "",
        *table(("code", "HTTP", "retry"), codes),
        "",
        "## Bodies",
        "",
        "Which form a route answers with stands in [HTTP routes](http.md).",
    ]
    error = errors.InvalidInput("'age' must be a number, not text", field="age")
    for form, name in _FORMS.items():
        body, media_type = form(STATUS[error.code], error.message, error, "5f0c2a9be1d4770800000001")
        text = json.dumps(json.loads(body), indent=2)
        lines += ["", f"### {name}", "", f"{_USED_BY[form]} `{media_type.decode()}`", "", "```json", text, "```"]
    return page("Errors", lines)


def error_classes(root: type[KeelwayError] = KeelwayError) -> Iterator[type[KeelwayError]]:
    """The tree of ``keelway.errors``, parents first, in the order of the source."""
    yield root
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from error_classes(child)


def error_meanings() -> dict[str, str]:
    """Class name to its line in the tree that is drawn in the docstring of ``keelway.errors``."""
    drawn = re.findall(r"[├└]── (\w+) +(.+?) +\([A-Z_]+\)$", errors.__doc__ or "", flags=re.MULTILINE)
    return {"KeelwayError": "the base of every deliberate error"} | dict(drawn)


def _yes(condition: bool) -> str:
    return "yes" if condition else "no"


# HTTP


class _Described(NamedTuple):
    """What the OpenAPI document says of a route: its summary and the statuses it may answer."""

    summary: str
    statuses: str


#: Pages for people, which the OpenAPI document leaves out.
_PAGES: Final[Mapping[tuple[str, str], _Described]] = {
    ("GET", "/"): _Described("Leads to `/docs`", "307"),
    ("GET", "/docs"): _Described("The documentation page: models, features, a form to try them", "200"),
}


def http_page() -> str:
    """The inference routes, then every other route of the server, with their error forms."""
    described = _described()
    inference = [
        ("POST", f"`{path}`", words, _FORMS[_inference_route(path).error_body]) for path, words in INFERENCE.items()
    ]
    others = [
        (method, f"`{path}`", *described[method, path], _FORMS[error_body_of(path)])
        for method, path in service_routes()
    ]
    infer, predict = described["POST", "/v2/models/{model}/infer"], described["POST", "/v1/models/{model}/predict"]
    lines = [
        "The running server describes its own models, features and examples at `/docs` and `/openapi.json`. The form",
        "of an error is one of those on the page about [errors](errors.md).",
        "",
        "## Inference",
        "",
        "`{version}` is a version, an alias, or a range: of the versions served, `^1.2` is the highest from 1.2.0 on",
        "and below 2.0.0. Without it the default version answers.",
        "",
        *table(("method", "path", "what it takes", "errors"), inference),
        "",
        f"Statuses of the people's routes: {predict.statuses}. Of the Open Inference Protocol: {infer.statuses}.",
        "",
        *table(("header of a request", "meaning"), _REQUEST_HEADERS),
        "",
        *table(("header of an answer", "meaning"), _ANSWER_HEADERS),
        "",
        "## Everything else",
        "",
        *table(("method", "path", "meaning", "statuses", "errors"), others),
        "",
        "## On every route",
        "",
        "403 to a page of another origin that is not in `http.allowed_origins`, 405 to a method the route does not",
        "take, 421 to a `Host` that is not in `http.allowed_hosts`, 431 to headers larger than",
        "`http.max_header_bytes`.",
    ]
    return page("HTTP routes", lines)


def service_routes() -> list[tuple[str, str]]:
    """(method, path) of every route that is no inference."""
    from keelway.transports.rest.service import Service

    nothing: Any = None  # which routes there are does not depend on what the service is given
    service = Service(nothing, nothing, nothing, allow_model_control=False, ready=lambda: True)
    routes: Sequence[Any] = service.application.routes
    return [(method, route.path) for route in routes for method in sorted(route.methods - {"HEAD"})]


def _described() -> dict[tuple[str, str], _Described]:
    """(method, path) to what the OpenAPI document says, of a model called ``{model}``, and the pages."""
    from keelway.routing.snapshot import ServedModel, ServedVersion
    from keelway.transports.rest.openapi import openapi_document

    nothing: Any = None  # a document needs no loaded model
    signature = ModelSignature((), (), ())
    version = ServedVersion("{model}", "0.0.0", "", 1, signature, nothing, nothing, nothing, None)
    paths = openapi_document([ServedModel("{model}", {"0.0.0": version}, "0.0.0")])["paths"]
    operations = {
        (method.upper(), path): _Described(operation["summary"], ", ".join(operation["responses"]))
        for path, item in paths.items()
        for method, operation in item.items()
        if method in ("get", "post")
    }
    return {**_PAGES, **operations}


def _inference_route(path: str) -> InferenceRoute:
    route = InferencePaths(1).find(path)
    if route is None:
        raise LookupError(f"{path} is no inference route")
    return route


# Commands


def cli_page() -> str:
    """Every command with its help, arguments and options."""
    from keelway.cli.main import app, main

    listed = list(commands(app))
    lines = [plain(app.info.help), "", plain((main.__doc__ or "").replace("The entry point. ", "")), ""]
    lines += [
        f"- [`{name}`](#{name.replace(' ', '-')}): {plain(text.partition(chr(10))[0])}" for name, text, _ in listed
    ]
    helps = " or ".join(
        f"`{option}`" for option in (app.info.context_settings or {}).get("help_option_names", ["--help"])
    )
    lines += ["", f"Every command explains itself with {helps}. Options of `keelway` itself:", ""]
    lines += _options(own_parameters(app))
    for name, text, declared in listed:
        lines += ["", f"## {name}", "", "```text", usage(name, declared), "```", "", *help_text(text)]
        arguments = [
            (f"`{parameter.metavar}`", plain(parameter.help)) for parameter in declared if parameter.is_argument
        ]
        if any(meaning for _, meaning in arguments):
            lines += ["", *table(("argument", "meaning"), arguments)]
        lines += ["", *_options(declared)]
    return page("Commands", lines)


def _options(declared: Iterable[Parameter]) -> list[str]:
    rows = []
    for option in declared:
        if not option.is_argument:
            shown = f"`{' '.join([', '.join(option.spellings), option.metavar]).strip()}`"
            rows.append(
                (shown + (", may be repeated" if option.is_repeated else ""), plain(option.help), option.default_text)
            )
    return table(("option", "meaning", "default"), rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the pages. Returns the exit code: 0 done, 1 a page is stale."""
    parser = argparse.ArgumentParser(
        prog="python -m keelway.cli.reference", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if a page is stale")
    parser.add_argument("folder", type=Path, help="folder of the pages")
    given = parser.parse_args(arguments)
    if given.check:
        wrong = stale(given.folder)
        if wrong:
            more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            sys.stderr.write(f"{wrong[0]}{more}; write it anew with: make docs\n")
        return 1 if wrong else 0
    given.folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (given.folder / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
