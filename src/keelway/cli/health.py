"""``keelway health``: is a server ready? For people, health checks of containers, scripts: the exit code says it."""

from __future__ import annotations

from typing import Annotated

import typer

from keelway.cli.options import CaCertificateOption, CertificateOption, ConfigOption, JsonOption, PrivateKeyOption
from keelway.cli.output import print_json

HELP = """Ask a server whether it is ready. Exit code 0: yes, 1: no.

\b
Examples:
  keelway health
  keelway health http://127.0.0.1:8080
  keelway health https://models.internal --ca-certificate ca.pem
  keelway health --live        only: is the process there?
"""


def health(
    url: Annotated[str | None, typer.Argument(help="Address of the server; default: the configured one.")] = None,
    live: Annotated[bool, typer.Option("--live", help="Ask only whether the process is alive.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", min=0.01, help="Seconds to wait for the answer.")] = 5.0,
    ca_certificate: CaCertificateOption = None,
    certificate: CertificateOption = None,
    private_key: PrivateKeyOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    from keelway.cli.remote import Server, Tls
    from keelway.config import load_settings

    if url:
        base, pinned = url, None
    else:
        settings = load_settings(config)
        pinned = settings.tls.certificate or None
        base = f"{'https' if pinned else 'http'}://{settings.http.address}"
    healthy = Server(base, timeout, Tls(ca_certificate, certificate, private_key, pinned)).healthy(
        "live" if live else "ready"
    )
    if json:
        print_json({"url": base, "live" if live else "ready": healthy})
    else:
        typer.echo(f"{base} is {'' if healthy else 'not '}{'alive' if live else 'ready'}")
    raise typer.Exit(0 if healthy else 1)
