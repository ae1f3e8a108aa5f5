"""The examples of the OpenAPI document: what the service replies about the sample course.

`python -m tests.contract.record` asks anew and writes `app/examples.json`. Look at the difference then: it is what
integrators will see. What must not be published is replaced, and lists are cut to what can be read.
"""

import asyncio
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import httpx

from app import sample
from app.core.migrate import migrate
from app.core.security import NewKey
from app.core.times import now
from app.http import ims_status
from app.jobs.imports import import_responses
from app.services.keys import create_key
from tests.client import app_of, client_of, encoded, served

PATH = Path(__file__).parents[2] / "app" / "examples.json"
JSON, CSV = "application/json", "text/csv"
CAT = f"http://service{ims_status.PREFIX}"
LONGEST_LIST, MOST_ROWS = 3, 4
SECRETS = {
    r"prt_1_[\w-]{49}": "prt_1_" + "0" * 49,
    r"whsec_[\w+/=-]+": "whsec_bm90IGEgc2VjcmV0OiBhbiBleGFtcGxlIG9mIG9uZQ==",
    r"\bkey-[0-9a-f]{16}\b": "key-" + "0" * 16,
}
COURSE = f"courses/{sample.COURSE}"
# Tests measure with known parameters, of which the sample course has none: these are of `docs/sessions.md`.
BANK = {
    "skills": [{"id": "algebra"}, {"id": "geometry"}],
    "items": [
        {"id": "q1", "skills": ["algebra"], "parameters": {"model": "2PL", "a": 1.2, "b": -0.8}},
        {"id": "q2", "skills": ["algebra"], "parameters": {"model": "2PL", "a": 1.5, "b": 0.1}},
        {"id": "q3", "skills": ["geometry"], "parameters": {"model": "3PL", "a": 1.4, "b": 0.4, "c": 0.2}},
        {"id": "q4", "skills": ["geometry"], "parameters": {"model": "graded", "a": 1.1, "thresholds": [-0.5, 1]}},
    ],
}

Examples = dict[str, dict[str, Any]]


