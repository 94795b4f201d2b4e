"""``keelway check``: whether a version may go live, judged on rows that it has not seen."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keelway.cli.options import (
    AllowPythonOption,
    ArtifactsOption,
    ConfigOption,
    JsonOption,
    StoreOption,
    TrustTypeOption,
    WhyOption,
    find_version,
    open_blobs,
    open_registry,
    registry_settings,
    whoami,
    with_consent,
)
from keelway.cli.output import print_json, progress

if TYPE_CHECKING:
    from keelway.checks.asking import Subject
    from keelway.checks.gate import Report
    from keelway.checks.plan import Plan
    from keelway.config import Settings
    from keelway.registry.models import ModelVersion
    from keelway.registry.store import Registry

HELP = """Check a version before it goes live, on rows that it was not trained on.

It is loaded and asked as a server would: its contract, its metrics with confidence intervals, calibration, robustness,
and smells of leakage; with --against, that it is not worse than another version, in slices too; and whatever the
TOML file of --checks declares. The result is kept in the registry: promote asks for a passing one.

Exit codes: 0 passed, 1 failed or refused, 2 wrong usage, 3 could not be decided: the rows are too few for a proof.

\b
Examples:
  keelway check lead_scoring@1.3.0 --sample test.parquet --target Purchase
  keelway check lead_scoring@1.3.0 --sample test.parquet --target Purchase --against champion --checks checks.toml
  keelway check lead_scoring@1.3.0 --sample test.parquet --target Purchase --junit check.xml --html check.html
"""

#: The exit code of a check that could not be decided.
INCONCLUSIVE = 3


def check(
    reference: Annotated[str, typer.Argument(metavar="NAME[@VERSION|@ALIAS]", help="The version to check.")],
    sample: Annotated[
        Path, typer.Option("--sample", metavar="FILE", help="The rows to judge by: Parquet, CSV, Arrow or JSON.")
    ],
    target: Annotated[
        str | None, typer.Option("--target", metavar="COLUMN", help="Column of the sample that holds the truth.")
    ] = None,
    train: Annotated[
        Path | None, typer.Option("--train", metavar="FILE", help="The training rows, to look for leakage.")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="VERSION|ALIAS", help="The version that it must not be worse than."),
    ] = None,
    checks: Annotated[
        Path | None,
        typer.Option("--checks", metavar="FILE", help="What is declared, as TOML: bounds, slices, budgets."),
    ] = None,
    trained: Annotated[
        str | None,
        typer.Option("--trained", metavar="COLUMN", help="Column of the sample with the training side's predictions."),
    ] = None,
    junit: Annotated[
        Path | None, typer.Option("--junit", metavar="FILE", help="Write the result as JUnit XML, for CI.")
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write the result as a page, with its intervals drawn."),
    ] = None,
    trust_type: TrustTypeOption = None,
    allow_python: AllowPythonOption = None,
    no_record: Annotated[
        bool, typer.Option("--no-record", help="Leave the registry as it is: promote does not see this check.")
    ] = False,
    why: WhyOption = "checked from the command line",
    store: StoreOption = None,
    artifacts: ArtifactsOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    from keelway.checks.case import Case
    from keelway.checks.gate import check as run
    from keelway.checks.words import lines
    from keelway.clock import SystemClock
    from keelway.contract.sample import read_sample, split_target

    plan = read_plan(checks, trained)
    settings = with_consent(registry_settings(config, store, artifacts), trust_type, allow_python)
    registry = open_registry(settings)
    version = find_version(registry, reference)
    other = registry.resolve(version.model, against) if against else None
    progress(f"reading the sample {sample.name}")
    frame = read_sample(sample)
    if target is not None:
        split_target(frame, target)  # raises what is wrong with it
    rows = None if train is None else read_sample(train)
    with ExitStack() as opened:
        subject = opened.enter_context(loaded(settings, registry, version))
        champion = None
        if other is not None and other.version != version.version:
            champion = opened.enter_context(loaded(settings, registry, other))
        case = Case(subject, frame, plan, target or "", rows, champion)
        report = run(case, SystemClock(), sample=digest(sample), progress=progress)
    write(report, junit, html)
    if not no_record:
        registry.record_check(
            version.model,
            version.version,
            model_digest=report.model_digest,
            passed=report.outcome == "passed",
            document=report.document(),
            against=report.against or None,
            who=whoami(),
            why=why,
        )
    if json:
        print_json(report.document())
    else:
        for line in lines(report):
            typer.echo(line)
    if report.outcome != "passed":
        raise typer.Exit(1 if report.outcome == "failed" else INCONCLUSIVE)


def write(report: Report, junit: Path | None, html: Path | None) -> None:
    """The files that were asked for, whole or not at all. ``FailedPrecondition`` where one cannot be written."""
    from keelway.checks.junit import junit as as_junit
    from keelway.checks.page import page
    from keelway.errors import FailedPrecondition

    for file, made in ((junit, as_junit), (html, page)):
        if file is None:
            continue
        beside = file.with_name(f".{file.name}.part")
        try:
            beside.write_text(made(report), encoding="utf-8")
            beside.replace(file)
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise FailedPrecondition(f"{file.name} cannot be written: {error.strerror}", hint="name another") from None


def read_plan(file: Path | None, trained: str | None) -> Plan:
    """The declared checks, with the column of the training side's predictions where the command names one."""
    import msgspec

    from keelway.checks.plan import Plan, parse_plan
    from keelway.errors import InvalidInput, NotFound

    try:
        plan = Plan() if file is None else parse_plan(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise NotFound(f"the checks cannot be read: {error.strerror}", hint="--checks takes a TOML file") from None
    except UnicodeDecodeError:
        raise InvalidInput("the checks are not UTF-8 text", hint="--checks takes a TOML file") from None
    if trained is None:
        return plan
    return msgspec.structs.replace(plan, skew=msgspec.structs.replace(plan.skew, column=trained))


@contextmanager
def loaded(settings: Settings, registry: Registry, version: ModelVersion) -> Iterator[Subject]:
    """The version, behind the request line of a server."""
    from keelway.app import offline
    from keelway.artifacts.statement import SignaturePolicy
    from keelway.checks.asking import subject_of
    from keelway.contract.names import Reference
    from keelway.hosting.registered import RegistrySource

    blobs = open_blobs(settings)
    signed = SignaturePolicy.of(settings.signing)
    source = RegistrySource(registry, blobs, [Reference(version.model, version.version, None)], signed)
    with offline(settings, source) as (served, answer):
        yield subject_of(served, answer, blobs, settings.limits.max_rows)


def digest(file: Path) -> str:
    """Which rows were judged by."""
    with file.open("rb") as opened:
        return f"sha256:{hashlib.file_digest(opened, 'sha256').hexdigest()}"
