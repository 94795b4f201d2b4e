"""``keelway constraints show``, ``propose`` and ``edit``: what a person declares about the inputs of a version."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    whoami,
)
from keelway.cli.output import print_json

if TYPE_CHECKING:
    from keelway.contract.constraints import Policy
    from keelway.contract.signature import ModelSignature
    from keelway.registry.models import ModelVersion
    from keelway.registry.store import Registry

SHOW_HELP = """Show what is declared for a version: its constraints, and what is done about anomalous rows.

\b
Examples:
  keelway constraints show lead_scoring
  keelway constraints show lead_scoring@1.2.0 > policy.toml
"""

PROPOSE_HELP = """Propose constraints from what the sample of a version showed. Prints them; declares nothing.

What is proposed flags, so that the answers and ml_input_tags_total say what it would have refused. Change on_violation
to "reject" or "clip" where you know that it should be.

\b
Examples:
  keelway constraints propose lead_scoring@1.2.0 > policy.toml
  keelway constraints edit lead_scoring@1.2.0 --file policy.toml
"""

EDIT_HELP = """Declare constraints, in your editor or from a file; running servers follow within two seconds.

It shows what would change and asks. The model is not loaded anew, and answers name the new policy revision.

\b
Examples:
  keelway constraints edit lead_scoring@1.2.0
  keelway constraints edit lead_scoring@1.2.0 --file policy.toml --yes --why "no age below 18"
