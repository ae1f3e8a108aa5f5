"""However answers are ordered and cut into batches, each is judged alone: one result for each, in order."""

import asyncio
import json
from collections.abc import Callable, Iterator
from itertools import chain, count, pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from app.core.errors import Conflict, ProximaError
from app.group_commit import GroupCommit
from app.services.responses import read
from tests.client import app_of, find_differences, minute_text, school
from tests.gate.examples import examples

Batches = list[list[Any]]
Send = Callable[[Batches], list[dict[str, Any]]]

# What may come under one id: the first two are the same answer, every other contradicts all others.
VARIANTS: list[dict[str, Any]] = [
    {"correct": True},
    {"score": 1},
    {"correct": False},
    {"correct": True, "item": "i3"},
    {"correct": True, "learner": "bob-RUN"},
    {"correct": True, "duration_ms": 7},
    {"correct": True, "occurred_at": minute_text(999)},
]
# What is refused, whatever else comes.
WRONG: list[Any] = [
    17,
    {"learner": "ann-RUN", "item": "unheard of", "correct": True},
    {"learner": "ann-RUN", "item": "i1", "score": 3},
    {"learner": "ann-RUN", "item": "i1", "correct": True, "recommendation": "unheard of"},
    {"learner": "ann-RUN", "item": "i1", "correct": True, "colour": "blue"},
]


def use(letter: str, variant: dict[str, Any]) -> dict[str, Any]:
    return {"id": f"{letter}-RUN", "learner": "ann-RUN", "item": "i1", "occurred_at": minute_text(1), **variant}


used = st.builds(use, st.sampled_from("abcd"), st.sampled_from(VARIANTS))


@st.composite
def batches(draw: st.DrawFn) -> Batches:
    """Answers in any order, cut anywhere."""
    answers = draw(st.lists(used, min_size=1, max_size=8)) + draw(st.lists(st.sampled_from(WRONG), max_size=3))
    answers = draw(st.permutations(answers))
    cuts = sorted({0, len(answers), *draw(st.lists(st.integers(0, len(answers)), max_size=4))})
    return [answers[start:end] for start, end in pairwise(cuts)]


def judged(answers: list[Any]) -> Iterator[str]:
    """What has to be told of each."""
    first: dict[str, dict[str, Any]] = {}
    for answer in answers:
        if answer in WRONG:
            yield "invalid"
            continue
        meant = {**answer, "score": int(bool(answer.get("correct", answer.get("score")))), "correct": None}
        known = first.setdefault(answer["id"], meant)
        yield "created" if known is meant else "duplicate" if known == meant else "conflict"


@pytest.fixture
def send(database_url: str) -> Iterator[Send]:
    """Send batches, to learners and under ids of this call alone, twice; all results in a row."""
    runs = count()
    with asyncio.Runner() as runner:
        service = school(database_url)
        client = runner.run(service.__aenter__())

        async def post(bodies: list[str]) -> list[dict[str, Any]]:
            results = []
            for body in bodies:
                reply = await client.post(
                    "/responses:batch", content=body, headers={"Content-Type": "application/json"}
                )
                assert reply.status_code == 200
                results += reply.json()["results"]
            return results

        def work(given_batches: Batches) -> list[dict[str, Any]]:
            run = str(next(runs))
            bodies = [json.dumps({"responses": batch}).replace("RUN", run) for batch in given_batches]
            return runner.run(post(bodies * 2))

        yield work
        found = runner.run(find_differences(app_of(client).state.database))
        runner.run(service.__aexit__(None, None, None))
    assert found == []


def check(send: Send, given_batches: Batches) -> None:
    """Send batches, then all of them once more."""
    answers = list(chain(*given_batches))
    expected = list(judged(answers))
    results = send(given_batches)
    again = ["duplicate" if status == "created" else status for status in expected]
    assert [result["status"] for result in results] == [*expected, *again]
    told: dict[str, Any] = {}
    for answer, result in zip(answers * 2, results, strict=True):
        status = result.pop("status")
        if status in {"created", "duplicate"}:
            assert result["response"]["id"].startswith(answer["id"][0])
            assert told.setdefault(answer["id"], result) == result
        else:
            assert (result["error"]["status"] == 409) == (status == "conflict")


law = examples(40, suppress_health_check=list(HealthCheck))


@law
@given(given_batches=batches())
def test_batches_judge_each_answer_alone_in_any_order(send: Send, given_batches: Batches) -> None:
    check(send, given_batches)


def burst() -> ProximaError:
    """A conflict that is an exception, not a result."""
    raise Conflict("taken")


async def shuffled(self: GroupCommit, answers: Any) -> Any:
    """Results in the wrong order."""
    return (await submit(self, answers))[::-1]


submit = GroupCommit.submit


@pytest.mark.controls
@pytest.mark.parametrize("engine_name", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("owner", "name", "mutant"), [(read, "conflict_error", burst), (GroupCommit, "submit", shuffled)]
)
def test_law_of_batches_notices_a_raised_conflict_and_shuffled_results(
    owner: Any, name: str, mutant: Any, send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, name, mutant)

    @settings(law, phases=[Phase.generate])
    @given(given_batches=batches())
    def broken(given_batches: Batches) -> None:
        check(send, given_batches)

    with pytest.raises((AssertionError, ExceptionGroup)):
        broken()
