"""``keelway sign`` and ``verify``: who vouches for a version, and whether it is what they vouched for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keelway.cli.options import (
    ArtifactsOption,
    ConfigOption,
    JsonOption,
    StoreOption,
    WhyOption,
    find_version,
    open_blobs,
    open_registry,
    registry_settings,
    signing_key,
    whoami,
)
from keelway.cli.output import print_json

SIGN_HELP = """Sign a version: its name, its number and its model digest, with an Ed25519 key.

Servers with signing.require_signature load only versions that a key of signing.trusted_keys has signed; running ones
follow within a second or two. Say --digest to be sure of signing what you have looked at.

\b
Examples:
  openssl genpkey -algorithm ed25519 -out signing-key.pem
  openssl pkey -in signing-key.pem -pubout -out signing-key.pub.pem
  keelway sign lead_scoring@1.2.0 --key signing-key.pem
"""

VERIFY_HELP = """Verify that a trusted key has signed a version, and that its files are what was signed.

Reads every file of it, and of a pipeline's members, from the artifact store. Exit code 1 if anything is wrong.

\b
Examples:
  keelway verify lead_scoring@1.2.0 --trusted signing-key.pub.pem
  keelway verify lead_scoring --config keelway.toml --json
"""


def sign(
    reference: Annotated[str, typer.Argument(metavar="NAME@VERSION", help="The version to sign.")],
    key: Annotated[
        Path | None,
        typer.Option("--key", metavar="KEYFILE", help="Private key (PEM). Default: signing.key_file, signing.key."),
    ] = None,
    digest: Annotated[
        str | None, typer.Option("--digest", metavar="DIGEST", help="Sign only what has this model digest.")
    ] = None,
    why: WhyOption = "signed on the command line",
    store: StoreOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    from keelway.artifacts.signing import Signature
    from keelway.artifacts.statement import sign_version
    from keelway.contract.names import parse_reference
    from keelway.errors import FailedPrecondition, InvalidInput

    settings = registry_settings(config, store, None)
    wanted = parse_reference(reference)
    if wanted.version is None:
        raise InvalidInput(
            "say which version", hint=f"keelway sign {wanted.name}@1.2.0; see keelway show {wanted.name}"
        )
    signing = signing_key(settings, key, "--key")
    if signing is None:
        raise FailedPrecondition(
            "there is no key to sign with", field="signing.key_file", hint="say --key KEYFILE, or set signing.key_file"
        )

    def checked(name: str, version: str, model_digest: str) -> Signature:
        if digest is not None and model_digest != digest:
            raise FailedPrecondition(
                f"{name} {version} has another digest: {model_digest}", field="digest", hint="find out who changed it"
            )
        return sign_version(signing, name, version, model_digest)

    signed = open_registry(settings).sign(wanted.name, wanted.version, checked, who=whoami(), why=why)
    if json:
        print_json(
            {
                "model": signed.model,
                "version": signed.version,
                "model_digest": signed.model_digest,
                "key_id": signing.key_id,
            }
        )
    else:
        typer.echo(f"{signed.model} {signed.version}  {signed.model_digest}\n  signed with the key {signing.key_id}")


def verify(
    reference: Annotated[str, typer.Argument(metavar="NAME[@VERSION|@ALIAS]", help="What to verify.")],
    trusted: Annotated[
        list[str] | None,
        typer.Option(
            "--trusted", metavar="KEY", help="Public key (PEM file) that counts. Default: signing.trusted_keys."
        ),
    ] = None,
    store: StoreOption = None,
    artifacts: ArtifactsOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    from keelway.artifacts.materialise import check_stored
    from keelway.artifacts.signing import TrustedKeys
    from keelway.artifacts.statement import SignaturePolicy
    from keelway.errors import FailedPrecondition

    settings = registry_settings(config, store, artifacts)
    given, option = (trusted, "--trusted") if trusted else (settings.signing.trusted_keys, "signing.trusted_keys")
    if not given:
        raise FailedPrecondition(
            "no key is trusted", field="trusted", hint="say --trusted KEY, the public key of whoever signs"
        )
    policy = SignaturePolicy(TrustedKeys.of(given, option))
    registry = open_registry(settings)
    version = find_version(registry, reference)
    signatures = registry.signatures(version.model, version.version)
    key_id = policy.check(version.model, version.version, version.model_digest, signatures)
    files = list(check_stored(open_blobs(settings), version.model_digest))
    size = sum(entry.size for entry in files)
    if json:
        print_json(
            {
                "model": version.model,
                "version": version.version,
                "model_digest": version.model_digest,
                "key_id": key_id,
                "files": len(files),
                "bytes": size,
            }
        )
    else:
        typer.echo(f"{version.model} {version.version}  {version.model_digest}")
        typer.echo(f"  signed by the trusted key {key_id}; {len(files)} files are what was signed ({size:,} bytes)")