"""

group = typer.Typer(
    help="Declare what the values of a model's features may be, and what is done about those that are not.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@group.command("show", help=SHOW_HELP, short_help="Show the constraints of a version.")
def show(
    reference: Annotated[str, typer.Argument(metavar="NAME[@VERSION|@ALIAS]", help="The version.")],
    store: StoreOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    from keelway.contract.policy_file import policy_text

    registry = open_registry(registry_settings(config, store, None))
    version, policy = _declared(registry, reference)
    if json:
        print_json(_document(version, policy))
        return
    typer.echo(f"# {version.model} {version.version}, policy revision {policy.revision}")
    for line in _about_detector(version, policy):
        typer.echo(f"# {line}")
    typer.echo(policy_text(policy), nl=False)


@group.command("propose", help=PROPOSE_HELP, short_help="Propose constraints from the sample of a version.")
def propose(
    reference: Annotated[str, typer.Argument(metavar="NAME[@VERSION|@ALIAS]", help="The version.")],
    margin: Annotated[
        float, typer.Option("--margin", min=0.0, help="How far a range goes beyond what was seen, in widths of it.")
    ] = 0.1,
    store: StoreOption = None,
    artifacts: ArtifactsOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    import msgspec

    from keelway.contract.policy_file import policy_text, proposed
    from keelway.errors import FailedPrecondition

    settings = registry_settings(config, store, artifacts)
    version, policy = _declared(open_registry(settings), reference)
    if version.baseline is None:
        raise FailedPrecondition(
            "the version was pushed without a sample, so nothing can be proposed",
            hint=f"write a file yourself: keelway constraints edit {version.model}@{version.version}",
        )
    made = proposed(_signature(settings, version), version.baseline, margin)
    suggested = msgspec.structs.replace(policy, constraints=made.constraints)
    if json:
        print_json(_document(version, suggested))
        return
    typer.echo(
        f"# proposed for {version.model} {version.version} from {version.baseline.rows:,} rows; not declared yet"
    )
    typer.echo(policy_text(suggested), nl=False)


@group.command("edit", help=EDIT_HELP, short_help="Declare the constraints of a version.")
def edit(
    reference: Annotated[str, typer.Argument(metavar="NAME@VERSION", help="The version; or an alias of it.")],
    file: Annotated[
        Path | None, typer.Option("--file", metavar="FILE", help="Declare what is in this file (TOML); - is the input.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    why: WhyOption = "edited from the command line",
    store: StoreOption = None,
    artifacts: ArtifactsOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    from keelway.contract.constraints import check_policy
    from keelway.contract.policy_file import parse_policy, policy_text

    settings = registry_settings(config, store, artifacts)
    registry = open_registry(settings)
    version, policy = _declared(registry, reference)
    before = policy_text(policy)
    declared = parse_policy(_edited(before) if file is None else _read(file))
    check_policy(declared, _signature(settings, version))
    _check_detector(declared, version)
    difference = _difference(before, policy_text(declared))
    if difference and not json:
        typer.echo(difference)
    if difference and not yes:
        typer.confirm(f"Declare this for {version.model} {version.version}?", abort=True, err=True)
    if difference:
        policy = registry.set_policy(
            version.model, version.version, declared, who=whoami(), why=why, expected_revision=policy.revision
        )
    if json:
        print_json({**_document(version, policy), "changed": bool(difference)})
    elif difference:
        typer.echo(f"{version.model} {version.version} has policy revision {policy.revision} now")
    else:
        typer.echo(f"nothing has changed: {version.model} {version.version} stays at policy revision {policy.revision}")


def _declared(registry: Registry, reference: str) -> tuple[ModelVersion, Policy]:
    version = find_version(registry, reference)
    return version, registry.policy(version.model, version.version)


def _signature(settings: Any, version: ModelVersion) -> ModelSignature:
    from keelway.artifacts.materialise import read_manifest

    return read_manifest(open_blobs(settings), version.model_digest).signature


def _document(version: ModelVersion, policy: Policy) -> dict[str, Any]:
    import msgspec

    constraints = msgspec.to_builtins(policy.constraints)
    anomaly = {"action": policy.anomaly.action, "false_positive_rate": policy.anomaly.false_positive_rate}
    detector = version.detector
    rate = None if detector is None else detector.thresholds(policy.anomaly.false_positive_rate).rate
    return {
        "model": version.model,
        "version": version.version,
        "policy_revision": policy.revision,
        "constraints": constraints,
        "anomaly": {**anomaly, "rate_in_force": rate},
        "probing": {name: getattr(policy.probing, name) for name in policy.probing.__struct_fields__},
    }


def _about_detector(version: ModelVersion, policy: Policy) -> list[str]:
    detector = version.detector
    if detector is None:
        return ["no anomaly detector: too few rows in the sample of its push, or no numbers"]
    rate = detector.thresholds(policy.anomaly.false_positive_rate).rate
    what = f"anomaly detector ({', '.join(detector.names)}) on {len(detector.features)} features"
    return [f"{what}; {detector.held_out:,} rows held out make its false-positive rate {rate:.2g}"]


def _check_detector(policy: Policy, version: ModelVersion) -> None:
    """What was declared on purpose has to be enforceable."""
    from keelway.contract.anomaly import MIN_HELD_OUT
    from keelway.errors import FailedPrecondition

    wanted = policy.anomaly.action in ("shadow", "reject") or policy.probing.action != "off"
    if wanted and version.detector is None:
        raise FailedPrecondition(
            "the version has no anomaly detector, which this policy needs",
            hint=f'push it with a sample of {2 * MIN_HELD_OUT} rows at least, or set action = "off"',
        )


def _read(file: Path) -> str:
    from keelway.errors import InvalidInput, NotFound

    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFound(f"there is no file {file.name}", hint="give the path of a policy in TOML") from None
    except (OSError, UnicodeDecodeError):
        raise InvalidInput(f"the file {file.name} cannot be read as text", hint="write it as UTF-8") from None


def _edited(text: str) -> str:
    """What the person's editor (``VISUAL``, ``EDITOR``) makes of ``text``; the same if nothing was saved."""
    import click

    from keelway.errors import FailedPrecondition

    if not sys.stdin.isatty():
        raise FailedPrecondition("there is no terminal to edit in", hint="say --file policy.toml --yes")
    try:
        return click.edit(text, extension=".toml") or text
    except click.ClickException:
        raise FailedPrecondition("the editor failed", hint="set EDITOR, or say --file policy.toml") from None


def _difference(before: str, after: str) -> str:
    """Line by line; empty if there is none."""
    from difflib import unified_diff

    lines = unified_diff(before.splitlines(), after.splitlines(), "declared", "to be declared", lineterm="")
    return "\n".join(lines)
