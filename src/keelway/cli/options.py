"""Options that several commands share, and the settings that result from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from keelway.artifacts.blobs import BlobStore
    from keelway.artifacts.signing import SigningKey
    from keelway.config import Settings
    from keelway.registry.models import ModelVersion
    from keelway.registry.store import Registry

StoreOption = Annotated[
    str | None, typer.Option("--store", metavar="URL", help="Registry database; default: SQLite inside .keelway/.")
]
ArtifactsOption = Annotated[
    str | None,
    typer.Option("--artifacts", metavar="URL", help="Where model files are kept; default: .keelway/artifacts."),
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Settings file (keelway.toml).", show_default=False)
]
CaCertificateOption = Annotated[
    str | None,
    typer.Option("--ca-certificate", metavar="FILE", help="Authorities to trust for https://; default: the system's."),
]
CertificateOption = Annotated[
    str | None,
    typer.Option("--certificate", metavar="FILE", help="One's own certificate, for a server that asks for it."),
]
PrivateKeyOption = Annotated[
    str | None, typer.Option("--private-key", metavar="FILE", help="The key of --certificate.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
KeyFileOption = Annotated[
    Path | None,
    typer.Option(
        "--api-key-file", metavar="FILE", help="File with the API key for a server; default: KEELWAY_API_KEY."
    ),
]
TrustTypeOption = Annotated[
    list[str] | None, typer.Option("--trust-type", metavar="NAME", help="A type a skops file may contain.")
]
TargetOption = Annotated[
    str | None, typer.Option("--target", metavar="COLUMN", help="Column of the sample that is predicted.")
]
VersionOption = Annotated[
    str | None, typer.Option("--version", metavar="X.Y.Z", help="Version; default: what the comparison computes.")
]
TrustPickleOption = Annotated[
    bool, typer.Option("--trust-pickle", help="Consent to running the code inside this file, in a child process.")
]
ToleranceOption = Annotated[
    float | None,
    typer.Option(
        "--tolerance",
        min=0.0,
        help="Largest accepted difference, recorded with the version. Default: 1e-5, for networks 1e-4.",
    ),
]
SignOption = Annotated[
    Path | None,
    typer.Option(
        "--sign", metavar="KEYFILE", help="Sign the version with this private key (PEM). Default: signing.key_file."
    ),
]
AllowPythonOption = Annotated[
    list[str] | None,
    typer.Option("--allow-python", metavar="DIGEST", help="Model digest whose Python code may run."),
]
WhyOption = Annotated[str, typer.Option("--why", metavar="TEXT", help="Why, for the history.")]


def registry_settings(config: Path | None, store: str | None, artifacts: str | None) -> Settings:
    """The settings of a command that reads or changes the registry."""
    from keelway.config import load_settings

    return load_settings(config, overrides={"registry": {"store": store, "artifacts": artifacts}})


def with_consent(settings: Settings, types: Sequence[str] | None, digests: Sequence[str] | None) -> Settings:
    """``settings`` with what the command line trusts beside what they trust."""
    import msgspec

    runtime = msgspec.structs.replace(
        settings.runtime,
        trusted_types=(*settings.runtime.trusted_types, *(types or ())),
        allowed_python=(*settings.runtime.allowed_python, *(digests or ())),
    )
    return msgspec.structs.replace(settings, runtime=runtime)


def registry_file(settings: Settings) -> Path | None:
    """The file that the registry is, unless it is elsewhere."""
    url, sqlite = settings.registry.store_url, "sqlite:///"
    return Path(url.removeprefix(sqlite)) if url.startswith(sqlite) else None


def open_registry(settings: Settings) -> Registry:
    """The registry; its folder is made when it is inside a folder that does not exist yet."""
    from keelway.clock import SystemClock
    from keelway.registry.store import Registry

    file = registry_file(settings)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
    return Registry.open(settings.registry.store_url, clock=SystemClock())


def open_blobs(settings: Settings) -> BlobStore:
    from keelway.artifacts.blobs import BlobStore

    return BlobStore.open(settings.registry.artifacts_url)


def find_version(registry: Registry, reference: str) -> ModelVersion:
    """The version that ``NAME``, ``NAME@VERSION``, ``NAME@ALIAS`` or ``NAME@RANGE`` means."""
    from keelway.contract.names import parse_reference

    wanted = parse_reference(reference)
    return registry.resolve(wanted.name, wanted.selector)


def signing_key(settings: Settings, file: Path | None, option: str) -> SigningKey | None:
    """The key to sign with: of ``file``, which ``option`` names, else of the settings, ``None`` without any."""
    from keelway.artifacts.signing import SigningKey

    if file is None:
        return SigningKey.of(settings.signing)
    return SigningKey.from_file(file, option, passphrase=settings.signing.passphrase.encode() or None)


def api_key(file: Path | None) -> str:
    """The API key to call a server with: of ``file``, else of the environment, else none. Never of the command line,
    which every user of the machine can read."""
    import os

    from keelway.errors import FailedPrecondition

    if file is None:
        return os.environ.get("KEELWAY_API_KEY", "").strip()
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        raise FailedPrecondition("the file of --api-key-file cannot be read", field="api-key-file") from None


def whoami() -> str:
    """Who is at the keyboard, for the history: the account's name, or its number where it has none."""
    import getpass
    import os

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
