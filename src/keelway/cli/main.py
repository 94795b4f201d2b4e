"""The command line. One file per command group; each imports what it needs when it runs, so that help is instant."""

from __future__ import annotations

import copy
import os
import sys
from typing import Annotated

import typer

from keelway import __version__
from keelway.cli import (
    aliases,
    archive,
    check,
    constraints,
    diff,
    documents,
    gc,
    health,
    history,
    keys,
    mlflow,
    models,
    predict,
    push,
    serve,
    sign,
)
from keelway.cli.output import print_error
from keelway.errors import KeelwayError

app = typer.Typer(
    name="keelway",
    help="From a trained model file to production: version it, check it, serve it.",
    epilog="Start here:  keelway serve model.onnx   ·   keelway push NAME model.joblib --sample data.parquet "
    "--target COLUMN --trust-pickle",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("push", short_help="Convert, prove and register a trained model.", help=push.HELP)(push.push)
app.command("serve", short_help="Serve models over REST.", help=serve.HELP)(serve.serve)
app.command("predict", short_help="Predict rows from a file.", help=predict.HELP)(predict.predict)
app.command("models", short_help="List the registered models.", help=models.MODELS_HELP)(models.models)
app.command("show", short_help="Show one version and its proof.", help=models.SHOW_HELP)(models.show)
app.command("diff", short_help="Show two versions side by side.", help=diff.HELP)(diff.diff)
app.command("check", short_help="Check a version before it goes live.", help=check.HELP)(check.check)
app.command("promote", short_help="Point an alias to a version.", help=models.PROMOTE_HELP)(models.promote)
app.command("rollback", short_help="Move an alias back to where it was.", help=aliases.ROLLBACK_HELP)(aliases.rollback)
app.add_typer(aliases.group, name="alias", short_help=aliases.HELP)
app.command("archive", short_help="Take a version out of use.", help=archive.ARCHIVE_HELP)(archive.archive)
app.command("restore", short_help="Bring an archived version back.", help=archive.RESTORE_HELP)(archive.restore)
app.command("gc", short_help="Remove files that nothing refers to.", help=gc.HELP)(gc.gc)
app.command("history", short_help="Who changed what, and whether it is so.", help=history.HELP)(history.history)
app.command("sign", short_help="Sign a version.", help=sign.SIGN_HELP)(sign.sign)
app.command("verify", short_help="Verify a version's signature and files.", help=sign.VERIFY_HELP)(sign.verify)
app.command("bom", short_help="Print the bill of materials of a version.", help=documents.BOM_HELP)(documents.bom)
app.command("lineage", short_help="Print where a version comes from.", help=documents.LINEAGE_HELP)(documents.lineage)
app.add_typer(mlflow.taking, name="import", short_help=mlflow.IMPORT_HELP)
app.add_typer(mlflow.giving, name="export", short_help=mlflow.EXPORT_HELP)
app.add_typer(constraints.group, name="constraints", short_help="Declare what values may be.")
app.add_typer(keys.app, name="keys", short_help=keys.HELP)
app.command("health", short_help="Ask a server whether it is ready.", help=health.HELP)(health.health)


#: The exit code that Typer gives a command stopped by Ctrl-C: 128 and the number of the signal, as shells have it.
INTERRUPTED = 130


def _version(value: bool) -> None:
    if value:
        typer.echo(f"keelway {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of all commands."""


def _only(word: str) -> typer.Typer:
    """The application with no command but the one named ``word``; all of it if there is none of that name.

    Typer makes the parsers of all commands before it looks which is meant, which takes as long as ten thousand versions
    take to list.
    """
    one = copy.copy(app)
    one.registered_commands = [command for command in app.registered_commands if command.name == word]
    one.registered_groups = [group for group in app.registered_groups if group.name == word]
    return one if one.registered_commands or one.registered_groups else app


def main() -> None:
    """The entry point. Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 not decided, 130 interrupted."""
    try:
        _only("".join(sys.argv[1:2]))()
    except KeelwayError as error:
        print_error(error, as_json="--json" in sys.argv[1:])
        sys.exit(1)
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            typer.echo("keelway: interrupted", err=True)
        raise
    except BrokenPipeError:
        # The reader has gone (``keelway models | head``); nothing is wrong, and nobody is left to be told.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
