"""`proxima calibrate`."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from app.cli.database import with_database
from app.cli.progress import progress_bar
from app.core.database import Database
from app.core.errors import Invalid
from app.core.settings import read_settings
from app.core.times import now
from app.http.problems import faults_in
from app.jobs.calibrations import finish_calibration
from app.jobs.replay_stale import rebuild_course
from app.schemas.calibrations import CalibrationIn, to_left_out
from app.services import calibrations
from app.services.keys import choose_tenant
from app.services.left_out import LeftOut
from app.services.screening import describe_suspect_items

# As many of the most changed items and skills as fit on a line.
FEW = 5
MOST_ITEMS = 20
OPEN_END = "-"


def calibrate(
    course: str,
    tenant: str | None,
    *,
    activate: bool,
    force: bool,
    learners: Path | None,
    spans: Sequence[tuple[str, str]],
) -> None:
    """Calibrate a course, named with its tenant, and say what would change.

    The answers of the learners in the file `learners` are left out, and those in `spans` (since, until).
    """
    left_out = _read_left_out(learners, spans)

    async def run(database: Database) -> None:
        tenant_id = await database.write(choose_tenant, tenant, now())
        await calibrate_course(database, tenant_id, course, activate=activate, force=force, left_out=left_out)

    with_database(run)


def _read_left_out(learners: Path | None, spans: Sequence[tuple[str, str]]) -> LeftOut:
    """What the options leave out, checked as the service checks it. Raises `Invalid`."""
    ids = [] if learners is None else learners.read_text("utf-8-sig", errors="replace").splitlines()
    ends = [
        {name: end for name, end in zip(("since", "until"), span, strict=True) if end != OPEN_END} for span in spans
    ]
    request = {"leave_out": {"learners": [id_ for id_ in ids if id_.strip()], "spans": ends}}
    try:
        return to_left_out(CalibrationIn.model_validate(request))
    except ValidationError as error:
        raise Invalid("what is to be left out is not valid", faults_in(error, request)) from error


async def calibrate_course(
    database: Database,
    tenant_id: int,
    course: str,
    *,
    activate: bool,
    force: bool = False,
    left_out: LeftOut | None = None,
) -> None:
    """Calibrate a course and say what it brought."""
    claim = await database.write(
        calibrations.call_at_database_time,
        calibrations.request_calibration,
        tenant_id,
        course,
        left_out=left_out or LeftOut(),
    )
    with progress_bar() as progress:
        await finish_calibration(
            database,
            read_settings().database_url,
            claim,
            lambda stage, share: progress(f"calibrating: {stage}", share, 1),
        )
    calibration = await database.read(calibrations.describe_calibration, tenant_id, course, claim.number)
    if calibration["error"]:
        raise Invalid(calibration["error"])
    for line in _describe_report(calibration["id"], calibration["report"]):
        click.echo(line)
    if activate:
        await database.write(
            calibrations.call_at_database_time, calibrations.activate, tenant_id, course, claim.number, force=force
        )
        rebuilt = await rebuild_course(database, tenant_id, course)
        click.echo(f"calibration {calibration['id']} is in force; {rebuilt:,} snapshots were rebuilt")


def _describe_report(id_: str, report: dict[str, Any]) -> Iterator[str]:
    """What a calibration brought and what it would change."""
    before = report["compared_with"] or "the defaults"
    verdict = "better" if report["log_loss_after"] < report["log_loss_before"] else "no better"
    yield (
        f"calibration {id_}: {report['responses']:,} answers of {report['learners']:,} learners; held-out log "
        f"loss {report['log_loss_before']:.4f} before, {report['log_loss_after']:.4f} after; "
        f"AUC {report['auc_before']:.3f}, {report['auc_after']:.3f}: {verdict} than {before}"
    )
    scale = report["scale"]
    if scale is not None:
        drifted = f", without {', '.join(scale['drifted_items'])}" if scale["drifted"] else ""
        yield f"scale: moved by {scale['shift']:+.3f} logits, by {scale['anchors']:,} anchors{drifted}"
    changed = ", ".join(f"{item['item']} {item['change']:+.2f}" for item in report["most_changed_items"][:FEW])
    yield f"items: {report['items_changed']:,} changed by more than .25 logits{': ' if changed else ''}{changed}"
    mastery = report["mastery"]
    skills = ", ".join(f"{skill['skill']} +{skill['gained']:,} −{skill['lost']:,}" for skill in mastery["skills"][:FEW])
    yield (
        f"mastery: {mastery['gained']:,} gained and {mastery['lost']:,} lost, by {mastery['learners']:,} "
        f"learners{': ' if skills else ''}{skills}"
    )
    if report["left_out"] is not None:
        yield f"left out on request: {report['left_out']['responses']:,} answers"
    for warning in report["warnings"]:
        yield f"WARNING {warning['code']}: {warning['detail']}"
    yield from describe_suspect_items(report["suspect_items"]["items"][:MOST_ITEMS])
    if report["person_fit"]["many"]:
        worst = report["person_fit"]["learner_ids"]
        yield f"learners who do not fit: {', '.join(worst[:FEW])}{' …' if len(worst) > FEW else ''}"
