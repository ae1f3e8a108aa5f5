"""After any history of requests the service stands as if it had folded the log just now."""

import asyncio
import csv
import tempfile
from collections import Counter
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy.exc import IntegrityError

from app.adaptive.calibration.fit import CalibrationFit
from app.adaptive.parameters import Population
from app.adaptive.state import States
from app.adaptive.tracing.filter import fade_states, initial_states, update_states
from app.core.errors import NothingToCalibrate
from app.core.times import DAY_US, UNDATED_EPOCH_US, from_datetime, now, to_days
from app.jobs.imports import import_responses
from app.queries.responses import read_entries
from app.services import calibrations, corrections, mastery, recommendations, replay
from app.services.course_model import CourseModel, read_course_model
from app.services.mastery import mastery_report
from app.services.present import DIGITS
from app.services.replay import replay_entries
from app.services.responses import late
from tests.adaptive.worlds import random_behaviour_model
from tests.client import CATALOGUE, MINUTE_US, NEW_YEAR_US, client_of, make_key, minute_text, served, verify
from tests.gate.examples import scaled

T = TypeVar("T")

ANSWER_US, READ_US = (NEW_YEAR_US + days * DAY_US for days in (30, 210))
courses = (f"course-{number}" for number in count())
learners = st.sampled_from(["ann", "bob", "Zoë"])
places = st.integers(0, 1000)
moments = st.none() | st.integers(0, 20)
shares = st.sampled_from([0.0, 0.5, 1.0])


@dataclass
class Given:
    """An answer as it was sent, out of what was the `highest` score; `outcome` is none if nobody got it."""

    body: dict[str, Any]
    learner: str
    item: str
    score: float
    highest: float
    occurred_at: int
    outcome: bytes | None


