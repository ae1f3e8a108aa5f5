"""Schemathesis over the whole service in this process: what is sent, what is checked, what may be refused."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import schemathesis
from fastapi import FastAPI
from schemathesis import GenerationMode
from schemathesis.checks import CheckContext
from schemathesis.config import SchemathesisConfig
from schemathesis.core.failures import AcceptedNegativeData, Failure
from schemathesis.core.transport import Response
from schemathesis.engine import events, from_schema
from schemathesis.hooks import HookContext
from schemathesis.openapi.checks import RejectedPositiveData
from schemathesis.python import asgi

from app.http import ims_status
from tests.client import encoded
from tests.contract.course import CAT_SESSIONS, COURSE, HOOKS, OFFERED, SECTIONS, SESSIONS
from tests.gate.examples import scaled

# Examples of each operation in every run; `make soak` takes more, with a seed of its own each time. To repeat one:
# CONTRACT_SEED=… CONTRACT_EXAMPLES=… pytest tests/test_openapi.py
SEED = int(os.environ.get("CONTRACT_SEED", "20261122"))
EXAMPLES = int(os.environ.get("CONTRACT_EXAMPLES", scaled(25)))

# What four of five generated requests are about, so that they meet something.
HITS = {
    "path.course": [COURSE],
    "path.learner": ["ann", "bob"],
    "path.response_id": ["r-1", "r-2", "r-3"],
    "path.calibration": ["c-1", "c-2"],
    "path.webhook": HOOKS,
    "path.session": SESSIONS,
    "path.sectionIdentifier": SECTIONS,
    "path.sessionIdentifier": CAT_SESSIONS,
    "body.sectionConfiguration": [encoded({"pool": COURSE}), encoded({"items": [{"id": "q", "b": 0}]})],
    "query.skill": ["s1", "s/3 ü"],
    "query.calibration": ["c-1", "defaults"],
    "body.item": ["i1", "i2", "graded"],
    "body.learner": ["ann", "bob"],
    "body.url": ["https://lms.example.org/hook", "https://8.8.8.8:8443"],
}

# Hypothesis minds how long the texts are that the document allows: a warning, which threads turn into an error now and
# then, and which is gone when the example is tried again.
NOISE = ("Generating overly large repr", "produces unreliable results")

TOKENS = "/v1/oauth/token"
CURSOR = "which cursors were given by this list"
# What JSON schema cannot say: operation, code and (a part of) the detail of what may be refused although it fits.
# Nothing else may be.
MAY_REFUSE = {
    ("any", "invalid", "bytes in UTF-8"): "how long a text is in UTF-8",
    ("put_catalogue", "invalid", "the id of a new course"): "whether the course is new",
    ("put_catalogue", "invalid", "names skills that do not exist"): "that a name in one list stands in another",
    ("put_catalogue", "invalid", "an id stands twice in one list"): "that a field differs between elements",
    ("put_catalogue", "invalid", "the thresholds must increase"): "that a list is sorted",
    ("put_catalogue", "invalid", "max_score is the number of its thresholds"): "that a number is a length",
    ("put_catalogue", "prerequisite_cycle", ""): "that a graph has no cycle",
    ("post_response", "invalid", "Idempotency-Key and id differ"): "that a header equals a field",
    ("post_response", "invalid_score", ""): "what max_score the catalogue gives",
    ("post_regrade", "invalid_score", ""): "what max_score the catalogue gives",
    ("post_response", "occurred_in_future", ""): "what time it is",
    ("post_session", "invalid", "that the course does not have"): "what the catalogue holds",
    ("post_session", "invalid", "the test cannot be held"): "how settings of a test go together",
    ("post_session", "invalid", "is not valid"): "how settings of a test go together",
    ("post_session_response", "invalid", "Idempotency-Key and id differ"): "that a header equals a field",
    ("post_session_response", "invalid_score", ""): "what max_score the catalogue gives",
    ("post_session_response", "occurred_in_future", ""): "what time it is",
    ("list_sessions", "invalid_cursor", ""): CURSOR,
    ("list_skills", "invalid_cursor", ""): CURSOR,
    ("list_items", "invalid_cursor", ""): CURSOR,
    ("list_calibrations", "invalid_cursor", ""): CURSOR,
    ("get_cohort", "invalid_cursor", ""): CURSOR,
    ("list_webhooks", "invalid_cursor", ""): CURSOR,
    ("post_webhook", "invalid", "the url "): "which hosts may be called",
    ("create_section", "invaliddata", ""): "what is Base64, and what is in it",
    ("create_session", "invaliddata", "what is known of the learner"): "which texts are numbers",
    ("create_session", "invaliddata", "not fit in 64 bits"): "how large a whole number in what is passed over may be",
    ("create_session", "invaliddata", "NUL"): "that no text, however deep in what is passed over, holds NUL",
    ("submit_results", "invaliddata", ""): "what was offered, and which texts are states, times and numbers",
    ("post_token", "invalid_client", ""): "which keys there are",
    ("post_token", "invalid_request", ""): "that a form has each field once, in ASCII",
    ("get_quality", "invalid_cursor", ""): CURSOR,
    ("get_quality", "invalid", "must be later than since"): "that one time is before another",
    ("post_calibration", "invalid", "must be later than since"): "that one time is before another",
}


Case = schemathesis.Case[Any]


class Role(NamedTuple):
    """Who calls: with which scopes (none: without a key), how many examples of each operation, and whether beside them
    everything is tried that a schema can say: each limit, each type, each method."""

    name: str
    scopes: tuple[str, ...] | None
    examples: int
    covers: bool = True


# Who may do little is refused whatever is sent: in the gate a few examples show it.
WHOLE = EXAMPLES >= 25
ROLES = (
    Role("admin", ("admin",), EXAMPLES),
    Role("reader", ("learners:read",), max(3, EXAMPLES // 5), WHOLE),
    Role("stranger", None, max(3, EXAMPLES // 5), WHOLE),
)


class Run(NamedTuple):
    """What came out: findings as text, how often each operation gave each status, which refusals were met."""

    findings: list[str]
    statuses: Counter[tuple[str, int]]
    refusals: set[tuple[str, str, str]]


@schemathesis.check
def every_reply_keeps_the_rules_of_the_house(ctx: CheckContext, response: Response, case: Case) -> None:
    """Errors are problems whose code the operation documents; nothing is to be sniffed; each reply has its id.

    What a caller is told is stored by no cache.
    """
    del ctx
    if response.status_code < 400:
        assert response.headers.get("cache-control") == ["no-store"], "may be stored"
    assert response.headers.get("x-content-type-options") == ["nosniff"], "no nosniff"
    assert response.headers.get("x-request-id"), "no request id"
    if response.status_code >= 400 and response.status_code != 405 and case.operation.path == TOKENS:
        assert response.json().keys() == {"error", "error_description"}, "not an error of OAuth"
    elif response.status_code >= 400 and ims_status.is_cat_path(case.operation.path):
        assert response.headers["content-type"] == ["application/json"], "not an imsx_StatusInfo"
        assert response.json()["imsx_codeMajor"] == "failure", "not an imsx_StatusInfo"
        documented = case.operation.definition.raw["responses"]
        assert str(response.status_code) in documented or response.status_code == 405, "not documented"
    elif response.status_code >= 400:
        assert response.headers["content-type"] == ["application/problem+json"], "not a problem"
        code = response.json()["code"]
        documented = case.operation.definition.raw["responses"].get(str(response.status_code), {})
        # No operation can document a method it does not have, or an address that is none.
        known = code in {"method_not_allowed", "not_found"} or f"`{code}`" in documented.get("description", "")
        assert known, f"{response.status_code} {code} is not documented"


def explore(app: FastAPI, key: str | None, role: Role, seed: int = SEED) -> Run:
    """Send everything that schemathesis can think of, with all its checks."""
    config = SchemathesisConfig.from_dict(
        {
            "seed": seed,
            "headers": {} if key is None else {"Authorization": f"Bearer {key}"},
            "continue-on-failure": True,
            "generation": {"max-examples": role.examples, "database": "none"},
            "phases": {"coverage": {"enabled": role.covers}},
            "dictionaries": {name.replace(".", "-"): {"values": values} for name, values in HITS.items()},
            "parameters": {name: {"dictionary": name.replace(".", "-"), "probability": 0.8} for name in HITS},
        }
    )
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, config=config)
    run = Run([], Counter(), set())

    @schema.hook
    def filter_failure(_context: HookContext, failure: Failure, case: Case, response: Response) -> bool:
        refusal = allowed_refusal(failure, case, response)
        if refusal is not None:
            run.refusals.add(refusal)
        passed_over = too_long_to_look_at(failure, response) or checked_one_by_one(failure, case, response)
        return refusal is None and not passed_over

    @schema.hook
    def map_case(_context: HookContext, case: Case) -> Case:
        return aim_at_items(case)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asgi, "get_client", direct_client)
        try:
            for event in from_schema(schema).execute():
                run.findings.extend(findings_of(event))
                run.statuses.update(statuses_of(event))
        finally:
            asgi.shutdown_lifespans()
    return run


def aim_at_items(case: Case) -> Case:
    """Let four of five answers be to an item that there is: dictionaries do not reach into a body of several forms."""
    body = case.body
    if case.meta is None or case.meta.generation.mode is not GenerationMode.POSITIVE or not isinstance(body, dict):
        return case
    item = body.get("item")
    if isinstance(item, str) and len(item) % 5:
        in_test = case.operation.definition.raw["operationId"] == "post_session_response"
        case.body = {**body, "item": OFFERED if in_test else HITS["body.item"][len(item) % 3]}
        # In a test the score of this item is 0 or 1.
        if in_test and isinstance(score := body.get("score"), int | float):
            case.body["score"] = int(score > 1)
    return case


def direct_client(app: Any, **options: Any) -> asgi.ASGIClient:
    """A client that looks for no proxy and no password in its surroundings: the service is in this process."""
    client = asgi.ASGIClient(app, **options)
    client.trust_env = False
    return client


def allowed_refusal(failure: Failure, case: Case, response: Response) -> tuple[str, str, str] | None:
    """The entry of `MAY_REFUSE` that this failure falls under."""
    if not isinstance(failure, RejectedPositiveData):
        return None
    code, text = code_and_text(response.json())
    name = case.operation.definition.raw["operationId"]
    for entry in MAY_REFUSE:
        if entry[0] in {name, "any"} and entry[1] == code and entry[2] in text:
            return entry
    return None


def code_and_text(body: dict[str, Any]) -> tuple[str, str]:
    """The code of an error and all that it says, in whichever form it is told."""
    if "imsx_codeMinor" in body:
        [minor] = body["imsx_codeMinor"]["imsx_codeMinorField"]
        return minor["imsx_codeMinorFieldValue"], body["imsx_description"]
    if "error" in body:
        return body["error"], body["error_description"]
    return body["code"], " ".join([body["detail"], *(fault["detail"] for fault in body["errors"])])


def too_long_to_look_at(failure: Failure, response: Response) -> bool:
    """Whether a body that does not fit was refused for its length before anybody could see that it does not fit."""
    return isinstance(failure, AcceptedNegativeData) and response.status_code == 413


def checked_one_by_one(failure: Failure, case: Case, response: Response) -> bool:
    """Whether a batch was taken though an answer in it does not fit: that one is refused, as its result."""
    if case.operation.definition.raw["operationId"] != "post_responses" or not isinstance(
        failure, AcceptedNegativeData
    ):
        return False
    return any(result["status"] == "invalid" for result in response.json()["results"])


def findings_of(event: events.EngineEvent) -> Iterator[str]:
    """What is wrong, as a person can send it again."""
    if isinstance(event, events.NonFatalError) and not any(noise in str(event.value) for noise in NOISE):
        yield f"{event.label}: {event.value}"
    if not isinstance(event, events.ScenarioFinished):
        return
    for case_id, checks in event.recorder.checks.items():
        for check in checks:
            if check.failure_info is not None:
                interaction = event.recorder.interactions[case_id]
                reply = interaction.response.content[:500] if interaction.response else b"nothing"
                body = (interaction.request.body or b"")[:1000]
                yield (
                    f"{check.name}: {check.failure_info.failure.message}\n"
                    f"  {interaction.request.method} {interaction.request.uri} {body!r}\n  {reply!r}"
                )


def statuses_of(event: events.EngineEvent) -> Iterator[tuple[str, int]]:
    """Which operation answered what."""
    if isinstance(event, events.ScenarioFinished):
        for case_id, interaction in event.recorder.interactions.items():
            if interaction.response is not None:
                operation: Any = event.recorder.cases[case_id].value.operation
                yield operation.definition.raw["operationId"], interaction.response.status_code


def format_findings(findings: list[str]) -> str:
    """For the message of a test; all of them would be too much to read."""
    return json.dumps(len(findings)) + " findings\n" + "\n".join(findings[:10])
