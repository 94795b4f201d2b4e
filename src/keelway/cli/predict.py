"""``keelway predict``: rows from a file or standard input, answered by a registered model, an ONNX file or a server."""

from __future__ import annotations

import csv
import io
import json as json_module
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keelway.cli.options import (
    AllowPythonOption,
    ArtifactsOption,
    CaCertificateOption,
    CertificateOption,
    ConfigOption,
    JsonOption,
    KeyFileOption,
    PrivateKeyOption,
    StoreOption,
    TrustTypeOption,
    api_key,
    registry_settings,
    with_consent,
)
from keelway.cli.output import print_json, print_table
from keelway.cli.serve import is_file, model_source

if TYPE_CHECKING:
    from keelway.cli.remote import Tls

HELP = """Predict rows: with a registered model, an ONNX file, or a running server (by its URL).

Rows are CSV with a header, JSON (a list of objects, or {"instances": [...]}), JSON lines or Parquet; - reads standard
input. Columns the model does not know are left out, and said so.

\b
Examples:
  keelway predict lead_scoring --input leads.csv
  keelway predict model.onnx --input rows.json --json
  head -3 leads.csv | keelway predict http://127.0.0.1:8080/lead_scoring --input -
"""

#: Rows sent at once.
CHUNK = 1000

Predict = Callable[[Sequence[Any]], dict[str, Any]]