class History(RuleBasedStateMachine):
    """A course, and beside it a model of what it should hold."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self.course = next(courses)
        self.runner = asyncio.Runner()
        self.process = AsyncExitStack()
        self.catalogue = {kind: {row["id"]: row for row in CATALOGUE[kind]} for kind in ("skills", "items")}
        self.answers: dict[str, Given] = {}
        self.counting: dict[str, float | None] = {}
        self.positions: Counter[str] = Counter()
        self.numbers = count()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def call(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        return self.run(self.client.request(method, path, **arguments))

    def answered(self) -> bool:
        return bool(self.answers)

    def pick(self, place: int) -> tuple[str, Given]:
        """One of the answers."""
        id_ = sorted(self.answers)[place % len(self.answers)]
        return id_, self.answers[id_]

    def item(self, place: int) -> dict[str, Any]:
        items: list[dict[str, Any]] = list(self.catalogue["items"].values())
        return items[place % len(items)]

    # What happens

    @initialize()
    def begin(self) -> None:
        self.key = ""
        self.restart()
        assert self.call("PUT", "catalogue", json=CATALOGUE).status_code == 200

    @rule()
    def restart(self) -> None:
        self.run(self.enter())

    async def enter(self) -> None:
        await self.process.aclose()
        self.process = AsyncExitStack()
        self.app = await self.process.enter_async_context(served(self.url))
        self.database = self.app.state.database
        self.key = self.key or await make_key(self.database)
        self.client = await self.process.enter_async_context(client_of(self.app, self.key))
        self.client.base_url = self.client.base_url.join(f"courses/{self.course}/")

    @rule(learner=learners, place=places, share=shares, moment=moments, letter=st.sampled_from("abc"))
    def answer(self, learner: str, place: int, share: float, moment: int | None, letter: str) -> None:
        body, score = self.compose(learner, place, share, moment, letter)
        reply = self.call("POST", "responses", json=body)
        assert reply.status_code == 201, reply.text
        self.take(body, score, reply.content)
        self.compare_outcome(reply.json())

    def compose(
        self, learner: str, place: int, share: float, moment: int | None, letter: str
    ) -> tuple[dict[str, Any], float]:
        """A new answer and its score."""
        item = self.item(place)
        highest = highest_of(item)
        score = float(round(share * highest)) if "parameters" in item else share * highest
        body: dict[str, Any] = {"id": f"{letter}{next(self.numbers)}", "learner": learner, "item": item["id"]}
        body |= {"correct": bool(share)} if share in {0.0, 1.0} else {"score": score}
        if moment is not None:
            body["occurred_at"] = minute_text(moment)
        return body, score

    def take(self, body: dict[str, Any], score: float, told: bytes, outcome: dict[str, Any] | None = None) -> None:
        """Note an answer that the service has taken."""
        response = (outcome or parse(told))["response"]
        self.positions[body["learner"]] += 1
        assert response["position"] == self.positions[body["learner"]]
        assert (response["id"], response["score"]) == (body["id"], score)
        highest = highest_of(self.catalogue["items"][body["item"]])
        self.answers[body["id"]] = Given(body, body["learner"], body["item"], score, highest, instant(response), told)
        self.counting[body["id"]] = score

    @precondition(answered)
    @rule(place=places)
    def repeat(self, place: int) -> None:
        _, given = self.pick(place)
        reply = self.call("POST", "responses", json=given.body)
        assert reply.status_code == 200, reply.text
        assert given.outcome in {None, reply.content}
        given.outcome = reply.content

    @precondition(answered)
    @rule(place=places, other=st.sampled_from(["learner", "item", "score", "occurred_at", "duration_ms"]))
    def contradict(self, place: int, other: str) -> None:
        _, given = self.pick(place)
        body = {key: value for key, value in given.body.items() if key not in {"correct", "score"}}
        body["score"] = given.score
        changed: dict[str, Any] = {
            "learner": f"not {given.learner}",
            "item": next(id_ for id_ in self.catalogue["items"] if id_ != given.item),
            "score": 0.0 if given.score else 1.0,
            "occurred_at": minute_text(999),
            "duration_ms": 7,
        }
        body[other] = changed[other]
        reply = self.call("POST", "responses", json=body)
        assert (reply.status_code, reply.json()["code"]) == (409, "conflict")

    @rule(
        rows=st.lists(st.tuples(learners, places, shares, moments, st.sampled_from("abc")), min_size=1, max_size=5),
        old=st.none() | places,
        twice=st.booleans(),
    )
    def batch(self, rows: Sequence[tuple[str, int, float, int | None, str]], old: int | None, *, twice: bool) -> None:
        composed = [self.compose(*row) for row in rows]
        bodies: list[Any] = [{"learner": "ann", "item": "unheard of", "correct": True}, 17]
        bodies += [body for body, _ in composed]
        expected = ["invalid", "invalid", *["created"] * len(composed)]
        if twice:
            bodies += [composed[0][0], {**composed[-1][0], "duration_ms": 1}]
            expected += ["duplicate", "conflict"]
        if old is not None and self.answers:
            bodies.append(self.pick(old)[1].body)
            expected.append("duplicate")
        reply = self.call("POST", "/responses:batch", json={"responses": bodies})
        results = reply.json()["results"]
        assert [result["status"] for result in results] == expected
        for (body, score), result in zip(composed, results[2:], strict=False):
            told = {name: value for name, value in result.items() if name != "status"}
            self.take(body, score, self.call("POST", "responses", json=body).content, told)
            assert parse(self.answers[body["id"]].outcome) == told

    @precondition(answered)
    @rule(place=places)
    def void(self, place: int) -> None:
        id_, given = self.pick(place)
        reply = self.call("POST", f"responses/{id_}/void", json={"reason": "misprint"})
        assert reply.status_code == 200
        self.positions[given.learner] += self.counting[id_] is not None
        self.counting[id_] = None
        assert reply.json() == self.expected(given.learner, ANSWER_US)

    @precondition(answered)
    @rule(place=places, share=st.sampled_from([0.0, 1.0]), times=st.sampled_from([1, 2]))
    def regrade(self, place: int, share: float, times: int) -> None:
        id_, given = self.pick(place)
        score = share * given.highest
        for _ in range(times):
            reply = self.call("POST", f"responses/{id_}/regrade", json={"score": score, "reason": "wrong key"})
            if self.counting[id_] is None:
                assert (reply.status_code, reply.json()["code"]) == (409, "response_voided")
                return
            assert reply.status_code == 200
            self.positions[given.learner] += self.counting[id_] != score
            self.counting[id_] = score
            assert reply.json() == self.expected(given.learner, ANSWER_US)

    @rule(
        place=places,
        skills=st.lists(st.sampled_from(["add", "subtract", "multiply", "divide"]), unique=True, max_size=3),
        highest=st.sampled_from([1, 2, 4]),
    )
    def retag(self, place: int, skills: list[str], highest: int) -> None:
        item = {**self.item(place), "skills": skills}
        if "parameters" not in item:
            item["max_score"] = highest
        self.put("items", item)

    @rule(below=st.integers(0, 2), above=st.integers(1, 3), kept=st.booleans())
    def require(self, below: int, above: int, *, kept: bool) -> None:
        ids = [skill["id"] for skill in CATALOGUE["skills"]]
        if below < above:
            old = self.catalogue["skills"][ids[above]]
            prerequisites = {*old.get("prerequisites", ()), ids[below]} if kept else {ids[below]}
            self.put("skills", {**old, "prerequisites": sorted(prerequisites)})

    @rule(number=st.integers(0, 3))
    def add_item(self, number: int) -> None:
        self.put("skills", {"id": f"new-{number}", "prerequisites": ["add"]})
        self.put("items", {"id": f"another-{number}", "skills": [f"new-{number}", "add"], "max_score": 1 + number % 2})

    def put(self, kind: str, record: dict[str, Any]) -> None:
        reply = self.call("PUT", "catalogue", json={kind: [record]})
        assert reply.status_code == 200, reply.text
        self.catalogue[kind][record["id"]] = record

    @precondition(answered)
    @rule(learner=learners, avoid=places, limit=st.integers(1, 3))
    def offer(self, learner: str, avoid: int, limit: int) -> None:
        if not self.positions[learner]:
            return
        path, query = f"learners/{learner}/recommendations", {"limit": limit, "avoid": self.item(avoid)["id"]}
        assert self.call("POST", path, params=query).status_code == 201
        assert self.call("GET", path, params=query).content == self.call("GET", path, params=query).content

    @precondition(answered)
    @rule(seed=st.integers(0, 9), activated=st.booleans())
    def calibrate(self, seed: int, *, activated: bool) -> None:
        number = self.run(self.fitted(seed))
        if activated and number:
            self.activate(number)

    async def fitted(self, seed: int) -> int:
        """The number of a new calibration, 0 if every answer was voided."""
        claim = await self.database.write(calibrations.request_calibration, 1, self.course, now())
        try:
            job = await self.database.read(calibrations.read_calibration_job, claim)
        except NothingToCalibrate as error:
            await self.database.write(calibrations.save_failure, claim, error.detail, now())
            return 0
        await self.database.write(
            calibrations.save_result, claim, calibrations.build_result(job, made_up(job, seed)), now()
        )
        return int(claim.number)

    @rule(number=st.integers(1, 4))
    def activate(self, number: int) -> None:
        reply = self.call("POST", f"calibrations/c-{number}/activate")
        assert reply.status_code in {200, 404}

    @rule(
        rows=st.lists(st.tuples(learners, places, st.sampled_from([0.0, 1.0]), moments), min_size=1, max_size=4),
        old=st.none() | places,
    )
    def load(self, rows: Sequence[tuple[str, int, float, int | None]], old: int | None) -> None:
        lines = [["learner_id", "item_id", "skill_ids", "correct", "order", "attempted_at", "response_id"]]
        fresh = []
        for order, (learner, place, share, moment) in enumerate(rows):
            item = self.item(place)
            body: dict[str, Any] = {"id": f"b{next(self.numbers)}", "learner": learner, "item": item["id"]}
            score = share * highest_of(item)
            body["score"] = score
            if moment is not None:
                body["occurred_at"] = minute_text(moment)
            occurred_at = UNDATED_EPOCH_US + order if moment is None else NEW_YEAR_US + moment * MINUTE_US
            fresh.append(Given(body, learner, item["id"], score, highest_of(item), occurred_at, None))
            lines.append([learner, item["id"], "", str(share), str(order), body.get("occurred_at", ""), body["id"]])
        totals = self.run(self.imported(lines))
        assert (totals.created, totals.repeated, totals.rejected) == (len(rows), 0, 0)
        for given in fresh:
            self.answers[given.body["id"]] = given
            self.counting[given.body["id"]] = given.score
            self.positions[given.learner] += 1
        if old is not None:
            self.repeat(old)

    async def imported(self, lines: Sequence[Sequence[str]]) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "answers.csv"
            with path.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows(lines)
            return await import_responses(self.database, 1, self.course, path, lambda _: None, lambda *_: None)

    # What must hold

    def entries(self, learner: str) -> Iterator[tuple[str, str, float, int]]:
        """The answers that count, in the order of the fold, as fractions of what they were out of, and their times."""
        mine = [(given.occurred_at, id_) for id_, given in self.answers.items() if given.learner == learner]
        for moment, id_ in sorted(mine):
            score, given = self.counting[id_], self.answers[id_]
            if score is not None:
                yield id_, given.item, score / given.highest, moment

    def replay_entries(self, learner: str) -> tuple[CourseModel, States, dict[str, float]]:
        """One answer after the other, by the engine alone."""
        course_model = self.run(self.database.read(read_course_model, 1, self.course))
        states, expected = initial_states(course_model.parameters, 1), {}
        for id_, item, share, moment in self.entries(learner):
            number = course_model.item_numbers[item]
            answer = (np.array([number]), np.array([share]), np.array([to_days(moment)]))
            states, predicted = update_states(course_model.parameters, states, *answer)
            expected[id_] = float(predicted.p[0])
        return course_model, states, expected

    def expected(self, learner: str, moment: int) -> dict[str, Any]:
        """The learner's mastery as it must be told at a moment."""
        course_model, states, _ = self.replay_entries(learner)
        return mastery_report(
            course_model, replay.states_at(course_model, states, moment), learner, self.positions[learner]
        )

    def compare_outcome(self, outcome: dict[str, Any]) -> None:
        """An outcome against the fold."""
        response = outcome["response"]
        course_model, states, predicted = self.replay_entries(response["learner"])
        last = fade_states(course_model.parameters, states, states.seen_at)
        expected = mastery_report(course_model, last, response["learner"], response["position"])
        assert outcome["ability"] == expected["ability"]
        assert outcome["p_correct"] == round(predicted[response["id"]], DIGITS)
        told = [{name: value for name, value in row.items() if name != "change"} for row in outcome["mastery"]]
        skills = [row["skill"] for row in told]
        assert skills == self.catalogue["items"][response["item"]]["skills"]
        assert told == [next(row for row in expected["mastery"] if row["skill"] == skill) for skill in skills]

    @invariant()
    def the_log_explains_everything(self) -> None:
        if not self.answers:
            return
        found = self.run(verify(self.database, self.course))
        assert found.differences == []
        assert (found.learners, found.responses) == (len(+self.positions), len(self.answers))

    @invariant()
    def every_reply_is_that_of_a_replay(self) -> None:
        if not self.answers:
            return
        cohort = []
        for learner in sorted(+self.positions):
            expected = self.expected(learner, READ_US)
            assert self.call("GET", f"learners/{learner}/mastery").json() == expected
            met = sorted((row for row in expected["mastery"] if row["responses"]), key=lambda row: row["skill"])
            cohort += [{"learner": learner, **row} for row in met]
        rows: list[dict[str, Any]] = []
        query = {"limit": "2"}
        while True:
            page = self.call("GET", "mastery", params=query).json()
            rows += page["data"]
            if page["next"] is None:
                break
            query["cursor"] = page["next"]
        assert rows == cohort

    def teardown(self) -> None:
        self.run(self.process.aclose())
        self.runner.close()


