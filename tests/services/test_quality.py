"""Which answers the quality of predictions is computed from, where there are more than can be looked at."""

from datetime import date, timedelta

import numpy as np
import pytest

from app.core.database import Database
from app.core.times import EPOCH, MICROSECOND
from app.services import quality
from app.services.quality import (
    LearnerSample,
    QualityFilter,
    ScoredPredictions,
    draw_learners,
    group_name,
    group_predictions,
    read_predictions,
    split_sample,
    start_sample,
)
from app.services.responses import record
from tests.client import COURSE, app_of, make_response, school

LEARNERS = 23


async def sample_of(database: Database, asked: QualityFilter) -> LearnerSample:
    sample = await database.read(start_sample, 1, COURSE, asked)
    while not sample.complete:
        sample = await database.read(draw_learners, sample, asked)
    return sample


async def fill(database: Database) -> None:
    """Learner n gives n + 1 answers, the last on minute n."""
    answers = [
        make_response(f"{learner}-{number}", f"l{learner:02d}", "i1", learner - number, correct=number % 2 == 0)
        for learner in range(LEARNERS)
        for number in range(learner + 1)
    ]
    await database.write(record, answers)


def drawn(sample: LearnerSample) -> set[str]:
    return {id_ for _, id_, _ in sample.drawn}


@pytest.mark.anyio
async def test_quality_sample_draws_whole_learners_and_always_the_same(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality, "LEARNERS_AT_ONCE", 5)
    async with school(database_url) as client:
        database = app_of(client).state.database
        await fill(database)
        everybody = await sample_of(database, QualityFilter())
        assert (everybody.share, len(drawn(everybody))) == (1, LEARNERS)
        previous = set[str]()
        for most in (1, 30, 100, 200, 276):
            monkeypatch.setattr(quality, "MAX_RESPONSES", most)
            sample = await sample_of(database, QualityFilter())
            sizes = [size for _, _, size in sample.drawn]
            assert sum(sizes) <= most or len(sizes) == 1
            assert previous <= drawn(sample)
            previous = drawn(sample)
            assert most == 276 or previous != {f"l{learner:02d}" for learner in range(len(previous))}
            [row] = (await client.get("quality")).json()["data"]
            assert (row["responses"], row["learners"]) == (sum(sizes), len(sizes))
            assert row["sample"] == pytest.approx(len(sizes) / LEARNERS, abs=1e-6)
        assert previous == drawn(everybody)


@pytest.mark.anyio
async def test_quality_sample_leaves_out_learners_without_answers_since_the_date(database_url: str) -> None:
    async with school(database_url) as client:
        database = app_of(client).state.database
        await fill(database)
        since = make_response("", "", "", 15, correct=True).occurred_at
        sample = await sample_of(database, QualityFilter(since=since))
        assert drawn(sample) == {f"l{learner:02d}" for learner in range(15, LEARNERS)}


@pytest.mark.anyio
async def test_quality_does_not_depend_on_the_pieces_it_is_read_in(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with school(database_url) as client:
        database = app_of(client).state.database
        await fill(database)
        asked = QualityFilter()
        sample = await sample_of(database, asked)
        told = [(await client.get("quality?by=day")).json()]
        for responses, learners in ((1, 500), (40, 500), (2000, 4)):
            monkeypatch.setattr(quality, "PIECE_RESPONSES", responses)
            monkeypatch.setattr(quality, "PIECE_LEARNERS", learners)
            parts = list(split_sample(sample))
            assert [number for part in parts for number in part.values()] == list(range(LEARNERS))
            assert len(parts) > 1
            sizes = [len((await database.read(read_predictions, sample.course, asked, part)).p) for part in parts]
            assert all(size <= responses or len(part) == 1 for size, part in zip(sizes, parts, strict=True))
            told.append((await client.get("quality?by=day")).json())
        assert all(each == told[0] for each in told)


@pytest.mark.anyio
async def test_quality_leaves_out_an_item_that_was_added_meanwhile(database_url: str) -> None:
    async with school(database_url) as client:
        database = app_of(client).state.database
        sample = await database.read(start_sample, 1, COURSE, QualityFilter())
        assert (await client.put("catalogue", json={"items": [{"id": "new", "skills": []}]})).status_code == 200
        answers = [make_response(item, "ann", item, 0, correct=True) for item in ("i1", "new")]
        await database.write(record, answers)
        outcomes = await database.read(read_predictions, sample.course, QualityFilter(), {"ann": 0})
        assert len(outcomes.p) == 1


@pytest.mark.anyio
async def test_quality_groups_every_day_into_its_period(database_url: str) -> None:
    async with school(database_url) as client:
        sample = await app_of(client).state.database.read(start_sample, 1, COURSE, QualityFilter())
    days = [EPOCH.date() + timedelta(days=number) for number in range(0, 84_000, 37)]
    times = np.array([(day - EPOCH.date()) // MICROSECOND + 5 for day in days], dtype=np.int64)
    empty = np.zeros(len(times), dtype=np.int64)
    outcomes = ScoredPredictions(empty / 1, empty / 1, empty, empty, empty, times)
    for by in ("day", "week", "month"):
        rows, groups = group_predictions(sample.course, outcomes, by)
        assert rows.tolist() == list(range(len(times)))
        for day, number in zip(days, groups.tolist(), strict=True):
            first = date.fromisoformat(group_name(sample.course, by, number)["period"])
            assert number >= 0
            if by == "day":
                assert first == day
            elif by == "month":
                assert first == day.replace(day=1)
            else:
                assert first.weekday() == 0
                assert 0 <= (day - first).days < 7