class Recorder:
    """Asks a service, and keeps what it replied under the name of the operation."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client
        self.examples: Examples = {}

    async def ask(self, name: str, method: str, path: str, **what: Any) -> Any:
        """The reply; a refusal is an error."""
        reply = await self.client.request(method, path, **what)
        assert reply.is_success, (name, reply.text)
        media_type = reply.headers["content-type"].partition(";")[0]
        text = reply.text
        for pattern, instead in SECRETS.items():
            text = re.sub(pattern, instead, text)
        shown = cut(json.loads(text)) if media_type == JSON else "".join(text.splitlines(keepends=True)[:MOST_ROWS])
        self.examples.setdefault(name, {})[media_type] = shown
        return reply.json() if media_type == JSON else reply.text


def cut(value: Any) -> Any:
    """A value with the first elements of its lists."""
    if isinstance(value, dict):
        return {name: cut(child) for name, child in value.items()}
    return [cut(child) for child in value[:LONGEST_LIST]] if isinstance(value, list) else value


async def record_practice(recorder: Recorder) -> None:
    """Answers, what follows, and what is known."""
    ask, ben = recorder.ask, f"{COURSE}/learners/ben"
    answer = {"id": "b-1", "learner": "ben", "item": "fs-14", "correct": True, "duration_ms": 8400}
    await ask("post_response", "POST", f"{COURSE}/responses", json=answer)
    batch = [
        {"id": "b-2", "learner": "ben", "item": "fs-08", "score": 0},
        {"learner": "ben", "item": "fs-99", "score": 1},
    ]
    await ask("post_responses", "POST", f"{COURSE}/responses:batch", json={"responses": batch})
    extras = {"limit": 1, "prefetch": True, "forecast": True, "why_not": "fs-14"}
    await ask("get_recommendations", "GET", f"{ben}/recommendations", params=extras)
    await ask("post_recommendations", "POST", f"{ben}/recommendations", params={"prefetch": True})
    correction = {"score": 1, "reason": "a second right answer was found"}
    await ask("post_regrade", "POST", f"{COURSE}/responses/b-2/regrade", json=correction)
    await ask("post_void", "POST", f"{COURSE}/responses/b-2/void", json={"reason": "the wrong picture was shown"})
    await ask("get_mastery", "GET", f"{ben}/mastery")
    await ask("get_cohort", "GET", f"{COURSE}/mastery", params={"limit": 2})
    await ask("get_cohort", "GET", f"{COURSE}/mastery", params={"limit": 3}, headers={"Accept": CSV})
    await ask("get_quality", "GET", f"{COURSE}/quality", params={"by": "calibration"})


async def record_tests(recorder: Recorder) -> None:
    """Adaptive tests, in both protocols."""
    ask = recorder.ask
    assert (await recorder.client.put("courses/bank/catalogue", json=BANK)).is_success
    test = {"id": "t-1", "learner": "ben", "stop": {"standard_error": 0.3, "max_items": 30}, "seed": 7}
    begun = await ask("post_session", "POST", "courses/bank/sessions", json=test)
    answer = {"id": "a-1", "item": begun["next"]["item"], "correct": True}
    await ask("post_session_response", "POST", "sessions/t-1/responses", json=answer)
    await ask("get_session", "GET", "sessions/t-1")
    await ask("list_sessions", "GET", "courses/bank/sessions")
    await ask("post_session_end", "POST", "sessions/t-1/end")
    made = await ask(
        "create_section", "POST", f"{CAT}/sections", json={"sectionConfiguration": encoded({"pool": "bank"})}
    )
    section = f"{CAT}/sections/{made['sectionIdentifier']}"
    await ask("get_section", "GET", section)
    session = await ask("create_session", "POST", f"{section}/sessions", json={})
    score = {"identifier": "SCORE", "cardinality": "single", "baseType": "float", "value": [{"value": "1"}]}
    result = {
        "identifier": session["nextItems"]["itemIdentifiers"][0],
        "datestamp": "2026-11-22T09:39:35Z",
        "sessionStatus": "final",
        "outcomeVariables": [score],
    }
    results = {"assessmentResult": {"itemResult": [result]}, "sessionState": session["sessionState"]}
    path = f"{section}/sessions/{session['sessionIdentifier']}/results"
    await ask("submit_results", "POST", path, json=results)


async def record_calibration(recorder: Recorder) -> None:
    """A calibration, from the request until it is in force."""
    ask, path = recorder.ask, f"{COURSE}/calibrations"
    await ask("post_calibration", "POST", path)
    await asyncio.gather(*app_of(recorder.client).state.tasks)
    await ask("get_calibration", "GET", f"{path}/c-1")
    await ask("post_activation", "POST", f"{path}/c-1/activate", json={"force": True})
    await asyncio.gather(*app_of(recorder.client).state.tasks)
    await ask("list_calibrations", "GET", path)


async def record_the_rest(recorder: Recorder, key: NewKey) -> None:
    """Lists of the catalogue, webhooks and tokens."""
    ask = recorder.ask
    await ask("list_skills", "GET", f"{COURSE}/skills", params={"limit": 2})
    await ask("list_items", "GET", f"{COURSE}/items", params={"limit": 2})
    webhook = {"url": "https://lms.example.org/proxima", "events": ["skill.mastered"], "course": sample.COURSE}
    await ask("post_webhook", "POST", "webhooks", json=webhook)
    await ask("list_webhooks", "GET", "webhooks")
    form = {"grant_type": "client_credentials", "scope": "learners:read"}
    await ask("post_token", "POST", "oauth/token", data=form, auth=(key.id, key.text))


async def record_examples(database_url: str, *, calibrate: bool = True) -> Examples:
    """The replies of a service with the sample course on an empty database; those of a calibration take a minute."""
    async with served(database_url) as app:
        database = app.state.database
        key = await database.write(create_key, "school", ["admin"], now())
        async with client_of(app, key.text) as client:
            recorder = Recorder(client)
            await recorder.ask("put_catalogue", "PUT", f"{COURSE}/catalogue", json=sample.catalogue())
            await import_responses(database, 1, sample.COURSE, sample.responses(), lambda _: None, lambda *_: None)
            if calibrate:
                await record_calibration(recorder)
            await record_practice(recorder)
            await record_tests(recorder)
            await record_the_rest(recorder, key)
            return recorder.examples


def main() -> None:
    """Write the examples."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/sample.db"
        migrate(url)
        examples = asyncio.run(record_examples(url))
    PATH.write_text(json.dumps(dict(sorted(examples.items())), indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