def predict(
    model: Annotated[
        str,
        typer.Argument(metavar="NAME|FILE|URL", help="A registered name, an ONNX file, or http://HOST:PORT[/NAME]."),
    ],
    input_: Annotated[str, typer.Option("--input", "-i", metavar="FILE|-", help="The rows.")],
    timeout: Annotated[
        float, typer.Option("--timeout", min=0.01, help="Seconds to wait for a server's answer.")
    ] = 60.0,
    api_key_file: KeyFileOption = None,
    ca_certificate: CaCertificateOption = None,
    certificate: CertificateOption = None,
    private_key: PrivateKeyOption = None,
    trust_type: TrustTypeOption = None,
    allow_python: AllowPythonOption = None,
    store: StoreOption = None,
    artifacts: ArtifactsOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    from keelway.cli.remote import Tls

    rows = read_rows(input_)
    if model.startswith(("http://", "https://")):
        predictor = remote(model, timeout, Tls(ca_certificate, certificate, private_key), api_key(api_key_file))
    else:
        predictor = local(model, store, artifacts, config, trust_type or (), allow_python or ())
    with predictor as (features, answer):
        known = [fit_row(row, features) for row in rows]
        _mention_unknown(rows, features)
        answers = [answer(known[start : start + CHUNK]) for start in _steps(len(known), json)]
    document = merge(answers)
    if json:
        print_json(document)
    else:
        _print_predictions(document)
    if document.get("errors"):
        raise typer.Exit(1)


@contextmanager
def remote(url: str, timeout: float, tls: Tls, key: str = "") -> Iterator[tuple[Mapping[str, str], Predict]]:
    """The features (name to datatype) and the predict call of a model on a server."""
    from urllib.parse import urlsplit

    from keelway.cli.remote import Server
    from keelway.errors import NotFound

    parts = urlsplit(url)
    server = Server(f"{parts.scheme}://{parts.netloc}", timeout, tls, key)
    served = server.get("/v1/models")["models"]
    name = parts.path.strip("/")
    chosen = [model for model in served if name in ("", model["name"])]
    if len(chosen) != 1:
        names = ", ".join(model["name"] for model in served)
        raise NotFound("say which of its models", hint=f"append a name to the address: one of {names}")
    features = {feature["name"]: feature["datatype"] for feature in chosen[0]["features"]}
    path = f"/v1/models/{chosen[0]['name']}/predict"
    yield features, lambda rows: server.post(path, {"instances": list(rows)})


@contextmanager
def local(
    model: str,
    store: str | None,
    artifacts: str | None,
    config: Path | None,
    trusted_types: Sequence[str],
    allowed_python: Sequence[str],
) -> Iterator[tuple[Mapping[str, str], Predict]]:
    """The same for a model that is loaded here, with the very request line a server has."""
    import msgspec

    from keelway.app import offline
    from keelway.errors import NotFound

    settings = with_consent(registry_settings(config, store, artifacts), trusted_types, allowed_python)
    serving = msgspec.structs.replace(settings.serving, models=(model,))
    if is_file(model) and not Path(model).exists():
        raise NotFound(
            f"there is no file {model}", hint="give the path of an ONNX file, a registered name or an address"
        )
    settings = msgspec.structs.replace(settings, serving=serving)
    with offline(settings, model_source(settings)) as (version, answer):
        features = {feature.name: feature.datatype for feature in version.signature.features}
        yield features, lambda rows: json_module.loads(answer(json_module.dumps({"instances": list(rows)}).encode()))


def read_rows(source: str) -> list[Any]:
    """The rows of a file, or of standard input when ``source`` is ``-``. ``InvalidInput`` if they cannot be read."""
    from keelway.errors import InvalidInput, NotFound

    path = Path(source)
    if source != "-" and path.suffix.lower() in {".parquet", ".arrow", ".feather"}:
        from keelway.contract.sample import read_sample

        frame = read_sample(path)
        return [
            {name: None if value != value else value for name, value in row.items()}
            for row in frame.astype(object).where(frame.notna(), None).to_dict("records")
        ]
    try:
        text = sys.stdin.read() if source == "-" else path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise NotFound(
            f"cannot read {path.name}: {error.strerror}", hint="--input takes a file, or - for stdin"
        ) from None
    except UnicodeDecodeError:
        raise InvalidInput("the rows are not UTF-8 text", hint="give CSV, JSON, JSON lines or Parquet") from None
    rows = _parse(text.strip())
    if not rows:
        raise InvalidInput("there are no rows", hint="CSV needs a header line and at least one row")
    return rows


def _parse(text: str) -> list[Any]:
    from keelway.errors import InvalidInput

    if not text.startswith(("[", "{")):
        return list(csv.DictReader(io.StringIO(text)))
    try:
        document = json_module.loads(text)
    except ValueError:
        try:
            return [json_module.loads(line) for line in text.splitlines() if line.strip()]
        except ValueError:
            raise InvalidInput(
                "the rows are neither JSON nor JSON lines", hint="CSV starts with its header line"
            ) from None
    if isinstance(document, dict):
        document = document.get("instances", [document])
    return document if isinstance(document, list) else [document]


def fit_row(row: Any, features: Mapping[str, str]) -> Any:
    """A row with the columns the model knows, and text from CSV made what the features are."""
    if not isinstance(row, dict):
        return row
    known = {name: value for name, value in row.items() if name in features}
    return {name: _convert(value, features[name]) if isinstance(value, str) else value for name, value in known.items()}


def _convert(text: str, datatype: str) -> Any:
    if datatype == "BYTES":
        return text or None
    if not text.strip():
        return None
    if datatype == "BOOL":
        return {"true": True, "1": True, "false": False, "0": False}.get(text.strip().lower(), text)
    try:
        return float(text) if datatype.startswith("FP") else int(text)
    except ValueError:
        return text


def merge(answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The answers to consecutive chunks as one, row numbers counted on."""
    merged: dict[str, Any] = {**answers[0], "predictions": [], "errors": []}
    if "probabilities" in merged:
        merged["probabilities"] = []
    flags: dict[str, None] = {}
    for number, answer in enumerate(answers):
        merged["predictions"] += answer["predictions"]
        if "probabilities" in answer:
            merged["probabilities"] += answer["probabilities"]
        merged["errors"] += [error | {"row": error["row"] + number * CHUNK} for error in answer.get("errors", ())]
        flags |= dict.fromkeys(answer.get("flags", ()))
    if flags:
        merged["flags"] = list(flags)
    if not merged["errors"]:
        del merged["errors"]
    return merged


def _steps(rows: int, quiet: bool) -> Iterator[int]:
    """Starts of the chunks, with a progress bar on standard error where there is a terminal and enough to wait for."""
    starts = range(0, rows, CHUNK)
    if quiet or len(starts) < 3 or not sys.stderr.isatty():
        yield from starts
        return
    with typer.progressbar(starts, label="predicting", file=sys.stderr) as bar:
        yield from bar


def _mention_unknown(rows: Sequence[Any], features: Mapping[str, str]) -> None:
    unknown = sorted({name for row in rows if isinstance(row, dict) for name in row if name not in features})
    if unknown:
        typer.echo(f"· left out, unknown to the model: {', '.join(unknown[:8])}", err=True)


def _print_predictions(document: Mapping[str, Any]) -> None:
    labels: Sequence[Any] = document.get("labels", ())
    rows = []
    for number, prediction in enumerate(document["predictions"]):
        probabilities = document["probabilities"][number] if "probabilities" in document else None
        rows.append([number, _short(prediction), *(f"{p:.4f}" for p in probabilities or [])])
    title = f"{document['model']} {document['model_version']}"
    if not labels:
        labels = range(max((len(row) - 2 for row in rows), default=0))
    print_table(title, ("row", "prediction", *(f"P({label})" for label in labels)), rows)
    for error in document.get("errors", ()):
        typer.echo(f"keelway: row {error['row']}: {error['message']}", err=True)
    for flag in document.get("flags", ()):
        typer.echo(f"· flag: {flag}", err=True)


def _short(prediction: Any) -> str:
    if isinstance(prediction, float):
        return f"{prediction:.6g}"
    return prediction if isinstance(prediction, str) else json_module.dumps(prediction)