def highest_of(item: dict[str, Any]) -> float:
    thresholds = item.get("parameters", {}).get("thresholds")
    return float(len(thresholds) if thresholds else item.get("max_score", 1))


def parse(told: bytes | None) -> Any:
    assert told is not None
    return httpx.Response(200, content=told).json()


def instant(response: dict[str, Any]) -> int:
    return from_datetime(datetime.fromisoformat(response["occurred_at"]))


def made_up(job: calibrations.CalibrationJob, seed: int) -> CalibrationFit:
    """A calibration like any other, without the work."""
    rng = np.random.default_rng(seed)
    parameters = job.course.parameters
    skills = replace(parameters.skills, prior=rng.uniform(0.1, 0.6, parameters.skills.count))
    intercept = np.where(job.course.known, parameters.items.intercept, rng.normal(0, 1, parameters.items.count))
    items = replace(parameters.items, intercept=intercept)
    behaviour_model = random_behaviour_model(rng, parameters.items.count) if seed % 2 else None
    fitted = replace(
        parameters, population=Population(ability_variance=1.1), skills=skills, items=items, behaviour=behaviour_model
    )
    return CalibrationFit(fitted, fitted, 1, 0.6, 0.5, 0.5, 0.6, 0.7)


def run_history(url: str, examples: int, steps: int, phases: Sequence[Phase] = (Phase.generate, Phase.shrink)) -> None:
    budget = settings(
        max_examples=examples,
        stateful_step_count=steps,
        phases=phases,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(partial(History, url), settings=budget)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _small_calibrations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrations, "MIN_RESPONSES", 1)


