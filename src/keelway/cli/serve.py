"""``keelway serve``: models of the registry, or one ONNX file without any registry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keelway.cli.options import ArtifactsOption, ConfigOption, StoreOption, TrustTypeOption, open_blobs, open_registry

if TYPE_CHECKING:
    from keelway.config import Settings
    from keelway.edge.listening import Addresses
    from keelway.hosting.sources import ModelSource
    from keelway.ports import KeySource

HELP = """Serve models over REST, and gRPC where asked for, until SIGTERM or Ctrl-C.

NAME follows the champion of a registered model; NAME@VERSION stays; NAME@ALIAS follows an alias. A path serves one
ONNX file as it is, without a registry. Prints the address once everything is loaded.

\b
Examples:
  keelway serve model.onnx
  keelway serve lead_scoring --http 127.0.0.1:8080 --grpc 127.0.0.1:9090
  keelway serve lead_scoring@1.2.0 churn@challenger --config keelway.toml
  keelway serve lead_scoring --workers 4
  keelway serve lead_scoring --tls-certificate server.pem --tls-private-key server.key
"""


def serve(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME[@VERSION|@ALIAS] ...] [FILE]", show_default=False)
    ] = None,
    http: Annotated[
        str | None,
        typer.Option("--http", metavar="HOST:PORT", help="Listen here; default 127.0.0.1:8080, port 0: free."),
    ] = None,
    grpc: Annotated[
        str | None,
        typer.Option(
            "--grpc", metavar="HOST:PORT", help="Serve gRPC here too; port 0: free. Default: on the HTTP port alone."
        ),
    ] = None,
    insecure: Annotated[
        bool | None, typer.Option("--insecure", help="Allow listening beyond loopback without credentials.")
    ] = None,
    allow_python: Annotated[
        list[str] | None,
        typer.Option("--allow-python", metavar="DIGEST", help="Model digest whose Python code may run here."),
    ] = None,
    trust_type: TrustTypeOption = None,
    tls_certificate: Annotated[
        str | None,
        typer.Option("--tls-certificate", metavar="FILE", help="Speak TLS only, with this certificate chain (PEM)."),
    ] = None,
    tls_private_key: Annotated[
        str | None, typer.Option("--tls-private-key", metavar="FILE", help="The key of --tls-certificate (PEM).")
    ] = None,
    tls_client_ca: Annotated[
        str | None,
        typer.Option("--tls-client-ca", metavar="FILE", help="Let only clients of these authorities in (PEM)."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", metavar="N", min=1, help="Processes that serve on the same port; default: 1."),
    ] = None,
    allow_model_control: Annotated[
        bool | None, typer.Option("--allow-model-control", help="Allow load and unload over the network.")
    ] = None,
    store: StoreOption = None,
    artifacts: ArtifactsOption = None,
    config: ConfigOption = None,
) -> None:
    from keelway.config import load_settings
    from keelway.observe.logs import configure

    overrides: dict[str, dict[str, Any]] = {
        "registry": {"store": store, "artifacts": artifacts},
        "http": {"address": http, "insecure": insecure},
        "grpc": {"address": grpc},
        "tls": {"certificate": tls_certificate, "private_key": tls_private_key, "client_ca": tls_client_ca},
        "runtime": {
            "allowed_python": tuple(allow_python) if allow_python else None,
            "trusted_types": tuple(trust_type) if trust_type else None,
        },
        "serving": {
            "models": tuple(models) if models else None,
            "workers": workers,
            "allow_model_control": allow_model_control,
        },
    }

    def read() -> Settings:
        return load_settings(config, overrides=overrides)

    settings = read()
    configure(settings.logs.level, settings.logs.format)
    source = model_source(settings)
    names = ", ".join(settings.serving.models)

    def announce(addresses: Addresses) -> None:
        url, grpc = addresses
        scheme = "grpcs" if settings.tls.certificate else "grpc"
        typer.echo(
            f"keelway serves {names} at {url}{f' and {scheme}://{grpc}' if grpc else ''} (documentation: {url}/docs)"
        )

    if settings.serving.workers > 1:
        from keelway.supervise.supervisor import Supervisor

        file = next((str(Path(name).resolve()) for name in settings.serving.models if is_file(name)), "")
        raise typer.Exit(Supervisor(settings, source, file, read, keys=key_source(settings)).run(announce))
    from keelway.app import App

    App(settings, source, keys=key_source(settings)).run(announce)


def key_source(settings: Settings) -> KeySource | None:
    """Where API keys are kept, where callers prove themselves by them."""
    if not settings.auth.keys:
        return None
    from keelway.hosting.keys import RegistryKeys

    return RegistryKeys(open_registry(settings))


def model_source(settings: Settings) -> ModelSource:
    """The source of what ``settings.serving.models`` names. ``InvalidInput`` for nothing or a file among names,
    ``FailedPrecondition`` if the keys that signatures are demanded of cannot be read."""
    from keelway.artifacts.statement import SignaturePolicy
    from keelway.errors import InvalidInput

    names, signed = settings.serving.models, SignaturePolicy.of(settings.signing)
    if not names:
        raise InvalidInput("nothing to serve", hint="keelway serve NAME, keelway serve model.onnx; see keelway models")
    files = [name for name in names if is_file(name)]
    if files:
        if len(names) > 1:
            raise InvalidInput(
                "a file is served alone", hint=f"push it to serve it beside others: keelway push NAME {files[0]}"
            )
        from keelway.hosting.files import FileSource

        return FileSource(Path(files[0]), signed=signed)
    from keelway.contract.names import parse_reference
    from keelway.hosting.registered import RegistrySource

    references = [parse_reference(name) for name in names]
    return RegistrySource(open_registry(settings), open_blobs(settings), references, signed)


def is_file(name: str) -> bool:
    """Whether a word of the command line is meant as a path: it has a suffix or a slash, or is a file in sight."""
    path = Path(name)
    return "/" in name or path.is_file() or ("@" not in name and bool(path.suffix))
