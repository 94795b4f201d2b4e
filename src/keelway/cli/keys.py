"""``keelway keys``: API keys are made, listed, rotated and revoked. Running servers follow within a second or two."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from keelway.cli.options import (
    ConfigOption,
    JsonOption,
    StoreOption,
    WhyOption,
    open_registry,
    registry_settings,
    whoami,
)
from keelway.cli.output import print_json, print_table

if TYPE_CHECKING:
    from keelway.config import Settings
    from keelway.registry.models import ApiKey

HELP = "Make, list, rotate and revoke API keys."

CREATE_HELP = """Make an API key, and show it: once, on standard output. Only a hash of it is kept.

Scopes: predict:MODEL, predict:*, feedback:MODEL, feedback:*, metrics, and admin for everything.

\b
Examples:
  keelway keys create nightly --scope predict:lead_scoring --expires 90d
  keelway keys create prometheus --scope metrics
"""

LIST_HELP = """List the API keys that hold, with their scopes and when they were used last. Never what they are.

\b
Examples:
  keelway keys list
  keelway keys list --all --json
"""

ROTATE_HELP = """Make another key in the place of one, with its scopes, and show it. The old one holds for a while.

\b
Examples:
  keelway keys rotate nightly
  keelway keys rotate nightly --overlap 24h
"""

REVOKE_HELP = """Let nobody in by a key any more. Running servers follow within a second or two.

\b
Examples:
  keelway keys revoke nightly --why "it was in a log"
"""

MAKE_HELP = """Print a new secret for auth.key_secret_file: what API keys are hashed with.

Keep it outside the registry, and the same for all servers of one.

\b
Examples:
  (umask 077 && keelway keys secret > key-secret)