@pytest.fixture(autouse=True)
def _stopped_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers that say no time come a month after those that do, and everything is read half a year later."""
    monkeypatch.setattr("app.routers.responses.now", lambda: ANSWER_US)
    for name in ("mastery", "recommendations"):
        monkeypatch.setattr(f"app.routers.{name}.now", lambda: READ_US)


@pytest.fixture(autouse=True)
def _checkpoints_at_every_second_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "CHECKPOINT_INTERVAL", 2)


@pytest.mark.examples
def test_any_history_leaves_a_state_and_replies_that_replay_of_the_log_gives(database_url: str) -> None:
    run_history(database_url, examples=scaled(10), steps=20)


def never_late(*_: Any) -> bool:
    return False


def never_stale(*_: Any) -> bool:
    return False


def never_later(_bank: CourseModel, states: States, _moment: int) -> States:
    return states


def forgive(db: Any, course_model: CourseModel, places: Mapping[str, Any], until: int | None = None) -> Any:
    """A fold for which every voided answer was right."""
    entries = read_entries(db, course_model.tenant_id, course_model.course_id, places, until)
    return replay_entries(course_model, list(places), [entry._replace(score=entry.score or 1.0) for entry in entries])


def keep_outdated(*_: Any) -> None:
    """Checkpoints stay where an answer came in before them."""


@pytest.mark.controls
@pytest.mark.parametrize("engine_name", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("module", "name", "mutant"),
    [
        (late, "is_late", never_late),
        (replay, "is_stale", never_stale),
        (corrections, "replay_from_checkpoints", forgive),
        (replay, "drop_checkpoints", keep_outdated),
        (mastery, "states_at", never_later),
        (recommendations, "states_at", never_later),
    ],
)
def test_law_of_histories_notices_its_planted_fault(
    database_url: str, module: Any, name: str, mutant: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, name, mutant)
    # An outdated checkpoint may also be found out by the key of the one that takes its place.
    told_by_the_key = (IntegrityError,) if mutant is keep_outdated else ()
    with pytest.raises((AssertionError, ExceptionGroup, *told_by_the_key)):
        run_history(database_url, examples=60, steps=20, phases=[Phase.generate])
