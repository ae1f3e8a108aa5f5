"""Whole tenants and databases for the tests of backups and moves: with everything that can be in them."""

import asyncio
import gzip
import os
import shutil
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from click.testing import CliRunner, Result
from sqlalchemy import Connection
from sqlalchemy.engine import make_url

from app.adaptive.calibration.fit import CalibrationFit
from app.adaptive.parameters import Population
from app.cli import main
from app.core.database import Database, open_database
from app.services import calibrations
from app.services.catalogue import upsert
from app.services.corrections import correct_response
from app.services.keys import create_key
from app.services.options import RecommendationOptions
from app.services.recommendations import offer_recommendations
from app.services.responses import RecordedResponse, record
from tests import postgres
from tests.adaptive.worlds import random_behaviour_model
from tests.client import CATALOGUE, MINUTE_US, NEW_YEAR_US, make_response

T = TypeVar("T")
MakeUrl = Callable[..., str]

LATER = NEW_YEAR_US + 1_000_000 * MINUTE_US
# Composed and decomposed, from right to left, beyond the first plane, separators of lines, quotes, escapes.
ODD_IDS = ["Zoë", "Zoe\u0308", "\u202eabc", "🦊", "a\u2028b", "'; --", '"\\n"', "ﬀ", "a\tb", "\U0010ffff"]
COURSES = ("arithmetic", ODD_IDS[1])
EXTREME = {
    "skills": [{"id": "add"}],
    "items": [
        {"id": '\\"', "skills": ["add"], "parameters": {"model": "2PL", "a": 0.01, "b": -0.0}},
        {"id": "…", "skills": [], "max_score": 1e-300},
        {"id": "large", "skills": ["add"], "max_score": 1e6, "parameters": {"model": "2PL", "a": 6, "b": 1e-300}},
    ],
}

counter = count()


@contextmanager
def databases(server: str, folder: Path, templates: Mapping[str, str]) -> Iterator[MakeUrl]:
    """Makes URLs of databases of either kind, with or without tables, or `like` another; all are gone at the end."""
    with ExitStack() as stack:

        def make(kind: str, *, migrated: bool = True, like: str | None = None) -> str:
            name = f"moved_{os.getpid()}_{next(counter)}"
            template = make_url(like or templates[kind]).database if migrated else None
            if kind == "postgresql":
                return stack.enter_context(postgres.fresh_database(server, name, template=template or "template0"))
            if template:
                shutil.copy(template, folder / f"{name}.db")
            return f"sqlite:///{folder / name}.db"

        yield make


def run_cli(url: str, *arguments: str | Path) -> Result:
    """Run a command on a database."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], env={"PROXIMA_DATABASE_URL": url})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


def output_of(result: Result) -> str:
    """What a command printed that went well."""
    assert result.exit_code == 0, result.output
    return result.stdout


def error_line(result: Result) -> str:
    """The one line that says why."""
    assert (result.exit_code, result.stdout) == (1, ""), result.output
    [line] = result.stderr.splitlines()
    return line.removeprefix("proxima: ")


def run_with_database(url: str, work: Callable[[Database], Coroutine[Any, Any, T]]) -> T:
    """Run something on an open database."""

    async def run() -> T:
        database = open_database(url)
        try:
            return await work(database)
        finally:
            await database.close()

    return asyncio.run(run())


def read_database(url: str, work: Callable[[Connection], T]) -> T:
    """What a transaction finds."""
    return run_with_database(url, lambda database: database.read(work))


async def populate_tenant(database: Database, tenant: str = "school") -> int:
    """Give a tenant all there can be: odd ids, late answers, corrections, calibrations, stale snapshots, offers."""
    await database.write(create_key, tenant, ["admin"], NEW_YEAR_US)
    revoked = await database.write(create_key, tenant, ["learners:read"], NEW_YEAR_US)
    tenant_id = int(revoked.text.split("_")[1])
    for course in COURSES:
        await database.write(upsert, tenant_id, course, CATALOGUE, NEW_YEAR_US)
        await database.write(upsert, tenant_id, course, EXTREME, NEW_YEAR_US + 1)
        await add_responses(database, tenant_id, course, 0, 6)
        await add_calibration(database, tenant_id, course, seed=1)
        await add_responses(database, tenant_id, course, 6, 3)
        await database.write(correct_response, tenant_id, course, "r-0-1", None, "misprint “x”", "key-1", LATER)
        await database.write(correct_response, tenant_id, course, "r-1-2", 0.5, "half", "key-1", LATER)
        await database.write(correct_response, tenant_id, course, "r-1-2", 0.0, "none", "key-1", LATER + 1)
        await database.write(
            offer_recommendations,
            tenant_id,
            course,
            ODD_IDS[2],
            2,
            RecommendationOptions(avoid=("i1",), explore=0.5, expires_in=60),
            LATER,
        )
        await add_calibration(database, tenant_id, course, seed=3)
        # The learners who answer now are folded under the new calibration, the others are left stale.
        await add_responses(database, tenant_id, course, -1, 1, learners=2)
    return tenant_id


async def add_responses(
    database: Database, tenant_id: int, course: str, first_minute: int, minutes: int, learners: int = 10
) -> None:
    """Some answers of learners with odd names, from the `first_minute` minute on."""
    items = ["i1", "i2", "i3", "i4", "i6", "i7", '\\"', "…", "large"]
    answers = [
        replace(
            make_response(f"r-{who}-{n}", ODD_IDS[who], items[(who + n) % 9], 10 * n, correct=(who * n + who) % 3 > 0),
            tenant_id=tenant_id,
            course_id=course,
            next=RecommendationOptions(goal=("divide",), target=0.8, language="de", expires_in=60) if n == 1 else None,
        )
        for who in range(learners)
        for n in range(first_minute, first_minute + minutes)
    ]
    results = await database.write(record, answers)
    assert all(isinstance(result, RecordedResponse) for result in results), results


async def add_calibration(database: Database, tenant_id: int, course: str, seed: int) -> None:
    """Put a made-up calibration with a head in force."""
    claim = await database.write(calibrations.request_calibration, tenant_id, course, LATER + seed)
    job = await database.read(calibrations.read_calibration_job, claim)
    rng = np.random.default_rng(seed)
    parameters = job.course.parameters
    items = replace(
        parameters.items,
        intercept=np.where(job.course.known, parameters.items.intercept, rng.normal(0, 1, parameters.items.count)),
    )
    skills = replace(parameters.skills, prior=rng.uniform(0.1, 0.6, parameters.skills.count))
    behaviour_model = random_behaviour_model(rng, parameters.items.count)
    fitted = replace(
        parameters, population=Population(ability_variance=1.1), skills=skills, items=items, behaviour=behaviour_model
    )
    fit = CalibrationFit(fitted, fitted, 1, 0.6, 0.5, 0.5, 0.6, 0.7)
    assert await database.write(calibrations.save_result, claim, calibrations.build_result(job, fit), LATER + seed)
    await database.write(calibrations.activate, tenant_id, course, claim.number, LATER + seed)


def rewrite_backup(path: Path, change: Callable[[bytes], bytes]) -> Path:
    """A copy of an archive with another text in it."""
    target = path.with_name(f"changed-{next(counter)}.gz")
    target.write_bytes(gzip.compress(change(gzip.decompress(path.read_bytes())), 1))
    return target