"""

#: Seconds that a time on the command line may be at most.
_CENTURY = 36_525 * 86_400.0

app = typer.Typer(name="keys", help=HELP, no_args_is_help=True, rich_markup_mode=None)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="What the key is called.")]
ExpiresOption = Annotated[
    str | None, typer.Option("--expires", metavar="TIME", help="How long it holds: 90d, 12h, 30m, 45s.")
]


@app.command("create", short_help="Make a key and show it.", help=CREATE_HELP)
def create(
    name: NameArgument,
    scope: Annotated[list[str], typer.Option("--scope", metavar="SCOPE", help="What it allows; may be repeated.")],
    expires: ExpiresOption = None,
    tenant: Annotated[
        str | None, typer.Option("--tenant", help="Tenants never get each other's cached answers.")
    ] = None,
    why: WhyOption = "made on the command line",
    store: StoreOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    from keelway.clock import SystemClock
    from keelway.guard.keys import check_scopes, digest_of, make_key
    from keelway.types import StoredKey

    settings = registry_settings(config, store, None)
    scopes, secret, made = check_scopes(scope), _secret(settings), make_key()
    ends = None if expires is None else SystemClock().now() + seconds(expires, "expires")
    stored = StoredKey(made.id, name, digest_of(made.text.encode(), secret), scopes, tenant, ends)
    entered = open_registry(settings).keys.create(stored, who=whoami(), why=why)
    _show(entered, made.text, json)


@app.command("list", short_help="List the keys.", help=LIST_HELP)
def list_(
    all_: Annotated[bool, typer.Option("--all", help="Also those that hold no more.")] = False,
    store: StoreOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    from keelway.clock import SystemClock

    now = SystemClock().now()
    known = open_registry(registry_settings(config, store, None)).keys.list()
    keys = [key for key in known if all_ or key.holds(now)]
    if json:
        print_json({"keys": [key_document(key, now) for key in keys]})
    elif not keys:
        typer.echo("no keys yet; make one: keelway keys create NAME --scope predict:*")
    else:
        documents = [key_document(key, now) for key in keys]
        columns = ("name", "id", "scopes", "tenant", "holds", "expires", "last used")
        print_table("", columns, [_row(key, document) for key, document in zip(keys, documents, strict=True)])


@app.command("rotate", short_help="Make another key in its place.", help=ROTATE_HELP)
def rotate(
    name: NameArgument,
    overlap: Annotated[
        str, typer.Option("--overlap", metavar="TIME", help="How long the old key still holds: 1h, 30m, 0s.")
    ] = "1h",
    expires: ExpiresOption = None,
    why: WhyOption = "rotated on the command line",
    store: StoreOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    from keelway.clock import SystemClock
    from keelway.guard.keys import digest_of, make_key
    from keelway.types import StoredKey

    settings = registry_settings(config, store, None)
    secret, made = _secret(settings), make_key()
    ends = None if expires is None else SystemClock().now() + seconds(expires, "expires")
    new = StoredKey(made.id, name, digest_of(made.text.encode(), secret), (), None, ends)
    keys = open_registry(settings).keys
    entered = keys.rotate(name, new, seconds(overlap, "overlap"), who=whoami(), why=why)
    _show(entered, made.text, json)


@app.command("revoke", short_help="Let nobody in by a key any more.", help=REVOKE_HELP)
def revoke(
    name: NameArgument,
    why: WhyOption = "revoked on the command line",
    store: StoreOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    ids = open_registry(registry_settings(config, store, None)).keys.revoke(name, who=whoami(), why=why)
    if json:
        print_json({"name": name, "revoked": list(ids)})
    else:
        typer.echo(f"{name} holds no more ({', '.join(ids)})")


@app.command("secret", short_help="Print a new secret for hashing keys.", help=MAKE_HELP)
def secret() -> None:
    import secrets

    typer.echo(secrets.token_urlsafe(48))


def seconds(text: str, option: str) -> float:
    """Seconds in ``90d``, ``12h``, ``30m`` or ``45s``. ``InvalidInput`` naming ``option`` for anything else, and for
    more than a century: a date that far away cannot be written."""
    from keelway.errors import InvalidInput

    written = re.fullmatch(r"(\d{1,9})([smhd])", text)
    if written is None:
        raise InvalidInput(f"--{option} is no time", field=option, hint="such as 90d, 12h, 30m or 45s")
    found = float(written[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[written[2]]
    if found > _CENTURY:
        raise InvalidInput(f"--{option} is more than a hundred years", field=option, hint="at most 36525d")
    return found


def key_document(key: ApiKey, now: float) -> dict[str, object]:
    """A key as JSON values, times in RFC 3339."""
    from keelway.clock import rfc3339

    def written(moment: float | None) -> str | None:
        return None if moment is None else rfc3339(moment)

    return {
        "name": key.name,
        "id": key.id,
        "scopes": list(key.scopes),
        "tenant": key.tenant,
        "holds": key.holds(now),
        "created_at": written(key.created_at),
        "created_by": key.created_by,
        "expires_at": written(key.expires_at),
        "revoked_at": written(key.revoked_at),
        "last_used_at": written(key.last_used_at),
    }


def _row(key: ApiKey, document: dict[str, object]) -> tuple[object, ...]:
    holds = "yes" if document["holds"] else "no"
    return (
        document["name"],
        document["id"],
        " ".join(key.scopes),
        document["tenant"],
        holds,
        document["expires_at"],
        document["last_used_at"],
    )


def _secret(settings: Settings) -> bytes:
    from keelway.errors import FailedPrecondition
    from keelway.guard.keys import read_secret

    if not settings.auth.keys:
        raise FailedPrecondition(
            "there is no secret to hash keys with",
            field="auth.key_secret",
            hint="(umask 077 && keelway keys secret > key-secret), then set auth.key_secret_file for servers too",
        )
    return read_secret(settings.auth.key_secret, settings.auth.key_secret_file, "auth.key_secret")


def _show(key: ApiKey, text: str, as_json: bool) -> None:
    from keelway.clock import SystemClock

    if as_json:
        print_json({**key_document(key, SystemClock().now()), "key": text})
        return
    until = "" if key.expires_at is None else f" until {key_document(key, 0)['expires_at']}"
    typer.echo(f"· {key.name} holds{until}, and allows {' '.join(key.scopes)}. It is shown this once:", err=True)
    typer.echo(text)
